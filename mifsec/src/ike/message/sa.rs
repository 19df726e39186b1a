//! SA payloads: proposals and transforms (RFC 7296 3.3).

use crate::wire::{Reader, Writer};

use super::{DecodeError, Protocol, TransformType};

/// More proposals than any peer has reason to send.
pub const MAX_PROPOSALS: usize = 32;
/// More transforms in one proposal than any peer has reason to send.
pub const MAX_TRANSFORMS: usize = 64;

const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
/// Attribute type 14, Key Length, in the short TV form.
const KEY_LENGTH: u16 = 0x8000 | 14;

/// One alternative of an SA payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// 1 for the first, counting up; an answer repeats the chosen one.
    pub number: u8,
    /// IKE or ESP.
    pub protocol: Protocol,
    /// Of 0, 4 or 8 octets as the protocol and exchange demand.
    pub spi: Vec<u8>,
    /// In order of preference within each type.
    pub transforms: Vec<Transform>,
}

/// One algorithm of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// What it is an algorithm for.
    pub kind: TransformType,
    /// Its number within that type.
    pub id: u16,
    /// Key length attribute in bits.
    pub key_bits: Option<u16>,
    /// An attribute we do not know is present: never to be chosen (RFC 7296 3.3.6).
    pub unknown_attribute: bool,
}

impl Transform {
    /// A transform without attributes.
    #[must_use]
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: None,
            unknown_attribute: false,
        }
    }

    /// A transform with a key length.
    #[must_use]
    pub const fn with_key(kind: TransformType, id: u16, bits: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: Some(bits),
            unknown_attribute: false,
        }
    }
}

pub(super) fn decode(body: &[u8]) -> Result<Vec<Proposal>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut proposals = Vec::new();
    while !reader.is_empty() {
        if proposals.len() == MAX_PROPOSALS {
            return Err(DecodeError::TooMany("proposals"));
        }
        let more = reader.u8()?;
        reader.u8()?;
        let length = usize::from(reader.u16()?);
        let mut inner = reader.sub(length.checked_sub(4).ok_or(DecodeError::Length)?)?;
        proposals.push(decode_proposal(&mut inner)?);
        if (more == MORE_PROPOSALS) == reader.is_empty() {
            return Err(DecodeError::Malformed("last proposal flag"));
        }
    }
    Ok(proposals)
}

fn decode_proposal(inner: &mut Reader<'_>) -> Result<Proposal, DecodeError> {
    let number = inner.u8()?;
    let protocol = Protocol(inner.u8()?);
    let spi_len = inner.u8()?;
    let count = usize::from(inner.u8()?);
    if count > MAX_TRANSFORMS {
        return Err(DecodeError::TooMany("transforms"));
    }
    let spi = inner.bytes(usize::from(spi_len))?.to_vec();
    let mut transforms = Vec::new();
    for index in 0..count {
        let more = inner.u8()?;
        inner.u8()?;
        let length = usize::from(inner.u16()?);
        let mut body = inner.sub(length.checked_sub(4).ok_or(DecodeError::Length)?)?;
        transforms.push(decode_transform(&mut body)?);
        if (more == MORE_TRANSFORMS) != (index + 1 < count) {
            return Err(DecodeError::Malformed("last transform flag"));
        }
    }
    if !inner.is_empty() {
        return Err(DecodeError::Malformed("octets after the last transform"));
    }
    Ok(Proposal {
        number,
        protocol,
        spi,
        transforms,
    })
}

fn decode_transform(body: &mut Reader<'_>) -> Result<Transform, DecodeError> {
    let kind = TransformType(body.u8()?);
    body.u8()?;
    let mut transform = Transform::new(kind, body.u16()?);
    while !body.is_empty() {
        let attribute = body.u16()?;
        let value = body.u16()?;
        match attribute {
            KEY_LENGTH if transform.key_bits.is_none() => transform.key_bits = Some(value),
            short if short & 0x8000 != 0 => transform.unknown_attribute = true,
            _ => {
                body.bytes(usize::from(value))?;
                transform.unknown_attribute = true;
            }
        }
    }
    Ok(transform)
}

pub(super) fn encode(proposals: &[Proposal], out: &mut Writer) {
    for (index, proposal) in proposals.iter().enumerate() {
        let last = index + 1 == proposals.len();
        let start = out.len();
        out.u8(if last { 0 } else { MORE_PROPOSALS }).u8(0);
        out.length16(start, |out| encode_proposal(proposal, out));
    }
}

fn encode_proposal(proposal: &Proposal, out: &mut Writer) {
    let octet = |len: usize| u8::try_from(len).expect("our own proposals are small");
    out.u8(proposal.number)
        .u8(proposal.protocol.0)
        .u8(octet(proposal.spi.len()))
        .u8(octet(proposal.transforms.len()))
        .bytes(&proposal.spi);
    for (index, transform) in proposal.transforms.iter().enumerate() {
        let last = index + 1 == proposal.transforms.len();
        let start = out.len();
        out.u8(if last { 0 } else { MORE_TRANSFORMS }).u8(0);
        out.length16(start, |out| {
            out.u8(transform.kind.0).u8(0).u16(transform.id);
            if let Some(bits) = transform.key_bits {
                out.u16(KEY_LENGTH).u16(bits);
            }
        });
    }
}
