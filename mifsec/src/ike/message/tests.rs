//! Layouts, known answers, bounds, and that no octets whatever cause a panic.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::crypto::{Aead, AeadAlgorithm, AesKey, Integrity, PrfAlgorithm};
use crate::ids::{IkeSpi, Spi};
use crate::ike::selector::{TrafficSelector, TsEntry};
use crate::ike::testing::{hex, unhex};

use super::*;

/// RFC 7634 appendix B: a SET_WINDOW_SIZE under ChaCha20-Poly1305.
const RFC_7634_B: &str = "c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e202500 00000009 00000045
     29000029 1011121314151617 610394701f8d017f7c12924889
     6b71bfe25236efd7cdc67066906315b2";

fn rfc_7634_key() -> Aead {
    let mut keymat: Vec<u8> = (0x80..=0x9f).collect();
    keymat.extend([0xa0, 0xa1, 0xa2, 0xa3]);
    Aead::new(AeadAlgorithm::ChaCha20Poly1305, &keymat).unwrap()
}

fn rfc_7634_payloads() -> Vec<Payload> {
    vec![Payload::Notify(Notify::new(
        NotifyType::SET_WINDOW_SIZE,
        vec![0, 0, 0, 10],
    ))]
}

fn header() -> Header {
    Header {
        spi_i: IkeSpi(0xc0c1_c2c3_c4c5_c6c7),
        spi_r: IkeSpi(0xd0d1_d2d3_d4d5_d6d7),
        exchange: ExchangeType::INFORMATIONAL,
        response: false,
        initiator: false,
        higher_version: false,
        message_id: 9,
    }
}

fn key() -> Aead {
    Aead::new(AeadAlgorithm::Aes256Gcm16, &[7; 36]).unwrap()
}

/// Keys of every shape of SK payload.
fn keys() -> Vec<Aead> {
    let cbc = |key, integrity| {
        let algorithm = AeadAlgorithm::AesCbc(key, integrity);
        let keymat: Vec<u8> = (1..).take(algorithm.keymat_len()).collect();
        Aead::new(algorithm, &keymat).unwrap()
    };
    vec![
        key(),
        rfc_7634_key(),
        cbc(AesKey::Aes128, Integrity::HmacSha256_128),
        cbc(AesKey::Aes192, Integrity::HmacSha384_192),
        cbc(AesKey::Aes256, Integrity::HmacSha512_256),
    ]
}

fn open(bytes: &[u8], key: &Aead) -> Result<Vec<Payload>, OpenError> {
    match decode(bytes)? {
        (_, Body::Protected(encrypted)) => encrypted.open(key),
        (_, Body::Clear(_) | Body::Fragment(_)) => Err(OpenError::Integrity),
    }
}

/// `bytes` with the header's length field made true.
fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    bytes[24..28].copy_from_slice(&length);
    bytes
}

/// A message of one payload with the given generic header and body.
fn lone(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = encode_clear(&header(), &[]);
    bytes[16] = kind;
    let length = u16::try_from(4 + body.len()).unwrap().to_be_bytes();
    bytes.extend([0, flags, length[0], length[1]]);
    bytes.extend(body);
    with_length(bytes)
}

#[test]
fn sealing_matches_rfc_7634_appendix_b() {
    let iv = 0x1011_1213_1415_1617;
    let bytes = seal(&header(), &rfc_7634_payloads(), &rfc_7634_key(), iv);
    assert_eq!(hex(&bytes), hex(&unhex(RFC_7634_B)));
}

#[test]
fn opening_matches_rfc_7634_appendix_b() {
    let bytes = unhex(RFC_7634_B);
    assert_eq!(Header::decode(&bytes).unwrap().0, header());
    assert_eq!(open(&bytes, &rfc_7634_key()), Ok(rfc_7634_payloads()));
}

#[test]
fn any_flipped_bit_of_a_protected_message_is_refused() {
    let bytes = unhex(RFC_7634_B);
    let key = rfc_7634_key();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&bad, &key).is_err(), "bit {bit}");
    }
}

#[test]
fn the_wrong_key_is_an_integrity_failure_and_nothing_else() {
    let bytes = seal(&header(), &rfc_7634_payloads(), &key(), 1);
    assert_eq!(open(&bytes, &rfc_7634_key()), Err(OpenError::Integrity));
}

#[test]
fn an_empty_informational_is_a_pad_length_and_no_payload() {
    let bytes = seal(&header(), &[], &key(), 1);
    assert_eq!(bytes.len(), HEADER_LEN + 4 + 8 + 1 + 16);
    assert_eq!(open(&bytes, &key()), Ok(Vec::new()));
}

/// Padding is the sender's choice (RFC 7296 3.14); more of it than there is
/// content is not.
#[test]
fn padding_is_skipped_and_an_impossible_pad_length_refused() {
    let sealed = |plain: &[u8]| {
        let length = u16::try_from(4 + 8 + plain.len() + 16).unwrap();
        let mut bytes = encode_clear(&header(), &[]);
        bytes[16] = PayloadType::SK.0;
        bytes.extend([0, 0]);
        bytes.extend(length.to_be_bytes());
        let total = u32::try_from(28 + usize::from(length)).unwrap();
        bytes[24..28].copy_from_slice(&total.to_be_bytes());
        let (mut iv, mut inner, mut icv) = ([0; 8], plain.to_vec(), [0; 16]);
        key().seal(0, &bytes, None, &mut iv, &mut inner, &mut icv);
        bytes.extend(iv);
        bytes.extend(inner);
        bytes.extend(icv);
        bytes
    };
    assert_eq!(open(&sealed(&[9, 9, 9, 3]), &key()), Ok(Vec::new()));
    for bad in [&[9, 9, 9, 4][..], &[], &[1]] {
        let error = open(&sealed(bad), &key()).unwrap_err();
        assert!(matches!(error, OpenError::Content(_)), "{bad:?}");
    }
}

/// Padded to blocks, with the least padding there is (RFC 7296 3.14).
#[test]
fn with_aes_cbc_the_content_is_padded_to_blocks() {
    let integrity = Integrity::HmacSha256_128;
    let key = Aead::new(AeadAlgorithm::AesCbc(AesKey::Aes128, integrity), &[7; 48]).unwrap();
    for len in 0..64 {
        let payloads = [Payload::Nonce(vec![1; 16 + len])];
        let bytes = seal(&header(), &payloads, &key, 1);
        let content = 4 + 16 + len + 1;
        let blocks = content.div_ceil(16) * 16;
        assert_eq!(bytes.len(), HEADER_LEN + 4 + 16 + blocks + 16);
        assert_eq!(open(&bytes, &key).as_deref(), Ok(&payloads[..]));
    }
}

/// The integrity algorithm covers the message from the IKE header to the end of
/// the ciphertext (RFC 7296 3.14).
#[test]
fn with_aes_cbc_the_check_value_is_over_the_whole_message() {
    let integrity = Integrity::HmacSha256_128;
    let keymat: Vec<u8> = (0..48).collect();
    let key = Aead::new(AeadAlgorithm::AesCbc(AesKey::Aes128, integrity), &keymat).unwrap();
    let bytes = seal(&header(), &rfc_7634_payloads(), &key, 1);
    let (covered, icv) = bytes.split_at(bytes.len() - 16);
    let mac = PrfAlgorithm::HmacSha256.prf(&keymat[16..], &[covered]);
    assert_eq!(icv, &mac.expose()[..16]);
}

#[test]
fn no_bit_of_a_protected_message_may_change() {
    for key in keys() {
        let bytes = seal(&header(), &rfc_7634_payloads(), &key, 1);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad, &key).is_err(), "bit {bit}");
        }
    }
}

/// An SA payload as it stands in captures: AES-GCM-16-256, HMAC-SHA2-256, x25519.
#[test]
fn a_proposal_has_the_layout_of_rfc_7296_3_3() {
    let proposal = Proposal {
        number: 1,
        protocol: Protocol::IKE,
        spi: Vec::new(),
        transforms: vec![
            Transform::with_key(TransformType::ENCR, encr::AES_GCM_16, 256),
            Transform::new(TransformType::PRF, prf::HMAC_SHA2_256),
            Transform::new(TransformType::KE, 31),
        ],
    };
    let bytes = encode_clear(&header(), &[Payload::Sa(vec![proposal])]);
    let expected = unhex(
        "00000028 00000024 01010003 0300000c 01000014 800e0100
         03000008 02000005 00000008 0400001f",
    );
    assert_eq!(hex(&bytes[HEADER_LEN..]), hex(&expected));
    assert_eq!(bytes[16], PayloadType::SA.0);
}

#[test]
fn other_payloads_have_their_layouts() {
    let body = |payload| hex(&encode_clear(&header(), &[payload])[HEADER_LEN..]);
    let ts = TrafficSelector::range("10.0.0.0".parse().unwrap(), "10.0.0.255".parse().unwrap());
    for (payload, expected) in [
        (
            Payload::Ke(Ke {
                group: 31,
                data: vec![0xaa; 2],
            }),
            "0000000a 001f0000 aaaa",
        ),
        (
            Payload::IdI(Id {
                kind: IdType::FQDN,
                reserved: [0; 3],
                data: b"gw".to_vec(),
            }),
            "0000000a 02000000 6777",
        ),
        (
            Payload::Auth(Auth {
                method: AuthMethod::SHARED_KEY,
                data: vec![1],
            }),
            "00000009 02000000 01",
        ),
        (
            Payload::Notify(Notify::about(NotifyType::REKEY_SA, Spi(0x0102_0304))),
            "0000000c 03044009 01020304",
        ),
        (Payload::Delete(Delete::Ike), "00000008 01000000"),
        (
            Payload::Delete(Delete::Esp(vec![Spi(256), Spi(257)])),
            "00000010 03040002 00000100 00000101",
        ),
        (
            Payload::TsI(vec![TsEntry::Range(ts.unwrap())]),
            "00000018 01000000 07000010 0000ffff 0a000000 0a0000ff",
        ),
        (
            Payload::Config(Config {
                kind: ConfigType::REPLY,
                attributes: vec![Attribute {
                    kind: AttributeType::INTERNAL_IP4_ADDRESS,
                    value: vec![10, 0, 0, 5],
                }],
            }),
            "00000010 02000000 00010004 0a000005",
        ),
    ] {
        assert_eq!(body(payload), hex(&unhex(expected)));
    }
}

#[test]
fn an_unknown_payload_is_kept_unless_it_is_critical() {
    let message = lone(99, 0, b"abc");
    let kept = vec![Payload::Unknown(PayloadType(99), b"abc".to_vec())];
    assert_eq!(decode(&message).unwrap().1, Body::Clear(kept.clone()));
    assert_eq!(encode_clear(&header(), &kept), message);

    let error = decode(&lone(99, 0x80, b"abc")).unwrap_err();
    assert_eq!(error, DecodeError::UnsupportedCritical(PayloadType(99)));
    let notify = error.notify();
    assert_eq!(notify.kind, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    assert_eq!(notify.data, [99]);
}

#[test]
fn the_critical_bit_of_a_known_payload_means_nothing() {
    let message = lone(PayloadType::VENDOR_ID.0, 0x80, b"abc");
    let body = Body::Clear(vec![Payload::VendorId(b"abc".to_vec())]);
    assert_eq!(decode(&message).unwrap().1, body);
}

#[test]
fn another_major_version_is_told_apart_and_a_minor_one_ignored() {
    let mut bytes = encode_clear(&header(), &[]);
    bytes[17] = 0x2f;
    assert!(decode(&bytes).is_ok());
    bytes[17] = 0x30;
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error, DecodeError::Version(header(), 3));
    assert_eq!(error.notify().kind, NotifyType::INVALID_MAJOR_VERSION);
}

#[test]
fn a_length_field_that_is_not_the_datagrams_is_refused() {
    let bytes = encode_clear(&header(), &rfc_7634_payloads());
    assert_eq!(
        decode(&[&bytes[..], &[0]].concat()),
        Err(DecodeError::Length)
    );
    assert_eq!(
        decode(&vec![0x20; MAX_MESSAGE + 1]),
        Err(DecodeError::Length)
    );
}

#[test]
fn an_encrypted_payload_anywhere_but_alone_is_refused() {
    let mut bytes = lone(PayloadType::VENDOR_ID.0, 0, b"v");
    bytes[HEADER_LEN] = PayloadType::SK.0;
    bytes.extend([0, 0, 0, 4]);
    assert_eq!(
        decode(&with_length(bytes)),
        Err(DecodeError::Misplaced(PayloadType::SK))
    );
    let mut bytes = unhex(RFC_7634_B);
    bytes.extend([0, 0, 0, 4]);
    assert!(matches!(
        decode(&with_length(bytes)),
        Err(DecodeError::Malformed(_))
    ));
    assert_eq!(
        decode(&lone(PayloadType::SKF.0, 0, &[0; 64])),
        Err(DecodeError::Malformed("fragment number"))
    );
}

#[test]
fn more_of_anything_than_we_accept_is_refused() {
    let too_many = |payloads: &[Payload]| {
        matches!(
            decode(&encode_clear(&header(), payloads)),
            Err(DecodeError::TooMany(_))
        )
    };
    let proposal = |transforms| Proposal {
        number: 1,
        protocol: Protocol::ESP,
        spi: vec![0; 4],
        transforms: vec![Transform::new(TransformType::ESN, 0); transforms],
    };
    let ts = TsEntry::Range(TrafficSelector::host(IpAddr::from([10, 0, 0, 1])));
    let attribute = Attribute {
        kind: AttributeType::INTERNAL_IP4_DNS,
        value: Vec::new(),
    };
    let config = |count| {
        Payload::Config(Config {
            kind: ConfigType::REQUEST,
            attributes: vec![attribute.clone(); count],
        })
    };
    for (at_limit, beyond) in [
        (
            Payload::Sa(vec![proposal(1); 32]),
            Payload::Sa(vec![proposal(1); 33]),
        ),
        (
            Payload::Sa(vec![proposal(64)]),
            Payload::Sa(vec![proposal(65)]),
        ),
        (
            Payload::TsI(vec![ts.clone(); 64]),
            Payload::TsI(vec![ts; 65]),
        ),
        (config(64), config(65)),
        (
            Payload::Delete(Delete::Esp(vec![Spi(300); 1024])),
            Payload::Delete(Delete::Esp(vec![Spi(300); 1025])),
        ),
    ] {
        assert!(!too_many(&[at_limit]));
        assert!(too_many(&[beyond]));
    }
    assert!(!too_many(&vec![Payload::VendorId(Vec::new()); 64]));
    assert!(too_many(&vec![Payload::VendorId(Vec::new()); 65]));
}

/// The attribute's top bit is reserved (RFC 7296 3.15.1).
#[test]
fn the_reserved_bit_of_a_configuration_attribute_is_ignored() {
    let Body::Clear(payloads) = decode(&lone(47, 0, &unhex("01000000 80010000"))).unwrap().1 else {
        panic!("in clear");
    };
    let expected = Payload::Config(Config {
        kind: ConfigType::REQUEST,
        attributes: vec![Attribute {
            kind: AttributeType::INTERNAL_IP4_ADDRESS,
            value: Vec::new(),
        }],
    });
    assert_eq!(payloads, [expected]);
}

#[test]
fn nonces_too_short_or_long_are_refused() {
    for (len, ok) in [(15, false), (16, true), (256, true), (257, false)] {
        let message = lone(PayloadType::NONCE.0, 0, &vec![1; len]);
        assert_eq!(decode(&message).is_ok(), ok, "{len} octets");
    }
}

#[test]
fn a_transform_with_an_unknown_attribute_equals_none_of_ours() {
    // Attribute 15 in the short form, then attribute 16 of two octets.
    for attribute in ["800f0001", "00100002abcd"] {
        let attribute = unhex(attribute);
        let len = u8::try_from(8 + attribute.len()).unwrap();
        let mut body = vec![0, 0, 0, 8 + len, 1, 1, 0, 1, 0, 0, 0, len, 1, 0, 0, 20];
        body.extend(attribute);
        let Body::Clear(payloads) = decode(&lone(33, 0, &body)).unwrap().1 else {
            panic!("in clear");
        };
        let [Payload::Sa(proposals)] = &payloads[..] else {
            panic!("one SA payload");
        };
        assert!(proposals[0].transforms[0].unknown_attribute);
        let ours = Transform::new(TransformType::ENCR, encr::AES_GCM_16);
        assert!(!proposals[0].transforms.contains(&ours));
    }
}

#[test]
fn malformed_bodies_are_refused() {
    for (kind, body) in [
        // Last proposal flag says more follow; unknown flag value with more.
        (33, "02000008 01010000"),
        (33, "01000008 01010000 00000008 01010000"),
        // Transform flag says more follow than were counted.
        (33, "00000010 01010001 03000008 0200 0005"),
        // Proposal shorter than its own header; octets after its transforms.
        (33, "00000003"),
        (33, "0000000c 01010000 00000000"),
        // Empty TS payload; range out of order; ports out of order; wrong length.
        (44, "00000000"),
        (44, "01000000 07000010 0000ffff 0a000001 0a000000"),
        (44, "01000000 07000010 00020001 0a000001 0a000001"),
        (44, "01000000 07000011 0000ffff 0a000001 0a000001 00"),
        // Delete of an IKE SA with SPIs; ESP with 8-octet SPIs; count too low.
        (42, "01080001 0000000000000001"),
        (42, "03080001 0000000000000001"),
        (42, "03040001 00000100 00000101"),
        // SPI longer than the notify.
        (41, "03080000 01020304"),
    ] {
        let error = decode(&lone(kind, 0, &unhex(body)));
        assert!(error.is_err(), "{kind}: {body}: {error:?}");
    }
}

fn octets(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), len)
}

fn transform() -> impl Strategy<Value = Transform> {
    (any::<u8>(), any::<u16>(), any::<Option<u16>>()).prop_map(|(kind, id, key_bits)| Transform {
        key_bits,
        ..Transform::new(TransformType(kind), id)
    })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (
        any::<u8>(),
        any::<u8>(),
        octets(0..9),
        vec(transform(), 0..5),
    )
        .prop_map(|(number, protocol, spi, transforms)| Proposal {
            number,
            protocol: Protocol(protocol),
            spi,
            transforms,
        })
}

fn ts_entry() -> impl Strategy<Value = TsEntry> {
    let range = (any::<IpAddr>(), any::<u8>(), any::<u16>()).prop_map(|(ip, protocol, port)| {
        let host = TrafficSelector::host(ip);
        TsEntry::Range(host.with_ports(protocol, port, u16::MAX).unwrap())
    });
    let unknown = (9..=255u8, any::<u8>(), octets(0..20)).prop_map(|(kind, protocol, body)| {
        TsEntry::Unknown {
            kind,
            protocol,
            body,
        }
    });
    prop_oneof![range, unknown]
}

fn payload() -> impl Strategy<Value = Payload> {
    let id = || {
        (any::<u8>(), any::<[u8; 3]>(), octets(0..20)).prop_map(|(kind, reserved, data)| Id {
            kind: IdType(kind),
            reserved,
            data,
        })
    };
    prop_oneof![
        vec(proposal(), 0..4).prop_map(Payload::Sa),
        (any::<u16>(), octets(0..100)).prop_map(|(group, data)| Payload::Ke(Ke { group, data })),
        id().prop_map(Payload::IdI),
        id().prop_map(Payload::IdR),
        octets(0..40).prop_map(Payload::Cert),
        octets(0..40).prop_map(Payload::CertReq),
        octets(0..40).prop_map(Payload::Eap),
        octets(0..40).prop_map(Payload::VendorId),
        octets(16..=256).prop_map(Payload::Nonce),
        (any::<u8>(), octets(0..40)).prop_map(|(method, data)| {
            Payload::Auth(Auth {
                method: AuthMethod(method),
                data,
            })
        }),
        (any::<u8>(), octets(0..9), any::<u16>(), octets(0..40)).prop_map(
            |(protocol, spi, kind, data)| Payload::Notify(Notify {
                protocol: Protocol(protocol),
                spi,
                kind: NotifyType(kind),
                data,
            })
        ),
        Just(Payload::Delete(Delete::Ike)),
        vec(any::<u32>().prop_map(Spi), 0..5).prop_map(|spis| Payload::Delete(Delete::Esp(spis))),
        vec(ts_entry(), 1..5).prop_map(Payload::TsI),
        vec(ts_entry(), 1..5).prop_map(Payload::TsR),
        (any::<u8>(), vec((0..0x8000u16, octets(0..20)), 0..5)).prop_map(|(kind, list)| {
            Payload::Config(Config {
                kind: ConfigType(kind),
                attributes: list
                    .into_iter()
                    .map(|(kind, value)| Attribute {
                        kind: AttributeType(kind),
                        value,
                    })
                    .collect(),
            })
        }),
        (54..=255u8, octets(0..40))
            .prop_map(|(kind, data)| Payload::Unknown(PayloadType(kind), data)),
    ]
}

fn any_header() -> impl Strategy<Value = Header> {
    (any::<(u64, u64, u8, u32)>(), any::<[bool; 3]>()).prop_map(
        |((spi_i, spi_r, exchange, message_id), [response, initiator, higher_version])| Header {
            spi_i: IkeSpi(spi_i),
            spi_r: IkeSpi(spi_r),
            exchange: ExchangeType(exchange),
            response,
            initiator,
            higher_version,
            message_id,
        },
    )
}

proptest! {
    #[test]
    fn clear_messages_survive_a_round_trip(
        header in any_header(),
        payloads in vec(payload(), 0..8),
    ) {
        let bytes = encode_clear(&header, &payloads);
        prop_assert_eq!(decode(&bytes), Ok((header, Body::Clear(payloads))));
    }

    #[test]
    fn protected_messages_survive_a_round_trip(
        header in any_header(),
        payloads in vec(payload(), 0..8),
        iv in any::<u64>(),
    ) {
        for key in keys() {
            let bytes = seal(&header, &payloads, &key, iv);
            prop_assert_eq!(Header::decode(&bytes).map(|(header, ..)| header), Ok(header));
            let opened = open(&bytes, &key);
            prop_assert_eq!(opened.as_ref(), Ok(&payloads));
        }
    }

    /// As cut by the network, and as cut by a sender whose length field agrees.
    #[test]
    fn truncated_messages_never_panic(payloads in vec(payload(), 1..6)) {
        let bytes = encode_clear(&header(), &payloads);
        for end in 0..bytes.len() {
            prop_assert!(decode(&bytes[..end]).is_err());
            if end >= HEADER_LEN {
                prop_assert!(decode(&with_length(bytes[..end].to_vec())).is_err());
            }
        }
        for key in keys() {
            let sealed = seal(&header(), &payloads, &key, 1);
            for end in HEADER_LEN..sealed.len() {
                prop_assert!(open(&with_length(sealed[..end].to_vec()), &key).is_err());
                // And with a payload length that agrees, too.
                let mut cut = with_length(sealed[..end].to_vec());
                if let (Some(field), Ok(len)) =
                    (cut.get_mut(30..32), u16::try_from(end - HEADER_LEN))
                {
                    field.copy_from_slice(&len.to_be_bytes());
                    prop_assert!(open(&cut, &key).is_err());
                }
            }
        }
    }

    #[test]
    fn mutated_messages_never_panic(
        payloads in vec(payload(), 1..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = encode_clear(&header(), &payloads);
        for (index, value) in &changes {
            let at = index.index(bytes.len());
            bytes[at] = *value;
        }
        let bytes = with_length(bytes);
        // What is still read must also be written again without loss.
        if let Ok((header, Body::Clear(payloads))) = decode(&bytes)
            && !lossy(&payloads)
        {
            let again = encode_clear(&header, &payloads);
            prop_assert_eq!(decode(&again), Ok((header, Body::Clear(payloads))));
        }
    }

    #[test]
    fn arbitrary_octets_never_panic(bytes in octets(0..400)) {
        let _ = decode(&bytes);
        if bytes.len() >= HEADER_LEN {
            let mut bytes = with_length(bytes);
            bytes[17] = 0x20;
            if let Ok((_, Body::Protected(encrypted))) = decode(&bytes) {
                for key in keys() {
                    let opened = encrypted.clone().open(&key);
                    prop_assert_eq!(opened, Err(OpenError::Integrity));
                }
            }
        }
    }
}

/// Unknown transform attributes are noted, not kept.
fn lossy(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| match payload {
        Payload::Sa(proposals) => proposals
            .iter()
            .any(|proposal| proposal.transforms.iter().any(|t| t.unknown_attribute)),
        _ => false,
    })
}
