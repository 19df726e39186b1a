//! The peer's MIF_UPDATE_ADDRS: it moves one of its interfaces, or chooses among
//! ours.

use std::collections::BTreeSet;

use crate::ids::{Arrival, IfaceId};
use crate::ike::engine::Context;
use crate::ike::event::{End, Event};
use crate::ike::fault::Fault;
use crate::ike::message::{Notify, NotifyType};
use crate::ike::mif::{
    Features, InterfaceRecord, MAX_ADDRESSES, MAX_RECORDS, UpdateAddrs, UpdateFlags, error, status,
};
use crate::ike::sa::IkeSa;
use crate::ike::task::Payloads;

use super::Update;

/// Carries it out if it may be. Each peer moves only its own interfaces
/// (protocol 3.1), so moves of both ends commute; of a choice among ours we have
/// the last word. The answer is an error or nothing.
pub(in crate::ike::task) fn respond(
    notify: &Notify,
    sa: &mut IkeSa,
    cx: &mut Context,
    arrival: Arrival,
) -> Option<Notify> {
    let update = match UpdateAddrs::decode(&notify.data, &cx.address_policy()) {
        Ok(update) => update,
        Err(error) => {
            cx.count(error.reason());
            return Some(Notify::new(error.notify_type(), Vec::new()));
        }
    };
    let end = match update.flags.has(UpdateFlags::SELECT_PEER) {
        true => End::Local,
        false => End::Remote,
    };
    match admit(&update, end, sa, cx) {
        Ok(Admission::New) => {}
        Ok(Admission::Done) => return withdrawal(&update, end, sa),
        Err(kind) => {
            cx.count("mif_update_refused");
            return Some(Notify::new(kind, Vec::new()));
        }
    }
    if cx.faulty(Fault::IgnoreMoves) {
        return None;
    }
    let tunnel = update.flags.has(UpdateFlags::TUNNEL);
    let mif = sa.mif.as_mut()?;
    mif.moves.last.insert((end, update.old_iface), update);
    if tunnel && end == End::Remote {
        rewrite_table(&mut mif.peer_ifaces, &update);
        // A move of the channel alone moves no path.
        cx.event(Event::PeerMoved {
            ike: sa.id,
            update,
            observed: arrival,
        });
    }
    if tunnel {
        let dead = update.flags.has(UpdateFlags::OLD_IS_DEAD);
        sa.carry_off(end, update.old_iface, update.new_iface, dead, cx);
    }
    if tunnel && end == End::Remote {
        sa.agree(update.old_iface, update.new_iface);
    }
    if update.flags.has(UpdateFlags::IKE_CHANNEL) {
        // The peer sealed this and sent it from there: SK-protected, and the
        // answer goes there in any case.
        let channel = sa.channel_of(arrival, cx);
        if end == End::Remote {
            sa.channel_peer = update.new_iface;
        }
        sa.move_channel(channel, cx);
        cx.event(Event::ChannelMoved {
            ike: sa.id,
            observed: arrival,
            nat: sa.nat,
        });
    }
    withdrawal(&update, end, sa)
}

/// We have chosen for an interface whose owner speaks now, and that is not answered
/// yet: the owner is told with the answer that this counts for nothing, because it
/// may get it later.
fn withdrawal(update: &UpdateAddrs, end: End, sa: &IkeSa) -> Option<Notify> {
    if end == End::Local || !update.flags.has(UpdateFlags::TUNNEL) {
        return None;
    }
    let (iface, word) = (update.old_iface, sa.last_word(update.old_iface));
    // Made before that word, by whoever it is repeated.
    let is_overtaken = |asked: &&Update| asked.is_about(End::Remote, iface) && asked.owner != word;
    let asked = &sa.mif.as_ref()?.moves.asked;
    let chosen = asked.iter().rfind(is_overtaken)?;
    Some(chosen.content()?.notify())
}

/// What the peer withdraws by its answer to `update` is as if it had been done
/// before: it has no effect when it comes.
pub(super) fn withdrawn(update: &Update, sa: &mut IkeSa, payloads: &Payloads, cx: &Context) {
    let (Some(notify), Some(mif)) = (payloads.notify(status::MIF_UPDATE_ADDRS), &mut sa.mif) else {
        return;
    };
    let Ok(choice) = UpdateAddrs::decode(&notify.data, &cx.address_policy()) else {
        return;
    };
    let of_ours = choice.flags.has(UpdateFlags::SELECT_PEER);
    if of_ours && update.is_about(End::Local, choice.old_iface) {
        let last = mif.moves.last.entry((End::Local, choice.old_iface));
        let last = last.or_insert(choice);
        if choice.txn.wrapping_sub(last.txn) < 1 << 31 {
            *last = choice;
        }
    }
}

enum Admission {
    /// Carry it out.
    New,
    /// Was carried out, or its effect is there.
    Done,
}

/// Scope, transaction and interface checks, in that order (protocol 3.7).
fn admit(
    update: &UpdateAddrs,
    end: End,
    sa: &IkeSa,
    cx: &Context,
) -> Result<Admission, NotifyType> {
    let mif = sa.mif.as_ref().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.features.has(Features::UPDATE) || update.flags.has(UpdateFlags::TRANSPORT) {
        return Err(error::MIF_UNSUPPORTED);
    }
    let scopes = [UpdateFlags::TUNNEL, UpdateFlags::IKE_CHANNEL];
    if !scopes.into_iter().any(|scope| update.flags.has(scope)) {
        return Err(error::MIF_MODE_MISMATCH);
    }
    if let Some(last) = mif.moves.last.get(&(end, update.old_iface)) {
        let ahead = update.txn.wrapping_sub(last.txn);
        if ahead == 0 || ahead >= 1 << 31 {
            // Late: harmless where it says what holds anyway.
            let same = (update.new_iface, update.new) == (last.new_iface, last.new);
            return match same {
                true => Ok(Admission::Done),
                false => Err(error::MIF_STALE_TXN),
            };
        }
    }
    match end {
        End::Remote if sa.peer_has(update.old_iface) && mif.knows(update.new_iface) => {
            Ok(Admission::New)
        }
        End::Remote => Err(error::MIF_UNKNOWN_INTERFACE),
        End::Local => admit_choice(update, sa, cx).map(|()| Admission::New),
    }
}

/// Whether the peer may move what is on one of our interfaces to another one, or
/// home: only to an alternate, and only to an address we announced.
fn admit_choice(update: &UpdateAddrs, sa: &IkeSa, cx: &Context) -> Result<(), NotifyType> {
    let (old, new) = (update.old_iface, update.new_iface);
    let mif = sa.mif.as_ref().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.features.has(Features::ALTERNATES) {
        return Err(error::MIF_UNSUPPORTED);
    }
    // As announced: what was deleted or left out for this peer cannot be chosen.
    let ours = mif.our_table(cx).0.records;
    let chosen = ours.iter().find(|record| record.id == new);
    let chosen = chosen.ok_or(error::MIF_UNKNOWN_INTERFACE)?;
    let is_home = |pair: crate::ids::IfacePair| pair.local == old;
    if !ours.iter().any(|record| record.id == old)
        && !sa.children.values().any(|child| is_home(child.pair))
    {
        return Err(error::MIF_UNKNOWN_INTERFACE);
    }
    // Our own word on it is on its way and counts; the peer asks again if it
    // still wants to when it has it.
    if sa.is_under_way(End::Local, old) {
        return Err(NotifyType::TEMPORARY_FAILURE);
    }
    if !chosen.state.is_usable() {
        return Err(error::MIF_PATH_UNVALIDATED);
    }
    let announced = chosen
        .addresses
        .iter()
        .any(|maddr| maddr.ip == update.new.ip);
    let alternate = old == new || sa.alternates(End::Local, old, cx).contains(&new);
    match announced && alternate {
        true => Ok(()),
        false => Err(error::MIF_ADDRESS_REJECTED),
    }
}

impl IkeSa {
    /// Whether the peer announced this interface or has Child SAs at home on it: one
    /// that is missing from its table is down, not gone.
    pub(in crate::ike) fn peer_has(&self, iface: IfaceId) -> bool {
        self.mif.as_ref().is_some_and(|mif| mif.knows(iface))
            || self
                .children
                .values()
                .any(|child| child.pair.remote == iface)
    }

    /// What is remembered is remembered of interfaces there are: a peer that names
    /// ever new ones makes us hold no more than one table's worth. Ids are not used
    /// again, so no late move of a forgotten one can pass for new. Who carries one that
    /// is missing is forgotten only when they are too many: its owner remembers it, and
    /// it may come back.
    pub(in crate::ike) fn forget_interfaces(&mut self, cx: &mut Context) {
        let Some(mif) = &self.mif else {
            return;
        };
        let homes = self.children.values().map(|child| child.pair.remote);
        let announced = mif.peer_ifaces.iter().map(|record| record.id);
        let there: BTreeSet<_> = homes.chain(announced).chain([IfaceId::CHANNEL]).collect();
        let lenders = mif.moves.carried.entries(End::Remote);
        if lenders.len() > MAX_RECORDS {
            for iface in lenders.into_iter().filter(|iface| !there.contains(iface)) {
                self.vacate(End::Remote, iface, cx);
            }
        }
        let Some(mif) = &mut self.mif else {
            return;
        };
        mif.moves
            .last
            .retain(|(end, iface), _| *end == End::Local || there.contains(iface));
        let is_one = |iface| there.contains(&iface);
        let carried = &mif.moves.carried;
        let lends = |iface| carried.lent_to(End::Remote, iface) != iface;
        mif.moves
            .agreed
            .retain(|iface, _| is_one(*iface) || lends(*iface));
        mif.lists.retain(is_one);
    }
}

/// Keeps the peer's table true until it announces the next one, and no longer than
/// one it could announce.
fn rewrite_table(table: &mut [InterfaceRecord], update: &UpdateAddrs) {
    for record in table.iter_mut().filter(|r| r.id == update.new_iface) {
        let replaced = update.old_iface == update.new_iface;
        record
            .addresses
            .retain(|maddr| maddr.ip != update.new.ip && !(replaced && maddr.ip == update.old.ip));
        record.addresses.insert(0, update.new);
        record.addresses.truncate(usize::from(MAX_ADDRESSES));
    }
}
