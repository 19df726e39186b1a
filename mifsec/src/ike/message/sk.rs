//! The Encrypted payload with an AEAD (RFC 7296 3.14, RFC 5282 3 and 5).
//!
//! ```text
//!  IKE header (28) | SK generic header (4) | IV (8) | ciphertext | ICV (16)
//!  \________ associated data _____________/
//! ```
//! The plaintext is the inner chain, padding and the pad length octet. AEADs
//! need no padding, so ours is the pad length octet alone.

use crate::crypto::{Aead, ICV_LEN, IV_LEN};
use crate::wire::{Reader, Writer};

use super::payload::{Raw, decode_chain, encode_chain};
use super::{DecodeError, HEADER_LEN, Header, MAX_MESSAGE, Payload, PayloadType};

/// Octets of a generic payload header.
const GENERIC_LEN: usize = 4;

/// A protected message's content before its integrity is known. There is no
/// way to its payloads but [`open`](Self::open).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    associated: Vec<u8>,
    first: PayloadType,
    iv: [u8; IV_LEN],
    ciphertext: Vec<u8>,
    icv: [u8; ICV_LEN],
}

/// Why a protected message gave no payloads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not from the peer: to be dropped without an answer.
    #[error("integrity check failed")]
    Integrity,
    /// From the peer but not understood: to be answered.
    #[error("protected content: {0}")]
    Content(#[from] DecodeError),
}

impl Encrypted {
    /// Splits an SK payload; `message` is the whole datagram it ends.
    pub(super) fn split(message: &[u8], raw: &Raw<'_>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw.body);
        let iv = reader.array()?;
        let ciphertext = reader
            .len()
            .checked_sub(ICV_LEN)
            .ok_or(DecodeError::Truncated)?;
        let ciphertext = reader.bytes(ciphertext)?.to_vec();
        let icv = reader.array()?;
        let mut front = Reader::new(message);
        Ok(Self {
            associated: front.bytes(HEADER_LEN + GENERIC_LEN)?.to_vec(),
            first: raw.next,
            iv,
            ciphertext,
            icv,
        })
    }

    /// Verifies, decrypts and reads the inner payloads.
    ///
    /// # Errors
    /// [`OpenError::Integrity`] for anything the peer did not seal,
    /// [`OpenError::Content`] for what it did seal but we cannot read.
    pub fn open(mut self, key: &Aead) -> Result<Vec<Payload>, OpenError> {
        key.open(self.iv, &self.associated, &mut self.ciphertext, self.icv)
            .map_err(|_| OpenError::Integrity)?;
        let (&pad_len, padded) = self.ciphertext.split_last().ok_or(DecodeError::Truncated)?;
        let end = padded
            .len()
            .checked_sub(usize::from(pad_len))
            .ok_or(DecodeError::Malformed("pad length"))?;
        let (inner, _padding) = padded.split_at(end);
        Ok(decode_chain(self.first, inner)?)
    }
}

/// Encodes a message whose payloads are all inside SK.
///
/// `iv` must never repeat under `key`: a per-direction counter (RFC 5282 3.1).
/// A response that is sent again is the same octets, not sealed again.
///
/// # Panics
/// When what we built ourselves exceeds 65,535 octets.
#[must_use]
pub fn seal(header: &Header, payloads: &[Payload], key: &Aead, iv: u64) -> Vec<u8> {
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    let mut inner = Writer::new();
    encode_chain(payloads, &mut inner);
    inner.u8(0);
    let mut inner = inner.finish();

    let payload_len = GENERIC_LEN + IV_LEN + inner.len() + ICV_LEN;
    let total = HEADER_LEN + payload_len;
    assert!(total <= MAX_MESSAGE, "our own message fits a datagram");
    let mut out = Writer::new();
    let length = u32::try_from(total).expect("bounded above");
    header.encode(PayloadType::SK, length, &mut out);
    let payload_len = u16::try_from(payload_len).expect("bounded above");
    out.u8(first.0).u8(0).u16(payload_len);
    let iv = iv.to_be_bytes();
    let icv = key.seal(iv, out.as_slice(), &mut inner);
    out.bytes(&iv).bytes(&inner).bytes(&icv);
    out.finish()
}
