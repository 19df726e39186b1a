//! The two ways a program reads a packet.

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::{SkBuffContext, TcContext, XdpContext};
use mifsec_common::octets::Octets;

/// Direct access to the linear part. Any helper that may move the packet ends
/// its life: take a new one after it.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    pub(crate) fn xdp(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// The first `front` octets, pulled into the linear part when they are not there.
    #[inline(always)]
    pub(crate) fn tc(ctx: &TcContext, front: u32) -> Self {
        let linear = Self::tc_as_is(ctx);
        if linear.start + front as usize <= linear.end || ctx.len() as usize <= linear.len() {
            return linear;
        }
        // A refusal leaves the linear part as it was; reads beyond it fail.
        let _ = ctx.pull_data(front.min(ctx.len()));
        Self::tc_as_is(ctx)
    }

    #[inline(always)]
    pub(crate) fn tc_as_is(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Writes a half word, a word or an array of words at `offset`; false beyond the end.
    #[inline(always)]
    pub(crate) fn store<const N: usize, T: Copy>(&self, offset: usize, values: [T; N]) -> bool {
        if self.start + offset + size_of::<[T; N]>() > self.end {
            return false;
        }
        let to = (self.start + offset) as *mut T;
        for (i, value) in values.into_iter().enumerate() {
            // SAFETY: inside the linear part, which the kernel makes writable
            // before a program that writes to it runs. Volatile keeps it one
            // store: the kernel's machine has no alignment to respect here.
            unsafe { to.add(i).write_volatile(value) };
        }
        true
    }
}

impl Octets for Linear {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if self.start + offset + N > self.end {
            return None;
        }
        // SAFETY: inside the linear part.
        Some(unsafe { ptr::read_unaligned((self.start + offset) as *const [u8; N]) })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        if self.start + offset + 4 * N > self.end {
            return None;
        }
        let from = (self.start + offset) as *const u32;
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: inside the linear part. Volatile keeps it one load: the
            // kernel's machine has no alignment to respect here.
            *word = unsafe { from.add(i).read_volatile() };
        }
        Some(words)
    }
}

/// Reads by helper: for programs that have no direct access, or whose offsets
/// the verifier could not follow. Sees the whole packet, not just its linear part.
pub(crate) struct Loaded<C>(pub(crate) C);

/// Direct where the octets are in the linear part, by helper where they are not.
pub(crate) struct Front<'a> {
    linear: Linear,
    ctx: &'a TcContext,
}

impl<'a> Front<'a> {
    #[inline(always)]
    pub(crate) fn tc(ctx: &'a TcContext) -> Self {
        Self {
            linear: Linear::tc_as_is(ctx),
            ctx,
        }
    }
}

impl Octets for Front<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if let Some(octets) = self.linear.load(offset) {
            return Some(octets);
        }
        Loaded(self.ctx).load(offset)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        if let Some(words) = self.linear.words(offset) {
            return Some(words);
        }
        Loaded(self.ctx).words(offset)
    }

    #[inline(always)]
    fn load_far<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        Loaded(self.ctx).load(offset)
    }
}

/// A context that is a `__sk_buff`.
pub(crate) trait Skb {
    fn skb(&self) -> *const core::ffi::c_void;
}

impl Skb for &TcContext {
    #[inline(always)]
    fn skb(&self) -> *const core::ffi::c_void {
        self.as_ptr()
    }
}

impl Skb for &SkBuffContext {
    #[inline(always)]
    fn skb(&self) -> *const core::ffi::c_void {
        self.as_ptr()
    }
}

impl<C: Skb> Octets for Loaded<C> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.read(offset, [0u8; N])
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.read(offset, [0u32; N])
    }
}

impl<C: Skb> Loaded<C> {
    #[inline(always)]
    fn read<const N: usize, T: Copy>(&self, offset: usize, mut into: [T; N]) -> Option<[T; N]> {
        // SAFETY: the helper writes the array's size into the array.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.0.skb(),
                offset as u32,
                into.as_mut_ptr().cast(),
                size_of::<[T; N]>() as u32,
            )
        };
        (failed == 0).then_some(into)
    }
}
