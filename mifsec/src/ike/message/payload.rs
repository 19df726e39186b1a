//! Typed payloads and the chain they come in (RFC 7296 3.2 to 3.16).

use crate::ids::Spi;
use crate::ike::selector::{self, TsEntry};
use crate::wire::{Reader, Writer};

use super::sa::{self, Proposal};
use super::{
    AttributeType, AuthMethod, ConfigType, DecodeError, IdType, MAX_PAYLOADS, NotifyType,
    PayloadType, Protocol,
};

/// Most SPIs in one Delete payload.
pub const MAX_DELETED: usize = 1024;
/// Most attributes in one configuration payload.
pub const MAX_ATTRIBUTES: usize = 64;
/// Nonces are 16 to 256 octets (RFC 7296 3.9).
pub const NONCE_LEN: std::ops::RangeInclusive<usize> = 16..=256;

const CRITICAL: u8 = 0x80;

/// One payload, in the order it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Offer or choice of algorithms.
    Sa(Vec<Proposal>),
    /// A public value.
    Ke(Ke),
    /// Identity of the initiator.
    IdI(Id),
    /// Identity of the responder.
    IdR(Id),
    /// Certificate, not looked into.
    Cert(Vec<u8>),
    /// Certificate request, not looked into.
    CertReq(Vec<u8>),
    /// Proof of identity.
    Auth(Auth),
    /// Ni or Nr.
    Nonce(Vec<u8>),
    /// Everything else there is to say.
    Notify(Notify),
    /// SAs that are gone.
    Delete(Delete),
    /// Vendor id.
    VendorId(Vec<u8>),
    /// Selectors of the initiator's side.
    TsI(Vec<TsEntry>),
    /// Selectors of the responder's side.
    TsR(Vec<TsEntry>),
    /// Configuration.
    Config(Config),
    /// EAP message, not looked into.
    Eap(Vec<u8>),
    /// A type we do not know and need not.
    Unknown(PayloadType, Vec<u8>),
}

/// KE payload (RFC 7296 3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ke {
    /// Transform number of the method.
    pub group: u16,
    /// Public value.
    pub data: Vec<u8>,
}

/// ID payload (RFC 7296 3.5). `reserved` is kept because AUTH covers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id {
    /// How to read `data`.
    pub kind: IdType,
    /// As received; zero when ours.
    pub reserved: [u8; 3],
    /// The name.
    pub data: Vec<u8>,
}

impl Id {
    /// RestOfIDPayload of RFC 7296 2.15: what AUTH covers.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(self.kind.0).bytes(&self.reserved).bytes(&self.data);
        out.finish()
    }
}

/// AUTH payload (RFC 7296 3.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// How `data` was made.
    pub method: AuthMethod,
    /// The proof.
    pub data: Vec<u8>,
}

/// Notify payload (RFC 7296 3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Of the SA in `spi`, else NONE.
    pub protocol: Protocol,
    /// The SA it is about, else empty.
    pub spi: Vec<u8>,
    /// What is said.
    pub kind: NotifyType,
    /// Its details.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify about no SA in particular.
    #[must_use]
    pub fn new(kind: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: Protocol::NONE,
            spi: Vec::new(),
            kind,
            data,
        }
    }

    /// A notify about an ESP SA, such as REKEY_SA or CHILD_SA_NOT_FOUND.
    #[must_use]
    pub fn about(kind: NotifyType, spi: Spi) -> Self {
        Self {
            protocol: Protocol::ESP,
            spi: spi.0.to_be_bytes().to_vec(),
            kind,
            data: Vec::new(),
        }
    }

    /// The ESP SPI it is about, if it is about one.
    #[must_use]
    pub fn esp_spi(&self) -> Option<Spi> {
        let spi = <[u8; 4]>::try_from(self.spi.as_slice()).ok()?;
        (self.protocol == Protocol::ESP).then_some(Spi(u32::from_be_bytes(spi)))
    }
}

/// Delete payload (RFC 7296 3.11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delete {
    /// The IKE SA the message came in, with all its Child SAs.
    Ike,
    /// ESP SAs, by the sender's inbound SPIs.
    Esp(Vec<Spi>),
    /// SAs of a protocol we have none of.
    Other(Protocol),
}

/// Configuration payload (RFC 7296 3.15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Request or reply.
    pub kind: ConfigType,
    /// In order; several of one type are meant (RFC 7296 3.15.1).
    pub attributes: Vec<Attribute>,
}

/// One configuration attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// What it is.
    pub kind: AttributeType,
    /// Empty in most requests.
    pub value: Vec<u8>,
}

impl Payload {
    /// Its number on the wire.
    #[must_use]
    pub const fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke(_) => PayloadType::KE,
            Self::IdI(_) => PayloadType::IDI,
            Self::IdR(_) => PayloadType::IDR,
            Self::Cert(_) => PayloadType::CERT,
            Self::CertReq(_) => PayloadType::CERTREQ,
            Self::Auth(_) => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete(_) => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TSI,
            Self::TsR(_) => PayloadType::TSR,
            Self::Config(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown(kind, _) => *kind,
        }
    }
}

/// One link of a chain before its body is read.
pub(super) struct Raw<'a> {
    pub(super) kind: PayloadType,
    pub(super) critical: bool,
    pub(super) next: PayloadType,
    pub(super) body: &'a [u8],
}

/// Takes the generic header (RFC 7296 3.2) and body of a payload of type `kind`.
pub(super) fn take<'a>(kind: PayloadType, reader: &mut Reader<'a>) -> Result<Raw<'a>, DecodeError> {
    let next = PayloadType(reader.u8()?);
    let flags = reader.u8()?;
    let length = usize::from(reader.u16()?);
    let body = reader.bytes(length.checked_sub(4).ok_or(DecodeError::Length)?)?;
    Ok(Raw {
        kind,
        critical: flags & CRITICAL != 0,
        next,
        body,
    })
}

/// Reads a whole chain; it must end where the octets do.
pub(super) fn decode_chain(first: PayloadType, bytes: &[u8]) -> Result<Vec<Payload>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut kind = first;
    let mut payloads = Vec::new();
    while kind != PayloadType::NONE {
        if payloads.len() == MAX_PAYLOADS {
            return Err(DecodeError::TooMany("payloads"));
        }
        let raw = take(kind, &mut reader)?;
        payloads.push(decode_one(&raw)?);
        kind = raw.next;
    }
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("octets after the last payload"));
    }
    Ok(payloads)
}

pub(super) fn decode_one(raw: &Raw<'_>) -> Result<Payload, DecodeError> {
    let mut body = Reader::new(raw.body);
    Ok(match raw.kind {
        PayloadType::SA => Payload::Sa(sa::decode(raw.body)?),
        PayloadType::KE => {
            let group = body.u16()?;
            body.u16()?;
            Payload::Ke(Ke {
                group,
                data: body.rest().to_vec(),
            })
        }
        PayloadType::IDI => Payload::IdI(decode_id(&mut body)?),
        PayloadType::IDR => Payload::IdR(decode_id(&mut body)?),
        PayloadType::CERT => Payload::Cert(raw.body.to_vec()),
        PayloadType::CERTREQ => Payload::CertReq(raw.body.to_vec()),
        PayloadType::AUTH => {
            let method = AuthMethod(body.u8()?);
            body.bytes(3)?;
            Payload::Auth(Auth {
                method,
                data: body.rest().to_vec(),
            })
        }
        PayloadType::NONCE => {
            if !NONCE_LEN.contains(&raw.body.len()) {
                return Err(DecodeError::Malformed("nonce length"));
            }
            Payload::Nonce(raw.body.to_vec())
        }
        PayloadType::NOTIFY => Payload::Notify(decode_notify(&mut body)?),
        PayloadType::DELETE => Payload::Delete(decode_delete(&mut body)?),
        PayloadType::VENDOR_ID => Payload::VendorId(raw.body.to_vec()),
        PayloadType::TSI => Payload::TsI(selector::decode_payload(raw.body)?),
        PayloadType::TSR => Payload::TsR(selector::decode_payload(raw.body)?),
        PayloadType::CP => Payload::Config(decode_config(&mut body)?),
        PayloadType::EAP => Payload::Eap(raw.body.to_vec()),
        // Only allowed as the last payload of a message in clear (RFC 7296 3.14).
        PayloadType::SK | PayloadType::SKF => return Err(DecodeError::Misplaced(raw.kind)),
        unknown if raw.critical => return Err(DecodeError::UnsupportedCritical(unknown)),
        unknown => Payload::Unknown(unknown, raw.body.to_vec()),
    })
}

fn decode_id(body: &mut Reader<'_>) -> Result<Id, DecodeError> {
    Ok(Id {
        kind: IdType(body.u8()?),
        reserved: body.array()?,
        data: body.rest().to_vec(),
    })
}

fn decode_notify(body: &mut Reader<'_>) -> Result<Notify, DecodeError> {
    let protocol = Protocol(body.u8()?);
    let spi_len = usize::from(body.u8()?);
    let kind = NotifyType(body.u16()?);
    Ok(Notify {
        protocol,
        kind,
        spi: body.bytes(spi_len)?.to_vec(),
        data: body.rest().to_vec(),
    })
}

fn decode_delete(body: &mut Reader<'_>) -> Result<Delete, DecodeError> {
    let protocol = Protocol(body.u8()?);
    let spi_len = body.u8()?;
    let count = usize::from(body.u16()?);
    if count > MAX_DELETED {
        return Err(DecodeError::TooMany("deleted SPIs"));
    }
    match protocol {
        Protocol::IKE if spi_len == 0 && count == 0 && body.is_empty() => Ok(Delete::Ike),
        Protocol::ESP if spi_len == 4 => {
            let spis = (0..count)
                .map(|_| body.u32().map(Spi))
                .collect::<Result<Vec<_>, _>>()?;
            if !body.is_empty() {
                return Err(DecodeError::Malformed("octets after the last SPI"));
            }
            Ok(Delete::Esp(spis))
        }
        Protocol::IKE | Protocol::ESP => Err(DecodeError::Malformed("delete payload")),
        other => Ok(Delete::Other(other)),
    }
}

fn decode_config(body: &mut Reader<'_>) -> Result<Config, DecodeError> {
    let kind = ConfigType(body.u8()?);
    body.bytes(3)?;
    let mut attributes = Vec::new();
    while !body.is_empty() {
        if attributes.len() == MAX_ATTRIBUTES {
            return Err(DecodeError::TooMany("configuration attributes"));
        }
        // The top bit is reserved (RFC 7296 3.15.1).
        let kind = AttributeType(body.u16()? & 0x7fff);
        let length = usize::from(body.u16()?);
        attributes.push(Attribute {
            kind,
            value: body.bytes(length)?.to_vec(),
        });
    }
    Ok(Config { kind, attributes })
}

/// Appends the chain; its last payload announces none after it.
pub(super) fn encode_chain(payloads: &[Payload], out: &mut Writer) {
    for (index, payload) in payloads.iter().enumerate() {
        let next = payloads
            .get(index + 1)
            .map_or(PayloadType::NONE, Payload::kind);
        let start = out.len();
        out.u8(next.0).u8(0);
        out.length16(start, |out| encode_body(payload, out));
    }
}

fn encode_body(payload: &Payload, out: &mut Writer) {
    match payload {
        Payload::Sa(proposals) => sa::encode(proposals, out),
        Payload::Ke(ke) => {
            out.u16(ke.group).u16(0).bytes(&ke.data);
        }
        Payload::IdI(id) | Payload::IdR(id) => {
            out.bytes(&id.body());
        }
        Payload::Auth(auth) => {
            out.u8(auth.method.0).bytes(&[0; 3]).bytes(&auth.data);
        }
        Payload::Notify(notify) => {
            out.u8(notify.protocol.0)
                .u8(u8::try_from(notify.spi.len()).expect("SPIs have 0, 4 or 8 octets"))
                .u16(notify.kind.0)
                .bytes(&notify.spi)
                .bytes(&notify.data);
        }
        Payload::Delete(delete) => encode_delete(delete, out),
        Payload::TsI(entries) | Payload::TsR(entries) => selector::encode_payload(entries, out),
        Payload::Config(config) => {
            out.u8(config.kind.0).bytes(&[0; 3]);
            for attribute in &config.attributes {
                out.u16(attribute.kind.0)
                    .u16(u16::try_from(attribute.value.len()).expect("our attributes are small"))
                    .bytes(&attribute.value);
            }
        }
        Payload::Cert(octets)
        | Payload::CertReq(octets)
        | Payload::Nonce(octets)
        | Payload::VendorId(octets)
        | Payload::Eap(octets)
        | Payload::Unknown(_, octets) => {
            out.bytes(octets);
        }
    }
}

fn encode_delete(delete: &Delete, out: &mut Writer) {
    match delete {
        Delete::Ike => {
            out.u8(Protocol::IKE.0).u8(0).u16(0);
        }
        Delete::Esp(spis) => {
            out.u8(Protocol::ESP.0)
                .u8(4)
                .u16(u16::try_from(spis.len()).expect("a Delete lists few SPIs"));
            for spi in spis {
                out.u32(spi.0);
            }
        }
        Delete::Other(protocol) => {
            out.u8(protocol.0).u8(4).u16(0);
        }
    }
}
