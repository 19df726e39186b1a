//! The IKE header (RFC 7296 3.1).

use crate::ids::IkeSpi;
use crate::wire::{Reader, Writer};

use super::{DecodeError, ExchangeType, PayloadType};

/// Octets of the IKE header.
pub const HEADER_LEN: usize = 28;

/// Version 2.0 as it stands on the wire.
const VERSION: u8 = 0x20;
const RESPONSE: u8 = 0x20;
const HIGHER_VERSION: u8 = 0x10;
const INITIATOR: u8 = 0x08;

/// What every message begins with. Length, version and the first payload type
/// belong to the encoding and are not fields.
///
/// ```text
///  IKE SA initiator's SPI (8)
///  IKE SA responder's SPI (8)
///  next payload (1) | version (1) | exchange type (1) | flags (1)
///  message id (4)
///  length (4)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// SPI of the IKE SA's initiator.
    pub spi_i: IkeSpi,
    /// SPI of its responder; 0 in the first message.
    pub spi_r: IkeSpi,
    /// Which exchange.
    pub exchange: ExchangeType,
    /// R flag: this answers a request.
    pub response: bool,
    /// I flag: sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// V flag: the sender speaks a higher major version too.
    pub higher_version: bool,
    /// Matches a response to its request (RFC 7296 2.2).
    pub message_id: u32,
}

impl Header {
    /// Reads the header of a datagram that holds one whole message.
    ///
    /// Returns the header, the first payload's type and the octets after it.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Version`], [`DecodeError::Length`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, PayloadType, &[u8]), DecodeError> {
        let mut reader = Reader::new(bytes);
        let spi_i = IkeSpi(reader.u64()?);
        let spi_r = IkeSpi(reader.u64()?);
        let next = PayloadType(reader.u8()?);
        let version = reader.u8()?;
        let exchange = ExchangeType(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length = reader.u32()?;
        let header = Self {
            spi_i,
            spi_r,
            exchange,
            response: flags & RESPONSE != 0,
            initiator: flags & INITIATOR != 0,
            higher_version: flags & HIGHER_VERSION != 0,
            message_id,
        };
        // A higher minor version is to be ignored, another major one answered
        // with INVALID_MAJOR_VERSION (RFC 7296 2.5).
        if version >> 4 != VERSION >> 4 {
            return Err(DecodeError::Version(header, version >> 4));
        }
        if usize::try_from(length) != Ok(bytes.len()) {
            return Err(DecodeError::Length);
        }
        Ok((header, next, reader.rest()))
    }

    pub(super) fn encode(&self, next: PayloadType, length: u32, out: &mut Writer) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.u64(self.spi_i.0)
            .u64(self.spi_r.0)
            .u8(next.0)
            .u8(VERSION)
            .u8(self.exchange.0)
            .u8(flag(self.response, RESPONSE)
                | flag(self.initiator, INITIATOR)
                | flag(self.higher_version, HIGHER_VERSION))
            .u32(self.message_id)
            .u32(length);
    }
}
