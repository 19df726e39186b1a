//! Opening: replay check, decryption in place, replay update, trailer.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::replay::Window;
use super::{EspError, FIRST_SPI, FRONT_LEN, Layout, SaParams, TRAILER_LEN};
use crate::crypto::Aead;
use crate::ids::Spi;
use crate::wire::Reader;

/// The receiving direction of one Child SA.
pub struct InboundSa {
    spi: Spi,
    esn: bool,
    layout: Layout,
    aead: Aead,
    window: Mutex<Window>,
    counters: Counters,
}

/// An authentic packet that was not seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The whole sequence number.
    pub sequence: u64,
    /// What the payload is: 4 IPv4, 41 IPv6, 59 nothing (to be dropped).
    pub next_header: u8,
    /// Where the payload lies in the packet or, after
    /// [`open_run`](InboundSa::open_run), in the buffer.
    pub payload: Range<usize>,
}

/// What an [`InboundSa`] has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct InboundCounters {
    /// Packets accepted.
    pub packets: u64,
    /// Octets of payload accepted.
    pub octets: u64,
    /// [`EspError::Replay`] and [`EspError::TooOld`].
    pub replay_drops: u64,
    /// Of those, the ones left of the window.
    pub too_old: u64,
    /// [`EspError::Integrity`].
    pub integrity: u64,
    /// [`EspError::TooShort`], [`EspError::Alignment`], [`EspError::Padding`].
    pub malformed: u64,
    /// The highest sequence number accepted.
    pub newest: u64,
}

#[derive(Default)]
struct Counters {
    packets: AtomicU64,
    octets: AtomicU64,
    replay: AtomicU64,
    too_old: AtomicU64,
    integrity: AtomicU64,
    malformed: AtomicU64,
}

impl InboundSa {
    /// An SA that has received nothing.
    ///
    /// # Errors
    /// [`EspError::KeyLength`], [`EspError::ReservedSpi`], [`EspError::ReplayWindow`].
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
            window: Mutex::new(Window::new(params.replay_window, params.esn)?),
            counters: Counters::default(),
        })
    }

    /// The SPI we chose.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Opens one ESP packet, from SPI to ICV, in place. The caller has found
    /// this SA by the packet's SPI. After an error the packet's contents are
    /// to be thrown away.
    ///
    /// # Errors
    /// The `EspError` the packet was counted under.
    pub fn open(&self, packet: &mut [u8]) -> Result<Opened, EspError> {
        let checked = self.check(&self.window(), packet);
        let opened = checked
            .and_then(|sequence| self.decrypt(packet, sequence))
            .and_then(|sequence| self.window().accept(sequence).map(|()| sequence))
            .and_then(|sequence| self.trailer(packet, sequence));
        self.count(std::slice::from_ref(&opened));
        opened
    }

    /// Opens a run of packets of this SA that lie in one receive buffer, as a
    /// GRO read delivers them; `segments` are their places, and a place outside
    /// the buffer is a packet that is too short. Appends one result per
    /// segment, in order, to `results`; payload ranges are those of `buffer`.
    ///
    /// The replay lock is taken once to check the run and once to accept it,
    /// and is free while the run is decrypted.
    pub fn open_run(
        &self,
        buffer: &mut [u8],
        segments: &[Range<usize>],
        results: &mut Vec<Result<Opened, EspError>>,
    ) {
        let first = results.len();
        {
            let window = self.window();
            results.extend(segments.iter().map(|segment| {
                let packet = buffer.get(segment.clone()).ok_or(EspError::TooShort)?;
                let sequence = self.check(&window, packet)?;
                Ok(Opened {
                    sequence,
                    next_header: 0,
                    payload: segment.clone(),
                })
            }));
        }
        let results = results.get_mut(first..).unwrap_or_default();
        for result in results.iter_mut() {
            if let Ok(checked) = result
                && let Some(packet) = buffer.get_mut(checked.payload.clone())
                && let Err(error) = self.decrypt(packet, checked.sequence)
            {
                *result = Err(error);
            }
        }
        {
            let mut window = self.window();
            for result in results.iter_mut() {
                if let Ok(opened) = result
                    && let Err(error) = window.accept(opened.sequence)
                {
                    *result = Err(error);
                }
            }
        }
        for result in results.iter_mut() {
            if let Ok(opened) = result
                && let Some(packet) = buffer.get(opened.payload.clone())
            {
                let start = opened.payload.start;
                *result = self.trailer(packet, opened.sequence).map(|mut opened| {
                    opened.payload.start += start;
                    opened.payload.end += start;
                    opened
                });
            }
        }
        self.count(results);
    }

    /// What has been received.
    #[must_use]
    pub fn counters(&self) -> InboundCounters {
        let too_old = self.counters.too_old.load(Relaxed);
        InboundCounters {
            packets: self.counters.packets.load(Relaxed),
            octets: self.counters.octets.load(Relaxed),
            replay_drops: self.counters.replay.load(Relaxed) + too_old,
            too_old,
            integrity: self.counters.integrity.load(Relaxed),
            malformed: self.counters.malformed.load(Relaxed),
            newest: self.window().top(),
        }
    }

    /// Packets and octets of payload accepted, without taking the replay lock.
    #[must_use]
    pub fn accepted(&self) -> (u64, u64) {
        (
            self.counters.packets.load(Relaxed),
            self.counters.octets.load(Relaxed),
        )
    }

    /// Length, alignment, sequence number and replay, before any cryptography.
    fn check(&self, window: &Window, packet: &[u8]) -> Result<u64, EspError> {
        let text = packet
            .len()
            .checked_sub(self.layout.header + self.layout.icv)
            .filter(|text| *text >= TRAILER_LEN)
            .ok_or(EspError::TooShort)?;
        if text & self.layout.alignment != 0 {
            return Err(EspError::Alignment);
        }
        let mut header = Reader::new(packet);
        let _spi = header.u32().map_err(|_| EspError::TooShort)?;
        let low = header.u32().map_err(|_| EspError::TooShort)?;
        let sequence = window.infer(low).ok_or(EspError::TooOld)?;
        window.check(sequence)?;
        Ok(sequence)
    }

    fn decrypt(&self, packet: &mut [u8], sequence: u64) -> Result<u64, EspError> {
        let layout = self.layout;
        let (header, rest) = packet
            .split_at_mut_checked(layout.header)
            .ok_or(EspError::TooShort)?;
        let (text, icv) = rest
            .len()
            .checked_sub(layout.icv)
            .and_then(|text| rest.split_at_mut_checked(text))
            .ok_or(EspError::TooShort)?;
        let (_front, iv) = header
            .split_at_checked(FRONT_LEN)
            .ok_or(EspError::TooShort)?;
        let mut room = [0; 12];
        let (aad, high) = layout.authenticated(self.spi, sequence, self.esn, &mut room);
        self.aead
            .open(iv, aad, high, text, icv)
            .map_err(|_| EspError::Integrity)?;
        Ok(sequence)
    }

    /// Reads padding, pad length and next header off the end of a decrypted
    /// packet (RFC 4303 2.4 to 2.6).
    fn trailer(&self, packet: &[u8], sequence: u64) -> Result<Opened, EspError> {
        let Layout { header, icv, .. } = self.layout;
        let text = packet
            .get(header..packet.len().saturating_sub(icv))
            .ok_or(EspError::Padding)?;
        let (rest, [pad_length, next_header]) =
            text.split_last_chunk::<2>().ok_or(EspError::Padding)?;
        let payload_len = rest
            .len()
            .checked_sub(usize::from(*pad_length))
            .ok_or(EspError::Padding)?;
        let padding = rest.get(payload_len..).ok_or(EspError::Padding)?;
        if !padding.iter().copied().eq(1..=*pad_length) {
            return Err(EspError::Padding);
        }
        Ok(Opened {
            sequence,
            next_header: *next_header,
            payload: header..header + payload_len,
        })
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while the lock is held; were it otherwise, the window
        // would still only have missed an update.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, results: &[Result<Opened, EspError>]) {
        let (mut packets, mut octets) = (0, 0);
        for result in results {
            match result {
                Ok(opened) => {
                    packets += 1;
                    octets += opened.payload.len() as u64;
                }
                Err(error) => {
                    let counter = match error {
                        EspError::Replay => &self.counters.replay,
                        EspError::TooOld => &self.counters.too_old,
                        EspError::Integrity => &self.counters.integrity,
                        EspError::TooShort
                        | EspError::Alignment
                        | EspError::Padding
                        | EspError::KeyLength
                        | EspError::ReservedSpi
                        | EspError::ReplayWindow => &self.counters.malformed,
                    };
                    counter.fetch_add(1, Relaxed);
                }
            }
        }
        if packets != 0 {
            self.counters.packets.fetch_add(packets, Relaxed);
            self.counters.octets.fetch_add(octets, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{AeadAlgorithm, AesKey, Integrity, Secret};
    use crate::esp::OutboundSa;

    const CBC: AeadAlgorithm = AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha256_128);

    fn pair(algorithm: AeadAlgorithm, esn: bool) -> (OutboundSa, InboundSa) {
        let keymat = Secret::new((0u8..).take(algorithm.keymat_len()).collect());
        let params = SaParams {
            spi: Spi(0xdead_beef),
            algorithm,
            keymat: &keymat,
            esn,
            replay_window: 64,
        };
        (
            OutboundSa::new(&params).unwrap(),
            InboundSa::new(&params).unwrap(),
        )
    }

    fn sealed(sa: &OutboundSa, sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; sa.sealed_len(payload.len())];
        packet[sa.header_len()..][..payload.len()].copy_from_slice(payload);
        assert_eq!(
            sa.seal(sequence, 4, payload.len(), &mut packet),
            packet.len()
        );
        packet
    }

    /// A packet whose trailer is whatever `text` ends with.
    fn sealed_text(sa: &InboundSa, sequence: u64, text: &[u8]) -> Vec<u8> {
        let mut packet = sa.spi.0.to_be_bytes().to_vec();
        packet.extend(&sequence.to_be_bytes()[4..]);
        packet.resize(sa.layout.header + text.len() + sa.layout.icv, 0);
        let (header, rest) = packet.split_at_mut(sa.layout.header);
        let (to, icv) = rest.split_at_mut(text.len());
        to.copy_from_slice(text);
        let mut room = [0; 12];
        let (aad, high) = sa.layout.authenticated(sa.spi, sequence, sa.esn, &mut room);
        sa.aead.seal(sequence, aad, high, &mut header[8..], to, icv);
        packet
    }

    #[test]
    fn opens_the_packet_of_rfc_7634_appendix_a() {
        use crate::esp::vectors::rfc7634::*;
        let sa = InboundSa::new(&SaParams {
            spi: SPI,
            algorithm: AeadAlgorithm::ChaCha20Poly1305,
            keymat: &Secret::new([KEY.as_slice(), SALT.as_slice()].concat()),
            esn: false,
            replay_window: 64,
        })
        .unwrap();
        let mut packet = PACKET;
        let opened = sa.open(&mut packet).unwrap();
        assert_eq!(opened.sequence, SEQUENCE);
        assert_eq!(opened.next_header, 4);
        assert_eq!(packet[opened.payload], PAYLOAD);
    }

    #[test]
    fn what_was_sealed_opens_once() {
        for algorithm in [
            AeadAlgorithm::Aes128Gcm16,
            AeadAlgorithm::Aes256Gcm16,
            AeadAlgorithm::ChaCha20Poly1305,
            CBC,
            AeadAlgorithm::AesCbc(AesKey::Aes192, Integrity::HmacSha384_192),
            AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha512_256),
        ] {
            for esn in [false, true] {
                let (out, inbound) = pair(algorithm, esn);
                for len in 0..40 {
                    let payload: Vec<u8> = (0..len).collect();
                    let sequence = out.reserve(1).unwrap();
                    let packet = sealed(&out, sequence, &payload);
                    let mut copy = packet.clone();
                    let opened = inbound.open(&mut copy).unwrap();
                    assert_eq!(
                        (opened.sequence, &copy[opened.payload]),
                        (sequence, &payload[..])
                    );
                    assert_eq!(inbound.open(&mut packet.clone()), Err(EspError::Replay));
                }
                let counters = inbound.counters();
                assert_eq!((counters.packets, counters.replay_drops), (40, 40));
                assert_eq!(counters.octets, (0..40).sum::<u64>());
            }
        }
    }

    #[test]
    fn no_truncation_opens_or_panics() {
        let (out, inbound) = pair(AeadAlgorithm::Aes128Gcm16, true);
        let packet = sealed(&out, 1, &[0x5a; 90]);
        for len in 0..packet.len() {
            let error = inbound.open(&mut packet[..len].to_vec()).unwrap_err();
            let expected = match len {
                0..34 => EspError::TooShort,
                _ if len % 4 != 0 => EspError::Alignment,
                _ => EspError::Integrity,
            };
            assert_eq!(error, expected, "length {len}");
        }
        assert!(inbound.open(&mut packet.clone()).is_ok());
    }

    #[test]
    fn with_aes_cbc_no_truncation_opens_or_panics() {
        let (out, inbound) = pair(CBC, true);
        let packet = sealed(&out, 1, &[0x5a; 90]);
        assert_eq!(packet.len(), 8 + 16 + 96 + 16);
        for len in 0..packet.len() {
            let error = inbound.open(&mut packet[..len].to_vec()).unwrap_err();
            let expected = match len {
                0..42 => EspError::TooShort,
                _ if (len - 40) % 16 != 0 => EspError::Alignment,
                _ => EspError::Integrity,
            };
            assert_eq!(error, expected, "length {len}");
        }
        assert!(inbound.open(&mut packet.clone()).is_ok());
    }

    #[test]
    fn no_flipped_bit_opens_and_none_uses_up_a_sequence_number() {
        for (algorithm, esn) in [
            (AeadAlgorithm::ChaCha20Poly1305, false),
            (AeadAlgorithm::ChaCha20Poly1305, true),
            (CBC, false),
            (CBC, true),
        ] {
            let (out, inbound) = pair(algorithm, esn);
            let packet = sealed(&out, 1, &[0x5a; 33]);
            // The SPI is authenticated by having found the SA.
            for bit in 32..packet.len() * 8 {
                let mut bad = packet.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let error = inbound.open(&mut bad).unwrap_err();
                assert!(
                    matches!(error, EspError::Integrity | EspError::TooOld),
                    "bit {bit}: {error}"
                );
            }
            assert_eq!(inbound.counters().newest, 0);
            assert!(inbound.open(&mut packet.clone()).is_ok());
        }
    }

    #[test]
    fn malformed_padding_is_refused_and_the_packet_counts_as_received() {
        let (_, inbound) = pair(AeadAlgorithm::Aes128Gcm16, false);
        for (sequence, text) in [
            [9, 9, 1, 1, 2, 2, 2, 4].as_slice(), // 2, 2 is not 1, 2
            &[9, 9, 9, 9, 2, 1, 2, 4],
            &[9, 9, 9, 9, 0, 0, 2, 4],
            &[1, 2, 3, 4, 5, 6, 7, 4], // longer than the packet
            &[1, 2, 3, 4, 5, 6, 255, 4],
        ]
        .into_iter()
        .zip(1..)
        .map(|(text, sequence)| (sequence, text))
        {
            let mut packet = sealed_text(&inbound, sequence, text);
            let again = packet.clone();
            assert_eq!(inbound.open(&mut packet), Err(EspError::Padding));
            assert_eq!(inbound.open(&mut again.clone()), Err(EspError::Replay));
        }
        assert_eq!(inbound.counters().malformed, 5);
    }

    #[test]
    fn long_padding_and_dummy_packets_open() {
        let (_, inbound) = pair(AeadAlgorithm::Aes128Gcm16, false);
        let text: Vec<u8> = [7, 7].into_iter().chain(1..=252).chain([252, 59]).collect();
        let mut packet = sealed_text(&inbound, 1, &text);
        let opened = inbound.open(&mut packet).unwrap();
        assert_eq!(opened.next_header, 59);
        assert_eq!(packet[opened.payload], [7, 7]);
        let mut packet = sealed_text(&inbound, 2, &[1, 2, 2, 59]);
        assert!(inbound.open(&mut packet).unwrap().payload.is_empty());
    }

    #[test]
    fn a_run_gives_every_segment_the_result_it_would_have_alone() {
        let (out, inbound) = pair(AeadAlgorithm::Aes256Gcm16, true);
        let mut buffer = Vec::new();
        let mut segments = Vec::new();
        let mut add = |packet: &[u8]| {
            segments.push(buffer.len()..buffer.len() + packet.len());
            buffer.extend_from_slice(packet);
        };
        let first = sealed(&out, 100, b"first");
        let mut flipped = sealed(&out, 101, b"flipped");
        flipped[20] ^= 1;
        add(&first);
        add(&flipped);
        add(&first);
        add(&first[..20]);
        add(&sealed(&out, 99, b"late"));
        add(&sealed(&out, 36, b"left of the window"));
        add(&sealed(&out, 101, b"whole"));
        segments.push(buffer.len()..buffer.len() + 100);
        segments.push(usize::MAX - 1..usize::MAX);

        let mut results = vec![Err(EspError::Padding)]; // an earlier run's
        inbound.open_run(&mut buffer, &segments, &mut results);
        let seen: Vec<_> = results[1..]
            .iter()
            .map(|result| match result {
                Ok(opened) => Ok(&buffer[opened.payload.clone()]),
                Err(error) => Err(*error),
            })
            .collect();
        assert_eq!(
            seen,
            [
                Ok(&b"first"[..]),
                Err(EspError::Integrity),
                Err(EspError::Replay),
                Err(EspError::TooShort),
                Ok(b"late"),
                Err(EspError::TooOld),
                Ok(b"whole"),
                Err(EspError::TooShort),
                Err(EspError::TooShort),
            ]
        );
        let counters = inbound.counters();
        assert_eq!(
            (counters.packets, counters.replay_drops, counters.too_old),
            (3, 2, 1)
        );
        assert_eq!((counters.integrity, counters.malformed), (1, 3));
        assert_eq!(counters.newest, 101);
    }

    #[test]
    fn with_esn_a_packet_beyond_two_to_the_32_opens_without_showing_its_high_half() {
        let start = u64::from(u32::MAX) - 1;
        for algorithm in [AeadAlgorithm::Aes128Gcm16, CBC] {
            let (out, inbound) = pair(algorithm, true);
            // From zero, what looks like the last 64 of a span is before the first.
            for sequence in [1 << 31, start, start + 2, start + 1, start + 3] {
                let mut packet = sealed(&out, sequence, b"x");
                assert_eq!(
                    inbound.open(&mut packet).map(|opened| opened.sequence),
                    Ok(sequence)
                );
            }
        }
        let (out, without) = pair(AeadAlgorithm::Aes128Gcm16, false);
        assert!(without.open(&mut sealed(&out, start + 1, b"x")).is_ok());
        assert_eq!(
            without.open(&mut sealed(&out, start + 2, b"x")),
            Err(EspError::TooOld)
        );
    }

    #[test]
    fn a_replay_window_out_of_range_is_refused() {
        for window in [0, 63, 65_537] {
            let made = InboundSa::new(&SaParams {
                spi: Spi(256),
                algorithm: AeadAlgorithm::Aes128Gcm16,
                keymat: &Secret::new(vec![0; 20]),
                esn: true,
                replay_window: window,
            });
            assert_eq!(made.err(), Some(EspError::ReplayWindow));
        }
    }
}
