//! What proves identities in a `[[peer]]`: `psk_file`, `psk_table`,
//! `certificate`, `private_key`, `ca`.

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::raw::OneOrMany;
use super::super::{ConfigError, CredentialFiles, PskSource, raw};
use super::{Checker, Section};
use crate::ike::cert::{Credential, FileError, TrustAnchors};
use crate::ike::peer::{Identity, LocalAuth};

/// How both sides of a peer prove who they are.
pub(super) struct Proofs {
    pub(super) psk: Option<PskSource>,
    pub(super) local_auth: LocalAuth,
    pub(super) ca: Option<Arc<TrustAnchors>>,
    pub(super) files: Option<CredentialFiles>,
}

impl Checker<'_> {
    pub(super) fn proofs(
        &self,
        section: &Section,
        raw: &raw::Peer,
        local_id: &Identity,
    ) -> Result<Proofs, ConfigError> {
        let psk = self.psk(section, raw)?;
        let ca = self.authorities(section, raw.ca.as_ref())?;
        let own = self.credential(section, raw, local_id, ca.as_ref())?;
        let missing = |key: &str, mend: &str| {
            Err(self
                .error(section, key, "is missing".into())
                .mend(mend.to_owned()))
        };
        match (&psk, &own, &ca) {
            (None, None, None) => missing(
                "psk_file",
                "name a file that holds the shared secret, or use certificate, private_key and ca",
            ),
            (None, None, Some(_)) => missing(
                "certificate",
                "name our own certificate and private_key, or a psk_file: the peer wants a proof too",
            ),
            (None, Some(_), None) => missing(
                "ca",
                "name the authority that vouches for the peer, or a psk_file it proves itself with",
            ),
            _ => {
                let (local_auth, files) = match own {
                    Some((credential, files)) => {
                        (LocalAuth::Certificate(Arc::new(credential)), Some(files))
                    }
                    None => (LocalAuth::Psk, None),
                };
                Ok(Proofs {
                    psk,
                    local_auth,
                    ca: ca.map(Arc::new),
                    files,
                })
            }
        }
    }

    fn psk(&self, section: &Section, raw: &raw::Peer) -> Result<Option<PskSource>, ConfigError> {
        match (&raw.psk_file, &raw.psk_table) {
            (Some(path), None) => PskSource::one(&self.beside(path.clone()))
                .map(Some)
                .map_err(|e| {
                    self.error(section, "psk_file", e)
                        .mend("put the shared secret there, readable by the agent")
                }),
            (None, Some(path)) => PskSource::table(&self.beside(path.clone()))
                .map(Some)
                .map_err(|e| {
                    self.error(section, "psk_table", e)
                        .mend("one `identity = secret` a line, readable by the agent")
                }),
            (Some(_), Some(_)) => Err(self
                .error(section, "psk_table", "given beside psk_file".into())
                .mend("keep one of the two")),
            (None, None) => Ok(None),
        }
    }

    fn authorities(
        &self,
        section: &Section,
        raw: Option<&OneOrMany>,
    ) -> Result<Option<TrustAnchors>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let mut anchors = TrustAnchors::default();
        for path in raw.paths() {
            let path = self.beside(path.clone());
            let pem = self.pem(section, "ca", &path)?;
            anchors
                .add_pem(&pem)
                .map_err(|error| self.in_file(section, "ca", &path, &error))?;
        }
        if anchors.is_empty() {
            return Err(self
                .error(section, "ca", "names no file".into())
                .mend("name the PEM file of the authority that vouches for the peer"));
        }
        Ok(Some(anchors))
    }

    fn credential(
        &self,
        section: &Section,
        raw: &raw::Peer,
        local_id: &Identity,
        ca: Option<&TrustAnchors>,
    ) -> Result<Option<(Credential, CredentialFiles)>, ConfigError> {
        let (certificate, private_key) = match (&raw.certificate, &raw.private_key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(private_key)) => (certificate, private_key),
            (Some(_), None) => {
                return Err(self
                    .error(section, "private_key", "is missing".into())
                    .mend("name the PEM file of the certificate's private key"));
            }
            (None, Some(_)) => {
                return Err(self
                    .error(section, "certificate", "is missing".into())
                    .mend(
                        "name the PEM file of the certificate, with those between it and its CA",
                    ));
            }
        };
        let files = CredentialFiles {
            certificate: self.beside(certificate.clone()),
            private_key: self.beside(private_key.clone()),
        };
        let chain = self.pem(section, "certificate", &files.certificate)?;
        let key = self.pem(section, "private_key", &files.private_key)?;
        let mut credential = Credential::from_pem(&chain, &key).map_err(|error| {
            let (name, path) = if error.is_of_key() {
                ("private_key", &files.private_key)
            } else {
                ("certificate", &files.certificate)
            };
            self.in_file(section, name, path, &error)
        })?;
        if !credential.is_of(local_id) {
            return Err(self
                .error(
                    section,
                    "local_id",
                    format!(
                        "\"{local_id}\" is not in {}, which is of \"{}\"",
                        files.certificate.display(),
                        credential.identities()
                    ),
                )
                .mend("write one of these, or issue a certificate with this subjectAltName"));
        }
        if let Some(ca) = ca {
            credential = credential.with_authorities(ca);
        }
        Ok(Some((credential, files)))
    }

    /// A file that may hold a private key.
    fn pem(
        &self,
        section: &Section,
        key: &str,
        path: &Path,
    ) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        std::fs::read(path).map(Zeroizing::new).map_err(|e| {
            self.error(
                section,
                key,
                format!("{} cannot be read ({e})", path.display()),
            )
            .mend("give the path of a PEM file the agent may read")
        })
    }

    fn in_file(&self, section: &Section, key: &str, path: &Path, error: &FileError) -> ConfigError {
        let mend = match error {
            error if error.is_mismatch() => {
                "name the private key this certificate was issued for, and put it first in its file"
            }
            FileError::Encrypted => "decrypt it with `openssl pkey`, and chmod 600 it",
            FileError::NoKey => "name a PEM file with PKCS#8, PKCS#1 or SEC1 in it",
            FileError::PublicKey(_) | FileError::PrivateKey(_) => {
                "use ECDSA P-256 or P-384, Ed25519, or RSA with 2048 to 4096 bits"
            }
            FileError::Pem | FileError::NoCertificate | FileError::Certificate(_) => {
                "name a PEM file of X.509 certificates"
            }
        };
        self.error(section, key, format!("{} {error}", path.display()))
            .mend(mend)
    }
}
