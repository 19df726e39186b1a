//! Traffic selector payloads (RFC 7296 3.13).

use std::net::IpAddr;

use super::TrafficSelector;
use crate::ike::message::DecodeError;
use crate::wire::{Reader, Writer};

/// Most selectors in one payload; the wire could hold 255.
pub const MAX_SELECTORS: usize = 64;

const TS_IPV4_ADDR_RANGE: u8 = 7;
const TS_IPV6_ADDR_RANGE: u8 = 8;

/// One entry of a TS payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TsEntry {
    /// An IPv4 or IPv6 range.
    Range(TrafficSelector),
    /// A type we do not know: body after the selector length, kept.
    Unknown {
        /// TS type.
        kind: u8,
        /// The octet after it: protocol for the types known.
        protocol: u8,
        /// The rest.
        body: Vec<u8>,
    },
}

/// Wraps selectors for a TSi or TSr payload.
#[must_use]
pub fn to_entries(selectors: &[TrafficSelector]) -> Vec<TsEntry> {
    selectors.iter().copied().map(TsEntry::Range).collect()
}

/// The selectors of a payload we can understand.
#[must_use]
pub fn from_entries(entries: &[TsEntry]) -> Vec<TrafficSelector> {
    entries
        .iter()
        .filter_map(|entry| match entry {
            TsEntry::Range(selector) => Some(*selector),
            TsEntry::Unknown { .. } => None,
        })
        .collect()
}

pub(in crate::ike) fn decode_payload(body: &[u8]) -> Result<Vec<TsEntry>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = usize::from(reader.u8()?);
    reader.bytes(3)?;
    if count > MAX_SELECTORS {
        return Err(DecodeError::TooMany("traffic selectors"));
    }
    if count == 0 {
        return Err(DecodeError::Malformed("empty traffic selector payload"));
    }
    let entries = (0..count)
        .map(|_| decode_entry(&mut reader))
        .collect::<Result<_, _>>()?;
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("octets after the last selector"));
    }
    Ok(entries)
}

fn decode_entry(reader: &mut Reader<'_>) -> Result<TsEntry, DecodeError> {
    let kind = reader.u8()?;
    let protocol = reader.u8()?;
    let length = usize::from(reader.u16()?);
    let mut body = reader.sub(length.checked_sub(4).ok_or(DecodeError::Length)?)?;
    if kind != TS_IPV4_ADDR_RANGE && kind != TS_IPV6_ADDR_RANGE {
        let body = body.rest().to_vec();
        return Ok(TsEntry::Unknown {
            kind,
            protocol,
            body,
        });
    }
    let (start_port, end_port) = (body.u16()?, body.u16()?);
    let (start, end) = if kind == TS_IPV4_ADDR_RANGE {
        (
            IpAddr::from(body.array::<4>()?),
            IpAddr::from(body.array::<4>()?),
        )
    } else {
        (
            IpAddr::from(body.array::<16>()?),
            IpAddr::from(body.array::<16>()?),
        )
    };
    if !body.is_empty() {
        return Err(DecodeError::Length);
    }
    TrafficSelector::range(start, end)
        .and_then(|selector| selector.with_ports(protocol, start_port, end_port))
        .map(TsEntry::Range)
        .ok_or(DecodeError::Malformed("traffic selector range"))
}

pub(in crate::ike) fn encode_payload(entries: &[TsEntry], out: &mut Writer) {
    out.u8(u8::try_from(entries.len()).expect("our own selectors are few"))
        .bytes(&[0; 3]);
    for entry in entries {
        let start = out.len();
        match entry {
            TsEntry::Range(selector) => encode_range(selector, start, out),
            TsEntry::Unknown {
                kind,
                protocol,
                body,
            } => {
                out.u8(*kind).u8(*protocol);
                out.length16(start, |out| {
                    out.bytes(body);
                });
            }
        }
    }
}

fn encode_range(selector: &TrafficSelector, start: usize, out: &mut Writer) {
    let (start_port, end_port) = selector.ports();
    let kind = match selector.start() {
        IpAddr::V4(_) => TS_IPV4_ADDR_RANGE,
        IpAddr::V6(_) => TS_IPV6_ADDR_RANGE,
    };
    out.u8(kind).u8(selector.protocol());
    out.length16(start, |out| {
        out.u16(start_port).u16(end_port);
        for address in [selector.start(), selector.end()] {
            match address {
                IpAddr::V4(address) => out.bytes(&address.octets()),
                IpAddr::V6(address) => out.bytes(&address.octets()),
            };
        }
    });
}
