//! Contexts of `BPF_PROG_TEST_RUN`, in the layout of `linux/bpf.h`.

/// Octets of `struct __sk_buff`.
const SKB_LEN: usize = 192;
/// Offset of `gso_segs`.
const GSO_SEGS: usize = 164;
/// Offset of `gso_size`.
const GSO_SIZE: usize = 176;

/// What a packet's context says beyond its octets. Everything arrives on the
/// loopback device, the only one there is without a set-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context {
    /// Segments of a GRO or GSO packet; 0 for a single one.
    pub gso_segs: u32,
    /// Payload octets of a segment.
    pub gso_size: u32,
}

/// Interface index of the loopback device.
pub const LOOPBACK: u32 = 1;

impl Context {
    /// The context in memory form, for programs that take one.
    #[must_use]
    pub fn octets(&self, program: &str) -> Option<Vec<u8>> {
        if program.contains("xdp") || program == "mif_queue" {
            return None;
        }
        let mut octets = vec![0; SKB_LEN];
        octets[GSO_SEGS..GSO_SEGS + 4].copy_from_slice(&self.gso_segs.to_ne_bytes());
        octets[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&self.gso_size.to_ne_bytes());
        Some(octets)
    }
}
