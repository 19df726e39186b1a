//! Which paths there are to each peer, and which of them can be used.
//!
//! Sans-IO: interfaces, probes, data-plane figures and time go in; probes to
//! send, map entries and news come out. After every input, take all output;
//! then wait for [`Engine::poll_timeout`]. No input allocates without a bound,
//! and nothing a peer sends panics.
//!
//! # Paths
//!
//! A path is (our interface, the peer's interface, address family) of one IKE
//! SA. Security associations are homed on paths by index and never hear of
//! addresses; the engine owns those and nothing else. A move is one
//! [`Event::Entry`].
//!
//! The IKE channel's path exists from [`Engine::add_peer`] on and is validated,
//! since IKE has just been answered there. Which of the peer's interfaces it
//! belongs to becomes known from the table it announces or, behind a NAT, from
//! the first probe that comes from that address and names one
//! ([`Event::Resolved`]). All other paths appear with the tables: one for every
//! pair of usable interfaces that share a family.
//!
//! Every interface of the initiator is at home with one of the responder's:
//! the best it shares a family with, equals taking turns. Both ends compute the
//! same, and where they know different things the initiator's Child SAs say it
//! ([`Engine::set_home`]). A home stays when a better interface comes. Home pairs
//! are probed for as long as they live, and those that carry others; other pairs
//! are validated once. Of a home pair's two families the first to be validated is
//! home, IPv4 if both are, and the other takes over only when that one is down.
//!
//! An interface may be carried by another of its end ([`Engine::carry`]): the
//! indices of its paths hold the entries of the carrier's.
//!
//! # Addresses
//!
//! An announced address is a label. What counts is the address an answer came
//! from, and only if it answered a question sent there:
//!
//! - Nothing but probes goes to an address that has not answered a challenge,
//!   and of probes at most three octets for each one received from there
//!   ([`timing::AMPLIFICATION`]). An address the peer named in a protected
//!   message gets one attempt's worth besides ([`timing::ANNOUNCED_ALLOWANCE`]),
//!   however many paths lead there.
//! - **We choose our address, the peer chooses its own.** Ours is the first in
//!   [`LocalIface::addresses`]. The peer's is the source of its newest
//!   challenge on the path, by the probe SA's sequence number: a probe that was
//!   held back on the way moves nothing. An address announced over IKE counts
//!   as said when the announcement came.
//! - Whoever moves sends a challenge from the new address at once. Its answer
//!   lets the mover change over; the challenge makes the peer ask that source
//!   in turn, and change over when it answers. If the old address still works
//!   it is used until then (make before break). If it is gone, the path is down
//!   at once and up again with the first answer.
//! - A NAT that changes its mapping is the same thing without an announcement;
//!   data from a source that is not known starts it too.
//! - What still arrives from the old address belongs to the path for
//!   [`timing::GRACE`], but says nothing of the new one ([`Entry::receives`]).
//! - Each address of ours keeps the router it was the newest address with.
//! - The mover repeats its challenge until the peer has been heard on the new
//!   pair, and sends one again whenever the peer still asks the old one.
//!
//! # Life and death
//!
//! Events are acted on at once: no carrier, no address, a peer that says its
//! interface is down or its address dead. When that is over, one answer brings
//! the path back.
//!
//! Silence is questioned. If data goes out and nothing authenticated comes back
//! for [`timing::QUESTION_AFTER`] or the retransmission time of RFC 6298,
//! whichever is longer, probes go every 25 ms; three without an answer
//! ([`timing::UNANSWERED_LIMIT`]), each given at least 50 ms, and the path is
//! down. An access marked [`Probing::Fast`] asks every 5 ms and waits 10. A
//! path that died this way is used again after [`timing::RETURN_AFTER`] of
//! answers, except that an answer to a probe from before its death shows it was
//! only slow, and brings it back at once with a longer estimate.
//!
//! While any of a peer's SAs carries data its home paths are probed every
//! second; without data only once per keepalive interval, which also holds NATs
//! open. A peer without a probe SA has the IKE channel's path and no other: it
//! is up while its address exists, and kept open by NAT keepalives. IKE moves it
//! ([`Engine::rehome`]), to whatever interface and family; it keeps its index.

#![forbid(unsafe_code)]

mod budget;
mod candidates;
mod carry;
mod engine;
mod home;
mod liveness;
mod output;
pub mod probe;
mod rtt;
mod state;
pub mod timing;
mod types;

pub use engine::Engine;
pub use types::*;

use crate::ids::PathIndex;

/// Stands for "no path" where an index is expected, as in the maps.
pub const NO_PATH: PathIndex = PathIndex(u32::MAX);
