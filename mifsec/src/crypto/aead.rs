//! AEAD keys as ESP (RFC 4106, RFC 7634) and the IKE SK payload (RFC 5282) use
//! them: key and 4-octet salt from the keying material, 8-octet explicit IV.

use ring::aead::{self, LessSafeKey, Nonce, Tag, UnboundKey};

use super::CryptoError;

/// Octets of salt after the key in the keying material.
pub const SALT_LEN: usize = 4;
/// Octets of the explicit IV on the wire.
pub const IV_LEN: usize = 8;
/// Octets of the integrity check value.
pub const ICV_LEN: usize = 16;

/// The combined-mode algorithms, same for IKE SAs and ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AeadAlgorithm {
    /// ENCR_AES_GCM_16 with a 128-bit key.
    Aes128Gcm16,
    /// ENCR_AES_GCM_16 with a 256-bit key.
    Aes256Gcm16,
    /// ENCR_CHACHA20_POLY1305.
    ChaCha20Poly1305,
}

impl AeadAlgorithm {
    /// Octets of the cipher key, without salt.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Octets taken from the keying material: key and salt.
    #[must_use]
    pub const fn keymat_len(self) -> usize {
        self.key_len() + SALT_LEN
    }

    fn ring(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm16 => &aead::AES_128_GCM,
            Self::Aes256Gcm16 => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// One direction's key. The caller owns IV uniqueness: a value of `iv` must
/// never seal twice under the same `Aead`.
pub struct Aead {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
    algorithm: AeadAlgorithm,
}

impl Aead {
    /// Builds a key from `key | salt`.
    ///
    /// # Errors
    /// [`CryptoError::KeyLength`] when `keymat` is not `keymat_len()` octets.
    pub fn new(algorithm: AeadAlgorithm, keymat: &[u8]) -> Result<Self, CryptoError> {
        let (key, salt) = keymat
            .split_at_checked(algorithm.key_len())
            .ok_or(CryptoError::KeyLength)?;
        let salt = salt.try_into().map_err(|_| CryptoError::KeyLength)?;
        let key = UnboundKey::new(algorithm.ring(), key).map_err(|_| CryptoError::KeyLength)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            salt,
            algorithm,
        })
    }

    /// Which algorithm this key is for.
    #[must_use]
    pub fn algorithm(&self) -> AeadAlgorithm {
        self.algorithm
    }

    /// Encrypts `data` in place and returns the ICV.
    ///
    /// # Panics
    /// Never for lengths below the algorithms' limits (64 GiB), far above any packet.
    #[must_use]
    pub fn seal(&self, iv: [u8; IV_LEN], aad: &[u8], data: &mut [u8]) -> [u8; ICV_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(iv), aead::Aad::from(aad), data)
            .expect("a packet is far below the AEAD's length limit");
        let mut icv = [0; ICV_LEN];
        icv.copy_from_slice(tag.as_ref());
        icv
    }

    /// Decrypts `data` in place after checking `icv`.
    ///
    /// # Errors
    /// [`CryptoError::Integrity`]; `data` is then to be thrown away.
    pub fn open(
        &self,
        iv: [u8; IV_LEN],
        aad: &[u8],
        data: &mut [u8],
        icv: [u8; ICV_LEN],
    ) -> Result<(), CryptoError> {
        self.key
            .open_in_place_separate_tag(
                self.nonce(iv),
                aead::Aad::from(aad),
                Tag::from(icv),
                data,
                0..,
            )
            .map(|_| ())
            .map_err(|_| CryptoError::Integrity)
    }

    fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let [s0, s1, s2, s3] = self.salt;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
    }
}

impl Drop for Aead {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.salt.zeroize();
    }
}
