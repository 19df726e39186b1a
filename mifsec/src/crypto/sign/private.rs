//! Private keys as files hold them, and what they sign.

use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair,
};

use crate::wire::der::{self, Der};

use super::public::{self, Kind, PublicKey};
use super::{HashAlgorithm, SignatureAlgorithm, SignatureError};

/// The forms a private key comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFormat {
    /// `PRIVATE KEY` (RFC 5958).
    Pkcs8,
    /// `RSA PRIVATE KEY` (RFC 8017).
    Pkcs1,
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1,
}

/// A private key that signs; never prints itself.
pub struct SigningKey(Pair);

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa {
        p384: bool,
        asn1: Box<EcdsaKeyPair>,
        fixed: Box<EcdsaKeyPair>,
    },
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// The private key of `public`.
    ///
    /// # Errors
    /// [`SignatureError`]; [`NotOfPublic`](SignatureError::NotOfPublic) when it
    /// is another's.
    pub fn from_der(
        format: KeyFormat,
        der: &[u8],
        public: &PublicKey,
    ) -> Result<Self, SignatureError> {
        match format {
            KeyFormat::Pkcs1 => rsa(der, public),
            KeyFormat::Sec1 => ecdsa(der, public),
            KeyFormat::Pkcs8 => pkcs8(der, public),
        }
    }

    /// How to sign for a receiver that announced `hashes`: by the strength of
    /// the key; RSA as RSASSA-PSS (RFC 7427 5, RFC 8247 4.2).
    #[must_use]
    pub fn choose(&self, hashes: &[HashAlgorithm]) -> Option<SignatureAlgorithm> {
        use SignatureAlgorithm as A;
        let order: &[A] = match &self.0 {
            Pair::Rsa(pair) if pair.public().modulus_len() > 384 => {
                &[A::RsaPssSha384, A::RsaPssSha512, A::RsaPssSha256]
            }
            Pair::Rsa(_) => &[A::RsaPssSha256, A::RsaPssSha384, A::RsaPssSha512],
            Pair::Ecdsa { p384: true, .. } => &[A::EcdsaSha384],
            Pair::Ecdsa { p384: false, .. } => &[A::EcdsaSha256],
            Pair::Ed25519(_) => &[A::Ed25519],
        };
        order
            .iter()
            .copied()
            .find(|algorithm| hashes.contains(&algorithm.hash()))
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`SignatureError::KeyMismatch`] for an algorithm that is not the key's.
    pub fn sign(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureError> {
        use SignatureAlgorithm as A;
        match (&self.0, algorithm) {
            (Pair::Rsa(pair), algorithm) => {
                let padding: &'static dyn RsaEncoding = match algorithm {
                    A::RsaPssSha256 => &signature::RSA_PSS_SHA256,
                    A::RsaPssSha384 => &signature::RSA_PSS_SHA384,
                    A::RsaPssSha512 => &signature::RSA_PSS_SHA512,
                    A::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    A::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
                    A::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
                    _ => return Err(SignatureError::KeyMismatch),
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), message, &mut signed)
                    .map_err(|_| SignatureError::Failed)?;
                Ok(signed)
            }
            (Pair::Ecdsa { p384, asn1, .. }, A::EcdsaSha256 | A::EcdsaSha384)
                if *p384 == (algorithm == A::EcdsaSha384) =>
            {
                signed(asn1, message)
            }
            (Pair::Ed25519(pair), A::Ed25519) => Ok(pair.sign(message).as_ref().to_vec()),
            _ => Err(SignatureError::KeyMismatch),
        }
    }

    /// The number and data of a signature for a receiver that does not know
    /// RFC 7427: method 1 with SHA-256, or 9 or 10 (RFC 4754). `None` for a key
    /// no such method has.
    ///
    /// # Errors
    /// [`SignatureError::Failed`].
    pub fn sign_before_7427(
        &self,
        message: &[u8],
    ) -> Result<Option<(u8, Vec<u8>)>, SignatureError> {
        Ok(match &self.0 {
            Pair::Rsa(_) => Some((1, self.sign(SignatureAlgorithm::RsaPkcs1Sha256, message)?)),
            Pair::Ecdsa { p384, fixed, .. } => {
                Some((if *p384 { 10 } else { 9 }, signed(fixed, message)?))
            }
            Pair::Ed25519(_) => None,
        })
    }
}

fn signed(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
    pair.sign(&SystemRandom::new(), message)
        .map(|signature| signature.as_ref().to_vec())
        .map_err(|_| SignatureError::Failed)
}

fn pkcs8(der: &[u8], public: &PublicKey) -> Result<SigningKey, SignatureError> {
    let mut info = Der::only(der, der::SEQUENCE)?;
    info.expect(der::INTEGER)?;
    let mut identifier = info.enter(der::SEQUENCE)?;
    let key = info.expect(der::OCTET_STRING)?;
    match identifier.expect(der::OID)? {
        public::RSA | public::RSA_PSS => rsa(key, public),
        public::EC => {
            let curve = public::curve(identifier.expect(der::OID)?)?;
            if curve != public.kind {
                return Err(SignatureError::NotOfPublic);
            }
            ecdsa(key, public)
        }
        public::ED25519 => ed25519(key, public),
        _ => Err(SignatureError::Algorithm),
    }
}

fn rsa(der: &[u8], public: &PublicKey) -> Result<SigningKey, SignatureError> {
    let pair = RsaKeyPair::from_der(der).map_err(|error| match error.to_string().as_str() {
        "TooSmall" => SignatureError::WeakKey,
        "TooLarge" => SignatureError::Algorithm,
        _ => SignatureError::Malformed,
    })?;
    if public.kind != Kind::Rsa || pair.public_key().as_ref() != public.octets {
        return Err(SignatureError::NotOfPublic);
    }
    Ok(SigningKey(Pair::Rsa(Box::new(pair))))
}

/// The public key comes from the certificate: files may leave it out.
fn ecdsa(der: &[u8], public: &PublicKey) -> Result<SigningKey, SignatureError> {
    let mut key = Der::only(der, der::SEQUENCE)?;
    key.expect(der::INTEGER)?;
    let scalar = key.expect(der::OCTET_STRING)?;
    type Form = &'static EcdsaSigningAlgorithm;
    let (p384, asn1, fixed): (bool, Form, Form) = match public.kind {
        Kind::P256 => (
            false,
            &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        ),
        Kind::P384 => (
            true,
            &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        ),
        Kind::Rsa | Kind::Ed25519 => return Err(SignatureError::NotOfPublic),
    };
    let pair = |form: Form| {
        let random = SystemRandom::new();
        EcdsaKeyPair::from_private_key_and_public_key(form, scalar, &public.octets, &random)
            .map(Box::new)
            .map_err(|_| SignatureError::NotOfPublic)
    };
    Ok(SigningKey(Pair::Ecdsa {
        p384,
        asn1: pair(asn1)?,
        fixed: pair(fixed)?,
    }))
}

fn ed25519(der: &[u8], public: &PublicKey) -> Result<SigningKey, SignatureError> {
    let mut key = Der::new(der);
    let seed = key.expect(der::OCTET_STRING)?;
    key.end()?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, &public.octets)
        .map_err(|_| SignatureError::NotOfPublic)?;
    if public.kind != Kind::Ed25519 {
        return Err(SignatureError::NotOfPublic);
    }
    Ok(SigningKey(Pair::Ed25519(Box::new(pair))))
}
