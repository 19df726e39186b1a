//! Certificates (RFC 5280) as IKEv2 uses them (RFC 4945): our own with its
//! chain and private key, the authorities that vouch for a peer, and the check
//! of what a peer sends.
//!
//! `rustls-webpki` builds and checks the path from the peer's certificate to an
//! authority; what only IKE asks of a certificate (identity, usage) is checked
//! here. Revocation is not: neither CRLs nor OCSP are looked at. Nothing here
//! reads a file or a clock.

#![forbid(unsafe_code)]

mod anchors;
mod credential;
mod date;
mod error;
mod fields;
mod request;

pub use anchors::TrustAnchors;
pub use credential::Credential;
pub use error::{CertificateError, FileError};
pub(in crate::ike) use request::request;
pub use request::{KeyHash, authorities, certificates};

/// Most certificates we look at of one peer: more than a path can have.
pub const MAX_CERTIFICATES: usize = 8;

/// Most authorities in a CERTREQ, ours and the peer's.
pub const MAX_AUTHORITIES: usize = 128;

/// X.509 certificate - signature (RFC 7296 3.6), the only encoding there is here.
const X509_SIGNATURE: u8 = 4;
