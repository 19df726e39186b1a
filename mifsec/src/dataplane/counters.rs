//! Counts by reason: one array per worker, so that counting costs no contention.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::esp::EspError;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// Why a packet was counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in order of declaration.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name it is reported under.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// ESP packets handed to the kernel.
    TxPackets => "tx_packets",
    /// Octets of these, ESP headers included.
    TxOctets => "tx_octets",
    /// ESP packets opened.
    RxPackets => "rx_packets",
    /// Octets of their payload.
    RxOctets => "rx_octets",
    /// NAT keepalives received.
    Keepalive => "keepalive",
    /// IKE messages received on the NAT-T port.
    Ike => "ike",
    /// Packets of probe SAs.
    Probe => "probe",
    /// Outbound: not an IP packet we can read.
    MalformedOut => "malformed_out",
    /// Outbound: no bundle's selectors match.
    NoPolicy => "no_policy",
    /// Outbound: a service with `policy = "discard"` selects it.
    DiscardedOut => "discarded_out",
    /// Outbound: the peer it is for is being connected, or will be because of it.
    Trapped => "trapped",
    /// Outbound: the bundle has no usable path.
    NoPath => "no_path",
    /// Outbound: the SA has no sequence number left.
    Exhausted => "sequence_exhausted",
    /// Outbound: larger than the tunnel; the sender was told.
    TooBig => "too_big",
    /// Outbound: larger than the tunnel; the sender was not told (rate limit,
    /// or a packet no ICMP error may answer).
    TooBigSilent => "too_big_silent",
    /// Outbound: an IPv6 packet of at most 1280 octets that the tunnel cannot
    /// carry: the MTU of the path is below what IPv6 in IPsec needs.
    TooSmallForV6 => "path_too_small_for_ipv6",
    /// Outbound: the access' send buffer is full.
    AccessFull => "access_full",
    /// Outbound: dropped behind the socket (`ENOBUFS`).
    EgressDropped => "egress_dropped",
    /// Outbound: the kernel refused to send.
    SendError => "send_error",
    /// Outbound: too much waits for new SAs' first answers.
    HeldFull => "held_full",
    /// ICMP and local errors taken from the sockets' error queues.
    SocketErrors => "socket_errors",
    /// Inbound: on an interface that is not an access.
    NotAccess => "not_access",
    /// Inbound: shorter than an SPI.
    TooShort => "too_short",
    /// Inbound: no SA has this SPI.
    UnknownSpi => "unknown_spi",
    /// Inbound: too much waits for SAs that are being made.
    LarvalFull => "larval_full",
    /// Inbound: the SA that was being made never came.
    LarvalGone => "larval_gone",
    /// Inbound: the agent is behind.
    AgentQueueFull => "agent_queue_full",
    /// Inbound: shorter than an empty ESP packet.
    EspTooShort => "esp_too_short",
    /// Inbound: encrypted part not aligned.
    EspAlignment => "esp_alignment",
    /// Inbound: received before.
    EspReplay => "esp_replay",
    /// Inbound: left of the replay window.
    EspTooOld => "esp_too_old",
    /// Inbound: integrity check failed.
    EspIntegrity => "esp_integrity",
    /// Inbound: malformed padding.
    EspPadding => "esp_padding",
    /// Inbound: dummy packet (RFC 4303 2.6).
    Dummy => "dummy",
    /// Inbound: next header is neither IPv4 nor IPv6.
    NextHeader => "next_header",
    /// Inbound: authentic, but not an IP packet.
    MalformedIn => "malformed_in",
    /// Inbound: authentic, but outside the SA's selectors.
    Selector => "selector",
    /// Inbound: authentic, but a service with `policy = "discard"` selects it.
    DiscardedIn => "discarded_in",
    /// Inbound: congestion was marked on a packet that cannot carry the mark
    /// (RFC 6040 4.2).
    EcnDrop => "ecn_drop",
    /// Inbound: the TUN refused it.
    TunError => "tun_error",
}

impl Reason {
    /// What an ESP error is counted under.
    pub(super) const fn of(error: EspError) -> Self {
        match error {
            EspError::TooShort => Self::EspTooShort,
            EspError::Alignment => Self::EspAlignment,
            EspError::Replay => Self::EspReplay,
            EspError::TooOld => Self::EspTooOld,
            EspError::Padding => Self::EspPadding,
            // The last three belong to making an SA, not to a packet.
            EspError::Integrity
            | EspError::KeyLength
            | EspError::ReservedSpi
            | EspError::ReplayWindow => Self::EspIntegrity,
        }
    }
}

/// One worker's counts. Only that worker adds; anyone reads.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Counters([AtomicU64; Reason::ALL.len()]);

impl Counters {
    pub(super) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::ALL.len()])
    }

    /// Counts one.
    pub(super) fn hit(&self, reason: Reason) {
        self.add(reason, 1);
    }

    /// Counts `n`.
    pub(super) fn add(&self, reason: Reason, n: u64) {
        if let Some(counter) = self.0.get(reason as usize) {
            // One writer: no need for a locked addition.
            counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// The count so far.
    pub(super) fn get(&self, reason: Reason) -> u64 {
        self.0
            .get(reason as usize)
            .map_or(0, |counter| counter.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_indexes_are_dense() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    #[test]
    fn esp_errors_keep_their_names() {
        for error in [
            EspError::TooShort,
            EspError::Alignment,
            EspError::Replay,
            EspError::TooOld,
            EspError::Integrity,
            EspError::Padding,
        ] {
            assert_eq!(Reason::of(error).name(), error.reason());
        }
    }
}
