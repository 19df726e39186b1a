//! What may happen to a datagram between two engines: the part of the link
//! emulator's impairments that IKE minds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::emul::{Impairments, Jitter};

/// One direction.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Time from one end to the other.
    pub latency: Duration,
    /// Longest additional time; above the distance of two datagrams it reorders.
    pub jitter: Duration,
    /// Probability that a datagram is lost.
    pub loss: f64,
    /// Probability that it arrives twice.
    pub duplicate: f64,
    /// Longer ones are lost.
    pub mtu: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            mtu: 1500,
        }
    }
}

impl From<Link> for Impairments {
    fn from(link: Link) -> Self {
        Self {
            delay: link.latency,
            jitter: Jitter::Uniform(link.jitter),
            keep_order: false,
            loss: link.loss,
            duplicate: link.duplicate,
            mtu: link.mtu,
            ..Self::default()
        }
    }
}

/// A NAT with address and port dependent mapping in front of the end user: a new
/// port per inside address and destination.
#[derive(Debug)]
pub struct Nat {
    public: IpAddr,
    next_port: u16,
    mappings: BTreeMap<(SocketAddr, SocketAddr), u16>,
}

impl Nat {
    /// A NAT whose outside is `public`.
    #[must_use]
    pub fn new(public: IpAddr) -> Self {
        Self {
            public,
            next_port: 20_000,
            mappings: BTreeMap::new(),
        }
    }

    /// Forgets all mappings, as after a restart: the next ones are others.
    pub fn rebind(&mut self) {
        self.mappings.clear();
    }

    /// Source as the outside sees it.
    pub fn outbound(&mut self, inside: SocketAddr, to: SocketAddr) -> SocketAddr {
        let next_port = &mut self.next_port;
        let port = *self.mappings.entry((inside, to)).or_insert_with(|| {
            *next_port += 1;
            *next_port
        });
        SocketAddr::new(self.public, port)
    }

    /// Destination inside, if a mapping lets it through.
    #[must_use]
    pub fn inbound(&self, to: SocketAddr, from: SocketAddr) -> Option<SocketAddr> {
        self.mappings
            .iter()
            .find(|((_, peer), port)| {
                *peer == from && **port == to.port() && to.ip() == self.public
            })
            .map(|((inside, _), _)| *inside)
    }
}
