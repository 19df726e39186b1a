//! What only user space needs: aya may copy these types as octets.

macro_rules! pod {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: repr(C), Copy, no padding (asserted beside each type), and
            // every bit pattern is a value.
            unsafe impl aya::Pod for $t {}
        )*
    };
}

pod!(
    crate::Addr,
    crate::PathEntry,
    crate::PathKey,
    crate::PathStats,
    crate::SaIn,
    crate::SaOut,
    crate::SaOutKey,
    crate::SpdEntry,
    crate::maps::Bucket,
    crate::maps::QueueSettings,
);
