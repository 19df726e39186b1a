//! The anti-replay window: a ring of bits as RFC 6479 describes it, with the
//! extended sequence number inference of RFC 4303 appendix A2.
//!
//! Bit `s % ring` stands for sequence number `s`. The ring is at least one word
//! larger than the window, so advancing clears whole words and never shifts.

use super::EspError;

/// Packets a late one may be behind by default. Every SA rides on one path, so
/// this only has to cover reordering within it and the moment of a move.
pub const DEFAULT_REPLAY_WINDOW: u32 = 8192;
/// The smallest window that can be configured.
pub const MIN_REPLAY_WINDOW: u32 = 64;
/// The largest window that can be configured.
pub const MAX_REPLAY_WINDOW: u32 = 65_536;

const WORD: u64 = u64::BITS as u64;

/// Which sequence numbers of an inbound SA have been accepted.
#[derive(Debug)]
pub(super) struct Window {
    /// The highest sequence number accepted; 0 before the first.
    top: u64,
    size: u64,
    esn: bool,
    /// A power of two words.
    ring: Box<[u64]>,
}

impl Window {
    pub(super) fn new(size: u32, esn: bool) -> Result<Self, EspError> {
        if !(MIN_REPLAY_WINDOW..=MAX_REPLAY_WINDOW).contains(&size) {
            return Err(EspError::ReplayWindow);
        }
        let words = (size as usize).div_ceil(WORD as usize) + 1;
        Ok(Self {
            top: 0,
            size: u64::from(size),
            esn,
            ring: vec![0; words.next_power_of_two()].into_boxed_slice(),
        })
    }

    /// The whole sequence number of a packet that shows its low 32 bits: the
    /// one value that is in the window or less than 2^32 right of its left edge
    /// (RFC 4303 A2.2). `None`: it would lie before the first packet.
    pub(super) fn infer(&self, low: u32) -> Option<u64> {
        let low = u64::from(low);
        if !self.esn {
            return Some(low);
        }
        const SPAN: u64 = 1 << 32;
        let (high, top_low) = (self.top / SPAN, self.top % SPAN);
        let edge = top_low + 1; // of the window, plus its size
        let high = if edge >= self.size {
            // The window lies within one span; lower values belong to the next.
            if low >= edge - self.size {
                Some(high)
            } else {
                high.checked_add(1).filter(|high| *high < SPAN)
            }
        } else if low >= edge + SPAN - self.size {
            // It reaches back into the previous span.
            high.checked_sub(1)
        } else {
            Some(high)
        };
        high.map(|high| high * SPAN + low)
    }

    /// Whether `sequence` may still be accepted.
    pub(super) fn check(&self, sequence: u64) -> Result<(), EspError> {
        if sequence > self.top {
            return Ok(());
        }
        // Senders start at 1 (RFC 4303 3.3.3): zero is never fresh.
        if sequence == 0 || self.top - sequence >= self.size {
            return Err(EspError::TooOld);
        }
        let (word, bit) = self.place(sequence);
        if self.ring[word] & bit != 0 {
            return Err(EspError::Replay);
        }
        Ok(())
    }

    /// Accepts `sequence`, once; call it only for an authentic packet. Checks
    /// again, since other packets may have been accepted since [`check`](Self::check).
    pub(super) fn accept(&mut self, sequence: u64) -> Result<(), EspError> {
        self.check(sequence)?;
        if sequence > self.top {
            let fresh = (sequence / WORD - self.top / WORD).min(self.ring.len() as u64);
            for step in 0..fresh {
                let (word, _) = self.place((sequence / WORD - step) * WORD);
                self.ring[word] = 0;
            }
            self.top = sequence;
        }
        let (word, bit) = self.place(sequence);
        self.ring[word] |= bit;
        Ok(())
    }

    /// The highest sequence number accepted.
    pub(super) fn top(&self) -> u64 {
        self.top
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        let mask = self.ring.len() as u64 - 1;
        // The mask keeps it within the ring.
        let word = ((sequence / WORD) & mask) as usize;
        (word, 1 << (sequence % WORD))
    }

    #[cfg(test)]
    pub(super) fn at(size: u32, esn: bool, top: u64) -> Self {
        let mut window = Self::new(size, esn).unwrap();
        window.top = top;
        window
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window means: a set, and a left edge.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, sequence: u64, size: u64) -> Result<(), EspError> {
            let top = self.seen.last().copied().unwrap_or(0);
            if sequence == 0 || sequence + size <= top {
                return Err(EspError::TooOld);
            }
            if !self.seen.insert(sequence) {
                return Err(EspError::Replay);
            }
            Ok(())
        }
    }

    /// Steps that stay, go back within and beyond the window, and leap.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        prop::collection::vec(
            prop_oneof![
                6 => -3i64..=3,
                3 => -200i64..=200,
                1 => -80_000i64..=80_000,
                1 => 0i64..=400_000,
            ],
            1..300,
        )
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_and_a_left_edge(
            size in prop_oneof![Just(64u32), 64u32..400, Just(8192), Just(65_536)],
            start in prop_oneof![Just(0u64), 0u64..10_000, Just((1 << 32) - 50)],
            steps in steps(),
        ) {
            let mut window = Window::new(size, true).unwrap();
            let mut model = Model::default();
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let checked = window.check(at);
                let expected = model.accept(at, size.into());
                prop_assert_eq!(checked, expected);
                prop_assert_eq!(window.accept(at), expected);
            }
        }

        #[test]
        fn infers_the_sequence_number_of_everything_within_reach(
            size in 64u32..=65_536,
            top in prop_oneof![
                0u64..200_000,
                ((1u64 << 32) - 200_000)..((1 << 32) + 200_000),
                ((1u64 << 40) - 200_000)..((1 << 40) + 200_000),
            ],
            back in 0u64..65_536,
            forward in 0u64..(1 << 31),
        ) {
            let window = Window::at(size, true, top);
            let low = |sequence: u64| u32::try_from(sequence % (1 << 32)).unwrap();
            let late = top.saturating_sub(back % u64::from(size));
            prop_assert_eq!(window.infer(low(late)), Some(late));
            prop_assert_eq!(window.infer(low(top + forward)), Some(top + forward));
        }
    }

    #[test]
    fn before_the_first_span_there_is_nothing() {
        let window = Window::at(64, true, 5);
        assert_eq!(window.infer(u32::MAX), None);
        assert_eq!(window.infer(u32::MAX - 57), None);
        assert_eq!(window.infer(u32::MAX - 58), Some(u64::from(u32::MAX) - 58));
        let window = Window::at(64, true, u64::MAX);
        assert_eq!(window.infer(0), None, "and nothing after the last");
    }

    #[test]
    fn the_window_is_exactly_as_wide_as_asked() {
        for size in [64, 65, 100, 128, 8192, 65_536] {
            let mut window = Window::new(size, false).unwrap();
            let top = 1_000_000;
            window.accept(top).unwrap();
            assert_eq!(window.check(top - u64::from(size)), Err(EspError::TooOld));
            assert_eq!(window.accept(top - u64::from(size) + 1), Ok(()));
            assert_eq!(window.check(top), Err(EspError::Replay));
        }
    }

    #[test]
    fn a_leap_forgets_every_old_bit() {
        let mut window = Window::new(64, true).unwrap();
        for sequence in 1..=128 {
            window.accept(sequence).unwrap();
        }
        window.accept(1 << 40).unwrap();
        for sequence in (1u64 << 40) - 63..1 << 40 {
            assert_eq!(window.check(sequence), Ok(()), "{sequence}");
        }
    }
}
