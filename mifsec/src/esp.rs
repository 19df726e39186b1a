//! ESP packets (RFC 4303) of one direction of one Child SA, as values.
//!
//! An SA is shared by threads behind an `Arc`: every method takes `&self`.
//! Outbound, sequence numbers come from one atomic, so that no (key, salt, IV)
//! is ever used twice; they stop for good where they would wrap. Inbound, the
//! order is that of RFC 4303 3.4: length, replay check, open, replay update,
//! padding, next header; the replay window is behind a lock that is not held
//! while a packet is decrypted.
//!
//! The IV on the wire is the 64-bit sequence number with an AEAD (RFC 4106, RFC
//! 7634) and made from it with AES-CBC (RFC 3602). Packets are sealed and opened
//! where they lie; nothing allocates per packet. Nothing here knows addresses:
//! an SA does not notice a move.

#![forbid(unsafe_code)]

mod inbound;
mod outbound;
mod replay;
#[cfg(test)]
mod vectors;

pub use inbound::{InboundCounters, InboundSa, Opened};
pub use outbound::{OutboundCounters, OutboundSa};
pub use replay::{DEFAULT_REPLAY_WINDOW, MAX_REPLAY_WINDOW, MIN_REPLAY_WINDOW};

use crate::crypto::{AeadAlgorithm, PrfAlgorithm, Secret};
use crate::ids::Spi;

/// Octets of SPI and sequence number.
const FRONT_LEN: usize = 8;
/// Octets of pad length and next header, which always follow the padding.
const TRAILER_LEN: usize = 2;
/// What payload, padding and trailer together are a multiple of at least (RFC
/// 4303 2.4).
const ALIGNMENT: usize = 4;
/// The lowest SPI that is not reserved (RFC 4303 2.1).
const FIRST_SPI: u32 = 256;

/// What both ends agreed on for one direction of a Child SA.
pub struct SaParams<'a> {
    /// The SPI in the packets, chosen by their receiver.
    pub spi: Spi,
    /// What protects the packets.
    pub algorithm: AeadAlgorithm,
    /// Keys of this direction: `key | salt`, or `encryption key | integrity
    /// key`.
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
    /// The encrypted part is not a multiple of 4 octets, or of the cipher's
    /// block (RFC 4303 2.4).
    #[error("encrypted part is not aligned to 4 octets or the cipher's block")]
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

/// Where things lie in the packets of one SA.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Octets before the payload: SPI, sequence number, IV.
    header: usize,
    /// Octets of the integrity check value.
    icv: usize,
    /// What the encrypted part is a multiple of, less one; a power of two.
    alignment: usize,
    /// Whether the algorithm is an AEAD.
    combined: bool,
}

impl Layout {
    fn new(algorithm: AeadAlgorithm) -> Self {
        Self {
            header: FRONT_LEN + algorithm.iv_len(),
            icv: algorithm.icv_len(),
            alignment: algorithm.block_len().max(ALIGNMENT) - 1,
            combined: algorithm.is_combined_mode(),
        }
    }

    /// Octets of the packet around a payload.
    fn sealed_len(self, payload_len: usize) -> usize {
        let text = (payload_len + TRAILER_LEN + self.alignment) & !self.alignment;
        self.header + text + self.icv
    }

    /// The longest payload whose packet is not longer than `room`.
    fn payload_room(self, room: usize) -> usize {
        let text = room.saturating_sub(self.header + self.icv) & !self.alignment;
        text.saturating_sub(TRAILER_LEN)
    }

    /// What is authenticated beside IV and ciphertext: before them, and after.
    ///
    /// An AEAD takes SPI and sequence number, 12 octets with the high half of an
    /// extended one (RFC 4106 5). A separate integrity algorithm takes them as
    /// they are in the packet, and the high half at the end (RFC 4303 2.2.1).
    fn authenticated(
        self,
        spi: Spi,
        sequence: u64,
        esn: bool,
        room: &mut [u8; 12],
    ) -> (&[u8], Option<[u8; 4]>) {
        let [s0, s1, s2, s3] = spi.0.to_be_bytes();
        let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
        if esn && self.combined {
            *room = [s0, s1, s2, s3, h0, h1, h2, h3, l0, l1, l2, l3];
            (room, None)
        } else {
            *room = [s0, s1, s2, s3, l0, l1, l2, l3, 0, 0, 0, 0];
            (&room[..8], esn.then_some([h0, h1, h2, h3]))
        }
    }
}
