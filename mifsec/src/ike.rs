//! IKEv2 (RFC 7296) with the multiple-interface extension, as sans-IO values:
//! octets and time go in, octets, requests and events come out.
//!
//! The codec half ([`message`], [`mif`], [`proposal`], [`selector`],
//! [`keymat`]) knows layouts, numbers and key derivation and keeps no state.
//! [`lease`] and [`peer`] are the gateway's pools and the peer authorisation
//! database. The [`Engine`] is the state: it finds the IKE SA a message belongs
//! to; the IKE SA owns windows, keys and timers; what one end asks of the other is
//! a task with a build and a process step. Nothing here opens a socket, reads a
//! clock or draws randomness that it was not given.

#![forbid(unsafe_code)]

pub mod cert;
pub mod config;
pub mod dns;
mod engine;
mod error;
mod event;
mod fault;
pub mod keymat;
pub mod lease;
pub mod message;
pub mod mif;
pub mod peer;
pub mod proposal;
pub mod redirect;
mod sa;
pub mod selector;
mod task;
#[cfg(test)]
mod testing;
mod timer;
mod vendor;
mod window;

pub use engine::Engine;
pub use error::Failure;
pub use event::{
    Channel, ChildSa, ChildView, Command, End, Event, IkeSaView, IkeState, MifSession, Nat,
    ProbeKeys, SaRequest, Transmit,
};
pub use fault::Fault;
pub use timer::TimerKind;

/// How long packets are waited for that the peer sent under keys it had before a
/// rekey: on another path they may take longer than the message that ended it.
pub const PROBE_GRACE: std::time::Duration = std::time::Duration::from_secs(5);
