//! Deliberate faults of the engine, so that tests of what it must do are seen to
//! fail without it. They can be set with the feature `testing` only, which no agent
//! is built with; else all are off.

#![forbid(unsafe_code)]

use super::engine::Context;

/// One fault; requirement numbers are those of `docs/testing.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Another interface gets an IKE SA of its own (R10).
    ChannelPerInterface,
    /// Moves of the peer are answered and not carried out (R22, R24).
    IgnoreMoves,
    /// Our own moves are told and not carried out (R23).
    StayWhereWeAre,
    /// A move is told on the pair that moves (R25).
    TellElsewhere,
    /// An interface is never carried by another one in use (R26).
    NoMerge,
    /// A derived SA keeps the SPI of its template (R47).
    KeepSpi,
    /// The interfaces to derive from are taken in an order of our own (R48).
    OwnOrder,
    /// SAs are derived where equal selectors exist (R49).
    DeriveTwice,
    /// An interface of the peer is deleted, its SAs stay (R55).
    KeepDeleted,
}

impl Context {
    /// Whether this fault was asked for.
    #[cfg(feature = "testing")]
    pub(in crate::ike) fn faulty(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Without the feature there are none.
    #[cfg(not(feature = "testing"))]
    pub(in crate::ike) const fn faulty(&self, _: Fault) -> bool {
        false
    }
}
