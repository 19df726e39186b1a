//! IKEv2 (RFC 7296) with the multiple-interface extension, as sans-IO values:
//! octets and time go in, octets, requests and events come out.
//!
//! The codec half ([`message`], [`mif`], [`proposal`], [`selector`],
//! [`keymat`]) knows layouts, numbers and key derivation and keeps no state.
//! [`lease`] and [`peer`] are the gateway's pools and the peer authorisation
//! database. Nothing here opens a socket, reads a clock or draws randomness
//! that it was not given.

#![forbid(unsafe_code)]

pub mod keymat;
pub mod lease;
pub mod message;
pub mod mif;
pub mod peer;
pub mod proposal;
pub mod selector;

#[cfg(test)]
mod testing;
