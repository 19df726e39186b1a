//! The primitives the protocols need, behind types that name what they are for.
//!
//! The arithmetic is `ring`'s and, for what `ring` has not (AES-CBC, MODP-2048),
//! RustCrypto's; this module gives it IPsec's shapes: an AEAD key with its
//! 4-octet salt (RFC 4106, RFC 7634, RFC 5282) or AES-CBC with HMAC behind the
//! same face, a PRF with `prf+` (RFC 7296 2.13) and the key exchange methods by
//! their IKEv2 numbers. Keys are zeroized on drop and never print themselves.

#![forbid(unsafe_code)]

mod aead;
mod cbc;
mod entropy;
mod ke;
mod modp;
mod prf;
mod sign;
#[cfg(test)]
pub(crate) mod testing;

pub use aead::{Aead, AeadAlgorithm, AesKey, Integrity};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use ke::{KeGroup, PrivateKey};
pub use prf::PrfAlgorithm;
pub use sign::{
    HashAlgorithm, KeyFormat, PublicKey, SignatureAlgorithm, SignatureError, SigningKey,
};

use zeroize::Zeroizing;

/// Key material: zeroized on drop, no `Debug`, no `Clone`.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of `bytes`; the caller keeps no copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The octets, for handing to a primitive.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// A second owner of the same octets, made on purpose.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Why a primitive refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Key material of the wrong length for the algorithm.
    #[error("key material has the wrong length")]
    KeyLength,
    /// The peer's public value is not a point of the group, or has the wrong length.
    #[error("invalid public key")]
    PublicKey,
    /// The integrity check value did not verify.
    #[error("integrity check failed")]
    Integrity,
    /// The system's random source failed.
    #[error("no randomness")]
    Entropy,
}

/// Compares without leaking where two secrets differ.
#[must_use]
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let difference = a.iter().zip(b).fold(0u8, |acc, (x, y)| acc | (x ^ y));
    std::hint::black_box(difference) == 0
}

/// SHA-1, used only for NAT_DETECTION_*_IP, where RFC 7296 2.23 fixes it.
#[must_use]
pub fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 20];
    out.copy_from_slice(context.finish().as_ref());
    out
}
