//! The side that adds an interface of its own.

use std::net::IpAddr;

use crate::crypto::{KeGroup, PrivateKey, Secret};
use crate::ids::{IfaceId, IfacePair, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{End, Event, SaRequest};
use crate::ike::fault::Fault;
use crate::ike::message::{Config, Ke, NotifyType, Payload};
use crate::ike::mif::{
    AddFlags, AddInterface, AddMode, DerivedFlags, DerivedSa, DerivedSas, Features,
    InterfaceRecord, Maddr, error, status,
};
use crate::ike::sa::{Child, IkeSa, Installation};
use crate::ike::selector;
use crate::ike::task::{Received, Task, config, delete, interfaces, remove};

use super::enumerate::{Derived, Target, enumerate};
use super::{Exchange, Material};

/// What the agent wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Wanted {
    pub(in crate::ike) iface: IfaceId,
    pub(in crate::ike) remote: IfaceId,
    pub(in crate::ike) local_addr: IpAddr,
    pub(in crate::ike) remote_addr: IpAddr,
    pub(in crate::ike) inner: Vec<IpAddr>,
    pub(in crate::ike) lease: bool,
    pub(in crate::ike) bundle: bool,
    pub(in crate::ike) from: Vec<IfaceId>,
    pub(in crate::ike) pfs: bool,
}

/// MIF_ADD_INTERFACE as we ask for it.
pub(in crate::ike) struct Add {
    wanted: Wanted,
    asked: Option<Asked>,
    attempts: u32,
}

/// What one request said.
struct Asked {
    txn: u32,
    nonce: Vec<u8>,
    private: Option<PrivateKey>,
    /// Our interface and the peer's.
    pair: IfacePair,
    entries: Vec<Entry>,
    /// Epoch of the table that went with it.
    epoch: Option<u32>,
    /// Addresses we had.
    known: Vec<IpAddr>,
}

struct Entry {
    derived: Derived,
    material: Material,
    wire: DerivedSa,
    /// Where we will receive, while that is not known to the data plane otherwise.
    spi: Option<Spi>,
}

/// Why nothing is asked, or nothing came of it.
struct Refused {
    reason: Failure,
    fall_back: bool,
}

impl Refused {
    /// CREATE_CHILD_SA may do.
    const fn derivation(reason: Failure) -> Self {
        Self {
            reason,
            fall_back: true,
        }
    }
}

impl Add {
    pub(in crate::ike) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            asked: None,
            attempts: 0,
        }
    }

    /// The interface.
    pub(in crate::ike) fn iface(&self) -> IfaceId {
        self.wanted.iface
    }

    /// Whether it may make a Child SA on this path.
    pub(in crate::ike::task) fn is_for(&self, pair: IfacePair, sa: &IkeSa) -> bool {
        let remote = match self.wanted.remote {
            IfaceId::CHANNEL => sa.named_channel_peer(),
            known => known,
        };
        let any = |id: IfaceId| id == IfaceId::CHANNEL;
        self.wanted.iface == pair.local
            && (remote == pair.remote || any(remote) || any(pair.remote))
    }

    /// Whether both ask for the same.
    pub(in crate::ike::task) fn serves(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }

    /// The request; nothing when there is nothing to derive.
    pub(in crate::ike::task) fn build(
        &mut self,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) -> Option<Vec<Payload>> {
        self.release(cx);
        match self.request(sa, cx) {
            Ok(payloads) => payloads,
            Err(refused) => {
                self.refused(refused, sa, cx);
                None
            }
        }
    }

    fn request(
        &mut self,
        sa: &mut IkeSa,
        cx: &mut Context,
    ) -> Result<Option<Vec<Payload>>, Refused> {
        let wanted = &self.wanted;
        const MIF_REQUIRED: Refused = Refused::derivation(Failure::MifRequired);
        let mif = sa.mif.as_ref().ok_or(MIF_REQUIRED)?;
        let has = |features| mif.features.has(features);
        let derives = has(Features::ADD_IF) && has(Features::DERIVE);
        if !derives || wanted.pfs && !has(Features::PFS_DERIVE) {
            return Err(Refused::derivation(Failure::Unsupported));
        }
        let bundle = wanted.bundle && has(Features::BUNDLE);
        let most = mif.operations.max_derived;
        remove::bring_back(wanted.iface, sa, cx);
        let mif = sa.mif.as_ref().ok_or(MIF_REQUIRED)?;
        let record = |table: &[InterfaceRecord], iface, ip| {
            let record = table.iter().find(|record| record.id == iface);
            let addresses = record.map(|record| record.addresses.as_slice());
            let addresses = addresses.unwrap_or_default();
            let exact = addresses.iter().find(|maddr| maddr.ip == ip);
            exact.or(addresses.first()).copied()
        };
        let ours = mif.our_table(cx).0.records;
        let outer = record(&ours, wanted.iface, wanted.local_addr)
            .ok_or_else(|| Refused::derivation(Failure::UnknownInterface))?;
        let channel = sa.named_channel_peer();
        let far = match wanted.remote {
            IfaceId::CHANNEL => channel,
            known => known,
        };
        let mif = sa.mif.as_ref();
        let theirs = mif.and_then(|mif| record(&mif.peer_ifaces, far, wanted.remote_addr));
        // Which interface the peer has on the channel may be changing at this moment:
        // what has an address is named.
        let destination = match theirs {
            None if far == channel => None,
            named => Some(named.unwrap_or_else(|| Maddr::new(wanted.remote_addr, 0))),
        };
        let templates = sa.templates(End::Local);
        let sources = match wanted.from.is_empty() {
            true => sa.sources(End::Local, wanted.iface, &templates, cx),
            false => wanted.from.clone(),
        };
        let sources: Vec<_> = match cx.faulty(Fault::OwnOrder) {
            true => sources.into_iter().rev().collect(),
            false => sources,
        };
        let target = Target {
            from: &sources,
            near: wanted.iface,
            far,
            known: known(sa),
            inner: &wanted.inner,
            bundle,
        };
        let mut all = enumerate(&templates, &target);
        if cx.faulty(Fault::DeriveTwice) {
            all.iter_mut().for_each(|derived| derived.skipped = false);
        }
        let new = all.iter().filter(|derived| !derived.skipped).count();
        if all.is_empty() {
            return Err(Refused::derivation(Failure::NoTemplate));
        }
        // Whether there are equal ones shows when the address is known.
        let count = if wanted.lease { all.len() } else { new };
        if count == 0 {
            cx.event(Event::InterfaceAdded {
                ike: sa.id,
                end: End::Local,
                iface: wanted.iface,
                remote: far,
                created: 0,
                skipped: all.len(),
                leases: Vec::new(),
            });
            return Ok(None);
        }
        if count > most || sa.children.len() + count > cx.limits.children {
            let reason = Failure::Limit {
                what: "derived SAs",
            };
            return Err(Refused::derivation(reason));
        }
        let private = match wanted.pfs {
            true => Some(private(sa).ok_or_else(|| Refused::derivation(Failure::Entropy))?),
            false => None,
        };
        let pair = IfacePair {
            local: wanted.iface,
            remote: far,
        };
        let mut entries = Vec::with_capacity(all.len());
        for (index, derived) in (0u16..).zip(all) {
            let Some(child) = sa.children.get(&derived.child) else {
                continue;
            };
            let spi = (wanted.lease || !derived.skipped).then(|| {
                let spi = match cx.faulty(Fault::KeepSpi) {
                    true => child.spi_in,
                    false => cx.allocate_spi(),
                };
                cx.request(SaRequest::Larval { ike: sa.id, spi });
                spi
            });
            let none = Spi(0);
            let (new_init, new_resp) = sa.by_role(spi.unwrap_or(none), none);
            entries.push(Entry {
                material: material(child),
                wire: DerivedSa {
                    index,
                    flags: flags(spi.is_none(), false),
                    template_init: derived.spis.0,
                    template_resp: derived.spis.1,
                    new_init,
                    new_resp,
                },
                derived,
                spi,
            });
        }
        let Some(mif) = sa.mif.as_mut() else {
            return Ok(None);
        };
        let txn = mif.next_txn;
        mif.next_txn = mif.next_txn.wrapping_add(1);
        let table = interfaces::table_if_unconfirmed(mif, cx);
        let nonce = cx.nonce();
        let add = AddInterface {
            txn,
            flags: [(wanted.lease, AddFlags::CONFIG), (bundle, AddFlags::BUNDLE)]
                .into_iter()
                .filter(|(set, _)| *set)
                .fold(AddFlags::default(), |all, (_, flag)| all.with(flag)),
            iface: wanted.iface,
            mode: AddMode::TUNNEL,
            inner: wanted.inner.iter().map(|ip| Maddr::new(*ip, 0)).collect(),
            outer,
            destination,
            from: (!wanted.from.is_empty()).then(|| wanted.from.clone()),
            nonce: nonce.clone(),
            ke: private.as_ref().map(|private| Ke {
                group: private.group().number(),
                data: private.public().to_vec(),
            }),
        };
        let list = DerivedSas {
            txn,
            entries: entries.iter().map(|entry| entry.wire).collect(),
        };
        let asks = sa.peer.as_ref().filter(|_| wanted.lease);
        let asks = asks.and_then(|peer| config::request_one(peer));
        self.asked = Some(Asked {
            txn,
            nonce,
            private,
            pair,
            entries,
            epoch: table.as_ref().map(|(epoch, _)| *epoch),
            known: known(sa).to_vec(),
        });
        let table = table.map(|(_, notify)| notify);
        let notifies = table.into_iter().chain([add.notify(), list.notify()]);
        let payloads = notifies.map(Payload::Notify);
        Ok(Some(payloads.chain(asks.map(Payload::Config)).collect()))
    }

    /// The response: the SAs, or why there are none. What the peer may do in a moment
    /// is asked again, as another operation.
    pub(in crate::ike::task) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let payloads = &received.payloads;
        if let Some(refusal) = payloads.error() {
            const PASSING: [NotifyType; 4] = [
                NotifyType::TEMPORARY_FAILURE,
                error::MIF_UNKNOWN_INTERFACE,
                error::MIF_DERIVATION_MISMATCH,
                error::MIF_SPI_COLLISION,
            ];
            self.release(cx);
            if let Some(mif) = &mut sa.mif {
                mif.operations.rivals.clear();
            }
            if sa.is_to_go(self.wanted.iface) {
                return self.deleted(sa, cx);
            }
            if PASSING.contains(&refusal.kind) && sa.postpone(self.attempts, cx) {
                self.attempts += 1;
                return sa.postponed.push(Task::Add(self));
            }
            let refused = Refused {
                reason: Failure::from_notify(refusal.kind, true),
                fall_back: refusal.kind != NotifyType::INTERNAL_ADDRESS_FAILURE,
            };
            return self.refused(refused, sa, cx);
        }
        let Some(mut asked) = self.asked.take() else {
            return;
        };
        if let Some(mif) = &mut sa.mif {
            mif.confirm(asked.epoch);
        }
        // Under the keys of a replaced IKE SA it means other keys than ours.
        let current = received.message_id.is_some();
        let installed = current.then(|| asked.accept(&self.wanted, sa, cx, received));
        match installed.flatten() {
            Some(()) => {}
            None => {
                // Whatever the peer has made has to go.
                for spi in asked
                    .entries
                    .iter_mut()
                    .filter_map(|entry| entry.spi.take())
                {
                    cx.request(SaRequest::LarvalGone { spi });
                    sa.queue.push(Task::Delete(delete::Target::Orphan(spi)));
                }
                let what = "MIF_ADD_INTERFACE";
                self.refused(Refused::derivation(Failure::Protocol { what }), sa, cx);
            }
        }
        asked.release(cx);
    }

    /// The interface is to be deleted before this is asked.
    pub(in crate::ike::task) fn deleted(mut self, sa: &IkeSa, cx: &mut Context) {
        self.release(cx);
        let refused = Refused {
            reason: Failure::Deleted,
            fall_back: false,
        };
        self.refused(refused, sa, cx);
    }

    fn refused(&self, refused: Refused, sa: &IkeSa, cx: &mut Context) {
        cx.event(Event::AddRefused {
            ike: sa.id,
            iface: self.wanted.iface,
            reason: refused.reason,
            fall_back: refused.fall_back,
        });
    }

    /// No response will come.
    pub(in crate::ike::task) fn abandon(mut self, cx: &mut Context) {
        self.release(cx);
    }

    fn release(&mut self, cx: &mut Context) {
        if let Some(mut asked) = self.asked.take() {
            asked.release(cx);
        }
    }
}

impl Asked {
    fn release(&mut self, cx: &mut Context) {
        for spi in self.entries.iter_mut().filter_map(|entry| entry.spi.take()) {
            cx.request(SaRequest::LarvalGone { spi });
            cx.release_spi(spi);
        }
    }

    /// Installs what the peer derived as well; nothing if it did something else.
    fn accept(
        &mut self,
        wanted: &Wanted,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) -> Option<()> {
        let payloads = &received.payloads;
        let answer = payloads.notify(status::MIF_ADD_INTERFACE)?;
        let answer = AddInterface::decode(&answer.data, None).ok()?;
        let list = payloads.notify(status::MIF_DERIVED_SAS)?;
        let list = DerivedSas::decode(&list.data, self.entries.len()).ok()?;
        let same = answer.txn == self.txn && list.txn == self.txn;
        if !same || answer.iface != wanted.iface || list.entries.len() != self.entries.len() {
            return None;
        }
        let leases = match wanted.lease {
            true => self.leased(sa, payloads.config()?)?,
            false => Vec::new(),
        };
        self.fill_in(wanted, &leases, &list.entries, sa)?;
        let g_ir = match self.private.take() {
            Some(private) => Some(agree(private, answer.ke.as_ref()?)?),
            None => None,
        };
        let keys = sa.keys.as_ref()?.ike.mif(sa.spis());
        let exchange = Exchange {
            keys: &keys,
            g_ir: g_ir.as_ref(),
            ni: &self.nonce,
            nr: &answer.nonce,
            txn: self.txn,
            pair: self.pair,
        };
        let lowest = exchange.lowest();
        let mut new = Vec::new();
        for entry in &mut self.entries {
            let Some(spi) = entry.spi.take() else {
                continue;
            };
            if entry.derived.skipped {
                cx.request(SaRequest::LarvalGone { spi });
                cx.release_spi(spi);
                continue;
            }
            let material = entry.material.clone();
            let installation =
                sa.installation(material, &entry.derived, &entry.wire, &exchange, End::Local);
            new.push(installation);
        }
        let skipped = self.entries.len() - new.len();
        let mut created = 0;
        for installation in new {
            created += usize::from(place(installation, &lowest, sa, cx));
        }
        if let Some(mif) = &mut sa.mif {
            mif.operations.rivals.clear();
            if !leases.is_empty() {
                mif.operations.leased.insert(wanted.iface, leases.clone());
            }
        }
        sa.leases.extend(&leases);
        cx.event(Event::InterfaceAdded {
            ike: sa.id,
            end: End::Local,
            iface: wanted.iface,
            remote: self.pair.remote,
            created,
            skipped,
            leases,
        });
        Some(())
    }

    /// The addresses of a CFG_REPLY: one of each family, none that we have already.
    fn leased(&self, sa: &IkeSa, reply: &Config) -> Option<Vec<IpAddr>> {
        let mut leases = config::read(reply, sa.peer.as_ref()?).0;
        leases.retain(|ip| !self.known.contains(ip));
        leases.sort_by_key(IpAddr::is_ipv6);
        leases.dedup_by_key(|ip| ip.is_ipv6());
        (!leases.is_empty()).then_some(leases)
    }

    /// Takes the peer's SPIs in, if it found what we find.
    fn fill_in(
        &mut self,
        wanted: &Wanted,
        leases: &[IpAddr],
        answers: &[DerivedSa],
        sa: &IkeSa,
    ) -> Option<()> {
        if wanted.lease {
            self.substitute(leases, wanted, sa);
        }
        let mut taken: std::collections::BTreeSet<_> =
            sa.children.values().map(|child| child.spi_out).collect();
        for (entry, answer) in self.entries.iter_mut().zip(answers) {
            let ours = entry.wire;
            let created = answer.flags.has(DerivedFlags::CREATED);
            let templates = (answer.template_init, answer.template_resp);
            let same = templates == (ours.template_init, ours.template_resp)
                && answer.index == ours.index
                && created != entry.derived.skipped;
            if !same {
                return None;
            }
            if !created {
                continue;
            }
            // The caller's SPI first, whoever that is.
            let (spi_in, spi_out) = sa.by_role(answer.new_init, answer.new_resp);
            if Some(spi_in) != entry.spi || spi_out.0 < 256 || !taken.insert(spi_out) {
                return None;
            }
            entry.wire = *answer;
        }
        Some(())
    }

    /// What the leased addresses make of the templates. Those that are gone since
    /// count as they were.
    fn substitute(&mut self, leases: &[IpAddr], wanted: &Wanted, sa: &IkeSa) {
        let bundle = wanted.bundle
            && sa
                .mif
                .as_ref()
                .is_some_and(|mif| mif.features.has(Features::BUNDLE));
        let templates = sa.templates(End::Local);
        let from: Vec<_> = self
            .entries
            .iter()
            .map(|entry| entry.derived.spis)
            .collect();
        let mut near = Vec::new();
        for spis in &from {
            let template = templates.iter().find(|template| template.spis == *spis);
            if let Some(template) = template.filter(|t| !near.contains(&t.near)) {
                near.push(template.near);
            }
        }
        let target = Target {
            from: &near,
            near: self.pair.local,
            far: self.pair.remote,
            known: &self.known,
            inner: leases,
            bundle,
        };
        let all = enumerate(&templates, &target);
        for entry in &mut self.entries {
            let found = all
                .iter()
                .find(|derived| derived.spis == entry.derived.spis);
            if let Some(found) = found {
                entry.derived = found.clone();
            }
        }
    }
}

/// Installs a derived SA; one that the peer derived as well by an exchange that
/// crossed ours stays only if its nonces say so (RFC 7296 2.8.1). Whether it stays.
fn place(mut new: Installation, lowest: &[u8], sa: &mut IkeSa, cx: &mut Context) -> bool {
    if sa.early_deletes.remove(&new.spi_out) {
        // A Delete of the peer's overtook the response that names it.
        cx.request(SaRequest::LarvalGone { spi: new.spi_in });
        cx.release_spi(new.spi_in);
        return false;
    }
    let equal = |child: &Child| {
        let ends = [
            (&child.ts_local, &new.ts_local),
            (&child.ts_remote, &new.ts_remote),
        ];
        let selectors = ends.iter().all(|(a, b)| selector::equal(a, b));
        selectors && (!new.bundle || child.pair == new.pair)
    };
    let rivals = sa.mif.iter().flat_map(|mif| &mif.operations.rivals);
    let stronger = rivals.filter(|rival| lowest < rival.lowest.as_slice());
    let stronger = stronger.flat_map(|rival| &rival.children);
    let winner = stronger
        .copied()
        .find(|child| sa.children.get(child).is_some_and(equal));
    let Some(winner) = winner else {
        sa.install(new, cx);
        return true;
    };
    new.lost_to = Some(winner);
    let redundant = sa.install(new, cx);
    cx.count("mif_derived_redundant");
    sa.delete_child(redundant, cx);
    false
}

/// Our inner addresses as the other end knows them: leases are those of the IKE
/// SA's caller.
fn known(sa: &IkeSa) -> &[IpAddr] {
    if sa.caller { &sa.leases } else { &[] }
}

fn material(child: &Child) -> Material {
    Material {
        name: child.name.clone(),
        algorithm: child.algorithm,
        esn: child.esn,
        replay_window: child.replay_window,
        bundle: child.bundle,
    }
}

/// Flags of an entry.
pub(super) fn flags(skipped: bool, created: bool) -> DerivedFlags {
    match (skipped, created) {
        (true, _) => DerivedFlags::SKIPPED_EXISTS,
        (false, true) => DerivedFlags::CREATED,
        (false, false) => DerivedFlags::default(),
    }
}

/// A public value of the first method configured for Child SAs, else that of the
/// IKE SA.
fn private(sa: &IkeSa) -> Option<PrivateKey> {
    let peer = sa.peer.as_ref()?;
    let first = peer.esp_proposals.iter().find_map(|p| p.groups.first());
    let group = match first {
        Some(group) => *group,
        None => sa.keys.as_ref()?.ike.suite.ke,
    };
    PrivateKey::generate(group).ok()
}

/// The shared secret with the other end's value of the same method.
pub(super) fn agree(private: PrivateKey, ke: &Ke) -> Option<Secret> {
    let same = KeGroup::from_number(ke.group) == Some(private.group());
    same.then(|| private.agree(&ke.data).ok()).flatten()
}
