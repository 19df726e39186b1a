//! The Encrypted Fragment payload (RFC 7383 2.5): a message too long for one
//! packet, cut before it is sealed.
//!
//! ```text
//!  IKE header (28) | generic header (4) | number (2) | total (2) | IV | ciphertext | ICV
//!  \________________ associated data ___________________________/
//! ```
//! Every fragment is sealed on its own, so one that was forged is known before it
//! is kept. The first carries the type of the message's first payload.

use crate::crypto::Aead;
use crate::wire::{Reader, Writer};

use super::payload::{Raw, decode_chain, encode_chain};
use super::sk::{GENERIC_LEN, body_len, open_body, seal_body, seal_inner};
use super::{DecodeError, HEADER_LEN, Header, OpenError, Payload, PayloadType};

/// Most fragments of one message we take; ours have fewer.
pub const MAX_FRAGMENTS: u16 = 64;

/// Octets of fragment number and total.
const COUNT_LEN: usize = 4;
/// No algorithm's IV and ICV are shorter together.
const LEAST_BODY: usize = 8 + 16;
/// Shortest message a caller may ask for: less makes more fragments than anybody
/// takes.
const LEAST_ROOM: usize = 512;

/// A fragment before its integrity is known. There is no way to its octets but
/// [`open`](Self::open).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedFragment {
    associated: Vec<u8>,
    first: PayloadType,
    number: u16,
    total: u16,
    /// IV, ciphertext and ICV.
    body: Vec<u8>,
}

/// A fragment the peer sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// Type of the message's first payload, in fragment 1.
    pub first: PayloadType,
    /// Which, from 1.
    pub number: u16,
    /// How many there are.
    pub total: u16,
    /// Its part of the payloads.
    pub octets: Vec<u8>,
}

impl EncryptedFragment {
    /// Splits an SKF payload; `message` is the whole datagram it ends.
    pub(super) fn split(message: &[u8], raw: &Raw<'_>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(raw.body);
        let (number, total) = (reader.u16()?, reader.u16()?);
        if number == 0 || number > total {
            return Err(DecodeError::Malformed("fragment number"));
        }
        if total > MAX_FRAGMENTS {
            return Err(DecodeError::TooMany("fragments"));
        }
        if reader.len() < LEAST_BODY {
            return Err(DecodeError::Truncated);
        }
        let mut front = Reader::new(message);
        Ok(Self {
            associated: front.bytes(HEADER_LEN + GENERIC_LEN + COUNT_LEN)?.to_vec(),
            first: raw.next,
            number,
            total,
            body: reader.rest().to_vec(),
        })
    }

    /// Which it claims to be, from 1.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// Verifies and decrypts.
    ///
    /// # Errors
    /// [`OpenError::Integrity`] for anything the peer did not seal,
    /// [`OpenError::Content`] for padding it sealed and we cannot read.
    pub fn open(mut self, key: &Aead) -> Result<Fragment, OpenError> {
        Ok(Fragment {
            first: self.first,
            number: self.number,
            total: self.total,
            octets: open_body(key, &self.associated, &mut self.body)?.to_vec(),
        })
    }
}

/// Reads the payloads of a message whose fragments have all come.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_whole(first: PayloadType, octets: &[u8]) -> Result<Vec<Payload>, DecodeError> {
    decode_chain(first, octets)
}

/// Seals a message: whole if it has at most `room` octets, else in fragments of
/// that size. `None` when `counter`, which counts what was sealed under `key`, is
/// at its end.
///
/// # Panics
/// When what we built ourselves exceeds 65,535 octets.
#[must_use]
pub fn seal_fitting(
    header: &Header,
    payloads: &[Payload],
    key: &Aead,
    counter: &mut u64,
    room: usize,
) -> Option<Vec<Vec<u8>>> {
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    let mut inner = Writer::new();
    encode_chain(payloads, &mut inner);
    let inner = inner.finish();
    let room = room.max(LEAST_ROOM);
    let mut next = || {
        *counter = counter.checked_add(1)?;
        Some(*counter)
    };
    if HEADER_LEN + GENERIC_LEN + body_len(key, inner.len()) <= room {
        return Some(vec![seal_inner(header, first, &inner, key, next()?)]);
    }
    let parts = inner.chunks(part_len(key, room));
    let total = u16::try_from(parts.len()).expect("a message has 65,535 octets at most");
    let mut out = Vec::with_capacity(parts.len());
    for (number, part) in (1..).zip(parts) {
        let first = if number == 1 {
            first
        } else {
            PayloadType::NONE
        };
        let payload_len = GENERIC_LEN + COUNT_LEN + body_len(key, part.len());
        let mut message = Writer::new();
        let length = u32::try_from(HEADER_LEN + payload_len).expect("no longer than `room`");
        header.encode(PayloadType::SKF, length, &mut message);
        let payload_len = u16::try_from(payload_len).expect("our own messages are short");
        message.u8(first.0).u8(0).u16(payload_len);
        message.u16(number).u16(total);
        out.push(seal_body(key, next()?, part, message.finish()));
    }
    Some(out)
}

/// Most octets of payloads in a fragment of `room` octets: what is left for the
/// ciphertext is whole blocks, and one octet of it is the pad length.
fn part_len(key: &Aead, room: usize) -> usize {
    let algorithm = key.algorithm();
    let around = HEADER_LEN + GENERIC_LEN + COUNT_LEN + algorithm.iv_len() + algorithm.icv_len();
    let text = room.saturating_sub(around) / algorithm.block_len() * algorithm.block_len();
    text.saturating_sub(1).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Body, ExchangeType, Notify, NotifyType, decode};
    use super::*;
    use crate::crypto::{AeadAlgorithm, AesKey, Integrity};
    use crate::ids::IkeSpi;

    const ALGORITHMS: [AeadAlgorithm; 3] = [
        AeadAlgorithm::Aes256Gcm16,
        AeadAlgorithm::ChaCha20Poly1305,
        AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha512_256),
    ];

    const HEADER: Header = Header {
        spi_i: IkeSpi(1),
        spi_r: IkeSpi(2),
        exchange: ExchangeType::IKE_AUTH,
        response: false,
        initiator: true,
        higher_version: false,
        message_id: 1,
    };

    fn key(algorithm: AeadAlgorithm) -> Aead {
        Aead::new(algorithm, &vec![7; algorithm.keymat_len()]).unwrap()
    }

    fn payloads(len: usize) -> Vec<Payload> {
        let octets = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
        vec![
            Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT, Vec::new())),
            Payload::Cert(octets),
        ]
    }

    fn open(bytes: &[u8], key: &Aead) -> Result<Fragment, OpenError> {
        match decode(bytes)? {
            (_, Body::Fragment(fragment)) => fragment.open(key),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_fits_is_sent_whole_and_what_does_not_in_as_many_as_needed() {
        for algorithm in ALGORITHMS {
            let key = key(algorithm);
            let mut whole = 0;
            for len in (0..4000).step_by(7) {
                let sealed = seal_fitting(&HEADER, &payloads(len), &key, &mut 0, 1228).unwrap();
                assert!(sealed.iter().all(|bytes| bytes.len() <= 1228));
                if let [only] = sealed.as_slice() {
                    whole += 1;
                    assert!(matches!(decode(only), Ok((_, Body::Protected(_)))));
                    continue;
                }
                let parts: Vec<_> = sealed.iter().map(|b| open(b, &key).unwrap()).collect();
                let numbers = parts.iter().map(|part| (part.number, part.total));
                let total = u16::try_from(sealed.len()).unwrap();
                assert!(numbers.eq((1..=total).map(|n| (n, total))));
                let firsts = parts.iter().filter(|p| p.first != PayloadType::NONE);
                assert_eq!(firsts.count(), 1);
                let octets: Vec<u8> = parts.iter().flat_map(|p| p.octets.clone()).collect();
                assert_eq!(decode_whole(parts[0].first, &octets), Ok(payloads(len)));
                // All but the last are as long as they may be.
                let slack = 1228 - sealed[0].len();
                assert!(slack < algorithm.block_len(), "{slack}");
            }
            assert!(whole > 100);
        }
    }

    #[test]
    fn no_counter_is_used_twice() {
        let mut counter = 10;
        let key = key(AeadAlgorithm::Aes128Gcm16);
        let sealed = seal_fitting(&HEADER, &payloads(3000), &key, &mut counter, 1228).unwrap();
        assert_eq!(counter, 10 + sealed.len() as u64);
        let ivs: std::collections::BTreeSet<_> =
            sealed.iter().map(|b| b[36..44].to_vec()).collect();
        assert_eq!(ivs.len(), sealed.len());
        let mut end = u64::MAX - 1;
        assert_eq!(
            seal_fitting(&HEADER, &payloads(3000), &key, &mut end, 1228),
            None
        );
    }

    #[test]
    fn every_truncation_of_a_fragment_is_refused_before_or_by_the_integrity_check() {
        for algorithm in ALGORITHMS {
            let key = key(algorithm);
            let sealed = seal_fitting(&HEADER, &payloads(2000), &key, &mut 0, 1228).unwrap();
            for len in 0..sealed[0].len() {
                assert!(decode(&sealed[0][..len]).is_err(), "{len}");
                // With lengths that fit.
                let mut bytes = sealed[0][..len].to_vec();
                if len >= HEADER_LEN + GENERIC_LEN {
                    let (total, payload) = (u32::try_from(len).unwrap(), len - HEADER_LEN);
                    bytes[24..28].copy_from_slice(&total.to_be_bytes());
                    let payload = u16::try_from(payload).unwrap();
                    bytes[30..32].copy_from_slice(&payload.to_be_bytes());
                    match decode(&bytes) {
                        Ok((_, Body::Fragment(fragment))) => {
                            assert_eq!(fragment.open(&key), Err(OpenError::Integrity));
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => {}
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_without_a_key() {
        let key = key(AeadAlgorithm::Aes256Gcm16);
        let sealed = seal_fitting(&HEADER, &payloads(2000), &key, &mut 0, 1228).unwrap();
        for (number, total) in [(0u16, 2u16), (3, 2), (1, 0), (1, 65), (65_535, 65_535)] {
            let mut bytes = sealed[0].clone();
            bytes[32..34].copy_from_slice(&number.to_be_bytes());
            bytes[34..36].copy_from_slice(&total.to_be_bytes());
            assert!(decode(&bytes).is_err(), "{number} of {total}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_fragment_is_not_opened(at in 0usize..600, bit in 0u8..8) {
            let key = key(AeadAlgorithm::Aes256Gcm16);
            let sealed = seal_fitting(&HEADER, &payloads(900), &key, &mut 0, 600).unwrap();
            let mut bytes = sealed[0].clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok((_, Body::Fragment(fragment))) = decode(&bytes) {
                prop_assert_eq!(fragment.open(&key), Err(OpenError::Integrity));
            }
        }
    }
}
