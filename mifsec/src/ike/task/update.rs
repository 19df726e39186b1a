//! MIF_UPDATE_ADDRS (protocol 3.7): an interface of its sender moves, with all
//! Child SAs on it. One message, no SPI list; SPIs, keys and counters stay.

use std::time::Duration;

use crate::ids::{Arrival, IfaceId, IfacePair};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::Event;
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::mif::{
    Features, MAX_ADDRESSES, Maddr, MaddrFlags, UpdateAddrs, UpdateFlags, error,
};
use crate::ike::sa::IkeSa;

use super::{Received, Task, interfaces};

/// A move of one of our interfaces, or of the IKE channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ike) struct Update {
    /// Given when the request is built: later operations have higher ones.
    pub(in crate::ike) txn: Option<u32>,
    pub(in crate::ike) flags: UpdateFlags,
    pub(in crate::ike) grace: Duration,
    pub(in crate::ike) old_iface: IfaceId,
    pub(in crate::ike) new_iface: IfaceId,
    pub(in crate::ike) old: Maddr,
    pub(in crate::ike) new: Maddr,
    /// Epoch of the table that goes with it.
    pub(in crate::ike) epoch: Option<u32>,
    /// How often it was refused for the moment.
    pub(in crate::ike) attempts: u32,
}

impl Update {
    /// Whether both are about one interface or both about the channel: such are
    /// asked one after the other, so that the last one wins (protocol 3.11).
    pub(super) fn concerns(&self, other: &Self) -> bool {
        let ifaces = [other.old_iface, other.new_iface];
        let channel = UpdateFlags::IKE_CHANNEL;
        ifaces.contains(&self.old_iface)
            || ifaces.contains(&self.new_iface)
            || self.flags.has(channel) && other.flags.has(channel)
    }

    /// Takes over where a later move ends, if `self` was not sent: another address
    /// of the same interface, or another pair for the channel alone. A move of
    /// Child SAs from one interface to another is never left out.
    pub(super) fn absorb(&mut self, later: &Self) -> bool {
        let ifaces = [later.old_iface, later.new_iface, self.new_iface];
        let one_iface = ifaces.iter().all(|iface| *iface == self.old_iface)
            && self.flags.has(UpdateFlags::TUNNEL);
        let channel_alone = self.flags == UpdateFlags::IKE_CHANNEL;
        // What was sent before is not later, whenever it is queued again.
        let unsent = self.txn.is_none() && later.txn.is_none();
        let absorbs = unsent && self.flags == later.flags && (one_iface || channel_alone);
        if absorbs {
            self.new_iface = later.new_iface;
            (self.new, self.grace) = (later.new, later.grace);
        }
        absorbs
    }

    /// The request; nothing for a peer that cannot follow.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        let mif = sa.mif.as_mut()?;
        if !mif.features.has(Features::UPDATE) {
            return None;
        }
        let txn = *self.txn.get_or_insert_with(|| {
            let txn = mif.next_txn;
            mif.next_txn = mif.next_txn.wrapping_add(1);
            txn
        });
        let update = UpdateAddrs {
            txn,
            flags: self.flags,
            grace_ms: u16::try_from(self.grace.as_millis()).unwrap_or(u16::MAX),
            old_iface: self.old_iface,
            new_iface: self.new_iface,
            old: self.old,
            new: self.new,
        };
        // A move to an interface the peer may not know yet takes the table along:
        // requests may overtake each other within the window.
        let table = interfaces::table_if_unconfirmed(mif, cx);
        self.epoch = table.as_ref().map(|(epoch, _)| *epoch);
        let table = table.map(|(_, notify)| notify);
        Some(
            table
                .into_iter()
                .chain([update.notify()])
                .map(Payload::Notify)
                .collect(),
        )
    }

    /// The response: empty, or why the peer does not follow. What it may accept in
    /// a moment is asked again, as the same transaction: our table may still be on
    /// its way.
    pub(super) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let Some(refusal) = received.payloads.error() else {
            if let Some(mif) = &mut sa.mif {
                mif.confirm(self.epoch);
            }
            return;
        };
        let passing = [NotifyType::TEMPORARY_FAILURE, error::MIF_UNKNOWN_INTERFACE];
        let again = passing.contains(&refusal.kind) && sa.postpone(self.attempts, cx);
        if again {
            self.attempts += 1;
            return sa.postponed.push(Task::Update(self));
        }
        // While it waited a later move was made, which is what holds.
        if self.attempts > 0 && refusal.kind == error::MIF_STALE_TXN {
            return;
        }
        cx.event(Event::MoveRefused {
            ike: sa.id,
            iface: self.old_iface,
            reason: Failure::from_notify(refusal.kind, false),
        });
    }
}

/// One of our addresses in a notify.
pub(in crate::ike) fn maddr(ip: std::net::IpAddr, port: u16, behind_nat: bool) -> Maddr {
    let flags = if behind_nat {
        MaddrFlags::BEHIND_NAT
    } else {
        MaddrFlags::default()
    };
    Maddr { flags, port, ip }
}

/// The peer moves. Each peer moves only its own interfaces (protocol 3.1), so
/// moves of both ends commute. The answer is an error or nothing.
pub(super) fn respond(
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
    match admit(&update, sa) {
        Admission::New => {}
        Admission::Done => return None,
        Admission::Refused(kind) => return Some(Notify::new(kind, Vec::new())),
    }
    let mif = sa.mif.as_mut()?;
    mif.moves.insert(update.old_iface, update);
    let tunnel = update.flags.has(UpdateFlags::TUNNEL);
    if tunnel {
        rewrite_table(&mut mif.peer_ifaces, &update);
    }
    if tunnel && update.old_iface != update.new_iface {
        let (old, new) = (update.old_iface, update.new_iface);
        sa.rebind(cx, |pair| IfacePair {
            remote: if pair.remote == old { new } else { pair.remote },
            ..pair
        });
    }
    // A move of the channel alone moves no path.
    if tunnel {
        cx.event(Event::PeerMoved {
            ike: sa.id,
            update,
            observed: arrival,
        });
    }
    if update.flags.has(UpdateFlags::IKE_CHANNEL) {
        // The peer sealed this and sent it from there: SK-protected, and the
        // answer goes there in any case.
        let channel = sa.channel_of(arrival, cx);
        sa.channel_peer = update.new_iface;
        sa.move_channel(channel, cx);
        cx.event(Event::ChannelMoved {
            ike: sa.id,
            observed: arrival,
            nat: sa.nat,
        });
    }
    None
}

enum Admission {
    /// Carry it out.
    New,
    /// Was carried out, or its effect is there.
    Done,
    /// Answer with this.
    Refused(NotifyType),
}

/// Transaction and interface checks, in that order (protocol 3.7).
fn admit(update: &UpdateAddrs, sa: &IkeSa) -> Admission {
    let Some(mif) = &sa.mif else {
        return Admission::Refused(error::MIF_UNSUPPORTED);
    };
    let foreign = [UpdateFlags::SELECT_PEER, UpdateFlags::TRANSPORT];
    let unsupported = foreign.into_iter().any(|flag| update.flags.has(flag));
    if unsupported || !mif.features.has(Features::UPDATE) {
        return Admission::Refused(error::MIF_UNSUPPORTED);
    }
    if let Some(last) = mif.moves.get(&update.old_iface) {
        let ahead = update.txn.wrapping_sub(last.txn);
        if ahead == 0 || ahead >= 1 << 31 {
            // Late: harmless where it says what holds anyway.
            let same = (update.new_iface, update.new) == (last.new_iface, last.new);
            return if same {
                Admission::Done
            } else {
                Admission::Refused(error::MIF_STALE_TXN)
            };
        }
    }
    if !(mif.knows(update.old_iface) && mif.knows(update.new_iface)) {
        return Admission::Refused(error::MIF_UNKNOWN_INTERFACE);
    }
    Admission::New
}

/// Keeps the peer's table true until it announces the next one, and no longer than
/// one it could announce.
fn rewrite_table(table: &mut [crate::ike::mif::InterfaceRecord], update: &UpdateAddrs) {
    for record in table.iter_mut().filter(|r| r.id == update.new_iface) {
        let replaced = update.old_iface == update.new_iface;
        record
            .addresses
            .retain(|maddr| maddr.ip != update.new.ip && !(replaced && maddr.ip == update.old.ip));
        record.addresses.insert(0, update.new);
        record.addresses.truncate(usize::from(MAX_ADDRESSES));
    }
}
