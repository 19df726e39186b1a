//! The AUTH payload (RFC 7296 2.15, 3.8): by shared key, by a signature of
//! RFC 7427, or by one of those that came before it.
//!
//! ```text
//!  data of method 14: length (1) | AlgorithmIdentifier | signature
//! ```

use crate::crypto::{
    HashAlgorithm, PrfAlgorithm, PublicKey, Secret, SignatureAlgorithm, SignatureError,
};
use crate::ike::cert::Credential;
use crate::ike::error::Failure;
use crate::ike::keymat::{shared_key_auth, signed_octets, verify_shared_key};
use crate::ike::message::{Auth, AuthMethod, Notify, NotifyType, Payload};
use crate::ike::task::Payloads;
use crate::wire::der::Der;

/// What the peer said in IKE_SA_INIT about signatures.
#[derive(Default)]
pub(in crate::ike) struct Announced {
    /// Hashes it verifies with; `None` when it does not know RFC 7427.
    hashes: Option<Vec<HashAlgorithm>>,
}

impl Announced {
    /// Reads a request or response. Hashes we do not have are passed over.
    pub(in crate::ike) fn read(payloads: &Payloads) -> Self {
        let hashes = payloads
            .notify(NotifyType::SIGNATURE_HASH_ALGORITHMS)
            .map(|notify| {
                notify
                    .data
                    .as_chunks()
                    .0
                    .iter()
                    .filter_map(|number| HashAlgorithm::from_number(u16::from_be_bytes(*number)))
                    .collect()
            });
        Self { hashes }
    }

    /// Whether the peer knows RFC 7427.
    pub(in crate::ike) fn knows_hashes(&self) -> bool {
        self.hashes.is_some()
    }
}

/// The hashes we verify with (RFC 7427 4).
pub(in crate::ike) fn hashes() -> Payload {
    let numbers = HashAlgorithm::ALL.map(|hash| hash.number().to_be_bytes());
    Payload::Notify(Notify::new(
        NotifyType::SIGNATURE_HASH_ALGORITHMS,
        numbers.concat(),
    ))
}

/// What one side's AUTH covers (RFC 7296 2.15).
pub(super) struct Proof<'a> {
    pub(super) prf: PrfAlgorithm,
    pub(super) first_message: &'a [u8],
    pub(super) other_nonce: &'a [u8],
    pub(super) sk_p: &'a Secret,
    pub(super) id_body: &'a [u8],
}

impl Proof<'_> {
    fn octets(&self) -> Vec<u8> {
        signed_octets(
            self.prf,
            self.first_message,
            self.other_nonce,
            self.sk_p,
            self.id_body,
        )
    }

    /// By shared key.
    pub(super) fn make(&self, secret: &Secret) -> Auth {
        Auth {
            method: AuthMethod::SHARED_KEY,
            data: shared_key_auth(self.prf, secret, &self.octets()),
        }
    }

    /// Whether a shared key made it.
    pub(super) fn holds(&self, secret: &Secret, auth: &Auth) -> bool {
        auth.method == AuthMethod::SHARED_KEY
            && verify_shared_key(self.prf, secret, &self.octets(), &auth.data)
    }

    /// By a signature the peer can verify.
    pub(super) fn sign(
        &self,
        credential: &Credential,
        announced: &Announced,
    ) -> Result<Auth, Failure> {
        let key = credential.key();
        let octets = self.octets();
        let failed = |_| Failure::Entropy;
        let Some(hashes) = &announced.hashes else {
            let (method, data) = key
                .sign_before_7427(&octets)
                .map_err(failed)?
                .ok_or(Failure::NoSignatureAlgorithm)?;
            return Ok(Auth {
                method: AuthMethod(method),
                data,
            });
        };
        let algorithm = key.choose(hashes).ok_or(Failure::NoSignatureAlgorithm)?;
        let signature = key.sign(algorithm, &octets).map_err(failed)?;
        let identifier = algorithm.identifier();
        let length = u8::try_from(identifier.len()).expect("our identifiers are short");
        Ok(Auth {
            method: AuthMethod::SIGNATURE,
            data: [&[length], identifier.as_slice(), &signature].concat(),
        })
    }

    /// Whether the private key of `key` made it.
    pub(super) fn verify(&self, key: &PublicKey, auth: &Auth) -> Result<(), SignatureError> {
        let octets = self.octets();
        match auth.method {
            AuthMethod::SIGNATURE => {
                let (algorithm, signature) = split(&auth.data)?;
                key.verify(algorithm, &octets, signature)
            }
            AuthMethod::RSA => key.verify_rsa(&octets, &auth.data),
            AuthMethod::ECDSA_256 => {
                key.verify_ecdsa_raw(SignatureAlgorithm::EcdsaSha256, &octets, &auth.data)
            }
            AuthMethod::ECDSA_384 => {
                key.verify_ecdsa_raw(SignatureAlgorithm::EcdsaSha384, &octets, &auth.data)
            }
            _ => Err(SignatureError::Algorithm),
        }
    }
}

/// Algorithm and signature of method 14. The length counts the identifier, which
/// says itself how long it is.
fn split(data: &[u8]) -> Result<(SignatureAlgorithm, &[u8]), SignatureError> {
    let (length, rest) = data.split_first().ok_or(SignatureError::Malformed)?;
    let (identifier, signature) = rest
        .split_at_checked(usize::from(*length))
        .ok_or(SignatureError::Malformed)?;
    let mut der = Der::new(identifier);
    der.any()?;
    der.end()?;
    Ok((SignatureAlgorithm::from_identifier(identifier)?, signature))
}

/// Whether AUTH of this method is a signature.
pub(super) const fn is_signature(method: AuthMethod) -> bool {
    matches!(
        method,
        AuthMethod::SIGNATURE | AuthMethod::RSA | AuthMethod::ECDSA_256 | AuthMethod::ECDSA_384
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_are_announced_as_numbers_and_unknown_ones_passed_over() {
        let Payload::Notify(mut notify) = hashes() else {
            panic!("a notify");
        };
        assert_eq!(notify.data, [0, 2, 0, 3, 0, 4, 0, 5]);
        notify.data.extend([0, 1, 0x40, 0, 7]);
        let announced = Announced::read(&Payloads(vec![Payload::Notify(notify)]));
        assert_eq!(announced.hashes.as_deref(), Some(&HashAlgorithm::ALL[..]));
        assert!(!Announced::read(&Payloads(Vec::new())).knows_hashes());
    }

    #[test]
    fn the_length_octet_must_be_that_of_the_identifier() {
        let identifier = SignatureAlgorithm::EcdsaSha256.identifier();
        let data = [&[12], identifier.as_slice(), b"signature"].concat();
        let (algorithm, signature) = split(&data).unwrap();
        assert_eq!(
            (algorithm, signature),
            (SignatureAlgorithm::EcdsaSha256, &b"signature"[..])
        );
        for length in [0, 11, 13, 255] {
            let mut data = data.clone();
            data[0] = length;
            assert!(split(&data).is_err(), "{length}");
        }
        for length in 0..12 {
            assert!(split(&data[..length]).is_err());
        }
    }

    macro_rules! credential {
        ($name:literal) => {
            Credential::from_pem(
                include_bytes!(concat!("../../../../../tests/keys/", $name, ".crt")),
                include_bytes!(concat!("../../../../../tests/keys/", $name, ".pem")),
            )
            .unwrap()
        };
    }

    fn proof<'a>(sk_p: &'a Secret, first_message: &'a [u8]) -> Proof<'a> {
        Proof {
            prf: PrfAlgorithm::HmacSha256,
            first_message,
            other_nonce: b"nonce",
            sk_p,
            id_body: b"identity",
        }
    }

    #[test]
    fn the_method_follows_from_what_the_peer_announced_and_verifies() {
        let sk_p = Secret::new(vec![7; 32]);
        let (ours, other) = (proof(&sk_p, b"message"), proof(&sk_p, b"another"));
        let known = Announced {
            hashes: Some(HashAlgorithm::ALL.to_vec()),
        };
        for (credential, older) in [
            (credential!("rsa-2048"), Some(AuthMethod::RSA)),
            (credential!("ecdsa-p256"), Some(AuthMethod::ECDSA_256)),
            (credential!("ecdsa-p384"), Some(AuthMethod::ECDSA_384)),
            (credential!("ed25519"), None),
        ] {
            let key = credential.public_key();
            let signed = ours.sign(&credential, &known).unwrap();
            assert_eq!(signed.method, AuthMethod::SIGNATURE);
            assert_eq!(ours.verify(&key, &signed), Ok(()));
            assert_eq!(other.verify(&key, &signed), Err(SignatureError::Invalid));
            match (ours.sign(&credential, &Announced::default()), older) {
                (Ok(signed), Some(method)) => {
                    assert_eq!(signed.method, method);
                    assert_eq!(ours.verify(&key, &signed), Ok(()));
                    assert_eq!(other.verify(&key, &signed), Err(SignatureError::Invalid));
                }
                (Err(reason), None) => assert_eq!(reason, Failure::NoSignatureAlgorithm),
                (result, _) => panic!("{result:?}"),
            }
            let nothing = Announced {
                hashes: Some(Vec::new()),
            };
            let refused = ours.sign(&credential, &nothing).unwrap_err();
            assert_eq!(refused, Failure::NoSignatureAlgorithm);
        }
    }

    proptest! {
        #[test]
        fn random_data_is_refused(data in any::<Vec<u8>>()) {
            prop_assert!(split(&data).is_err());
        }
    }
}
