//! Child SAs, the bundles they form, and the snapshot the data plane gets.
//!
//! The snapshot is built whole from what is true now: Child SAs, paths, accesses.
//! Nothing in it is patched, so nothing in it can be stale.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mifsec_common::{NO_PATH, SaOut, steering};
use serde_json::json;

use crate::config::{Config, Policy, Rekey};
use crate::crypto::AeadAlgorithm;
use crate::dataplane::{Bundle, Inbound, Member, Selector, Snapshot};
use crate::esp::{self, InboundSa, OutboundSa, SaParams};
use crate::ids::{AccessId, ChildId, Family, IfaceId, IfacePair, IkeId, Spi};
use crate::ike::selector::TrafficSelector;
use crate::ike::{self, ChildSa, SaRequest};
use crate::path::{self, PathView};

use super::Agent;
use super::anchors::Anchor;
use super::lifetime::Lifetime;
use super::peer::Peer;
use super::place::{Place, home, of_peer};
use super::spd::{self, Entry};

/// A responder sends at the latest this long after it installed an SA.
const HOLD: Duration = Duration::from_secs(1);

/// One Child SA.
pub(super) struct Child {
    pub(super) ike: IkeId,
    pub(super) name: String,
    pub(super) pair: IfacePair,
    pub(super) bundle: bool,
    pub(super) outbound: Arc<OutboundSa>,
    pub(super) inbound: Arc<InboundSa>,
    pub(super) local: Vec<Selector>,
    pub(super) remote: Vec<Selector>,
    pub(super) key_in: [u8; 8],
    pub(super) key_out: [u8; 8],
    pub(super) algorithm: AeadAlgorithm,
    pub(super) esn: bool,
    pub(super) installed: Instant,
    /// Outbound waits until then for the first packet.
    pub(super) held_until: Option<Instant>,
    /// Which bundle member it is: the first Child SA of a line of rekeyings.
    pub(super) member: ChildId,
    /// Rekeyings before it.
    pub(super) generation: u32,
    /// The one before it.
    pub(super) replaces: Option<ChildId>,
    /// Whether its bundle member sends on it; one of each member does.
    pub(super) sends: bool,
    /// Lost against another new one, and never sends.
    pub(super) redundant: bool,
    /// Both ends have deleted it; it receives what is on its way.
    pub(super) retired: bool,
    pub(super) lifetime: Lifetime,
    /// What `SA_OUT` holds for each anchor family.
    written: Option<SaOut>,
}

impl Child {
    pub(super) fn held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }
}

impl Agent {
    pub(super) fn sa_request(&mut self, request: SaRequest, now: Instant) {
        match request {
            SaRequest::Larval { ike: _, spi } => {
                self.larval.insert(spi);
                self.sa_in(spi, true);
            }
            SaRequest::LarvalGone { spi } => {
                self.larval.remove(&spi);
                self.ebpf.remove_sa_in(spi);
            }
            SaRequest::Install(sa) => self.install(*sa, now),
            SaRequest::Rebind { child, pair } => {
                let ike = self.children.get(&child).map(|c| c.ike);
                let only = ike.and_then(|ike| self.only_path(ike));
                let pair = only.map_or(pair, |view| view.pair);
                if let Some(child) = self.children.get_mut(&child) {
                    tracing::debug!(spi = %child.inbound.spi(), ?pair, "Child SA bound to another path");
                    child.pair = pair;
                }
            }
            SaRequest::Retire { child } => self.retire(child),
            SaRequest::Remove { child } => self.remove_child(child),
        }
        self.changed = true;
    }

    fn sa_in(&mut self, spi: Spi, larval: bool) {
        if let Err(error) = self.ebpf.set_sa_in(spi, larval) {
            tracing::error!(%spi, %error, "inbound SA not in the map");
        }
    }

    pub(super) fn install(&mut self, sa: ChildSa, now: Instant) {
        // Its peer was refused or has gone in the same turn: nobody would remove it.
        if !self.peers.contains_key(&sa.ike) {
            return self.not_installed(&sa);
        }
        let params = |spi, keymat| SaParams {
            spi,
            algorithm: sa.algorithm,
            keymat,
            esn: sa.esn,
            replay_window: sa.replay_window,
        };
        let made = OutboundSa::new(&params(sa.spi_out, &sa.keymat_out))
            .and_then(|out| Ok((out, InboundSa::new(&params(sa.spi_in, &sa.keymat_in))?)));
        let (outbound, inbound) = match made {
            Ok(both) => both,
            Err(error) => {
                tracing::error!(%error, "Child SA cannot be installed");
                return self.not_installed(&sa);
            }
        };
        self.larval.remove(&sa.spi_in);
        self.sa_in(sa.spi_in, false);
        let line = self.line_of(&sa);
        if let Some(peer) = self.peers.get_mut(&sa.ike) {
            peer.arrived(&sa.name, sa.pair);
            let name = &self.config.peers[peer.config].name;
            tracing::info!(peer = name, child = sa.name, spi_in = %sa.spi_in, spi_out = %sa.spi_out, pair = ?sa.pair, generation = line.generation, "Child SA");
            let mut fields = vec![
                ("peer", json!(name)),
                ("child", json!(sa.name)),
                ("spi_in", json!(sa.spi_in.to_string())),
                ("spi_out", json!(sa.spi_out.to_string())),
            ];
            if let Some(before) = line.before {
                fields.push(("replaces", json!(before.to_string())));
                fields.push(("generation", json!(line.generation)));
                self.tell("child-rekey", &fields);
            } else if !sa.redundant {
                fields.push(("up", json!(true)));
                self.tell("child-updown", &fields);
            }
        }
        // What both ends made at once and one deletes again is neither.
        if line.before.is_some() {
            self.totals.child_rekeys += u64::from(!sa.redundant);
        } else {
            self.totals.children_created += u64::from(!sa.redundant);
        }
        let rekey = self
            .peers
            .get(&sa.ike)
            .map(|p| self.config.peers[p.config].rekey);
        let lifetime = Lifetime::new(
            rekey.as_ref().unwrap_or(&Rekey::NEVER),
            sa.algorithm,
            sa.esn,
            &mut self.entropy,
            now,
        );
        let pair = self.only_path(sa.ike).map_or(sa.pair, |view| view.pair);
        self.homed(sa.ike, pair, now);
        self.children.insert(
            sa.child,
            Child {
                ike: sa.ike,
                pair,
                bundle: sa.bundle,
                outbound: Arc::new(outbound),
                inbound: Arc::new(inbound),
                local: sa.ts_local.iter().map(selector).collect(),
                remote: sa.ts_remote.iter().map(selector).collect(),
                key_in: esp::fingerprint(&sa.keymat_in),
                key_out: esp::fingerprint(&sa.keymat_out),
                algorithm: sa.algorithm,
                esn: sa.esn,
                installed: now,
                held_until: sa.hold_outbound.then(|| now + HOLD),
                member: line.member,
                generation: line.generation,
                replaces: sa.replaces,
                sends: false,
                redundant: sa.redundant,
                retired: false,
                lifetime,
                written: None,
                name: sa.name,
            },
        );
        if !sa.redundant && (line.before.is_none() || !sa.hold_outbound) {
            self.send_on(sa.child);
        }
    }

    /// What was prepared for it goes: its removal will find nothing.
    fn not_installed(&mut self, sa: &ChildSa) {
        self.larval.remove(&sa.spi_in);
        self.ebpf.remove_sa_in(sa.spi_in);
    }

    /// A valid packet came in on a held SA: the peer has it too.
    pub(super) fn first_packet(&mut self, spi: Spi) {
        let held = |c: &Child| c.inbound.spi() == spi && c.held_until.is_some();
        let found = self.children.iter().find(|(_, c)| held(c));
        if let Some(id) = found.map(|(id, _)| *id) {
            self.release(id);
        }
    }

    /// Lets go of what was held long enough.
    pub(super) fn release_held(&mut self, now: Instant) {
        let due = |c: &Child| c.held_until.is_some_and(|until| until <= now);
        let due: Vec<ChildId> = self
            .children
            .iter()
            .filter(|(_, c)| due(c))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.release(id);
        }
    }

    /// When the next one is let go.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.children.values().filter_map(|c| c.held_until).min()
    }

    pub(super) fn remove_children_of(&mut self, ike: IkeId, peer: &Peer) {
        let gone: Vec<ChildId> = self
            .children
            .iter()
            .filter(|(_, c)| c.ike == ike)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(child) = self.children.remove(&id) {
                let last = !self.children.values().any(|c| c.member == child.member);
                self.unmap(&child, peer.anchor);
                if last && !child.redundant && !child.retired {
                    self.child_removed(&child, peer.config);
                }
            }
        }
    }

    /// Takes an SA out of the maps.
    pub(super) fn unmap(&mut self, child: &Child, anchor: Anchor) {
        self.ebpf.remove_sa_in(child.inbound.spi());
        for address in [IpAddr::V4(anchor.v4), IpAddr::V6(anchor.v6)] {
            self.ebpf.remove_sa_out(address, child.outbound.spi());
        }
    }

    /// A bundle member is gone, not just keys of it.
    pub(super) fn child_removed(&mut self, child: &Child, config: usize) {
        self.totals.children_removed += 1;
        let fields = [
            ("peer", json!(self.config.peers[config].name)),
            ("child", json!(child.name)),
            ("spi_in", json!(child.inbound.spi().to_string())),
            ("spi_out", json!(child.outbound.spi().to_string())),
            ("up", json!(false)),
        ];
        self.tell("child-updown", &fields);
    }

    /// Writes `SA_OUT` where it differs and hands the data plane a new snapshot.
    pub(super) fn publish(&mut self, views: &[PathView], now: Instant) {
        let mut orders: BTreeMap<(IkeId, IfaceId), Vec<IfaceId>> = BTreeMap::new();
        for child in self.children.values_mut() {
            let Some(peer) = self.peers.get(&child.ike) else {
                continue;
            };
            let views = of_peer(views, child.ike);
            let order = orders
                .entry((child.ike, child.pair.local))
                .or_insert_with_key(|(ike, iface)| {
                    self.ike.alternates(*ike, ike::End::Local, *iface)
                });
            let at = (child.ike, child.pair);
            let deleted = &peer.additions.deleted;
            let sa = sa_out(views, at, order, deleted, |view| {
                may_use(&self.config, peer.config, &child.name, view.access)
            });
            if child.written == Some(sa) {
                continue;
            }
            // What is not there is written again with the next change.
            child.written = Some(sa);
            for address in [IpAddr::V4(peer.anchor.v4), IpAddr::V6(peer.anchor.v6)] {
                if let Err(error) = self.ebpf.set_sa_out(address, child.outbound.spi(), sa) {
                    tracing::error!(%error, "outbound SA not in the map");
                    child.written = None;
                }
            }
        }
        let (snapshot, whole) = self.snapshot(views, now);
        let more = whole.saturating_sub(self.whole);
        *self.refused.entry("bundle_not_split").or_default() += more;
        self.whole = whole;
        self.spread_queues(&snapshot);
        let generation = self.dataplane.install(snapshot);
        tracing::trace!(generation, "snapshot");
    }

    /// One worker for each outbound SA: a host's flows go to the queue of their
    /// member, a gateway's to that of their subscriber.
    fn spread_queues(&mut self, snapshot: &Snapshot) {
        let by_destination = self.config.peers.iter().all(|p| p.remote.is_empty());
        let mut table = [0; steering::BUCKETS];
        let first = snapshot
            .bundles
            .iter()
            .find(|b| b.trap.is_none() && !b.discard);
        if let (Some(bundle), false) = (first, by_destination) {
            let queues = u8::try_from(self.queues).unwrap_or(u8::MAX).max(1);
            for (queue, member) in table.iter_mut().zip(bundle.table) {
                *queue = if member == steering::NO_MEMBER {
                    0
                } else {
                    member % queues
                };
            }
        }
        if self.queue_table == Some(table) {
            return;
        }
        match self.ebpf.set_queues(self.queues, by_destination, &table) {
            Ok(()) => self.queue_table = Some(table),
            Err(error) => tracing::warn!(%error, "queue steering"),
        }
    }

    /// And how many bundles are not split since their peer has too many.
    pub(super) fn snapshot(&self, views: &[PathView], now: Instant) -> (Snapshot, u64) {
        type Key<'a> = (usize, usize, Reverse<IkeId>, &'a str);
        let mut bundles: BTreeMap<Key<'_>, Vec<&Child>> = BTreeMap::new();
        for child in self.children.values().filter(|c| c.sends) {
            let Some(peer) = self.peers.get(&child.ike) else {
                continue;
            };
            let order = self.config.peers[peer.config]
                .children
                .iter()
                .position(|c| c.name == child.name)
                .unwrap_or(usize::MAX);
            bundles
                // One that takes over from another IKE SA comes before it.
                .entry((peer.config, order, Reverse(child.ike), &child.name))
                .or_default()
                .push(child);
        }
        // The order of members is that of their first Child SAs: rekeying moves no flow.
        for children in bundles.values_mut() {
            children.sort_by_key(|c| c.member);
        }
        let mut snapshot = Snapshot {
            probes: self.probes.keys().copied().collect(),
            larval: self.larval.iter().copied().collect(),
            arrivals: path::credited(&self.arrivals, &self.entries),
            accesses: self.accesses.indexes().into_iter().collect(),
            ..Snapshot::default()
        };
        let entries = spd::entries(&self.config);
        let mut ranked = discards(&entries);
        let mut parts = spd::Parts::default();
        for ((config, order, Reverse(ike), _), children) in bundles {
            let Some(peer) = self.peers.get(&ike) else {
                continue;
            };
            let settings = self.config.peers[config].children.get(order);
            let said = settings.map_or(0, |c| c.order);
            let mut rest: Vec<&Child> = children;
            // Children of one name whose selectors were narrowed apart are not one bundle.
            while let Some(first) = rest.first().copied() {
                let equal = |c: &&Child| c.local == first.local && c.remote == first.remote;
                let (same, other): (Vec<&Child>, Vec<&Child>) = rest.into_iter().partition(equal);
                rest = other;
                let bundle = self.bundle(peer, &same, views, now);
                let ready = bundle.members.iter().any(|m| m.usable && !m.held);
                for part in parts.split(ike, bundle) {
                    let rank = spd::rank(&entries, (config, order), said, &part);
                    ranked.push(((rank, config, order, !ready), part));
                }
            }
        }
        ranked.extend(self.traps(&entries));
        ranked.sort_by_key(|(rank, _)| *rank);
        snapshot.bundles = ranked.into_iter().map(|(_, bundle)| bundle).collect();
        for child in self.children.values() {
            let path = home(views, child.ike, child.pair)
                .current()
                .map_or(crate::path::NO_PATH, |place| place.index());
            snapshot.inbound.insert(
                child.inbound.spi(),
                Inbound {
                    sa: Arc::clone(&child.inbound),
                    ts_local: child.local.clone(),
                    ts_remote: child.remote.clone(),
                    path,
                    notify_first: child.held(now),
                },
            );
        }
        (snapshot, parts.whole)
    }

    fn bundle(&self, peer: &Peer, children: &[&Child], views: &[PathView], now: Instant) -> Bundle {
        let mut members = Vec::new();
        let placed: Vec<(&Child, Place<'_>)> = children
            .iter()
            .filter_map(|c| Some((*c, home(views, c.ike, c.pair).current()?)))
            .collect();
        for (child, place) in &placed {
            // A pair that is only a candidate stands in for a home on one of its
            // interfaces, not beside it: else that access would count twice.
            let own = place.path;
            let replaced = !own.home
                && placed.iter().any(|(_, other)| {
                    other.is_up()
                        && other.path.home
                        && (other.path.pair.local == own.pair.local
                            || other.path.pair.remote == own.pair.remote)
                });
            let path = place.leads_to.unwrap_or(own);
            let anchor = peer.anchor.like(match path.family {
                Family::V4 => IpAddr::V4(peer.anchor.v4),
                Family::V6 => IpAddr::V6(peer.anchor.v6),
            });
            let held = child.held(now);
            members.push(Member {
                sa: Arc::clone(&child.outbound),
                anchor: SocketAddr::new(anchor, self.config.agent.port),
                access: path.access,
                path: place.index(),
                mtu: path.mtu,
                usable: (place.is_up() || self.diverted(peer, child, views))
                    && !replaced
                    && may_use(&self.config, peer.config, &child.name, path.access),
                weight: self.weight(peer, child.pair),
                held,
            });
        }
        let table: Vec<steering::Member> = members
            .iter()
            .map(|m| steering::Member {
                weight: m.weight,
                // A flow begins on an SA that may send; it waits only if none may.
                usable: m.usable && !m.held,
            })
            .collect();
        Bundle {
            local: children
                .first()
                .map(|c| c.local.clone())
                .unwrap_or_default(),
            remote: children
                .first()
                .map(|c| c.remote.clone())
                .unwrap_or_default(),
            table: steering::table(&table),
            trap: None,
            discard: false,
            members,
        }
    }

    /// Whether a Child SA alone, whose home is down, has another path in `SA_OUT`.
    fn diverted(&self, peer: &Peer, child: &Child, views: &[PathView]) -> bool {
        let deleted = &peer.additions.deleted;
        let mut others = of_peer(views, child.ike).iter();
        !child.bundle
            && others.any(|v| {
                v.up && v.validated
                    && !deleted.contains(&v.pair.local)
                    && may_use(&self.config, peer.config, &child.name, v.access)
            })
    }

    /// Our weight of our interface times the peer's of its own: whichever end has
    /// the choice of accesses, both spread alike.
    fn weight(&self, peer: &Peer, pair: IfacePair) -> u32 {
        let local = self.accesses.settings(pair.local).map_or(1, |a| a.weight);
        let remote = peer.weights.get(&pair.remote).copied().unwrap_or(1).max(1);
        u32::from(local) * u32::from(remote)
    }
}

/// What is dropped wherever it comes from, in its place.
fn discards(entries: &[Entry]) -> Vec<(spd::Place, Bundle)> {
    let discarded = entries.iter().filter(|e| e.policy == Policy::Discard);
    discarded
        .map(|entry| {
            let (local, remote) = entry.selectors();
            let bundle = Bundle {
                local: vec![local],
                remote: vec![remote],
                members: Vec::new(),
                table: [steering::NO_MEMBER; steering::BUCKETS],
                trap: None,
                discard: true,
            };
            let rank = spd::rank(entries, (entry.peer, entry.child), entry.order, &bundle);
            ((rank, entry.peer, entry.child, false), bundle)
        })
        .collect()
}

/// The paths of an outbound SA: homes, and three others, those of other interfaces
/// first and in the order of `alternates`; none that `may_use` refuses. An interface
/// that was `deleted` is no alternate; what is at home there stays until the peer has
/// moved it or removed it.
fn sa_out(
    views: &[PathView],
    (ike, pair): (IkeId, IfacePair),
    alternates: &[IfaceId],
    deleted: &BTreeSet<IfaceId>,
    may_use: impl Fn(&PathView) -> bool,
) -> SaOut {
    let home = home(views, ike, pair);
    let index = |place: Option<Place<'_>>| {
        let place = place.filter(|p| may_use(p.leads_to.unwrap_or(p.path)));
        place.map_or(NO_PATH, |place| place.index().0)
    };
    let (home_v4, home_v6) = (index(home.v4), index(home.v6));
    let mut others: Vec<&PathView> = views
        .iter()
        .filter(|v| v.validated && !deleted.contains(&v.pair.local) && may_use(v))
        .filter(|v| v.path.0 != home_v4 && v.path.0 != home_v6)
        .collect();
    let place = |iface: &IfaceId| alternates.iter().position(|other| other == iface);
    others.sort_by_key(|v| {
        let place = place(&v.pair.local).unwrap_or(usize::MAX);
        (v.pair.local == pair.local, place, !v.home, v.path)
    });
    // Packets keep the family of their home: each of its families in turn.
    let (mut of_v4, mut of_v6) = (0, 0);
    let mut turns = Vec::with_capacity(others.len());
    for view in others {
        let (home, turn) = match view.family {
            Family::V4 => (home.v4, &mut of_v4),
            Family::V6 => (home.v6, &mut of_v6),
        };
        *turn += 1;
        turns.push((home.is_none(), *turn, view.family == Family::V4, view));
    }
    turns.sort_by_key(|(none, turn, v4, _)| (*none, *turn, *v4));
    let mut others: Vec<&PathView> = turns.into_iter().map(|(.., view)| view).collect();
    // Packets look for one that is up, so what goes up, down or onto a carrier writes
    // nothing here, unless neither home nor any of the first three is up.
    let is_up = |place: Option<Place<'_>>| place.is_some_and(|p| p.is_up());
    let up = |v: &&PathView| v.up && v.carried_by.is_none();
    if !is_up(home.current()) && !others.iter().take(3).any(up) {
        others.sort_by_key(|v| !up(v));
    }
    let mut alt = [NO_PATH; 3];
    for (slot, view) in alt.iter_mut().zip(others) {
        *slot = view.path.0;
    }
    SaOut {
        home_v4,
        home_v6,
        alt,
        ..SaOut::default()
    }
}

/// Whether a child's configuration lists the access. The first Child SA comes
/// with the IKE channel, on whatever access that has.
fn may_use(config: &Config, peer: usize, child: &str, access: AccessId) -> bool {
    let access = usize::from(access.0);
    let settings = config
        .peers
        .get(peer)
        .and_then(|p| p.children.iter().find(|c| c.name == child));
    // A path without an access of ours is listed nowhere, and excluded nowhere.
    access >= config.accesses.len() || settings.is_none_or(|c| c.accesses.contains(&access))
}

fn selector(ts: &TrafficSelector) -> Selector {
    let (start, end) = ts.ports();
    Selector {
        addresses: ts.start()..=ts.end(),
        protocol: ts.protocol(),
        ports: start..=end,
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    fn view(iface: u16, carried_by: Option<u16>) -> PathView {
        let pair = |local| IfacePair {
            local: IfaceId(local),
            remote: IfaceId(1),
        };
        PathView {
            path: crate::ids::PathIndex(u32::from(iface)),
            ike: IkeId(1),
            access: AccessId(iface),
            pair: pair(iface),
            family: crate::ids::Family::V4,
            local: None,
            remote: None,
            nat: false,
            local_nat: false,
            up: carried_by.is_none(),
            validation: crate::path::Validation::Validated,
            validated: true,
            channel: false,
            home: true,
            watched: true,
            carried_by: carried_by.map(pair),
            rtt: None,
            loss_ppm: 0,
            mtu: 1500,
        }
    }

    /// Paths over three interfaces of both families, index 10 x interface + family.
    fn dual(carried_by: impl Fn(u16) -> Option<u16>) -> Vec<PathView> {
        let families = [(Family::V4, 4), (Family::V6, 6)];
        let of = |iface: u16| {
            let path = view(iface, carried_by(iface));
            families.map(|(family, n)| PathView {
                path: crate::ids::PathIndex(u32::from(iface) * 10 + n),
                family,
                ..path.clone()
            })
        };
        [1, 2, 3].into_iter().flat_map(of).collect()
    }

    fn at(iface: u16) -> (IkeId, IfacePair) {
        let home = view(iface, None);
        (home.ike, home.pair)
    }

    const ORDER: [IfaceId; 3] = [IfaceId(1), IfaceId(2), IfaceId(3)];

    fn alternates(views: &[PathView], iface: u16) -> [u32; 3] {
        sa_out(views, at(iface), &ORDER, &BTreeSet::new(), |_| true).alt
    }

    #[test]
    fn a_carry_writes_no_child_sa_of_either_home() {
        let homes = [1, 2, 3].map(|iface| view(iface, None));
        let [_, second, third] = homes.clone();
        let carried = [view(1, Some(2)), second, third];
        for (before, after) in [
            (homes.to_vec(), carried.to_vec()),
            (dual(|_| None), dual(|iface| (iface == 1).then_some(2))),
        ] {
            let of =
                |views| [1, 2, 3].map(|i| sa_out(views, at(i), &ORDER, &BTreeSet::new(), |_| true));
            assert_eq!(of(&before), of(&after), "one entry of a path is all");
        }
    }

    #[test]
    fn families_of_the_home_have_alternates_in_turn() {
        let mut views = dual(|_| None);
        assert_eq!(alternates(&views, 1), [26, 24, 36]);
        views.retain(|v| v.path.0 != 16);
        assert_eq!(alternates(&views, 1), [24, 34, 26], "none of IPv6");
    }

    #[test]
    fn what_has_no_path_among_the_first_has_one_that_is_up() {
        let mut views = dual(|_| None);
        for view in &mut views {
            view.up = ![14, 16, 24, 26, 36].contains(&view.path.0);
        }
        assert_eq!(alternates(&views, 1), [34, 26, 24]);
        views[1].up = true;
        assert_eq!(alternates(&views, 1), [26, 24, 36], "its home is up");
    }

    #[test]
    fn what_is_moved_first_keeps_its_home_until_the_peer_has_answered() {
        let deleted = BTreeSet::from([IfaceId(1)]);
        let of = |iface| sa_out(&dual(|_| None), at(iface), &ORDER, &deleted, |_| true);
        assert_eq!((of(1).home_v4, of(1).home_v6), (14, 16));
        assert_eq!(of(1).alt, [26, 24, 36]);
        assert_eq!(of(2).alt, [36, 34, NO_PATH], "but nothing else goes there");
    }

    #[test]
    fn a_child_uses_only_the_accesses_it_lists() {
        let text = LAPTOP.replace("name = \"all\"", "name = \"all\"\naccesses = [\"wwan0\"]");
        let config = config(&text, "accesses");
        assert!(!may_use(&config, 0, "all", AccessId(0)), "wlan0");
        assert!(may_use(&config, 0, "all", AccessId(1)), "wwan0");
        assert!(
            may_use(&config, 0, "all", AccessId(u16::MAX)),
            "none of ours"
        );
    }
}
