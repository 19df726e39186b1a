//! What is wrong with a certificate, each with its mend.

use crate::crypto::SignatureError;

/// Why a peer's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Signed, but nothing to check it with.
    #[error("\"{id}\" sent no certificate: configure one there, and let it be sent")]
    Missing {
        /// Who.
        id: String,
    },
    /// Not a certificate we can read.
    #[error("the certificate of \"{id}\" is not a readable X.509 v3 certificate: issue it anew")]
    Malformed {
        /// Who.
        id: String,
    },
    /// Its key is of no kind we have, or too short.
    #[error(
        "the key of certificate \"{subject}\" {reason}: use ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits"
    )]
    Key {
        /// Whose.
        subject: String,
        /// What is wrong with it.
        reason: SignatureError,
    },
    /// It, or one above it, is over.
    #[error("certificate \"{subject}\" expired on {since}: renew it, or correct this host's clock")]
    Expired {
        /// Whose.
        subject: String,
        /// Its last moment.
        since: String,
    },
    /// It, or one above it, has not begun.
    #[error(
        "certificate \"{subject}\" is valid from {from} on only: correct this host's clock, or issue it anew"
    )]
    NotYetValid {
        /// Whose.
        subject: String,
        /// Its first moment.
        from: String,
    },
    /// It is for something else.
    #[error(
        "certificate \"{subject}\" is not for authentication: issue it with digitalSignature, and ipsecIKE, serverAuth or clientAuth if it has an extended key usage"
    )]
    Usage {
        /// Whose.
        subject: String,
    },
    /// None of our authorities is behind it.
    #[error(
        "certificate \"{subject}\" is issued by \"{issuer}\", which no `ca` vouches for: add that authority to ca, or let the peer send what is between"
    )]
    UnknownCa {
        /// Whose.
        subject: String,
        /// Who issued it, or the last one of the chain.
        issuer: String,
    },
    /// It does not follow from the authority it names.
    #[error("certificate \"{subject}\" does not hold: {reason}; issue it anew")]
    Chain {
        /// Whose.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// It is somebody else's.
    #[error(
        "the certificate is of \"{names}\", not of \"{id}\": put the identity into its subjectAltName, or correct local_id there"
    )]
    Identity {
        /// Who the peer says it is.
        id: String,
        /// Whom the certificate is about.
        names: String,
    },
    /// Nobody set the clock.
    #[error("the time is not known, so no certificate can be checked: set this host's clock")]
    NoClock,
}

/// Why a file of ours is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not PEM.
    #[error("is not PEM")]
    Pem,
    /// PEM, but no certificate in it.
    #[error("has no CERTIFICATE in it")]
    NoCertificate,
    /// Certificate number such is none.
    #[error("its certificate {0} is not a readable X.509 v3 certificate")]
    Certificate(usize),
    /// The key in the certificate.
    #[error("the key of its certificate {0}")]
    PublicKey(SignatureError),
    /// PEM, but no private key in it.
    #[error("has no private key in it")]
    NoKey,
    /// A key one would have to ask a password for.
    #[error("its private key is encrypted")]
    Encrypted,
    /// The private key.
    #[error("its private key {0}")]
    PrivateKey(SignatureError),
}
