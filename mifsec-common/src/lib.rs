//! What crosses the kernel line: layouts of the maps, reasons, events, header
//! parsing, and the function that spreads flows over a bundle.
//!
//! Everything is `no_std` and compiled twice: for the kernel's virtual machine
//! and for the host. Map types are `repr(C)` without padding, `bool`, `enum` or
//! `Option`; addresses, ports and SPIs are the octets of the packet. A change
//! of any layout or meaning raises [`ABI_VERSION`].

#![no_std]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod event;
pub mod maps;
pub mod octets;
pub mod parse;
pub mod path;
pub mod reason;
pub mod sa;
pub mod spd;
pub mod steering;
#[cfg(feature = "user")]
mod user;

pub use addr::Addr;
pub use event::EventRecord;
pub use path::{PathEntry, PathKey, PathStats};
pub use reason::Reason;
pub use sa::{SaIn, SaOut, SaOutKey};
pub use spd::SpdEntry;

/// Version of the layouts and meanings in this crate.
pub const ABI_VERSION: u32 = 1;

/// "No path" in a path index.
pub const NO_PATH: u32 = u32::MAX;
