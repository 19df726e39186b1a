//! Key derivation and proof of the shared key (RFC 7296 2.13 to 2.17) and the
//! keys of the multiple-interface extension.
//!
//! All algorithms are AEADs, so there is no SK_a and a Child SA's keys are
//! `key | salt` per direction. "Initiator" of Child SA keys is the initiator
//! of the exchange that made them; of the probe keys, of the IKE SA.

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
        let (prf_len, key_len) = (suite.prf.output_len(), suite.aead.keymat_len());
        let stream = suite.prf.prf_plus(
            skeyseed.expose(),
            &[ni, nr, &spi_i.0.to_be_bytes(), &spi_r.0.to_be_bytes()],
            3 * prf_len + 2 * key_len,
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
        Aead::new(self.suite.aead, self.sk_ei.expose())
    }

    /// Key of messages from the original responder.
    ///
    /// # Errors
    /// None for keys that [`derive`](Self::derive) made.
    pub fn aead_r(&self) -> Result<Aead, CryptoError> {
        Aead::new(self.suite.aead, self.sk_er.expose())
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

/// The two directions' `key | salt` of an SA pair.
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

    /// AEAD of the probe SA: the IKE SA's.
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
