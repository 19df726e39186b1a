//! What the agent shows: the JSON of the control socket, one schema each.
//!
//! Fields are only ever added; a change of meaning is a new schema number. No
//! key is in here, only fingerprints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Schema of [`StatusView`].
pub const STATUS_SCHEMA: &str = "mifsec.status/1";
/// Schema of [`PathsView`].
pub const PATH_SCHEMA: &str = "mifsec.path/1";
/// Schema of [`SasView`].
pub const SA_SCHEMA: &str = "mifsec.sa/1";
/// Schema of [`MovesView`].
pub const MOVE_SCHEMA: &str = "mifsec.move/1";
/// Schema of [`ChangeView`].
pub const CHANGE_SCHEMA: &str = "mifsec.change/1";
/// Schema of the lines of `monitor`.
pub const EVENT_SCHEMA: &str = "mifsec.event/1";

/// `mifsec status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusView {
    /// [`STATUS_SCHEMA`].
    pub schema: String,
    /// `[agent] name`.
    pub name: String,
    /// Of the agent.
    pub version: String,
    /// Milliseconds since the agent started.
    pub uptime_ms: u64,
    /// One entry for each configured peer and each subscriber.
    pub peers: Vec<PeerView>,
    /// The accesses as they are.
    pub accesses: Vec<AccessView>,
    /// Since the start.
    pub totals: Totals,
    /// Milliseconds since the last event; absent before the first.
    pub last_event_ms: Option<u64>,
    /// Packets dropped, by reason, eBPF and user space; reasons never seen are left out.
    pub drops: BTreeMap<String, u64>,
    /// Everything counted, by reason, zeros left out.
    pub counters: BTreeMap<String, u64>,
}

/// A peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerView {
    /// `[[peer]] name`.
    pub peer: String,
    /// The authenticated identity, else the configured one.
    pub remote_id: String,
    /// `established`, `connecting`, `waiting` for a packet, `down`, or `listening` for
    /// one that only accepts.
    pub state: String,
    /// Whether we started the IKE SA.
    pub initiator: bool,
    /// Whether it speaks IKEv2-MIF.
    pub mif: bool,
    /// How it follows changes of addresses: `mif`, `mobike`, or `plain` for not at
    /// all; empty while it is not established.
    #[serde(default)]
    pub tier: String,
    /// Ours (initiator) or the peer's (responder).
    pub leases: Vec<String>,
    /// IKE SPI of the initiator.
    pub spi_i: Option<String>,
    /// IKE SPI of the responder.
    pub spi_r: Option<String>,
    /// Child SAs.
    pub children: usize,
    /// Access that carries the IKE channel.
    pub channel: Option<String>,
    /// Why it is down, in one line.
    pub reason: Option<String>,
}

/// An access.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessView {
    /// Kernel name.
    pub interface: String,
    /// `up`, `drained`, `no-address`, `down` or `missing`.
    pub state: String,
    /// Usable outer addresses, newest first.
    pub addresses: Vec<String>,
    /// How arrivals are looked at: `xdp-native`, `xdp-generic`, `tc`, `off`.
    pub ingress: Option<String>,
}

/// Counted since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Totals {
    /// IKE SAs established.
    pub ike_created: u64,
    /// IKE SAs gone.
    pub ike_closed: u64,
    /// Child SAs installed.
    pub children_created: u64,
    /// Child SAs removed.
    pub children_removed: u64,
    /// Child SAs that took over from another one; neither created nor removed.
    #[serde(default)]
    pub child_rekeys: u64,
    /// IKE SAs that got new keys.
    #[serde(default)]
    pub ike_rekeys: u64,
    /// Path entries replaced by an address change.
    pub moves: u64,
}

/// `mifsec path`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PathsView {
    /// [`PATH_SCHEMA`].
    pub schema: String,
    /// By index.
    pub paths: Vec<PathView>,
}

/// A path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PathView {
    /// In the maps.
    pub index: u32,
    /// `[[peer]] name`.
    pub peer: String,
    /// The authenticated identity.
    pub remote_id: String,
    /// `mif`, `mobike` or `plain`.
    #[serde(default)]
    pub tier: String,
    /// Our interface.
    pub access: String,
    /// Our announced number for it.
    pub local_iface: u16,
    /// The peer's number.
    pub remote_iface: u16,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Our address and port.
    pub local: String,
    /// The peer's effective address and port.
    pub remote: String,
    /// A NAT sits on it.
    pub nat: bool,
    /// `up`, `down` or `validating`.
    pub state: String,
    /// Return routability was shown.
    pub validated: bool,
    /// Carries the IKE channel.
    pub channel: bool,
    /// Home of a bundle member.
    pub home: bool,
    /// The path that carries what is at home on it; absent while it does so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried_by: Option<SaPath>,
    /// Smoothed round trip time; absent before the first probe.
    pub rtt_us: Option<u64>,
    /// Of the probes.
    pub loss_ppm: Option<u64>,
    /// ESP packets sent, as eBPF counts.
    pub tx_packets: u64,
    /// Octets of them.
    pub tx_octets: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Octets of them.
    pub rx_octets: u64,
    /// Outer MTU.
    pub mtu: u16,
}

/// `mifsec sa`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SasView {
    /// [`SA_SCHEMA`].
    pub schema: String,
    /// In the order they were made.
    pub sas: Vec<SaView>,
}

/// A Child SA.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaView {
    /// `[[peer]] name`.
    pub peer: String,
    /// The authenticated identity.
    pub remote_id: String,
    /// Its IKE SA.
    pub ike: IkeSpis,
    /// `[[peer.child]] name`.
    pub child: String,
    /// Inbound SPI.
    pub spi_in: String,
    /// Outbound SPI.
    pub spi_out: String,
    /// Keyed fingerprint of the inbound key, 16 hex digits.
    pub key_in: String,
    /// Of the outbound key.
    pub key_out: String,
    /// Where it is homed.
    pub path: SaPath,
    /// Whether it is one of several with equal selectors.
    pub bundle: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// AEAD.
    pub algorithm: String,
    /// Packets opened.
    pub packets_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Inner octets opened.
    pub octets_in: u64,
    /// Inner octets sealed.
    pub octets_out: u64,
    /// Packets the replay window refused.
    pub replay_drops: u64,
    /// Milliseconds since it was installed.
    pub age_ms: u64,
    /// Its bundle member: the same through all rekeyings.
    #[serde(default)]
    pub member: u64,
    /// Rekeyings before it.
    #[serde(default)]
    pub generation: u32,
    /// Whether its bundle member sends on it.
    #[serde(default)]
    pub sends: bool,
    /// Inbound SPI of the SA that takes over from it.
    #[serde(default)]
    pub replaced_by: Option<String>,
    /// What is left until it is rekeyed by time, at the latest; absent for never.
    #[serde(default)]
    pub rekey_ms: Option<u64>,
    /// Packets of one direction after which it is rekeyed; absent without limit.
    #[serde(default)]
    pub rekey_packets: Option<u64>,
    /// Octets of one direction after which it is rekeyed; absent without limit.
    #[serde(default)]
    pub rekey_octets: Option<u64>,
}

/// The SPIs of an IKE SA, 16 hex digits each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IkeSpis {
    /// Initiator's.
    pub spi_i: String,
    /// Responder's.
    pub spi_r: String,
}

/// Where a Child SA is homed, or what carries a path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SaPath {
    /// In the maps; absent while no path of its pair exists.
    pub index: Option<u32>,
    /// Our interface.
    pub local: String,
    /// Our number for it.
    pub local_iface: u16,
    /// The peer's.
    pub remote_iface: u16,
}

/// `mifsec move` and `mifsec drain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesView {
    /// [`MOVE_SCHEMA`].
    pub schema: String,
    /// Nothing was moved, this is what would be.
    pub dry_run: bool,
    /// One for each peer that is concerned.
    pub moves: Vec<MovePlan>,
    /// What could not be moved off an access that is drained.
    #[serde(default)]
    pub stays: Vec<StayView>,
}

/// A peer that stays on an access that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StayView {
    /// The authenticated identity.
    pub peer: String,
    /// The access, or its address that was to be left.
    pub access: String,
    /// Why, in one line.
    pub reason: String,
}

/// What moves for one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovePlan {
    /// The authenticated identity.
    pub peer: String,
    /// The access that is carried.
    pub from: String,
    /// The access that carries it.
    pub to: String,
    /// Child SAs that ride along; none of them is touched.
    pub sas: usize,
    /// Path entries rewritten, one map write each.
    pub paths: usize,
    /// Requests the peer is told with.
    pub messages: usize,
    /// The IKE channel moves, too.
    pub channel: bool,
}

/// `mifsec add-interface` and `mifsec delete-interface`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeView {
    /// [`CHANGE_SCHEMA`].
    pub schema: String,
    /// `add` or `delete`.
    pub change: String,
    /// The authenticated identity.
    pub peer: String,
    /// `[[access]] interface`.
    pub access: String,
    /// Child SAs made or removed.
    pub sas: usize,
    /// Child SAs not made because equal selectors exist.
    #[serde(default)]
    pub skipped: usize,
    /// Inner addresses leased with it.
    #[serde(default)]
    pub leases: Vec<String>,
    /// From the request to the peer's answer, milliseconds.
    pub took_ms: u64,
}

/// One line of `monitor`: `event` names it, the rest depends on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventView {
    /// [`EVENT_SCHEMA`].
    pub schema: String,
    /// `ike-updown`, `ike-rekey`, `child-updown`, `child-rekey`, `path-up`, `path-down`,
    /// `mobility`, `interfaces`, `alternate`, `add-interface`, `delete-interface`, `dns`,
    /// `alert`.
    pub event: String,
    /// Milliseconds since the agent started.
    pub at_ms: u64,
    /// Everything else, by name.
    #[serde(flatten)]
    pub fields: BTreeMap<String, serde_json::Value>,
}
