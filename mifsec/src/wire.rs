//! Octets in and out: the checked reader and writer every codec uses, IP and
//! transport headers, the Internet checksum.
//!
//! Nothing here knows a protocol's meaning. Reading never panics and never
//! allocates; a short input is [`Truncated`].

#![forbid(unsafe_code)]

mod reader;
mod writer;

pub use reader::{Reader, Truncated};
pub use writer::Writer;
