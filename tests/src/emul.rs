//! A link emulator: delay, jitter, loss, bursts of loss, reordering,
//! duplication, rate and MTU, per direction and from one seed.
//!
//! [`Course`] decides what becomes of one packet and when it arrives; it has no
//! clock, no socket and no packet. [`Link`] keeps packets until they are due and
//! counts them. [`Wire`] runs two links between two namespaces with real frames.
//! What is in virtual time uses the first two: the simulation's links
//! ([`sim::Link`](crate::sim::Link)) are a [`Course`] each.
//!
//! Time is a [`Duration`](std::time::Duration) since whatever the caller calls the start. The same seed,
//! packets and times give the same fates.

pub mod course;
pub mod impairments;
pub mod link;
mod port;
pub mod wire;

pub use course::{Course, Fate};
pub use impairments::{Bursts, Impairments, Jitter, Queue, Rate, Reordering};
pub use link::{Counters, Link};
pub use wire::{Device, Faults, Way, Wire};

#[cfg(test)]
mod tests;
