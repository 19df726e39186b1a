//! Against OpenSSL's signatures, and against changes of every bit.

use proptest::prelude::*;
use rustls_pki_types::pem::{PemObject as _, SectionKind};

use super::*;

const MESSAGE: &[u8] = b"what IKE_AUTH signs";
const VECTORS: &str = include_str!("../../../../tests/keys/openssl.txt");
const RSA: &str = include_str!("../../../../tests/keys/rsa-2048.pem");
const WEAK: &str = include_str!("../../../../tests/keys/rsa-1024.pem");
const P256: &str = include_str!("../../../../tests/keys/ecdsa-p256.pem");
const P384: &str = include_str!("../../../../tests/keys/ecdsa-p384.pem");
const ED25519: &str = include_str!("../../../../tests/keys/ed25519.pem");

fn unhex(digits: &str) -> Vec<u8> {
    let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(octet).collect()
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn spki(name: &str) -> Vec<u8> {
    let wanted = ["key", name];
    let line = VECTORS
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|words| words.starts_with(&wanted));
    unhex(line.unwrap()[2])
}

fn public(name: &str) -> PublicKey {
    PublicKey::from_spki(&spki(name)).unwrap()
}

fn pkcs8(pem: &str) -> Vec<u8> {
    <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes())
        .unwrap()
        .1
}

fn private(name: &str, pem: &str) -> SigningKey {
    SigningKey::from_der(KeyFormat::Pkcs8, &pkcs8(pem), &public(name))
        .map_err(|error| format!("{name} {error}"))
        .unwrap()
}

fn all() -> [(&'static str, &'static str); 4] {
    [
        ("rsa-2048", RSA),
        ("ecdsa-p256", P256),
        ("ecdsa-p384", P384),
        ("ed25519", ED25519),
    ]
}

#[test]
fn signatures_of_openssl_verify_as_what_they_are_and_nothing_else() {
    use SignatureAlgorithm as A;
    let mut seen = 0;
    for line in VECTORS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["signature", key, name, signature] = words[..] else {
            continue;
        };
        let (key, signature) = (public(key), unhex(signature));
        let made = match name {
            "pkcs1-sha256" => Some(A::RsaPkcs1Sha256),
            "pkcs1-sha384" => Some(A::RsaPkcs1Sha384),
            "pkcs1-sha512" => Some(A::RsaPkcs1Sha512),
            "pss-sha256" => Some(A::RsaPssSha256),
            "pss-sha384" => Some(A::RsaPssSha384),
            "pss-sha512" => Some(A::RsaPssSha512),
            "ecdsa-sha256" => Some(A::EcdsaSha256),
            "ecdsa-sha384" => Some(A::EcdsaSha384),
            "ed25519" => Some(A::Ed25519),
            // A salt of another length, and SHA-1.
            "pss-salt20-sha256" | "pkcs1-sha1" => None,
            other => panic!("{other}"),
        };
        for algorithm in A::ALL {
            let verified = key.verify(algorithm, MESSAGE, &signature);
            assert_eq!(verified.is_ok(), Some(algorithm) == made, "{line}");
        }
        if let Some(made) = made {
            seen += 1;
            let other = key.verify(made, b"something else", &signature);
            assert_eq!(other, Err(SignatureError::Invalid));
        }
        let method_1 = match name {
            "pkcs1-sha1" => Err(SignatureError::Sha1),
            "pkcs1-sha256" | "pkcs1-sha384" | "pkcs1-sha512" => Ok(()),
            name if name.starts_with("pss") => Err(SignatureError::Invalid),
            _ => Err(SignatureError::KeyMismatch),
        };
        assert_eq!(key.verify_rsa(MESSAGE, &signature), method_1, "{name}");
    }
    assert_eq!(seen, 11);
}

#[test]
fn no_changed_octet_of_a_signature_verifies() {
    for (name, pem) in all() {
        let (key, private) = (public(name), private(name, pem));
        let algorithm = private.choose(&HashAlgorithm::ALL).unwrap();
        let signature = private.sign(algorithm, MESSAGE).unwrap();
        assert_eq!(key.verify(algorithm, MESSAGE, &signature), Ok(()));
        for at in 0..signature.len() {
            let mut changed = signature.clone();
            changed[at] ^= 1;
            assert!(key.verify(algorithm, MESSAGE, &changed).is_err(), "{at}");
            assert!(key.verify(algorithm, MESSAGE, &signature[..at]).is_err());
        }
        let longer = [&signature[..], &[0]].concat();
        assert!(key.verify(algorithm, MESSAGE, &longer).is_err());
        let zero = vec![0; signature.len()];
        assert!(key.verify(algorithm, MESSAGE, &zero).is_err());
    }
}

/// r or s of 0 (CVE-2022-21449), and an ECDSA signature with one octet more.
#[test]
fn ecdsa_of_nothing_does_not_verify() {
    let key = public("ecdsa-p256");
    for signature in ["3006020100020100", "3006020101020100", "3006020100020101"] {
        let verified = key.verify(SignatureAlgorithm::EcdsaSha256, MESSAGE, &unhex(signature));
        assert_eq!(verified, Err(SignatureError::Invalid));
    }
    let raw = key.verify_ecdsa_raw(SignatureAlgorithm::EcdsaSha256, MESSAGE, &[0; 64]);
    assert_eq!(raw, Err(SignatureError::Invalid));
}

/// The hash must have been announced; the strength of the key says which is best.
#[test]
fn the_algorithm_follows_from_the_key_and_the_announced_hashes() {
    use HashAlgorithm as H;
    use SignatureAlgorithm as A;
    let choose = |at: usize, hashes: &[H]| {
        let (name, pem) = all()[at];
        private(name, pem).choose(hashes)
    };
    assert_eq!(choose(0, &H::ALL), Some(A::RsaPssSha256));
    assert_eq!(choose(0, &[H::Sha512]), Some(A::RsaPssSha512));
    assert_eq!(choose(1, &H::ALL), Some(A::EcdsaSha256));
    assert_eq!(choose(1, &[H::Sha384]), None);
    assert_eq!(choose(2, &H::ALL), Some(A::EcdsaSha384));
    assert_eq!(choose(3, &H::ALL), Some(A::Ed25519));
    assert_eq!(choose(3, &[H::Sha256, H::Sha384, H::Sha512]), None);
}

#[test]
fn methods_before_rfc_7427_work_for_the_keys_that_have_one() {
    for (name, pem) in all() {
        let key = public(name);
        let signed = private(name, pem).sign_before_7427(MESSAGE).unwrap();
        match (name, signed) {
            ("rsa-2048", Some((1, data))) => assert_eq!(key.verify_rsa(MESSAGE, &data), Ok(())),
            ("ecdsa-p256", Some((9, data))) => {
                assert_eq!(data.len(), 64);
                let algorithm = SignatureAlgorithm::EcdsaSha256;
                assert_eq!(key.verify_ecdsa_raw(algorithm, MESSAGE, &data), Ok(()));
                let other = public("ecdsa-p384").verify_ecdsa_raw(algorithm, MESSAGE, &data);
                assert_eq!(other, Err(SignatureError::KeyMismatch));
            }
            ("ecdsa-p384", Some((10, data))) => {
                assert_eq!(data.len(), 96);
                let algorithm = SignatureAlgorithm::EcdsaSha384;
                assert_eq!(key.verify_ecdsa_raw(algorithm, MESSAGE, &data), Ok(()));
            }
            ("ed25519", None) => {}
            (name, other) => panic!("{name}: {other:?}"),
        }
    }
}

/// RFC 7427 appendix A (RSASSA-PSS as OpenSSL writes it, without the default
/// trailer field) and RFC 8420 appendix A.
#[test]
fn algorithm_identifiers_are_those_of_the_rfcs() {
    use SignatureAlgorithm as A;
    for (algorithm, expected) in [
        (A::RsaPkcs1Sha256, "300d06092a864886f70d01010b0500"),
        (A::RsaPkcs1Sha384, "300d06092a864886f70d01010c0500"),
        (A::RsaPkcs1Sha512, "300d06092a864886f70d01010d0500"),
        (A::EcdsaSha256, "300a06082a8648ce3d040302"),
        (A::EcdsaSha384, "300a06082a8648ce3d040303"),
        (A::Ed25519, "300506032b6570"),
        (
            A::RsaPssSha384,
            "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a\
             06092a864886f70d010108300d06096086480165030402020500a203020130",
        ),
    ] {
        assert_eq!(hex(&algorithm.identifier()), expected);
    }
    for algorithm in A::ALL {
        assert_eq!(A::from_identifier(&algorithm.identifier()), Ok(algorithm));
    }
}

#[test]
fn algorithm_identifiers_of_others_are_read_or_refused_for_what_they_are() {
    use SignatureAlgorithm as A;
    let read = |text: &str| A::from_identifier(&unhex(text));
    // With the trailer field, as in RFC 7427 A.4.3.
    let trailer = "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a\
                   06092a864886f70d010108300d06096086480165030402010500a203020120a303020101";
    assert_eq!(read(trailer), Ok(A::RsaPssSha256));
    // Another trailer, another salt, another hash in the mask.
    for (from, to) in [("a303020101", "a303020102"), ("a203020120", "a203020114")] {
        assert_eq!(
            read(&trailer.replace(from, to)),
            Err(SignatureError::Algorithm)
        );
    }
    let mask = trailer.replacen("0402010500a1", "0402020500a1", 1);
    assert_eq!(read(&mask), Err(SignatureError::Algorithm));
    // Default parameters of RSASSA-PSS, and SHA-1 by name.
    assert_eq!(
        read("300d06092a864886f70d01010a3000"),
        Err(SignatureError::Sha1)
    );
    assert_eq!(
        read("300d06092a864886f70d0101050500"),
        Err(SignatureError::Sha1)
    );
    assert_eq!(read("300906072a8648ce3d0401"), Err(SignatureError::Sha1));
    // Without NULL; with something after it; DSA.
    assert_eq!(read("300b06092a864886f70d01010b"), Ok(A::RsaPkcs1Sha256));
    assert_eq!(
        read("300f06092a864886f70d01010b05000500"),
        Err(SignatureError::Malformed)
    );
    assert_eq!(
        read("300b0609608648016503040302"),
        Err(SignatureError::Algorithm)
    );
    assert_eq!(
        read("300d06092a864886f70d01010b050000"),
        Err(SignatureError::Malformed)
    );
}

#[test]
fn a_key_fits_its_own_certificate_only() {
    for (name, pem) in all() {
        for (other, _) in all() {
            let key = SigningKey::from_der(KeyFormat::Pkcs8, &pkcs8(pem), &public(other));
            match key {
                Ok(_) => assert_eq!(name, other),
                Err(error) => {
                    assert_ne!(name, other);
                    assert_eq!(error, SignatureError::NotOfPublic, "{name} {other}");
                }
            }
        }
    }
    assert_eq!(
        PublicKey::from_spki(&spki("rsa-1024")),
        Err(SignatureError::WeakKey)
    );
    let weak = SigningKey::from_der(KeyFormat::Pkcs8, &pkcs8(WEAK), &public("rsa-2048"));
    assert_eq!(weak.err(), Some(SignatureError::WeakKey));
}

#[test]
fn older_forms_of_private_keys_are_read() {
    // What is in the OCTET STRING of PKCS#8 is the older form.
    let inner = |pem: &str| {
        let outer = pkcs8(pem);
        let mut info = crate::wire::der::Der::only(&outer, 0x30).unwrap();
        info.any().unwrap();
        info.any().unwrap();
        info.expect(4).unwrap().to_vec()
    };
    for (format, name, pem) in [
        (KeyFormat::Pkcs1, "rsa-2048", RSA),
        (KeyFormat::Sec1, "ecdsa-p256", P256),
        (KeyFormat::Sec1, "ecdsa-p384", P384),
    ] {
        let key = SigningKey::from_der(format, &inner(pem), &public(name))
            .ok()
            .unwrap();
        let algorithm = key.choose(&HashAlgorithm::ALL).unwrap();
        let signature = key.sign(algorithm, MESSAGE).unwrap();
        assert_eq!(public(name).verify(algorithm, MESSAGE, &signature), Ok(()));
    }
}

proptest! {
    #[test]
    fn random_octets_are_refused(bytes in any::<Vec<u8>>()) {
        prop_assert!(SignatureAlgorithm::from_identifier(&bytes).is_err());
        prop_assert!(PublicKey::from_spki(&bytes).is_err());
        let key = SigningKey::from_der(KeyFormat::Pkcs8, &bytes, &public("ed25519"));
        prop_assert!(key.is_err());
    }
}
