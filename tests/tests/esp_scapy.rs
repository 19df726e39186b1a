//! ESP against scapy's `layers/ipsec.py`, an implementation that shares nothing
//! with ours: what either seals, the other opens.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use mifsec::crypto::{AeadAlgorithm, AesKey, Entropy as _, Integrity, Secret, SeededEntropy};
use mifsec::esp::{DEFAULT_REPLAY_WINDOW, InboundSa, OutboundSa, SaParams};
use mifsec::ids::Spi;

const PYTHON: &str = "/usr/bin/python3";

/// Reads cases, one a line: `CIPHER KEY INTEGRITY KEY IVLEN SPI ESN SEQUENCE INNER
/// SEALED`. For each it opens SEALED, which must hold INNER, and prints `INNER`
/// sealed by scapy with the same sequence number and IV.
///
/// scapy knows extended sequence numbers with an AEAD, but does not append their
/// high half for a separate integrity algorithm (RFC 4303 2.2.1), so this does.
const SCRIPT: &str = r"
import copy
import sys
from scapy.all import IP, raw
from scapy.layers.ipsec import AUTH_ALGOS, ESP, SecurityAssociation

def appending(algorithm, high):
    algorithm = copy.copy(algorithm)
    make = algorithm.new_mac
    class Mac:
        def __init__(self, key):
            self.mac = make(key)
        def update(self, octets):
            self.mac.update(octets)
        def finalize(self):
            self.mac.update(high)
            return self.mac.finalize()
    algorithm.new_mac = Mac
    return algorithm

for line in sys.stdin:
    cipher, key, integrity, mac_key, iv_len, spi, esn, sequence, inner, sealed = line.split()
    spi, esn, sequence = int(spi), esn == 'true', int(sequence)
    inner, sealed, iv_len = bytes.fromhex(inner), bytes.fromhex(sealed), int(iv_len)

    def association():
        made = SecurityAssociation(
            ESP, spi=spi, seq_num=sequence & 0xffffffff,
            crypt_algo=cipher, crypt_key=bytes.fromhex(key),
            auth_algo=integrity, auth_key=bytes.fromhex(mac_key.strip('-')),
            tunnel_header=IP(src='192.0.2.1', dst='192.0.2.2'),
            esn_en=esn, esn=sequence >> 32)
        if integrity != 'NULL' and esn:
            high = (sequence >> 32).to_bytes(4, 'big')
            made.auth_algo = appending(AUTH_ALGOS[integrity], high)
        return made

    outer = IP(src='192.0.2.1', dst='192.0.2.2', proto=50) / sealed
    opened = association().decrypt(IP(raw(outer)))
    assert raw(opened) == inner, (cipher, sequence, raw(opened).hex())

    ours = association().encrypt(
        IP(inner), seq_num=sequence & 0xffffffff, iv=sealed[8:8 + iv_len],
        esn_en=esn, esn=sequence >> 32)
    print(raw(ours[IP].payload).hex(), flush=True)
";

struct Case {
    algorithm: AeadAlgorithm,
    keymat: Secret,
    spi: Spi,
    esn: bool,
    sequence: u64,
    inner: Vec<u8>,
}

impl Case {
    fn params(&self) -> SaParams<'_> {
        SaParams {
            spi: self.spi,
            algorithm: self.algorithm,
            keymat: &self.keymat,
            esn: self.esn,
            replay_window: DEFAULT_REPLAY_WINDOW,
        }
    }

    fn sealed(&self) -> Vec<u8> {
        let sa = OutboundSa::new(&self.params()).unwrap();
        let mut packet = vec![0; sa.sealed_len(self.inner.len())];
        packet[sa.header_len()..][..self.inner.len()].copy_from_slice(&self.inner);
        let length = sa.seal(self.sequence, 4, self.inner.len(), &mut packet);
        assert_eq!(length, packet.len());
        packet
    }

    /// scapy's names of cipher and integrity algorithm.
    fn scapy_names(&self) -> [&'static str; 2] {
        match self.algorithm {
            AeadAlgorithm::Aes128Gcm16 | AeadAlgorithm::Aes256Gcm16 => ["AES-GCM", "NULL"],
            AeadAlgorithm::ChaCha20Poly1305 => ["CHACHA20-POLY1305", "NULL"],
            AeadAlgorithm::AesCbc(_, Integrity::HmacSha256_128) => ["AES-CBC", "SHA2-256-128"],
            AeadAlgorithm::AesCbc(_, Integrity::HmacSha384_192) => ["AES-CBC", "SHA2-384-192"],
            AeadAlgorithm::AesCbc(_, Integrity::HmacSha512_256) => ["AES-CBC", "SHA2-512-256"],
        }
    }
}

/// An IPv4 packet with UDP, correct in every checksum, so that scapy does not
/// change it on the way through.
fn inner_packet(payload: usize, random: &mut SeededEntropy) -> Vec<u8> {
    use mifsec::wire::Checksum;
    let length = u16::try_from(28 + payload).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, 17, 0, 0]);
    let (source, destination) = ([10, 66, 0, 2], [10, 66, 1, 1]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend([0xc0, 0x00, 0xc0, 0x01]);
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    let mut octets = vec![0; payload];
    random.fill(&mut octets);
    packet.extend(octets);
    let sum = Checksum::new().with(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let sum = Checksum::new()
        .with_pseudo_header(
            source.into(),
            destination.into(),
            17,
            u32::from(length) - 20,
        )
        .with(&packet[20..])
        .finish_udp();
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn cases() -> Vec<Case> {
    let mut random = SeededEntropy::new(4303);
    let mut cases = Vec::new();
    for algorithm in [
        AeadAlgorithm::Aes128Gcm16,
        AeadAlgorithm::Aes256Gcm16,
        AeadAlgorithm::ChaCha20Poly1305,
        AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha256_128),
        AeadAlgorithm::AesCbc(AesKey::Aes192, Integrity::HmacSha384_192),
        AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha256_128),
        AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha512_256),
    ] {
        for esn in [false, true] {
            for (payload, sequence) in [(0, 1), (1, 2), (2, 3), (3, 77), (64, 1 << 20), (1372, 9)] {
                let mut keymat = vec![0; algorithm.keymat_len()];
                random.fill(&mut keymat);
                let high = if esn && payload != 0 { 5 << 32 } else { 0 };
                cases.push(Case {
                    algorithm,
                    keymat: Secret::new(keymat),
                    spi: Spi(random.u32() | 0x100),
                    esn,
                    sequence: high + sequence,
                    inner: inner_packet(payload, &mut random),
                });
            }
        }
    }
    cases
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Opens `packet` on an SA whose window has come as far as `case` needs.
fn open(case: &Case, packet: &[u8]) -> Vec<u8> {
    let sa = InboundSa::new(&case.params()).unwrap();
    // Only half a span is reached at a time: come near in steps first.
    let sender = OutboundSa::new(&case.params()).unwrap();
    let mut at = 0;
    while case.sequence - at > 1 << 30 {
        at += 1 << 30;
        let mut step = vec![0; sender.sealed_len(0)];
        sender.seal(at, 59, 0, &mut step);
        assert_eq!(sa.open(&mut step).unwrap().sequence, at);
    }
    let mut packet = packet.to_vec();
    let opened = sa.open(&mut packet).unwrap();
    assert_eq!((opened.sequence, opened.next_header), (case.sequence, 4));
    packet[opened.payload].to_vec()
}

#[test]
fn what_either_seals_the_other_opens() {
    let import = Command::new(PYTHON)
        .args(["-c", "import scapy.layers.ipsec"])
        .output();
    match import {
        Ok(output) if output.status.success() => {}
        Ok(_) => {
            println!("skipped: {PYTHON} has no scapy; `cargo xtask setup` installs it");
            return;
        }
        Err(error) => {
            println!("skipped: {PYTHON}: {error}; `cargo xtask setup` installs it");
            return;
        }
    }
    let cases = cases();
    let mut python = Command::new(PYTHON)
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = String::new();
    for case in &cases {
        let keymat = case.keymat.expose();
        let (key, mac_key) = keymat.split_at(case.algorithm.encryption_key_len());
        let [cipher, integrity] = case.scapy_names();
        // A word even when there is no integrity key.
        let keys = format!("{cipher} {} {integrity} -{}", hex(key), hex(mac_key));
        let (spi, iv_len) = (case.spi.0, case.algorithm.iv_len());
        let (esn, sequence) = (case.esn, case.sequence);
        let (inner, sealed) = (hex(&case.inner), hex(&case.sealed()));
        writeln!(
            input,
            "{keys} {iv_len} {spi} {esn} {sequence} {inner} {sealed}"
        )
        .unwrap();
    }
    let mut stdin = python.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");

    let text = String::from_utf8(output.stdout).unwrap();
    let theirs: Vec<_> = text.lines().map(unhex).collect();
    assert_eq!(theirs.len(), cases.len(), "{errors}");
    for (case, theirs) in cases.iter().zip(theirs) {
        let what = format!("{:?} esn {} #{}", case.algorithm, case.esn, case.sequence);
        assert_eq!(open(case, &theirs), case.inner, "{what}");
        assert_eq!(theirs, case.sealed(), "octet for octet: {what}");
    }
}
