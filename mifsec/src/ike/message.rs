//! IKE messages, from octets to typed payloads and back (RFC 7296 3).
//!
//! [`decode`] reads the header and what is in clear; what is protected comes
//! out as [`Encrypted`], whose payloads only [`Encrypted::open`] gives. So
//! unauthenticated data cannot reach code that takes payloads of a protected
//! message. Decoding never panics, checks every count before it allocates, and
//! keeps numbers it has no name for. A payload type we do not know is kept
//! too, or refused if its critical bit is set (RFC 7296 2.5).

#![forbid(unsafe_code)]

mod header;
mod number;
mod payload;
mod sa;
mod sk;
mod skf;

pub use header::{HEADER_LEN, Header};
pub(crate) use number::numbers;
pub use number::{
    AttributeType, AuthMethod, ConfigType, ExchangeType, IdType, NotifyType, PayloadType, Protocol,
    TransformType, encr, esn, integ, prf,
};
pub use payload::{
    Attribute, Auth, Config, Delete, Id, Ke, MAX_ATTRIBUTES, MAX_DELETED, NONCE_LEN, Notify,
    Payload,
};
pub use sa::{MAX_PROPOSALS, MAX_TRANSFORMS, Proposal, Transform};
pub use sk::{Encrypted, OpenError, seal};
#[cfg(any(test, feature = "testing"))]
pub(in crate::ike) use sk::{body_len, seal_body};
pub use skf::{EncryptedFragment, Fragment, MAX_FRAGMENTS, decode_whole, seal_fitting};

use crate::wire::{Reader, Truncated, Writer};

/// Longest message we read or write.
pub const MAX_MESSAGE: usize = 65_535;
/// Most payloads in one message.
pub const MAX_PAYLOADS: usize = 64;

/// Why octets are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Ends within a field.
    #[error("message ends within a field")]
    Truncated,
    /// A length field contradicts what it measures.
    #[error("length field contradicts the message")]
    Length,
    /// Not IKEv2: answer a request with INVALID_MAJOR_VERSION.
    #[error("major version {1}")]
    Version(Header, u8),
    /// An unknown payload that must be understood: answer a request with
    /// UNSUPPORTED_CRITICAL_PAYLOAD naming it.
    #[error("unsupported critical payload {0}")]
    UnsupportedCritical(PayloadType),
    /// A payload where it may not be.
    #[error("misplaced payload {0}")]
    Misplaced(PayloadType),
    /// More of something than we accept.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// Contradicts its own format.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

impl From<Truncated> for DecodeError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl DecodeError {
    /// The name it is counted under.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "ike_truncated",
            Self::Length => "ike_length",
            Self::Version(..) => "ike_version",
            Self::UnsupportedCritical(_) => "ike_critical_payload",
            Self::Misplaced(_) => "ike_misplaced_payload",
            Self::TooMany(_) => "ike_too_many",
            Self::Malformed(_) => "ike_malformed",
        }
    }

    /// The error notify a request with this fault is answered with
    /// (RFC 7296 2.21, 2.5).
    #[must_use]
    pub fn notify(&self) -> Notify {
        match self {
            Self::Version(..) => Notify::new(NotifyType::INVALID_MAJOR_VERSION, vec![2]),
            Self::UnsupportedCritical(kind) => {
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind.0])
            }
            Self::Truncated
            | Self::Length
            | Self::Misplaced(_)
            | Self::TooMany(_)
            | Self::Malformed(_) => Notify::new(NotifyType::INVALID_SYNTAX, Vec::new()),
        }
    }
}

/// What follows the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Payloads anyone could have written.
    Clear(Vec<Payload>),
    /// Payloads behind the keys of an IKE SA.
    Protected(Encrypted),
    /// A part of such payloads (RFC 7383).
    Fragment(EncryptedFragment),
}

/// Reads one datagram (without the non-ESP marker).
///
/// # Errors
/// [`DecodeError`]; the header is not authenticated either way.
pub fn decode(bytes: &[u8]) -> Result<(Header, Body), DecodeError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(DecodeError::Length);
    }
    let (header, first, rest) = Header::decode(bytes)?;
    if !matches!(first, PayloadType::SK | PayloadType::SKF) {
        return Ok((header, Body::Clear(payload::decode_chain(first, rest)?)));
    }
    let mut reader = Reader::new(rest);
    let raw = payload::take(first, &mut reader)?;
    if !reader.is_empty() {
        return Err(DecodeError::Malformed("octets after the Encrypted payload"));
    }
    let body = match first {
        PayloadType::SKF => Body::Fragment(EncryptedFragment::split(bytes, &raw)?),
        _ => Body::Protected(Encrypted::split(bytes, &raw)?),
    };
    Ok((header, body))
}

/// Encodes a message in clear: IKE_SA_INIT, and errors without an IKE SA.
///
/// # Panics
/// When what we built ourselves exceeds 65,535 octets.
#[must_use]
pub fn encode_clear(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let mut chain = Writer::new();
    payload::encode_chain(payloads, &mut chain);
    let total = HEADER_LEN + chain.len();
    assert!(total <= MAX_MESSAGE, "our own message fits a datagram");
    let first = payloads.first().map_or(PayloadType::NONE, Payload::kind);
    let mut out = Writer::new();
    let length = u32::try_from(total).expect("bounded above");
    header.encode(first, length, &mut out);
    out.bytes(chain.as_slice());
    out.finish()
}

#[cfg(test)]
mod tests;
