//! MIF_ALTERNATES (protocol 3.9): which interfaces stand in for which, as their
//! owner says, else by the default rule. Either peer may move what is on an
//! interface to one of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::IfaceId;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{End, Event};
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::mif::{Alternates, Features, MAX_RECORDS, default_list, error};
use crate::ike::sa::IkeSa;

use super::{Received, Task, interfaces};

/// What both ends said.
pub(in crate::ike) struct Lists {
    /// Most alternates the peer keeps of one of our interfaces.
    most: u8,
    /// Ours.
    own: BTreeMap<IfaceId, Vec<IfaceId>>,
    /// Ours as the peer has them.
    confirmed: BTreeMap<IfaceId, Vec<IfaceId>>,
    /// Ours of which the peer may have anything: they had a list and were gone.
    unsure: BTreeSet<IfaceId>,
    /// Number of our last statement.
    epoch: u32,
    /// The peer's, each with its number.
    peer: BTreeMap<IfaceId, (u32, Option<Vec<IfaceId>>)>,
}

impl Lists {
    /// None yet, of a peer that keeps so many alternates of an interface.
    pub(super) fn new(most: u8) -> Self {
        Self {
            most,
            own: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            unsure: BTreeSet::new(),
            epoch: 0,
            peer: BTreeMap::new(),
        }
    }

    /// Forgets the peer's of interfaces that are none any more, once there are more
    /// than a table has room for: one that comes back has the list it had, because
    /// its owner does not tell it again.
    pub(super) fn retain(&mut self, is_one: impl Fn(IfaceId) -> bool) {
        if self.peer.len() > MAX_RECORDS {
            self.peer.retain(|iface, _| is_one(*iface));
        }
    }

    /// An interface of ours is not in the peer's table: it may forget what it was told.
    pub(super) fn gone(&mut self, iface: IfaceId) {
        if self.confirmed.remove(&iface).is_some() {
            self.unsure.insert(iface);
        }
    }

    fn explicit(&self, end: End, iface: IfaceId) -> Option<&Vec<IfaceId>> {
        match end {
            End::Local => self.own.get(&iface),
            End::Remote => self.peer.get(&iface)?.1.as_ref(),
        }
    }
}

impl IkeSa {
    /// Who stands in for `iface`, best first: those its owner listed that can carry
    /// traffic, else by the default rule if both ends have it.
    pub(in crate::ike) fn alternates(
        &self,
        end: End,
        iface: IfaceId,
        cx: &Context,
    ) -> Vec<IfaceId> {
        let Some(mif) = &self.mif else {
            return Vec::new();
        };
        let table = match end {
            End::Local => mif.our_table(cx).0.records,
            End::Remote => mif.peer_table(iface),
        };
        let usable = |id: &IfaceId| {
            let mut records = table.iter().filter(|record| record.id == *id);
            records.any(|record| record.state.is_usable())
        };
        match mif.lists.explicit(end, iface) {
            Some(list) => list.iter().copied().filter(usable).collect(),
            None if mif.features.has(Features::DEFAULT_MULTIHOMING) => default_list(&table, iface),
            None => Vec::new(),
        }
    }
}

/// MIF_ALTERNATES of all interfaces in our table of which the peer does not have our
/// word.
#[derive(Default)]
pub(in crate::ike) struct Tell {
    /// What is told, once it is built.
    told: BTreeMap<IfaceId, Option<Vec<IfaceId>>>,
    /// Epoch of the table that goes with it.
    epoch: Option<u32>,
    /// How often it was refused for the moment.
    attempts: u32,
}

/// The agent says which of our interfaces stand in for which. What the peer does not
/// keep of it does not count here either.
pub(in crate::ike) fn set(
    sa: &mut IkeSa,
    cx: &mut Context,
    mut lists: BTreeMap<IfaceId, Vec<IfaceId>>,
) {
    let Some(mif) = sa.mif.as_mut() else {
        return;
    };
    let most = usize::from(mif.lists.most);
    lists.values_mut().for_each(|list| list.truncate(most));
    mif.lists.own = lists;
    if sa.is_established() {
        sa.submit(Task::Alternates(Tell::default()), cx);
    }
}

impl Tell {
    /// `SK{[N(MIF_INTERFACES)], N(MIF_ALTERNATES) x n}`; nothing for a peer that has
    /// it all or does not know the notify.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        let mif = sa.mif.as_mut()?;
        if !mif.features.has(Features::ALTERNATES) {
            return None;
        }
        // Of an interface that is not there the peer takes none: it is told when
        // it comes.
        let table = mif.our_table(cx).0.records;
        let mut ifaces: Vec<_> = table.iter().map(|record| record.id).collect();
        ifaces.sort();
        let lists = &mut mif.lists;
        let confirmed: Vec<_> = lists.confirmed.keys().copied().collect();
        for iface in confirmed {
            if !ifaces.contains(&iface) {
                lists.gone(iface);
            }
        }
        ifaces.retain(|iface| {
            lists.own.get(iface) != lists.confirmed.get(iface) || lists.unsure.contains(iface)
        });
        if ifaces.is_empty() {
            return None;
        }
        lists.epoch = lists.epoch.wrapping_add(1);
        let (epoch, most) = (lists.epoch, lists.most);
        let own = |iface: IfaceId| (iface, lists.own.get(&iface).cloned());
        self.told = ifaces.into_iter().map(own).collect();
        let statement = |(iface, list): (&IfaceId, &Option<Vec<IfaceId>>)| {
            let (iface, list) = (*iface, list.clone());
            Alternates { epoch, iface, list }.notify(most)
        };
        let statements: Vec<_> = self.told.iter().map(statement).collect();
        let table = interfaces::table_if_unconfirmed(mif, cx);
        self.epoch = table.as_ref().map(|(epoch, _)| *epoch);
        let table = table.map(|(_, notify)| notify);
        let notifies = table.into_iter().chain(statements);
        Some(notifies.map(Payload::Notify).collect())
    }

    /// The response.
    pub(super) fn process(mut self, sa: &mut IkeSa, cx: &mut Context, received: &Received) {
        let Some(refusal) = received.payloads.error() else {
            if let Some(mif) = &mut sa.mif {
                mif.confirm(self.epoch);
                for (iface, list) in self.told {
                    mif.lists.unsure.remove(&iface);
                    match list {
                        Some(list) => mif.lists.confirmed.insert(iface, list),
                        None => mif.lists.confirmed.remove(&iface),
                    };
                }
            }
            return;
        };
        let passing = [NotifyType::TEMPORARY_FAILURE, error::MIF_UNKNOWN_INTERFACE];
        if passing.contains(&refusal.kind) && sa.postpone(self.attempts, cx) {
            self.attempts += 1;
            return sa.postponed.push(Task::Alternates(self));
        }
        cx.event(Event::MoveRefused {
            ike: sa.id,
            end: End::Local,
            iface: IfaceId::CHANNEL,
            reason: Failure::from_notify(refusal.kind, false),
        });
    }
}

/// The peer's list of one of its interfaces. The answer is an error or nothing.
pub(super) fn respond(notify: &Notify, sa: &mut IkeSa, cx: &mut Context) -> Option<Notify> {
    let mif = sa.mif.as_ref()?;
    if !mif.features.has(Features::ALTERNATES) {
        return Some(Notify::new(error::MIF_UNSUPPORTED, Vec::new()));
    }
    let statement = match Alternates::decode(&notify.data) {
        Ok(statement) => statement,
        Err(error) => {
            cx.count(error.reason());
            return Some(Notify::new(error.notify_type(), Vec::new()));
        }
    };
    let Alternates { epoch, iface, .. } = statement;
    if !sa.peer_has(iface) {
        return Some(Notify::new(error::MIF_UNKNOWN_INTERFACE, Vec::new()));
    }
    let mif = sa.mif.as_mut()?;
    let known = mif.lists.peer.get(&iface);
    // A late one is answered like the one that came before it.
    if known.is_some_and(|(known, _)| !statement.is_newer_than(*known)) {
        return None;
    }
    mif.lists
        .peer
        .insert(iface, (epoch, statement.list.clone()));
    cx.event(Event::PeerAlternates {
        ike: sa.id,
        iface,
        list: statement.list,
    });
    None
}
