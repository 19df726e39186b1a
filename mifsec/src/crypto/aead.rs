//! Authenticated encryption as ESP and the IKE SK payload use it: AEADs (RFC
//! 4106, RFC 7634, RFC 5282), and AES-CBC with an HMAC over its result (RFC
//! 3602, RFC 4868) behind the same two operations.

use std::fmt;

use ring::aead::{self, LessSafeKey, Nonce, Tag, UnboundKey};

use super::CryptoError;
use super::cbc::CbcHmac;

/// Octets of salt after an AEAD's key in the keying material.
const SALT_LEN: usize = 4;
/// Octets of an AEAD's explicit IV on the wire.
const IV_LEN: usize = 8;
/// Octets of an AEAD's integrity check value.
const ICV_LEN: usize = 16;

/// What protects packets, same for IKE SAs and ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AeadAlgorithm {
    /// ENCR_AES_GCM_16 with a 128-bit key.
    Aes128Gcm16,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    Aes256Gcm16,
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
    /// ENCR_AES_CBC and an integrity algorithm of its own, encrypt then MAC.
    AesCbc(AesKey, Integrity),
}

/// Key length of AES-CBC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AesKey {
    /// 128 bits.
    Aes128,
    /// 192 bits.
    Aes192,
    /// 256 bits.
    Aes256,
}

impl AesKey {
    /// Octets of the key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

/// Integrity algorithms of RFC 4868, for ciphers that have none of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Integrity {
    /// AUTH_HMAC_SHA2_256_128.
    HmacSha256_128,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384_192,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512_256,
}

impl Integrity {
    /// Octets of the key: the hash's output (RFC 4868 2.1.1).
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha256_128 => 32,
            Self::HmacSha384_192 => 48,
            Self::HmacSha512_256 => 64,
        }
    }

    /// Octets of the integrity check value: half the output.
    #[must_use]
    pub const fn icv_len(self) -> usize {
        self.key_len() / 2
    }
}

impl AeadAlgorithm {
    /// Octets of the cipher key, without salt: SK_e of an IKE SA is this and
    /// the salt.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => 32,
            Self::AesCbc(key, _) => key.key_len(),
        }
    }

    /// Octets of the integrity key, SK_a of an IKE SA: 0 for an AEAD.
    #[must_use]
    pub const fn integrity_key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => 0,
            Self::AesCbc(_, integrity) => integrity.key_len(),
        }
    }

    /// Octets of the encryption key with its salt, SK_e of an IKE SA.
    #[must_use]
    pub const fn encryption_key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => {
                self.key_len() + SALT_LEN
            }
            Self::AesCbc(key, _) => key.key_len(),
        }
    }

    /// Octets taken from the keying material for one direction: key and salt,
    /// or encryption key and integrity key (RFC 7296 2.17).
    #[must_use]
    pub const fn keymat_len(self) -> usize {
        self.encryption_key_len() + self.integrity_key_len()
    }

    /// Octets of the IV on the wire.
    #[must_use]
    pub const fn iv_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => IV_LEN,
            Self::AesCbc(..) => 16,
        }
    }

    /// Octets of the integrity check value.
    #[must_use]
    pub const fn icv_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => ICV_LEN,
            Self::AesCbc(_, integrity) => integrity.icv_len(),
        }
    }

    /// What the plaintext must be a multiple of, in octets.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => 1,
            Self::AesCbc(..) => 16,
        }
    }

    /// Whether it is an AEAD: negotiated without an integrity transform.
    #[must_use]
    pub const fn is_combined_mode(self) -> bool {
        self.integrity().is_none()
    }

    /// The integrity algorithm beside the cipher, if it needs one.
    #[must_use]
    pub const fn integrity(self) -> Option<Integrity> {
        match self {
            Self::Aes128Gcm16 | Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => None,
            Self::AesCbc(_, integrity) => Some(integrity),
        }
    }
}

/// As strongSwan spells it in proposals: `aes256`.
impl fmt::Display for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128 => "aes128",
            Self::Aes192 => "aes192",
            Self::Aes256 => "aes256",
        })
    }
}

/// As strongSwan spells it in proposals: `sha256`.
impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HmacSha256_128 => "sha256",
            Self::HmacSha384_192 => "sha384",
            Self::HmacSha512_256 => "sha512",
        })
    }
}

/// As strongSwan spells it in proposals: `aes128gcm16`, `aes256-sha256`.
impl fmt::Display for AeadAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm16 => "aes128gcm16",
            Self::Aes256Gcm16 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
            Self::AesCbc(key, integrity) => return write!(f, "{key}-{integrity}"),
        })
    }
}

/// One direction's key. The caller owns uniqueness: a counter must never seal
/// twice under the same `Aead`.
pub struct Aead {
    algorithm: AeadAlgorithm,
    key: Key,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the usual ones are reached without a pointer"
)]
enum Key {
    Combined(Combined),
    Cbc(Box<CbcHmac>),
}

struct Combined {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl Aead {
    /// Builds a key from `key | salt`, or `encryption key | integrity key`.
    ///
    /// # Errors
    /// [`CryptoError::KeyLength`] when `keymat` is not `keymat_len()` octets.
    pub fn new(algorithm: AeadAlgorithm, keymat: &[u8]) -> Result<Self, CryptoError> {
        let (key, rest) = keymat
            .split_at_checked(algorithm.key_len())
            .ok_or(CryptoError::KeyLength)?;
        let combined = |algorithm| {
            Ok(Key::Combined(Combined {
                key: UnboundKey::new(algorithm, key)
                    .map(LessSafeKey::new)
                    .map_err(|_| CryptoError::KeyLength)?,
                salt: rest.try_into().map_err(|_| CryptoError::KeyLength)?,
            }))
        };
        let key = match algorithm {
            AeadAlgorithm::Aes128Gcm16 => combined(&aead::AES_128_GCM)?,
            AeadAlgorithm::Aes256Gcm16 => combined(&aead::AES_256_GCM)?,
            AeadAlgorithm::ChaCha20Poly1305 => combined(&aead::CHACHA20_POLY1305)?,
            AeadAlgorithm::AesCbc(size, integrity) => {
                Key::Cbc(Box::new(CbcHmac::new(size, integrity, key, rest)?))
            }
        };
        Ok(Self { algorithm, key })
    }

    /// Which algorithm this key is for.
    #[must_use]
    pub fn algorithm(&self) -> AeadAlgorithm {
        self.algorithm
    }

    /// Encrypts `data` in place; writes the IV that goes with it and the ICV.
    ///
    /// `counter` must never repeat under this key. The IV is the counter itself
    /// for an AEAD, and an unpredictable function of it for AES-CBC.
    /// `esn` is the high half of an extended sequence number that is
    /// authenticated after the ciphertext but not sent (RFC 4303 2.2.1); with
    /// an AEAD, where it is within `aad`, it is `None`.
    ///
    /// # Panics
    /// When `iv`, `data` or `icv` has not the length that the algorithm asks
    /// for, and for data above the AEADs' limits (64 GiB).
    pub fn seal(
        &self,
        counter: u64,
        aad: &[u8],
        esn: Option<[u8; 4]>,
        iv: &mut [u8],
        data: &mut [u8],
        icv: &mut [u8],
    ) {
        match &self.key {
            Key::Combined(combined) => {
                debug_assert!(esn.is_none(), "an AEAD authenticates it within its AAD");
                let counter = counter.to_be_bytes();
                iv.copy_from_slice(&counter);
                let tag = combined
                    .key
                    .seal_in_place_separate_tag(combined.nonce(counter), aead::Aad::from(aad), data)
                    .expect("a packet is far below the AEAD's length limit");
                icv.copy_from_slice(tag.as_ref());
            }
            Key::Cbc(cbc) => {
                iv.copy_from_slice(&cbc.iv(counter));
                cbc.seal(aad, esn, iv, data, icv);
            }
        }
    }

    /// Decrypts `data` in place after checking `icv`.
    ///
    /// # Errors
    /// [`CryptoError::Integrity`], also for an IV, an ICV or data of a length
    /// that the algorithm does not have; `data` is then to be thrown away.
    pub fn open(
        &self,
        iv: &[u8],
        aad: &[u8],
        esn: Option<[u8; 4]>,
        data: &mut [u8],
        icv: &[u8],
    ) -> Result<(), CryptoError> {
        match &self.key {
            Key::Combined(combined) => {
                debug_assert!(esn.is_none(), "an AEAD authenticates it within its AAD");
                let iv = iv.try_into().map_err(|_| CryptoError::Integrity)?;
                let icv: [u8; ICV_LEN] = icv.try_into().map_err(|_| CryptoError::Integrity)?;
                combined
                    .key
                    .open_in_place_separate_tag(
                        combined.nonce(iv),
                        aead::Aad::from(aad),
                        Tag::from(icv),
                        data,
                        0..,
                    )
                    .map(|_| ())
                    .map_err(|_| CryptoError::Integrity)
            }
            Key::Cbc(cbc) => cbc.open(aad, esn, iv, data, icv),
        }
    }
}

impl Combined {
    fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let [s0, s1, s2, s3] = self.salt;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
    }
}

impl Drop for Combined {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.salt.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [AeadAlgorithm; 5] = [
        AeadAlgorithm::Aes128Gcm16,
        AeadAlgorithm::Aes256Gcm16,
        AeadAlgorithm::ChaCha20Poly1305,
        AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha256_128),
        AeadAlgorithm::AesCbc(AesKey::Aes256, Integrity::HmacSha512_256),
    ];

    #[test]
    fn every_algorithm_opens_what_it_sealed_and_nothing_of_other_lengths() {
        for algorithm in ALL {
            let keymat: Vec<u8> = (0..).take(algorithm.keymat_len()).collect();
            let key = Aead::new(algorithm, &keymat).unwrap();
            let mut iv = vec![0; algorithm.iv_len()];
            let mut icv = vec![0; algorithm.icv_len()];
            let mut data = [9; 48];
            key.seal(5, b"aad", None, &mut iv, &mut data, &mut icv);
            assert_ne!(data, [9; 48]);
            let open = |iv: &[u8], icv: &[u8]| {
                let mut data = data;
                let opened = key.open(iv, b"aad", None, &mut data, icv);
                opened.map(|()| data)
            };
            assert_eq!(open(&iv, &icv), Ok([9; 48]));
            for (iv, icv) in [
                (&iv[1..], &icv[..]),
                (&[], &icv),
                (&iv, &icv[1..]),
                (&iv, &[]),
            ] {
                assert_eq!(open(iv, icv), Err(CryptoError::Integrity), "{algorithm}");
            }
        }
    }

    #[test]
    fn keying_material_of_another_length_is_refused() {
        for algorithm in ALL {
            for len in [algorithm.keymat_len() - 1, algorithm.keymat_len() + 1, 0] {
                let made = Aead::new(algorithm, &vec![0; len]);
                assert_eq!(made.err(), Some(CryptoError::KeyLength), "{algorithm}");
            }
        }
    }
}
