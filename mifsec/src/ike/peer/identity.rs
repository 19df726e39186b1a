//! Identities (RFC 7296 3.5) as configuration writes them and as ID payloads
//! carry them, and the patterns that match them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::ike::message::{Id, IdType};

use super::dn::{DistinguishedName, DnPattern, has_star, looks_like_dn};

/// Longest identity we accept.
const MAX_LEN: usize = 1024;

/// Who a peer says it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A domain name, lower case.
    Fqdn(String),
    /// An e-mail address, lower case.
    Rfc822(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// Opaque octets.
    KeyId(Vec<u8>),
    /// A distinguished name.
    Dn(DistinguishedName),
}

/// Why something is not an identity or a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing there.
    #[error("identity is empty")]
    Empty,
    /// Longer than anyone's name.
    #[error("identity is longer than {MAX_LEN} octets")]
    TooLong,
    /// Not the form its type has: other than printable ASCII, or a name that
    /// reads as an identity of another type.
    #[error("identity is not printable ASCII of the form its type has")]
    Characters,
    /// An address payload of the wrong length.
    #[error("identity has the wrong length for its type")]
    Length,
    /// A type we do not use.
    #[error("identity type {0} is not supported")]
    Kind(IdType),
    /// Hexadecimal that is not.
    #[error("\"{0}\": write key ids and DER as keyid:<hex> and dn:<hex>")]
    Hex(String),
    /// A distinguished name that is none.
    #[error("not a distinguished name: write one as \"C=CH, O=Example, CN=gw\"")]
    Dn,
    /// A star anywhere but in front.
    #[error(
        "\"{0}\": a pattern has one \"*\", at its beginning; of a distinguished name, for a whole value"
    )]
    Pattern(String),
}

impl Identity {
    /// The ID payload that claims it.
    #[must_use]
    pub fn to_id(&self) -> Id {
        let (kind, data) = match self {
            Self::Fqdn(name) => (IdType::FQDN, name.as_bytes().to_vec()),
            Self::Rfc822(name) => (IdType::RFC822_ADDR, name.as_bytes().to_vec()),
            Self::V4(ip) => (IdType::IPV4_ADDR, ip.octets().to_vec()),
            Self::V6(ip) => (IdType::IPV6_ADDR, ip.octets().to_vec()),
            Self::KeyId(octets) => (IdType::KEY_ID, octets.clone()),
            Self::Dn(name) => (IdType::DER_ASN1_DN, name.der().to_vec()),
        };
        Id {
            kind,
            reserved: [0; 3],
            data,
        }
    }

    /// Reads an ID payload.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_id(id: &Id) -> Result<Self, IdentityError> {
        if id.data.is_empty() {
            return Err(IdentityError::Empty);
        }
        if id.data.len() > MAX_LEN {
            return Err(IdentityError::TooLong);
        }
        match id.kind {
            IdType::FQDN => named(&id.data, Self::Fqdn),
            IdType::RFC822_ADDR => named(&id.data, Self::Rfc822),
            IdType::IPV4_ADDR => <[u8; 4]>::try_from(id.data.as_slice())
                .map(|octets| Self::V4(octets.into()))
                .map_err(|_| IdentityError::Length),
            IdType::IPV6_ADDR => <[u8; 16]>::try_from(id.data.as_slice())
                .map(|octets| Self::V6(octets.into()))
                .map_err(|_| IdentityError::Length),
            IdType::KEY_ID => Ok(Self::KeyId(id.data.clone())),
            // Equal names print alike: what is printed names one identity only.
            IdType::DER_ASN1_DN => match distinguished(&id.data)? {
                Self::Dn(name) => Ok(Self::Dn(name.normalised())),
                other => Ok(other),
            },
            other => Err(IdentityError::Kind(other)),
        }
    }
}

/// A received name that would print as an identity of another kind is refused,
/// so that what is printed names one identity only.
fn named(octets: &[u8], kind: fn(String) -> Identity) -> Result<Identity, IdentityError> {
    let identity = kind(name(octets)?);
    if identity.to_string().parse().as_ref() == Ok(&identity) {
        Ok(identity)
    } else {
        Err(IdentityError::Characters)
    }
}

fn distinguished(der: &[u8]) -> Result<Identity, IdentityError> {
    DistinguishedName::from_der(der)
        .map(Identity::Dn)
        .map_err(|_| IdentityError::Dn)
}

/// Names compare without regard to case, so they are kept in lower case. Only
/// printable ASCII: a name ends up in logs and as a key.
fn name(octets: &[u8]) -> Result<String, IdentityError> {
    if !octets.iter().all(u8::is_ascii_graphic) {
        return Err(IdentityError::Characters);
    }
    let text = std::str::from_utf8(octets).map_err(|_| IdentityError::Characters)?;
    Ok(text.to_ascii_lowercase())
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// An address, `keyid:<hex>`, `dn:<hex>`, `C=CH, O=Example, CN=gw`, something
    /// with `@` (a leading `@` marks a domain name, as in strongSwan), else a
    /// domain name.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(IdentityError::TooLong);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(match ip {
                IpAddr::V4(ip) => Self::V4(ip),
                IpAddr::V6(ip) => Self::V6(ip),
            });
        }
        if let Some(digits) = text.strip_prefix("keyid:") {
            return unhex(digits).map(Self::KeyId);
        }
        if let Some(digits) = text.strip_prefix("dn:") {
            return distinguished(&unhex(digits)?);
        }
        if looks_like_dn(text) {
            let name = DistinguishedName::from_text(text).ok_or(IdentityError::Dn)?;
            // Longer than the text of it by its framing.
            return if name.der().len() > MAX_LEN {
                Err(IdentityError::TooLong)
            } else {
                Ok(Self::Dn(name))
            };
        }
        let name = name(text.strip_prefix('@').unwrap_or(text).as_bytes())?;
        if name.is_empty() {
            return Err(IdentityError::Empty);
        }
        Ok(if name.contains('@') {
            Self::Rfc822(name)
        } else {
            Self::Fqdn(name)
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fqdn(name) | Self::Rfc822(name) => f.write_str(name),
            Self::V4(ip) => ip.fmt(f),
            Self::V6(ip) => ip.fmt(f),
            Self::KeyId(octets) => write!(f, "keyid:{}", hex(octets)),
            Self::Dn(name) => name.fmt(f),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(digits: &str) -> Result<Vec<u8>, IdentityError> {
    let bad = || IdentityError::Hex(digits.to_owned());
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !hexadecimal {
        return Err(bad());
    }
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            u8::from_str_radix(pair, 16).map_err(|_| bad())
        })
        .collect()
}

/// Which identities a peer may have: one, those that end in something, those
/// with some attributes, or any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityPattern {
    /// This one.
    Exact(Identity),
    /// Distinguished names with these attributes.
    Dn(DnPattern),
    /// `*suffix`: names of one or more characters before `suffix`.
    Suffix(String),
    /// `*`.
    Any,
}

impl IdentityPattern {
    /// Whether `identity` is one of them. A suffix matches names only.
    #[must_use]
    pub fn matches(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Any, _) => true,
            (Self::Exact(one), identity) => one == identity,
            (Self::Suffix(suffix), Identity::Fqdn(name) | Identity::Rfc822(name)) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|front| !front.is_empty()),
            (Self::Dn(pattern), Identity::Dn(name)) => pattern.matches(name),
            (
                Self::Suffix(_),
                Identity::V4(_) | Identity::V6(_) | Identity::KeyId(_) | Identity::Dn(_),
            )
            | (Self::Dn(_), _) => false,
        }
    }

    /// Whether only one identity matches.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

impl FromStr for IdentityPattern {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let Some(suffix) = text.strip_prefix('*') else {
            if looks_like_dn(text) && has_star(text) {
                let pattern = DnPattern::from_text(text);
                return pattern
                    .map(Self::Dn)
                    .ok_or_else(|| IdentityError::Pattern(text.to_owned()));
            }
            if text.contains('*') && !looks_like_dn(text) {
                return Err(IdentityError::Pattern(text.to_owned()));
            }
            return text.parse().map(Self::Exact);
        };
        if suffix.contains('*') {
            return Err(IdentityError::Pattern(text.to_owned()));
        }
        if suffix.is_empty() {
            return Ok(Self::Any);
        }
        name(suffix.as_bytes()).map(Self::Suffix)
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(identity) => identity.fmt(f),
            Self::Dn(pattern) => pattern.fmt(f),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Identity {
        text.parse().unwrap()
    }

    fn raw(kind: IdType, data: &[u8]) -> Id {
        Id {
            kind,
            reserved: [0; 3],
            data: data.to_vec(),
        }
    }

    #[test]
    fn the_kind_follows_from_the_spelling() {
        assert_eq!(
            id("gw.example.org"),
            Identity::Fqdn("gw.example.org".into())
        );
        assert_eq!(id("@gw"), Identity::Fqdn("gw".into()));
        assert_eq!(
            id("Alice@Example.org"),
            Identity::Rfc822("alice@example.org".into())
        );
        assert_eq!(id("192.0.2.1"), Identity::V4([192, 0, 2, 1].into()));
        assert_eq!(
            id("2001:db8::1"),
            Identity::V6("2001:db8::1".parse().unwrap())
        );
        assert_eq!(id("keyid:00ff"), Identity::KeyId(vec![0, 255]));
        assert_eq!(
            id("dn:3000"),
            Identity::Dn(DistinguishedName::from_der(&[0x30, 0]).unwrap())
        );
    }

    #[test]
    fn identities_have_the_layout_of_rfc_7296_3_5() {
        for (text, kind, data) in [
            ("gw", 2, &b"gw"[..]),
            ("a@b", 3, b"a@b"),
            ("192.0.2.1", 1, &[192, 0, 2, 1]),
            ("::1", 5, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("keyid:0a", 11, &[10]),
            ("dn:3000", 9, &[0x30, 0]),
        ] {
            let wire = raw(IdType(kind), data);
            assert_eq!(id(text).to_id(), wire, "{text}");
            assert_eq!(Identity::from_id(&wire), Ok(id(text)));
            assert_eq!(id(&id(text).to_string()), id(text));
        }
    }

    #[test]
    fn a_payload_that_is_no_identity_is_refused() {
        let refused = |kind, data: &[u8]| Identity::from_id(&raw(kind, data)).unwrap_err();
        assert_eq!(refused(IdType::FQDN, b""), IdentityError::Empty);
        assert_eq!(refused(IdType::FQDN, &[b'a'; 1025]), IdentityError::TooLong);
        assert_eq!(refused(IdType::FQDN, b"a\nb"), IdentityError::Characters);
        assert_eq!(refused(IdType::FQDN, b"a b"), IdentityError::Characters);
        assert_eq!(
            refused(IdType::FQDN, &[0xc3, 0xa4]),
            IdentityError::Characters
        );
        assert_eq!(refused(IdType::IPV4_ADDR, &[1; 5]), IdentityError::Length);
        assert_eq!(refused(IdType::IPV6_ADDR, &[1; 4]), IdentityError::Length);
        assert_eq!(refused(IdType(200), b"x"), IdentityError::Kind(IdType(200)));
    }

    /// Else a peer could pass for another in a table keyed by what is printed.
    #[test]
    fn a_name_that_reads_as_another_kind_is_refused() {
        for (kind, data) in [
            (IdType::FQDN, &b"alice@example.org"[..]),
            (IdType::FQDN, b"192.0.2.1"),
            (IdType::FQDN, b"keyid:00"),
            (IdType::FQDN, b"@gw"),
            (IdType::RFC822_ADDR, b"gw.example.org"),
            (IdType::RFC822_ADDR, b"@gw"),
        ] {
            assert_eq!(
                Identity::from_id(&raw(kind, data)),
                Err(IdentityError::Characters)
            );
        }
    }

    #[test]
    fn misspelt_identities_and_patterns_are_named() {
        for bad in ["", "@", "a b", "keyid:", "keyid:0", "dn:xy", "keyid:+1"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
        for bad in ["a*", "*a*", "a*b", "* x"] {
            assert!(bad.parse::<IdentityPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_matches_what_it_says() {
        let matches = |pattern: &str, text: &str| {
            let pattern: IdentityPattern = pattern.parse().unwrap();
            assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            pattern.matches(&id(text))
        };
        assert!(matches("*@example.org", "alice@example.org"));
        assert!(matches("*@Example.ORG", "ALICE@example.org"));
        assert!(!matches("*@example.org", "alice@example.org.evil.net"));
        assert!(!matches("*@example.org", "alice@badexample.org"));
        assert!(matches("*.example.org", "gw.example.org"));
        assert!(!matches("*.example.org", "example.org"));
        assert!(matches("gw.example.org", "GW.example.org"));
        assert!(!matches("gw.example.org", "gw2.example.org"));
        assert!(matches("*", "192.0.2.1"));
        assert!(!matches("*.1", "192.0.2.1"));
    }

    #[test]
    fn a_suffix_needs_something_before_it() {
        let pattern: IdentityPattern = "*@example.org".parse().unwrap();
        assert!(!pattern.matches(&Identity::Rfc822("@example.org".into())));
        assert!(!pattern.is_exact());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_prints_as_itself(kind in 0..12u8, data in any::<Vec<u8>>()) {
            if let Ok(identity) = Identity::from_id(&raw(IdType(kind), &data)) {
                prop_assert_eq!(identity.to_string().parse(), Ok(identity));
            }
        }
    }
}
