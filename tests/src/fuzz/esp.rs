//! ESP packets with a key the fuzzer has, so that authentic packets with any
//! content and any sequence number are among its inputs.

use std::collections::BTreeSet;

use mifsec::crypto::{Aead, AeadAlgorithm, AesKey, Integrity, Secret};
use mifsec::esp::{EspError, InboundSa, OutboundSa, SaParams};
use mifsec::ids::Spi;

use super::input::Input;

const SPI: Spi = Spi(0x0102_0304);

/// A sequence of packets for one SA: raw octets, authentic ones with any text,
/// sealed ones, and repeated ones; alone and in runs.
///
/// # Panics
/// When a property does not hold.
pub fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = input.u8();
    let algorithm = [
        AeadAlgorithm::Aes128Gcm16,
        AeadAlgorithm::Aes256Gcm16,
        AeadAlgorithm::ChaCha20Poly1305,
        AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha256_128),
    ][usize::from(setup % 4)];
    let esn = setup & 0x80 != 0;
    let window = if setup & 0x40 == 0 { 64 } else { 8192 };
    let keymat = Secret::new(vec![setup; algorithm.keymat_len()]);
    let params = SaParams {
        spi: SPI,
        algorithm,
        keymat: &keymat,
        esn,
        replay_window: window,
    };
    let inbound = InboundSa::new(&params).expect("good parameters");
    let outbound = OutboundSa::new(&params).expect("good parameters");
    let aead = Aead::new(algorithm, keymat.expose()).expect("the right length");

    let mut accepted = BTreeSet::new();
    let mut newest = 0u64;
    let mut previous = Vec::new();
    let mut run = Vec::new();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let op = input.u8();
        let mut authentic = None;
        let packet = match op % 5 {
            0 => input.counted().to_vec(),
            1 | 2 => {
                let sequence = sequence(&mut input, newest, esn);
                authentic = Some(sequence);
                let text = input.counted();
                if op % 5 == 1 {
                    raw(&aead, esn, sequence, text)
                } else {
                    let mut packet = vec![0; outbound.sealed_len(text.len())];
                    packet[outbound.header_len()..][..text.len()].copy_from_slice(text);
                    let len = outbound.seal(sequence, op, text.len(), &mut packet);
                    assert_eq!(len, packet.len());
                    packet
                }
            }
            3 => previous.clone(),
            _ => {
                let mut packet = previous.clone();
                let at = usize::from(input.u16());
                if let Some(octet) = packet.get_mut(at) {
                    *octet ^= input.u8();
                }
                packet
            }
        };
        previous.clone_from(&packet);
        if op & 0x80 != 0 {
            run.push(packet);
            continue;
        }
        let mut room = packet.clone();
        let result = inbound.open(&mut room);
        match &result {
            Ok(opened) => {
                assert!(opened.payload.end <= room.len());
                assert!(accepted.insert(opened.sequence), "accepted twice");
                assert!(
                    opened.sequence.saturating_add(u64::from(window)) > newest,
                    "left of the window"
                );
                newest = newest.max(opened.sequence);
                if op % 5 == 2 {
                    assert_eq!(authentic, Some(opened.sequence));
                }
            }
            Err(EspError::Padding) => {
                // Authentic: its sequence number is used up.
                if let Some(sequence) = authentic {
                    accepted.insert(sequence);
                    newest = newest.max(sequence);
                }
            }
            Err(_) => {}
        }
        if op % 5 == 2
            && let Some(sequence) = authentic
            && sequence > newest
            && sequence - newest < 1 << 31
        {
            // Further ahead the half that is not sent cannot be told (RFC 4303 A2.2).
            assert!(result.is_ok() || accepted.contains(&sequence), "{result:?}");
        }
        assert!(inbound.counters().newest >= newest);
        newest = inbound.counters().newest;
    }
    together(&inbound, &run, &accepted);
}

/// The packets of a run get the results they would have alone, as far as that
/// can be told: none is accepted twice.
fn together(inbound: &InboundSa, run: &[Vec<u8>], accepted: &BTreeSet<u64>) {
    let mut seen = accepted.clone();
    let mut buffer = Vec::new();
    let mut places = Vec::new();
    for packet in run {
        places.push(buffer.len()..buffer.len() + packet.len());
        buffer.extend_from_slice(packet);
    }
    let mut results = Vec::new();
    inbound.open_run(&mut buffer, &places, &mut results);
    assert_eq!(results.len(), run.len());
    for (result, place) in results.iter().zip(places) {
        if let Ok(opened) = result {
            assert!(seen.insert(opened.sequence), "accepted twice");
            assert!(opened.payload.start >= place.start && opened.payload.end <= place.end);
        }
    }
}

fn sequence(input: &mut Input<'_>, newest: u64, esn: bool) -> u64 {
    let near = newest.wrapping_add(u64::from(input.u16())).wrapping_sub(16);
    let sequence = match input.u8() % 4 {
        0 | 1 => near,
        2 => u64::from(input.u32()),
        _ => near.wrapping_add(1 << 31),
    };
    if esn {
        sequence
    } else {
        sequence & 0xffff_ffff
    }
}

/// An authentic packet around any text: padding is the fuzzer's.
fn raw(aead: &Aead, esn: bool, sequence: u64, text: &[u8]) -> Vec<u8> {
    let algorithm = aead.algorithm();
    let (high, low) = {
        let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
        ([h0, h1, h2, h3], [l0, l1, l2, l3])
    };
    let header = [SPI.0.to_be_bytes(), low].concat();
    // RFC 4106 5 and RFC 4303 2.2.1: where the half that is not sent counts.
    let (aad, tail) = match (esn, algorithm.is_combined_mode()) {
        (true, true) => ([SPI.0.to_be_bytes(), high, low].concat(), None),
        (true, false) => (header.clone(), Some(high)),
        (false, _) => (header.clone(), None),
    };
    let mut text = text.to_vec();
    text.resize(text.len().next_multiple_of(algorithm.block_len()), 0);
    let mut iv = vec![0; algorithm.iv_len()];
    let mut icv = vec![0; algorithm.icv_len()];
    aead.seal(sequence, &aad, tail, &mut iv, &mut text, &mut icv);
    [header, iv, text, icv].concat()
}
