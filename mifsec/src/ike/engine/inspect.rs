//! Doors for simulations and fuzzing (feature `testing`).

use crate::ids::IkeId;
use crate::ike::fault::Fault;
use crate::ike::message::{self, Body, ExchangeType, Fragment, Header, Payload};

use super::Engine;

impl Engine {
    /// From now with this fault.
    pub fn sabotage(&mut self, fault: Fault) {
        self.cx.fault = Some(fault);
    }

    /// Header and payloads of a message of one of our IKE SAs, whichever end
    /// sealed it; `None` without the keys and for a fragment.
    #[must_use]
    pub fn reveal(&self, bytes: &[u8]) -> Option<(Header, Vec<Payload>)> {
        let (header, body) = message::decode(bytes).ok()?;
        let payloads = match body {
            Body::Clear(payloads) => payloads,
            // A part says nothing alone.
            Body::Fragment(_) => return None,
            Body::Protected(sealed) => {
                let ids = [header.spi_i, header.spi_r].map(|spi| self.by_spi.get(&spi));
                ids.into_iter()
                    .flatten()
                    .filter_map(|id| self.cx.sas.get(id))
                    .find_map(|sa| sa.reveal(&sealed))?
            }
        };
        Some((header, payloads))
    }

    /// A message the peer of `ike` will take for ours: what a peer that holds
    /// the keys and keeps no rule could send. Without `message_id` it is the
    /// next request.
    pub fn forge(
        &mut self,
        ike: IkeId,
        exchange: ExchangeType,
        message_id: Option<u32>,
        response: bool,
        payloads: &[Payload],
    ) -> Option<Vec<u8>> {
        let sa = self.cx.sas.get_mut(&ike)?;
        sa.forge_message(exchange, message_id, response, payloads)
    }

    /// As [`forge`](Self::forge) for one fragment of a message.
    pub fn forge_fragment(
        &mut self,
        ike: IkeId,
        message_id: u32,
        response: bool,
        fragment: &Fragment,
    ) -> Option<Vec<u8>> {
        let sa = self.cx.sas.get_mut(&ike)?;
        sa.forge_fragment(message_id, response, fragment)
    }

    /// IKE SAs, those that only answer among them, and inbound SPIs that are taken.
    #[must_use]
    pub fn census(&self) -> (usize, usize) {
        (self.cx.sas.len(), self.cx.taken_spis())
    }
}
