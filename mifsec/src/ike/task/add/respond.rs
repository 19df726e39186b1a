//! The side whose peer adds an interface.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::crypto::{KeGroup, PrivateKey};
use crate::ids::{Family, IfaceId, IfacePair, Spi};
use crate::ike::engine::Context;
use crate::ike::event::{End, Event};
use crate::ike::fault::Fault;
use crate::ike::message::{Config, Ke, Notify, NotifyType, Payload};
use crate::ike::mif::{
    AddFlags, AddInterface, AddMode, DerivedFlags, DerivedSa, DerivedSas, Features, error, status,
};
use crate::ike::sa::{IkeSa, Phase};
use crate::ike::selector::{TrafficSelector, TsSpec};
use crate::ike::task::interfaces::Mif;
use crate::ike::task::{Payloads, Received, Task, config};

use super::ask::{agree, flags};
use super::enumerate::{Derived, Target, enumerate};
use super::{Answered, Exchange, Rival};

/// The response to MIF_ADD_INTERFACE; nothing if there is none in the message.
pub(in crate::ike::task) fn respond(
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Vec<Payload> {
    let payloads = &received.payloads;
    let Some(notify) = payloads.notify(status::MIF_ADD_INTERFACE) else {
        return Vec::new();
    };
    if sa.mif.is_none() {
        return Vec::new();
    }
    match consider(notify, sa, cx, received) {
        Ok(response) => response,
        Err(kind) => {
            cx.count("mif_add_refused");
            vec![Payload::Notify(Notify::new(kind, Vec::new()))]
        }
    }
}

fn consider(
    notify: &Notify,
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Result<Vec<Payload>, NotifyType> {
    let mif = sa.mif.as_mut().ok_or(error::MIF_UNSUPPORTED)?;
    let has = |feature| mif.features.has(feature);
    if !(has(Features::ADD_IF) && has(Features::DERIVE)) {
        return Err(error::MIF_UNSUPPORTED);
    }
    let policy = cx.address_policy();
    let add = AddInterface::decode(&notify.data, Some(&policy)).map_err(|error| {
        cx.count(error.reason());
        error.notify_type()
    })?;
    let list = received.payloads.notify(status::MIF_DERIVED_SAS);
    let list = list.ok_or(error::MIF_DERIVATION_MISMATCH)?;
    let entries = DerivedSas::decode(&list.data, cx.limits.children).map_err(|error| {
        cx.count(error.reason());
        error.notify_type()
    })?;
    let asks = [
        (AddFlags::SPI_FROM_NONCE, Features::SPI_FROM_NONCE),
        (AddFlags::BUNDLE, Features::BUNDLE),
    ];
    let unknown = asks
        .into_iter()
        .any(|(flag, feature)| add.flags.has(flag) && !has(feature));
    let unknown = unknown
        || add.ke.is_some() && !has(Features::PFS_DERIVE)
        || add.mode != AddMode::TUNNEL && !has(Features::TRANSPORT);
    if unknown {
        return Err(error::MIF_UNSUPPORTED);
    }
    if add.flags.has(AddFlags::CONFIG) && !add.inner.is_empty() || add.mode != AddMode::TUNNEL {
        return Err(error::MIF_MODE_MISMATCH);
    }
    let request = (notify.data.clone(), list.data.clone());
    let answered = mif.operations.answered.as_ref();
    if let Some(answered) = answered.filter(|answered| answered.txn == add.txn) {
        return match answered.request == request {
            true => Ok(answered.response.clone()),
            false => Err(error::MIF_STALE_TXN),
        };
    }
    if entries.txn != add.txn {
        return Err(error::MIF_DERIVATION_MISMATCH);
    }
    busy(sa, cx, received)?;
    let (near, far) = (add.iface, destination(&add, sa, cx)?);
    let mif = sa.mif.as_mut().ok_or(error::MIF_UNSUPPORTED)?;
    let listed = add.from.iter().flatten();
    if !listed.clone().all(|iface| mif.knows(*iface)) {
        return Err(error::MIF_UNKNOWN_INTERFACE);
    }
    let record = mif.peer_ifaces.iter().find(|record| record.id == near);
    let record = record.ok_or(error::MIF_UNKNOWN_INTERFACE)?;
    if !record
        .addresses
        .iter()
        .any(|maddr| maddr.ip == add.outer.ip)
    {
        return Err(error::MIF_ADDRESS_REJECTED);
    }
    let pair = IfacePair {
        local: far,
        remote: near,
    };
    // The same is asked for by CREATE_CHILD_SA: that of the IKE SA's caller is
    // carried out.
    let crossing = |task: &Task| match task {
        Task::Child(create) => create.makes_anew_on(pair, sa),
        _ => false,
    };
    if sa.caller && sa.all_tasks().any(crossing) {
        return Err(NotifyType::TEMPORARY_FAILURE);
    }
    let mif = sa.mif.as_mut().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.operations.admit(near, add.txn) {
        return Err(error::MIF_STALE_TXN);
    }
    let job = Job {
        pair,
        add,
        entries: entries.entries,
    };
    let (txn, outcome) = (job.add.txn, job.carry_out(sa, cx, &received.payloads));
    let refusal = |kind: &NotifyType| vec![Payload::Notify(Notify::new(*kind, Vec::new()))];
    let response = outcome.as_ref().map_or_else(refusal, Vec::clone);
    if let Some(mif) = &mut sa.mif {
        mif.operations.answered = Some(Answered {
            txn,
            request,
            response,
        });
    }
    outcome
}

/// Not while the IKE SA is rekeyed or closed, and not too often (protocol 3.11,
/// 3.13).
pub(in crate::ike::task) fn busy(
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Result<(), NotifyType> {
    let rekeying = |task: &Task| matches!(task, Task::RekeyIke(_));
    let closing = matches!(sa.phase, Phase::Closing { .. }) || received.message_id.is_none();
    if closing || sa.rival.is_some() || sa.outbound.tasks().any(rekeying) {
        return Err(NotifyType::TEMPORARY_FAILURE);
    }
    let now = cx.now();
    let mif = sa.mif.as_mut().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.operations.take_turn(now) {
        cx.count("mif_add_too_often");
        return Err(NotifyType::TEMPORARY_FAILURE);
    }
    Ok(())
}

/// Our interface the new SAs come to.
fn destination(add: &AddInterface, sa: &IkeSa, cx: &Context) -> Result<IfaceId, NotifyType> {
    match &add.destination {
        None => Ok(sa.channel.local_iface),
        Some(maddr) => {
            let known = cx.iface_of(maddr.ip);
            let withheld = |mif: &Mif| mif.operations.withheld.contains(&known);
            let gone = known == IfaceId::CHANNEL || sa.mif.as_ref().is_some_and(withheld);
            if gone {
                Err(error::MIF_ADDRESS_REJECTED)
            } else {
                Ok(known)
            }
        }
    }
}

/// One request that is in order.
struct Job {
    add: AddInterface,
    entries: Vec<DerivedSa>,
    /// The new path, as seen from here.
    pair: IfacePair,
}

impl Job {
    fn carry_out(
        self,
        sa: &mut IkeSa,
        cx: &mut Context,
        payloads: &Payloads,
    ) -> Result<Vec<Payload>, NotifyType> {
        let leases = match self.add.flags.has(AddFlags::CONFIG) {
            true => lease(sa, cx, payloads)?,
            false => Vec::new(),
        };
        let done = self.derive(sa, cx, &leases);
        if done.is_err() {
            release(sa, cx, &leases);
        } else if let Some(mif) = &mut sa.mif
            && !leases.is_empty()
        {
            sa.leases.extend(&leases);
            let leased = mif.operations.leased.entry(self.add.iface);
            leased.or_default().extend(leases);
        }
        done
    }

    fn derive(
        &self,
        sa: &mut IkeSa,
        cx: &mut Context,
        leases: &[IpAddr],
    ) -> Result<Vec<Payload>, NotifyType> {
        let add = &self.add;
        let all = self.enumerate(sa, cx, leases);
        self.compare(&all, sa)?;
        let created = all.iter().filter(|derived| !derived.skipped).count();
        if created > cx.limits.derived || sa.children.len() + created > cx.limits.children {
            return Err(error::MIF_LIMIT_EXCEEDED);
        }
        for derived in all.iter().filter(|derived| !derived.skipped) {
            permitted(derived, sa, cx, leases)?;
        }
        let private = match &add.ke {
            Some(ke) => Some(private(ke, sa)?),
            None => None,
        };
        let public = private.as_ref().map(|private| Ke {
            group: private.group().number(),
            data: private.public().to_vec(),
        });
        let g_ir = match (private, &add.ke) {
            (Some(private), Some(ke)) => {
                Some(agree(private, ke).ok_or(NotifyType::INVALID_SYNTAX)?)
            }
            _ => None,
        };
        let nr = cx.nonce();
        let keys = sa.keys.as_ref().ok_or(NotifyType::TEMPORARY_FAILURE)?;
        let keys = keys.ike.mif(sa.spis());
        let exchange = Exchange {
            keys: &keys,
            g_ir: g_ir.as_ref(),
            ni: &add.nonce,
            nr: &nr,
            txn: add.txn,
            pair: self.pair,
        };
        let mut entries = Vec::with_capacity(all.len());
        let mut children = Vec::with_capacity(created);
        for (derived, asked) in all.iter().zip(&self.entries) {
            let mut entry = DerivedSa {
                flags: flags(derived.skipped, true),
                ..*asked
            };
            if derived.skipped {
                (entry.new_init, entry.new_resp) = (Spi(0), Spi(0));
            } else {
                let (_, spi_out) = sa.by_role(asked.new_init, asked.new_resp);
                (entry.new_init, entry.new_resp) = sa.by_role(cx.allocate_spi(), spi_out);
                if let Some(new) = sa.derive(derived, &entry, &exchange, End::Remote) {
                    children.push(sa.install(new, cx));
                }
            }
            entries.push(entry);
        }
        let ours = |task: &Task| matches!(task, Task::Add(_));
        if sa.outbound.tasks().any(ours)
            && let Some(mif) = &mut sa.mif
        {
            mif.operations.rivals.push(Rival {
                children,
                lowest: exchange.lowest(),
            });
        }
        cx.event(Event::InterfaceAdded {
            ike: sa.id,
            end: End::Remote,
            iface: add.iface,
            remote: self.pair.local,
            created,
            skipped: all.len() - created,
            leases: leases.to_vec(),
        });
        let mirror = AddInterface {
            nonce: nr.clone(),
            ke: public,
            ..add.clone()
        };
        let list = DerivedSas {
            txn: add.txn,
            entries,
        };
        let reply = (!leases.is_empty()).then(|| Payload::Config(config::reply(leases)));
        let notifies = [mirror.notify(), list.notify()].map(Payload::Notify);
        Ok(reply.into_iter().chain(notifies).collect())
    }

    /// What we find.
    fn enumerate(&self, sa: &IkeSa, cx: &Context, leases: &[IpAddr]) -> Vec<Derived> {
        let add = &self.add;
        let templates = sa.templates(End::Remote);
        let sources = match &add.from {
            Some(from) => from.clone(),
            None => sa.sources(End::Remote, add.iface, &templates, cx),
        };
        let named: Vec<_> = add.inner.iter().map(|maddr| maddr.ip).collect();
        // Leases are addresses of the IKE SA's caller.
        let known = if sa.caller { &[][..] } else { &sa.leases };
        let target = Target {
            from: &sources,
            near: add.iface,
            far: self.pair.local,
            known,
            inner: if leases.is_empty() { &named } else { leases },
            bundle: add.flags.has(AddFlags::BUNDLE),
        };
        let mut all = enumerate(&templates, &target);
        if cx.faulty(Fault::DeriveTwice) {
            all.iter_mut().for_each(|derived| derived.skipped = false);
        }
        all
    }

    /// Whether the peer found the same, with SPIs it can receive on.
    fn compare(&self, all: &[Derived], sa: &IkeSa) -> Result<(), NotifyType> {
        if all.len() != self.entries.len() || all.is_empty() {
            return Err(error::MIF_DERIVATION_MISMATCH);
        }
        let lease = self.add.flags.has(AddFlags::CONFIG);
        let mut taken: BTreeSet<Spi> = sa.children.values().map(|child| child.spi_out).collect();
        for (index, (derived, entry)) in (0u16..).zip(all.iter().zip(&self.entries)) {
            let skipped = entry.flags.has(DerivedFlags::SKIPPED_EXISTS);
            // Who does not know the new address yet cannot know what it makes equal.
            let same = entry.index == index
                && (entry.template_init, entry.template_resp) == derived.spis
                && (skipped == derived.skipped || lease && !skipped);
            if !same {
                return Err(error::MIF_DERIVATION_MISMATCH);
            }
            let (_, spi_out) = sa.by_role(entry.new_init, entry.new_resp);
            if !skipped && (spi_out.0 < 256 || !taken.insert(spi_out)) {
                return Err(error::MIF_SPI_COLLISION);
            }
        }
        Ok(())
    }
}

/// Addresses for the peer's new interface, one of each family it asks for.
fn lease(sa: &mut IkeSa, cx: &mut Context, payloads: &Payloads) -> Result<Vec<IpAddr>, NotifyType> {
    const NONE: NotifyType = NotifyType::INTERNAL_ADDRESS_FAILURE;
    let request: &Config = config::asked(payloads).ok_or(NONE)?;
    let peer = sa.peer.as_ref().filter(|_| !sa.caller).ok_or(NONE)?;
    let pool = peer.pool.as_ref().and_then(|name| cx.pools.get_mut(name));
    let pool = pool.ok_or(NONE)?;
    let mut leases: Vec<IpAddr> = Vec::new();
    for family in [Family::V4, Family::V6] {
        if config::asks_for(request, family)
            && let Ok(address) = pool.lease_beside(&peer.name, &sa.remote_id, family, &sa.leases)
        {
            leases.push(address);
        }
    }
    match leases.is_empty() {
        true => Err(NONE),
        false => Ok(leases),
    }
}

/// Gives addresses back to the pool of the peer.
pub(in crate::ike::task) fn release(sa: &IkeSa, cx: &mut Context, leases: &[IpAddr]) {
    let Some(peer) = sa.peer.as_ref().filter(|_| !sa.caller) else {
        return;
    };
    if let Some(pool) = peer.pool.as_ref().and_then(|name| cx.pools.get_mut(name)) {
        for address in leases {
            pool.release(&peer.name, &sa.remote_id, *address);
        }
    }
}

/// Whether the peer may have what is new in its selectors: an address of its own
/// lease, or one its configuration has and nobody else (protocol 3.13).
fn permitted(
    derived: &Derived,
    sa: &IkeSa,
    cx: &Context,
    leases: &[IpAddr],
) -> Result<(), NotifyType> {
    let template = sa.children.get(&derived.child);
    let template = template.ok_or(error::MIF_DERIVATION_MISMATCH)?;
    let new = derived.near_ts.iter();
    let new = new.filter(|selector| !template.ts_remote.contains(selector));
    for selector in new {
        let address = selector.start();
        let own = !sa.caller && sa.leases.contains(&address) || leases.contains(&address);
        if own {
            continue;
        }
        let others = || cx.sas.values().filter(|other| other.is_authenticated());
        let has = |other: &IkeSa| {
            // Networks of other entries are the configuration's matter.
            let entry = other.peer_name() == sa.peer_name();
            let network = entry && other.remote_id != sa.remote_id;
            let is = |ts: &TrafficSelector| {
                let within = (ts.start()..=ts.end()).contains(&address);
                within && (ts.is_host() || network)
            };
            !other.caller && other.leases.contains(&address)
                || other.children.values().any(|c| c.ts_remote.iter().any(is))
        };
        if others().any(|other| has(other)) {
            return Err(error::MIF_SELECTOR_EXISTS);
        }
        let peer = sa.peer.as_ref().ok_or(NotifyType::TS_UNACCEPTABLE)?;
        let pool = peer.pool.as_ref().and_then(|name| cx.pools.get(name));
        let leasable = pool.is_some_and(|pool| pool.contains(address));
        let child = peer
            .children
            .iter()
            .find(|child| child.name == template.name);
        let allowed = child.map(|child| TsSpec::resolve(&child.remote_ts, &[]));
        let covers = |all: &Vec<TrafficSelector>| all.iter().any(|ts| ts.covers(selector));
        if leasable || !allowed.is_some_and(|all| covers(&all)) {
            return Err(NotifyType::TS_UNACCEPTABLE);
        }
    }
    Ok(())
}

/// Our half of a key exchange by a method we offer ourselves.
fn private(ke: &Ke, sa: &IkeSa) -> Result<PrivateKey, NotifyType> {
    let peer = sa.peer.as_ref().ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
    let of_child = peer.esp_proposals.iter().flat_map(|p| &p.groups);
    let of_ike = peer.ike_proposals.iter().flat_map(|p| &p.groups);
    let group = KeGroup::from_number(ke.group);
    let group = group.filter(|group| of_child.chain(of_ike).any(|ours| ours == group));
    let group = group.ok_or(NotifyType::NO_PROPOSAL_CHOSEN)?;
    PrivateKey::generate(group).map_err(|_| NotifyType::TEMPORARY_FAILURE)
}
