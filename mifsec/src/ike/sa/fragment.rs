//! Fragments of the peer's messages until they are whole (RFC 7383 2.6). What is
//! kept was sealed by the peer; how much of it there is is bounded per IKE SA, in
//! messages, octets and time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ike::message::{Fragment, PayloadType};

/// Messages in parts at one time; the oldest goes for another one.
const MAX_PARTIAL: usize = 4;
/// How long the rest of a message is waited for: longer than its sender takes to
/// send all of it again a few times.
const LIFETIME: Duration = Duration::from_secs(30);

/// The messages in parts, by whether it is a response and by id.
#[derive(Debug, Default)]
pub(in crate::ike) struct Reassembly(BTreeMap<(bool, u32), Partial>);

#[derive(Debug)]
struct Partial {
    total: u16,
    first: PayloadType,
    parts: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    since: Instant,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ike) enum Outcome {
    /// Kept; others are missing.
    Waiting,
    /// The last one: type of the first payload, and all octets.
    Whole(PayloadType, Vec<u8>),
    /// It is there already.
    Duplicate,
    /// It does not fit the others, or the bounds.
    Refused,
}

impl Reassembly {
    /// Takes a fragment of a message that is waited for and may have `most` octets.
    pub(in crate::ike) fn add(
        &mut self,
        response: bool,
        id: u32,
        fragment: Fragment,
        most: usize,
        now: Instant,
    ) -> Outcome {
        let key = (response, id);
        match self.0.get(&key) {
            // The sender cut it anew, smaller (RFC 7383 2.5.2): more fragments
            // replace those that came, fewer are of an earlier attempt.
            Some(partial) if fragment.total > partial.total => {
                self.0.remove(&key);
            }
            Some(partial) if fragment.total < partial.total => return Outcome::Refused,
            Some(partial) if partial.parts.contains_key(&fragment.number) => {
                return Outcome::Duplicate;
            }
            _ => {}
        }
        if self.0.len() >= MAX_PARTIAL && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, partial)| partial.since);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.0.remove(&oldest);
            }
        }
        let partial = self.0.entry(key).or_insert_with(|| Partial {
            total: fragment.total,
            first: PayloadType::NONE,
            parts: BTreeMap::new(),
            octets: 0,
            since: now,
        });
        let octets = partial.octets + fragment.octets.len();
        if octets > most {
            self.0.remove(&key);
            return Outcome::Refused;
        }
        partial.octets = octets;
        if fragment.number == 1 {
            partial.first = fragment.first;
        }
        partial.parts.insert(fragment.number, fragment.octets);
        if partial.parts.len() < usize::from(partial.total) {
            return Outcome::Waiting;
        }
        match self.0.remove(&key) {
            Some(partial) => Outcome::Whole(
                partial.first,
                partial.parts.into_values().collect::<Vec<_>>().concat(),
            ),
            None => Outcome::Refused,
        }
    }

    /// The message came whole, or is not waited for any more.
    pub(in crate::ike) fn forget(&mut self, response: bool, id: u32) {
        self.0.remove(&(response, id));
    }

    /// Forgets what has waited too long; how many messages that were.
    pub(in crate::ike) fn expire(&mut self, now: Instant) -> usize {
        let before = self.0.len();
        self.0
            .retain(|_, partial| now.duration_since(partial.since) < LIFETIME);
        before - self.0.len()
    }

    /// When that is to be done.
    pub(in crate::ike) fn next_expiry(&self) -> Option<Instant> {
        let since = self.0.values().map(|partial| partial.since);
        since.min().map(|since| since + LIFETIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1000;

    fn fragment(number: u16, total: u16, octets: &[u8]) -> Fragment {
        Fragment {
            first: if number == 1 {
                PayloadType::NOTIFY
            } else {
                PayloadType::NONE
            },
            number,
            total,
            octets: octets.to_vec(),
        }
    }

    #[test]
    fn fragments_in_any_order_make_the_message_once() {
        let now = Instant::now();
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
            let mut reassembly = Reassembly::default();
            let mut outcomes = Vec::new();
            for number in order {
                let octets = [u8::try_from(number).unwrap(); 2];
                let add =
                    |r: &mut Reassembly| r.add(false, 5, fragment(number, 3, &octets), MOST, now);
                outcomes.push(add(&mut reassembly));
                if outcomes.len() < 3 {
                    assert_eq!(add(&mut reassembly), Outcome::Duplicate);
                }
            }
            let whole = Outcome::Whole(PayloadType::NOTIFY, vec![1, 1, 2, 2, 3, 3]);
            assert_eq!(outcomes, [Outcome::Waiting, Outcome::Waiting, whole]);
            assert_eq!(reassembly.next_expiry(), None);
        }
    }

    #[test]
    fn requests_and_responses_of_one_id_are_two_messages() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let waiting = reassembly.add(false, 5, fragment(1, 2, b"a"), MOST, now);
        assert_eq!(waiting, Outcome::Waiting);
        let waiting = reassembly.add(true, 5, fragment(2, 2, b"b"), MOST, now);
        assert_eq!(waiting, Outcome::Waiting);
    }

    #[test]
    fn a_message_cut_anew_into_more_fragments_starts_over_and_fewer_are_late() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut add = |number, total, octets: &[u8]| {
            reassembly.add(false, 1, fragment(number, total, octets), MOST, now)
        };
        assert_eq!(add(1, 2, b"old"), Outcome::Waiting);
        assert_eq!(add(2, 3, b"b"), Outcome::Waiting);
        assert_eq!(add(2, 2, b"old"), Outcome::Refused);
        assert_eq!(add(3, 3, b"c"), Outcome::Waiting);
        let whole = Outcome::Whole(PayloadType::NOTIFY, b"abc".to_vec());
        assert_eq!(add(1, 3, b"a"), whole);
    }

    #[test]
    fn octets_messages_and_time_are_bounded() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        assert_eq!(
            reassembly.add(false, 1, fragment(1, 64, &[0; MOST]), MOST, now),
            Outcome::Waiting
        );
        assert_eq!(
            reassembly.add(false, 1, fragment(2, 64, &[0]), MOST, now),
            Outcome::Refused
        );
        for id in 0..100 {
            let at = now + Duration::from_millis(id.into());
            reassembly.add(false, id, fragment(1, 2, b"a"), MOST, at);
            assert!(reassembly.0.len() <= MAX_PARTIAL);
        }
        let kept: Vec<u32> = reassembly.0.keys().map(|(_, id)| *id).collect();
        assert_eq!(kept, [96, 97, 98, 99], "the youngest");
        let at = reassembly.next_expiry().unwrap();
        assert_eq!(at, now + Duration::from_millis(96) + LIFETIME);
        assert_eq!(reassembly.expire(at), 1);
        assert_eq!(reassembly.expire(at + Duration::from_millis(3)), 3);
        assert_eq!(reassembly.next_expiry(), None);
    }
}
