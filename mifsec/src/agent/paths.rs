//! News of the path engine, into the maps and to whom it concerns.

use std::net::SocketAddr;
use std::time::Instant;

use serde_json::json;

use crate::ebpf;
use crate::ids::PathIndex;
use crate::ike::Command;
use crate::path::{Entry, Event};

use super::Agent;

impl Agent {
    pub(super) fn path_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Entry { path, entry } => self.path_entry(path, entry, now),
            Event::Removed { path } => {
                self.entries.remove(&path);
                self.ebpf.remove_path(path);
                self.dataplane.reset_activity(path);
            }
            Event::ArrivalAdded { arrival, path } => {
                self.arrivals.insert(arrival, path);
                if let Err(error) = self.ebpf.set_arrival(&arrival, path) {
                    tracing::error!(%error, "arrival not in the map");
                }
            }
            Event::ArrivalRemoved { arrival } => {
                self.arrivals.remove(&arrival);
                self.ebpf.remove_arrival(&arrival);
            }
            Event::Validated {
                ike,
                pair,
                path,
                home,
            } => {
                tracing::debug!(ike = ike.0, ?pair, path = path.0, home, "path validated");
            }
            Event::Up { ike, pair, path } => {
                tracing::info!(ike = ike.0, ?pair, path = path.0, "path up");
                self.tell_path("path-up", path, None);
            }
            Event::Down {
                ike,
                pair,
                path,
                why,
            } => {
                tracing::info!(
                    ike = ike.0,
                    ?pair,
                    path = path.0,
                    why = why.name(),
                    "path down"
                );
                self.tell_path("path-down", path, Some(why.name()));
                // Either every way to the peer is dead, or the peer is.
                if !self.path.views().iter().any(|v| v.ike == ike && v.up) {
                    self.ike.handle_command(Command::CheckLiveness { ike }, now);
                }
            }
            Event::Resolved { ike, remote, path } => {
                if let Some(peer) = self.peers.get(&ike) {
                    let local = peer.channel.local_iface;
                    tracing::debug!(
                        ike = ike.0,
                        remote = remote.0,
                        path = path.0,
                        "IKE channel resolved"
                    );
                    self.ike
                        .handle_command(Command::ResolveChannel { ike, local, remote }, now);
                }
            }
            Event::LocalMoved {
                ike,
                pair,
                old,
                new,
                behind_nat,
            } => {
                self.local_moved(ike, pair, old, new, behind_nat, now);
            }
        }
        self.changed = true;
    }

    fn path_entry(&mut self, path: PathIndex, entry: Entry, now: Instant) {
        let before = self.entries.insert(path, entry);
        let moved = before.filter(|b| b.local != entry.local || b.remote != entry.remote);
        if self.sabotage.no_flip && before.is_some() {
            return;
        }
        let map = ebpf::path_entry(
            entry.local,
            entry.remote,
            Some(entry.next_hop),
            entry.ifindex,
            entry.mtu,
            entry.up,
            entry.layer3,
        );
        if let Err(error) = self.ebpf.set_path(path, &map) {
            tracing::error!(path = path.0, %error, "path not in the map");
        }
        self.neighbours_dirty |=
            before.is_none_or(|b| b.next_hop != entry.next_hop || b.ifindex != entry.ifindex);
        if let Some(before) = moved {
            if before.remote != entry.remote {
                self.channel_follows(path, entry.remote, now);
            }
            tracing::info!(path = path.0, from = %before.local, to = %entry.local, remote = %entry.remote, "path moved");
            self.totals.moves += 1;
            self.tell(
                "mobility",
                &[
                    ("path", json!(path.0)),
                    ("old_local", json!(before.local.to_string())),
                    ("new_local", json!(entry.local.to_string())),
                    ("old_remote", json!(before.remote.to_string())),
                    ("new_remote", json!(entry.remote.to_string())),
                ],
            );
        }
    }

    /// A peer behind a NAT that forgot its mapping, say: what we ask on the IKE
    /// channel must go where the channel's path now leads.
    fn channel_follows(&mut self, path: PathIndex, remote: SocketAddr, now: Instant) {
        let views = self.path.views();
        let Some(view) = views.iter().find(|v| v.path == path && v.channel) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&view.ike) else {
            return;
        };
        if peer.channel.remote != remote {
            peer.channel.remote = remote;
            let ike = view.ike;
            self.ike
                .handle_command(Command::ChannelRemote { ike, remote }, now);
        }
    }

    fn tell_path(&mut self, event: &str, path: PathIndex, why: Option<&str>) {
        let views = self.path.views();
        let Some(view) = views.iter().find(|v| v.path == path) else {
            return;
        };
        let address = |a: Option<SocketAddr>| a.map_or_else(String::new, |a| a.to_string());
        let peer = self
            .peers
            .get(&view.ike)
            .map(|p| self.config.peers[p.config].name.clone());
        let mut fields = vec![
            ("path", json!(path.0)),
            ("peer", json!(peer)),
            ("access", json!(self.accesses.name(view.pair.local))),
            ("local", json!(address(view.local))),
            ("remote", json!(address(view.remote))),
        ];
        if let Some(why) = why {
            fields.push(("why", json!(why)));
        }
        self.tell(event, &fields);
    }
}
