//! An exchange is a task with a build and a process step (strongSwan's idea): the
//! IKE SA owns message ids, windows and retransmission, so a task sees neither
//! timers nor duplicates. What the peer starts is answered by the `respond`
//! function of the same file.
//!
//! | file         | exchange                                  | RFC 7296       |
//! |--------------|-------------------------------------------|----------------|
//! | `init`       | IKE_SA_INIT                               | 1.2, 2.6, 2.7  |
//! | `natd`       | NAT detection within it                   | 2.23           |
//! | `auth`       | IKE_AUTH                                  | 1.2, 2.15      |
//! | `config`     | inner addresses within it                 | 2.19, 3.15     |
//! | `add`        | MIF_ADD_INTERFACE                         | protocol 3.9   |
//! | `child`      | Child SAs, in IKE_AUTH or CREATE_CHILD_SA | 1.3.1, 2.9     |
//! | `rekey`      | IKE SAs, in CREATE_CHILD_SA               | 1.3.2, 2.18    |
//! | `delete`     | INFORMATIONAL with Delete                 | 1.4.1          |
//! | `remove`     | MIF_DELETE_INTERFACE                      | protocol 3.9   |
//! | `redirect`   | REDIRECT in any of the three              | RFC 5685       |
//! | `interfaces` | MIF_SUPPORTED, MIF_INTERFACES             | protocol 3.4-5 |
//! | `update`     | MIF_UPDATE_ADDRS                          | protocol 3.7   |
//! | `alternates` | MIF_ALTERNATES                            | protocol 3.9   |
//! | `mobike`     | UPDATE_SA_ADDRESSES and its company       | RFC 4555       |

pub(super) mod add;
pub(super) mod alternates;
pub(super) mod auth;
pub(super) mod child;
pub(super) mod config;
pub(super) mod delete;
pub(super) mod informational;
pub(super) mod init;
pub(super) mod interfaces;
pub(super) mod mobike;
pub(super) mod natd;
pub(super) mod payloads;
pub(super) mod reauth;
pub(super) mod redirect;
pub(super) mod rekey;
pub(super) mod remove;
pub(super) mod update;

use std::collections::VecDeque;

use crate::ids::{Arrival, ChildId};

use super::engine::Context;
use super::event::Channel;
use super::message::{ExchangeType, Notify, Payload};
use super::mif::UpdateFlags;
use super::sa::IkeSa;

pub(super) use payloads::Payloads;

/// A message that the keys of its IKE SA authenticated.
pub(super) struct Received {
    /// What it says.
    pub(super) payloads: Payloads,
    /// Its exchange.
    pub(super) exchange: ExchangeType,
    /// Its number: requests may overtake each other within the window. `None` under
    /// the keys of an IKE SA that was replaced: older than all with a number.
    pub(super) message_id: Option<u32>,
    /// Where it came from.
    pub(super) arrival: Arrival,
}

/// Something we ask of the peer.
pub(super) enum Task {
    /// IKE_SA_INIT.
    Init(Box<init::Init>),
    /// IKE_AUTH.
    Auth(Box<auth::AuthTask>),
    /// CREATE_CHILD_SA of a Child SA.
    Child(Box<child::Create>),
    /// CREATE_CHILD_SA of an IKE SA in place of this one.
    RekeyIke(Box<rekey::Rekey>),
    /// MIF_ADD_INTERFACE.
    Add(Box<add::Add>),
    /// MIF_DELETE_INTERFACE.
    Remove(Box<remove::Remove>),
    /// Delete of a Child SA or the IKE SA.
    Delete(delete::Target),
    /// MIF_INTERFACES, the first time with SET_WINDOW_SIZE; of this epoch once sent.
    Announce(Option<u32>),
    /// MIF_UPDATE_ADDRS.
    Update(Box<update::Update>),
    /// MIF_ALTERNATES.
    Alternates(alternates::Tell),
    /// An error of the peer's that no response can carry.
    Tell(Notify),
    /// What MOBIKE asks and tells.
    Mobike(Box<mobike::Ask>),
    /// An empty INFORMATIONAL (RFC 7296 2.4).
    Liveness,
}

impl Task {
    /// The exchange it is.
    pub(super) const fn exchange(&self) -> ExchangeType {
        match self {
            Self::Init(_) => ExchangeType::IKE_SA_INIT,
            Self::Auth(_) => ExchangeType::IKE_AUTH,
            Self::Child(_) | Self::RekeyIke(_) => ExchangeType::CREATE_CHILD_SA,
            Self::Add(_)
            | Self::Remove(_)
            | Self::Delete(_)
            | Self::Announce(_)
            | Self::Update(_)
            | Self::Alternates(_)
            | Self::Tell(_)
            | Self::Mobike(_)
            | Self::Liveness => ExchangeType::INFORMATIONAL,
        }
    }

    /// Lower goes first when the window is full: moves before deletes before the
    /// rest (protocol 3.11).
    const fn priority(&self) -> u8 {
        match self {
            Self::Init(_) | Self::Auth(_) => 0,
            Self::Update(_) => 1,
            Self::Mobike(ask) => ask.priority(),
            Self::Delete(_) | Self::Remove(_) => 2,
            Self::Announce(_)
            | Self::Alternates(_)
            | Self::Child(_)
            | Self::Add(_)
            | Self::RekeyIke(_)
            | Self::Tell(_)
            | Self::Liveness => 3,
        }
    }

    /// The payloads of its request; `None` when there is nothing left to ask.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        match self {
            Self::Init(init) => Some(init.build(sa)),
            Self::Auth(auth) => auth.build(sa, cx),
            Self::Child(create) => create.build(sa, cx),
            Self::RekeyIke(rekey) => rekey.build(sa, cx),
            Self::Add(add) => add.build(sa, cx),
            Self::Remove(remove) => remove.build(sa, cx),
            Self::Delete(target) => delete::build(*target, sa),
            Self::Announce(epoch) => interfaces::build_announce(epoch, sa, cx),
            Self::Update(update) => update.build(sa, cx),
            Self::Alternates(tell) => tell.build(sa, cx),
            Self::Tell(notify) => Some(vec![Payload::Notify(notify.clone())]),
            Self::Mobike(ask) => ask.build(sa, cx),
            Self::Liveness => Some(Vec::new()),
        }
    }

    /// Takes the response in.
    pub(super) fn process(self, sa: &mut IkeSa, cx: &mut Context, received: &Received) {
        match self {
            // Its response comes in clear and is judged before it ends the exchange.
            Self::Init(_) => {}
            Self::Auth(auth) => auth.process(sa, cx, received),
            Self::Child(create) => create.process(sa, cx, received),
            Self::RekeyIke(rekey) => rekey.process(sa, cx, received),
            Self::Add(add) => add.process(sa, cx, received),
            Self::Remove(remove) => remove.process(sa, cx, received),
            Self::Delete(target) => delete::process(target, sa, cx),
            Self::Announce(epoch) => interfaces::process_announce(epoch, sa, cx, received),
            Self::Update(update) => update.process(sa, cx, received),
            Self::Alternates(tell) => tell.process(sa, cx, received),
            Self::Mobike(ask) => ask.process(sa, cx, received),
            Self::Tell(_) => {}
            Self::Liveness => cx.count("ike_liveness_answered"),
        }
    }

    /// Whether its receiver moves the IKE channel to where it came from.
    pub(super) fn moves_channel(&self) -> bool {
        matches!(self, Self::Update(update) if update.flags.has(UpdateFlags::IKE_CHANNEL))
    }

    /// Whether its response may name a new Child SA.
    pub(super) const fn makes_child(&self) -> bool {
        matches!(self, Self::Auth(_) | Self::Child(_) | Self::Add(_))
    }

    /// Gives back what it reserved: no response will come.
    pub(super) fn abandon(self, cx: &mut Context) {
        match self {
            Self::Auth(auth) => auth.abandon(cx),
            Self::Child(create) => create.abandon(cx),
            Self::Add(add) => add.abandon(cx),
            Self::RekeyIke(rekey) => rekey.abandon(cx),
            Self::Delete(delete::Target::Orphan(spi)) => cx.release_spi(spi),
            Self::Init(_)
            | Self::Delete(_)
            | Self::Remove(_)
            | Self::Announce(_)
            | Self::Update(_)
            | Self::Alternates(_)
            | Self::Tell(_)
            | Self::Mobike(_)
            | Self::Liveness => {}
        }
    }

    /// The pair it leaves on if that is not the channel's.
    pub(super) fn elsewhere(&self) -> Option<Channel> {
        match self {
            Self::Mobike(ask) => ask.candidate(),
            _ => None,
        }
    }

    /// The address of ours that a move leaves.
    pub(super) fn left(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Update(update) => update.left(),
            _ => None,
        }
    }

    /// Whether `self` has to wait for the response of `other`: what concerns one
    /// interface is asked one after the other (protocol 3.11).
    fn waits_for(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Update(a), Self::Update(b)) => a.concerns(b),
            (Self::Add(a), Self::Add(b)) => a.iface() == b.iface(),
            // What is made on the interface is deleted with it, or comes after.
            (Self::Remove(_), Self::Update(_) | Self::Remove(_)) => true,
            (Self::Remove(_), other) if other.makes_child() => true,
            (this, Self::Remove(_)) if this.makes_child() => true,
            // A table without the interface must not come before its deletion.
            (Self::Announce(_) | Self::Alternates(_), Self::Remove(_)) => true,
            (Self::Announce(_), Self::Announce(_))
            | (Self::Alternates(_), Self::Alternates(_))
            | (Self::Mobike(_), Self::Mobike(_))
            | (Self::Liveness, Self::Liveness) => true,
            // The IKE SA is rekeyed while nothing happens to Child SAs, and the
            // other way round (RFC 7296 2.25).
            (Self::RekeyIke(_), other) => other.changes_sas(),
            (this, Self::RekeyIke(_)) => this.changes_sas(),
            (Self::Delete(delete::Target::Child(child)), other) => other.rekeys_child(*child),
            _ => false,
        }
    }

    /// Whether it makes or deletes an SA.
    pub(super) const fn changes_sas(&self) -> bool {
        matches!(
            self,
            Self::Child(_) | Self::Add(_) | Self::Remove(_) | Self::RekeyIke(_) | Self::Delete(_)
        )
    }

    /// Whether it asks for a Child SA in place of this one.
    pub(super) fn rekeys_child(&self, child: ChildId) -> bool {
        matches!(self, Self::Child(create) if create.rekeys() == Some(child))
    }
}

/// Tasks that wait for the window.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Task>);

impl Queue {
    /// Adds a task behind those of its priority. One that still waits and would
    /// have the same result serves for both; the last address wins.
    pub(super) fn push(&mut self, task: Task) {
        let serves = |queued: &mut Task| match (queued, &task) {
            (Task::Announce(_), Task::Announce(_))
            | (Task::Alternates(_), Task::Alternates(_))
            | (Task::Liveness, Task::Liveness) => true,
            (Task::Mobike(queued), Task::Mobike(ask)) => queued.serves(ask),
            (Task::Add(queued), Task::Add(add)) => queued.serves(add),
            (Task::Remove(queued), Task::Remove(remove)) => queued.serves(remove),
            _ => false,
        };
        // Of moves of one interface only the last one may take a later one in: those
        // between them have an order.
        let absorbed = match &task {
            Task::Update(update) => self
                .0
                .iter_mut()
                .rev()
                .find_map(|queued| match queued {
                    Task::Update(queued) if queued.concerns(update) => Some(queued.absorb(update)),
                    _ => None,
                })
                .unwrap_or(false),
            _ => false,
        };
        if !absorbed && !self.0.iter_mut().any(serves) {
            self.0.push_back(task);
        }
    }

    /// Takes the next task that need not wait for one of `in_flight`.
    pub(super) fn pop<'a>(
        &mut self,
        in_flight: impl Iterator<Item = &'a Task> + Clone,
    ) -> Option<Task> {
        // Those that come after it would keep a rekey of the IKE SA waiting for ever.
        let rekey = self.0.iter().position(|t| matches!(t, Task::RekeyIke(_)));
        let yields =
            |index, task: &Task| task.changes_sas() && rekey.is_some_and(|rekey| rekey < index);
        // Moves that wait for another one keep their order.
        let overtakes = |index, task: &Task| {
            let earlier = self.0.iter().take(index);
            let mut moves = earlier.filter(|t| matches!(t, Task::Update(_)));
            matches!(task, Task::Update(_)) && moves.any(|earlier| task.waits_for(earlier))
        };
        let (index, _) = self
            .0
            .iter()
            .enumerate()
            .filter(|(index, task)| !yields(*index, task) && !overtakes(*index, task))
            .filter(|(_, task)| !in_flight.clone().any(|other| task.waits_for(other)))
            .min_by_key(|(index, task)| (task.priority(), *index))?;
        self.0.remove(index)
    }

    /// Takes all tasks out.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Task> {
        std::mem::take(&mut self.0).into_iter()
    }

    /// Tasks in the order they were queued.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.0.iter()
    }
}
