//! The probe SAs of an IKE SA: sealed and opened here, sent by the wildcard
//! socket (protocol 3.8). Never for data.
//!
//! A rekeyed IKE SA has new ones. The peer may learn of them later than we, so the
//! old one still sends until something came in on the new one, or for a second,
//! and receives for [`PROBE_GRACE`]. The path engine ranks what it hears by
//! sequence number, so the numbers of a new probe SA count on from those of the
//! one before.

use std::time::{Duration, Instant};

use crate::esp::{EspError, InboundSa, OutboundSa, SaParams};
use crate::ids::Spi;
use crate::ike::{PROBE_GRACE, ProbeKeys};

/// Next header of a probe.
const NEXT_HEADER: u8 = 253;
/// Packets; slow probes over many paths come out of order.
const WINDOW: u32 = 4096;
/// How long the peer may need to have new keys.
const HOLD: Duration = Duration::from_secs(1);
/// Between the numbers of one probe SA and the next: what may still come on the
/// old one ranks below.
const GAP: u64 = 1 << 20;
/// Probe SAs at once; a peer may rekey as fast as it likes.
const MOST: usize = 4;

/// The probe SAs in use, oldest first; the last one is to stay.
pub(super) struct ProbeSas(Vec<ProbeSa>);

/// Both directions.
struct ProbeSa {
    outbound: OutboundSa,
    inbound: InboundSa,
    /// Added to its sequence numbers.
    base: u64,
    /// Sends then at the latest.
    sends: Instant,
    /// Receives until then.
    until: Option<Instant>,
}

impl ProbeSas {
    pub(super) fn new(keys: &ProbeKeys, now: Instant) -> Result<Self, EspError> {
        Ok(Self(vec![ProbeSa::new(keys, 0, now)?]))
    }

    /// New keys; what is too many of the old ones is returned.
    pub(super) fn add(&mut self, keys: &ProbeKeys, now: Instant) -> Result<Vec<Spi>, EspError> {
        let newest = |sa: &ProbeSa| sa.base.saturating_add(sa.inbound.counters().newest);
        let base = self.0.iter().map(newest).max().unwrap_or(0);
        let next = ProbeSa::new(keys, base.saturating_add(GAP), now + HOLD)?;
        for old in &mut self.0 {
            old.until.get_or_insert(now + PROBE_GRACE);
        }
        self.0.push(next);
        let many = self.0.len().saturating_sub(MOST);
        Ok(self.0.drain(..many).map(|sa| sa.inbound.spi()).collect())
    }

    /// Lets go of what was replaced long enough ago.
    pub(super) fn retire(&mut self, now: Instant) -> Vec<Spi> {
        let gone = |sa: &ProbeSa| sa.until.is_some_and(|until| until <= now);
        let spis = self.0.iter().filter(|sa| gone(sa));
        let spis = spis.map(|sa| sa.inbound.spi()).collect();
        self.0.retain(|sa| !gone(sa));
        spis
    }

    /// When the next is let go.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.iter().filter_map(|sa| sa.until).min()
    }

    /// The SPIs probes arrive on.
    pub(super) fn spis_in(&self) -> impl Iterator<Item = Spi> + '_ {
        self.0.iter().map(|sa| sa.inbound.spi())
    }

    /// The ESP packet for `plaintext`; `None` when the SA is used up.
    pub(super) fn seal(&self, plaintext: &[u8], now: Instant) -> Option<Vec<u8>> {
        let ready = self.0.iter().rfind(|sa| sa.sends <= now);
        ready.or(self.0.first())?.seal(plaintext)
    }

    /// Sequence number and plaintext of an ESP packet that came on `spi`.
    pub(super) fn open<'a>(
        &mut self,
        spi: Spi,
        packet: &'a mut [u8],
        now: Instant,
    ) -> Result<(u64, &'a [u8]), &'static str> {
        let sa = self.0.iter_mut().find(|sa| sa.inbound.spi() == spi);
        let sa = sa.ok_or("probe_unknown_spi")?;
        let opened = sa.inbound.open(packet).map_err(EspError::reason)?;
        // The peer has these keys.
        sa.sends = sa.sends.min(now);
        if opened.next_header != NEXT_HEADER {
            return Err("probe_next_header");
        }
        let payload = packet.get(opened.payload).ok_or("probe_length")?;
        Ok((sa.base.saturating_add(opened.sequence), payload))
    }
}

impl ProbeSa {
    fn new(keys: &ProbeKeys, base: u64, sends: Instant) -> Result<Self, EspError> {
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
            base,
            sends,
            until: None,
        })
    }

    fn seal(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{AeadAlgorithm, AesKey, Integrity, Secret};

    /// One end's keys; the other has them the other way round.
    fn keys(ours: u32, peers: u32) -> ProbeKeys {
        let key = |spi: u32| Secret::new(vec![u8::try_from(spi % 251).unwrap(); 36]);
        ProbeKeys {
            spi_in: Spi(ours),
            spi_out: Spi(peers),
            algorithm: AeadAlgorithm::Aes256Gcm16,
            keymat_in: key(ours),
            keymat_out: key(peers),
        }
    }

    fn spi(packet: &[u8]) -> u32 {
        u32::from_be_bytes(*packet.first_chunk().unwrap())
    }

    #[test]
    fn new_keys_send_when_the_peer_has_them_and_old_ones_receive_for_a_while() {
        let now = Instant::now();
        let mut here = ProbeSas::new(&keys(1000, 2000), now).unwrap();
        let mut there = ProbeSas::new(&keys(2000, 1000), now).unwrap();
        let mut old = here.seal(b"old", now).unwrap();
        assert!(here.add(&keys(1001, 2001), now).unwrap().is_empty());
        assert_eq!(spi(&here.seal(b"x", now).unwrap()), 2000, "not yet");
        there.add(&keys(2001, 1001), now).unwrap();
        let late = there.seal(b"first", now + HOLD);
        let mut first = late.expect("sends after a second");
        assert_eq!(spi(&first), 1001);
        let (rank, payload) = here.open(Spi(1001), &mut first, now).unwrap();
        assert_eq!(payload, b"first");
        assert_eq!(spi(&here.seal(b"x", now).unwrap()), 2001, "the peer has it");
        let (before, payload) = there.open(Spi(2000), &mut old, now).unwrap();
        assert_eq!(payload, b"old");
        assert!(before < rank, "what comes later ranks higher");
        assert!(there.retire(now).is_empty());
        assert_eq!(there.until(), Some(now + PROBE_GRACE));
        assert_eq!(there.retire(now + PROBE_GRACE), [Spi(2000)]);
        assert_eq!(there.spis_in().collect::<Vec<_>>(), [Spi(2001)]);
    }

    #[test]
    fn a_peer_that_rekeys_without_end_does_not_fill_memory() {
        let now = Instant::now();
        let mut sas = ProbeSas::new(&keys(1000, 2000), now).unwrap();
        let gone: usize = (1..100)
            .map(|n| sas.add(&keys(1000 + n, 2000 + n), now).unwrap().len())
            .sum();
        assert_eq!((gone, sas.spis_in().count()), (100 - MOST, MOST));
    }

    #[test]
    fn probes_are_sealed_as_the_ike_sa_is() {
        let algorithm = AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha256_128);
        let key = |fill: u8| Secret::new(vec![fill; algorithm.keymat_len()]);
        let sas = |inbound: u8, outbound: u8| {
            let keys = ProbeKeys {
                spi_in: Spi(0x1000 + u32::from(inbound)),
                spi_out: Spi(0x1000 + u32::from(outbound)),
                algorithm,
                keymat_in: key(inbound),
                keymat_out: key(outbound),
            };
            ProbeSas::new(&keys, Instant::now()).unwrap()
        };
        let (here, mut there) = (sas(1, 2), sas(2, 1));
        let now = Instant::now();
        for len in 0..100 {
            let plaintext = vec![len; usize::from(len)];
            let mut packet = here.seal(&plaintext, now).unwrap();
            let opened = there.open(Spi(0x1002), &mut packet, now);
            assert_eq!(opened, Ok((u64::from(len) + 1, &plaintext[..])));
        }
    }
}
