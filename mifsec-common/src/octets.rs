//! Reading packets: one trait over byte slices, kernel packet pointers and
//! `bpf_skb_load_bytes`, so that parsing is written once.

/// Checked reads from the front part of a packet.
pub trait Octets {
    /// The `N` octets at `offset`, or `None` beyond the end.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// `N` words in memory order at `offset`: one load each where the reader can,
    /// although headers lie at odd offsets.
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        let mut at = offset;
        for word in &mut words {
            *word = u32::from_ne_bytes(self.load(at)?);
            at += 4;
        }
        Some(words)
    }

    /// The same as [`Octets::load`], for offsets that depend on the packet: the verifier follows
    /// pointers with unknown offsets badly.
    #[inline(always)]
    fn load_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.load(offset)
    }
}

impl Octets for [u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}
