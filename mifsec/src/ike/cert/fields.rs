//! The fields of a certificate that IKE itself looks at.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::crypto::sha1;
use crate::ike::peer::{DistinguishedName, Identity};
use crate::wire::der::{self, BadDer, Der};

use super::date;
use super::request::KeyHash;

const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];

/// Bits of keyUsage (RFC 5280 4.2.1.3), the first is the highest.
const DIGITAL_SIGNATURE: u8 = 0x80;
const NON_REPUDIATION: u8 = 0x40;
const KEY_CERT_SIGN: u8 = 0x04;

/// Most names of one certificate.
const MAX_NAMES: usize = 256;

/// One certificate, looked into.
pub(super) struct Fields {
    /// Whom it is about.
    pub(super) subject: DistinguishedName,
    /// Who says so.
    pub(super) issuer: DistinguishedName,
    /// First and last second of its validity, since 1970.
    pub(super) validity: (u64, u64),
    /// SubjectPublicKeyInfo.
    pub(super) spki: Vec<u8>,
    /// subjectAltName, as far as IKE has identities for it.
    names: Vec<Identity>,
    key_id: Option<Vec<u8>>,
    key_usage: Option<u8>,
}

impl Fields {
    /// Reads DER.
    pub(super) fn read(certificate: &[u8]) -> Result<Self, BadDer> {
        let mut certificate = Der::only(certificate, der::SEQUENCE)?;
        let mut tbs = certificate.enter(der::SEQUENCE)?;
        tbs.optional(0xa0)?;
        tbs.expect(der::INTEGER)?;
        tbs.expect(der::SEQUENCE)?;
        let issuer = DistinguishedName::from_der(tbs.any()?.whole)?;
        let mut validity = tbs.enter(der::SEQUENCE)?;
        let validity = (date::read(&mut validity)?, date::read(&mut validity)?);
        let subject = DistinguishedName::from_der(tbs.any()?.whole)?;
        let mut fields = Self {
            subject,
            issuer,
            validity,
            spki: tbs.any()?.whole.to_vec(),
            names: Vec::new(),
            key_id: None,
            key_usage: None,
        };
        while !tbs.is_empty() {
            let element = tbs.any()?;
            if element.tag == 0xa3 {
                let mut extensions = Der::only(element.contents, der::SEQUENCE)?;
                while !extensions.is_empty() {
                    fields.extension(extensions.enter(der::SEQUENCE)?)?;
                }
            }
        }
        Ok(fields)
    }

    fn extension(&mut self, mut extension: Der<'_>) -> Result<(), BadDer> {
        let oid = extension.expect(der::OID)?;
        extension.optional(der::BOOLEAN)?;
        let value = extension.expect(der::OCTET_STRING)?;
        let mut value = Der::new(value);
        match oid {
            SUBJECT_KEY_ID => self.key_id = Some(value.expect(der::OCTET_STRING)?.to_vec()),
            KEY_USAGE => {
                let bits = value.expect(der::BIT_STRING)?;
                self.key_usage = Some(bits.get(1).copied().unwrap_or(0));
            }
            SUBJECT_ALT_NAME => {
                let mut names = value.enter(der::SEQUENCE)?;
                while !names.is_empty() && self.names.len() < MAX_NAMES {
                    self.names.extend(general_name(names.any()?));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the certificate is one of `identity` (RFC 4945 3.1): a name of
    /// subjectAltName, the whole subject, or the key's identifier. Nothing
    /// within the subject counts as a domain name.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Dn(name) => *name == self.subject || self.names.contains(identity),
            Identity::KeyId(octets) => self.key_id.as_ref() == Some(octets),
            Identity::Fqdn(_) | Identity::Rfc822(_) | Identity::V4(_) | Identity::V6(_) => {
                self.names.contains(identity)
            }
        }
    }

    /// Everything [`is_of`](Self::is_of) would accept, for the operator.
    pub(super) fn identities(&self) -> String {
        let mut all: Vec<String> = self.names.iter().take(4).map(ToString::to_string).collect();
        if !self.subject.is_empty() {
            all.push(self.subject.to_string());
        }
        all.join("\", \"")
    }

    /// What to call it.
    pub(super) fn name(&self) -> String {
        match self.names.first() {
            Some(name) if self.subject.is_empty() => name.to_string(),
            _ => self.subject.to_string(),
        }
    }

    /// Whether keyUsage lets it sign for an identity (RFC 4945 5.1.3.2).
    pub(super) fn may_sign(&self) -> bool {
        self.key_usage
            .is_none_or(|usage| usage & (DIGITAL_SIGNATURE | NON_REPUDIATION) != 0)
    }

    /// Whether keyUsage lets it sign certificates.
    pub(super) fn may_issue(&self) -> bool {
        self.key_usage
            .is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
    }

    /// What names its key in a CERTREQ.
    pub(super) fn key_hash(&self) -> KeyHash {
        sha1(&[&self.spki])
    }
}

/// A GeneralName (RFC 5280 4.2.1.6) that can be an identity. One that would
/// print as something else is left out, as in ID payloads.
fn general_name(name: der::Element<'_>) -> Option<Identity> {
    let text = || std::str::from_utf8(name.contents).ok();
    match name.tag {
        0x81 => text()?
            .parse()
            .ok()
            .filter(|id| matches!(id, Identity::Rfc822(_))),
        0x82 => text()?
            .parse()
            .ok()
            .filter(|id| matches!(id, Identity::Fqdn(_))),
        0x87 => <[u8; 4]>::try_from(name.contents)
            .map(|octets| Identity::V4(Ipv4Addr::from(octets)))
            .or_else(|_| {
                <[u8; 16]>::try_from(name.contents)
                    .map(|octets| Identity::V6(Ipv6Addr::from(octets)))
            })
            .ok(),
        0xa4 => DistinguishedName::from_der(name.contents)
            .ok()
            .map(Identity::Dn),
        _ => None,
    }
}
