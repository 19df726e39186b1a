//! Proposals as people write them: strongSwan's spelling.
//!
//! Keywords joined by `-`, several of one kind as alternatives in order of
//! preference: `aes256gcm16-aes128gcm16-prfsha384-ecp384`,
//! `aes256-sha256-modp2048`. An IKE proposal without a PRF gets, with a combined
//! mode, those of the default offer, and otherwise those of its integrity
//! algorithms; an ESP proposal without `esn` or `noesn` accepts both and prefers
//! extended sequence numbers. Two words stand for whole lists of proposals:
//! `default`, and `legacy` for what RFC 8247 and RFC 8221 ask for beside it.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{AeadAlgorithm, AesKey, Integrity, KeGroup, PrfAlgorithm};

use super::{EspProposal, IkeProposal};

/// What is wrong with a proposal string, with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a keyword, or one of an algorithm we do not have.
    #[error(
        "unknown algorithm \"{0}\": use aes128gcm16, aes256gcm16, chacha20poly1305, aes128, \
         aes192, aes256, sha256, sha384, sha512, prfsha256, prfsha384, prfsha512, x25519, \
         ecp256, ecp384, modp2048, esn, noesn; or default or legacy alone"
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
    /// Combined modes and other ciphers in one proposal (RFC 5282 8).
    #[error(
        "\"{combined}\" and \"{other}\" cannot be in one proposal: write two, one with \
         {combined} and no integrity algorithm, one with {other}"
    )]
    Mixed {
        /// A cipher with integrity of its own.
        combined: String,
        /// A cipher without.
        other: String,
    },
    /// A cipher without integrity of its own, and nothing for it.
    #[error("\"{0}\" needs an integrity algorithm: add sha256, as in {0}-sha256")]
    NoIntegrity(String),
    /// An integrity algorithm that nothing here needs.
    #[error(
        "\"{word}\" is an integrity algorithm, and {combined} needs none: leave it out, or write \
         prf{word} if the PRF is meant"
    )]
    NeedlessIntegrity {
        /// The integrity algorithm.
        word: String,
        /// The cipher beside it.
        combined: String,
    },
}

/// A kind of proposal that a config names in a list.
pub trait Named: FromStr<Err = ParseError> + Default {
    /// What `legacy` stands for, best first.
    fn legacy() -> Vec<Self>;

    /// One entry of a list: a proposal, `default` or `legacy`.
    ///
    /// # Errors
    /// [`ParseError`].
    fn entry(text: &str) -> Result<Vec<Self>, ParseError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "default" => Ok(vec![Self::default()]),
            "legacy" => Ok(Self::legacy()),
            _ => Ok(vec![text.parse()?]),
        }
    }
}

const CBC: [AesKey; 2] = [AesKey::Aes256, AesKey::Aes128];
const INTEGRITY: [Integrity; 3] = [
    Integrity::HmacSha256_128,
    Integrity::HmacSha384_192,
    Integrity::HmacSha512_256,
];

impl Named for IkeProposal {
    /// AES-CBC with every method, then the default's ciphers with MODP-2048.
    fn legacy() -> Vec<Self> {
        let prfs = vec![
            PrfAlgorithm::HmacSha256,
            PrfAlgorithm::HmacSha384,
            PrfAlgorithm::HmacSha512,
        ];
        vec![
            Self {
                aeads: combinations(&CBC, &INTEGRITY),
                prfs: prfs.clone(),
                groups: vec![
                    KeGroup::Modp2048,
                    KeGroup::X25519,
                    KeGroup::Ecp256,
                    KeGroup::Ecp384,
                ],
            },
            Self {
                prfs,
                groups: vec![KeGroup::Modp2048],
                ..Self::default()
            },
        ]
    }
}

impl Named for EspProposal {
    fn legacy() -> Vec<Self> {
        vec![Self {
            aeads: combinations(&CBC, &INTEGRITY),
            ..Self::default()
        }]
    }
}

enum Keyword {
    Aead(AeadAlgorithm),
    Cbc(AesKey),
    Integrity(Integrity),
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
            "aes128" | "aes" => Self::Cbc(AesKey::Aes128),
            "aes192" => Self::Cbc(AesKey::Aes192),
            "aes256" => Self::Cbc(AesKey::Aes256),
            "sha256" | "sha2_256" => Self::Integrity(Integrity::HmacSha256_128),
            "sha384" | "sha2_384" => Self::Integrity(Integrity::HmacSha384_192),
            "sha512" | "sha2_512" => Self::Integrity(Integrity::HmacSha512_256),
            "prfsha256" => Self::Prf(PrfAlgorithm::HmacSha256),
            "prfsha384" => Self::Prf(PrfAlgorithm::HmacSha384),
            "prfsha512" => Self::Prf(PrfAlgorithm::HmacSha512),
            "x25519" | "curve25519" => Self::Ke(KeGroup::X25519),
            "ecp256" => Self::Ke(KeGroup::Ecp256),
            "ecp384" => Self::Ke(KeGroup::Ecp384),
            "modp2048" => Self::Ke(KeGroup::Modp2048),
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

fn combinations(keys: &[AesKey], integrity: &[Integrity]) -> Vec<AeadAlgorithm> {
    keys.iter()
        .flat_map(|key| {
            integrity
                .iter()
                .map(|integrity| AeadAlgorithm::AesCbc(*key, *integrity))
        })
        .collect()
}

/// The words of one proposal, by kind.
#[derive(Default)]
struct Words {
    combined: Vec<AeadAlgorithm>,
    cbc: Vec<AesKey>,
    integrity: Vec<Integrity>,
    prfs: Vec<PrfAlgorithm>,
    groups: Vec<KeGroup>,
    esn: Vec<bool>,
}

impl Words {
    fn read(text: &str, proposal: &'static str) -> Result<Self, ParseError> {
        let mut out = Self::default();
        for word in text.trim().split('-') {
            match word.parse()? {
                Keyword::Aead(aead) => push(&mut out.combined, aead),
                Keyword::Cbc(key) => push(&mut out.cbc, key),
                Keyword::Integrity(integrity) => push(&mut out.integrity, integrity),
                Keyword::Prf(prf) if proposal == IKE => push(&mut out.prfs, prf),
                Keyword::Ke(group) => push(&mut out.groups, group),
                Keyword::Esn(on) if proposal == ESP => push(&mut out.esn, on),
                Keyword::Prf(_) | Keyword::Esn(_) => return Err(misplaced(word, proposal)),
            }
        }
        Ok(out)
    }

    fn ciphers(&self) -> Result<Vec<AeadAlgorithm>, ParseError> {
        match (self.combined.first(), self.cbc.first()) {
            (None, None) => Err(ParseError::Missing("cipher")),
            (Some(combined), Some(other)) => Err(ParseError::Mixed {
                combined: combined.to_string(),
                other: other.to_string(),
            }),
            (Some(combined), None) => match self.integrity.first() {
                None => Ok(self.combined.clone()),
                Some(integrity) => Err(ParseError::NeedlessIntegrity {
                    word: integrity.to_string(),
                    combined: combined.to_string(),
                }),
            },
            (None, Some(cbc)) if self.integrity.is_empty() => {
                Err(ParseError::NoIntegrity(cbc.to_string()))
            }
            (None, Some(_)) => Ok(combinations(&self.cbc, &self.integrity)),
        }
    }
}

const IKE: &str = "IKE";
const ESP: &str = "ESP";

impl FromStr for IkeProposal {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let words = Words::read(text, IKE)?;
        let aeads = words.ciphers()?;
        if words.groups.is_empty() {
            return Err(ParseError::Missing("key exchange method"));
        }
        let prfs = if !words.prfs.is_empty() {
            words.prfs
        } else if words.integrity.is_empty() {
            Self::default().prfs
        } else {
            words.integrity.iter().map(|i| prf_of(*i)).collect()
        };
        Ok(Self {
            aeads,
            prfs,
            groups: words.groups,
        })
    }
}

impl FromStr for EspProposal {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let words = Words::read(text, ESP)?;
        Ok(Self {
            aeads: words.ciphers()?,
            esn: if words.esn.is_empty() {
                Self::default().esn
            } else {
                words.esn
            },
            groups: words.groups,
        })
    }
}

/// The PRF of the same hash.
const fn prf_of(integrity: Integrity) -> PrfAlgorithm {
    match integrity {
        Integrity::HmacSha256_128 => PrfAlgorithm::HmacSha256,
        Integrity::HmacSha384_192 => PrfAlgorithm::HmacSha384,
        Integrity::HmacSha512_256 => PrfAlgorithm::HmacSha512,
    }
}

/// Ciphers, then integrity algorithms, each once.
fn cipher_words(ciphers: &[AeadAlgorithm]) -> Vec<String> {
    let mut words = Vec::new();
    for cipher in ciphers {
        match cipher {
            AeadAlgorithm::AesCbc(key, _) => push(&mut words, key.to_string()),
            AeadAlgorithm::Aes128Gcm16
            | AeadAlgorithm::Aes256Gcm16
            | AeadAlgorithm::ChaCha20Poly1305 => push(&mut words, cipher.to_string()),
        }
    }
    for integrity in ciphers.iter().filter_map(|c| c.integrity()) {
        push(&mut words, integrity.to_string());
    }
    words
}

const fn prf_name(prf: PrfAlgorithm) -> &'static str {
    match prf {
        PrfAlgorithm::HmacSha256 => "prfsha256",
        PrfAlgorithm::HmacSha384 => "prfsha384",
        PrfAlgorithm::HmacSha512 => "prfsha512",
    }
}

const fn group_name(group: KeGroup) -> &'static str {
    match group {
        KeGroup::X25519 => "x25519",
        KeGroup::Ecp256 => "ecp256",
        KeGroup::Ecp384 => "ecp384",
        KeGroup::Modp2048 => "modp2048",
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = cipher_words(&self.aeads);
        words.extend(self.prfs.iter().map(|p| prf_name(*p).to_owned()));
        words.extend(self.groups.iter().map(|g| group_name(*g).to_owned()));
        f.write_str(&words.join("-"))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = cipher_words(&self.aeads);
        words.extend(self.groups.iter().map(|g| group_name(*g).to_owned()));
        let esn = |on: &bool| if *on { "esn" } else { "noesn" }.to_owned();
        words.extend(self.esn.iter().map(esn));
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
    fn a_cipher_with_an_integrity_algorithm_is_read() {
        let ike: IkeProposal = "aes256-sha256-modp2048".parse().unwrap();
        assert_eq!(
            ike,
            IkeProposal {
                aeads: vec![AeadAlgorithm::AesCbc(
                    AesKey::Aes256,
                    Integrity::HmacSha256_128
                )],
                prfs: vec![PrfAlgorithm::HmacSha256],
                groups: vec![KeGroup::Modp2048],
            }
        );
        let ike: IkeProposal = "aes128-aes192-sha384-sha512-x25519".parse().unwrap();
        assert_eq!(ike.aeads.len(), 4);
        assert_eq!(
            ike.prfs,
            [PrfAlgorithm::HmacSha384, PrfAlgorithm::HmacSha512]
        );
        let ike: IkeProposal = "aes128-sha512-prfsha256-ecp256".parse().unwrap();
        assert_eq!(ike.prfs, [PrfAlgorithm::HmacSha256]);
        let esp: EspProposal = "aes128-sha256-modp2048".parse().unwrap();
        assert_eq!(esp.groups, [KeGroup::Modp2048]);
        assert_eq!(esp.esn, [true, false]);
        assert_eq!("aes-sha2_256-modp2048-esn-noesn".parse(), Ok(esp));
    }

    #[test]
    fn two_words_stand_for_lists() {
        let default = IkeProposal::default();
        assert_eq!(IkeProposal::entry("default"), Ok(vec![default]));
        let legacy = IkeProposal::entry(" Legacy ").unwrap();
        assert_eq!(legacy, IkeProposal::legacy());
        for must in [
            "aes128-sha256-modp2048",
            "aes256-sha512-modp2048",
            "aes128-sha256-x25519",
            "aes128gcm16-prfsha512-modp2048",
        ] {
            let must: IkeProposal = must.parse().unwrap();
            let within = |ours: &IkeProposal| {
                must.aeads.iter().all(|a| ours.aeads.contains(a))
                    && must.prfs.iter().all(|p| ours.prfs.contains(p))
                    && must.groups.iter().all(|g| ours.groups.contains(g))
            };
            assert!(legacy.iter().any(within), "{must}");
        }
        let esp = EspProposal::entry("legacy").unwrap();
        assert_eq!(
            esp[0].to_string(),
            "aes256-aes128-sha256-sha384-sha512-esn-noesn"
        );
        assert_eq!(
            EspProposal::entry("aes128gcm16").unwrap(),
            ["aes128gcm16".parse().unwrap()]
        );
        assert!(EspProposal::entry("legacy-esn").is_err());
    }

    #[test]
    fn what_is_printed_reads_back() {
        let mut ike = vec![IkeProposal::default()];
        ike.extend(IkeProposal::legacy());
        for ike in ike {
            assert_eq!(ike.to_string().parse(), Ok(ike));
        }
        let mut esp = vec![EspProposal::default()];
        esp.extend(EspProposal::legacy());
        for esp in esp {
            assert_eq!(esp.to_string().parse(), Ok(esp));
        }
    }

    #[test]
    fn mistakes_are_named() {
        let ike = |text: &str| text.parse::<IkeProposal>().unwrap_err();
        let esp = |text: &str| text.parse::<EspProposal>().unwrap_err();
        assert_eq!(ike("3des-x25519"), ParseError::Unknown("3des".to_owned()));
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
        assert_eq!(
            ike("aes256-x25519").to_string(),
            "\"aes256\" needs an integrity algorithm: add sha256, as in aes256-sha256"
        );
        let mixed = esp("aes128gcm16-aes128-sha256").to_string();
        assert!(mixed.contains("write two, one with aes128gcm16"), "{mixed}");
        let needless = ike("aes256gcm16-sha384-ecp384").to_string();
        assert!(needless.contains("prfsha384 if the PRF"), "{needless}");
        assert!(ike("modp1024").to_string().contains("use aes128gcm16"));
    }
}
