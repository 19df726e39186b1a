//! A gateway that is dead: given up when all paths to it have been down for a
//! while although we have ways to it.
//!
//! IKE alone would need more than a minute of retransmissions to find out. The
//! paths know within a second that nothing comes back; what is waited for here is
//! a gateway that restarts or a network that hiccups. Without an access of our own
//! the time does not count: trying elsewhere needs one. Only the end that would
//! connect again gives up; a gateway keeps a subscriber that went into a tunnel as
//! long as IKE says.

use std::time::{Duration, Instant};

use crate::config::Start;
use crate::ids::IkeId;
use crate::ike::Command;
use crate::path::PathView;

use super::Agent;

/// How long all paths may be down.
const DARK: Duration = Duration::from_secs(15);

impl Agent {
    /// Notes which peers can be heard on no path.
    pub(super) fn note_dark(&mut self, views: &[PathView], now: Instant) {
        for (ike, peer) in &mut self.peers {
            let ours = peer.initiator
                && peer.mif
                && self
                    .config
                    .peers
                    .get(peer.config)
                    .is_some_and(|p| p.start != Start::Manual);
            if !ours || views.iter().any(|v| v.ike == *ike && v.up) {
                peer.dark_since = None;
            } else {
                peer.dark_since.get_or_insert(now);
            }
        }
    }

    /// When the next peer is given up.
    pub(super) fn dark_at(&self) -> Option<Instant> {
        let since = self.peers.values().filter_map(|p| p.dark_since).min()?;
        Some(since + DARK)
    }

    /// Gives up the peers that are dead.
    pub(super) fn dark_due(&mut self, now: Instant) {
        let due = |since: Option<Instant>| since.is_some_and(|since| since + DARK <= now);
        let dark: Vec<(IkeId, usize)> = self
            .peers
            .iter()
            .filter(|(_, p)| due(p.dark_since))
            .map(|(ike, p)| (*ike, p.config))
            .collect();
        for (ike, config) in dark {
            if self.ways(config).is_empty() {
                if let Some(peer) = self.peers.get_mut(&ike) {
                    peer.dark_since = Some(now);
                }
                continue;
            }
            tracing::warn!(ike = ike.0, "no path to the peer for {} s", DARK.as_secs());
            self.refuse("peer_given_up");
            self.ike.handle_command(Command::GiveUp { ike }, now);
        }
    }
}
