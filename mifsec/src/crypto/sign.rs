//! Signatures that prove identities: RFC 7427 with the algorithms of RFC 8247,
//! Ed25519 (RFC 8420), and what came before them (RFC 7296 3.8, RFC 4754).
//!
//! | algorithm | sign | verify |
//! | --- | --- | --- |
//! | ECDSA P-256 | SHA-256 | SHA-256, SHA-384 |
//! | ECDSA P-384 | SHA-384 | SHA-256, SHA-384 |
//! | Ed25519 | yes | yes |
//! | RSASSA-PSS, PKCS#1 v1.5 | SHA-256, SHA-384, SHA-512; 2048 to 4096 bits | the same; 2048 to 8192 bits |
//!
//! `ring` does the arithmetic. It keeps private keys in its own types, which it
//! does not zeroize; every buffer of ours that held one is.

mod algorithm;
mod private;
mod public;
#[cfg(test)]
mod tests;

pub use algorithm::{HashAlgorithm, SignatureAlgorithm};
pub use private::{KeyFormat, SigningKey};
pub use public::PublicKey;

/// Why there is no signature, or one that is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// DER that is none.
    #[error("is not readable")]
    Malformed,
    /// An algorithm we do not have.
    #[error("is of an algorithm that is not supported")]
    Algorithm,
    /// The algorithm is one of another kind of key.
    #[error("is of an algorithm that does not fit the key")]
    KeyMismatch,
    /// Made with SHA-1, which proves nothing any more (RFC 8247 4).
    #[error("is made with SHA-1")]
    Sha1,
    /// An RSA key below 2048 bits.
    #[error("is RSA of less than 2048 bits")]
    WeakKey,
    /// The private key is not that of the public one.
    #[error("is not of this public key")]
    NotOfPublic,
    /// The signature does not verify.
    #[error("does not verify")]
    Invalid,
    /// The system gave no randomness.
    #[error("could not be made")]
    Failed,
}

impl From<crate::wire::der::BadDer> for SignatureError {
    fn from(_: crate::wire::der::BadDer) -> Self {
        Self::Malformed
    }
}
