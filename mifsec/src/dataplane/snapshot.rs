//! The SAD and SPD as the workers see them: immutable, replaced whole.
//!
//! The agent builds a [`Snapshot`]; [`Published`] compiles it (host index over
//! the ordered bundles) and hands it out by generation number. A worker looks at
//! one atomic per batch and takes the lock only when the number changed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mifsec_common::steering;

use crate::esp::{InboundSa, OutboundSa};
use crate::ids::{AccessId, Arrival, PathIndex, Spi};

use super::packet::Inner;

/// One range of packets: addresses, protocol, ports (RFC 7296 3.13.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// First and last address, of one family.
    pub addresses: RangeInclusive<IpAddr>,
    /// IP protocol; 0 = any.
    pub protocol: u8,
    /// Ports; `0..=65535` = any. A packet without ports matches only "any".
    pub ports: RangeInclusive<u16>,
}

/// One service of one peer: equal selectors over one Child SA per path.
#[derive(Clone)]
pub struct Bundle {
    /// What the inner source must match.
    pub local: Vec<Selector>,
    /// What the inner destination must match.
    pub remote: Vec<Selector>,
    /// The Child SAs, in the order `table` was built for.
    pub members: Vec<Member>,
    /// Flow hash to member.
    pub table: steering::Table,
}

/// One outbound SA of a bundle.
#[derive(Clone)]
pub struct Member {
    /// The SA.
    pub sa: Arc<OutboundSa>,
    /// Where its ESP is sent: the anchor address, of the path's family.
    pub anchor: SocketAddr,
    /// Whose send socket it uses.
    pub access: AccessId,
    /// The path it is homed on.
    pub path: PathIndex,
    /// MTU of that path, octets, outer headers included.
    pub mtu: u16,
    /// Whether the path can carry data now.
    pub usable: bool,
    /// Share of the flows.
    pub weight: u32,
    /// Responder: not before the first valid inbound packet, or 1 s.
    pub held: bool,
}

/// One inbound SA.
#[derive(Clone)]
pub struct Inbound {
    /// The SA.
    pub sa: Arc<InboundSa>,
    /// What the inner destination must match.
    pub ts_local: Vec<Selector>,
    /// What the inner source must match.
    pub ts_remote: Vec<Selector>,
    /// The path it is homed on.
    pub path: PathIndex,
    /// Tell the agent of the first valid packet ([`super::Input::FirstPacket`]).
    pub notify_first: bool,
}

/// Everything a worker needs to know; replaced whole.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// In order of precedence.
    pub bundles: Vec<Bundle>,
    /// The SAD.
    pub inbound: HashMap<Spi, Inbound>,
    /// SPIs whose packets go to the agent.
    pub probes: HashSet<Spi>,
    /// SPIs we named in a request that is not answered yet: packets are held.
    pub larval: HashSet<Spi>,
    /// Which path an arrival belongs to.
    pub arrivals: HashMap<Arrival, PathIndex>,
    /// Kernel indexes of the accesses; what arrives elsewhere is dropped.
    pub accesses: HashSet<u32>,
}
