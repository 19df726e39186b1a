//! What the rest of the agent says to and hears from the programs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mifsec_common::event::{self, EventRecord};
use mifsec_common::path::{FAMILY_V4, FAMILY_V6, LINK_ETHERNET, LINK_LAYER3, STATE_DOWN, STATE_UP};
use mifsec_common::{PathEntry, PathKey};

use crate::ids::{Arrival, PathIndex, Spi};

/// What an instance is loaded with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names the pins; one agent per instance.
    pub instance: String,
    /// The anchor device.
    pub anchor_ifindex: u32,
    /// Prefixes the anchors are taken from.
    pub anchor_prefixes: (Ipv4Net, Ipv6Net),
    /// Room for SAs, each way.
    pub max_sas: u32,
    /// Room for paths.
    pub max_paths: u32,
    /// Pin links under `/sys/fs/bpf/mifsec/<instance>/`.
    pub pin: bool,
    /// Nothing protected may leave when the agent is dead: no start without pins.
    pub lockdown: bool,
    /// Highest level the programs log at, in aya-log's numbers (1 error, 2 warn, 5 trace).
    pub log_level: u32,
}

/// The `xdp` key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XdpChoice {
    /// Native XDP on physical devices whose driver has it, else TC.
    #[default]
    Auto,
    /// Native XDP or an error.
    Native,
    /// Generic XDP.
    Generic,
    /// TC ingress.
    Tc,
    /// No ingress program: user space alone accounts.
    Off,
}

/// Where `mif_ingress` ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressMode {
    /// In the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// TC ingress.
    Tc,
    /// Nowhere.
    Off,
}

impl fmt::Display for IngressMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
            Self::Off => "off",
        })
    }
}

/// Which way a packet crosses an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Leaving.
    Out,
    /// Arriving.
    In,
}

/// What happens to a clear packet that matches a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpdAction {
    /// Passes.
    Bypass,
    /// Belongs into a tunnel: dropped in clear.
    ProtectTunnel,
    /// Belongs into a transport mode SA: dropped in clear.
    ProtectTransport,
    /// Dropped.
    Discard,
}

/// One ordered rule of the guard; the first match decides, no match passes.
///
/// Local is the source of a leaving packet and the destination of an arriving one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpdRule {
    /// Which way.
    pub direction: Direction,
    /// Our side; of the same family as `remote`.
    pub local: IpNet,
    /// The other side.
    pub remote: IpNet,
    /// IP protocol, 0 for any.
    pub protocol: u8,
    /// Our ports; `0..=65535` for any.
    pub local_ports: RangeInclusive<u16>,
    /// The other side's ports.
    pub remote_ports: RangeInclusive<u16>,
    /// What to do.
    pub action: SpdAction,
}

/// News from the programs, rate limited there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EbpfEvent {
    /// A known SPI came from an address no path has.
    NewSource {
        /// The SPI.
        spi: Spi,
        /// Interface of arrival.
        ifindex: u32,
        /// Destination of the outer header.
        local: IpAddr,
        /// Source of the outer header; port 0 for native ESP.
        remote: SocketAddr,
    },
    /// An outbound SA has no usable path.
    NoPath {
        /// The SPI.
        spi: Spi,
        /// The anchor it was sent to.
        anchor: IpAddr,
    },
    /// A packet was larger than its path allows.
    Oversize {
        /// The SPI.
        spi: Spi,
        /// The path.
        path: PathIndex,
        /// Octets of the outer packet.
        size: u32,
    },
}

/// The entry for a path between two sockets.
pub fn path_entry(
    local: SocketAddr,
    remote: SocketAddr,
    next_hop: Option<IpAddr>,
    ifindex: u32,
    mtu: u16,
    up: bool,
    layer3: bool,
) -> PathEntry {
    PathEntry {
        state: if up { STATE_UP } else { STATE_DOWN },
        family: if local.is_ipv4() {
            FAMILY_V4
        } else {
            FAMILY_V6
        },
        link_type: if layer3 { LINK_LAYER3 } else { LINK_ETHERNET },
        ifindex,
        src: local.ip().into(),
        dst: remote.ip().into(),
        next_hop: next_hop.unwrap_or(remote.ip()).into(),
        sport: local.port().to_be_bytes(),
        dport: remote.port().to_be_bytes(),
        mtu: u32::from(mtu),
        generation: 0,
        reserved: 0,
    }
}

impl EbpfEvent {
    /// Reads what the programs wrote; `None` for a kind this version does not know.
    pub(super) fn from_record(record: &EventRecord) -> Option<Self> {
        let spi = Spi(u32::from_be_bytes(record.spi));
        match record.kind {
            event::NEW_SOURCE => Some(Self::NewSource {
                spi,
                ifindex: record.ifindex,
                local: record.local.to_ip(),
                remote: SocketAddr::new(
                    record.remote.to_ip(),
                    u16::from_be_bytes(record.remote_port),
                ),
            }),
            event::NO_PATH_USABLE => Some(Self::NoPath {
                spi,
                anchor: record.local.to_ip(),
            }),
            event::OVERSIZE => Some(Self::Oversize {
                spi,
                path: PathIndex(record.path),
                size: record.size,
            }),
            _ => None,
        }
    }
}

/// The key an arrival is recognised by.
pub(super) fn arrival_key(arrival: &Arrival) -> PathKey {
    PathKey {
        ifindex: arrival.ifindex,
        local: arrival.local.ip().into(),
        remote: arrival.remote.ip().into(),
        remote_port: arrival.remote.port().to_be_bytes(),
        reserved: [0; 2],
    }
}
