//! Who may be at the other end: identities, shared keys and the peer
//! authorisation database (RFC 4301 4.4.3).

#![forbid(unsafe_code)]

mod identity;

pub use identity::{Identity, IdentityError, IdentityPattern};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::crypto::Secret;

use super::message;
use super::proposal::{EspProposal, IkeProposal};
use super::selector::TsSpec;

/// One peer, or a template for many.
pub struct PeerConfig {
    /// Its name in configuration and logs.
    pub name: String,
    /// Where to reach it, in order; empty: it comes to us.
    pub remote: Vec<IpAddr>,
    /// Who we are to it.
    pub local_id: Identity,
    /// Who it may be.
    pub remote_id: IdentityPattern,
    /// The shared keys.
    pub psk: PskSource,
    /// As initiator: ask for an inner IPv4 address.
    pub request_v4: bool,
    /// As initiator: ask for an inner IPv6 address.
    pub request_v6: bool,
    /// As gateway: the pool to lease from.
    pub pool: Option<String>,
    /// What the peer must be able to do.
    pub require: Require,
    /// IKE algorithms, best first.
    pub ike_proposals: Vec<IkeProposal>,
    /// Child SA algorithms, best first.
    pub esp_proposals: Vec<EspProposal>,
    /// Liveness check after so long without a sign of life; none: never.
    pub dpd: Option<Duration>,
    /// The Child SAs it may have.
    pub children: Vec<ChildConfig>,
}

/// One Child SA policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildConfig {
    /// Its name in configuration and logs.
    pub name: String,
    /// Our side's traffic.
    pub local_ts: Vec<TsSpec>,
    /// The peer's side's traffic.
    pub remote_ts: Vec<TsSpec>,
    /// One SA per path with equal selectors.
    pub bundle: bool,
    /// Sequence numbers a late packet may lag behind.
    pub replay_window: u32,
}

/// What a peer must be able to do to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Require {
    /// IKEv2.
    #[default]
    Any,
    /// MOBIKE at least.
    Mobike,
    /// The multiple-interface extension.
    Mif,
}

/// Shared keys of a peer.
pub enum PskSource {
    /// The same for whoever matches.
    One(Secret),
    /// By identity as [`Identity`] prints it.
    Table(BTreeMap<String, Secret>),
}

impl PskSource {
    /// The key shared with `identity`.
    #[must_use]
    pub fn lookup(&self, identity: &Identity) -> Option<&Secret> {
        match self {
            Self::One(secret) => Some(secret),
            Self::Table(table) => table.get(&identity.to_string()),
        }
    }
}

/// The peers of this host, in order of configuration.
#[derive(Default)]
pub struct Pad(Vec<PeerConfig>);

impl Pad {
    /// Takes the peers in order.
    #[must_use]
    pub const fn new(peers: Vec<PeerConfig>) -> Self {
        Self(peers)
    }

    /// The peer of a name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&PeerConfig> {
        self.0.iter().find(|peer| peer.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &PeerConfig> {
        self.0.iter()
    }

    /// The peer an initiator claims to be, before it has proved it: the most
    /// exact match of IDi, then the first; with IDr only among those where we
    /// are who it asks for (RFC 7296 3.5).
    #[must_use]
    pub fn find(&self, idi: &Identity, idr: Option<&Identity>) -> Option<&PeerConfig> {
        let matches = |peer: &&PeerConfig| {
            peer.remote_id.matches(idi) && idr.is_none_or(|idr| *idr == peer.local_id)
        };
        let exact = |peer: &&PeerConfig| peer.remote_id.is_exact();
        let mut candidates = self.0.iter().filter(matches);
        candidates.clone().find(exact).or_else(|| candidates.next())
    }
}

impl From<&Identity> for message::Id {
    fn from(identity: &Identity) -> Self {
        identity.to_id()
    }
}
