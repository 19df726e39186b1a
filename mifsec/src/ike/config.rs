//! What the engine is told at start: peers, children, pools, timing, limits.

use std::net::IpAddr;
use std::time::Duration;

use super::lease::PoolConfig;
use super::mif::DEFAULT_RECORDS;
use super::peer::{Identity, IdentityPattern, LocalAuth, PadEntry, RemoteAuth};
use super::proposal::{EspProposal, IkeProposal};
use super::selector::TsSpec;

/// The whole configuration of one [`Engine`](super::Engine).
pub struct EngineConfig {
    /// UDP port of everything after IKE_SA_INIT, 4500 unless configured.
    pub port: u16,
    /// UDP port of IKE_SA_INIT, 500 unless configured.
    pub ike_port: u16,
    /// Timing of requests.
    pub retransmit: RetransmitConfig,
    /// Inner addresses to lease.
    pub pools: Vec<PoolConfig>,
    /// Who may connect and whom to connect to. Of those that match
    /// an identity an exact `remote_id` counts before a pattern, then the first.
    pub peers: Vec<PeerConfig>,
    /// Longest IKE message in one datagram towards peers that take fragments
    /// (RFC 7383), in octets without UDP header and non-ESP marker.
    pub fragment_size: usize,
    /// Bounds on what peers can make us hold.
    pub limits: Limits,
}

/// What fits the least packet every path has to pass (1280, RFC 8200 5) next to
/// IPv6, UDP and non-ESP marker; for IPv4 too, so that a channel that changes its
/// family sends the same octets.
pub const FRAGMENT_SIZE: usize = 1280 - 40 - 8 - 4;

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            port: 4500,
            ike_port: 500,
            retransmit: RetransmitConfig::default(),
            pools: Vec::new(),
            peers: Vec::new(),
            fragment_size: FRAGMENT_SIZE,
            limits: Limits::default(),
        }
    }
}

/// When a request without response is sent again (RFC 7296 2.4 leaves the
/// timing open): after `initial`, then `base` times longer each time, never
/// more than `limit`, at most `tries` times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetransmitConfig {
    /// Wait before the first retransmission.
    pub initial: Duration,
    /// Factor from one wait to the next.
    pub base: f64,
    /// Retransmissions before the peer counts as dead.
    pub tries: u32,
    /// Longest wait.
    pub limit: Duration,
}

impl Default for RetransmitConfig {
    /// Half a second first: the channel of a multi-access host moves instead of waiting.
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(500),
            base: 1.8,
            tries: 8,
            limit: Duration::from_secs(20),
        }
    }
}

/// Bounds on state and work a peer can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Half-open IKE SAs we hold as responder.
    pub half_open: usize,
    /// Half-open IKE SAs from which on a COOKIE is asked for (RFC 7296 2.6).
    pub cookie_threshold: usize,
    /// How long a half-open IKE SA may wait for IKE_AUTH.
    pub half_open_lifetime: Duration,
    /// IKE SAs in total.
    pub ike_sas: usize,
    /// Child SAs of one IKE SA.
    pub children: usize,
    /// SAs one MIF_ADD_INTERFACE may derive.
    pub derived: usize,
    /// Interfaces a peer may announce.
    pub interfaces: usize,
    /// Window we offer by SET_WINDOW_SIZE (RFC 7296 2.3).
    pub window: u32,
    /// Longest IKE message accepted.
    pub message: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: 1024,
            cookie_threshold: 64,
            half_open_lifetime: Duration::from_secs(30),
            ike_sas: 65_536,
            children: 1024,
            derived: 256,
            interfaces: usize::from(DEFAULT_RECORDS),
            window: 8,
            message: 16_384,
        }
    }
}

/// What a peer must support to be kept (protocol 3.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// IKEv2-MIF.
    Mif,
    /// At least MOBIKE; MIF is more than that.
    Mobike,
    /// Anything.
    #[default]
    Any,
}

/// How long an SA lives before it is rekeyed (RFC 7296 2.8). Octets and packets
/// are counted by the data plane, whose limits are not the engine's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lifetime {
    /// When it is rekeyed at the latest; `None` is never. At
    /// [`HARD`](Self::HARD) times this it is given up.
    pub time: Option<Duration>,
    /// Part of the time, 0 to 1, that at most is taken off at random, so that two
    /// ends of one configuration seldom rekey at once.
    pub jitter: f64,
}

impl Lifetime {
    /// No SA is used longer than this part of its time.
    pub const HARD: f64 = 1.1;

    /// A Child SA's unless configured: an hour.
    pub const CHILD: Self = Self::of(Duration::from_secs(3600));

    /// An IKE SA's unless configured: four hours.
    pub const IKE: Self = Self::of(Duration::from_secs(4 * 3600));

    /// Rekeyed by command only.
    pub const NEVER: Self = Self {
        time: None,
        jitter: 0.0,
    };

    /// With the usual jitter.
    #[must_use]
    pub const fn of(time: Duration) -> Self {
        Self {
            time: Some(time),
            jitter: 0.1,
        }
    }
}

/// What we offer and accept of extensions that move addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mobility {
    /// IKEv2-MIF.
    pub mif: bool,
    /// MOBIKE (RFC 4555).
    pub mobike: bool,
    /// Make the peer believe in a NAT in front of us, so that its ESP comes in UDP
    /// (RFC 7296 2.23, RFC 3948): we have no other.
    pub force_udp: bool,
    /// NO_NATS_ALLOWED in whatever says where we are (RFC 4555 3.9).
    pub no_nats: bool,
    /// Initiator: our interfaces in the IKE_AUTH request, which somebody posing as the
    /// responder can read (protocol 3.5), not in the first request after it.
    pub early_announce: bool,
}

impl Default for Mobility {
    fn default() -> Self {
        Self {
            mif: true,
            mobike: true,
            force_udp: true,
            no_nats: false,
            early_announce: false,
        }
    }
}

/// One peer, or a template of many.
pub struct PeerConfig {
    /// Its name in commands, events and logs.
    pub name: String,
    /// Its addresses, the only ones it may call from; empty for a responder's
    /// template, which takes callers from anywhere.
    pub remote: Vec<IpAddr>,
    /// Who we are to it.
    pub local_id: Identity,
    /// Whom we accept.
    pub remote_id: IdentityPattern,
    /// How we prove who we are.
    pub local_auth: LocalAuth,
    /// What we accept as the peer's proof.
    pub remote_auth: RemoteAuth,
    /// Initiator: ask for an inner IPv4 address.
    pub request_v4: bool,
    /// Initiator: ask for an inner IPv6 address.
    pub request_v6: bool,
    /// Initiator: how many addresses of each family it asks for (R12).
    pub inner_addresses: usize,
    /// Responder: the pool to lease from.
    pub pool: Option<String>,
    /// What it must support.
    pub require: Require,
    /// What is spoken of addresses that change, and of NATs.
    pub mobility: Mobility,
    /// Offers for the IKE SA, best first.
    pub ike_proposals: Vec<IkeProposal>,
    /// Offers for Child SAs, best first.
    pub esp_proposals: Vec<EspProposal>,
    /// Quiet time after which the peer is asked for a sign of life.
    pub dpd: Option<Duration>,
    /// Lifetime of its Child SAs.
    pub rekey: Lifetime,
    /// Lifetime of its IKE SA.
    pub ike_rekey: Lifetime,
    /// Initiator: the IKE SA first, Child SAs when asked for (RFC 6023).
    pub childless: bool,
    /// Its Child SAs; an initiator makes the first one in IKE_AUTH unless `childless`.
    pub children: Vec<ChildConfig>,
}

impl PeerConfig {
    /// Whether IKE_AUTH asks for no Child SA.
    pub(super) fn is_childless(&self) -> bool {
        self.childless || self.children.is_empty()
    }
}

impl PadEntry for std::sync::Arc<PeerConfig> {
    fn local_id(&self) -> &Identity {
        &self.local_id
    }

    fn remote_id(&self) -> &IdentityPattern {
        &self.remote_id
    }

    fn takes_from(&self, address: IpAddr) -> bool {
        self.remote.is_empty() || self.remote.contains(&address)
    }
}

/// One Child SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildConfig {
    /// Its name in commands, events and logs.
    pub name: String,
    /// What is behind us.
    pub local_ts: Vec<TsSpec>,
    /// What is behind the peer.
    pub remote_ts: Vec<TsSpec>,
    /// One inner address over all paths: equal selectors allowed (feature 13).
    pub bundle: bool,
    /// Packets of the replay window.
    pub replay_window: u32,
}
