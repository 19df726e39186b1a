//! The decisions of the programs, over anything readable; tested on the host.
//!
//! Input is the front part of a packet ([`mifsec_common::octets::Octets`]), what
//! the hook knows about it, and a trait with the maps the decision may ask.
//! Output is a verdict; the entry points in `main.rs` act on it. Nothing here
//! calls a helper of the kernel, indexes or panics: both compile to code the
//! verifier refuses.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod checksum;
pub mod egress;
pub mod guard;
pub mod ingress;
#[cfg(test)]
mod testing;

/// What becomes of a packet that is not redirected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// On to the stack, or out.
    Pass,
    /// Gone; the reason has been counted.
    Drop,
}
