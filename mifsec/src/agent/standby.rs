//! Where else the IKE channel could run: the engine is told of every pair that
//! works, and says which of them answered what the channel did not. And who stands in
//! for whom, where that is configured.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ids::IkeId;
use crate::ike::{self, Command};
use crate::path::PathView;

use super::Agent;

impl Agent {
    /// Tells the engine of the paths that are up besides the channel's, in the order
    /// of the alternates of its interface.
    pub(super) fn ensure_standbys(&mut self, views: &[PathView], now: Instant) {
        let ikes: Vec<IkeId> = self.peers.keys().copied().collect();
        for ike in ikes {
            let pairs = self.standbys(ike, views);
            let Some(peer) = self.peers.get_mut(&ike).filter(|peer| peer.mif) else {
                continue;
            };
            if peer.standbys != pairs {
                peer.standbys.clone_from(&pairs);
                let command = Command::SetStandby { ike, pairs };
                self.ike.handle_command(command, now);
            }
        }
    }

    /// Tells a peer which of our interfaces stand in for which, if that is configured.
    pub(super) fn tell_alternates(&mut self, ike: IkeId, now: Instant) {
        let Some(peer) = self.peers.get(&ike).filter(|peer| peer.mif) else {
            return;
        };
        let config = self.config.peers.get(peer.config);
        let mut lists = BTreeMap::new();
        for (access, others) in config.iter().flat_map(|config| &config.alternates) {
            let list: Vec<_> = others
                .iter()
                .flat_map(|other| self.accesses.ifaces_of(*other))
                .collect();
            for iface in self.accesses.ifaces_of(*access) {
                lists.insert(iface, list.clone());
            }
        }
        if !lists.is_empty() {
            let command = Command::SetAlternates { ike, lists };
            self.ike.handle_command(command, now);
        }
    }

    fn standbys(&self, ike: IkeId, views: &[PathView]) -> Vec<ike::Channel> {
        let Some(peer) = self.peers.get(&ike) else {
            return Vec::new();
        };
        let order = self
            .ike
            .alternates(ike, ike::End::Local, peer.channel.local_iface);
        let mut pairs: Vec<_> = views
            .iter()
            .filter(|v| v.ike == ike && v.up && v.validated && !v.channel)
            .filter(|v| self.accesses.settings(v.pair.local).is_some_and(|a| a.ike))
            .filter(|v| !self.is_deleted(ike, v.pair.local))
            .filter_map(|v| {
                let place = order.iter().position(|iface| *iface == v.pair.local);
                let channel = ike::Channel {
                    local_iface: v.pair.local,
                    ifindex: self.accesses.iface(v.pair.local)?.ifindex,
                    local: v.local?,
                    remote: v.remote?,
                };
                Some(((place.unwrap_or(usize::MAX), v.path), channel))
            })
            .collect();
        pairs.sort_by_key(|(order, _)| *order);
        pairs.into_iter().map(|(_, channel)| channel).collect()
    }

    /// Another pair answered what the channel did not, however that path looks: one
    /// without data is not watched. The initiator moves there; a responder waits to be
    /// told.
    pub(super) fn channel_answered(&mut self, ike: IkeId, channel: ike::Channel, now: Instant) {
        let views = self.path.views();
        let Some(peer) = self.peers.get_mut(&ike).filter(|peer| peer.initiator) else {
            return;
        };
        tracing::info!(ike = ike.0, from = %peer.channel.local, to = %channel.local, "the IKE channel answers elsewhere");
        peer.channel = channel;
        let path = views
            .iter()
            .find(|v| {
                v.ike == ike && (v.local, v.remote) == (Some(channel.local), Some(channel.remote))
            })
            .map(|v| v.path);
        if let Some(path) = path {
            self.path.set_channel(ike, path);
        }
        self.ike
            .handle_command(Command::MoveChannel { ike, channel }, now);
        self.changed = true;
    }
}
