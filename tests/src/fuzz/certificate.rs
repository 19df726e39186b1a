//! What a peer sends to prove who it is, and what an operator gives as PEM.

use std::time::Duration;

use mifsec::crypto::{PublicKey, SignatureAlgorithm};
use mifsec::ike::cert::{Credential, TrustAnchors};

use super::input::Input;

/// 2026-11-23, within the validity of the seeds.
const NOW: Duration = Duration::from_secs(1_795_392_000);

/// Certificates in DER or PEM, public keys, algorithm identifiers: which is
/// chosen by the first octet.
///
/// # Panics
/// When a property does not hold.
pub fn certificate(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 5 {
        0 => {
            // Two certificates, the second as the one we trust.
            let (leaf, root) = (input.counted(), input.counted());
            let mut anchors = TrustAnchors::default();
            let _ = anchors.add_pem(pem("CERTIFICATE", root).as_bytes());
            let identity = "laptop@example.org".parse().expect("an identity");
            for chain in [&[leaf][..], &[leaf, root]] {
                if let Err(error) = anchors.verify(chain, &identity, NOW) {
                    assert!(!error.to_string().contains('\n'), "one line: {error}");
                }
            }
        }
        1 => {
            let mut anchors = TrustAnchors::default();
            if anchors.add_pem(input.rest()).is_ok() {
                assert!(!anchors.is_empty());
                let _ = anchors.expired(NOW.as_secs()).count();
            }
        }
        2 => {
            let (certificates, key) = (input.counted(), input.rest());
            if let Ok(credential) = Credential::from_pem(certificates, key) {
                let _ = credential.identities();
                let _ = credential.warning(NOW.as_secs());
            }
        }
        3 => {
            if let Ok(algorithm) = SignatureAlgorithm::from_identifier(input.rest()) {
                let again = SignatureAlgorithm::from_identifier(&algorithm.identifier());
                assert_eq!(again.ok(), Some(algorithm));
            }
        }
        _ => {
            let key = PublicKey::from_spki(input.counted());
            if let Ok(key) = key {
                let _ = key.verify_rsa(b"message", input.rest());
            }
        }
    }
}

/// The text form of `der`.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let word = chunk
            .iter()
            .fold(0u32, |word, octet| word << 8 | u32::from(*octet))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = word >> (18 - 6 * place) & 63;
            text.push(if place <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// What [`pem`] was made of.
#[must_use]
pub fn der(pem: &str) -> Vec<u8> {
    let digits = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .flat_map(str::chars);
    let mut out = Vec::new();
    let (mut word, mut bits) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            'A'..='Z' => u32::from(digit) - u32::from('A'),
            'a'..='z' => u32::from(digit) - u32::from('a') + 26,
            '0'..='9' => u32::from(digit) - u32::from('0') + 52,
            '+' => 62,
            '/' => 63,
            _ => break,
        };
        word = word << 6 | value;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits & 0xff) as u8);
        }
    }
    out
}
