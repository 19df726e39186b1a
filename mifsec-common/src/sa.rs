//! Security associations as the programs see them: names and homes, never keys.

use crate::{Addr, NO_PATH};

/// Key of `SA_OUT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(C)]
pub struct SaOutKey {
    /// Destination the ESP packet was sent to.
    pub anchor: Addr,
    /// SPI, network order.
    pub spi: [u8; 4],
}

/// [`SaOut::mode`]: home path, alternates in order when it is down.
pub const MODE_ACTIVE: u32 = 0;

/// Value of `SA_OUT`: the paths of an outbound SA. `NO_PATH` means none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct SaOut {
    /// Home path of packets sent to an IPv4 anchor.
    pub home_v4: u32,
    /// Home path of packets sent to an IPv6 anchor.
    pub home_v6: u32,
    /// Paths tried in order when the home is not up; those of another family
    /// than the anchor's are skipped.
    pub alt: [u32; 3],
    /// One of the `MODE_` values.
    pub mode: u32,
    /// Zero.
    pub flags: u32,
}

impl Default for SaOut {
    fn default() -> Self {
        Self {
            home_v4: NO_PATH,
            home_v6: NO_PATH,
            alt: [NO_PATH; 3],
            mode: MODE_ACTIVE,
            flags: 0,
        }
    }
}

/// [`SaIn::flags`]: named in a request of ours that is not answered yet.
pub const SA_IN_LARVAL: u32 = 1;

/// Value of `SA_IN`; the key is the SPI in network order (chosen by us, so unique here).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct SaIn {
    /// `SA_IN_` bits.
    pub flags: u32,
}

const _: () = {
    assert!(size_of::<SaOutKey>() == 20);
    assert!(size_of::<SaOut>() == 28);
    assert!(core::mem::offset_of!(SaOut, mode) == 20);
    assert!(size_of::<SaIn>() == 4);
};
