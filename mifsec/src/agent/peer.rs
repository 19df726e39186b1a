//! Established peers: what an IKE SA brings and takes along.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::Policy;
use crate::ids::{Arrival, IfaceId, IfacePair, IkeId, PathIndex};
use crate::ike::mif::{
    Features, IfaceState as Announced, InterfaceRecord, UpdateAddrs, UpdateFlags,
};
use crate::ike::{self, Command};
use crate::path::{self, IfaceState, LinkClass, PeerParams, RemoteAddr, RemoteIface, RemoteMove};

use super::Agent;
use super::add::Additions;
use super::anchors::Anchor;
use super::dns::Brought;
use super::mobike::Mobike;
use super::moves::Moves;
use super::probe::ProbeSas;

/// How long a refused Child SA is not asked for again.
const CHILD_RETRY: Duration = Duration::from_secs(5);

/// IKE SAs of one identity: a restart or two before the old ones are missed.
const IKE_SAS: usize = 4;

/// A Child SA to ask for: name and path, our and the peer's outer address.
pub(super) type Wanted = (IkeId, (String, IfacePair), IpAddr, IpAddr);

/// One IKE SA that stands.
pub(super) struct Peer {
    /// Index into `config.peers`.
    pub(super) config: usize,
    pub(super) remote_id: String,
    pub(super) initiator: bool,
    pub(super) mif: bool,
    /// Both sides allow equal selectors on several paths.
    pub(super) bundle: bool,
    pub(super) probe: Option<ProbeSas>,
    pub(super) anchor: Anchor,
    pub(super) leases: Vec<IpAddr>,
    pub(super) channel: ike::Channel,
    /// Weight the peer announced for each of its interfaces.
    pub(super) weights: BTreeMap<IfaceId, u8>,
    /// The last move we told it, so that several paths of one interface tell it once.
    pub(super) told: BTreeMap<IfaceId, (IpAddr, IpAddr)>,
    /// Child SAs asked for and not there yet, or not to be asked for before then.
    pub(super) pending: BTreeMap<(String, IfacePair), Option<Instant>>,
    /// When the engine last heard that data came in.
    pub(super) alive: Option<Instant>,
    /// Since when none of its paths is up although we have ways to it.
    pub(super) dark_since: Option<Instant>,
    /// Name servers and domains it told us.
    pub(super) names: Brought,
    /// What is kept of a peer without MIF.
    pub(super) mobike: Mobike,
    /// Interfaces added and deleted.
    pub(super) additions: Additions,
    /// What carries what, and why.
    pub(super) moves: Moves,
    /// Pairs the engine knows to work besides the channel's.
    pub(super) standbys: Vec<ike::Channel>,
}

impl Peer {
    /// What `pending` knows a Child SA by. Without MIF there is one of each name,
    /// on whatever pair the channel has by the time of the answer.
    fn pending_key(&self, child: &str, pair: IfacePair) -> (String, IfacePair) {
        let channel = IfacePair {
            local: IfaceId::CHANNEL,
            remote: IfaceId::CHANNEL,
        };
        (child.to_owned(), if self.mif { pair } else { channel })
    }

    /// A Child SA that was asked for is there.
    pub(super) fn arrived(&mut self, child: &str, pair: IfacePair) {
        self.pending.remove(&self.pending_key(child, pair));
    }
}

impl Agent {
    pub(super) fn ike_event(&mut self, event: ike::Event, now: Instant) {
        self.heard(&event);
        match event {
            ike::Event::Established {
                ike,
                peer,
                remote_id,
                initiator,
                leases,
                dns,
                domains,
                mif,
                mobike,
                peer_addresses,
                channel,
                nat_local,
                nat_remote: _,
            } => {
                let Some(config) = self.config.peers.iter().position(|p| p.name == peer) else {
                    return;
                };
                let established = Peer {
                    config,
                    remote_id,
                    initiator,
                    mif: mif.is_some(),
                    bundle: mif
                        .as_ref()
                        .is_some_and(|m| Features(m.features).has(Features::BUNDLE)),
                    additions: Additions::new(mif.as_ref().map_or(0, |m| m.features)),
                    probe: None,
                    anchor: match self.anchors.take() {
                        Some(anchor) => anchor,
                        None => {
                            tracing::error!(peer, "no anchor left; widen `anchor`");
                            self.ike.handle_command(Command::DeleteIke { ike }, now);
                            return;
                        }
                    },
                    leases,
                    channel,
                    weights: BTreeMap::new(),
                    told: BTreeMap::new(),
                    pending: BTreeMap::new(),
                    alive: None,
                    dark_since: None,
                    names: Brought {
                        servers: dns,
                        domains,
                    },
                    mobike: Mobike::new(mobike, peer_addresses),
                    moves: Moves::new(
                        mif.as_ref()
                            .map_or_else(Features::default, |m| Features(m.features)),
                    ),
                    standbys: Vec::new(),
                };
                self.established(ike, established, mif, nat_local, now);
                self.tell_alternates(ike, now);
            }
            ike::Event::PeerInterfaces { ike, ifaces } => {
                if let Some(peer) = self.peers.get_mut(&ike) {
                    peer.weights = ifaces.iter().map(|i| (i.id, i.weight)).collect();
                }
                self.announced_again(ike, &ifaces, now);
                let ifaces: Vec<_> = ifaces.iter().map(remote_iface).collect();
                if let Some(peer) = self.peers.get_mut(&ike) {
                    peer.moves.set_remotes(&ifaces);
                }
                self.path.set_remote(ike, ifaces, now);
                self.changed = true;
            }
            ike::Event::PeerMoved {
                ike,
                update,
                observed: _,
            } => self.peer_moved(ike, &update, now),
            ike::Event::Carried {
                ike,
                end,
                iface,
                by,
                dead,
            } => self.carried(ike, end, iface, by, dead, now),
            ike::Event::PeerAlternates { .. } => self.changed = true,
            ike::Event::ProbeKeysChanged { ike, probe } => {
                self.probe_keys_changed(ike, &probe, now);
            }
            ike::Event::ReauthDue { ike } => self.reauth(ike, now),
            ike::Event::ChannelMoved { ike, observed, nat } => {
                if !self.follow_channel(ike, observed, nat, now) {
                    self.channel_moved(ike, observed);
                }
            }
            ike::Event::ChannelConfirmed { ike, channel, nat } => {
                self.channel_confirmed(ike, channel, nat, now);
            }
            ike::Event::PeerAddresses { ike, addresses } => {
                self.peer_addresses(ike, addresses, now);
            }
            ike::Event::ChannelQuiet { ike, tries } => {
                tracing::debug!(ike = ike.0, tries, "no answer on the IKE channel");
                self.channel_quiet(ike, now);
            }
            ike::Event::ChannelAnswered { ike, channel } => {
                self.channel_answered(ike, channel, now);
            }
            ike::Event::Redirected {
                ike,
                peer,
                gateway,
                from,
            } => self.redirected(ike, &peer, &gateway, from, now),
            // Said already, and no failure.
            ike::Event::Failed {
                reason: ike::Failure::Redirected { .. },
                ..
            } => {}
            ike::Event::Failed {
                peer,
                ike: _,
                reason,
            } => {
                tracing::warn!(peer, %reason, "IKE SA failed");
                self.tell(
                    "alert",
                    &[("peer", json!(peer)), ("reason", json!(reason.to_string()))],
                );
                self.retry_failed(&peer, &reason, now);
            }
            ike::Event::Closed { ike, reason } => self.closed(ike, &reason, now),
            ike::Event::ChildFailed {
                ike,
                child,
                pair,
                reason,
            } => {
                tracing::warn!(ike = ike.0, child, ?pair, %reason, "Child SA failed");
                if let Some(peer) = self.peers.get_mut(&ike) {
                    let key = peer.pending_key(&child, pair);
                    peer.pending.insert(key, Some(now + CHILD_RETRY));
                }
                self.addition_failed(ike, &child, pair.local, &reason);
                self.changed = true;
                let fields = [
                    ("child", json!(child)),
                    ("reason", json!(reason.to_string())),
                ];
                self.tell_of(ike, "alert", &fields);
            }
            ike::Event::InterfaceAdded { .. }
            | ike::Event::AddRefused { .. }
            | ike::Event::InterfaceDeleted { .. }
            | ike::Event::DeleteRefused { .. } => self.interface_event(event, now),
            ike::Event::MoveRefused {
                ike,
                end,
                iface,
                reason,
            } => {
                tracing::warn!(ike = ike.0, iface = iface.0, %reason, "the peer refused an address change");
                if let Some(peer) = self.peers.get_mut(&ike)
                    && end == ike::End::Local
                {
                    peer.told.remove(&iface);
                }
                self.move_refused(ike, now);
                self.loan_refused(ike, end, iface, now);
                let fields = [
                    ("iface", json!(iface.0)),
                    ("access", json!(self.interface_name(end, iface))),
                    ("reason", json!(reason.to_string())),
                ];
                self.tell_of(ike, "alert", &fields);
            }
        }
    }

    fn established(
        &mut self,
        ike: IkeId,
        mut peer: Peer,
        mif: Option<ike::MifSession>,
        behind_nat: bool,
        now: Instant,
    ) {
        let name = self.config.peers[peer.config].name.clone();
        if let Some(session) = &mif {
            match ProbeSas::new(&session.probe, now) {
                Ok(probe) => {
                    self.probe_in(session.probe.spi_in, ike);
                    peer.probe = Some(probe);
                }
                Err(error) => tracing::error!(%error, "probe SA"),
            }
        }
        let local = match peer.channel.local_iface {
            IfaceId::CHANNEL => self
                .accesses
                .find(peer.channel.ifindex, peer.channel.local.ip())
                .unwrap_or(IfaceId::CHANNEL),
            known => known,
        };
        peer.channel.local_iface = local;
        let with_port = |address: std::net::SocketAddr| {
            std::net::SocketAddr::new(address.ip(), self.config.agent.port)
        };
        let params = PeerParams {
            initiator: peer.initiator,
            probes: peer.probe.is_some(),
            behind_nat,
            channel: path::Channel {
                local,
                local_addr: with_port(peer.channel.local),
                remote_addr: peer.channel.remote,
            },
        };
        tracing::info!(peer = name, remote_id = peer.remote_id, mif = mif.is_some(), leases = ?peer.leases, "IKE SA established");
        self.tell(
            "ike-updown",
            &[
                ("peer", json!(name)),
                ("remote_id", json!(peer.remote_id)),
                ("up", json!(true)),
            ],
        );
        self.totals.ike_created += 1;
        if peer.initiator {
            self.check_leases(peer.config, &peer.leases);
        }
        let initiator = peer.initiator;
        let same = |p: &Peer| p.config == peer.config && p.remote_id == peer.remote_id;
        // Numbers are given in order: the oldest come first.
        let older = self.peers.iter().filter(|(_, p)| same(p));
        let older: Vec<IkeId> = older.map(|(id, _)| *id).collect();
        self.peers.insert(ike, peer);
        let too_many = (older.len() + 1).saturating_sub(IKE_SAS);
        for oldest in older.into_iter().take(too_many) {
            tracing::warn!(peer = name, ike = oldest.0, "replaced by a newer IKE SA");
            self.refuse("ike_sa_replaced");
            self.ike
                .handle_command(Command::DeleteIke { ike: oldest }, now);
        }
        self.path.add_peer(ike, params, now);
        // What the operator deleted stays so; the engine has not announced it.
        let deleted = self.ike.deleted(ike);
        for iface in &deleted {
            self.path.forget(ike, path::End::Local, *iface, true, now);
        }
        let moved = self.told(ike).map(|told| told.moved.clone());
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.additions.deleted = deleted;
            peer.moves.set_wishes(moved.unwrap_or_default());
        }
        // Whether we are behind a NAT is known only now.
        self.announce(now);
        self.retry_established(&name, ike);
        self.reauth_established(ike, now);
        self.update_names();
        self.guard_dirty = true;
        self.routes_dirty |= initiator;
        self.changed = true;
    }

    fn closed(&mut self, ike: IkeId, reason: &ike::Failure, now: Instant) {
        let Some(peer) = self.peers.remove(&ike) else {
            return;
        };
        let name = self.config.peers[peer.config].name.clone();
        tracing::info!(peer = name, %reason, "IKE SA closed");
        self.tell(
            "ike-updown",
            &[
                ("peer", json!(name)),
                ("remote_id", json!(peer.remote_id)),
                ("up", json!(false)),
                ("reason", json!(reason.to_string())),
            ],
        );
        self.totals.ike_closed += 1;
        for spi in peer.probe.iter().flat_map(ProbeSas::spis_in) {
            self.ebpf.remove_sa_in(spi);
            self.probes.remove(&spi);
        }
        self.remove_children_of(ike, &peer);
        self.path.remove_peer(ike);
        self.anchors.give(peer.anchor);
        let initiator = peer.initiator;
        peer.additions.closed(reason);
        self.retry_closed(&name, ike, reason, now);
        self.update_names();
        self.guard_dirty = true;
        self.routes_dirty |= initiator;
        self.changed = true;
    }

    /// Paths move only in the scope of data; the channel has an event of its own.
    fn peer_moved(&mut self, ike: IkeId, update: &UpdateAddrs, now: Instant) {
        if update.flags.has(UpdateFlags::SELECT_PEER) || !update.flags.has(UpdateFlags::TUNNEL) {
            return;
        }
        let moved = RemoteMove {
            old_iface: update.old_iface,
            new_iface: update.new_iface,
            old: update.old.ip,
            new: RemoteAddr {
                ip: update.new.ip,
                port: update.new.port,
                behind_nat: update.new.behind_nat(),
            },
            old_is_dead: update.flags.has(UpdateFlags::OLD_IS_DEAD),
            channel: update.flags.has(UpdateFlags::IKE_CHANNEL),
        };
        tracing::info!(ike = ike.0, iface = moved.new_iface.0, old = %moved.old, new = %moved.new.ip, "the peer moves");
        self.path.remote_moved(ike, moved, now);
        self.changed = true;
    }

    /// The peer's messages now come from somewhere else.
    fn channel_moved(&mut self, ike: IkeId, observed: Arrival) {
        let Some(local) = self.accesses.find(observed.ifindex, observed.local.ip()) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        peer.channel = ike::Channel {
            local_iface: local,
            ifindex: observed.ifindex,
            local: observed.local,
            remote: observed.remote,
        };
        if let Some(path) = self.path_of(ike, &observed) {
            self.path.set_channel(ike, path);
        }
        self.changed = true;
    }

    /// The path of this peer that `observed` belongs to.
    fn path_of(&self, ike: IkeId, observed: &Arrival) -> Option<PathIndex> {
        self.arrivals.get(observed).copied().or_else(|| {
            let same = |v: &path::PathView| {
                v.ike == ike && v.local == Some(observed.local) && v.remote == Some(observed.remote)
            };
            self.path.views().iter().find(|v| same(v)).map(|v| v.path)
        })
    }

    /// A path of ours leaves from another address: the peer is told once for
    /// each interface, whatever the number of paths.
    pub(super) fn local_moved(
        &mut self,
        ike: IkeId,
        pair: IfacePair,
        old: IpAddr,
        new: IpAddr,
        behind_nat: bool,
        now: Instant,
    ) {
        if self.sabotage.no_update {
            return;
        }
        // What is at home there is elsewhere; the table says where it is now.
        if self.path.carrier(ike, path::End::Local, pair.local) != pair.local {
            return;
        }
        let Some(peer) = self.peers.get_mut(&ike) else {
            return;
        };
        if !peer.mif || peer.told.insert(pair.local, (old, new)) == Some((old, new)) {
            return;
        }
        let iface = self.accesses.iface(pair.local);
        let ifindex = iface.map_or(0, |i| i.ifindex);
        let old_is_dead = !iface.is_some_and(|i| i.addresses.contains(&old));
        let port = self.config.agent.port;
        let channel = (peer.channel.local_iface == pair.local && peer.channel.local.ip() == old)
            .then(|| ike::Channel {
                local_iface: pair.local,
                ifindex,
                local: std::net::SocketAddr::new(new, port),
                remote: peer.channel.remote,
            });
        if let Some(channel) = channel {
            peer.channel = channel;
        }
        tracing::info!(ike = ike.0, iface = pair.local.0, %old, %new, old_is_dead, "telling the peer of our move");
        self.ike.handle_command(
            Command::UpdateAddresses {
                ike,
                old_iface: pair.local,
                new_iface: pair.local,
                old,
                new,
                behind_nat,
                old_is_dead,
                grace: super::MOVE_GRACE,
                channel,
            },
            now,
        );
    }

    /// Keeps the IKE channel on a path that is up. The initiator decides; the
    /// responder only moves off an interface of its own that is gone.
    pub(super) fn ensure_channels(&mut self, views: &[path::PathView], now: Instant) {
        let ikes: Vec<IkeId> = self.peers.keys().copied().collect();
        for ike in ikes {
            let Some(peer) = self.peers.get(&ike) else {
                continue;
            };
            if !peer.mif {
                self.ensure_pair(ike, views, now);
                continue;
            }
            let local_gone = self
                .accesses
                .iface(peer.channel.local_iface)
                .is_none_or(|i| !i.addresses.contains(&peer.channel.local.ip()));
            let current = views.iter().find(|v| v.ike == ike && v.channel);
            let dead = peer.initiator && !current.is_some_and(|v| v.up);
            if local_gone || dead {
                self.move_channel(ike, views, now);
            }
        }
    }

    /// Repeated requests without answer: the path may be dead before it carried data.
    fn channel_quiet(&mut self, ike: IkeId, now: Instant) {
        let views = self.path.views();
        if self.peers.get(&ike).is_some_and(|p| p.initiator && p.mif) {
            self.move_channel(ike, &views, now);
        }
        self.pair_quiet(ike, now);
    }

    pub(super) fn move_channel(&mut self, ike: IkeId, views: &[path::PathView], now: Instant) {
        let Some(peer) = self.peers.get(&ike) else {
            return;
        };
        let current = peer.channel;
        let order = self
            .ike
            .alternates(ike, ike::End::Local, current.local_iface);
        let drained = self.accesses.drained();
        let best = views
            .iter()
            .filter(|v| v.ike == ike && v.up && v.validated)
            .filter(|v| v.local.is_some_and(|l| l != current.local))
            .filter(|v| self.accesses.settings(v.pair.local).is_some_and(|a| a.ike))
            .filter(|v| !self.is_deleted(ike, v.pair.local))
            .min_by_key(|v| {
                let priority = self
                    .accesses
                    .settings(v.pair.local)
                    .map_or(u8::MAX, |a| a.priority);
                let place = order.iter().position(|iface| *iface == v.pair.local);
                let other = v.pair.local != current.local_iface;
                let leave = drained.contains(&v.pair.local);
                (
                    leave,
                    other,
                    place.unwrap_or(usize::MAX),
                    priority,
                    v.rtt,
                    v.path,
                )
            });
        let Some((view, local, remote)) = best.and_then(|v| Some((v, v.local?, v.remote?))) else {
            return;
        };
        let channel = ike::Channel {
            local_iface: view.pair.local,
            ifindex: self
                .accesses
                .iface(view.pair.local)
                .map_or(0, |i| i.ifindex),
            local,
            remote,
        };
        tracing::info!(ike = ike.0, from = %current.local, to = %local, "moving the IKE channel");
        self.path.set_channel(ike, view.path);
        if let Some(peer) = self.peers.get_mut(&ike) {
            peer.channel = channel;
        }
        self.ike
            .handle_command(Command::MoveChannel { ike, channel }, now);
        self.changed = true;
    }

    /// Refused Child SAs that may be asked for again.
    pub(super) fn refused_children_due(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            let before = peer.pending.len();
            peer.pending
                .retain(|_, until| until.is_none_or(|at| at > now));
            self.changed |= peer.pending.len() != before;
        }
    }

    /// When the next may.
    pub(super) fn refused_until(&self) -> Option<Instant> {
        let pending = self.peers.values().flat_map(|p| p.pending.values());
        pending.flatten().min().copied()
    }

    /// Children of a peer without MIF that are not there: the first one comes with
    /// IKE_AUTH, all have the channel's path.
    fn missing_children<'a>(
        &'a self,
        ike: IkeId,
        peer: &'a Peer,
        views: &[path::PathView],
        now: Instant,
    ) -> impl Iterator<Item = Wanted> + 'a {
        let mine = |v: &&path::PathView| v.ike == ike && v.channel && v.up;
        let view = views.iter().find(mine);
        let at = view.and_then(|v| Some((v.pair, v.local?.ip(), v.remote?.ip())));
        let children = &self.config.peers[peer.config].children;
        let there = move |name: &str| {
            let mut mine = self.children.values().filter(|c| c.ike == ike);
            mine.any(|c| c.name == name && !c.retired)
        };
        at.into_iter().flat_map(move |(pair, local, remote)| {
            let missing = children.iter().filter(move |c| !there(&c.name));
            let missing = missing.filter(|c| c.policy == Policy::Protect);
            missing.filter_map(move |child| {
                let waits = peer
                    .pending
                    .get(&peer.pending_key(&child.name, pair))
                    .is_some_and(|until| until.is_none_or(|until| now < until));
                (!waits).then(|| (ike, (child.name.clone(), pair), local, remote))
            })
        })
    }

    /// The initiator asks for a Child SA on every validated home pair that has none.
    pub(super) fn ensure_members(&mut self, views: &[path::PathView], now: Instant) {
        let mut wanted = Vec::new();
        for (ike, peer) in &self.peers {
            if !peer.initiator {
                continue;
            }
            if !peer.mif {
                wanted.extend(self.missing_children(*ike, peer, views, now));
                continue;
            }
            let have: BTreeSet<(&str, IfacePair)> = self
                .children
                .values()
                .filter(|c| c.ike == *ike && !c.retired)
                .map(|c| (c.name.as_str(), c.pair))
                .collect();
            for view in views
                .iter()
                .filter(|v| v.ike == *ike && v.home && v.up && v.validated)
            {
                let (Some(local), Some(remote)) = (view.local, view.remote) else {
                    continue;
                };
                // Until the peer's table is known the channel's pair has no name.
                if view.pair.remote == IfaceId::CHANNEL || self.is_deleted(*ike, view.pair.local) {
                    continue;
                }
                for child in self.config.peers[peer.config].protected() {
                    if !child.accesses.contains(&usize::from(view.access.0))
                        || !self.wants_member(*ike, peer, child, view)
                    {
                        continue;
                    }
                    let unresolved = IfacePair {
                        remote: IfaceId::CHANNEL,
                        ..view.pair
                    };
                    if have.contains(&(&child.name, view.pair))
                        || have.contains(&(&child.name, unresolved))
                    {
                        continue;
                    }
                    let key = (child.name.clone(), view.pair);
                    let waits = match peer.pending.get(&key) {
                        Some(None) => true,
                        Some(Some(until)) => now < *until,
                        None => false,
                    };
                    if !waits {
                        wanted.push((*ike, key, local.ip(), remote.ip()));
                    }
                }
            }
        }
        for (ike, (child, pair), local, remote) in self.derive_members(wanted, now) {
            tracing::debug!(ike = ike.0, child, ?pair, "asking for a Child SA");
            if let Some(peer) = self.peers.get_mut(&ike) {
                peer.pending.insert(peer.pending_key(&child, pair), None);
            }
            let command = self.create_child(ike, child, pair, (local, remote));
            self.ike.handle_command(command, now);
        }
    }
}

fn remote_iface(record: &InterfaceRecord) -> RemoteIface {
    RemoteIface {
        id: record.id,
        state: match record.state {
            Announced::UP => IfaceState::Up,
            Announced::BACKUP => IfaceState::Backup,
            Announced::NO_ADDRESS => IfaceState::NoAddress,
            _ => IfaceState::Down,
        },
        class: LinkClass(record.class.0),
        priority: record.priority,
        weight: record.weight,
        mtu: record.mtu,
        addresses: record
            .addresses
            .iter()
            .map(|a| RemoteAddr {
                ip: a.ip,
                port: a.port,
                behind_nat: a.behind_nat(),
            })
            .collect(),
    }
}
