//! Our own certificate.

use rustls_pki_types::pem::{self, PemObject as _, SectionKind};
use zeroize::Zeroizing;

use crate::crypto::{KeyFormat, PublicKey, SignatureError, SigningKey};
use crate::ike::message::{Id, Payload};
use crate::ike::peer::Identity;

use super::fields::Fields;
use super::request::{self, KeyHash};
use super::{FileError, MAX_CERTIFICATES, TrustAnchors, date};

/// Our certificate, what leads from it to an authority, and its private key.
pub struct Credential {
    /// End entity first, without the authority itself.
    chain: Vec<Vec<u8>>,
    leaf: Fields,
    /// Keys of the authorities above it, as far as they are known.
    above: Vec<KeyHash>,
    /// Issuer of the last certificate of the chain.
    top: Vec<u8>,
    key: SigningKey,
}

impl Credential {
    /// Reads PEM: the certificate and those between it and its authority, and
    /// the private key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// [`FileError`]; the key's are [`NoKey`](FileError::NoKey),
    /// [`Encrypted`](FileError::Encrypted) and [`PrivateKey`](FileError::PrivateKey).
    pub fn from_pem(certificates: &[u8], private_key: &[u8]) -> Result<Self, FileError> {
        let all = read_chain(certificates)?;
        let mut certificates = all.into_iter();
        let (der, leaf) = certificates.next().ok_or(FileError::NoCertificate)?;
        let public = PublicKey::from_spki(&leaf.spki).map_err(FileError::PublicKey)?;
        let key = read_key(private_key, &public)?;
        let mut credential = Self {
            top: leaf.issuer.der().to_vec(),
            chain: vec![der],
            leaf,
            above: Vec::new(),
            key,
        };
        for (der, fields) in certificates.take(MAX_CERTIFICATES) {
            credential.above.push(fields.key_hash());
            // The other side has the authority itself or does not trust it.
            if fields.subject != fields.issuer {
                credential.top = fields.issuer.der().to_vec();
                credential.chain.push(der);
            }
        }
        Ok(credential)
    }

    /// Learns the key of the authority above the chain from those we trust
    /// ourselves, so that a CERTREQ which names it is understood.
    #[must_use]
    pub fn with_authorities(mut self, known: &TrustAnchors) -> Self {
        self.above.extend(known.key_of(&self.top));
        self
    }

    /// Whether the certificate proves `identity`.
    #[must_use]
    pub fn is_of(&self, identity: &Identity) -> bool {
        self.leaf.is_of(identity)
    }

    /// The identities it proves, for an operator to read.
    #[must_use]
    pub fn identities(&self) -> String {
        self.leaf.identities()
    }

    /// What is wrong with its dates or usage at `unix` seconds since 1970.
    #[must_use]
    pub fn warning(&self, unix: u64) -> Option<String> {
        let (from, until) = self.leaf.validity;
        if unix > until {
            Some(format!("expired on {}", date::print(until)))
        } else if unix < from {
            Some(format!("is valid from {} on only", date::print(from)))
        } else if !self.leaf.may_sign() {
            Some("has a keyUsage without digitalSignature".into())
        } else {
            None
        }
    }

    /// The private key.
    pub(in crate::ike) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The public key.
    #[cfg(test)]
    pub(in crate::ike) fn public_key(&self) -> PublicKey {
        PublicKey::from_spki(&self.leaf.spki).unwrap()
    }

    /// The CERT payloads.
    pub(in crate::ike) fn payloads(&self) -> impl Iterator<Item = Payload> {
        self.chain.iter().map(|der| request::payload(der))
    }

    /// The ID payload of `identity`; a distinguished name as the certificate
    /// spells it.
    pub(in crate::ike) fn id(&self, identity: &Identity) -> Id {
        match identity {
            Identity::Dn(name) if *name == self.leaf.subject => {
                Identity::Dn(self.leaf.subject.clone()).to_id()
            }
            other => other.to_id(),
        }
    }

    /// Whether one of `authorities` is known to be above it; an empty list asks
    /// for any.
    pub(in crate::ike) fn is_under(&self, authorities: &[KeyHash]) -> bool {
        authorities.is_empty() || self.above.iter().any(|key| authorities.contains(key))
    }
}

/// All certificates of a PEM file, looked into.
pub(super) fn read_chain(pem: &[u8]) -> Result<Vec<(Vec<u8>, Fields)>, FileError> {
    let mut out = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|_| FileError::Pem)?;
        if kind == SectionKind::Certificate {
            let bad = FileError::Certificate(out.len() + 1);
            let fields = Fields::read(&der).map_err(|_| bad)?;
            out.push((der, fields));
        }
    }
    if out.is_empty() {
        return Err(FileError::NoCertificate);
    }
    Ok(out)
}

/// The first private key of a PEM file.
fn read_key(pem: &[u8], public: &PublicKey) -> Result<SigningKey, FileError> {
    let mut rest = pem;
    loop {
        let mut reader: &[u8] = rest;
        let section = match pem::from_buf(&mut reader) {
            Ok(Some((kind, der))) => (kind, Zeroizing::new(der)),
            Ok(None) => break,
            Err(_) => return Err(FileError::Pem),
        };
        rest = reader;
        let format = match section.0 {
            SectionKind::PrivateKey => KeyFormat::Pkcs8,
            SectionKind::RsaPrivateKey => KeyFormat::Pkcs1,
            SectionKind::EcPrivateKey => KeyFormat::Sec1,
            _ => continue,
        };
        return SigningKey::from_der(format, &section.1, public).map_err(FileError::PrivateKey);
    }
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    Err(
        if pem
            .windows(encrypted.len())
            .any(|window| window == encrypted)
        {
            FileError::Encrypted
        } else {
            FileError::NoKey
        },
    )
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.leaf.name())
    }
}

/// A private key of another certificate is what operators mix up most.
impl FileError {
    /// Whether the private key is at fault, not the certificate.
    #[must_use]
    pub const fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::Encrypted | Self::PrivateKey(_))
    }

    /// Whether key and certificate do not belong together.
    #[must_use]
    pub const fn is_mismatch(&self) -> bool {
        matches!(self, Self::PrivateKey(SignatureError::NotOfPublic))
    }
}
