//! The probe SA of an IKE SA: sealed and opened here, sent by the wildcard
//! socket (protocol 3.8). Never for data.

use crate::esp::{EspError, InboundSa, OutboundSa, SaParams};
use crate::ids::Spi;
use crate::ike::ProbeKeys;

/// Next header of a probe.
const NEXT_HEADER: u8 = 253;
/// Packets; slow probes over many paths come out of order.
const WINDOW: u32 = 4096;

/// Both directions.
pub(super) struct ProbeSa {
    outbound: OutboundSa,
    inbound: InboundSa,
}

impl ProbeSa {
    pub(super) fn new(keys: &ProbeKeys) -> Result<Self, EspError> {
        let params = |spi, keymat| SaParams {
            spi,
            algorithm: keys.algorithm,
            keymat,
            esn: true,
            replay_window: WINDOW,
        };
        Ok(Self {
            outbound: OutboundSa::new(&params(keys.spi_out, &keys.keymat_out))?,
            inbound: InboundSa::new(&params(keys.spi_in, &keys.keymat_in))?,
        })
    }

    /// The SPI probes arrive on.
    pub(super) fn spi_in(&self) -> Spi {
        self.inbound.spi()
    }

    /// The ESP packet for `plaintext`; `None` when the SA is used up.
    pub(super) fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let sequence = self.outbound.reserve(1)?;
        let mut packet = vec![0; self.outbound.sealed_len(plaintext.len())];
        let start = self.outbound.header_len();
        packet
            .get_mut(start..start + plaintext.len())?
            .copy_from_slice(plaintext);
        let length = self
            .outbound
            .seal(sequence, NEXT_HEADER, plaintext.len(), &mut packet);
        packet.truncate(length);
        Some(packet)
    }

    /// Sequence number and plaintext of an ESP packet.
    pub(super) fn open<'a>(&self, packet: &'a mut [u8]) -> Result<(u64, &'a [u8]), &'static str> {
        let opened = self.inbound.open(packet).map_err(EspError::reason)?;
        if opened.next_header != NEXT_HEADER {
            return Err("probe_next_header");
        }
        let payload = packet.get(opened.payload).ok_or("probe_length")?;
        Ok((opened.sequence, payload))
    }
}
