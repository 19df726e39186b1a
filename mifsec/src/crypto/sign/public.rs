//! Public keys of certificates, and what they verify.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::wire::der::{self, Der};

use super::{SignatureAlgorithm, SignatureError};

pub(super) const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
pub(super) const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
pub(super) const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
pub(super) const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
pub(super) const P384: &[u8] = &[0x2b, 0x81, 4, 0, 34];
pub(super) const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// Least octets of an RSA modulus.
const MIN_MODULUS: usize = 256;

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    pub(super) kind: Kind,
    /// RSAPublicKey, an uncompressed point, or 32 octets.
    pub(super) octets: Vec<u8>,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 4.1).
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn from_spki(spki: &[u8]) -> Result<Self, SignatureError> {
        let mut info = Der::only(spki, der::SEQUENCE)?;
        let mut identifier = info.enter(der::SEQUENCE)?;
        let bits = info.expect(der::BIT_STRING)?;
        info.end()?;
        let Some((0, octets)) = bits.split_first() else {
            return Err(SignatureError::Malformed);
        };
        let kind = match identifier.expect(der::OID)? {
            RSA | RSA_PSS => Kind::Rsa,
            EC => curve(identifier.expect(der::OID)?)?,
            ED25519 => Kind::Ed25519,
            _ => return Err(SignatureError::Algorithm),
        };
        if kind == Kind::Rsa && modulus_len(octets)? < MIN_MODULUS {
            return Err(SignatureError::WeakKey);
        }
        Ok(Self {
            kind,
            octets: octets.to_vec(),
        })
    }

    /// Whether `signature` of `message` was made so with the private key.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        use SignatureAlgorithm as A;
        let verification: &dyn VerificationAlgorithm = match (self.kind, algorithm) {
            (Kind::Rsa, A::RsaPssSha256) => &signature::RSA_PSS_2048_8192_SHA256,
            (Kind::Rsa, A::RsaPssSha384) => &signature::RSA_PSS_2048_8192_SHA384,
            (Kind::Rsa, A::RsaPssSha512) => &signature::RSA_PSS_2048_8192_SHA512,
            (Kind::Rsa, A::RsaPkcs1Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Kind::Rsa, A::RsaPkcs1Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Kind::Rsa, A::RsaPkcs1Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Kind::P256, A::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (Kind::P256, A::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (Kind::P384, A::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (Kind::P384, A::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (Kind::Ed25519, A::Ed25519) => &signature::ED25519,
            _ => return Err(SignatureError::KeyMismatch),
        };
        self.check(verification, message, signature)
    }

    /// Method 1 of RFC 7296 3.8: PKCS#1 v1.5 that says itself what it hashed
    /// with; with SHA-1 it is refused (RFC 8247 4).
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_rsa(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if self.kind != Kind::Rsa {
            return Err(SignatureError::KeyMismatch);
        }
        let known = [
            &signature::RSA_PKCS1_2048_8192_SHA256,
            &signature::RSA_PKCS1_2048_8192_SHA384,
            &signature::RSA_PKCS1_2048_8192_SHA512,
        ];
        if known
            .into_iter()
            .any(|known| self.check(known, message, signature).is_ok())
        {
            return Ok(());
        }
        let sha1 = &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
        match self.check(sha1, message, signature) {
            Ok(()) => Err(SignatureError::Sha1),
            Err(error) => Err(error),
        }
    }

    /// Methods 9 and 10, ECDSA as two numbers side by side (RFC 4754).
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify_ecdsa_raw(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let verification = match (self.kind, algorithm) {
            (Kind::P256, SignatureAlgorithm::EcdsaSha256) => &signature::ECDSA_P256_SHA256_FIXED,
            (Kind::P384, SignatureAlgorithm::EcdsaSha384) => &signature::ECDSA_P384_SHA384_FIXED,
            _ => return Err(SignatureError::KeyMismatch),
        };
        self.check(verification, message, signature)
    }

    fn check(
        &self,
        verification: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        UnparsedPublicKey::new(verification, &self.octets)
            .verify(message, signature)
            .map_err(|_| SignatureError::Invalid)
    }
}

pub(super) fn curve(oid: &[u8]) -> Result<Kind, SignatureError> {
    match oid {
        P256 => Ok(Kind::P256),
        P384 => Ok(Kind::P384),
        _ => Err(SignatureError::Algorithm),
    }
}

/// Octets of the modulus of an RSAPublicKey.
fn modulus_len(key: &[u8]) -> Result<usize, SignatureError> {
    let modulus = Der::only(key, der::SEQUENCE)?.expect(der::INTEGER)?;
    Ok(modulus.iter().skip_while(|octet| **octet == 0).count())
}
