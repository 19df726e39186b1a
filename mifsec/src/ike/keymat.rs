//! Key derivation and proof of the shared key (RFC 7296 2.13 to 2.17) and the
//! keys of the multiple-interface extension.
//!
//! With an AEAD there is no SK_a, and a Child SA's keys are `key | salt` per
//! direction; otherwise `encryption key | integrity key`. "Initiator" of Child
//! SA keys is the initiator of the exchange that made them; of the probe keys,
//! of the IKE SA.

#![forbid(unsafe_code)]

use crate::crypto::{Aead, AeadAlgorithm, CryptoError, PrfAlgorithm, Secret, constant_time_eq};
use crate::ids::{IkeSpi, Spi};

use super::proposal::IkeSuite;

/// The keys of one IKE SA.
pub struct IkeKeys {
    /// The algorithms they are for.
    pub suite: IkeSuite,
    /// Root of Child SA keys and of SK_mif.
    pub sk_d: Secret,
    /// Integrity key, initiator to responder; empty with an AEAD.
    pub sk_ai: Secret,
    /// Integrity key, responder to initiator; empty with an AEAD.
    pub sk_ar: Secret,
    /// Encryption key and salt, initiator to responder.
    pub sk_ei: Secret,
    /// Encryption key and salt, responder to initiator.
    pub sk_er: Secret,
    /// Authenticates the initiator's identity.
    pub sk_pi: Secret,
    /// Authenticates the responder's identity.
    pub sk_pr: Secret,
}

impl IkeKeys {
    /// SKEYSEED = prf(Ni | Nr, g^ir) and the keys that follow from it
    /// (RFC 7296 2.14).
    #[must_use]
    pub fn derive(
        suite: IkeSuite,
        shared: &Secret,
        (ni, nr): (&[u8], &[u8]),
        (spi_i, spi_r): (IkeSpi, IkeSpi),
    ) -> Self {
        let nonces = Secret::new([ni, nr].concat());
        let skeyseed = suite.prf.prf(nonces.expose(), &[shared.expose()]);
        Self::expand(suite, &skeyseed, (ni, nr), (spi_i, spi_r))
    }

    /// Keys of the IKE SA that replaces this one: SKEYSEED = prf(SK_d, g^ir | Ni |
    /// Nr) with the PRF of this one, the rest with the new one's (RFC 7296 2.18).
    #[must_use]
    pub fn rekey(
        &self,
        suite: IkeSuite,
        shared: &Secret,
        (ni, nr): (&[u8], &[u8]),
        spis: (IkeSpi, IkeSpi),
    ) -> Self {
        let skeyseed = self
            .suite
            .prf
            .prf(self.sk_d.expose(), &[shared.expose(), ni, nr]);
        Self::expand(suite, &skeyseed, (ni, nr), spis)
    }

    /// { SK_d | SK_ei | SK_er | SK_pi | SK_pr } of a SKEYSEED (RFC 7296 2.14).
    fn expand(
        suite: IkeSuite,
        skeyseed: &Secret,
        (ni, nr): (&[u8], &[u8]),
        (spi_i, spi_r): (IkeSpi, IkeSpi),
    ) -> Self {
        let prf_len = suite.prf.output_len();
        let (key_len, integrity_len) = (
            suite.aead.encryption_key_len(),
            suite.aead.integrity_key_len(),
        );
        let stream = suite.prf.prf_plus(
            skeyseed.expose(),
            &[ni, nr, &spi_i.0.to_be_bytes(), &spi_r.0.to_be_bytes()],
            3 * prf_len + 2 * (key_len + integrity_len),
        );
        let mut rest = stream.expose();
        let mut take = |len: usize| {
            let (head, tail) = rest.split_at(len);
            rest = tail;
            Secret::new(head.to_vec())
        };
        Self {
            suite,
            sk_d: take(prf_len),
            sk_ai: take(integrity_len),
            sk_ar: take(integrity_len),
            sk_ei: take(key_len),
            sk_er: take(key_len),
            sk_pi: take(prf_len),
            sk_pr: take(prf_len),
        }
    }

    /// Key of messages from the original initiator.
    ///
    /// # Errors
    /// None for keys that [`derive`](Self::derive) made.
    pub fn aead_i(&self) -> Result<Aead, CryptoError> {
        self.aead(&self.sk_ei, &self.sk_ai)
    }

    /// Key of messages from the original responder.
    ///
    /// # Errors
    /// None for keys that [`derive`](Self::derive) made.
    pub fn aead_r(&self) -> Result<Aead, CryptoError> {
        self.aead(&self.sk_er, &self.sk_ar)
    }

    fn aead(&self, encryption: &Secret, integrity: &Secret) -> Result<Aead, CryptoError> {
        let keys = Secret::new([encryption.expose(), integrity.expose()].concat());
        Aead::new(self.suite.aead, keys.expose())
    }

    /// KEYMAT of a Child SA (RFC 7296 2.17), with the shared secret of the
    /// exchange's own key exchange if it had one.
    #[must_use]
    pub fn child(
        &self,
        aead: AeadAlgorithm,
        g_ir: Option<&Secret>,
        (ni, nr): (&[u8], &[u8]),
    ) -> PairKeys {
        let g_ir = g_ir.map_or(&[][..], Secret::expose);
        PairKeys::expand(self.suite.prf, &self.sk_d, aead, &[g_ir, ni, nr])
    }

    /// SK_mif = prf(SK_d, "IKEv2-MIF derived SA v1" | SPIi | SPIr | 0x00).
    ///
    /// No `prf+` input under SK_d ends in 0x00, so this is nobody's KEYMAT.
    #[must_use]
    pub fn mif(&self, (spi_i, spi_r): (IkeSpi, IkeSpi)) -> MifKeys {
        MifKeys::derive(self.suite, &self.sk_d, (spi_i, spi_r))
    }
}

/// The two directions' keys of an SA pair: `key | salt` each, or `encryption key
/// | integrity key`.
pub struct PairKeys {
    /// Initiator to responder.
    pub initiator: Secret,
    /// Responder to initiator.
    pub responder: Secret,
}

impl PairKeys {
    fn expand(prf: PrfAlgorithm, key: &Secret, aead: AeadAlgorithm, seed: &[&[u8]]) -> Self {
        let len = aead.keymat_len();
        let stream = prf.prf_plus(key.expose(), seed, 2 * len);
        let (initiator, responder) = stream.expose().split_at(len);
        Self {
            initiator: Secret::new(initiator.to_vec()),
            responder: Secret::new(responder.to_vec()),
        }
    }

    /// (outbound, inbound) for one side.
    #[must_use]
    pub fn split(self, initiator: bool) -> (Secret, Secret) {
        if initiator {
            (self.initiator, self.responder)
        } else {
            (self.responder, self.initiator)
        }
    }
}

/// SK_mif and what hangs off it.
pub struct MifKeys {
    prf: PrfAlgorithm,
    aead: AeadAlgorithm,
    sk_mif: Secret,
}

/// What one derived SA pair's keys are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Derivation {
    /// Operation number of the request.
    pub txn: u32,
    /// Index of the pair within the operation.
    pub index: u16,
    /// The new pair's SPI inbound at the IKE SA's initiator.
    pub spi_init_in: Spi,
    /// The new pair's SPI inbound at the IKE SA's responder.
    pub spi_resp_in: Spi,
}

impl MifKeys {
    fn derive(suite: IkeSuite, sk_d: &Secret, (spi_i, spi_r): (IkeSpi, IkeSpi)) -> Self {
        let (spi_i, spi_r) = (spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes());
        let label: &[u8] = b"IKEv2-MIF derived SA v1";
        let parts = [label, &spi_i, &spi_r, &[0]];
        Self {
            prf: suite.prf,
            aead: suite.aead,
            sk_mif: suite.prf.prf(sk_d.expose(), &parts),
        }
    }

    /// What protects the probe SA: as the IKE SA.
    #[must_use]
    pub fn probe_algorithm(&self) -> AeadAlgorithm {
        self.aead
    }

    /// KEYMAT_probe = prf+(SK_mif, "MIF probe" | SPI_init_in | SPI_resp_in).
    #[must_use]
    pub fn probe(&self, spi_init_in: Spi, spi_resp_in: Spi) -> PairKeys {
        let spis = [spi_init_in.0.to_be_bytes(), spi_resp_in.0.to_be_bytes()];
        let [init, resp] = &spis;
        PairKeys::expand(
            self.prf,
            &self.sk_mif,
            self.aead,
            &[b"MIF probe", init, resp],
        )
    }

    /// KEYMAT_k = prf+(SK_mif, [g^ir] | Ni | Nr | txn | k | SPI_init_in | SPI_resp_in).
    #[must_use]
    pub fn derived(
        &self,
        aead: AeadAlgorithm,
        g_ir: Option<&Secret>,
        (ni, nr): (&[u8], &[u8]),
        pair: Derivation,
    ) -> PairKeys {
        let g_ir = g_ir.map_or(&[][..], Secret::expose);
        let seed: [&[u8]; 7] = [
            g_ir,
            ni,
            nr,
            &pair.txn.to_be_bytes(),
            &pair.index.to_be_bytes(),
            &pair.spi_init_in.0.to_be_bytes(),
            &pair.spi_resp_in.0.to_be_bytes(),
        ];
        PairKeys::expand(self.prf, &self.sk_mif, aead, &seed)
    }
}

/// The octets a peer signs (RFC 7296 2.15): its own first message, the other
/// side's nonce, and prf(SK_p, its ID payload's body).
#[must_use]
pub fn signed_octets(
    prf: PrfAlgorithm,
    first_message: &[u8],
    other_nonce: &[u8],
    sk_p: &Secret,
    id_body: &[u8],
) -> Vec<u8> {
    let maced_id = prf.prf(sk_p.expose(), &[id_body]);
    [first_message, other_nonce, maced_id.expose()].concat()
}

/// AUTH data by shared key: prf(prf(secret, "Key Pad for IKEv2"), signed octets)
/// (RFC 7296 2.15).
#[must_use]
pub fn shared_key_auth(prf: PrfAlgorithm, secret: &Secret, signed_octets: &[u8]) -> Vec<u8> {
    let key = prf.prf(secret.expose(), &[b"Key Pad for IKEv2"]);
    prf.prf(key.expose(), &[signed_octets]).expose().to_vec()
}

/// Whether `received` is the AUTH data of `secret`; takes the same time whatever
/// differs.
#[must_use]
pub fn verify_shared_key(
    prf: PrfAlgorithm,
    secret: &Secret,
    signed_octets: &[u8],
    received: &[u8],
) -> bool {
    constant_time_eq(&shared_key_auth(prf, secret, signed_octets), received)
}

#[cfg(test)]
mod tests {
    use crate::crypto::KeGroup;
    use crate::ike::testing::{hex, unhex};

    use super::*;

    const fn suite(aead: AeadAlgorithm, prf: PrfAlgorithm) -> IkeSuite {
        IkeSuite {
            aead,
            prf,
            ke: KeGroup::X25519,
        }
    }

    fn octets(range: std::ops::RangeInclusive<u8>) -> Vec<u8> {
        range.collect()
    }

    fn spi(digits: &str) -> IkeSpi {
        IkeSpi(u64::from_str_radix(digits, 16).unwrap())
    }

    /// One SA of NIST's samples for the IKEv2 key derivation (SP 800-135):
    /// SKEYSEED and 132 octets of what follows from it.
    fn nist_sample(prf: PrfAlgorithm, [ni, nr, g_ir, spi_i, spi_r]: [&str; 5], dkm: &str) {
        let keys = IkeKeys::derive(
            suite(AeadAlgorithm::Aes128Gcm16, prf),
            &Secret::new(unhex(g_ir)),
            (&unhex(ni), &unhex(nr)),
            (spi(spi_i), spi(spi_r)),
        );
        let all = [
            keys.sk_d.expose(),
            keys.sk_ei.expose(),
            keys.sk_er.expose(),
            keys.sk_pi.expose(),
            keys.sk_pr.expose(),
        ];
        assert_eq!(
            all.map(<[u8]>::len),
            [prf.output_len(), 20, 20, prf.output_len(), prf.output_len()]
        );
        assert_eq!(hex(&all.concat()[..132]), hex(&unhex(dkm)));
    }

    #[test]
    fn ike_sa_keys_match_nist_samples() {
        nist_sample(
            PrfAlgorithm::HmacSha256,
            [
                "3f302be1abcb28e1",
                "8c332ee006064c9b",
                "0f4d257d7a58fc4545c7d7a88119eee5d5c9690c5b4c989171d3abbfd99d1d29",
                "40dac39e1e1a8640",
                "8619a1cf9a6e4c07",
            ],
            "0b137d669b0947d7d026d593f0305ad401ff0c471357d695778a9c7f4b4869ec
             e98aca531188d16041b3bb936d2dbb3b4993a6e768a809160de45d0283f273a6
             cdf6854379e31be72b8d3d1fa990cf9c5b015ca9f918a7df6253c958114a09d4
             e1c19bdcd4db14b29d98db1a74ad405c588662c14a04d0d36aa4ab55e90f8986
             d12d4aad",
        );
        nist_sample(
            PrfAlgorithm::HmacSha384,
            [
                "fd1b572a8e735591",
                "6013b0ef88dacd3d",
                "d3288cd87565101e88fe3bad918f31939d8dd26ff1071f8b2d7f447524e58d7c",
                "2116ad07ce61f749",
                "24880e55f11a65b7",
            ],
            "4f904c2025c90c817ea5ff9b662a6fdb445a73b57cdf09eacd379b95e1f03cac
             b04cd6deeda4f952191dd9bc1f7a9502471a648d74dc06d38112de48a42501f6
             b1a3ad55c2099cd9a648e5f17e5bf3e34bf9b5953decb768a34f875fe2b78dca
             0c2fcca81ec1a412006dfaed38fa06882e61f4c148105fb8e231fdb33c4d484c
             001721d4",
        );
    }

    /// RFC 7296 2.14: SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr.
    #[test]
    fn integrity_keys_come_between_sk_d_and_the_encryption_keys() {
        use crate::crypto::{AesKey, Integrity};
        for (key, integrity, prf) in [
            (
                AesKey::Aes128,
                Integrity::HmacSha256_128,
                PrfAlgorithm::HmacSha256,
            ),
            (
                AesKey::Aes256,
                Integrity::HmacSha384_192,
                PrfAlgorithm::HmacSha256,
            ),
            (
                AesKey::Aes256,
                Integrity::HmacSha512_256,
                PrfAlgorithm::HmacSha512,
            ),
        ] {
            let algorithm = AeadAlgorithm::AesCbc(key, integrity);
            let (ni, nr, shared) = ([1; 32], [2; 32], [3; 256]);
            let keys = IkeKeys::derive(
                suite(algorithm, prf),
                &Secret::new(shared.to_vec()),
                (&ni, &nr),
                (IkeSpi(0x0102), IkeSpi(0x0304)),
            );
            let skeyseed = prf.prf(&[ni, nr].concat(), &[&shared]);
            let seed = [
                &ni[..],
                &nr,
                &0x0102u64.to_be_bytes(),
                &0x0304u64.to_be_bytes(),
            ];
            let stream = prf.prf_plus(skeyseed.expose(), &seed, 1024);
            let mut rest = stream.expose();
            for (field, len) in [
                (&keys.sk_d, prf.output_len()),
                (&keys.sk_ai, integrity.key_len()),
                (&keys.sk_ar, integrity.key_len()),
                (&keys.sk_ei, key.key_len()),
                (&keys.sk_er, key.key_len()),
                (&keys.sk_pi, prf.output_len()),
                (&keys.sk_pr, prf.output_len()),
            ] {
                let (expected, tail) = rest.split_at(len);
                assert_eq!(field.expose(), expected);
                rest = tail;
            }
            // Each direction's two keys go together.
            let sealed = |aead: &Aead| {
                let (mut iv, mut data) = ([0; 16], [0; 16]);
                let mut icv = vec![0; integrity.icv_len()];
                aead.seal(1, b"x", None, &mut iv, &mut data, &mut icv);
                (iv, data, icv)
            };
            let built = |encryption: &Secret, mac: &Secret| {
                let keymat = [encryption.expose(), mac.expose()].concat();
                sealed(&Aead::new(algorithm, &keymat).unwrap())
            };
            assert_eq!(
                sealed(&keys.aead_i().unwrap()),
                built(&keys.sk_ei, &keys.sk_ai)
            );
            assert_eq!(
                sealed(&keys.aead_r().unwrap()),
                built(&keys.sk_er, &keys.sk_ar)
            );

            // RFC 7296 2.17: encryption key, then integrity key, initiator first.
            let child = keys.child(algorithm, None, (&[4; 16], &[5; 16]));
            let stream = prf.prf_plus(keys.sk_d.expose(), &[&[4; 16], &[5; 16]], 192);
            let len = algorithm.keymat_len();
            assert_eq!(len, key.key_len() + integrity.key_len());
            assert_eq!(child.initiator.expose(), &stream.expose()[..len]);
            assert_eq!(child.responder.expose(), &stream.expose()[len..2 * len]);
        }
    }

    /// SKEYSEED comes of the old SK_d with the old PRF, the keys with the new one.
    /// Computed by a program that shares no code with this one, from the NIST
    /// sample's SK_d.
    #[test]
    fn keys_of_a_rekeyed_ike_sa_match_the_golden_value() {
        let old = IkeKeys::derive(
            suite(AeadAlgorithm::Aes128Gcm16, PrfAlgorithm::HmacSha256),
            &Secret::new(unhex(
                "0f4d257d7a58fc4545c7d7a88119eee5d5c9690c5b4c989171d3abbfd99d1d29",
            )),
            (&unhex("3f302be1abcb28e1"), &unhex("8c332ee006064c9b")),
            (spi("40dac39e1e1a8640"), spi("8619a1cf9a6e4c07")),
        );
        let new = old.rekey(
            suite(AeadAlgorithm::Aes256Gcm16, PrfAlgorithm::HmacSha384),
            &Secret::new(octets(0x60..=0x7f)),
            (&octets(0x20..=0x3f), &octets(0x40..=0x5f)),
            (spi("c0c1c2c3c4c5c6c7"), spi("d0d1d2d3d4d5d6d7")),
        );
        assert_eq!(
            hex(&[new.sk_d.expose(), new.sk_ei.expose()].concat()),
            "94ad6b8b6e57e1f1c93ad31405c3d513463540d2944c3b535c8b99072a4ebbac5b19f3be7bc4986f81c65af1a84462bae4cfa2a10dd56f101ed684a38eb2de8a2ff74c74cbf27c97b7e64d92a9fbd40b691522b5"
        );
    }

    /// SK_d 00..1f, SPIs c0..c7 and d0..d7, as in the golden values.
    fn golden_mif() -> MifKeys {
        MifKeys::derive(
            suite(AeadAlgorithm::Aes256Gcm16, PrfAlgorithm::HmacSha256),
            &Secret::new(octets(0x00..=0x1f)),
            (spi("c0c1c2c3c4c5c6c7"), spi("d0d1d2d3d4d5d6d7")),
        )
    }

    #[test]
    fn sk_mif_matches_the_golden_value() {
        assert_eq!(
            hex(golden_mif().sk_mif.expose()),
            "3db215dcf1d189d6108f16d268b80385ed7e22e3d4881aee7d0ad3da35da9884"
        );
    }

    #[test]
    fn derived_keys_match_the_golden_values() {
        let keys = golden_mif().derived(
            AeadAlgorithm::Aes256Gcm16,
            None,
            (&octets(0x20..=0x3f), &octets(0x40..=0x5f)),
            Derivation {
                txn: 1,
                index: 0,
                spi_init_in: Spi(0x1122_3344),
                spi_resp_in: Spi(0x5566_7788),
            },
        );
        assert_eq!(
            hex(keys.initiator.expose()),
            "df6a98143aec576b03569735be54942f0098d8697d95c8f209cd98c5a78c3ed9b16960f9"
        );
        assert_eq!(
            hex(keys.responder.expose()),
            "82322def2129167c53048a23bfcfe94e911d954bf05ad32720feb528fc84c01df7cc2854"
        );
    }

    /// With a key exchange (g^ir 60..7f), as pair 199 of its operation; computed with
    /// Python's `hmac`.
    #[test]
    fn derived_keys_with_a_key_exchange_match_the_golden_values() {
        let keys = golden_mif().derived(
            AeadAlgorithm::Aes128Gcm16,
            Some(&Secret::new(octets(0x60..=0x7f))),
            (&octets(0x20..=0x3f), &octets(0x40..=0x5f)),
            Derivation {
                txn: 0x0102_0304,
                index: 199,
                spi_init_in: Spi(0xdead_beef),
                spi_resp_in: Spi(0xcafe_f00d),
            },
        );
        assert_eq!(
            hex(keys.initiator.expose()),
            "441691a591fdbe6290888f057e8d2aa0190ef0cd"
        );
        assert_eq!(
            hex(keys.responder.expose()),
            "06fc9a9c92339cfb94b3ce23dfa11a105bd84464"
        );
    }

    #[test]
    fn probe_keys_match_the_golden_values() {
        let keys = golden_mif().probe(Spi(0x0a0b_0c0d), Spi(0x0e0f_1011));
        assert_eq!(
            hex(keys.initiator.expose()),
            "f22792f6f65f118f0d839bc6ff330a7d1fe255bc3442e64ce9da601ad9568e5810388e3d"
        );
        assert_eq!(
            hex(keys.responder.expose()),
            "84a74381644d7f8816097179e7803c47663eed5c9e6110e653d0bdc1b154370aa15f2704"
        );
    }

    #[test]
    fn a_different_index_spi_or_nonce_gives_different_derived_keys() {
        let mif = golden_mif();
        let pair = Derivation {
            txn: 1,
            index: 0,
            spi_init_in: Spi(0x1122_3344),
            spi_resp_in: Spi(0x5566_7788),
        };
        let key = |ni: &[u8], pair| {
            let keys = mif.derived(AeadAlgorithm::Aes128Gcm16, None, (ni, &[2; 32]), pair);
            (hex(keys.initiator.expose()), hex(keys.responder.expose()))
        };
        let mut all = vec![
            key(&[1; 32], pair),
            key(&[3; 32], pair),
            key(&[1; 32], Derivation { txn: 2, ..pair }),
            key(&[1; 32], Derivation { index: 1, ..pair }),
            key(
                &[1; 32],
                Derivation {
                    spi_init_in: Spi(256),
                    ..pair
                },
            ),
            key(
                &[1; 32],
                Derivation {
                    spi_resp_in: Spi(256),
                    ..pair
                },
            ),
        ];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|(i, r)| i != r));
    }

    /// prf+ restarts nowhere: a Child SA's stream is T1 | T2 ..., initiator first.
    #[test]
    fn child_keys_are_the_stream_under_sk_d_with_the_shared_secret_first() {
        let prf = PrfAlgorithm::HmacSha256;
        let keys = IkeKeys::derive(
            suite(AeadAlgorithm::Aes256Gcm16, prf),
            &Secret::new(vec![7; 32]),
            (&[1; 32], &[2; 32]),
            (IkeSpi(1), IkeSpi(2)),
        );
        let g_ir = Secret::new(vec![9; 32]);
        let child = keys.child(
            AeadAlgorithm::Aes128Gcm16,
            Some(&g_ir),
            (&[3; 16], &[4; 16]),
        );
        let seed = [vec![9; 32], vec![3; 16], vec![4; 16]].concat();
        let t1 = prf.prf(keys.sk_d.expose(), &[&seed, &[1]]);
        let t2 = prf.prf(keys.sk_d.expose(), &[t1.expose(), &seed, &[2]]);
        let stream = [t1.expose(), t2.expose()].concat();
        assert_eq!(child.initiator.expose(), &stream[..20]);
        assert_eq!(child.responder.expose(), &stream[20..40]);
        let (outbound, inbound) = child.split(false);
        assert_eq!(outbound.expose(), &stream[20..40]);
        assert_eq!(inbound.expose(), &stream[..20]);
    }

    #[test]
    fn shared_key_auth_follows_rfc_7296_2_15() {
        let prf = PrfAlgorithm::HmacSha256;
        let sk_p = Secret::new(vec![5; 32]);
        let octets = signed_octets(prf, b"message", b"nonce", &sk_p, b"id");
        let maced = prf.prf(&[5; 32], &[b"id"]);
        assert_eq!(octets, [b"messagenonce", maced.expose()].concat());
        let secret = Secret::new(b"shared".to_vec());
        let auth = shared_key_auth(prf, &secret, &octets);
        let pad = prf.prf(b"shared", &[b"Key Pad for IKEv2"]);
        assert_eq!(auth, prf.prf(pad.expose(), &[&octets]).expose());
        assert!(verify_shared_key(prf, &secret, &octets, &auth));
    }

    #[test]
    fn auth_data_of_another_secret_or_message_or_length_is_refused() {
        let prf = PrfAlgorithm::HmacSha384;
        let secret = Secret::new(b"right".to_vec());
        let auth = shared_key_auth(prf, &secret, b"octets");
        let wrong = Secret::new(b"wrong".to_vec());
        assert!(!verify_shared_key(prf, &wrong, b"octets", &auth));
        assert!(!verify_shared_key(prf, &secret, b"octetz", &auth));
        assert!(!verify_shared_key(prf, &secret, b"octets", &auth[..47]));
        assert!(!verify_shared_key(prf, &secret, b"octets", &[]));
    }
}
