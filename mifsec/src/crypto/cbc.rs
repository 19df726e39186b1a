//! AES-CBC (RFC 3602) with an HMAC over IV and ciphertext (RFC 4868), encrypt
//! then MAC as in ESP (RFC 4303 3.3.2.1) and the SK payload (RFC 7296 3.14).

use aes::cipher::{
    Array, BlockCipherEncrypt as _, BlockModeDecrypt as _, BlockModeEncrypt as _, InnerIvInit as _,
    KeyInit as _, consts::U16,
};
use aes::{Aes128, Aes192, Aes256};
use ring::hmac;

use super::aead::{AesKey, Integrity};
use super::{CryptoError, constant_time_eq};

/// Octets of a block, and so of the IV.
const BLOCK_LEN: usize = 16;

/// One direction's encryption and integrity keys.
pub(super) struct CbcHmac {
    cipher: Cipher,
    /// Makes IVs of counters. A key of its own: under the cipher's, a block of
    /// somebody's plaintext could be made to show a later IV.
    iv_cipher: Aes128,
    mac: hmac::Key,
    icv_len: usize,
}

enum Cipher {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl CbcHmac {
    /// # Errors
    /// [`CryptoError::KeyLength`].
    pub(super) fn new(
        size: AesKey,
        integrity: Integrity,
        key: &[u8],
        mac_key: &[u8],
    ) -> Result<Self, CryptoError> {
        let wrong = |_| CryptoError::KeyLength;
        let cipher = match size {
            AesKey::Aes128 => Cipher::Aes128(Aes128::new_from_slice(key).map_err(wrong)?),
            AesKey::Aes192 => Cipher::Aes192(Aes192::new_from_slice(key).map_err(wrong)?),
            AesKey::Aes256 => Cipher::Aes256(Aes256::new_from_slice(key).map_err(wrong)?),
        };
        if mac_key.len() != integrity.key_len() {
            return Err(CryptoError::KeyLength);
        }
        let hash = match integrity {
            Integrity::HmacSha256_128 => hmac::HMAC_SHA256,
            Integrity::HmacSha384_192 => hmac::HMAC_SHA384,
            Integrity::HmacSha512_256 => hmac::HMAC_SHA512,
        };
        let iv_key = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, key),
            b"mifsec AES-CBC IV v1",
        );
        let iv_key = iv_key.as_ref().get(..16).unwrap_or_default();
        Ok(Self {
            cipher,
            iv_cipher: Aes128::new_from_slice(iv_key).map_err(wrong)?,
            mac: hmac::Key::new(hash, mac_key),
            icv_len: integrity.icv_len(),
        })
    }

    /// An IV that nobody without the key predicts (RFC 3602 2.1, 3), and that
    /// does not repeat while `counter` does not.
    pub(super) fn iv(&self, counter: u64) -> [u8; BLOCK_LEN] {
        let mut block = Array::from(u128::from(counter).to_be_bytes());
        self.iv_cipher.encrypt_block(&mut block);
        block.into()
    }

    /// Encrypts `data` under `iv` and writes the ICV.
    ///
    /// # Panics
    /// On lengths that are not this algorithm's.
    pub(super) fn seal(
        &self,
        aad: &[u8],
        esn: Option<[u8; 4]>,
        iv: &[u8],
        data: &mut [u8],
        icv: &mut [u8],
    ) {
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        assert!(rest.is_empty(), "padded to whole blocks");
        let start = iv.try_into().expect("an IV is a block");
        match &self.cipher {
            Cipher::Aes128(key) => encryptor(key, start).encrypt_blocks(blocks),
            Cipher::Aes192(key) => encryptor(key, start).encrypt_blocks(blocks),
            Cipher::Aes256(key) => encryptor(key, start).encrypt_blocks(blocks),
        }
        let tag = self.mac(aad, esn, iv, data);
        icv.copy_from_slice(&tag.as_ref()[..self.icv_len]);
    }

    /// Decrypts `data` after checking `icv`.
    ///
    /// # Errors
    /// [`CryptoError::Integrity`].
    pub(super) fn open(
        &self,
        aad: &[u8],
        esn: Option<[u8; 4]>,
        iv: &[u8],
        data: &mut [u8],
        icv: &[u8],
    ) -> Result<(), CryptoError> {
        let start: &Block = iv.try_into().map_err(|_| CryptoError::Integrity)?;
        let tag = self.mac(aad, esn, iv, data);
        let expected = tag.as_ref().get(..self.icv_len).unwrap_or_default();
        if !constant_time_eq(expected, icv) {
            return Err(CryptoError::Integrity);
        }
        let (blocks, rest) = Array::slice_as_chunks_mut(data);
        if !rest.is_empty() {
            return Err(CryptoError::Integrity);
        }
        match &self.cipher {
            Cipher::Aes128(key) => decryptor(key, start).decrypt_blocks(blocks),
            Cipher::Aes192(key) => decryptor(key, start).decrypt_blocks(blocks),
            Cipher::Aes256(key) => decryptor(key, start).decrypt_blocks(blocks),
        }
        Ok(())
    }

    fn mac(&self, aad: &[u8], esn: Option<[u8; 4]>, iv: &[u8], data: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(aad);
        context.update(iv);
        context.update(data);
        if let Some(high) = esn {
            context.update(&high);
        }
        context.sign()
    }
}

type Block = Array<u8, U16>;

fn encryptor<'a, C>(key: &'a C, iv: &Block) -> cbc::Encryptor<&'a C>
where
    C: aes::cipher::BlockCipherEncrypt<BlockSize = U16>,
{
    cbc::Encryptor::inner_iv_init(key, iv)
}

fn decryptor<'a, C>(key: &'a C, iv: &Block) -> cbc::Decryptor<&'a C>
where
    C: aes::cipher::BlockCipherDecrypt<BlockSize = U16>,
{
    cbc::Decryptor::inner_iv_init(key, iv)
}
