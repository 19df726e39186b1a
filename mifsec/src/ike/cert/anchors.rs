//! The authorities we trust, and the check of a peer's certificate against them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId,
    KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext, VerifiedPath,
};

use crate::crypto::PublicKey;
use crate::ike::peer::Identity;

use super::credential::read_chain;
use super::fields::Fields;
use super::request::KeyHash;
use super::{CertificateError, FileError, MAX_AUTHORITIES, date};

/// Certificates of one subject that are tried above another: an authority that has
/// just changed its key has two.
const MAX_OF_ONE_SUBJECT: usize = 2;

/// Certificates looked at while a path is looked for, one counted as often as it is
/// tried: a good path has no more than nine.
const MAX_STEPS: u32 = 64;

const IPSEC_IKE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 17];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
const ANY_USAGE: &[u8] = &[0x55, 0x1d, 37, 0];

/// Authorities that vouch for peers.
#[derive(Default)]
pub struct TrustAnchors {
    anchors: Vec<Anchor>,
}

struct Anchor {
    anchor: TrustAnchor<'static>,
    subject: Vec<u8>,
    key: KeyHash,
    name: String,
    until: u64,
}

impl TrustAnchors {
    /// Takes the certificates of a PEM file in.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn add_pem(&mut self, pem: &[u8]) -> Result<(), FileError> {
        for (index, (der, fields)) in read_chain(pem)?.into_iter().enumerate() {
            let der = CertificateDer::from(der);
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|_| FileError::Certificate(index + 1))?
                .to_owned();
            let known = |other: &Anchor| other.anchor == anchor;
            if !self.anchors.iter().any(known) {
                self.anchors.push(Anchor {
                    anchor,
                    subject: fields.subject.der().to_vec(),
                    key: fields.key_hash(),
                    name: fields.name(),
                    until: fields.validity.1,
                });
            }
        }
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Those that are over at `unix` seconds since 1970, with when that was.
    pub fn expired(&self, unix: u64) -> impl Iterator<Item = (&str, String)> {
        self.anchors
            .iter()
            .filter(move |anchor| anchor.until < unix)
            .map(|anchor| (anchor.name.as_str(), date::print(anchor.until)))
    }

    /// What a CERTREQ says.
    pub(in crate::ike) fn key_hashes(&self) -> impl Iterator<Item = KeyHash> {
        self.anchors
            .iter()
            .map(|anchor| anchor.key)
            .take(MAX_AUTHORITIES)
    }

    /// The key of the authority of this name.
    pub(super) fn key_of(&self, subject: &[u8]) -> impl Iterator<Item = KeyHash> {
        self.anchors
            .iter()
            .filter(move |anchor| anchor.subject == subject)
            .map(|anchor| anchor.key)
    }

    /// Checks what a peer sent, end entity first, at `now` since 1970: one of us
    /// vouches for it, it is valid, made for this, and its own. Gives its key.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(
        &self,
        certificates: &[&[u8]],
        identity: &Identity,
        now: Duration,
    ) -> Result<PublicKey, CertificateError> {
        let id = identity.to_string();
        let (leaf, rest) = certificates
            .split_first()
            .ok_or_else(|| CertificateError::Missing { id: id.clone() })?;
        let malformed = || CertificateError::Malformed { id: id.clone() };
        let fields = Fields::read(leaf).map_err(|_| malformed())?;
        let subject = fields.name();
        let key = PublicKey::from_spki(&fields.spki).map_err(|reason| CertificateError::Key {
            subject: subject.clone(),
            reason,
        })?;
        let certificate = CertificateDer::from(*leaf);
        let entity = EndEntityCert::try_from(&certificate).map_err(|error| match error {
            Error::UnsupportedCriticalExtension => CertificateError::Chain {
                subject: subject.clone(),
                reason: describe(&error),
            },
            _ => malformed(),
        })?;
        let rest = issuers(rest);
        let anchors: Vec<_> = self.anchors.iter().map(|a| a.anchor.clone()).collect();
        entity
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                &rest,
                UnixTime::since_unix_epoch(now),
                ForIke::default(),
                None,
                Some(&issuers_may_issue),
            )
            .map_err(|error| explain(&error, certificates, &fields))?;
        if !fields.may_sign() {
            return Err(CertificateError::Usage { subject });
        }
        if !fields.is_of(identity) {
            let names = fields.identities();
            return Err(CertificateError::Identity { id, names });
        }
        Ok(key)
    }
}

/// What may be between: webpki tries every order of certificates whose names fit,
/// before any signature counts, so that names are not to leave it a choice. Nobody
/// needs an issuer that issued itself there, it has to be one of the anchors.
fn issuers<'a>(certificates: &[&'a [u8]]) -> Vec<CertificateDer<'a>> {
    let mut out: Vec<CertificateDer<'a>> = Vec::new();
    let mut of_subject: BTreeMap<String, usize> = BTreeMap::new();
    for der in certificates {
        let Ok(fields) = Fields::read(der) else {
            continue;
        };
        let der = CertificateDer::from(*der);
        let count = of_subject.entry(fields.subject.to_string()).or_default();
        if fields.subject != fields.issuer && *count < MAX_OF_ONE_SUBJECT && !out.contains(&der) {
            *count += 1;
            out.push(der);
        }
    }
    out
}

/// What an extended key usage must have, where there is one (RFC 4945 5.1.3.12).
/// It is asked of every certificate that is tried, which bounds how many are.
#[derive(Default)]
struct ForIke {
    steps: Cell<u32>,
}

impl ExtendedKeyUsageValidator for ForIke {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_STEPS {
            return Err(Error::MaximumPathBuildCallsExceeded);
        }
        let accepted = [IPSEC_IKE, SERVER_AUTH, CLIENT_AUTH, ANY_USAGE].map(KeyPurposeId::new);
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if accepted.contains(&purpose) {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        Err(Error::RequiredEkuNotFoundContext(
            RequiredEkuNotFoundContext {
                required: KeyUsage::required(IPSEC_IKE),
                present,
            },
        ))
    }
}

/// keyCertSign of what is between, which webpki leaves to its callers.
fn issuers_may_issue(path: &VerifiedPath<'_>) -> Result<(), Error> {
    let may = |der: &[u8]| Fields::read(der).is_ok_and(|fields| fields.may_issue());
    if path
        .intermediate_certificates()
        .all(|issuer| may(&issuer.der()))
    {
        Ok(())
    } else {
        Err(Error::EndEntityUsedAsCa)
    }
}

/// In the words an operator needs.
fn explain(error: &Error, certificates: &[&[u8]], leaf: &Fields) -> CertificateError {
    let subject = leaf.name();
    // Which of them it is.
    let of = |dated: &dyn Fn(&Fields) -> bool| {
        certificates
            .iter()
            .filter_map(|der| Fields::read(der).ok())
            .find(dated)
            .map_or_else(|| subject.clone(), |fields| fields.name())
    };
    match error {
        Error::CertExpired { not_after, .. } => {
            let since = not_after.as_secs();
            CertificateError::Expired {
                subject: of(&|fields| fields.validity.1 == since),
                since: date::print(since),
            }
        }
        Error::CertNotValidYet { not_before, .. } => {
            let from = not_before.as_secs();
            CertificateError::NotYetValid {
                subject: of(&|fields| fields.validity.0 == from),
                from: date::print(from),
            }
        }
        Error::RequiredEkuNotFoundContext(_) | Error::CaUsedAsEndEntity => {
            CertificateError::Usage { subject }
        }
        Error::UnknownIssuer => {
            let mut issuer = &leaf.issuer;
            let chain: Vec<_> = certificates
                .iter()
                .filter_map(|der| Fields::read(der).ok())
                .collect();
            // As far up as the peer's own certificates lead.
            for _ in &chain {
                if let Some(above) = chain.iter().find(|fields| fields.subject == *issuer) {
                    issuer = &above.issuer;
                }
            }
            CertificateError::UnknownCa {
                subject,
                issuer: issuer.to_string(),
            }
        }
        other => CertificateError::Chain {
            subject,
            reason: describe(other),
        },
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::InvalidSignatureForPublicKey => "its signature is not its issuer's".into(),
        Error::EndEntityUsedAsCa => "its issuer may not issue certificates".into(),
        Error::NameConstraintViolation => "its issuer may not vouch for this name".into(),
        Error::PathLenConstraintViolated => "there are too many issuers above it".into(),
        Error::UnsupportedCriticalExtension => {
            "it has a critical extension that is not supported".into()
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "it is signed with an algorithm that is not supported".into()
        }
        Error::MaximumPathBuildCallsExceeded => {
            "there are too many ways from it to an authority".into()
        }
        other => format!("it is not acceptable ({other:?})"),
    }
}
