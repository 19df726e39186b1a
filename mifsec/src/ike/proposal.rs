//! What we offer, and what we choose of an offer (RFC 7296 2.7, 3.3).
//!
//! Policy is a list of proposals in strongSwan's spelling; the responder takes
//! the first of its own that the peer offers in full. A cipher without
//! integrity of its own stands with an integrity transform, and never in one
//! proposal with combined-mode ciphers (RFC 7296 3.3, RFC 5282 8).

#![forbid(unsafe_code)]

mod parse;

pub use parse::{Named, ParseError};

use crate::crypto::{AeadAlgorithm, AesKey, Integrity, KeGroup, PrfAlgorithm};
use crate::ids::Spi;

use super::message::{Proposal, Protocol, Transform, TransformType, encr, esn, integ, prf};

/// The algorithms of an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeSuite {
    /// Protects SK payloads.
    pub aead: AeadAlgorithm,
    /// Derives keys.
    pub prf: PrfAlgorithm,
    /// Key exchange method. If the peer's KE payload is of another one, answer
    /// INVALID_KE_PAYLOAD with this number.
    pub ke: KeGroup,
}

/// The algorithms of a Child SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspSuite {
    /// Protects packets.
    pub aead: AeadAlgorithm,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Key exchange of its own, for forward secrecy.
    pub ke: Option<KeGroup>,
}

/// One IKE proposal: any combination of one of each, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeProposal {
    /// Ciphers, those without integrity of their own in every combination with
    /// an integrity algorithm. Either all are combined modes or none is; of a
    /// mixture only what is like the first is offered.
    pub aeads: Vec<AeadAlgorithm>,
    /// Pseudo-random functions.
    pub prfs: Vec<PrfAlgorithm>,
    /// Key exchange methods; the first goes into the KE payload.
    pub groups: Vec<KeGroup>,
}

/// One ESP proposal: any combination of one of each, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspProposal {
    /// Ciphers, as in [`IkeProposal`].
    pub aeads: Vec<AeadAlgorithm>,
    /// Key exchange methods; empty for none of its own.
    pub groups: Vec<KeGroup>,
    /// Extended sequence numbers: what is acceptable, preferred first.
    pub esn: Vec<bool>,
}

/// A chosen proposal: the suite, and what the answer must repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen<S> {
    /// The algorithms.
    pub suite: S,
    /// Number of the peer's proposal.
    pub number: u8,
    /// The SPI the peer put into it.
    pub spi: Vec<u8>,
}

/// Nothing of ours was offered, or the answer is not of our offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no proposal chosen")]
pub struct NoProposalChosen;

impl IkeProposal {
    /// Whether `suite` is one of its combinations.
    #[must_use]
    pub fn has(&self, suite: &IkeSuite) -> bool {
        self.aeads.contains(&suite.aead)
            && self.prfs.contains(&suite.prf)
            && self.groups.contains(&suite.ke)
    }
}

impl Default for IkeProposal {
    fn default() -> Self {
        Self {
            aeads: vec![
                AeadAlgorithm::Aes256Gcm16,
                AeadAlgorithm::Aes128Gcm16,
                AeadAlgorithm::ChaCha20Poly1305,
            ],
            prfs: vec![PrfAlgorithm::HmacSha256, PrfAlgorithm::HmacSha384],
            groups: vec![KeGroup::X25519, KeGroup::Ecp256, KeGroup::Ecp384],
        }
    }
}

impl Default for EspProposal {
    fn default() -> Self {
        Self {
            aeads: vec![
                AeadAlgorithm::Aes128Gcm16,
                AeadAlgorithm::Aes256Gcm16,
                AeadAlgorithm::ChaCha20Poly1305,
            ],
            groups: Vec::new(),
            esn: vec![true, false],
        }
    }
}

/// The SA payload that offers `proposals` for an IKE SA; `spi` only when
/// rekeying.
#[must_use]
pub fn offer_ike(proposals: &[IkeProposal], spi: &[u8]) -> Vec<Proposal> {
    numbered(proposals.iter().map(|ours| {
        let mut transforms = cipher_transforms(&ours.aeads);
        transforms.extend(ours.prfs.iter().copied().map(prf_transform));
        transforms.extend(ours.groups.iter().copied().map(ke_transform));
        (Protocol::IKE, spi.to_vec(), transforms)
    }))
}

/// The SA payload that offers `proposals` for a Child SA. `with_ke` is false in
/// IKE_AUTH, whose Child SA never has a key exchange of its own (RFC 7296 1.2).
#[must_use]
pub fn offer_esp(proposals: &[EspProposal], spi: Spi, with_ke: bool) -> Vec<Proposal> {
    numbered(proposals.iter().map(|ours| {
        let mut transforms = cipher_transforms(&ours.aeads);
        if with_ke {
            transforms.extend(ours.groups.iter().copied().map(ke_transform));
        }
        transforms.extend(ours.esn.iter().copied().map(esn_transform));
        (Protocol::ESP, spi.0.to_be_bytes().to_vec(), transforms)
    }))
}

/// Chooses from a peer's offer for an IKE SA.
///
/// # Errors
/// [`NoProposalChosen`].
pub fn select_ike(
    ours: &[IkeProposal],
    theirs: &[Proposal],
) -> Result<Chosen<IkeSuite>, NoProposalChosen> {
    for own in ours {
        for offered in theirs {
            if let Some(suite) = match_ike(own, offered) {
                return Ok(Chosen {
                    suite,
                    number: offered.number,
                    spi: offered.spi.clone(),
                });
            }
        }
    }
    Err(NoProposalChosen)
}

/// Chooses from a peer's offer for a Child SA; `with_ke` as in [`offer_esp`].
///
/// # Errors
/// [`NoProposalChosen`].
pub fn select_esp(
    ours: &[EspProposal],
    theirs: &[Proposal],
    with_ke: bool,
) -> Result<Chosen<EspSuite>, NoProposalChosen> {
    for own in ours {
        for offered in theirs {
            if let Some(suite) = match_esp(own, offered, with_ke) {
                return Ok(Chosen {
                    suite,
                    number: offered.number,
                    spi: offered.spi.clone(),
                });
            }
        }
    }
    Err(NoProposalChosen)
}

/// The answer to an IKE offer; `spi` only when rekeying.
#[must_use]
pub fn answer_ike(chosen: &Chosen<IkeSuite>, spi: &[u8]) -> Vec<Proposal> {
    let suite = &chosen.suite;
    let mut transforms = cipher_transforms(&[suite.aead]);
    transforms.extend([prf_transform(suite.prf), ke_transform(suite.ke)]);
    vec![Proposal {
        number: chosen.number,
        protocol: Protocol::IKE,
        spi: spi.to_vec(),
        transforms,
    }]
}

/// The answer to a Child SA offer, with our inbound SPI.
#[must_use]
pub fn answer_esp(chosen: &Chosen<EspSuite>, spi: Spi) -> Vec<Proposal> {
    let suite = &chosen.suite;
    let mut transforms = cipher_transforms(&[suite.aead]);
    transforms.extend(suite.ke.map(ke_transform));
    transforms.push(esn_transform(suite.esn));
    vec![Proposal {
        number: chosen.number,
        protocol: Protocol::ESP,
        spi: spi.0.to_be_bytes().to_vec(),
        transforms,
    }]
}

/// Checks the answer to our own IKE offer: one proposal, one transform of each
/// type, all of them offered (RFC 7296 2.7).
///
/// # Errors
/// [`NoProposalChosen`].
pub fn accept_ike(
    ours: &[IkeProposal],
    answer: &[Proposal],
) -> Result<Chosen<IkeSuite>, NoProposalChosen> {
    let [proposal] = answer else {
        return Err(NoProposalChosen);
    };
    let own = offered_under(ours, proposal)?;
    single_of_each_type(proposal)?;
    select_ike(std::slice::from_ref(own), answer)
}

/// Checks the answer to our own Child SA offer.
///
/// # Errors
/// [`NoProposalChosen`].
pub fn accept_esp(
    ours: &[EspProposal],
    answer: &[Proposal],
    with_ke: bool,
) -> Result<Chosen<EspSuite>, NoProposalChosen> {
    let [proposal] = answer else {
        return Err(NoProposalChosen);
    };
    let own = offered_under(ours, proposal)?;
    single_of_each_type(proposal)?;
    select_esp(std::slice::from_ref(own), answer, with_ke)
}

/// An ESP proposal's SPI: four octets, above the reserved values (RFC 4303 2.1).
#[must_use]
pub fn esp_spi(octets: &[u8]) -> Option<Spi> {
    let spi = u32::from_be_bytes(octets.try_into().ok()?);
    (spi > 255).then_some(Spi(spi))
}

fn numbered(proposals: impl Iterator<Item = (Protocol, Vec<u8>, Vec<Transform>)>) -> Vec<Proposal> {
    (1..=u8::MAX)
        .zip(proposals)
        .map(|(number, (protocol, spi, transforms))| Proposal {
            number,
            protocol,
            spi,
            transforms,
        })
        .collect()
}

fn offered_under<'a, P>(ours: &'a [P], answer: &Proposal) -> Result<&'a P, NoProposalChosen> {
    usize::from(answer.number)
        .checked_sub(1)
        .and_then(|index| ours.get(index))
        .ok_or(NoProposalChosen)
}

fn single_of_each_type(proposal: &Proposal) -> Result<(), NoProposalChosen> {
    let mut kinds: Vec<_> = proposal.transforms.iter().map(|t| t.kind).collect();
    kinds.sort_unstable();
    let repeated = kinds.windows(2).any(|pair| pair.first() == pair.last());
    if repeated {
        Err(NoProposalChosen)
    } else {
        Ok(())
    }
}

fn match_ike(own: &IkeProposal, offered: &Proposal) -> Option<IkeSuite> {
    if offered.protocol != Protocol::IKE || !only(offered, &IKE_TYPES) {
        return None;
    }
    Some(IkeSuite {
        aead: first_cipher(&own.aeads, offered)?,
        prf: first(&own.prfs, offered, prf_transform)?,
        ke: first(&own.groups, offered, ke_transform)?,
    })
}

fn match_esp(own: &EspProposal, offered: &Proposal, with_ke: bool) -> Option<EspSuite> {
    if offered.protocol != Protocol::ESP || !only(offered, &ESP_TYPES) {
        return None;
    }
    esp_spi(&offered.spi)?;
    Some(EspSuite {
        aead: first_cipher(&own.aeads, offered)?,
        esn: first(&own.esn, offered, esn_transform)?,
        ke: match_ke(own, offered, with_ke)?,
    })
}

/// The outer `Option` is agreement, the inner one the method.
fn match_ke(own: &EspProposal, offered: &Proposal, with_ke: bool) -> Option<Option<KeGroup>> {
    let optional = offers(offered, &Transform::new(TransformType::KE, KE_NONE));
    let silent = !offered
        .transforms
        .iter()
        .any(|t| t.kind == TransformType::KE);
    if !with_ke || own.groups.is_empty() {
        // In IKE_AUTH a KE transform is not negotiated, whatever is offered.
        return (silent || optional || !with_ke).then_some(None);
    }
    first(&own.groups, offered, ke_transform).map(Some)
}

const KE_NONE: u16 = 0;
const IKE_TYPES: [TransformType; 4] = [
    TransformType::ENCR,
    TransformType::PRF,
    TransformType::INTEG,
    TransformType::KE,
];
const ESP_TYPES: [TransformType; 4] = [
    TransformType::ENCR,
    TransformType::INTEG,
    TransformType::KE,
    TransformType::ESN,
];

/// A proposal with a type we do not know is passed over (RFC 7296 3.3.6).
fn only(offered: &Proposal, known: &[TransformType]) -> bool {
    offered.transforms.iter().all(|t| known.contains(&t.kind))
}

/// A combined mode is not taken where the peer demands integrity beside it, nor
/// another cipher without (RFC 5282 8).
fn first_cipher(own: &[AeadAlgorithm], offered: &Proposal) -> Option<AeadAlgorithm> {
    let none = Transform::new(TransformType::INTEG, integ::NONE);
    let without = offers(offered, &none)
        || offered
            .transforms
            .iter()
            .all(|t| t.kind != TransformType::INTEG);
    own.iter().copied().find(|cipher| {
        offers(offered, &encr_transform(*cipher))
            && match cipher.integrity() {
                None => without,
                Some(integrity) => offers(offered, &integ_transform(integrity)),
            }
    })
}

fn first<A: Copy>(own: &[A], offered: &Proposal, transform: fn(A) -> Transform) -> Option<A> {
    own.iter()
        .copied()
        .find(|algorithm| offers(offered, &transform(*algorithm)))
}

/// Unknown attributes make a transform unequal to any of ours.
fn offers(offered: &Proposal, transform: &Transform) -> bool {
    offered.transforms.contains(transform)
}

/// Encryption and integrity transforms of `ciphers`, each once.
fn cipher_transforms(ciphers: &[AeadAlgorithm]) -> Vec<Transform> {
    let combined = ciphers.first().is_none_or(|c| c.is_combined_mode());
    let alike = || {
        let alike = move |c: &&AeadAlgorithm| c.is_combined_mode() == combined;
        ciphers.iter().filter(alike)
    };
    let mut transforms = Vec::new();
    let encryption = alike().map(|c| encr_transform(*c));
    let integrity = alike().filter_map(|c| c.integrity()).map(integ_transform);
    for transform in encryption.chain(integrity) {
        if !transforms.contains(&transform) {
            transforms.push(transform);
        }
    }
    transforms
}

fn encr_transform(aead: AeadAlgorithm) -> Transform {
    let kind = TransformType::ENCR;
    match aead {
        AeadAlgorithm::Aes128Gcm16 => Transform::with_key(kind, encr::AES_GCM_16, 128),
        AeadAlgorithm::Aes256Gcm16 => Transform::with_key(kind, encr::AES_GCM_16, 256),
        // No key length attribute: RFC 7634 3.
        AeadAlgorithm::ChaCha20Poly1305 => Transform::new(kind, encr::CHACHA20_POLY1305),
        AeadAlgorithm::AesCbc(key, _) => {
            let bits = match key {
                AesKey::Aes128 => 128,
                AesKey::Aes192 => 192,
                AesKey::Aes256 => 256,
            };
            Transform::with_key(kind, encr::AES_CBC, bits)
        }
    }
}

fn integ_transform(integrity: Integrity) -> Transform {
    let id = match integrity {
        Integrity::HmacSha256_128 => integ::HMAC_SHA2_256_128,
        Integrity::HmacSha384_192 => integ::HMAC_SHA2_384_192,
        Integrity::HmacSha512_256 => integ::HMAC_SHA2_512_256,
    };
    Transform::new(TransformType::INTEG, id)
}

fn prf_transform(algorithm: PrfAlgorithm) -> Transform {
    let id = match algorithm {
        PrfAlgorithm::HmacSha256 => prf::HMAC_SHA2_256,
        PrfAlgorithm::HmacSha384 => prf::HMAC_SHA2_384,
        PrfAlgorithm::HmacSha512 => prf::HMAC_SHA2_512,
    };
    Transform::new(TransformType::PRF, id)
}

fn ke_transform(group: KeGroup) -> Transform {
    Transform::new(TransformType::KE, group.number())
}

fn esn_transform(on: bool) -> Transform {
    let id = if on { esn::ESN } else { esn::NONE };
    Transform::new(TransformType::ESN, id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Integrity;

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    fn esp(text: &str) -> EspProposal {
        text.parse().unwrap()
    }

    const SPI: Spi = Spi(0x0102_0304);

    #[test]
    fn the_default_offers_are_agreed_on_at_their_best() {
        let ours = [IkeProposal::default()];
        let offer = offer_ike(&ours, &[]);
        let chosen = select_ike(&ours, &offer).unwrap();
        assert_eq!(
            chosen.suite,
            IkeSuite {
                aead: AeadAlgorithm::Aes256Gcm16,
                prf: PrfAlgorithm::HmacSha256,
                ke: KeGroup::X25519,
            }
        );
        let answer = answer_ike(&chosen, &[]);
        assert_eq!(accept_ike(&ours, &answer).unwrap().suite, chosen.suite);

        let ours = [EspProposal::default()];
        let chosen = select_esp(&ours, &offer_esp(&ours, SPI, false), false).unwrap();
        assert_eq!(
            chosen.suite,
            EspSuite {
                aead: AeadAlgorithm::Aes128Gcm16,
                esn: true,
                ke: None,
            }
        );
        assert_eq!(esp_spi(&chosen.spi), Some(SPI));
        let answer = answer_esp(&chosen, Spi(300));
        let accepted = accept_esp(&ours, &answer, false).unwrap();
        assert_eq!(accepted.suite, chosen.suite);
        assert_eq!(esp_spi(&accepted.spi), Some(Spi(300)));
    }

    #[test]
    fn the_responders_order_decides() {
        let initiator = [
            ike("aes128gcm16-prfsha256-ecp256-x25519"),
            ike("chacha20poly1305-x25519"),
        ];
        let responder = [
            ike("chacha20poly1305-x25519"),
            ike("aes128gcm16-x25519-ecp256"),
        ];
        let chosen = select_ike(&responder, &offer_ike(&initiator, &[])).unwrap();
        assert_eq!(chosen.number, 2);
        assert_eq!(chosen.suite.aead, AeadAlgorithm::ChaCha20Poly1305);
        // The peer's KE payload would be of ecp256: the suite says what to ask for.
        let chosen = select_ike(&responder[1..], &offer_ike(&initiator[..1], &[])).unwrap();
        assert_eq!(chosen.suite.ke, KeGroup::X25519);
    }

    #[test]
    fn nothing_in_common_is_no_proposal_chosen() {
        let offer = offer_ike(&[ike("aes128gcm16-prfsha256-ecp256")], &[]);
        for other in [
            "aes256gcm16-prfsha256-ecp256",
            "aes128gcm16-prfsha384-ecp256",
            "aes128gcm16-x25519",
        ] {
            assert_eq!(
                select_ike(&[ike(other)], &offer),
                Err(NoProposalChosen),
                "{other}"
            );
        }
        let offer = offer_esp(&[esp("aes128gcm16-noesn")], SPI, false);
        assert_eq!(
            select_esp(&[esp("aes128gcm16-esn")], &offer, false),
            Err(NoProposalChosen)
        );
        assert!(select_esp(&[esp("aes128gcm16")], &offer, false).is_ok());
    }

    #[test]
    fn algorithms_of_two_proposals_are_not_mixed() {
        let offer = offer_ike(
            &[
                ike("aes128gcm16-prfsha256-ecp256"),
                ike("aes256gcm16-prfsha384-ecp384"),
            ],
            &[],
        );
        let mixed = [ike("aes256gcm16-prfsha256-ecp256")];
        assert_eq!(select_ike(&mixed, &offer), Err(NoProposalChosen));
    }

    #[test]
    fn unknown_transforms_do_not_spoil_a_proposal_but_unknown_types_do() {
        let ours = [IkeProposal::default()];
        let mut offer = offer_ike(&ours, &[]);
        offer[0]
            .transforms
            .insert(0, Transform::new(TransformType::ENCR, 9999));
        assert!(select_ike(&ours, &offer).is_ok());
        offer[0]
            .transforms
            .push(Transform::new(TransformType(6), 36));
        assert_eq!(select_ike(&ours, &offer), Err(NoProposalChosen));
    }

    #[test]
    fn integrity_beside_a_combined_mode_is_refused_unless_none_is_offered() {
        let ours = [IkeProposal::default()];
        let mut offer = offer_ike(&ours, &[]);
        offer[0]
            .transforms
            .push(Transform::new(TransformType::INTEG, 12));
        assert_eq!(select_ike(&ours, &offer), Err(NoProposalChosen));
        offer[0]
            .transforms
            .push(Transform::new(TransformType::INTEG, 0));
        assert!(select_ike(&ours, &offer).is_ok());
    }

    #[test]
    fn a_cipher_without_integrity_of_its_own_is_negotiated_with_an_integrity_transform() {
        let ours = [ike("aes256-aes128-sha256-sha512-modp2048")];
        let offer = offer_ike(&ours, &[]);
        assert_eq!(
            offer[0].transforms,
            [
                Transform::with_key(TransformType::ENCR, 12, 256),
                Transform::with_key(TransformType::ENCR, 12, 128),
                Transform::new(TransformType::INTEG, 12),
                Transform::new(TransformType::INTEG, 14),
                Transform::new(TransformType::PRF, 5),
                Transform::new(TransformType::PRF, 7),
                Transform::new(TransformType::KE, 14),
            ]
        );
        let theirs = [ike("aes128-sha512-prfsha256-modp2048")];
        let chosen = select_ike(&theirs, &offer).unwrap();
        assert_eq!(
            chosen.suite,
            IkeSuite {
                aead: AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha512_256),
                prf: PrfAlgorithm::HmacSha256,
                ke: KeGroup::Modp2048,
            }
        );
        let answer = answer_ike(&chosen, &[]);
        assert_eq!(answer[0].transforms.len(), 4);
        assert_eq!(accept_ike(&ours, &answer).unwrap().suite, chosen.suite);

        let ours = [esp("aes128-aes192-sha384")];
        let chosen = select_esp(&ours, &offer_esp(&ours, SPI, false), false).unwrap();
        let aead = AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha384_192);
        assert_eq!(chosen.suite.aead, aead);
        let answer = answer_esp(&chosen, Spi(300));
        let kinds: Vec<_> = answer[0].transforms.iter().map(|t| t.kind).collect();
        assert_eq!(
            kinds,
            [
                TransformType::ENCR,
                TransformType::INTEG,
                TransformType::ESN
            ]
        );
        assert!(accept_esp(&ours, &answer, false).is_ok());
    }

    #[test]
    fn an_answer_without_integrity_or_with_another_is_refused() {
        let ours = [esp("aes128-sha256")];
        let offer = offer_esp(&ours, SPI, false);
        let answer = answer_esp(&select_esp(&ours, &offer, false).unwrap(), SPI);
        let with = |change: fn(&mut Vec<Transform>)| {
            let mut answer = answer.clone();
            change(&mut answer[0].transforms);
            accept_esp(&ours, &answer, false)
        };
        assert!(with(|_| {}).is_ok());
        let integ = |id| Transform::new(TransformType::INTEG, id);
        assert_eq!(integ(12), answer[0].transforms[1]);
        let missing = with(|all| all.retain(|t| t.kind != TransformType::INTEG));
        assert_eq!(missing, Err(NoProposalChosen));
        for other in [0, 2, 14] {
            let mut answer = answer.clone();
            answer[0].transforms[1] = integ(other);
            let accepted = accept_esp(&ours, &answer, false);
            assert_eq!(accepted, Err(NoProposalChosen), "integrity {other}");
        }
        let twice = with(|all| all.push(Transform::new(TransformType::INTEG, 0)));
        assert_eq!(twice, Err(NoProposalChosen));
    }

    #[test]
    fn combined_modes_and_others_are_never_in_one_proposal() {
        let combined = |t: &Transform| t.id != encr::AES_CBC;
        for legacy in [
            offer_ike(&IkeProposal::legacy(), &[]),
            offer_esp(&EspProposal::legacy(), SPI, true),
            // What no text makes.
            offer_esp(
                &[EspProposal {
                    aeads: [
                        EspProposal::default().aeads,
                        EspProposal::legacy()[0].aeads.clone(),
                    ]
                    .concat(),
                    ..EspProposal::default()
                }],
                SPI,
                false,
            ),
        ] {
            for proposal in &legacy {
                let of = |kind| proposal.transforms.iter().filter(move |t| t.kind == kind);
                let all = of(TransformType::ENCR).all(combined);
                let any = of(TransformType::ENCR).any(combined);
                assert_eq!(all, any, "{proposal:?}");
                assert_eq!(of(TransformType::INTEG).count() == 0, all, "{proposal:?}");
            }
        }
    }

    #[test]
    fn what_the_default_offer_lacks_is_chosen_only_where_it_is_configured() {
        let default = [IkeProposal::default()];
        let both = [default.to_vec(), IkeProposal::legacy()].concat();
        let peer = [ike("aes128-sha256-modp2048")];
        let offer = offer_ike(&peer, &[]);
        assert_eq!(select_ike(&default, &offer), Err(NoProposalChosen));
        assert!(select_ike(&both, &offer).is_ok());
        assert!(select_ike(&peer, &offer_ike(&both, &[])).is_ok());
        // Between two who have both, the default offer wins.
        let chosen = select_ike(&both, &offer_ike(&both, &[])).unwrap();
        assert_eq!(chosen.suite.aead, AeadAlgorithm::Aes256Gcm16);
        assert_eq!(chosen.suite.ke, KeGroup::X25519);

        let default = [EspProposal::default()];
        let both = [default.to_vec(), EspProposal::legacy()].concat();
        let offer = offer_esp(&[esp("aes128-sha256")], SPI, false);
        assert_eq!(select_esp(&default, &offer, false), Err(NoProposalChosen));
        assert!(select_esp(&both, &offer, false).is_ok());
    }

    #[test]
    fn a_cipher_with_a_missing_or_wrong_key_length_is_not_ours() {
        let ours = [esp("aes256gcm16")];
        for bits in [None, Some(128), Some(192)] {
            let mut offer = offer_esp(&ours, SPI, false);
            offer[0].transforms[0].key_bits = bits;
            assert_eq!(select_esp(&ours, &offer, false), Err(NoProposalChosen));
        }
    }

    #[test]
    fn an_esp_proposal_needs_a_usable_spi() {
        let ours = [EspProposal::default()];
        for spi in [&[][..], &[0, 0, 0, 255], &[1, 2, 3], &[0; 8]] {
            let mut offer = offer_esp(&ours, SPI, false);
            offer[0].spi = spi.to_vec();
            assert_eq!(select_esp(&ours, &offer, false), Err(NoProposalChosen));
        }
    }

    #[test]
    fn forward_secrecy_is_never_negotiated_in_ike_auth_and_then_demanded() {
        let ours = [esp("aes128gcm16-x25519")];
        let first = offer_esp(&ours, SPI, false);
        assert!(
            first[0]
                .transforms
                .iter()
                .all(|t| t.kind != TransformType::KE)
        );
        assert_eq!(select_esp(&ours, &first, false).unwrap().suite.ke, None);
        assert_eq!(select_esp(&ours, &first, true), Err(NoProposalChosen));
        let later = offer_esp(&ours, SPI, true);
        let chosen = select_esp(&ours, &later, true).unwrap();
        assert_eq!(chosen.suite.ke, Some(KeGroup::X25519));
        let answer = answer_esp(&chosen, SPI);
        assert_eq!(
            accept_esp(&ours, &answer, true).unwrap().suite,
            chosen.suite
        );
        // One who has no method of its own takes "none" if that is offered.
        let none = [esp("aes128gcm16")];
        assert_eq!(select_esp(&none, &later, true), Err(NoProposalChosen));
        let mut optional = later;
        optional[0]
            .transforms
            .push(Transform::new(TransformType::KE, 0));
        assert_eq!(select_esp(&none, &optional, true).unwrap().suite.ke, None);
    }

    #[test]
    fn an_answer_that_is_not_one_of_our_offers_is_refused() {
        let ours = [
            ike("aes128gcm16-prfsha256-x25519"),
            ike("aes256gcm16-prfsha256-x25519"),
        ];
        let chosen = select_ike(&ours, &offer_ike(&ours, &[])).unwrap();
        let answer = answer_ike(&chosen, &[]);
        let accept = |answer: &[Proposal]| accept_ike(&ours, answer);
        assert!(accept(&answer).is_ok());
        assert_eq!(accept(&[]), Err(NoProposalChosen));
        assert_eq!(
            accept(&[answer[0].clone(), answer[0].clone()]),
            Err(NoProposalChosen)
        );
        for number in [0, 2, 3] {
            let mut other = answer.clone();
            other[0].number = number;
            assert_eq!(accept(&other), Err(NoProposalChosen), "proposal {number}");
        }
        let mut twice = answer.clone();
        twice[0]
            .transforms
            .push(Transform::new(TransformType::PRF, prf::HMAC_SHA2_256));
        assert_eq!(accept(&twice), Err(NoProposalChosen));
        let mut missing = answer;
        missing[0].transforms.pop();
        assert_eq!(accept(&missing), Err(NoProposalChosen));
    }

    #[test]
    fn a_rekeying_ike_offer_carries_its_spi() {
        let ours = [IkeProposal::default()];
        let offer = offer_ike(&ours, &[1; 8]);
        assert_eq!(select_ike(&ours, &offer).unwrap().spi, [1; 8]);
    }
}
