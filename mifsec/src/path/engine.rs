//! The tables, and who is told what.

use std::collections::BTreeMap;
use std::time::Instant;

use super::types::{
    Activity, Config, Event, LocalIface, PathView, PeerParams, RemoteIface, RemoteMove, TimerKind,
    Transmit,
};
use crate::crypto::Entropy;
use crate::ids::{Arrival, IkeId, PathIndex};

/// All paths to all peers.
pub struct Engine {}

impl Engine {
    /// An engine without interfaces and peers.
    #[must_use]
    pub fn new(config: Config, entropy: Box<dyn Entropy>) -> Self {
        let _ = (config, entropy);
        Self {}
    }
    /// Replaces what is known of one of our interfaces.
    pub fn set_local(&mut self, iface: LocalIface, now: Instant) {
        let _ = (iface, now);
    }
    /// A new IKE SA; its channel's path is validated at once.
    pub fn add_peer(&mut self, ike: IkeId, params: PeerParams, now: Instant) {
        let _ = (ike, params, now);
    }
    /// Replaces what is known of a peer's interfaces (MIF_INTERFACES).
    pub fn set_remote(&mut self, ike: IkeId, ifaces: Vec<RemoteIface>, now: Instant) {
        let _ = (ike, ifaces, now);
    }
    /// The peer says that paths of one of its interfaces move (MIF_UPDATE_ADDRS).
    pub fn remote_moved(&mut self, ike: IkeId, moved: RemoteMove, now: Instant) {
        let _ = (ike, moved, now);
    }
    /// The IKE channel now runs on this path.
    pub fn set_channel(&mut self, ike: IkeId, path: PathIndex) {
        let _ = (ike, path);
    }
    /// Forgets a peer and removes its paths.
    pub fn remove_peer(&mut self, ike: IkeId) {
        let _ = ike;
    }
    /// A packet opened in a peer's probe SA: its sequence number and plaintext.
    pub fn handle_probe(
        &mut self,
        ike: IkeId,
        arrival: Arrival,
        sequence: u64,
        payload: &[u8],
        now: Instant,
    ) {
        let _ = (ike, arrival, sequence, payload, now);
    }
    /// Data opened on an SA of this path from an address that is not known.
    pub fn handle_new_source(&mut self, path: PathIndex, arrival: Arrival, now: Instant) {
        let _ = (path, arrival, now);
    }
    /// What has passed on a path; to be told at least every 10 ms while there
    /// is traffic, and not needed without.
    pub fn handle_activity(&mut self, path: PathIndex, activity: Activity, now: Instant) {
        let _ = (path, activity, now);
    }
    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }
    /// When to call [`handle_timeout`](Self::handle_timeout) next, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimerKind)> {
        None
    }
    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }
    /// The next piece of news.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    /// All paths, by peer and pair.
    #[must_use]
    pub fn views(&self) -> Vec<PathView> {
        Vec::new()
    }
    /// What was refused, by reason.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}
