//! Exchanges message by message: what is sent is held until the script lets it
//! go, loses it or doubles it, named by what it says.

use std::time::Duration;

use mifsec::ike::Transmit;

use super::{A, B, Pair};

/// A datagram the script decides about.
#[derive(Debug, Clone)]
pub struct Held {
    /// Who sent it.
    pub from: usize,
    /// What it says, as in the trace: `CREATE_CHILD_SA request 4 [..] {..}`.
    pub says: String,
    /// The datagram.
    pub transmit: Transmit,
}

impl Pair {
    /// From now nothing travels by itself.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// What is held, in order, in words.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let held = self.held.iter().flatten();
        held.map(|held| format!("{} {}", ["A", "B"][held.from], held.says))
            .collect()
    }

    /// Takes the oldest held datagram of `from` whose words contain all of
    /// `words`.
    ///
    /// # Panics
    /// When there is none.
    pub fn take(&mut self, from: usize, words: &[&str]) -> Held {
        let found = self.held.as_mut().and_then(|list| {
            let fits = |held: &Held| {
                held.from == from && words.iter().all(|word| held.says.contains(word))
            };
            list.iter().position(fits).map(|at| list.remove(at))
        });
        let waiting = self.waiting();
        found.unwrap_or_else(|| panic!("{from} sent nothing with {words:?}: {waiting:#?}"))
    }

    /// Lets one arrive now.
    ///
    /// # Panics
    /// When there is none.
    pub fn deliver(&mut self, from: usize, words: &[&str]) -> Held {
        let held = self.take(from, words);
        self.arrive(&held);
        held
    }

    /// Lets a datagram arrive now, perhaps not for the first time.
    pub fn arrive(&mut self, held: &Held) {
        let from = ["A", "B"][held.from];
        self.trace
            .note(self.now, format!("{from} ->  arrives: {}", held.says));
        let transmit = &held.transmit;
        let arrival = mifsec::ids::Arrival {
            ifindex: super::setup::ifindex(transmit.remote.ip()),
            local: transmit.remote,
            remote: transmit.local,
        };
        let to = if held.from == A { B } else { A };
        self.inject(to, arrival, &transmit.payload);
    }

    /// Loses one.
    ///
    /// # Panics
    /// When there is none.
    pub fn lose(&mut self, from: usize, words: &[&str]) {
        let held = self.take(from, words);
        let from = ["A", "B"][held.from];
        self.trace
            .note(self.now, format!("{from} ->  lost: {}", held.says));
    }

    /// Lets one arrive twice.
    ///
    /// # Panics
    /// When there is none.
    pub fn double(&mut self, from: usize, words: &[&str]) {
        let held = self.deliver(from, words);
        self.arrive(&held);
    }

    /// Everything held goes out now, in order, and what follows travels by
    /// itself again.
    pub fn release(&mut self) {
        for held in self.held.take().into_iter().flatten() {
            self.send(held.from, held.transmit);
        }
    }

    /// Both ends' time jumps: nothing was looked at for `time`, as in a host that
    /// was suspended together with what was on its way to it.
    pub fn jump(&mut self, time: Duration) {
        self.trace.note(self.now, format!("time jumps by {time:?}"));
        self.now += time;
    }
}
