//! ESP against scapy's `layers/ipsec.py`, an implementation that shares nothing
//! with ours: what either seals, the other opens.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use mifsec::crypto::{AeadAlgorithm, Entropy as _, Secret, SeededEntropy};
use mifsec::esp::{DEFAULT_REPLAY_WINDOW, InboundSa, OutboundSa, SaParams};
use mifsec::ids::Spi;

const PYTHON: &str = "/usr/bin/python3";

/// Reads cases, one a line: `ALGORITHM KEYMAT SPI ESN SEQUENCE INNER SEALED`.
/// For each it opens SEALED, which must hold INNER, and prints `INNER` sealed
/// by scapy with the same sequence number.
const SCRIPT: &str = r"
import sys
from scapy.all import IP, raw
from scapy.layers.ipsec import ESP, SecurityAssociation

for line in sys.stdin:
    algorithm, keymat, spi, esn, sequence, inner, sealed = line.split()
    spi, esn, sequence = int(spi), esn == 'true', int(sequence)
    inner = bytes.fromhex(inner)

    def association():
        return SecurityAssociation(
            ESP, spi=spi, seq_num=sequence & 0xffffffff,
            crypt_algo=algorithm, crypt_key=bytes.fromhex(keymat),
            tunnel_header=IP(src='192.0.2.1', dst='192.0.2.2'),
            esn_en=esn, esn=sequence >> 32)

    outer = IP(src='192.0.2.1', dst='192.0.2.2', proto=50) / bytes.fromhex(sealed)
    opened = association().decrypt(IP(raw(outer)))
    assert raw(opened) == inner, (algorithm, sequence, raw(opened).hex())

    ours = association().encrypt(
        IP(inner), seq_num=sequence & 0xffffffff, iv=sequence.to_bytes(8, 'big'),
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

    fn scapy_name(&self) -> &'static str {
        match self.algorithm {
            AeadAlgorithm::Aes128Gcm16 | AeadAlgorithm::Aes256Gcm16 => "AES-GCM",
            AeadAlgorithm::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            AeadAlgorithm::AesCbc(..) => "AES-CBC",
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
        let (spi, keymat) = (case.spi.0, hex(case.keymat.expose()));
        let (name, esn, sequence) = (case.scapy_name(), case.esn, case.sequence);
        let (inner, sealed) = (hex(&case.inner), hex(&case.sealed()));
        writeln!(
            input,
            "{name} {keymat} {spi} {esn} {sequence} {inner} {sealed}"
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
