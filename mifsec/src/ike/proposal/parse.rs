//! Proposals as people write them: strongSwan's spelling.
//!
//! Keywords joined by `-`, several of one kind as alternatives in order of
//! preference: `aes256gcm16-aes128gcm16-prfsha384-ecp384`. An IKE proposal
//! without a PRF gets both; an ESP proposal without `esn` or `noesn` accepts
//! both and prefers extended sequence numbers.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{AeadAlgorithm, KeGroup, PrfAlgorithm};

use super::{EspProposal, IkeProposal};

/// What is wrong with a proposal string, with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a keyword, or one of an algorithm we do not have.
    #[error(
        "unknown algorithm \"{0}\": use aes128gcm16, aes256gcm16, chacha20poly1305, prfsha256, \
         prfsha384, x25519, ecp256, ecp384, esn, noesn"
    )]
    Unknown(String),
    /// Belongs to the other kind of proposal.
    #[error("\"{keyword}\" has no place in an {proposal} proposal")]
    Misplaced {
        /// The keyword.
        keyword: String,
        /// IKE or ESP.
        proposal: &'static str,
    },
    /// A kind is missing.
    #[error("proposal names no {0}")]
    Missing(&'static str),
}

enum Keyword {
    Aead(AeadAlgorithm),
    Prf(PrfAlgorithm),
    Ke(KeGroup),
    Esn(bool),
}

impl FromStr for Keyword {
    type Err = ParseError;

    fn from_str(word: &str) -> Result<Self, ParseError> {
        Ok(match word.to_ascii_lowercase().as_str() {
            "aes128gcm16" | "aes128gcm128" | "aes128gcm" => Self::Aead(AeadAlgorithm::Aes128Gcm16),
            "aes256gcm16" | "aes256gcm128" | "aes256gcm" => Self::Aead(AeadAlgorithm::Aes256Gcm16),
            "chacha20poly1305" => Self::Aead(AeadAlgorithm::ChaCha20Poly1305),
            "prfsha256" => Self::Prf(PrfAlgorithm::HmacSha256),
            "prfsha384" => Self::Prf(PrfAlgorithm::HmacSha384),
            "x25519" | "curve25519" => Self::Ke(KeGroup::X25519),
            "ecp256" => Self::Ke(KeGroup::Ecp256),
            "ecp384" => Self::Ke(KeGroup::Ecp384),
            "esn" => Self::Esn(true),
            "noesn" => Self::Esn(false),
            _ => return Err(ParseError::Unknown(word.to_owned())),
        })
    }
}

fn misplaced(word: &str, proposal: &'static str) -> ParseError {
    ParseError::Misplaced {
        keyword: word.to_owned(),
        proposal,
    }
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

impl FromStr for IkeProposal {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut out = Self {
            aeads: Vec::new(),
            prfs: Vec::new(),
            groups: Vec::new(),
        };
        for word in text.trim().split('-') {
            match word.parse()? {
                Keyword::Aead(aead) => push(&mut out.aeads, aead),
                Keyword::Prf(prf) => push(&mut out.prfs, prf),
                Keyword::Ke(group) => push(&mut out.groups, group),
                Keyword::Esn(_) => return Err(misplaced(word, "IKE")),
            }
        }
        if out.aeads.is_empty() {
            return Err(ParseError::Missing("cipher"));
        }
        if out.groups.is_empty() {
            return Err(ParseError::Missing("key exchange method"));
        }
        if out.prfs.is_empty() {
            out.prfs = Self::default().prfs;
        }
        Ok(out)
    }
}

impl FromStr for EspProposal {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut out = Self {
            aeads: Vec::new(),
            groups: Vec::new(),
            esn: Vec::new(),
        };
        for word in text.trim().split('-') {
            match word.parse()? {
                Keyword::Aead(aead) => push(&mut out.aeads, aead),
                Keyword::Prf(_) => return Err(misplaced(word, "ESP")),
                Keyword::Ke(group) => push(&mut out.groups, group),
                Keyword::Esn(on) => push(&mut out.esn, on),
            }
        }
        if out.aeads.is_empty() {
            return Err(ParseError::Missing("cipher"));
        }
        if out.esn.is_empty() {
            out.esn = Self::default().esn;
        }
        Ok(out)
    }
}

const fn aead_name(aead: AeadAlgorithm) -> &'static str {
    match aead {
        AeadAlgorithm::Aes128Gcm16 => "aes128gcm16",
        AeadAlgorithm::Aes256Gcm16 => "aes256gcm16",
        AeadAlgorithm::ChaCha20Poly1305 => "chacha20poly1305",
    }
}

const fn prf_name(prf: PrfAlgorithm) -> &'static str {
    match prf {
        PrfAlgorithm::HmacSha256 => "prfsha256",
        PrfAlgorithm::HmacSha384 => "prfsha384",
    }
}

const fn group_name(group: KeGroup) -> &'static str {
    match group {
        KeGroup::X25519 => "x25519",
        KeGroup::Ecp256 => "ecp256",
        KeGroup::Ecp384 => "ecp384",
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<_> = self.aeads.iter().map(|a| aead_name(*a)).collect();
        words.extend(self.prfs.iter().map(|p| prf_name(*p)));
        words.extend(self.groups.iter().map(|g| group_name(*g)));
        f.write_str(&words.join("-"))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<_> = self.aeads.iter().map(|a| aead_name(*a)).collect();
        words.extend(self.groups.iter().map(|g| group_name(*g)));
        words.extend(self.esn.iter().map(|on| if *on { "esn" } else { "noesn" }));
        f.write_str(&words.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongswan_spelling_is_read() {
        let ike: IkeProposal = "aes256gcm16-prfsha384-ecp384".parse().unwrap();
        assert_eq!(
            ike,
            IkeProposal {
                aeads: vec![AeadAlgorithm::Aes256Gcm16],
                prfs: vec![PrfAlgorithm::HmacSha384],
                groups: vec![KeGroup::Ecp384],
            }
        );
        let ike: IkeProposal = "aes128gcm16-x25519".parse().unwrap();
        assert_eq!(ike.prfs, IkeProposal::default().prfs);
        let esp: EspProposal = "chacha20poly1305-aes128gcm16-ecp256-esn".parse().unwrap();
        assert_eq!(
            esp,
            EspProposal {
                aeads: vec![AeadAlgorithm::ChaCha20Poly1305, AeadAlgorithm::Aes128Gcm16],
                groups: vec![KeGroup::Ecp256],
                esn: vec![true],
            }
        );
        let esp: EspProposal = "aes128gcm16".parse().unwrap();
        assert_eq!(esp.esn, [true, false]);
    }

    #[test]
    fn what_is_printed_reads_back() {
        let ike = IkeProposal::default();
        assert_eq!(ike.to_string().parse(), Ok(ike));
        let esp = EspProposal::default();
        assert_eq!(esp.to_string().parse(), Ok(esp));
    }

    #[test]
    fn mistakes_are_named() {
        let ike = |text: &str| text.parse::<IkeProposal>().unwrap_err();
        let esp = |text: &str| text.parse::<EspProposal>().unwrap_err();
        assert_eq!(
            ike("aes128-x25519"),
            ParseError::Unknown("aes128".to_owned())
        );
        assert_eq!(ike(""), ParseError::Unknown(String::new()));
        assert_eq!(
            ike("aes128gcm16"),
            ParseError::Missing("key exchange method")
        );
        assert_eq!(ike("x25519"), ParseError::Missing("cipher"));
        assert_eq!(esp("esn"), ParseError::Missing("cipher"));
        assert!(matches!(
            ike("aes128gcm16-x25519-esn"),
            ParseError::Misplaced { .. }
        ));
        assert!(matches!(
            esp("aes128gcm16-prfsha256"),
            ParseError::Misplaced { .. }
        ));
        assert!(ike("modp2048").to_string().contains("use aes128gcm16"));
    }
}
