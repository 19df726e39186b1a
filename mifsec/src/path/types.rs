//! What goes into the path engine and what comes out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::ids::{AccessId, Arrival, Family, IfaceId, IfacePair, IkeId, PathIndex};

/// How the engine is set up once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our NAT-T port; also what a remote port of 0 stands for.
    pub port: u16,
    /// How many paths there may be at once: the size of the maps.
    pub max_paths: u32,
}

/// The state of an interface as its owner announces it (MIF_INTERFACES).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IfaceState {
    /// Not usable, 0.
    Down,
    /// Known, but without an address yet, 1.
    NoAddress,
    /// Usable, 2.
    Up,
    /// Usable when nothing else is, 3.
    Backup,
}

impl IfaceState {
    /// Whether paths may exist on it.
    #[must_use]
    pub const fn usable(self) -> bool {
        matches!(self, Self::Up | Self::Backup)
    }
}

/// The kind of link, by its number in MIF_INTERFACES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkClass(pub u8);

/// How eagerly an access is probed: the `probe` key of an `[[access]]`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probing {
    /// Standby every second, questions every 25 ms.
    #[default]
    Default,
    /// Standby every second, questions every 5 ms.
    Fast,
    /// No standby probes: the keepalive interval only.
    Idle,
}

/// One of our interfaces, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalIface {
    /// The number we announce it by.
    pub id: IfaceId,
    /// The `[[access]]` it belongs to.
    pub access: AccessId,
    /// The kernel's index of the device.
    pub ifindex: u32,
    /// Whether it can be used.
    pub state: IfaceState,
    /// What kind of link it is.
    pub class: LinkClass,
    /// 0 is best.
    pub priority: u8,
    /// Share of the traffic, for the steering table.
    pub weight: u8,
    /// Octets of the largest IP packet.
    pub mtu: u16,
    /// Usable addresses, best first; one that has newly appeared is first.
    pub addresses: Vec<IpAddr>,
    /// The IPv4 gateway, `None` when everything is on the link.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The IPv6 gateway, `None` when everything is on the link.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// The device has no link-layer header.
    pub layer3: bool,
    /// How eagerly to probe on it.
    pub probing: Probing,
}

/// One address of a peer's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteAddr {
    /// The address, a label when `behind_nat`.
    pub ip: IpAddr,
    /// The UDP port for ESP; 0 = that of the IKE channel.
    pub port: u16,
    /// Its owner knows of a NAT before it: it cannot be reached by this address.
    pub behind_nat: bool,
}

/// One of a peer's interfaces, as announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteIface {
    /// The number its owner gave it.
    pub id: IfaceId,
    /// Whether it can be used.
    pub state: IfaceState,
    /// What kind of link it is.
    pub class: LinkClass,
    /// 0 is best.
    pub priority: u8,
    /// The owner's wish for its share of the traffic.
    pub weight: u8,
    /// Octets of the largest IP packet, 0 = not said.
    pub mtu: u16,
    /// Its addresses, best first.
    pub addresses: Vec<RemoteAddr>,
}

/// The address pair an IKE SA was made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Our interface.
    pub local: IfaceId,
    /// Our address, with the NAT-T port.
    pub local_addr: SocketAddr,
    /// The peer's, as observed.
    pub remote_addr: SocketAddr,
}

/// What an IKE SA brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerParams {
    /// Whether we are the original initiator; decides the order in path ids.
    pub initiator: bool,
    /// Whether there is a probe SA. Without one the peer has one fixed path.
    pub probes: bool,
    /// Whether IKE's NAT detection found us behind a NAT on the channel.
    pub behind_nat: bool,
    /// Where the IKE SA was made.
    pub channel: Channel,
}

/// What a peer's MIF_UPDATE_ADDRS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteMove {
    /// The peer's interface whose paths move.
    pub old_iface: IfaceId,
    /// The interface they move to; often the same.
    pub new_iface: IfaceId,
    /// The address that is replaced, as its owner knows it.
    pub old: IpAddr,
    /// The new address.
    pub new: RemoteAddr,
    /// The old address can no longer be reached.
    pub old_is_dead: bool,
    /// The IKE channel was there, and moves too.
    pub channel: bool,
}

/// What the data plane knows of a path's traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Data packets sent on the path so far.
    pub sent: u64,
    /// When the last packet that opened arrived as [`Entry::receives`] says;
    /// what still comes from an address that was replaced does not count.
    pub last_rx: Option<Instant>,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransmitKind {
    /// Plaintext of a probe, to be sealed in the peer's probe SA with next
    /// header 253.
    Probe(Vec<u8>),
    /// The single octet 0xff of RFC 3948.
    Keepalive,
}

/// A small packet that must leave on exactly this interface and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The peer.
    pub ike: IkeId,
    /// The path it is for, [`NO_PATH`](super::NO_PATH) for the reply to a probe
    /// of a path we do not have.
    pub path: PathIndex,
    /// The device.
    pub ifindex: u32,
    /// Source.
    pub local: SocketAddr,
    /// Destination.
    pub remote: SocketAddr,
    /// What.
    pub kind: TransmitKind,
}

/// A path as the maps hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Whether packets may take it.
    pub up: bool,
    /// The device.
    pub ifindex: u32,
    /// Outer source.
    pub local: SocketAddr,
    /// Outer destination, always validated.
    pub remote: SocketAddr,
    /// The neighbour to send to.
    pub next_hop: IpAddr,
    /// Octets of the largest outer packet.
    pub mtu: u16,
    /// The device has no link-layer header.
    pub layer3: bool,
}

impl Entry {
    /// Whether a packet that arrived like this shows that the path works: it
    /// came the way the path sends.
    #[must_use]
    pub fn receives(&self, arrival: &Arrival) -> bool {
        (self.ifindex, self.local, self.remote) == (arrival.ifindex, arrival.local, arrival.remote)
    }
}

/// Whose interface is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Ours.
    Local,
    /// The peer's.
    Remote,
}

/// Why a path can not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DownReason {
    /// Our interface went down or lost its last address of the family.
    LocalInterface,
    /// The address the path was using has gone.
    LocalAddress,
    /// The peer announced its interface as not up, or no longer.
    RemoteInterface,
    /// The peer said its address is dead.
    RemoteAddress,
    /// Probes were not answered.
    Unanswered,
}

impl DownReason {
    /// The name it is shown and counted by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalInterface => "local_interface",
            Self::LocalAddress => "local_address",
            Self::RemoteInterface => "remote_interface",
            Self::RemoteAddress => "remote_address",
            Self::Unanswered => "unanswered",
        }
    }
}

/// News for the owner of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The path's entry in the maps is now this: write a slot and flip.
    Entry {
        /// The path.
        path: PathIndex,
        /// Its new content.
        entry: Entry,
    },
    /// The path is gone; its index will be used again.
    Removed {
        /// The path.
        path: PathIndex,
    },
    /// What arrives like this belongs to this path.
    ArrivalAdded {
        /// Interface, addresses and port.
        arrival: Arrival,
        /// The path.
        path: PathIndex,
    },
    /// Nothing is expected to arrive like this any more.
    ArrivalRemoved {
        /// Interface, addresses and port.
        arrival: Arrival,
    },
    /// A path has been validated for the first time, or has become its pair's home.
    Validated {
        /// The peer.
        ike: IkeId,
        /// Its interfaces.
        pair: IfacePair,
        /// The path.
        path: PathIndex,
        /// The SAs of this pair belong on this path.
        home: bool,
    },
    /// Packets may take the path.
    Up {
        /// The peer.
        ike: IkeId,
        /// Its interfaces.
        pair: IfacePair,
        /// The path.
        path: PathIndex,
    },
    /// Packets may no longer take the path.
    Down {
        /// The peer.
        ike: IkeId,
        /// Its interfaces.
        pair: IfacePair,
        /// The path.
        path: PathIndex,
        /// Why not.
        why: DownReason,
    },
    /// The peer's interface of the IKE channel is known: what was bound to
    /// interface 0 is bound to this one.
    Resolved {
        /// The peer.
        ike: IkeId,
        /// Its interface.
        remote: IfaceId,
        /// The channel's path.
        path: PathIndex,
    },
    /// The path now leaves from another of our addresses, which has been validated.
    LocalMoved {
        /// The peer.
        ike: IkeId,
        /// Its interfaces.
        pair: IfacePair,
        /// Our address before.
        old: IpAddr,
        /// Our address now.
        new: IpAddr,
        /// The peer sees us by another address than this.
        behind_nat: bool,
    },
}

/// Where a (path, remote address) is in return routability and liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Validation {
    /// No challenge sent yet.
    Unvalidated,
    /// Challenged, not answered.
    Validating,
    /// Answered; packets may go there.
    Validated,
    /// Validated, but questioned: recent probes are unanswered.
    Suspect,
    /// Gave no answer.
    Failed,
}

impl Validation {
    /// The name it is shown by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unvalidated => "unvalidated",
            Self::Validating => "validating",
            Self::Validated => "validated",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
        }
    }
}

/// One path, for people to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// The path.
    pub path: PathIndex,
    /// The peer.
    pub ike: IkeId,
    /// Our access.
    pub access: AccessId,
    /// The interfaces.
    pub pair: IfacePair,
    /// The family.
    pub family: Family,
    /// Our address; `None` before there is one to try.
    pub local: Option<SocketAddr>,
    /// The peer's.
    pub remote: Option<SocketAddr>,
    /// A NAT lies before either end.
    pub nat: bool,
    /// The peer sees us by another address than `local`.
    pub local_nat: bool,
    /// Packets may take it.
    pub up: bool,
    /// Where it is in validation.
    pub validation: Validation,
    /// It has been validated, whatever has happened since.
    pub validated: bool,
    /// It carries the IKE channel.
    pub channel: bool,
    /// The SAs of its pair belong on it.
    pub home: bool,
    /// It is asked about for as long as it lives; what is said here of any other is
    /// as old as its validation.
    pub watched: bool,
    /// The pair whose path its index leads to, if not its own. Everything else
    /// here is the path's own: it is probed as before.
    pub carried_by: Option<IfacePair>,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// Recent probes without an answer, in parts per million.
    pub loss_ppm: u32,
    /// Octets of the largest outer packet.
    pub mtu: u16,
}

/// What the engine's next deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimerKind {
    /// Output is waiting to be taken; the time has already come.
    Drain,
    /// A challenge to an address not validated yet is sent again.
    Challenge,
    /// A probe's answer is overdue.
    Answer,
    /// Nothing has come back for the data sent: the path is questioned.
    Question,
    /// A probe of a path that is up or may come back.
    Probe,
    /// A NAT's mapping is kept.
    Keepalive,
    /// An address that was replaced is forgotten.
    Grace,
}

/// The arrivals as the data plane takes them: what does not come the way its
/// path sends is known, but shows nothing of that path and is credited to none.
pub fn credited<C: FromIterator<(Arrival, PathIndex)>>(
    arrivals: &BTreeMap<Arrival, PathIndex>,
    entries: &BTreeMap<PathIndex, Entry>,
) -> C {
    let credit = |(arrival, path): (&Arrival, &PathIndex)| {
        let entry = entries.get(path);
        let receives = entry.is_some_and(|entry| entry.receives(arrival));
        (*arrival, if receives { *path } else { super::NO_PATH })
    };
    arrivals.iter().map(credit).collect()
}
