//! Names of signature algorithms: the AlgorithmIdentifier of RFC 7427 and the
//! hash numbers of SIGNATURE_HASH_ALGORITHMS.

use std::fmt;

use crate::wire::der::{self, Der};

use super::SignatureError;

const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

/// What is hashed with before signing (IANA "IKEv2 Hash Algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// SHA2-256.
    Sha256,
    /// SHA2-384.
    Sha384,
    /// SHA2-512.
    Sha512,
    /// The message itself, as Ed25519 takes it (RFC 8420).
    Identity,
}

impl HashAlgorithm {
    /// All we have.
    pub const ALL: [Self; 4] = [Self::Sha256, Self::Sha384, Self::Sha512, Self::Identity];

    /// Its number in SIGNATURE_HASH_ALGORITHMS.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Sha256 => 2,
            Self::Sha384 => 3,
            Self::Sha512 => 4,
            Self::Identity => 5,
        }
    }

    /// The one of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.number() == number)
    }

    fn oid(self) -> &'static [u8] {
        match self {
            Self::Sha256 | Self::Identity => SHA256,
            Self::Sha384 => SHA384,
            Self::Sha512 => SHA512,
        }
    }

    fn output_len(self) -> u8 {
        match self {
            Self::Sha256 | Self::Identity => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// How a signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureAlgorithm {
    /// RSASSA-PSS with SHA-256 and a salt of 32 octets.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384 and a salt of 48 octets.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512 and a salt of 64 octets.
    RsaPssSha512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// ECDSA with SHA-256.
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
    /// Ed25519.
    Ed25519,
}

impl SignatureAlgorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::Ed25519,
    ];

    /// What it hashes with; the receiver must have announced it.
    #[must_use]
    pub const fn hash(self) -> HashAlgorithm {
        match self {
            Self::RsaPssSha256 | Self::RsaPkcs1Sha256 | Self::EcdsaSha256 => HashAlgorithm::Sha256,
            Self::RsaPssSha384 | Self::RsaPkcs1Sha384 | Self::EcdsaSha384 => HashAlgorithm::Sha384,
            Self::RsaPssSha512 | Self::RsaPkcs1Sha512 => HashAlgorithm::Sha512,
            Self::Ed25519 => HashAlgorithm::Identity,
        }
    }

    /// DER of its AlgorithmIdentifier (RFC 7427 appendix A, RFC 8420 appendix A).
    #[must_use]
    pub fn identifier(self) -> Vec<u8> {
        let (oid, parameters) = match self {
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => {
                (RSA_PSS, pss_parameters(self.hash()))
            }
            Self::RsaPkcs1Sha256 => (RSA_SHA256, null()),
            Self::RsaPkcs1Sha384 => (RSA_SHA384, null()),
            Self::RsaPkcs1Sha512 => (RSA_SHA512, null()),
            Self::EcdsaSha256 => (ECDSA_SHA256, Vec::new()),
            Self::EcdsaSha384 => (ECDSA_SHA384, Vec::new()),
            Self::Ed25519 => (ED25519, Vec::new()),
        };
        der::element(der::SEQUENCE, &[&object(oid), &parameters])
    }

    /// The one an AlgorithmIdentifier names. NULL parameters may be missing, and
    /// the default trailer field of RSASSA-PSS may be there.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn from_identifier(bytes: &[u8]) -> Result<Self, SignatureError> {
        let mut identifier = Der::only(bytes, der::SEQUENCE)?;
        let oid = identifier.expect(der::OID)?;
        if oid == RSA_PSS {
            let parameters = identifier.enter(der::SEQUENCE)?;
            identifier.end()?;
            return from_pss_parameters(parameters);
        }
        if let Some(rest) = identifier.optional(der::NULL)?
            && !rest.is_empty()
        {
            return Err(SignatureError::Malformed);
        }
        identifier.end()?;
        match oid {
            RSA_SHA256 => Ok(Self::RsaPkcs1Sha256),
            RSA_SHA384 => Ok(Self::RsaPkcs1Sha384),
            RSA_SHA512 => Ok(Self::RsaPkcs1Sha512),
            ECDSA_SHA256 => Ok(Self::EcdsaSha256),
            ECDSA_SHA384 => Ok(Self::EcdsaSha384),
            ED25519 => Ok(Self::Ed25519),
            RSA_SHA1 | ECDSA_SHA1 => Err(SignatureError::Sha1),
            _ => Err(SignatureError::Algorithm),
        }
    }
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RsaPssSha256 => "RSASSA-PSS with SHA-256",
            Self::RsaPssSha384 => "RSASSA-PSS with SHA-384",
            Self::RsaPssSha512 => "RSASSA-PSS with SHA-512",
            Self::RsaPkcs1Sha256 => "RSA with SHA-256",
            Self::RsaPkcs1Sha384 => "RSA with SHA-384",
            Self::RsaPkcs1Sha512 => "RSA with SHA-512",
            Self::EcdsaSha256 => "ECDSA with SHA-256",
            Self::EcdsaSha384 => "ECDSA with SHA-384",
            Self::Ed25519 => "Ed25519",
        })
    }
}

fn object(oid: &[u8]) -> Vec<u8> {
    der::element(der::OID, &[oid])
}

fn null() -> Vec<u8> {
    der::element(der::NULL, &[])
}

/// RSASSA-PSS-params (RFC 4055 3.1): one hash for all, a salt as long as it.
fn pss_parameters(hash: HashAlgorithm) -> Vec<u8> {
    let digest = der::element(der::SEQUENCE, &[&object(hash.oid()), &null()]);
    let mask = der::element(der::SEQUENCE, &[&object(MGF1), &digest]);
    let salt = der::element(der::INTEGER, &[&[hash.output_len()]]);
    der::element(
        der::SEQUENCE,
        &[
            &der::element(0xa0, &[&digest]),
            &der::element(0xa1, &[&mask]),
            &der::element(0xa2, &[&salt]),
        ],
    )
}

/// Absent fields stand for SHA-1 and a salt of 20 octets.
fn from_pss_parameters(mut parameters: Der<'_>) -> Result<SignatureAlgorithm, SignatureError> {
    let Some(digest) = parameters.optional(0xa0)? else {
        return Err(SignatureError::Sha1);
    };
    let hash = hash_of(Der::only(digest, der::SEQUENCE)?)?;
    let mask = parameters.optional(0xa1)?.ok_or(SignatureError::Sha1)?;
    let mut mask = Der::only(mask, der::SEQUENCE)?;
    if mask.expect(der::OID)? != MGF1 || hash_of(mask.enter(der::SEQUENCE)?)? != hash {
        return Err(SignatureError::Algorithm);
    }
    mask.end()?;
    let salt = parameters.optional(0xa2)?;
    if salt != Some(&[der::INTEGER, 1, hash.output_len()]) {
        return Err(SignatureError::Algorithm);
    }
    let trailer = parameters.optional(0xa3)?;
    if trailer.is_some_and(|trailer| trailer != [der::INTEGER, 1, 1]) {
        return Err(SignatureError::Algorithm);
    }
    parameters.end()?;
    Ok(match hash {
        HashAlgorithm::Sha256 | HashAlgorithm::Identity => SignatureAlgorithm::RsaPssSha256,
        HashAlgorithm::Sha384 => SignatureAlgorithm::RsaPssSha384,
        HashAlgorithm::Sha512 => SignatureAlgorithm::RsaPssSha512,
    })
}

fn hash_of(mut identifier: Der<'_>) -> Result<HashAlgorithm, SignatureError> {
    let oid = identifier.expect(der::OID)?;
    identifier.optional(der::NULL)?;
    identifier.end()?;
    match oid {
        SHA256 => Ok(HashAlgorithm::Sha256),
        SHA384 => Ok(HashAlgorithm::Sha384),
        SHA512 => Ok(HashAlgorithm::Sha512),
        _ => Err(SignatureError::Algorithm),
    }
}
