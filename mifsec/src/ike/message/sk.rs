//! The Encrypted payload (RFC 7296 3.14; with an AEAD RFC 5282 3 and 5).
//!
//! ```text
//!  IKE header (28) | SK generic header (4) | IV | ciphertext | ICV
//!  \________ associated data _____________/
//! ```
//! The plaintext is the inner chain, padding and the pad length octet. AEADs
//! need no padding; AES-CBC needs as much as fills the last block. How long IV
//! and ICV are is known with the key only.

use crate::crypto::Aead;
use crate::wire::{Reader, Writer};

use super::payload::{Raw, decode_chain, encode_chain};
use super::{DecodeError, HEADER_LEN, Header, MAX_MESSAGE, Payload, PayloadType};

/// Octets of a generic payload header.
pub(super) const GENERIC_LEN: usize = 4;
/// No algorithm's IV and ICV are shorter together.
const LEAST_BODY: usize = 8 + 16;

/// A protected message's content before its integrity is known. There is no
/// way to its payloads but [`open`](Self::open).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    associated: Vec<u8>,
    first: PayloadType,
    /// IV, ciphertext and ICV.
    body: Vec<u8>,
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
        if raw.body.len() < LEAST_BODY {
            return Err(DecodeError::Truncated);
        }
        let mut front = Reader::new(message);
        Ok(Self {
            associated: front.bytes(HEADER_LEN + GENERIC_LEN)?.to_vec(),
            first: raw.next,
            body: raw.body.to_vec(),
        })
    }

    /// Verifies, decrypts and reads the inner payloads.
    ///
    /// # Errors
    /// [`OpenError::Integrity`] for anything the peer did not seal,
    /// [`OpenError::Content`] for what it did seal but we cannot read.
    pub fn open(mut self, key: &Aead) -> Result<Vec<Payload>, OpenError> {
        let inner = open_body(key, &self.associated, &mut self.body)?;
        Ok(decode_chain(self.first, inner)?)
    }
}

/// Decrypts `IV | ciphertext | ICV` in place and returns what the sender put
/// before the padding.
pub(super) fn open_body<'a>(
    key: &Aead,
    associated: &[u8],
    body: &'a mut [u8],
) -> Result<&'a [u8], OpenError> {
    let (iv_len, icv_len) = (key.algorithm().iv_len(), key.algorithm().icv_len());
    let (iv, rest) = body
        .split_at_mut_checked(iv_len)
        .ok_or(OpenError::Integrity)?;
    let text_len = rest
        .len()
        .checked_sub(icv_len)
        .ok_or(OpenError::Integrity)?;
    let (text, icv) = rest.split_at_mut(text_len);
    key.open(iv, associated, None, text, icv)
        .map_err(|_| OpenError::Integrity)?;
    let (&mut pad_len, padded) = text.split_last_mut().ok_or(DecodeError::Truncated)?;
    let end = padded
        .len()
        .checked_sub(usize::from(pad_len))
        .ok_or(DecodeError::Malformed("pad length"))?;
    let (inner, _padding) = padded.split_at(end);
    Ok(inner)
}

/// Octets of IV, ciphertext and ICV around `inner` octets of payloads.
pub(in crate::ike) fn body_len(key: &Aead, inner: usize) -> usize {
    let algorithm = key.algorithm();
    algorithm.iv_len() + (inner + 1).next_multiple_of(algorithm.block_len()) + algorithm.icv_len()
}

/// Appends IV, ciphertext and ICV of `inner` to `associated`, which they
/// authenticate.
///
/// `counter` must never repeat under `key`.
pub(in crate::ike) fn seal_body(
    key: &Aead,
    counter: u64,
    inner: &[u8],
    associated: Vec<u8>,
) -> Vec<u8> {
    let (iv_len, icv_len) = (key.algorithm().iv_len(), key.algorithm().icv_len());
    let mut body = vec![0; body_len(key, inner.len())];
    let (iv, rest) = body.split_at_mut(iv_len);
    let (text, icv) = rest.split_at_mut(rest.len() - icv_len);
    let (content, padding) = text.split_at_mut(inner.len());
    content.copy_from_slice(inner);
    if let Some((pad_len, padding)) = padding.split_last_mut() {
        *pad_len = u8::try_from(padding.len()).expect("less than a block");
    }
    key.seal(counter, &associated, None, iv, text, icv);
    let mut out = associated;
    out.extend(body);
    out
}

/// Encodes a message whose payloads are all inside SK.
///
/// `counter` must never repeat under `key`: one per direction (RFC 5282 3.1).
/// A response that is sent again is the same octets, not sealed again.
///
/// # Panics
/// When what we built ourselves exceeds 65,535 octets.
#[must_use]
pub fn seal(header: &Header, payloads: &[Payload], key: &Aead, counter: u64) -> Vec<u8> {
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    let mut inner = Writer::new();
    encode_chain(payloads, &mut inner);
    seal_inner(header, first, &inner.finish(), key, counter)
}

/// The same of payloads that are octets already, the first of this type.
pub(super) fn seal_inner(
    header: &Header,
    first: PayloadType,
    inner: &[u8],
    key: &Aead,
    counter: u64,
) -> Vec<u8> {
    let payload_len = GENERIC_LEN + body_len(key, inner.len());
    let total = HEADER_LEN + payload_len;
    assert!(total <= MAX_MESSAGE, "our own message fits a datagram");
    let mut out = Writer::new();
    let length = u32::try_from(total).expect("bounded above");
    header.encode(PayloadType::SK, length, &mut out);
    let payload_len = u16::try_from(payload_len).expect("bounded above");
    out.u8(first.0).u8(0).u16(payload_len);
    seal_body(key, counter, inner, out.finish())
}
