//! Message ids of one IKE SA: requests in flight with their retransmission, and
//! responses kept for duplicates (RFC 7296 2.1 to 2.3).
//!
//! Ids only grow. A window starts at one message and may only get larger. A
//! retransmission is the same octets; the response cache answers a duplicate
//! without the request being looked at again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::config::RetransmitConfig;

/// One message: whole, or in fragments (RFC 7383), which are sent again all.
pub(super) type Datagrams = Vec<Vec<u8>>;

/// Our requests. `T` is what a response is handed to.
pub(super) struct Outbound<T> {
    next_id: u32,
    size: u32,
    in_flight: BTreeMap<u32, InFlight<T>>,
}

struct InFlight<T> {
    datagrams: Datagrams,
    task: T,
    /// Retransmissions so far on this pair.
    sent: u32,
    /// Pairs it was moved to.
    moved: u32,
    wait: Duration,
    due: Instant,
}

/// What became of a request whose deadline came.
pub(super) enum Due {
    /// To be sent once more.
    Again {
        /// Its number.
        id: u32,
        /// The same octets as before.
        datagrams: Datagrams,
        /// Retransmissions so far, this one included.
        tries: u32,
    },
    /// The last retransmission stayed unanswered.
    GaveUp,
}

impl<T> Outbound<T> {
    /// The window of a fresh IKE SA: one request, first id 0.
    pub(super) fn new() -> Self {
        Self {
            next_id: 0,
            size: 1,
            in_flight: BTreeMap::new(),
        }
    }

    /// The peer's SET_WINDOW_SIZE. A window never shrinks (RFC 7296 2.3).
    pub(super) fn grow(&mut self, size: u32) {
        self.size = self.size.max(size.min(MAX_SIZE));
    }

    /// Whether another request fits: ids may run at most a window ahead of the
    /// oldest one without response.
    pub(super) fn is_open(&self) -> bool {
        let oldest = self
            .in_flight
            .keys()
            .next()
            .copied()
            .unwrap_or(self.next_id);
        self.next_id != u32::MAX && self.next_id - oldest < self.size
    }

    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The id of the next request.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Starts over at id 0 for the repeated IKE_SA_INIT (RFC 7296 2.6, 2.7).
    pub(super) fn restart(&mut self) {
        self.next_id = 0;
        self.in_flight.clear();
    }

    /// Records a request as sent under [`next_id`](Self::next_id).
    pub(super) fn sent(
        &mut self,
        datagrams: Datagrams,
        task: T,
        timing: &RetransmitConfig,
        now: Instant,
    ) {
        self.in_flight.insert(
            self.next_id,
            InFlight {
                datagrams,
                task,
                sent: 0,
                moved: 0,
                wait: timing.initial,
                due: now + timing.initial,
            },
        );
        self.next_id = self.next_id.saturating_add(1);
    }

    /// Whether a response of this id is waited for.
    pub(super) fn expects(&self, id: u32) -> bool {
        self.in_flight.contains_key(&id)
    }

    /// Takes what was waiting for the response `id`.
    pub(super) fn answered(&mut self, id: u32) -> Option<T> {
        self.in_flight.remove(&id).map(|request| request.task)
    }

    /// What the request of this number asks.
    pub(super) fn task(&self, id: u32) -> Option<&T> {
        self.in_flight.get(&id).map(|request| &request.task)
    }

    /// What is waiting for responses, oldest first.
    pub(super) fn tasks(&self) -> impl Iterator<Item = &T> + Clone {
        self.in_flight.values().map(|request| &request.task)
    }

    /// Takes everything that was waiting; no response is expected any more.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.in_flight)
            .into_values()
            .map(|request| request.task)
    }

    /// Takes those that `matches`; a response to them is not expected any more.
    pub(super) fn abandon_if(&mut self, matches: impl Fn(&T) -> bool) -> Vec<T> {
        self.in_flight
            .extract_if(.., |_, request| matches(&request.task))
            .map(|(_, request)| request.task)
            .collect()
    }

    /// The earliest retransmission.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.in_flight.values().map(|request| request.due).min()
    }

    /// Retransmissions whose time has come, oldest first.
    pub(super) fn due(&mut self, timing: &RetransmitConfig, now: Instant) -> Vec<Due> {
        let mut out = Vec::new();
        for (id, request) in self
            .in_flight
            .iter_mut()
            .filter(|(_, request)| request.due <= now)
        {
            if request.sent >= timing.tries {
                return vec![Due::GaveUp];
            }
            request.sent += 1;
            request.wait = request.wait.mul_f64(timing.base.max(1.0)).min(timing.limit);
            request.due = now + request.wait;
            out.push(Due::Again {
                id: *id,
                datagrams: request.datagrams.clone(),
                tries: request.sent,
            });
        }
        out
    }

    /// Everything in flight, for sending at once on a new pair. The count of tries
    /// starts over, because another path is being tried, but not for ever: a peer
    /// that answers on no path is dead.
    pub(super) fn resend(&mut self, timing: &RetransmitConfig, now: Instant) -> Vec<Datagrams> {
        self.in_flight
            .values_mut()
            .map(|request| {
                request.moved += 1;
                if request.moved <= MAX_MOVES {
                    request.sent = 0;
                }
                request.wait = timing.initial;
                request.due = now + timing.initial;
                request.datagrams.clone()
            })
            .collect()
    }
}

/// The peer's requests and our responses.
pub(super) struct Inbound {
    /// Every id below was processed.
    floor: u32,
    size: u32,
    /// Responses by id: those above `floor` and the last `size` below it.
    responses: BTreeMap<u32, Datagrams>,
}

/// How a request's id stands to the window.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Process it.
    New,
    /// Answered before; the response to send again.
    Duplicate(Datagrams),
    /// Answered before, response no longer kept.
    Old,
    /// Ahead of the window.
    Outside,
}

impl Inbound {
    /// The window of a fresh IKE SA: one request, first id 0.
    pub(super) fn new() -> Self {
        Self {
            floor: 0,
            size: 1,
            responses: BTreeMap::new(),
        }
    }

    /// We told the peer it may have this many requests outstanding.
    pub(super) fn grow(&mut self, size: u32) {
        self.size = self.size.max(size.min(MAX_SIZE));
    }

    /// Where a request with this id stands.
    pub(super) fn place(&self, id: u32) -> Place {
        if let Some(response) = self.responses.get(&id) {
            Place::Duplicate(response.clone())
        } else if id < self.floor {
            Place::Old
        } else if id - self.floor < self.size {
            Place::New
        } else {
            Place::Outside
        }
    }

    /// Whether a request with this id was answered before.
    pub(super) fn was_answered(&self, id: u32) -> bool {
        id < self.floor || self.responses.contains_key(&id)
    }

    /// Records the response to a request that was [`Place::New`].
    pub(super) fn answered(&mut self, id: u32, response: Datagrams) {
        self.responses.insert(id, response);
        while self.floor < u32::MAX && self.responses.contains_key(&self.floor) {
            self.floor += 1;
        }
        let oldest_kept = self.floor.saturating_sub(self.size);
        self.responses = self.responses.split_off(&oldest_kept);
    }
}

/// Changes of the pair after which a request is given up like any other.
const MAX_MOVES: u32 = 8;

/// No peer makes us hold more than this, whatever it offers.
const MAX_SIZE: u32 = 64;

#[cfg(any(test, feature = "testing"))]
impl<T> Outbound<T> {
    /// Uses up an id nobody waits for.
    pub(super) fn skip(&mut self) {
        self.next_id += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMING: RetransmitConfig = RetransmitConfig {
        initial: Duration::from_millis(100),
        base: 2.0,
        tries: 3,
        limit: Duration::from_millis(300),
    };

    #[test]
    fn a_request_waits_longer_each_time_up_to_the_limit_and_then_gives_up() {
        let start = Instant::now();
        let mut window = Outbound::new();
        window.sent(vec![vec![1]], (), &TIMING, start);
        let mut waits = Vec::new();
        let mut now = start;
        loop {
            let next = window.next_due().unwrap();
            waits.push((next - now).as_millis());
            now = next;
            match window.due(&TIMING, now).pop().unwrap() {
                Due::Again { datagrams, .. } => assert_eq!(datagrams, [[1]]),
                Due::GaveUp => break,
            }
        }
        assert_eq!(waits, [100, 200, 300, 300]);
    }

    #[test]
    fn moving_the_channel_to_and_fro_does_not_keep_a_dead_peer_alive() {
        let mut now = Instant::now();
        let mut window = Outbound::new();
        window.sent(vec![vec![1]], (), &TIMING, now);
        let gave_up = (0..100).any(|_| {
            now += Duration::from_millis(150);
            let due = window.due(&TIMING, now).pop();
            assert_eq!(window.resend(&TIMING, now), [vec![vec![1]]]);
            matches!(due, Some(Due::GaveUp))
        });
        assert!(gave_up);
    }

    #[test]
    fn the_window_counts_from_the_oldest_request_without_response() {
        let now = Instant::now();
        let mut window = Outbound::new();
        window.sent(vec![], 'a', &TIMING, now);
        assert!(!window.is_open());
        window.grow(2);
        window.sent(vec![], 'b', &TIMING, now);
        assert!(!window.is_open());
        assert_eq!(window.answered(1), Some('b'));
        assert!(!window.is_open(), "id 0 is still out, id 2 is outside");
        assert_eq!(window.answered(0), Some('a'));
        assert!(window.is_open());
        assert_eq!(window.answered(0), None);
        window.grow(1);
        window.sent(vec![], 'c', &TIMING, now);
        assert!(window.is_open(), "a window never shrinks");
    }

    #[test]
    fn a_duplicate_gets_the_response_it_got_before() {
        let mut window = Inbound::new();
        assert_eq!(window.place(0), Place::New);
        window.answered(0, vec![vec![7]]);
        assert_eq!(window.place(0), Place::Duplicate(vec![vec![7]]));
        assert_eq!(window.place(1), Place::New);
        assert_eq!(window.place(2), Place::Outside);
        window.answered(1, vec![vec![8]]);
        assert_eq!(window.place(0), Place::Old);
    }

    proptest! {
        /// Against a model: a set of processed ids.
        #[test]
        fn no_request_is_processed_twice_and_none_is_lost(
            size in 1u32..9,
            ids in proptest::collection::vec(0u32..40, 0..200),
        ) {
            let mut window = Inbound::new();
            window.grow(size);
            let mut processed = std::collections::BTreeSet::new();
            for id in ids {
                let floor = (0..).find(|id| !processed.contains(id)).unwrap();
                match window.place(id) {
                    Place::New => {
                        prop_assert!(processed.insert(id));
                        prop_assert!(id >= floor && id < floor + size);
                        window.answered(id, vec![id.to_be_bytes().to_vec()]);
                    }
                    Place::Duplicate(response) => {
                        prop_assert!(processed.contains(&id));
                        prop_assert_eq!(response, vec![id.to_be_bytes().to_vec()]);
                    }
                    Place::Old => prop_assert!(id + size < floor),
                    Place::Outside => prop_assert!(id >= floor + size),
                }
                prop_assert!(window.responses.len() <= 2 * size as usize);
            }
        }
    }
}
