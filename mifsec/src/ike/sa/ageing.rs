//! How old SAs get (RFC 7296 2.8): when the IKE SA and each Child SA is to be
//! rekeyed, when it is given up, when a replaced one is deleted, and how long it
//! receives after that. All of it is one deadline of the IKE SA.

use std::time::{Duration, Instant};

use crate::ids::{ChildId, Spi};
use crate::ike::PROBE_GRACE;
use crate::ike::config::Lifetime;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{Event, SaRequest};
use crate::ike::task::child::Create;
use crate::ike::task::rekey::Rekey;
use crate::ike::task::{Task, delete};

use super::{Child, IkeSa};

/// How long after its replacement the initiator of the rekey deletes a Child SA:
/// longer than the peer waits for the first packet before it sends on the new one,
/// so that nothing is on its way any more.
const DELETE_AFTER: Duration = Duration::from_secs(2);
/// How long we wait for the peer to delete what its rekey replaced.
const DELETE_AWAITED: Duration = Duration::from_secs(180);
/// First wait before a rekey that failed is tried again; it doubles.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Longest such wait.
const TRY_AGAIN_LIMIT: Duration = Duration::from_secs(300);

/// When an SA is too old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::ike) struct Ageing {
    /// To be rekeyed.
    soft: Option<Instant>,
    /// To be given up.
    hard: Option<Instant>,
    /// Rekeys that failed so far.
    failures: u32,
}

impl Ageing {
    /// An SA begins to live.
    pub(in crate::ike) fn start(lifetime: Lifetime, cx: &mut Context) -> Self {
        let Some(time) = lifetime.time else {
            return Self::default();
        };
        let off = lifetime.jitter.clamp(0.0, 1.0) * cx.unit();
        let now = cx.now();
        let after = |factor: f64| {
            let wait = Duration::try_from_secs_f64(time.as_secs_f64() * factor).ok()?;
            now.checked_add(wait)
        };
        Self {
            soft: after(1.0 - off),
            hard: after(Lifetime::HARD),
            failures: 0,
        }
    }

    /// A rekey failed for good: another one is made before the SA is given up.
    pub(in crate::ike) fn try_again(&mut self, cx: &mut Context) {
        let wait = TRY_AGAIN
            .saturating_mul(1 << self.failures.min(10))
            .min(TRY_AGAIN_LIMIT);
        self.failures = self.failures.saturating_add(1);
        self.soft = cx.now().checked_add(wait.mul_f64(0.5 + cx.unit()));
    }

    /// Another one lives in its place: the peer may take this long to delete it.
    fn replaced(&mut self, cx: &Context) {
        *self = Self {
            hard: cx.now().checked_add(DELETE_AWAITED),
            ..Self::default()
        };
    }

    fn next(&self) -> Option<Instant> {
        self.soft.into_iter().chain(self.hard).min()
    }

    /// The deadline that has come, if any; it does not come again.
    fn due(&mut self, now: Instant) -> Option<Due> {
        if self.hard.take_if(|at| *at <= now).is_some() {
            self.soft = None;
            Some(Due::GiveUp)
        } else {
            self.soft.take_if(|at| *at <= now).map(|_| Due::Rekey)
        }
    }
}

enum Due {
    Rekey,
    GiveUp,
}

/// What receives a while longer.
pub(in crate::ike) struct Lingering {
    until: Instant,
    spi: Spi,
    /// None for a probe SA, which the agent forgets by itself.
    child: Option<ChildId>,
}

impl Lingering {
    /// Its SPI is free again.
    pub(super) fn end(self, cx: &mut Context) {
        if let Some(child) = self.child {
            cx.request(SaRequest::Remove { child });
        }
        cx.release_spi(self.spi);
    }
}

impl IkeSa {
    /// When something is too old next.
    pub(super) fn next_aged(&self) -> Option<Instant> {
        let lingering = self.lingering.iter().map(|lingering| lingering.until);
        let children = self
            .children
            .values()
            .flat_map(|child| child.ageing.next().into_iter().chain(child.delete_at));
        let living = children.chain(self.ageing.next()).chain(self.reauth_at);
        let living = living.filter(|_| self.is_established());
        lingering.chain(living).min()
    }

    /// Does what is due to what has aged.
    pub(super) fn age(&mut self, cx: &mut Context) {
        let now = cx.now();
        for lingering in self.lingering.extract_if(.., |l| l.until <= now) {
            lingering.end(cx);
        }
        if !self.is_established() {
            return;
        }
        let ids: Vec<_> = self.children.keys().copied().collect();
        for id in ids {
            let Some(child) = self.children.get_mut(&id) else {
                continue;
            };
            if child.delete_at.take_if(|at| *at <= now).is_some() {
                self.delete_child(id, cx);
                continue;
            }
            match child.ageing.due(now) {
                Some(Due::Rekey) => self.rekey_child(id, cx),
                Some(Due::GiveUp) => self.expire_child(id, cx),
                None => {}
            }
        }
        if self.reauth_at.take_if(|at| *at <= now).is_some() {
            cx.event(Event::ReauthDue { ike: self.id });
        }
        match self.ageing.due(now) {
            Some(Due::Rekey) => self.rekey_ike(cx),
            Some(Due::GiveUp) => self.begin_closing(Failure::Lifetime, cx),
            None => {}
        }
    }

    /// Asks for a Child SA in place of this one, unless that is under way.
    pub(in crate::ike) fn rekey_child(&mut self, id: ChildId, cx: &mut Context) {
        let under_way = self.all_tasks().any(|task| task.rekeys_child(id));
        let Some(child) = self.children.get(&id).filter(|child| child.is_current()) else {
            return;
        };
        if !under_way
            && self.is_established()
            && let Some(create) = Create::rekey(child, self)
        {
            self.submit(Task::Child(Box::new(create)), cx);
        }
    }

    /// Asks for an IKE SA in place of this one, unless that is under way.
    pub(in crate::ike) fn rekey_ike(&mut self, cx: &mut Context) {
        let under_way = self.rival.is_some()
            || self
                .all_tasks()
                .any(|task| matches!(task, Task::RekeyIke(_)));
        if !under_way && self.is_established() {
            let rekey = Rekey::new(self, cx);
            self.submit(Task::RekeyIke(Box::new(rekey)), cx);
        }
    }

    /// Deletes a Child SA at both ends.
    pub(in crate::ike) fn delete_child(&mut self, id: ChildId, cx: &mut Context) {
        if let Some(child) = self.children.get_mut(&id).filter(|c| !c.deleting) {
            child.deleting = true;
            child.delete_at = None;
            self.submit(Task::Delete(delete::Target::Child(id)), cx);
        }
    }

    /// Deletes a Child SA that is too old and, if it is ours, makes another one.
    pub(in crate::ike) fn expire_child(&mut self, id: ChildId, cx: &mut Context) {
        if let Some(child) = self.children.get_mut(&id).filter(|c| !c.deleting) {
            child.recreate = child.ours && child.is_current();
            self.delete_child(id, cx);
        }
    }

    /// `new` has taken over from `old`, which is deleted at both ends in a while,
    /// by us.
    pub(in crate::ike) fn replace(&mut self, old: ChildId, new: ChildId, cx: &Context) {
        if let Some(old) = self.replaced(old, new, cx) {
            old.delete_at = Some(cx.now() + DELETE_AFTER);
        }
    }

    /// `new` has taken over from `old`; whoever made it deletes it.
    pub(in crate::ike) fn replaced(
        &mut self,
        old: ChildId,
        new: ChildId,
        cx: &Context,
    ) -> Option<&mut Child> {
        let old = self.children.get_mut(&old)?;
        old.replaced_by = Some(new);
        old.ageing.replaced(cx);
        Some(old)
    }

    /// Both ends have deleted a Child SA. One that was replaced receives a while
    /// longer; those it had replaced live on.
    pub(in crate::ike) fn deleted(&mut self, child: Child, cx: &mut Context) {
        if child.replaced_by.is_some() {
            cx.request(SaRequest::Retire { child: child.id });
            self.linger(child.spi_in, Some(child.id), cx);
        } else {
            let id = child.id;
            child.remove(cx);
            let bereft = self
                .children
                .values_mut()
                .filter(|c| c.replaced_by == Some(id) && c.delete_at.is_none() && !c.deleting);
            for child in bereft {
                child.replaced_by = None;
                child.ageing.try_again(cx);
            }
        }
    }

    /// Keeps an inbound SPI taken for what is on its way.
    pub(in crate::ike) fn linger(&mut self, spi: Spi, child: Option<ChildId>, cx: &Context) {
        let until = cx.now() + PROBE_GRACE;
        self.lingering.push(Lingering { until, spi, child });
    }

    /// What is asked, waits, or is to be asked again.
    pub(in crate::ike) fn all_tasks(&self) -> impl Iterator<Item = &Task> {
        self.outbound
            .tasks()
            .chain(self.queue.iter())
            .chain(&self.postponed)
    }
}
