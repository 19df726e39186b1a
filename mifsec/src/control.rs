//! The control socket: one JSON object per line over a Unix socket of mode 0600.
//!
//! A request is [`Request`]; the answer is one line, either a view of
//! [`crate::agent::views`] or `{"error": "..."}`. `monitor` answers with a
//! line for each event until the client goes. The command line uses the same types.

#![forbid(unsafe_code)]

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use client::{ControlError, call, monitor};
pub use server::{claim, serve};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// A `StatusView`.
    Status,
    /// A `PathsView`.
    Path,
    /// A `SasView`.
    Sa,
    /// `EventView`s until the client goes.
    Monitor,
}

/// The answer to what could not be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// One line.
    pub error: String,
}

/// Longest request line, octets.
const LONGEST_REQUEST: usize = 4096;
