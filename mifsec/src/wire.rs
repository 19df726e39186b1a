//! Octets in and out: the checked reader and writer every codec uses, IP and
//! transport headers, the Internet checksum.
//!
//! Nothing here knows a protocol's meaning. Reading never panics and never
//! allocates; a short input is [`Truncated`].

#![forbid(unsafe_code)]

mod checksum;
pub mod ip;
mod reader;
mod transport;
mod writer;

pub use checksum::{Checksum, adjust};
pub use reader::{Reader, Truncated};
pub use transport::{TCP_HEADER_LEN, Tcp, UDP_HEADER_LEN, Udp};
pub use writer::Writer;
