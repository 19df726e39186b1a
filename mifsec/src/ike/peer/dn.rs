//! Distinguished names (RFC 5280 4.1.2.4): DER, and the text that configuration
//! and logs have for it, as in `C=CH, O=strongSwan, CN=moon`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::wire::der::{self, BadDer, Der};

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;

/// Most attributes of one name.
const MAX_ATTRIBUTES: usize = 64;

/// Names of attribute types and DER of their object identifiers; the first name
/// of one is what is printed.
const TYPES: &[(&str, &[u8])] = &[
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("serialNumber", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("S", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("T", &[0x55, 4, 12]),
    ("title", &[0x55, 4, 12]),
    ("postalCode", &[0x55, 4, 17]),
    ("N", &[0x55, 4, 41]),
    ("name", &[0x55, 4, 41]),
    ("G", &[0x55, 4, 42]),
    ("GN", &[0x55, 4, 42]),
    ("I", &[0x55, 4, 43]),
    ("initials", &[0x55, 4, 43]),
    ("dnQualifier", &[0x55, 4, 46]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    (
        "emailAddress",
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
    ),
    ("DC", &[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("UID", &[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
];

/// A name. Two are equal when their attributes are, in order, whatever string
/// type they came in and whether letters are capitals (RFC 5280 7.1).
#[derive(Clone)]
pub struct DistinguishedName {
    der: Vec<u8>,
    rdns: Vec<Vec<Attribute>>,
}

/// One `type=value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Attribute {
    oid: Vec<u8>,
    value: Value,
}

/// A value, ready to be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Value {
    /// Any string type; ASCII letters small, runs of blanks one.
    Text(String),
    /// Another type: all of its DER.
    Other(Vec<u8>),
}

impl DistinguishedName {
    /// Reads a Name, outer SEQUENCE included.
    ///
    /// # Errors
    /// [`BadDer`].
    pub fn from_der(der: &[u8]) -> Result<Self, BadDer> {
        let mut name = Der::only(der, der::SEQUENCE)?;
        let mut rdns = Vec::new();
        let mut count = 0;
        while !name.is_empty() {
            let mut set = name.enter(der::SET)?;
            let mut rdn = Vec::new();
            while !set.is_empty() {
                count += 1;
                if count > MAX_ATTRIBUTES {
                    return Err(BadDer);
                }
                let mut attribute = set.enter(der::SEQUENCE)?;
                let oid = attribute.expect(der::OID)?.to_vec();
                let value = attribute.any()?;
                attribute.end()?;
                rdn.push(Attribute {
                    oid,
                    value: Value::read(value)?,
                });
            }
            if rdn.is_empty() {
                return Err(BadDer);
            }
            rdn.sort();
            rdns.push(rdn);
        }
        Ok(Self {
            der: der.to_vec(),
            rdns,
        })
    }

    /// All of it in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it has no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rdns.is_empty()
    }

    /// The one spelling of all names that equal it: small letters.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let rdn = |rdn: &Vec<Attribute>| {
            let attributes: Vec<Vec<u8>> = rdn.iter().map(Attribute::encode).collect();
            let parts: Vec<&[u8]> = attributes.iter().map(Vec::as_slice).collect();
            der::element(der::SET, &parts)
        };
        let rdns: Vec<Vec<u8>> = self.rdns.iter().map(rdn).collect();
        let parts: Vec<&[u8]> = rdns.iter().map(Vec::as_slice).collect();
        Self {
            der: der::element(der::SEQUENCE, &parts),
            rdns: self.rdns.clone(),
        }
    }

    /// Reads `C=CH, O="Example, Inc.", CN=moon`; also `/C=CH/CN=moon`.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let rdns: Vec<Vec<u8>> = split(text)?
            .into_iter()
            .map(|Part { oid, value, .. }| {
                let attribute = der::element(
                    der::SEQUENCE,
                    &[&der::element(der::OID, &[&oid]), &encode(&oid, &value)],
                );
                der::element(der::SET, &[&attribute])
            })
            .collect();
        let parts: Vec<&[u8]> = rdns.iter().map(Vec::as_slice).collect();
        Self::from_der(&der::element(der::SEQUENCE, &parts)).ok()
    }

    /// The text of it, if that reads as the same name.
    fn text(&self) -> Option<String> {
        let mut original = Der::only(&self.der, der::SEQUENCE).ok()?;
        let mut parts = Vec::new();
        while !original.is_empty() {
            let mut set = original.enter(der::SET).ok()?;
            let mut attribute = set.enter(der::SEQUENCE).ok()?;
            let oid = attribute.expect(der::OID).ok()?;
            let value = attribute.any().ok()?;
            set.end().ok()?;
            let text = std::str::from_utf8(value.contents).ok()?;
            if text.is_empty() || text.chars().any(char::is_control) {
                return None;
            }
            let kind = TYPES
                .iter()
                .find(|(_, known)| *known == oid)
                .map(|(name, _)| (*name).to_owned())
                .or_else(|| dotted(oid))?;
            let plain = !text.contains([',', '"', '\\', '/', '*', '=', '+']) && text.trim() == text;
            parts.push(if plain {
                format!("{kind}={text}")
            } else {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
                format!("{kind}=\"{escaped}\"")
            });
        }
        let text = parts.join(", ");
        (Self::from_text(&text).as_ref() == Some(self)).then_some(text)
    }
}

impl Attribute {
    fn encode(&self) -> Vec<u8> {
        let value = match &self.value {
            Value::Text(text) => encode(&self.oid, text),
            Value::Other(der) => der.clone(),
        };
        der::element(
            der::SEQUENCE,
            &[&der::element(der::OID, &[&self.oid]), &value],
        )
    }
}

impl Value {
    fn read(element: der::Element<'_>) -> Result<Self, BadDer> {
        Ok(match element.tag {
            UTF8_STRING | PRINTABLE_STRING | IA5_STRING | TELETEX_STRING => {
                match std::str::from_utf8(element.contents) {
                    Ok(text) => Self::text(text),
                    Err(_) if element.tag == TELETEX_STRING => Self::Other(element.whole.to_vec()),
                    Err(_) => return Err(BadDer),
                }
            }
            _ => Self::Other(element.whole.to_vec()),
        })
    }

    fn text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        Self::Text(words.join(" ").to_ascii_lowercase())
    }
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &Self) -> bool {
        self.rdns == other.rdns
    }
}

impl Eq for DistinguishedName {}

impl PartialOrd for DistinguishedName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DistinguishedName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rdns.cmp(&other.rdns)
    }
}

impl Hash for DistinguishedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.rdns.hash(state);
    }
}

impl fmt::Display for DistinguishedName {
    /// Text where that says all there is, else `dn:<hex>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => f.write_str(&text),
            None => write!(f, "dn:{}", super::identity::hex(&self.der)),
        }
    }
}

impl fmt::Debug for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names with the attributes listed, in this order and among others; `*` is any
/// value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnPattern {
    wanted: Vec<(Vec<u8>, Option<Value>)>,
    text: String,
}

impl DnPattern {
    /// Reads `O=Example, CN=*`; `None` for what is no name or has a star within
    /// a value.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let wanted: Option<Vec<_>> = split(text)?
            .into_iter()
            .map(|part| match part.value.as_str() {
                "*" if !part.quoted => Some((part.oid, None)),
                _ if part.has_star() => None,
                value => Some((part.oid, Some(Value::text(value)))),
            })
            .collect();
        Some(Self {
            wanted: wanted?,
            text: text.to_owned(),
        })
    }

    /// Whether `name` is one of them.
    #[must_use]
    pub fn matches(&self, name: &DistinguishedName) -> bool {
        let mut attributes = name.rdns.iter().flatten();
        self.wanted.iter().all(|(oid, value)| {
            attributes.any(|attribute| {
                attribute.oid == *oid
                    && value.as_ref().is_none_or(|value| attribute.value == *value)
            })
        })
    }
}

impl fmt::Display for DnPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `text` is meant to be a distinguished name: it begins with an
/// attribute type and `=`.
pub(super) fn looks_like_dn(text: &str) -> bool {
    text.strip_prefix('/')
        .unwrap_or(text)
        .split_once('=')
        .is_some_and(|(kind, _)| oid_of(kind.trim()).is_some())
}

/// Whether a star stands for something in it: one without quotes around it.
pub(super) fn has_star(text: &str) -> bool {
    split(text).is_some_and(|parts| parts.iter().any(Part::has_star))
}

/// One `type=value` of a text.
struct Part {
    oid: Vec<u8>,
    value: String,
    quoted: bool,
}

impl Part {
    fn has_star(&self) -> bool {
        !self.quoted && self.value.contains('*')
    }
}

/// The attribute types and values of a text.
fn split(text: &str) -> Option<Vec<Part>> {
    let (separator, mut rest) = match text.strip_prefix('/') {
        Some(rest) => ('/', rest),
        None => (',', text),
    };
    let mut out = Vec::new();
    loop {
        let (kind, after) = rest.split_once('=')?;
        let oid = oid_of(kind.trim())?;
        let after = after.trim_start();
        let quoted = after.starts_with('"');
        let (value, after) = value(after, separator)?;
        if value.is_empty() || value.chars().any(char::is_control) {
            return None;
        }
        out.push(Part { oid, value, quoted });
        if out.len() > MAX_ATTRIBUTES {
            return None;
        }
        match after {
            Some(after) => rest = after,
            None => return Some(out),
        }
    }
}

/// One value, and what follows its separator.
fn value(text: &str, separator: char) -> Option<(String, Option<&str>)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Some(match text.split_once(separator) {
            Some((value, rest)) => (value.trim().to_owned(), Some(rest)),
            None => (text.trim().to_owned(), None),
        });
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            '"' => {
                let rest = quoted.get(at + 1..)?.trim_start();
                return match rest.strip_prefix(separator) {
                    Some(rest) => Some((value, Some(rest))),
                    None if rest.is_empty() => Some((value, None)),
                    None => None,
                };
            }
            c => value.push(c),
        }
    }
    None
}

/// The object identifier of an attribute type, by name or as numbers.
fn oid_of(kind: &str) -> Option<Vec<u8>> {
    let known = TYPES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(kind));
    if let Some((_, oid)) = known {
        return Some(oid.to_vec());
    }
    let numbers: Vec<u32> = kind
        .split('.')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    let [first @ 0..=2, second, rest @ ..] = numbers.as_slice() else {
        return None;
    };
    if rest.is_empty() || (*first < 2 && *second > 39) {
        return None;
    }
    let mut out = Vec::new();
    let joined = first.checked_mul(40)?.checked_add(*second)?;
    for number in std::iter::once(&joined).chain(rest) {
        let groups = (1..5).rev().filter(|group| number >> (7 * group) != 0);
        out.extend(groups.map(|group| low_bits(number >> (7 * group)) | 0x80));
        out.push(low_bits(*number));
    }
    Some(out)
}

fn low_bits(number: u32) -> u8 {
    number.to_le_bytes()[0] & 0x7f
}

/// An object identifier as numbers.
fn dotted(oid: &[u8]) -> Option<String> {
    let mut numbers = Vec::new();
    let mut number = 0u32;
    for octet in oid {
        number = number.checked_mul(128)? + u32::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    let (joined, rest) = numbers.split_first()?;
    let first = (joined / 40).min(2);
    let mut out = format!("{first}.{}", joined - first * 40);
    for number in rest {
        out.push_str(&format!(".{number}"));
    }
    Some(out)
}

/// The string type certificates have for it.
fn encode(oid: &[u8], value: &str) -> Vec<u8> {
    let printable = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(
                c,
                ' ' | '\'' | '(' | ')' | '+' | ',' | '-' | '.' | '/' | ':' | '=' | '?'
            )
    };
    let ia5 = |name| TYPES.iter().any(|(known, o)| *known == name && *o == oid);
    let tag = if value.is_ascii() && (ia5("E") || ia5("DC")) {
        IA5_STRING
    } else if value.chars().all(printable) {
        PRINTABLE_STRING
    } else {
        UTF8_STRING
    };
    der::element(tag, &[value.as_bytes()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::ike::testing::{hex, unhex};

    use super::*;

    fn dn(text: &str) -> DistinguishedName {
        DistinguishedName::from_text(text).unwrap()
    }

    /// The second is from `openssl req -subj /C=CH/O=strongSwan/CN=moon`.
    #[test]
    fn a_name_in_text_equals_the_one_openssl_makes() {
        let name = dn("C=CH, O=strongSwan, CN=moon");
        let octets = "3031310b300906035504061302434831133011060355040a130a7374726f6e675377616e\
                      310d300b060355040313046d6f6f6e";
        assert_eq!(hex(name.der()), octets);
        let openssl = "3031310b300906035504061302434831133011060355040a0c0a7374726f6e675377616e\
                       310d300b06035504030c046d6f6f6e";
        let other = DistinguishedName::from_der(&unhex(openssl)).unwrap();
        assert_eq!(name, other, "string types do not matter");
        assert_ne!(name.der(), other.der());
        assert_eq!(other.to_string(), "C=CH, O=strongSwan, CN=moon");
    }

    #[test]
    fn names_print_as_they_are_written() {
        for text in [
            "C=CH, O=strongSwan, CN=moon",
            "DC=org, DC=example, UID=alice",
            "C=DE, O=\"Example, Inc.\", CN=\"a \\\"b\\\"\"",
            "E=alice@example.org",
            "2.5.4.97=VATDE-1",
            "1.2.840.113549.1.9.2=gw.example.org",
            "O=Größe, CN=x",
        ] {
            assert_eq!(dn(text).to_string(), text);
        }
        assert_eq!(dn("/C=CH/CN=moon"), dn("c=ch,cn=MOON"));
        assert_ne!(dn("C=CH, CN=moon"), dn("CN=moon, C=CH"), "order matters");
        assert_ne!(dn("CN=moon"), dn("CN=sun"));
        for bad in [
            "CN",
            "CN=",
            "XY=1",
            "CN=a, ",
            "CN=\"a",
            "CN=\"a\"b",
            "1.2=x",
        ] {
            assert!(DistinguishedName::from_text(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn equal_names_have_one_normalised_spelling() {
        for text in [
            "C=CH, O=Example  Inc, CN=Moon",
            "c=ch, o=\" EXAMPLE Inc \", cn=moon",
        ] {
            let name = dn(text);
            assert_eq!(name.normalised(), name);
            assert_eq!(
                name.normalised().to_string(),
                "C=ch, O=example inc, CN=moon"
            );
        }
    }

    #[test]
    fn what_has_no_text_prints_as_hexadecimal() {
        // Two attributes in one RDN.
        let cn = der::element(der::SEQUENCE, &[&[6, 3, 0x55, 4, 3, 0x0c, 1, b'a']]);
        let ou = der::element(der::SEQUENCE, &[&[6, 3, 0x55, 4, 11, 0x0c, 1, b'b']]);
        let rdn = der::element(der::SET, &[&cn, &ou]);
        let der = der::element(der::SEQUENCE, &[&rdn]);
        let name = DistinguishedName::from_der(&der).unwrap();
        assert!(name.to_string().starts_with("dn:30"), "{name}");
        // A value that is no string.
        let odd = der::element(der::SEQUENCE, &[&[6, 3, 0x55, 4, 3, 2, 1, 5]]);
        let der = der::element(der::SEQUENCE, &[&der::element(der::SET, &[&odd])]);
        let name = DistinguishedName::from_der(&der).unwrap();
        assert!(name.to_string().starts_with("dn:30"), "{name}");
    }

    #[test]
    fn a_pattern_names_attributes_in_order() {
        let matches =
            |pattern: &str, text: &str| DnPattern::from_text(pattern).unwrap().matches(&dn(text));
        assert!(matches("O=Example, CN=*", "C=CH, O=Example, CN=alice"));
        assert!(matches("O=Example", "C=CH, O=example, CN=alice"));
        assert!(!matches("O=Example, CN=*", "C=CH, O=Example"));
        assert!(!matches("O=Example, CN=*", "C=CH, O=Evil, CN=alice"));
        assert!(!matches("O=Example, CN=*", "CN=alice, O=Example"));
        assert!(!matches("O=Example, CN=*", "O=\"Example, CN=alice\""));
        assert!(!matches("OU=a, OU=b", "OU=a"));
        assert!(matches(
            "O=\"Example, Inc.\", CN=*",
            "O=\"Example, Inc.\", CN=a"
        ));
        assert!(DnPattern::from_text("O=Exam*").is_none());
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_as_the_same_name(
            values in prop::collection::vec("[ -~]{1,12}|[a-zäöü\u{301}]{1,5}", 1..5),
        ) {
            let parts: Vec<Vec<u8>> = values.iter().map(|value| {
                let text = der::element(UTF8_STRING, &[value.as_bytes()]);
                let attribute = der::element(der::SEQUENCE, &[&[6, 3, 0x55, 4, 3], &text]);
                der::element(der::SET, &[&attribute])
            }).collect();
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let name = DistinguishedName::from_der(&der::element(der::SEQUENCE, &parts)).unwrap();
            let text = name.to_string();
            if !text.starts_with("dn:") {
                prop_assert_eq!(DistinguishedName::from_text(&text), Some(name));
            }
        }

        #[test]
        fn random_octets_never_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            let _ = DistinguishedName::from_der(&bytes);
            let _ = DistinguishedName::from_text(&text);
        }
    }
}
