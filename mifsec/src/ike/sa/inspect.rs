//! What simulations and fuzzing may know and do that nobody else may: read a
//! protected message, and seal one that no task of ours would build.

use crate::ike::message::{
    self, Encrypted, ExchangeType, Fragment, HEADER_LEN, Header, Payload, PayloadType,
};

use super::IkeSa;

impl IkeSa {
    /// The payloads of a message that either end sealed under these keys.
    pub(in crate::ike) fn reveal(&self, sealed: &Encrypted) -> Option<Vec<Payload>> {
        let keys = self.keys.as_ref()?;
        [&keys.outbound, &keys.inbound]
            .into_iter()
            .find_map(|key| sealed.clone().open(key).ok())
    }

    /// A message as this end would seal it. Without `message_id` it is a
    /// request under the next id, which is used up: the peer takes it for one of ours.
    pub(in crate::ike) fn forge_message(
        &mut self,
        exchange: ExchangeType,
        message_id: Option<u32>,
        response: bool,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let message_id = message_id.unwrap_or_else(|| {
            let id = self.outbound.next_id();
            self.outbound.skip();
            id
        });
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            response,
            initiator: self.initiator,
            higher_version: false,
            message_id,
        };
        let keys = self.keys.as_mut()?;
        keys.iv = keys.iv.checked_add(1)?;
        Some(message::seal(&header, payloads, &keys.outbound, keys.iv))
    }
    /// One fragment (RFC 7383 2.5) as this end would seal it, whatever it says of
    /// itself.
    pub(in crate::ike) fn forge_fragment(
        &mut self,
        message_id: u32,
        response: bool,
        fragment: &Fragment,
    ) -> Option<Vec<u8>> {
        let header = Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange: ExchangeType::INFORMATIONAL,
            response,
            initiator: self.initiator,
            higher_version: false,
            message_id,
        };
        let keys = self.keys.as_mut()?;
        keys.iv = keys.iv.checked_add(1)?;
        let body = 8 + message::body_len(&keys.outbound, fragment.octets.len());
        let total = u32::try_from(HEADER_LEN + body).ok()?;
        let mut front = message::encode_clear(&header, &[]);
        *front.get_mut(16)? = PayloadType::SKF.0;
        front
            .get_mut(24..HEADER_LEN)?
            .copy_from_slice(&total.to_be_bytes());
        front.extend([fragment.first.0, 0]);
        front.extend(u16::try_from(body).ok()?.to_be_bytes());
        front.extend(fragment.number.to_be_bytes());
        front.extend(fragment.total.to_be_bytes());
        Some(message::seal_body(
            &keys.outbound,
            keys.iv,
            &fragment.octets,
            front,
        ))
    }
}
