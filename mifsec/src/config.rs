//! The configuration: one TOML file, validated whole before anything changes.
//!
//! `raw` is the file as written (unknown keys are errors), [`Config`] what the
//! agent acts on: every default filled in, every reference resolved, secrets
//! read. Every mistake is one line: file, line, key, what is wrong, the mend.
//! Defaults live here and nowhere else.

#![forbid(unsafe_code)]

mod check;
mod error;
mod raw;
mod secrets;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ike::cert::TrustAnchors;
use crate::ike::config::Mobility;
use crate::ike::lease::PoolConfig;
use crate::ike::peer::{Identity, IdentityPattern, LocalAuth};
use crate::ike::proposal::{EspProposal, IkeProposal};

pub(crate) use check::MAX_ORDERED;
pub use error::ConfigError;
pub use secrets::{FileStamp, PskSource};

/// Everything the agent was told.
pub struct Config {
    /// `[agent]`.
    pub agent: Agent,
    /// `[[access]]`, in file order: the order gives `AccessId`.
    pub accesses: Vec<Access>,
    /// `[[pool]]`.
    pub pools: Vec<Pool>,
    /// `[[peer]]`.
    pub peers: Vec<Peer>,
    /// `[limits]`.
    pub limits: Limits,
}

/// `[agent]`.
pub struct Agent {
    /// Shown in `status`.
    pub name: String,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Survives a restart of the agent, not of the host.
    pub state_dir: PathBuf,
    /// How ESP arrivals are counted and filtered.
    pub xdp: Xdp,
    /// Data plane threads; 0 = one per core.
    pub workers: usize,
    /// Who makes the routes.
    pub routing: Routing,
    /// Protected destinations fail closed.
    pub lockdown: bool,
    /// What a clean stop leaves behind.
    pub on_stop: OnStop,
    /// The UDP port of IKE behind NAT, ESP-in-UDP and probes.
    pub port: u16,
    /// The UDP port of IKE_SA_INIT.
    pub ike_port: u16,
    /// Name of the TUN.
    pub device: String,
    /// Name of the anchor device; its veth peer is named after it.
    pub anchor_device: String,
    /// Prefixes of the anchors.
    pub anchor: (Ipv4Net, Ipv6Net),
    /// Routing table of the protected selectors; the anchors' is the next, the
    /// accesses' start ten above.
    pub table: u32,
    /// Names the pins, so that several agents can share a host.
    pub instance: String,
}

/// `xdp`: where arrivals are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xdp {
    /// Native XDP where it is worth it, else TC.
    Auto,
    /// Native XDP or refuse.
    Native,
    /// Generic XDP.
    Generic,
    /// TC ingress.
    Tc,
    /// User space alone.
    Off,
}

/// `routing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Tables and rules are ours (5.2).
    Managed,
    /// The TUN and one route per pool, nothing else.
    Manual,
}

/// `on_stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Everything goes.
    Delete,
    /// Devices, routes, guard and pins stay.
    Keep,
}

/// `class` of an access; the numbers are those of MIF_INTERFACES (protocol 3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Not said.
    Unspecified = 0,
    /// Wired.
    Ethernet = 1,
    /// Wireless LAN.
    Wlan = 2,
    /// Mobile network.
    Ran = 3,
    /// WiMAX.
    Wimax = 4,
    /// Satellite.
    Satellite = 5,
    /// A virtual link.
    Virtual = 6,
}

/// `probe` of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStyle {
    /// The numbers of architecture 5.4.
    Default,
    /// Quicker to call a path dead.
    Fast,
    /// As little as possible.
    Idle,
}

/// `[[access]]`.
#[derive(Debug, Clone)]
pub struct Access {
    /// Kernel name.
    pub interface: String,
    /// What kind of link it is.
    pub class: Class,
    /// 0 is best.
    pub priority: u8,
    /// Share of the flows, 1 to 255.
    pub weight: u8,
    /// Traffic costs money.
    pub metered: bool,
    /// The access network is trusted.
    pub trusted: bool,
    /// Outer addresses to use, each announced as an interface of its own;
    /// empty = whatever the interface has, as one.
    pub addresses: Vec<IpAddr>,
    /// Outer MTU; `None` = the link's.
    pub mtu: Option<u16>,
    /// May carry the IKE channel.
    pub ike: bool,
    /// How it is probed.
    pub probe: ProbeStyle,
}

/// `[[pool]]`.
#[derive(Debug, Clone)]
pub struct Pool {
    /// What peers refer to.
    pub name: String,
    /// Prefixes leases come from.
    pub cidr: Vec<IpNet>,
    /// Name servers told to the subscriber.
    pub dns: Vec<IpAddr>,
    /// Domains those name servers are for; empty = everything.
    pub domains: Vec<String>,
    /// Never leased.
    pub exclude: Vec<IpNet>,
}

impl Pool {
    /// As the engine takes it.
    #[must_use]
    pub fn leases(&self) -> PoolConfig {
        PoolConfig {
            name: self.name.clone(),
            cidr: self.cidr.clone(),
            exclude: self.exclude.clone(),
            dns: self.dns.clone(),
            domains: self.domains.clone(),
        }
    }
}

/// `require`: the least a peer must speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// Anything goes.
    Any,
    /// At least MOBIKE, to survive a change of addresses.
    Mobike,
    /// IKEv2-MIF or nothing.
    Mif,
}

/// `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Connect and stay connected.
    Auto,
    /// Connect when there is a packet for the peer.
    Trap,
    /// Wait for the peer.
    Manual,
}

/// `[[peer]]`.
pub struct Peer {
    /// Shown everywhere.
    pub name: String,
    /// Where to connect to, best first; empty = accept only.
    pub remote: Vec<IpAddr>,
    /// Our identity.
    pub local_id: Identity,
    /// The peer's: exact, or `*@suffix` for a template.
    pub remote_id: IdentityPattern,
    /// Keys shared with the peer.
    pub psk: Option<PskSource>,
    /// How we prove who we are.
    pub local_auth: LocalAuth,
    /// Authorities that vouch for the peer's certificate.
    pub ca: Option<Arc<TrustAnchors>>,
    /// Where our certificate comes from, if we have one.
    pub credential_files: Option<CredentialFiles>,
    /// Ask for an inner IPv4 address.
    pub request_v4: bool,
    /// Ask for an inner IPv6 address.
    pub request_v6: bool,
    /// Lease from this pool.
    pub pool: Option<String>,
    /// The least the peer must speak.
    pub require: Require,
    /// `mif`, `mobike`, `encapsulation`, `nat`.
    pub mobility: Mobility,
    /// When to connect.
    pub start: Start,
    /// IKE proposals, best first.
    pub ike: Vec<IkeProposal>,
    /// ESP proposals, best first.
    pub esp: Vec<EspProposal>,
    /// Liveness check of the IKE channel when all paths are quiet; 30 s unless
    /// said otherwise, `None` (`dpd = 0`) = never.
    pub dpd: Option<Duration>,
    /// When a Child SA gets new keys; after one hour unless said otherwise.
    pub rekey: Rekey,
    /// When the IKE SA gets new keys; after four hours unless said otherwise.
    pub ike_rekey: Rekey,
    /// Whether IKE_AUTH sets up the IKE SA alone and all Child SAs come after it
    /// (RFC 6023).
    pub childless: bool,
    /// Which accesses stand in for which, as its children say.
    pub alternates: Alternates,
    /// `[[peer.child]]`.
    pub children: Vec<Child>,
}

impl Peer {
    /// Whether this peer stands for many.
    #[must_use]
    pub fn is_template(&self) -> bool {
        !self.remote_id.is_exact()
    }

    /// The children that have Child SAs.
    pub fn protected(&self) -> impl Iterator<Item = &Child> {
        self.children.iter().filter(|c| c.policy == Policy::Protect)
    }
}

/// Files of our own certificate.
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    /// `certificate`.
    pub certificate: PathBuf,
    /// `private_key`.
    pub private_key: PathBuf,
}

/// `rekey`, `ike_rekey`: how long keys are used. Whichever limit is reached first
/// counts; none at all is "never". Limits of the algorithms hold in any case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rekey {
    /// From installation on.
    pub time: Option<Duration>,
    /// Inner octets of either direction; Child SAs alone.
    pub octets: Option<u64>,
    /// Packets of either direction; Child SAs alone.
    pub packets: Option<u64>,
    /// How much of each limit is taken off at random at most, as a share.
    pub jitter: f64,
}

impl Rekey {
    /// No limit but those of the algorithms.
    pub const NEVER: Self = Self {
        time: None,
        octets: None,
        packets: None,
        jitter: 0.0,
    };
}

/// One selector of `local_ts` or `remote_ts`: `dynamic` or a prefix, with protocol
/// and ports if they are given, as `10.0.0.0/8[udp/5000-5010]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ts {
    /// A prefix; `None` is the leased address.
    pub net: Option<IpNet>,
    /// IP protocol; 0 = any.
    pub protocol: u8,
    /// First and last port; `(0, 65535)` = any.
    pub ports: (u16, u16),
}

impl Ts {
    /// Any port.
    pub const ANY_PORTS: (u16, u16) = (0, u16::MAX);

    /// The leased address, whatever protocol and port.
    pub const DYNAMIC: Self = Self {
        net: None,
        protocol: 0,
        ports: Self::ANY_PORTS,
    };

    /// A prefix, whatever protocol and port.
    #[must_use]
    pub const fn net(net: IpNet) -> Self {
        Self {
            net: Some(net),
            ..Self::DYNAMIC
        }
    }

    /// Whether protocol or ports are said.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.protocol != 0 || self.ports != Self::ANY_PORTS
    }
}

/// `layout`: how a child's traffic has its inner addresses (protocol 0.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// One inner address over all accesses, flows spread over equal Child SAs.
    #[default]
    Bundle,
    /// One inner address for each access, the application chooses (R12).
    Pinned,
}

/// `policy`: what the SPD does with a service (RFC 4301 4.4.1, R61).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Through the tunnel or not at all.
    #[default]
    Protect,
    /// In clear by an access, as without tunnel.
    Bypass,
    /// Refused.
    Discard,
}

/// `[[peer.child]]`.
#[derive(Debug, Clone)]
pub struct Child {
    /// What it is called.
    pub name: String,
    /// Inner sources.
    pub local_ts: Vec<Ts>,
    /// Inner destinations.
    pub remote_ts: Vec<Ts>,
    /// How it has its inner addresses.
    pub layout: Layout,
    /// What is done with its traffic.
    pub policy: Policy,
    /// Its place in the SPD, lower first; of equal ones the narrower selector.
    pub order: i32,
    /// Indexes into [`Config::accesses`] it may use.
    pub accesses: Vec<usize>,
    /// Which accesses stand in for which, as said here.
    pub alternates: Alternates,
    /// Replay window in packets.
    pub replay_window: u32,
}

/// Which accesses stand in for one, best first, by index into
/// [`Config::accesses`]. One that is not in here follows the default rule
/// (protocol 3.9).
pub type Alternates = BTreeMap<usize, Vec<usize>>;

/// `[limits]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Child SAs.
    pub sas: u32,
    /// Paths.
    pub paths: u32,
    /// IKE SAs not yet authenticated.
    pub half_open: u32,
    /// Child SAs a peer may derive in one exchange; 0 = none.
    pub derived: u16,
}

impl Config {
    /// Reads and validates `file`.
    ///
    /// # Errors
    /// The first mistake, in one line.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|e| {
            ConfigError::file(file, format!("cannot be read ({e})"))
                .mend("give the path of a readable TOML file with --config")
        })?;
        Self::parse(file, &text)
    }

    /// Validates `text`; `file` names it in errors and anchors relative paths.
    ///
    /// # Errors
    /// The first mistake, in one line.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let raw = raw::parse(file, text)?;
        check::Checker::new(file, text).config(raw)
    }

    /// What is odd but allowed: interfaces this host does not have now, secrets
    /// others can read. One line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        for access in &self.accesses {
            // Follows the network namespace of the process, unlike /sys.
            let known = Path::new("/proc/sys/net/ipv4/conf").join(&access.interface);
            if !known.exists() {
                out.push(format!(
                    "[[access]] {:?}: this host has no such interface now; it is used when it appears",
                    access.interface
                ));
            }
        }
        for peer in &self.peers {
            out.extend(peer.psk.as_ref().and_then(|psk| psk.warnings(&peer.name)));
            out.extend(secrets::certificate_warnings(peer));
        }
        out
    }

    /// The listed outer addresses, with the IKE port: what a responder answers on.
    #[must_use]
    pub fn listed_addresses(&self) -> Vec<SocketAddr> {
        self.accesses
            .iter()
            .flat_map(|a| &a.addresses)
            .map(|ip| SocketAddr::new(*ip, self.agent.port))
            .collect()
    }
}
