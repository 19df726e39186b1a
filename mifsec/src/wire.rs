//! Octets in and out: the checked reader and writer every codec uses, DER, the
//! Internet checksum.
//!
//! Nothing here knows a protocol's meaning. Reading never panics and never
//! allocates; a short input is [`Truncated`].

#![forbid(unsafe_code)]

mod checksum;
pub mod der;
mod reader;
mod writer;

pub use checksum::{Checksum, adjust};
pub use reader::{Reader, Truncated};
pub use writer::Writer;
