//! Authorities and certificates for tests, made as they are needed. RSA keys
//! take long to make, so there is one in `tests/keys`.

use std::net::IpAddr;

use mifsec::ike::cert::{Credential, TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

const RSA: &str = include_str!("../keys/rsa-2048.pem");

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits, always the same.
    Rsa,
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::P256, Self::P384, Self::Ed25519, Self::Rsa];

    /// A private key.
    ///
    /// # Panics
    /// When there is no randomness.
    #[must_use]
    pub fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa => KeyPair::from_pem_and_sign_algo(RSA, &rcgen::PKCS_RSA_SHA256),
        }
        .expect("a key")
    }
}

/// Who issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Intermediates from here to below the root, nearest first.
    chain: String,
}

/// What a certificate is to say; unusual things are public fields.
#[derive(Debug, Clone)]
pub struct Request {
    /// The key it is about.
    pub key: Key,
    /// Common name.
    pub name: String,
    /// subjectAltName: addresses, e-mail addresses, domain names by their look.
    pub names: Vec<String>,
    /// First and last day, as year, month, day.
    pub validity: [(i32, u8, u8); 2],
    /// keyUsage.
    pub usage: Vec<KeyUsagePurpose>,
    /// extKeyUsage.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    /// Other extensions.
    pub extensions: Vec<CustomExtension>,
}

impl Request {
    /// A plain one for `name`, from 2020 to 2040.
    #[must_use]
    pub fn new(key: Key, name: &str) -> Self {
        Self {
            key,
            name: name.into(),
            names: vec![name.into()],
            validity: [(2020, 1, 1), (2040, 1, 1)],
            usage: vec![KeyUsagePurpose::DigitalSignature],
            purposes: Vec::new(),
            extensions: Vec::new(),
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.name);
        params.subject_alt_names = self.names.iter().map(|name| general_name(name)).collect();
        let [from, until] = self.validity;
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.key_usages.clone_from(&self.usage);
        params.extended_key_usages.clone_from(&self.purposes);
        params.custom_extensions.clone_from(&self.extensions);
        params
    }
}

/// A certificate with what belongs to it, in PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate and the intermediates above it.
    pub chain: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

impl Issued {
    /// As the engine takes it.
    ///
    /// # Panics
    /// When it is no credential.
    #[must_use]
    pub fn credential(&self) -> Credential {
        Credential::from_pem(self.chain.as_bytes(), self.key.as_bytes()).expect("a credential")
    }

    /// Without what is above the certificate itself.
    #[must_use]
    pub fn alone(&self) -> Self {
        let end = "-----END CERTIFICATE-----";
        let (first, _) = self.chain.split_once(end).expect("a certificate");
        Self {
            chain: format!("{first}{end}\n"),
            key: self.key.clone(),
        }
    }
}

impl Authority {
    /// One that nobody is above.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn root(name: &str, key: Key) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority(name), key.generate());
        Self {
            issuer: issuer.expect("an authority"),
            chain: String::new(),
        }
    }

    /// One below this.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn intermediate(&self, name: &str, key: Key) -> Self {
        self.intermediate_with(authority(name), key)
    }

    /// One below this with special wishes.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn intermediate_with(&self, params: CertificateParams, key: Key) -> Self {
        let issuer = CertifiedIssuer::signed_by(params, key.generate(), &self.issuer);
        let issuer = issuer.expect("an authority");
        let chain = format!("{}{}", issuer.pem(), self.chain);
        Self { issuer, chain }
    }

    /// Issues a certificate.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn issue(&self, request: &Request) -> Issued {
        let key = request.key.generate();
        let certificate = request.params().signed_by(&key, &self.issuer);
        Issued {
            chain: format!(
                "{}{}",
                certificate.expect("a certificate").pem(),
                self.chain
            ),
            key: key.serialize_pem(),
        }
    }

    /// A certificate as it goes over the wire, for whoever needs no key to it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn issue_der(&self, request: &Request) -> Vec<u8> {
        let certificate = request
            .params()
            .signed_by(&request.key.generate(), &self.issuer);
        certificate.expect("a certificate").der().to_vec()
    }

    /// Its own certificate as it goes over the wire.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// Its own certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// It alone as what vouches for others.
    ///
    /// # Panics
    /// When it is no authority.
    #[must_use]
    pub fn anchors(&self) -> TrustAnchors {
        let mut anchors = TrustAnchors::default();
        anchors
            .add_pem(self.pem().as_bytes())
            .expect("an authority");
        anchors
    }
}

/// What an authority's certificate says.
#[must_use]
pub fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn subject(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "CH");
    subject.push(DnType::OrganizationName, "Example");
    subject.push(DnType::CommonName, name);
    subject
}

fn general_name(name: &str) -> SanType {
    let text = || name.try_into().expect("ASCII");
    match name.parse::<IpAddr>() {
        Ok(ip) => SanType::IpAddress(ip),
        Err(_) if name.contains('@') => SanType::Rfc822Name(text()),
        Err(_) => SanType::DnsName(text()),
    }
}
