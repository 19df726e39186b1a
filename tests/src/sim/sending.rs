//! Which Child SA a data plane sends on: what [`mifsec::ike::ChildSa::replaces`]
//! asks of it. With it a simulation sees whether anything would be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mifsec::ids::{ChildId, IfacePair, Spi};
use mifsec::ike::{ChildSa, SaRequest};

/// How long a responder waits for the first packet.
const HOLD: Duration = Duration::from_secs(1);

struct Sa {
    name: String,
    pair: IfacePair,
    spi_out: Spi,
    replaces: Option<ChildId>,
    held_until: Option<Instant>,
    redundant: bool,
    retired: bool,
    sends: bool,
}

/// The sending side of one end.
#[derive(Default)]
pub struct Sending(BTreeMap<ChildId, Sa>);

impl Sending {
    /// Follows what the engine asks for.
    pub fn apply(&mut self, request: &SaRequest, now: Instant) {
        self.release(now);
        match request {
            SaRequest::Install(child) => self.install(child, now),
            SaRequest::Rebind { child, pair } => {
                if let Some(sa) = self.0.get_mut(child) {
                    sa.pair = *pair;
                }
            }
            SaRequest::Retire { child } => {
                if let Some(sa) = self.0.get_mut(child) {
                    sa.retired = true;
                }
                self.leave(*child);
            }
            SaRequest::Remove { child } => {
                if let Some(sa) = self.0.get_mut(child) {
                    sa.retired = true;
                }
                self.leave(*child);
                self.0.remove(child);
            }
            SaRequest::Larval { .. } | SaRequest::LarvalGone { .. } => {}
        }
    }

    /// Lets go of what was held long enough.
    pub fn release(&mut self, now: Instant) {
        let due: Vec<_> = self
            .0
            .iter()
            .filter(|(_, sa)| sa.held_until.is_some_and(|until| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let sa = self.0.get_mut(&id).expect("it is there");
            sa.held_until = None;
            let before = sa.replaces;
            let in_use = before
                .and_then(|id| self.0.get(&id))
                .is_none_or(|sa| sa.sends);
            if in_use {
                self.take_over(id);
            }
        }
    }

    /// What is sent on, by path: the SPI the peer receives on.
    #[must_use]
    pub fn in_use(&self) -> Vec<(String, IfacePair, Spi)> {
        self.0
            .values()
            .filter(|sa| sa.sends)
            .map(|sa| (sa.name.clone(), sa.pair, sa.spi_out))
            .collect()
    }

    fn install(&mut self, child: &ChildSa, now: Instant) {
        let held = child.hold_outbound && child.replaces.is_some();
        self.0.insert(
            child.child,
            Sa {
                name: child.name.clone(),
                pair: child.pair,
                spi_out: child.spi_out,
                replaces: child.replaces,
                held_until: held.then(|| now + HOLD),
                redundant: child.redundant,
                retired: false,
                sends: false,
            },
        );
        if !held && !child.redundant {
            self.take_over(child.child);
        }
    }

    /// `id` sends, and no other of its path.
    fn take_over(&mut self, id: ChildId) {
        let Some(path) = self.0.get(&id).map(|sa| (sa.name.clone(), sa.pair)) else {
            return;
        };
        for (other, sa) in &mut self.0 {
            if (&sa.name, sa.pair) == (&path.0, path.1) {
                sa.sends = *other == id;
            }
        }
    }

    /// `id` stops sending: what replaces it does, else another of its path.
    fn leave(&mut self, id: ChildId) {
        let Some(sa) = self.0.get_mut(&id).filter(|sa| sa.sends) else {
            return;
        };
        sa.sends = false;
        let path = (sa.name.clone(), sa.pair);
        let usable =
            |sa: &Sa| !sa.redundant && !sa.retired && (&sa.name, sa.pair) == (&path.0, path.1);
        let next = self
            .0
            .iter()
            .filter(|(_, sa)| usable(sa))
            .max_by_key(|(other, sa)| (sa.replaces == Some(id), **other))
            .map(|(other, _)| *other);
        if let Some(next) = next {
            self.take_over(next);
        }
    }
}
