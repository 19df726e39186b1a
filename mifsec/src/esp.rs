//! ESP packets (RFC 4303) of one direction of one Child SA, as values.
//!
//! An SA is shared by threads behind an `Arc`: every method takes `&self`.
//! Outbound, sequence numbers come from one atomic, so that no (key, salt, IV)
//! is ever used twice; they stop for good where they would wrap. Inbound, the
//! order is that of RFC 4303 3.4: length, replay check, open, replay update,
//! padding, next header; the replay window is behind a lock that is not held
//! while a packet is decrypted.
//!
//! Only combined-mode algorithms with an 8-octet IV exist here (RFC 4106, RFC
//! 7634). The IV on the wire is the 64-bit sequence number. Packets are sealed
//! and opened where they lie; nothing allocates per packet. Nothing here knows
//! addresses: an SA does not notice a move.

#![forbid(unsafe_code)]

mod inbound;
mod outbound;
mod replay;
#[cfg(test)]
mod vectors;

pub use inbound::{InboundCounters, InboundSa, Opened};
pub use outbound::{OutboundCounters, OutboundSa};
pub use replay::{DEFAULT_REPLAY_WINDOW, MAX_REPLAY_WINDOW, MIN_REPLAY_WINDOW};

use crate::crypto::{AeadAlgorithm, IV_LEN, PrfAlgorithm, Secret};
use crate::ids::Spi;

/// Octets before the payload: SPI, sequence number, IV.
pub const HEADER_LEN: usize = 8 + IV_LEN;

/// Octets of pad length and next header, which always follow the padding.
const TRAILER_LEN: usize = 2;
/// What payload, padding and trailer together are a multiple of (RFC 4303 2.4).
const ALIGNMENT: usize = 4;
/// The lowest SPI that is not reserved (RFC 4303 2.1).
const FIRST_SPI: u32 = 256;

/// What both ends agreed on for one direction of a Child SA.
pub struct SaParams<'a> {
    /// The SPI in the packets, chosen by their receiver.
    pub spi: Spi,
    /// The combined-mode algorithm.
    pub algorithm: AeadAlgorithm,
    /// Key and salt of this direction, `key | salt`.
    pub keymat: &'a Secret,
    /// Extended (64-bit) sequence numbers, RFC 4303 2.2.1.
    pub esn: bool,
    /// Packets a late one may be behind the newest; inbound only, see
    /// [`DEFAULT_REPLAY_WINDOW`].
    pub replay_window: u32,
}

/// Why an SA could not be made or a packet was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum EspError {
    /// Shorter than an empty packet of this SA.
    #[error("packet is shorter than an empty ESP packet")]
    TooShort,
    /// The encrypted part is not a multiple of 4 octets (RFC 4303 2.4).
    #[error("encrypted part is not aligned to 4 octets")]
    Alignment,
    /// This sequence number was accepted before.
    #[error("sequence number was received before")]
    Replay,
    /// The sequence number is left of the replay window.
    #[error("sequence number is older than the replay window")]
    TooOld,
    /// The integrity check value did not verify.
    #[error("integrity check failed")]
    Integrity,
    /// Authentic, but the padding is not 1, 2, 3, ... or longer than the packet.
    #[error("padding is malformed")]
    Padding,
    /// Key material of the wrong length for the algorithm.
    #[error("key material has the wrong length")]
    KeyLength,
    /// The SPI is one of the reserved values below 256.
    #[error("SPI below 256 is reserved")]
    ReservedSpi,
    /// The replay window is not within
    /// [`MIN_REPLAY_WINDOW`]`..=`[`MAX_REPLAY_WINDOW`].
    #[error("replay window is not within 64 to 65536 packets")]
    ReplayWindow,
}

impl EspError {
    /// The name the packet is counted under.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooShort => "esp_too_short",
            Self::Alignment => "esp_alignment",
            Self::Replay => "esp_replay",
            Self::TooOld => "esp_too_old",
            Self::Integrity => "esp_integrity",
            Self::Padding => "esp_padding",
            Self::KeyLength => "esp_key_length",
            Self::ReservedSpi => "esp_reserved_spi",
            Self::ReplayWindow => "esp_replay_window",
        }
    }
}

/// Identifies a key to someone who has no business knowing it: the first 8
/// octets of HMAC-SHA2-256, keyed by the key, over a fixed label. Equal at both
/// ends of an SA, and unchanged as long as the key is.
#[must_use]
pub fn fingerprint(keymat: &Secret) -> [u8; 8] {
    let mac = PrfAlgorithm::HmacSha256.prf(keymat.expose(), &[b"mifsec SA fingerprint v1"]);
    let mut out = [0; 8];
    for (to, from) in out.iter_mut().zip(mac.expose()) {
        *to = *from;
    }
    out
}

/// SPI and sequence number as the AEAD authenticates them (RFC 4106 section 5):
/// 8 octets, or 12 with the high half of an extended sequence number.
fn aad(spi: Spi, sequence: u64, esn: bool, out: &mut [u8; 12]) -> &[u8] {
    let [s0, s1, s2, s3] = spi.0.to_be_bytes();
    let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
    if esn {
        *out = [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3];
        out
    } else {
        *out = [s0, s1, s2, s3, l0, l1, l2, l3, 0, 0, 0, 0];
        &out[..8]
    }
}
