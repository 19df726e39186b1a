//! MIF_DELETE_INTERFACE (protocol 3.9): an interface of its sender goes, with all
//! SAs on it; or these move to its first alternate and live on there.
//!
//! ```text
//!  request   SK{[N(MIF_INTERFACES)], N(MIF_DELETE_INTERFACE)}
//!  response  SK{[D]}
//!        or  SK{N(error)}
//! ```
//! The sender announces the interface no more; the receiver forgets it. Both find
//! the SAs by themselves; D names those the receiver removed, so where the two
//! differ an ordinary Delete brings them together again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ids::{ChildId, IfaceId, IfacePair, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{End, Event, SaRequest};
use crate::ike::fault::Fault;
use crate::ike::message::{Delete, MAX_DELETED, Notify, NotifyType, Payload};
use crate::ike::mif::{DeleteFlags, DeleteInterface, Features, error, status};
use crate::ike::sa::IkeSa;
use crate::ike::selector::{self, TrafficSelector};

use super::alternates::Tell;
use super::interfaces::Mif;
use super::{Received, Task, add, interfaces};

/// An interface of ours that goes.
pub(in crate::ike) struct Remove {
    iface: IfaceId,
    flags: DeleteFlags,
    /// Where SAs go that live on, as both ends find it when the request is made.
    refuge: Option<IfaceId>,
    /// Epoch of the table that goes with it.
    epoch: Option<u32>,
    attempts: u32,
}

impl Remove {
    pub(in crate::ike) fn new(iface: IfaceId, flags: DeleteFlags) -> Self {
        Self {
            iface,
            flags,
            refuge: None,
            epoch: None,
            attempts: 0,
        }
    }

    /// Whether both ask for the same.
    pub(super) fn serves(&self, other: &Self) -> bool {
        (self.iface, self.flags) == (other.iface, other.flags)
    }

    /// The request; nothing when it cannot be.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        if let Some(reason) = self.obstacle(sa, cx) {
            self.refused(reason, sa, cx);
            return None;
        }
        // The peer still has the interface in the table it chooses from.
        self.refuge = refuge(End::Local, self.iface, self.flags, sa, cx);
        let mif = sa.mif.as_mut()?;
        let txn = mif.next_txn;
        mif.next_txn = mif.next_txn.wrapping_add(1);
        let delete = DeleteInterface {
            txn,
            flags: self.flags,
            iface: self.iface,
        };
        // An older table that comes late must not bring it back.
        let table = interfaces::table_if_unconfirmed(mif, cx);
        self.epoch = table.as_ref().map(|(epoch, _)| *epoch);
        if is_whole(self.flags) {
            withhold(self.iface, true, sa, cx);
        }
        let table = table.map(|(_, notify)| notify);
        let notifies = table.into_iter().chain([delete.notify()]);
        Some(notifies.map(Payload::Notify).collect())
    }

    fn obstacle(&self, sa: &IkeSa, cx: &Context) -> Option<Failure> {
        let mif = sa
            .mif
            .as_ref()
            .filter(|mif| mif.features.has(Features::DELETE_IF));
        if mif.is_none() {
            return Some(Failure::Unsupported);
        }
        let moves = self.flags.has(DeleteFlags::MOVE_TO_ALTERNATE_FIRST);
        let stranded = moves && refuge(End::Local, self.iface, self.flags, sa, cx).is_none();
        (sa.channel.local_iface == self.iface || stranded).then_some(Failure::PathUnvalidated)
    }

    /// The response: the peer has removed its side.
    pub(super) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let refusal = received.payloads.error();
        // A table without it came first, and nothing was on it there.
        let gone = |refusal: &&Notify| refusal.kind == error::MIF_UNKNOWN_INTERFACE;
        if let Some(refusal) = refusal.filter(|refusal| !gone(refusal)) {
            // Until it is asked again the interface is there, for the peer too: a
            // table without it may have gone with something else.
            bring_back(self.iface, sa, cx);
            let passing = refusal.kind == NotifyType::TEMPORARY_FAILURE;
            if passing && sa.postpone(self.attempts, cx) {
                self.attempts += 1;
                return sa.postponed.push(Task::Remove(self));
            }
            return self.refused(Failure::from_notify(refusal.kind, false), sa, cx);
        }
        if let Some(mif) = &mut sa.mif {
            mif.confirm(self.epoch);
        }
        let named: BTreeSet<Spi> = received
            .payloads
            .deletes()
            .filter_map(|delete| match delete {
                Delete::Esp(spis) => Some(spis),
                Delete::Ike | Delete::Other(_) => None,
            })
            .flatten()
            .copied()
            .collect();
        let fate = Fate::of(End::Local, self.iface, self.flags, self.refuge, sa, cx);
        let mut removed = 0;
        for id in &fate.gone {
            let there = sa.children.get(id).map(|child| child.spi_out);
            match there {
                Some(spi) if named.contains(&spi) => removed += usize::from(take(*id, sa, cx)),
                // Not removed there, or by a Delete of its own.
                _ => sa.delete_child(*id, cx),
            }
        }
        let others = sa
            .children
            .values()
            .filter(|child| named.contains(&child.spi_out));
        let others: Vec<ChildId> = others.map(|child| child.id).collect();
        for id in others {
            cx.count("mif_deleted_elsewhere");
            removed += usize::from(take(id, sa, cx));
        }
        fate.settle(sa, cx);
        if is_whole(self.flags) || !sa.is_home(End::Local, self.iface) {
            forget(End::Local, self.iface, sa, cx);
            self.note_gone(sa, cx);
        }
        release(End::Local, self.iface, sa, cx);
        cx.event(Event::InterfaceDeleted {
            ike: sa.id,
            end: End::Local,
            iface: self.iface,
            removed,
        });
    }

    /// The peer knows of it no more; what was said meanwhile comes after that.
    fn note_gone(&self, sa: &mut IkeSa, cx: &mut Context) {
        let restored = |mif: &Mif| !mif.operations.withheld.contains(&self.iface);
        let restored = is_whole(self.flags) && sa.mif.as_ref().is_some_and(restored);
        withhold(self.iface, true, sa, cx);
        if restored {
            bring_back(self.iface, sa, cx);
        }
    }

    fn refused(&self, reason: Failure, sa: &IkeSa, cx: &mut Context) {
        cx.event(Event::DeleteRefused {
            ike: sa.id,
            iface: self.iface,
            reason,
        });
    }
}

/// Whether this peer is not to know of an interface of ours, in this IKE SA and in
/// those that follow it; whether that is new.
pub(super) fn withhold(iface: IfaceId, deleted: bool, sa: &mut IkeSa, cx: &mut Context) -> bool {
    cx.note_deleted(sa, iface, deleted);
    let withheld = sa.mif.as_mut().map(|mif| &mut mif.operations.withheld);
    withheld.is_some_and(|withheld| match deleted {
        true => withheld.insert(iface),
        false => withheld.remove(&iface),
    })
}

/// A deleted interface is announced again. If its deletion is still to be asked for
/// it is not.
pub(in crate::ike) fn restore(iface: IfaceId, sa: &mut IkeSa, cx: &mut Context) {
    let queued: Vec<_> = sa.queue.take().collect();
    let (deletes, rest): (Vec<_>, Vec<_>) = queued.into_iter().partition(|t| is_of(t, iface));
    for task in rest {
        sa.queue.push(task);
    }
    let postponed = sa.postponed.extract_if(.., |task| is_of(task, iface));
    let called_off: Vec<Task> = postponed.chain(deletes).collect();
    for task in called_off {
        if let Task::Remove(remove) = task {
            remove.refused(Failure::CalledOff, sa, cx);
        }
    }
    bring_back(iface, sa, cx);
    sa.pump(cx);
}

/// If the interface was deleted it is in the next table, with what stands in for it.
pub(super) fn bring_back(iface: IfaceId, sa: &mut IkeSa, cx: &mut Context) {
    if withhold(iface, false, sa, cx) {
        cx.epoch = cx.epoch.wrapping_add(1);
        sa.queue.push(Task::Announce(None));
        sa.queue.push(Task::Alternates(Tell::default()));
    }
}

fn is_of(task: &Task, iface: IfaceId) -> bool {
    matches!(task, Task::Remove(remove) if remove.iface == iface)
}

/// Asks for it. What was to be made on the interface and waits for its turn, or for
/// the time to ask again, is not made any more.
pub(in crate::ike) fn submit(remove: Remove, sa: &mut IkeSa, cx: &mut Context) {
    let iface = remove.iface;
    let queued = sa.queue.take().map(|task| (false, task));
    let mut waiting: Vec<_> = queued.collect();
    waiting.extend(sa.postponed.drain(..).map(|task| (true, task)));
    for (postponed, task) in waiting {
        match task {
            Task::Add(add) if add.iface() == iface => add.deleted(sa, cx),
            Task::Child(create) if create.rekeys().is_none() && create.iface(sa) == iface => {
                create.deleted(sa, cx);
            }
            task if postponed => sa.postponed.push(task),
            task => sa.queue.push(task),
        }
    }
    sa.submit(Task::Remove(Box::new(remove)), cx);
}

impl IkeSa {
    /// Whether a Child SA is at home on the interface.
    fn is_home(&self, end: End, iface: IfaceId) -> bool {
        let mut pairs = self.children.values().map(|c| self.named_pair(c.pair));
        pairs.any(|pair| match end {
            End::Local => pair.local == iface,
            End::Remote => pair.remote == iface,
        })
    }

    /// Whether a request to delete this interface of ours waits to be sent.
    pub(super) fn is_to_go(&self, iface: IfaceId) -> bool {
        self.queue.iter().any(|task| is_of(task, iface))
    }
}

/// The response to MIF_DELETE_INTERFACE; nothing if there is none in the message.
pub(super) fn respond(sa: &mut IkeSa, cx: &mut Context, received: &Received) -> Vec<Payload> {
    let notify = received.payloads.notify(status::MIF_DELETE_INTERFACE);
    let Some(notify) = notify.filter(|_| sa.mif.is_some()) else {
        return Vec::new();
    };
    match carry_out(notify, sa, cx, received) {
        Ok(spis) => spis
            .chunks(MAX_DELETED)
            .map(|spis| Payload::Delete(Delete::Esp(spis.to_vec())))
            .collect(),
        Err(kind) => {
            cx.count("mif_delete_refused");
            vec![Payload::Notify(Notify::new(kind, Vec::new()))]
        }
    }
}

/// Removes what is on the peer's interface; gives our inbound SPIs.
fn carry_out(
    notify: &Notify,
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Result<Vec<Spi>, NotifyType> {
    let mif = sa.mif.as_ref().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.features.has(Features::DELETE_IF) {
        return Err(error::MIF_UNSUPPORTED);
    }
    let delete = DeleteInterface::decode(&notify.data).map_err(|error| {
        cx.count(error.reason());
        error.notify_type()
    })?;
    let iface = delete.iface;
    add::busy(sa, cx, received)?;
    let mif = sa.mif.as_ref().ok_or(error::MIF_UNSUPPORTED)?;
    if mif.operations.deleted.contains(&iface) {
        return Ok(Vec::new());
    }
    if !sa.peer_has(iface) {
        return Err(error::MIF_UNKNOWN_INTERFACE);
    }
    let moves = delete.flags.has(DeleteFlags::MOVE_TO_ALTERNATE_FIRST);
    let refuge = refuge(End::Remote, iface, delete.flags, sa, cx);
    let stranded = moves && refuge.is_none();
    if sa.named_channel_peer() == iface || stranded {
        return Err(error::MIF_PATH_UNVALIDATED);
    }
    let mif = sa.mif.as_mut().ok_or(error::MIF_UNSUPPORTED)?;
    if !mif.operations.admit(iface, delete.txn) {
        return Err(error::MIF_STALE_TXN);
    }
    let mut fate = Fate::of(End::Remote, iface, delete.flags, refuge, sa, cx);
    if cx.faulty(Fault::KeepDeleted) {
        fate.gone.clear();
    }
    let mut spis = Vec::with_capacity(fate.gone.len());
    for id in &fate.gone {
        let spi = sa.children.get(id).map(|child| child.spi_in);
        if take(*id, sa, cx) {
            spis.extend(spi);
        }
    }
    fate.settle(sa, cx);
    if is_whole(delete.flags) || !sa.is_home(End::Remote, iface) {
        forget(End::Remote, iface, sa, cx);
    }
    release(End::Remote, iface, sa, cx);
    cx.event(Event::InterfaceDeleted {
        ike: sa.id,
        end: End::Remote,
        iface,
        removed: spis.len(),
    });
    Ok(spis)
}

/// Where SAs of an interface go that are to live on: to whoever carries them
/// already, else to the first alternate.
fn refuge(
    end: End,
    iface: IfaceId,
    flags: DeleteFlags,
    sa: &IkeSa,
    cx: &Context,
) -> Option<IfaceId> {
    if !flags.has(DeleteFlags::MOVE_TO_ALTERNATE_FIRST) {
        return None;
    }
    let mut lent = sa
        .carried()
        .filter(|(of, lent, _)| (*of, *lent) == (end, iface));
    let carrier = lent.next().map(|(.., by)| by);
    let first = || sa.alternates(end, iface, cx).first().copied();
    carrier.filter(|by| *by != iface).or_else(first)
}

/// What becomes of the SAs of an interface.
struct Fate {
    gone: Vec<ChildId>,
    /// With their new path.
    moved: Vec<(ChildId, IfacePair)>,
}

impl Fate {
    fn of(
        end: End,
        iface: IfaceId,
        flags: DeleteFlags,
        refuge: Option<IfaceId>,
        sa: &IkeSa,
        cx: &Context,
    ) -> Self {
        let addresses = addresses(end, iface, sa, cx);
        let mut fate = Self {
            gone: Vec::new(),
            moved: Vec::new(),
        };
        let mut ids: Vec<_> = sa.children.keys().copied().collect();
        ids.sort();
        for id in ids {
            let Some(child) = sa.children.get(&id) else {
                continue;
            };
            let pair = sa.named_pair(child.pair);
            let (near, near_ts) = match end {
                End::Local => (pair.local, &child.ts_local),
                End::Remote => (pair.remote, &child.ts_remote),
            };
            let is_of = |ts: &TrafficSelector| ts.is_host() && addresses.contains(&ts.start());
            let outer = flags.has(DeleteFlags::OUTER) && near == iface;
            let inner = flags.has(DeleteFlags::TS) && near_ts.iter().any(is_of);
            let Some(to) = refuge.filter(|_| near == iface) else {
                if outer || inner {
                    fate.gone.push(id);
                }
                continue;
            };
            let to = match end {
                End::Local => IfacePair { local: to, ..pair },
                End::Remote => IfacePair { remote: to, ..pair },
            };
            // Of a bundle there is one for that path, as a rule.
            let equal = sa.children.values().any(|other| {
                sa.named_pair(other.pair) == to
                    && other.is_current()
                    && selector::equal(&other.ts_local, &child.ts_local)
                    && selector::equal(&other.ts_remote, &child.ts_remote)
            });
            match equal {
                true => fate.gone.push(id),
                false => fate.moved.push((id, to)),
            }
        }
        fate
    }

    /// Those that live on are at home on their new path.
    fn settle(&self, sa: &mut IkeSa, cx: &mut Context) {
        for (id, pair) in &self.moved {
            if let Some(child) = sa.children.get_mut(id) {
                child.pair = *pair;
                cx.request(SaRequest::Rebind {
                    child: *id,
                    pair: *pair,
                });
            }
        }
    }
}

/// What selectors may have of an interface: its addresses, and those leased for it.
fn addresses(end: End, iface: IfaceId, sa: &IkeSa, cx: &Context) -> Vec<IpAddr> {
    let Some(mif) = &sa.mif else {
        return Vec::new();
    };
    let table = match end {
        End::Local => &cx.ifaces,
        End::Remote => &mif.peer_ifaces,
    };
    let record = table.iter().find(|record| record.id == iface);
    let outer = record.into_iter().flat_map(|record| &record.addresses);
    let outer = outer.map(|maddr| maddr.ip);
    let of_caller = sa.caller == (end == End::Local);
    let leased = mif.operations.leased.get(&iface).filter(|_| of_caller);
    outer.chain(leased.into_iter().flatten().copied()).collect()
}

/// Removes one; whether it was there.
fn take(id: ChildId, sa: &mut IkeSa, cx: &mut Context) -> bool {
    let child = sa.children.remove(&id);
    let there = child.is_some();
    if let Some(child) = child {
        // What is on its way over that interface is still taken: others may be faster.
        cx.request(SaRequest::Retire { child: id });
        sa.linger(child.spi_in, Some(id), cx);
    }
    there
}

/// Whether it leaves nothing on the interface, whatever there is: no path is needed
/// there any more.
fn is_whole(flags: DeleteFlags) -> bool {
    flags.has(DeleteFlags::OUTER) || flags.has(DeleteFlags::MOVE_TO_ALTERNATE_FIRST)
}

/// Nothing is known of the interface any more.
fn forget(end: End, iface: IfaceId, sa: &mut IkeSa, cx: &mut Context) {
    sa.vacate(end, iface, cx);
    let Some(mif) = &mut sa.mif else {
        return;
    };
    if end == End::Local {
        mif.lists.gone(iface);
    } else {
        mif.peer_ifaces.retain(|record| record.id != iface);
        mif.absent.remove(&iface);
        mif.operations.forget(iface);
    }
    sa.forget_interfaces(cx);
}

/// What was leased for the interface and is not in use is free again.
fn release(end: End, iface: IfaceId, sa: &mut IkeSa, cx: &mut Context) {
    let of_caller = sa.caller == (end == End::Local);
    let Some(mif) = &mut sa.mif else {
        return;
    };
    let leased = match of_caller {
        true => mif.operations.leased.remove(&iface).unwrap_or_default(),
        false => Vec::new(),
    };
    let used = |ip: &IpAddr| {
        let ends = sa
            .children
            .values()
            .flat_map(|c| c.ts_local.iter().chain(&c.ts_remote));
        ends.into_iter().any(|ts| ts.is_host() && ts.start() == *ip)
    };
    let free: Vec<_> = leased.into_iter().filter(|ip| !used(ip)).collect();
    sa.leases.retain(|ip| !free.contains(ip));
    add::release(sa, cx, &free);
}
