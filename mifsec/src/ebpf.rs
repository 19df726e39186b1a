//! The steering programs: loading, attaching, and the maps they read.
//!
//! The only user of aya. User space alone writes policy and addresses, the
//! programs alone write counters, and keys never come here.
//!
//! A path's address is changed by writing a new slot and flipping one word; a
//! slot left behind is not written again for 100 ms. Links of `mif_guard` and
//! `mif_egress` are pinned, so that a killed agent leaves the guard in place;
//! its successor's guard is attached, with rules, before the old one goes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use mifsec_common::{PathEntry, PathStats, SaOut};

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
        /// Where it came in and from whom.
        arrival: Arrival,
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

/// The loaded programs of one instance.
pub struct Ebpf {}

impl Ebpf {
    /// Loads the object and attaches `mif_egress` to the anchor device.
    pub fn load(config: &Config) -> anyhow::Result<Self> {
        let _ = config;
        anyhow::bail!("not built")
    }

    /// Attaches `mif_guard` both ways and `mif_ingress` as chosen.
    pub fn attach_access(&mut self, ifindex: u32, xdp: XdpChoice) -> anyhow::Result<IngressMode> {
        let _ = (ifindex, xdp);
        Ok(IngressMode::Off)
    }

    /// Detaches everything from an access.
    pub fn detach_access(&mut self, ifindex: u32) {
        let _ = ifindex;
    }

    /// Adds or replaces an outbound SA.
    pub fn set_sa_out(&mut self, anchor: IpAddr, spi: Spi, sa: SaOut) -> anyhow::Result<()> {
        let _ = (anchor, spi, sa);
        Ok(())
    }

    /// Removes an outbound SA.
    pub fn remove_sa_out(&mut self, anchor: IpAddr, spi: Spi) {
        let _ = (anchor, spi);
    }

    /// Adds or replaces an inbound SPI.
    pub fn set_sa_in(&mut self, spi: Spi, larval: bool) -> anyhow::Result<()> {
        let _ = (spi, larval);
        Ok(())
    }

    /// Removes an inbound SPI.
    pub fn remove_sa_in(&mut self, spi: Spi) {
        let _ = spi;
    }

    /// Puts `entry` in force for `path`: a new slot, then the flip.
    pub fn set_path(&mut self, path: PathIndex, entry: &PathEntry) -> anyhow::Result<()> {
        let _ = (path, entry);
        Ok(())
    }

    /// Takes a path out of force.
    pub fn remove_path(&mut self, path: PathIndex) {
        let _ = path;
    }

    /// Counts what arrives like this on `path`. For native ESP the remote port is 0.
    pub fn set_arrival(&mut self, arrival: &Arrival, path: PathIndex) -> anyhow::Result<()> {
        let _ = (arrival, path);
        Ok(())
    }

    /// Forgets an arrival.
    pub fn remove_arrival(&mut self, arrival: &Arrival) {
        let _ = arrival;
    }

    /// Replaces the guard's rules as a whole, in one step.
    pub fn set_spd(&mut self, rules: &[SpdRule]) -> anyhow::Result<()> {
        let _ = rules;
        Ok(())
    }

    /// Replaces our UDP ports: those that carry ESP and marked IKE, and those of plain IKE.
    pub fn set_ports(&mut self, nat_t: &[u16], ike: &[u16]) -> anyhow::Result<()> {
        let _ = (nat_t, ike);
        Ok(())
    }

    /// Replaces the set of our outer addresses: only traffic to them is policed on ingress.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let _ = addresses;
        Ok(())
    }

    /// What the programs counted on `path` since it was last removed.
    pub fn path_stats(&self, path: PathIndex) -> PathStats {
        let _ = path;
        PathStats::default()
    }

    /// All reasons with their counts, in fixed order.
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// File descriptor that is readable when [`Ebpf::drain_events`] has something.
    pub fn events_fd(&self) -> Option<RawFd> {
        None
    }

    /// Takes all events that are there.
    pub fn drain_events(&mut self) -> Vec<EbpfEvent> {
        Vec::new()
    }

    /// File descriptor that is readable when [`Ebpf::drain_log`] has something; none without log sites.
    pub fn log_fd(&self) -> Option<RawFd> {
        None
    }

    /// Hands the programs' log records to the `log` crate.
    pub fn drain_log(&mut self) {}

    /// `mif_queue`, for `TUNSETSTEERINGEBPF`.
    pub fn queue_program_fd(&self) -> Option<RawFd> {
        None
    }

    /// Sets how `mif_queue` spreads: `by_destination` for gateways.
    pub fn set_queues(&mut self, queues: u32, by_destination: bool) -> anyhow::Result<()> {
        let _ = (queues, by_destination);
        Ok(())
    }

    /// Detaches what is pinned and removes the instance's directory.
    pub fn remove_pins(&mut self) {}
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
    use mifsec_common::path::{
        FAMILY_V4, FAMILY_V6, LINK_ETHERNET, LINK_LAYER3, STATE_DOWN, STATE_UP,
    };
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
