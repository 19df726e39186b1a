//! Which paths there are to each peer, and which of them can be used.

#![forbid(unsafe_code)]

mod candidates;
mod engine;
mod home;
mod liveness;
mod output;
pub mod probe;
mod rtt;
mod state;
pub mod timing;
mod types;

pub use engine::Engine;
pub use types::*;

use crate::ids::PathIndex;

/// Stands for "no path" where an index is expected, as in the maps.
pub const NO_PATH: PathIndex = PathIndex(u32::MAX);
