//! Randomness as an argument: engines draw SPIs, nonces, tokens and jitter from
//! an [`Entropy`] they were given.

use ring::rand::{SecureRandom as _, SystemRandom};

/// A source of unpredictable octets.
pub trait Entropy: Send {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]);

    /// Eight octets as an integer.
    fn u64(&mut self) -> u64 {
        let mut out = [0; 8];
        self.fill(&mut out);
        u64::from_be_bytes(out)
    }

    /// Four octets as an integer.
    fn u32(&mut self) -> u32 {
        let mut out = [0; 4];
        self.fill(&mut out);
        u32::from_be_bytes(out)
    }
}

/// The kernel's random source.
#[derive(Default)]
pub struct SystemEntropy(Option<SystemRandom>);

impl Entropy for SystemEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        self.0
            .get_or_insert_with(SystemRandom::new)
            .fill(out)
            .expect("the kernel's random source does not fail after boot");
    }
}

/// A repeatable stream (SplitMix64) for simulations; never for real peers.
pub struct SeededEntropy(u64);

impl SeededEntropy {
    /// Streams of different seeds are unrelated.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            chunk.copy_from_slice(&z.to_be_bytes()[..chunk.len()]);
        }
    }
}
