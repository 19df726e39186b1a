//! Reading packets: one trait over byte slices, kernel packet pointers and
//! `bpf_skb_load_bytes`, so that parsing is written once.

/// Checked reads from the front part of a packet.
pub trait Octets {
    /// The `N` octets at `offset`, or `None` beyond the end.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The same, for offsets that depend on the packet: the verifier follows
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
