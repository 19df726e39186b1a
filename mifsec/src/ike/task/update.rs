//! MIF_UPDATE_ADDRS (protocol 3.7): an interface of its sender moves, with all
//! Child SAs on it, or the sender chooses one of the receiver's alternates. One
//! message, no SPI list; SPIs, keys and counters stay, and so does the path a Child
//! SA is at home on: what changes is which interface carries which.

mod carried;
mod respond;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::ids::{Family, IfaceId};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{End, Event};
use crate::ike::fault::Fault;
use crate::ike::message::{NotifyType, Payload};
use crate::ike::mif::{Features, Maddr, MaddrFlags, UpdateAddrs, UpdateFlags, error};
use crate::ike::sa::IkeSa;

use super::{Received, Task, interfaces};

use carried::Carried;

pub(super) use respond::respond;

/// Moves of both ends.
#[derive(Debug, Clone, Default)]
pub(in crate::ike) struct Moves {
    /// The peer's last one of each interface: its own, and ours that it chose.
    last: BTreeMap<(End, IfaceId), UpdateAddrs>,
    /// Which interface carries which.
    pub(in crate::ike) carried: Carried,
    /// To whom interfaces of the peer lend by its own word: what it said, and what it
    /// accepted. One without an entry is at home.
    agreed: BTreeMap<IfaceId, IfaceId>,
    /// Ours that are not answered yet, oldest first, under whatever keys they went.
    asked: Vec<Update>,
}

impl Moves {
    fn answered(&mut self, update: &Update) {
        self.asked.retain(|asked| asked.txn != update.txn);
    }

    /// Entries held because of the peer.
    #[cfg(test)]
    pub(in crate::ike) fn remembered(&self) -> usize {
        self.last.len().max(self.carried.len())
    }
}

/// A move of one of our interfaces or of the IKE channel, or a choice among the
/// peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ike) struct Update {
    /// Given when the request is built: later operations have higher ones.
    txn: Option<u32>,
    pub(in crate::ike) flags: UpdateFlags,
    grace: Duration,
    old_iface: IfaceId,
    new_iface: IfaceId,
    old: Maddr,
    new: Maddr,
    /// Epoch of the table that goes with it.
    epoch: Option<u32>,
    /// How often it was refused for the moment.
    attempts: u32,
    /// The last word of the owner of a chosen interface when it was chosen.
    owner: Option<u32>,
}

impl Update {
    /// From one interface and address to another.
    pub(in crate::ike) fn new(
        (old_iface, new_iface): (IfaceId, IfaceId),
        (old, new): (Maddr, Maddr),
    ) -> Self {
        Self {
            txn: None,
            flags: UpdateFlags::default(),
            grace: Duration::ZERO,
            old_iface,
            new_iface,
            old,
            new,
            epoch: None,
            attempts: 0,
            owner: None,
        }
    }

    /// With these flags and this grace.
    pub(in crate::ike) fn with(mut self, flags: UpdateFlags, grace: Duration) -> Self {
        (self.flags, self.grace) = (flags, grace);
        self
    }

    /// Carries it out at this end.
    pub(in crate::ike) fn lend(mut self, end: End, sa: &mut IkeSa, cx: &mut Context) -> Self {
        if end == End::Remote {
            self.flags = self.flags.with(UpdateFlags::SELECT_PEER);
            self.owner = sa.last_word(self.old_iface);
            (self.old.port, self.new.port) = (0, 0);
            self.new.ip = sa.announced(self.new_iface, self.new.ip);
        }
        let named = (sa.named(end, self.old_iface), sa.named(end, self.new_iface));
        let circles = |mif: &interfaces::Mif| mif.moves.carried.circles(end, named.0, named.1);
        if sa.mif.as_ref().is_some_and(circles) {
            sa.send_home(&self, end, cx);
        }
        sa.carry(end, self.old_iface, self.new_iface, cx);
        self
    }

    /// Our address that it moves from, of an interface of ours.
    pub(super) fn left(&self) -> Option<IpAddr> {
        (self.end() == End::Local).then_some(self.old.ip)
    }

    /// Whose interfaces it names.
    fn end(&self) -> End {
        match self.flags.has(UpdateFlags::SELECT_PEER) {
            true => End::Remote,
            false => End::Local,
        }
    }

    /// Whether both are about one interface or both about the channel: such are
    /// asked one after the other, so that the last one wins (protocol 3.11).
    pub(super) fn concerns(&self, other: &Self) -> bool {
        let ifaces = [other.old_iface, other.new_iface];
        let common = ifaces.contains(&self.old_iface) || ifaces.contains(&self.new_iface);
        let channel = UpdateFlags::IKE_CHANNEL;
        common && self.end() == other.end() || self.flags.has(channel) && other.flags.has(channel)
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
            (self.new, self.grace, self.owner) = (later.new, later.grace, later.owner);
        }
        absorbs
    }

    /// What it says, once it has a number.
    fn content(&self) -> Option<UpdateAddrs> {
        Some(UpdateAddrs {
            txn: self.txn?,
            flags: self.flags,
            grace_ms: u16::try_from(self.grace.as_millis()).unwrap_or(u16::MAX),
            old_iface: self.old_iface,
            new_iface: self.new_iface,
            old: self.old,
            new: self.new,
        })
    }

    /// The request; nothing for a peer that cannot follow.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        let meant = self.is_meant(sa);
        let mif = sa.mif.as_mut()?;
        if !meant {
            mif.moves.answered(self);
            return None;
        }
        if !mif.features.has(Features::UPDATE) {
            return None;
        }
        self.txn.get_or_insert_with(|| {
            let txn = mif.next_txn;
            mif.next_txn = mif.next_txn.wrapping_add(1);
            txn
        });
        if mif.moves.asked.iter().all(|asked| asked.txn != self.txn) {
            mif.moves.asked.push(self.clone());
        }
        let update = self.content()?.notify();
        // A move to an interface the peer may not know yet takes the table along:
        // requests may overtake each other within the window.
        let table = interfaces::table_if_unconfirmed(mif, cx);
        self.epoch = table.as_ref().map(|(epoch, _)| *epoch);
        let table = table.map(|(_, notify)| notify);
        Some(
            table
                .into_iter()
                .chain([update])
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
            respond::withdrawn(&self, sa, &received.payloads, cx);
            if self.end() == End::Remote && sa.last_word(self.old_iface) == self.owner {
                sa.agree(self.old_iface, self.new_iface);
            }
            return self.end_of(sa);
        };
        // The owner of what was chosen has spoken since: that is what holds.
        if self.end() == End::Remote && sa.last_word(self.old_iface) != self.owner {
            cx.count("mif_select_overtaken");
            return self.end_of(sa);
        }
        let passing = [NotifyType::TEMPORARY_FAILURE, error::MIF_UNKNOWN_INTERFACE];
        let again = passing.contains(&refusal.kind) && sa.postpone(self.attempts, cx);
        if again {
            self.attempts += 1;
            return sa.postponed.push(Task::Update(self));
        }
        self.end_of(sa);
        // While it waited a later move was made, which is what holds.
        let last = sa.mif.as_ref().map(|mif| mif.next_txn.wrapping_sub(1));
        if self.txn != last && refusal.kind == error::MIF_STALE_TXN {
            return;
        }
        if self.end() == End::Remote {
            sa.undo(&self, cx);
        }
        cx.event(Event::MoveRefused {
            ike: sa.id,
            iface: self.old_iface,
            reason: Failure::from_notify(refusal.kind, false),
        });
    }

    /// Whether it still holds when it is to be asked. If not a later word on the
    /// interface was given meanwhile: ours, which is asked by itself, or its owner's.
    fn is_meant(&self, sa: &IkeSa) -> bool {
        let Some(mif) = &sa.mif else {
            return false;
        };
        match self.end() {
            End::Remote => {
                let (old, new) = (self.old_iface, self.new_iface);
                let lent_to = mif
                    .moves
                    .carried
                    .lent_to(End::Remote, sa.named(End::Remote, old));
                lent_to == sa.named(End::Remote, new) && sa.last_word(old) == self.owner
            }
            End::Local if self.txn.is_none() || !self.flags.has(UpdateFlags::TUNNEL) => true,
            End::Local => {
                let lent_to = mif.moves.carried.lent_to(End::Local, self.old_iface);
                self.old_iface == IfaceId::CHANNEL || lent_to == self.new_iface
            }
        }
    }

    /// There will be no further answer to it.
    fn end_of(&self, sa: &mut IkeSa) {
        if let Some(mif) = &mut sa.mif {
            mif.moves.answered(self);
        }
    }

    /// Whether it is a word on this interface.
    fn is_about(&self, end: End, iface: IfaceId) -> bool {
        let tunnel = self.flags.has(UpdateFlags::TUNNEL);
        tunnel && (self.end(), self.old_iface) == (end, iface)
    }
}

impl IkeSa {
    /// `iface` lends to `by` from now; the agent is told of each interface whose
    /// carrier is another.
    pub(super) fn carry(&mut self, end: End, iface: IfaceId, by: IfaceId, cx: &mut Context) {
        let merges = iface != by && cx.faulty(Fault::NoMerge);
        if merges || end == End::Local && cx.faulty(Fault::StayWhereWeAre) {
            return;
        }
        let (iface, by) = (self.named(end, iface), self.named(end, by));
        let Some(mif) = &mut self.mif else {
            return;
        };
        for (iface, by) in mif.moves.carried.lend(end, iface, by) {
            cx.event(Event::Carried {
                ike: self.id,
                end,
                iface,
                by,
            });
        }
    }

    /// The interface is deleted: it lends to nobody, and who lent to it lends to
    /// whoever carried it, else is at home.
    pub(in crate::ike) fn vacate(&mut self, end: End, iface: IfaceId, cx: &mut Context) {
        let carried = self.mif.as_ref().map(|mif| &mif.moves.carried);
        let Some((next, lenders)) =
            carried.map(|carried| (carried.lent_to(end, iface), carried.lenders(end, iface)))
        else {
            return;
        };
        for lender in lenders {
            let by = if next == iface { lender } else { next };
            self.carry(end, lender, by, cx);
            if end == End::Remote {
                self.agree(lender, by);
            }
        }
        self.carry(end, iface, iface, cx);
        if end == End::Remote {
            self.agree(iface, iface);
        }
    }

    /// The interface that 0 stands for, if that is known.
    fn named(&self, end: End, iface: IfaceId) -> IfaceId {
        match (iface, end) {
            (IfaceId::CHANNEL, End::Local) => self.channel.local_iface,
            (IfaceId::CHANNEL, End::Remote) => self.channel_peer,
            (known, _) => known,
        }
    }

    /// Whether we gave a word on this interface that is not answered yet.
    fn is_under_way(&self, end: End, iface: IfaceId) -> bool {
        let asked = self.mif.iter().flat_map(|mif| &mif.moves.asked);
        let about = |task: &Task| matches!(task, Task::Update(u) if u.is_about(end, iface));
        asked.into_iter().any(|asked| asked.is_about(end, iface)) || self.queue.iter().any(about)
    }

    /// What is to carry `update`'s interface was lent to it: it takes its own back.
    fn send_home(&mut self, update: &Update, end: End, cx: &mut Context) {
        let ifaces = (update.new_iface, update.new_iface);
        let scope = UpdateFlags::TUNNEL.with(UpdateFlags::MAKE_BEFORE_BREAK);
        let home = Update::new(ifaces, (update.new, update.new))
            .with(scope, update.grace)
            .lend(end, self, cx);
        self.submit(Task::Update(Box::new(home)), cx);
    }

    /// The peer says or accepts that `iface` of its own lends to `by`.
    fn agree(&mut self, iface: IfaceId, by: IfaceId) {
        let (iface, by) = (self.named(End::Remote, iface), self.named(End::Remote, by));
        if let Some(mif) = &mut self.mif {
            mif.moves.agreed.insert(iface, by);
        }
    }

    /// The peer does not have its interface chosen so: it is where the peer has it,
    /// unless it was chosen otherwise since.
    fn undo(&mut self, update: &Update, cx: &mut Context) {
        let iface = self.named(End::Remote, update.old_iface);
        let by = self.named(End::Remote, update.new_iface);
        let Some(moves) = self.mif.as_ref().map(|mif| &mif.moves) else {
            return;
        };
        if moves.carried.lent_to(End::Remote, iface) == by {
            let agreed = moves.agreed.get(&iface).copied().unwrap_or(iface);
            self.carry(End::Remote, iface, agreed, cx);
        }
    }

    /// Number of the peer's last move of this interface of its own.
    fn last_word(&self, iface: IfaceId) -> Option<u32> {
        let last = &self.mif.as_ref()?.moves.last;
        last.get(&(End::Remote, iface)).map(|last| last.txn)
    }

    /// An address the peer announced for this interface: `wanted` if that is one,
    /// else its best of that family. It may be a label, if a NAT is in between.
    fn announced(&self, iface: IfaceId, wanted: IpAddr) -> IpAddr {
        let records = self.mif.iter().flat_map(|mif| &mif.peer_ifaces);
        let addresses: Vec<_> = records
            .filter(|record| record.id == iface)
            .flat_map(|record| record.addresses.iter().map(|maddr| maddr.ip))
            .collect();
        let like = |ip: &&IpAddr| Family::of(**ip) == Family::of(wanted);
        match addresses.contains(&wanted) {
            true => wanted,
            false => *addresses.iter().find(like).unwrap_or(&wanted),
        }
    }

    /// Which interfaces carry others.
    pub(in crate::ike) fn carried(&self) -> impl Iterator<Item = (End, IfaceId, IfaceId)> {
        self.mif.iter().flat_map(|mif| mif.moves.carried.iter())
    }
}

/// One of our addresses in a notify.
pub(in crate::ike) fn maddr(ip: IpAddr, port: u16, behind_nat: bool) -> Maddr {
    let flags = if behind_nat {
        MaddrFlags::BEHIND_NAT
    } else {
        MaddrFlags::default()
    };
    Maddr { flags, port, ip }
}
