//! Sealing: header, IV, padding, ICV, and the sequence numbers they hang on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{EspError, FIRST_SPI, FRONT_LEN, Layout, SaParams, TRAILER_LEN};
use crate::crypto::Aead;
use crate::ids::Spi;

/// The sending direction of one Child SA.
pub struct OutboundSa {
    spi: Spi,
    esn: bool,
    layout: Layout,
    aead: Aead,
    /// The next sequence number to hand out; only ever grows.
    next: AtomicU64,
    packets: AtomicU64,
    octets: AtomicU64,
}

/// What an [`OutboundSa`] has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct OutboundCounters {
    /// Packets sealed.
    pub packets: u64,
    /// Octets of payload sealed.
    pub octets: u64,
    /// Sequence numbers handed out; those of packets that were then dropped too.
    pub reserved: u64,
}

impl OutboundSa {
    /// An SA that has not sent.
    ///
    /// # Errors
    /// [`EspError::KeyLength`], [`EspError::ReservedSpi`].
    pub fn new(params: &SaParams<'_>) -> Result<Self, EspError> {
        if params.spi.0 < FIRST_SPI {
            return Err(EspError::ReservedSpi);
        }
        let aead =
            Aead::new(params.algorithm, params.keymat.expose()).map_err(|_| EspError::KeyLength)?;
        Ok(Self {
            spi: params.spi,
            esn: params.esn,
            layout: Layout::new(params.algorithm),
            aead,
            next: AtomicU64::new(1),
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
        })
    }

    /// The SPI the receiver chose.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Octets of the packet that [`seal`](Self::seal) makes of a payload.
    #[must_use]
    pub fn sealed_len(&self, payload_len: usize) -> usize {
        self.layout.sealed_len(payload_len)
    }

    /// Octets of the longest payload whose packet is at most `room` octets; 0
    /// when there is none.
    #[must_use]
    pub fn payload_room(&self, room: usize) -> usize {
        self.layout.payload_room(room)
    }

    /// Octets before the payload: SPI, sequence number, IV.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.layout.header
    }

    /// Takes `n` consecutive sequence numbers and returns the first; `None`
    /// when fewer are left. The numbers never wrap and are never handed out
    /// again, whether or not their packets are sent (RFC 4303 3.3.3).
    pub fn reserve(&self, n: u32) -> Option<u64> {
        let last = if self.esn {
            u64::MAX - 1
        } else {
            u64::from(u32::MAX)
        };
        self.next
            .fetch_update(Relaxed, Relaxed, |next| {
                next.checked_add(u64::from(n))
                    .filter(|after| *after <= last + 1)
            })
            .ok()
    }

    /// Makes an ESP packet around the payload that already lies at
    /// `packet[header_len..][..payload_len]` (see
    /// [`header_len`](Self::header_len)) and returns the packet's length,
    /// [`sealed_len`](Self::sealed_len)`(payload_len)`.
    ///
    /// `sequence` must come from [`reserve`](Self::reserve) and be used for one
    /// packet only: it makes the IV.
    ///
    /// # Panics
    /// When `packet` is shorter than the result.
    pub fn seal(
        &self,
        sequence: u64,
        next_header: u8,
        payload_len: usize,
        packet: &mut [u8],
    ) -> usize {
        self.packets.fetch_add(1, Relaxed);
        self.octets.fetch_add(payload_len as u64, Relaxed);
        self.seal_with_counter(sequence, sequence, next_header, payload_len, packet)
    }

    /// What has been sent.
    #[must_use]
    pub fn counters(&self) -> OutboundCounters {
        OutboundCounters {
            packets: self.packets.load(Relaxed),
            octets: self.octets.load(Relaxed),
            reserved: self.next.load(Relaxed) - 1,
        }
    }

    fn seal_with_counter(
        &self,
        sequence: u64,
        counter: u64,
        next_header: u8,
        payload_len: usize,
        packet: &mut [u8],
    ) -> usize {
        let layout = self.layout;
        let total = layout.sealed_len(payload_len);
        let (header, rest) = packet[..total].split_at_mut(layout.header);
        let (text, icv) = rest.split_at_mut(total - layout.header - layout.icv);

        let [.., l0, l1, l2, l3] = sequence.to_be_bytes();
        let (front, iv) = header.split_at_mut(FRONT_LEN);
        front[..4].copy_from_slice(&self.spi.0.to_be_bytes());
        front[4..].copy_from_slice(&[l0, l1, l2, l3]);

        let padding = text.len() - payload_len - TRAILER_LEN;
        let mut counted = 0;
        for octet in &mut text[payload_len..][..padding] {
            counted += 1;
            *octet = counted;
        }
        let trailer = text.len() - TRAILER_LEN;
        text[trailer] = counted;
        text[trailer + 1] = next_header;

        let mut room = [0; 12];
        let (aad, high) = layout.authenticated(self.spi, sequence, self.esn, &mut room);
        self.aead.seal(counter, aad, high, iv, text, icv);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{AeadAlgorithm, Secret};
    use crate::esp::DEFAULT_REPLAY_WINDOW;

    fn sa(esn: bool) -> OutboundSa {
        OutboundSa::new(&SaParams {
            spi: Spi(0x0102_0304),
            algorithm: AeadAlgorithm::Aes128Gcm16,
            keymat: &Secret::new(vec![7; 20]),
            esn,
            replay_window: DEFAULT_REPLAY_WINDOW,
        })
        .unwrap()
    }

    #[test]
    fn sequence_numbers_start_at_one_and_are_taken_in_runs() {
        let sa = sa(false);
        assert_eq!(sa.reserve(1), Some(1));
        assert_eq!(sa.reserve(64), Some(2));
        assert_eq!(sa.reserve(1), Some(66));
        assert_eq!(sa.counters().reserved, 66);
    }

    #[test]
    fn without_esn_the_last_sequence_number_is_two_to_the_32_minus_one() {
        let sa = sa(false);
        sa.next.store(u64::from(u32::MAX) - 1, Relaxed);
        assert_eq!(sa.reserve(3), None, "a run that does not fit takes nothing");
        assert_eq!(sa.reserve(2), Some(u64::from(u32::MAX) - 1));
        assert_eq!(sa.reserve(1), None);
        assert_eq!(sa.reserve(1), None, "exhausted for good");
    }

    #[test]
    fn with_esn_the_sequence_passes_two_to_the_32_and_still_never_wraps() {
        let sa = sa(true);
        sa.next.store(u64::from(u32::MAX), Relaxed);
        assert_eq!(sa.reserve(2), Some(u64::from(u32::MAX)));
        assert_eq!(sa.reserve(1), Some(1 << 32 | 1));
        sa.next.store(u64::MAX - 1, Relaxed);
        assert_eq!(sa.reserve(2), None);
        assert_eq!(sa.reserve(1), Some(u64::MAX - 1));
        assert_eq!(sa.reserve(1), None);
        assert_eq!(sa.reserve(u32::MAX), None);
    }

    #[test]
    fn threads_never_share_a_sequence_number() {
        let sa = sa(true);
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (1..500)
                            .flat_map(|n| {
                                let first = sa.reserve(n % 7 + 1).unwrap();
                                first..first + u64::from(n % 7 + 1)
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        let taken = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), taken);
        assert_eq!(sa.counters().reserved, taken as u64);
    }

    #[test]
    fn every_payload_length_is_padded_to_four_octets() {
        for payload in 0..70 {
            let total = sa(true).sealed_len(payload);
            assert_eq!((total - 16 - 16) % 4, 0);
            assert!((payload + 34..payload + 38).contains(&total));
        }
    }

    #[test]
    fn reserved_spis_and_keys_of_the_wrong_length_are_refused() {
        let params = |spi, len| SaParamsOwned {
            spi: Spi(spi),
            keymat: Secret::new(vec![0; len]),
        };
        for (params, error) in [
            (params(0, 20), EspError::ReservedSpi),
            (params(255, 20), EspError::ReservedSpi),
            (params(256, 19), EspError::KeyLength),
            (params(256, 36), EspError::KeyLength),
        ] {
            let made = OutboundSa::new(&SaParams {
                spi: params.spi,
                algorithm: AeadAlgorithm::Aes128Gcm16,
                keymat: &params.keymat,
                esn: true,
                replay_window: 64,
            });
            assert_eq!(made.err(), Some(error));
        }
    }

    /// RFC 7634 appendix A: the only test that fixes an IV of its own.
    #[test]
    fn seals_the_packet_of_rfc_7634_appendix_a() {
        use crate::esp::vectors::rfc7634::*;
        let keymat = Secret::new([KEY.as_slice(), SALT.as_slice()].concat());
        let sa = OutboundSa::new(&SaParams {
            spi: SPI,
            algorithm: AeadAlgorithm::ChaCha20Poly1305,
            keymat: &keymat,
            esn: false,
            replay_window: 64,
        })
        .unwrap();
        let mut packet = vec![0; PACKET.len()];
        packet[sa.header_len()..][..PAYLOAD.len()].copy_from_slice(&PAYLOAD);
        let iv = u64::from_be_bytes(IV);
        let total = sa.seal_with_counter(SEQUENCE, iv, 4, PAYLOAD.len(), &mut packet);
        assert_eq!(total, PACKET.len());
        assert_eq!(packet, PACKET);
    }

    struct SaParamsOwned {
        spi: Spi,
        keymat: Secret,
    }
}
