//! Certificates (RFC 5280) as IKEv2 uses them (RFC 4945): our own, the
//! authorities that vouch for a peer's, and the check of what a peer sends.

#![forbid(unsafe_code)]

/// Our certificate, what leads from it to an authority, and its private key.
pub struct Credential {}

/// Authorities that vouch for peers.
pub struct TrustAnchors {}
