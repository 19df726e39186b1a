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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{hex, unhex};

    const SHA2: [Integrity; 3] = [
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ];

    fn known(size: AesKey, [key, iv, plain, cipher]: [&str; 4]) {
        let integrity = Integrity::HmacSha256_128;
        let sa = CbcHmac::new(size, integrity, &unhex(key), &[1; 32]).unwrap();
        let (iv, mut data, mut icv) = (unhex(iv), unhex(plain), [0; 16]);
        sa.seal(b"front", None, &iv, &mut data, &mut icv);
        assert_eq!(hex(&data), hex(&unhex(cipher)));
        assert!(sa.open(b"front", None, &iv, &mut data, &icv).is_ok());
        assert_eq!(hex(&data), hex(&unhex(plain)));
    }

    #[test]
    fn aes_cbc_matches_rfc_3602() {
        for vector in [
            [
                "06a9214036b8a15b512e03d534120006",
                "3dafba429d9eb430b422da802c9fac41",
                "53696e676c6520626c6f636b206d7367",
                "e353779c1079aeb82708942dbe77181a",
            ],
            [
                "c286696d887c9aa0611bbb3e2025a45a",
                "562e17996d093d28ddb3ba695a2e6f58",
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
            ],
            [
                "6c3ea0477630ce21a2ce334aa746c2cd",
                "c782dc4c098c66cbd9cd27d825682c81",
                "5468697320697320612034382d62797465206d65737361676520286578616374
                 6c7920332041455320626c6f636b7329",
                "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5
                 021c19216bad525c8579695d83ba2684",
            ],
            [
                "56e47a38c5598974bc46903dba290349",
                "8ce82eefbea0da3c44699ed7db51b7d9",
                "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf
                 c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf",
                "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
                 35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55",
            ],
        ] {
            known(AesKey::Aes128, vector);
        }
    }

    /// SP 800-38A F.2.3 and F.2.5, the first two blocks.
    #[test]
    fn longer_keys_match_nist_samples() {
        let iv = "000102030405060708090a0b0c0d0e0f";
        let plain = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
        known(
            AesKey::Aes192,
            [
                "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
                iv,
                plain,
                "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
            ],
        );
        known(
            AesKey::Aes256,
            [
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                iv,
                plain,
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ],
        );
    }

    /// RFC 4868 2.7.2, test cases 1 and 2 of each hash, cut to half their length.
    #[test]
    fn check_values_match_rfc_4868() {
        let expected = [
            [
                "198a607eb44bfbc69903a0f1cf2bbdc5",
                "167f928588c5cc2eef8e3093caa0e87c",
            ],
            [
                "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
                "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
            ],
            [
                "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
                "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
            ],
        ];
        for (integrity, [first, second]) in SHA2.into_iter().zip(expected) {
            let key_len = integrity.key_len();
            let icv = |key: &[u8], front: &[u8], data: &[u8]| {
                let sa = CbcHmac::new(AesKey::Aes128, integrity, &[0; 16], key).unwrap();
                hex(&sa.mac(front, None, b"", data).as_ref()[..sa.icv_len])
            };
            assert_eq!(icv(&vec![0x0b; key_len], b"Hi", b" There"), first);
            let jefe: Vec<u8> = b"Jefe".iter().copied().cycle().take(key_len).collect();
            let text: &[u8] = b"what do ya want for nothing?";
            assert_eq!(icv(&jefe, &text[..8], &text[8..]), second);
        }
    }

    #[test]
    fn the_high_half_of_the_sequence_number_is_authenticated_last() {
        let sa = CbcHmac::new(AesKey::Aes128, SHA2[0], &[1; 16], &[2; 32]).unwrap();
        let (iv, mut data, mut icv) = (sa.iv(7), [3; 32], [0; 16]);
        sa.seal(b"front", Some([0, 0, 0, 9]), &iv, &mut data, &mut icv);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        let whole = [b"front", &iv[..], &data, &[0, 0, 0, 9]].concat();
        assert_eq!(icv, hmac::sign(&key, &whole).as_ref()[..16]);
        for other in [None, Some([0, 0, 0, 8])] {
            assert!(sa.open(b"front", other, &iv, &mut data, &icv).is_err());
        }
    }

    #[test]
    fn ivs_do_not_repeat_and_do_not_show_their_counter() {
        let make = |key| CbcHmac::new(AesKey::Aes128, SHA2[0], &[key; 16], &[2; 32]).unwrap();
        let (sa, other) = (make(1), make(2));
        let ivs: std::collections::BTreeSet<_> =
            (0..1000).flat_map(|n| [sa.iv(n), other.iv(n)]).collect();
        assert_eq!(ivs.len(), 2000);
        for n in 0..1000 {
            let differing: u32 = sa
                .iv(n)
                .iter()
                .zip(sa.iv(n + 1))
                .map(|(a, b)| (a ^ b).count_ones())
                .sum();
            assert!((20..=108).contains(&differing), "{differing} of 128 bits");
        }
    }

    #[test]
    fn a_changed_octet_or_length_anywhere_does_not_open() {
        for integrity in SHA2 {
            let mac_key = vec![2; integrity.key_len()];
            let sa = CbcHmac::new(AesKey::Aes256, integrity, &[1; 32], &mac_key).unwrap();
            let (iv, mut data) = (sa.iv(1), [3; 32]);
            let mut icv = vec![0; integrity.icv_len()];
            sa.seal(b"front", None, &iv, &mut data, &mut icv);
            let open = |front: &[u8], iv: &[u8], data: &[u8], icv: &[u8]| {
                sa.open(front, None, iv, &mut data.to_vec(), icv)
            };
            assert_eq!(open(b"front", &iv, &data, &icv), Ok(()));
            let flipped = |octets: &[u8], at: usize| {
                let mut octets = octets.to_vec();
                octets[at] ^= 0x80;
                octets
            };
            let refused = Err(CryptoError::Integrity);
            assert_eq!(open(b"Front", &iv, &data, &icv), refused);
            for at in 0..16 {
                assert_eq!(open(b"front", &flipped(&iv, at), &data, &icv), refused);
                assert_eq!(open(b"front", &iv, &data, &flipped(&icv, at)), refused);
            }
            for at in 0..32 {
                assert_eq!(open(b"front", &iv, &flipped(&data, at), &icv), refused);
                assert_eq!(open(b"front", &iv, &data[..at], &icv), refused);
            }
            for len in 0..icv.len() {
                assert_eq!(open(b"front", &iv, &data, &icv[..len]), refused);
            }
            assert_eq!(open(b"front", &iv[..15], &data, &icv), refused);
        }
    }

    #[test]
    fn authentic_data_that_is_no_whole_number_of_blocks_is_refused() {
        let sa = CbcHmac::new(AesKey::Aes128, SHA2[0], &[1; 16], &[2; 32]).unwrap();
        let iv = sa.iv(1);
        let mut data = [5; 31];
        let tag = sa.mac(b"", None, &iv, &data);
        let opened = sa.open(b"", None, &iv, &mut data, &tag.as_ref()[..16]);
        assert_eq!(opened, Err(CryptoError::Integrity));
    }

    #[test]
    fn keys_of_the_wrong_length_are_refused() {
        let make = |size, key: usize, mac: usize| {
            CbcHmac::new(size, SHA2[0], &vec![0; key], &vec![0; mac]).err()
        };
        assert_eq!(make(AesKey::Aes128, 16, 32), None);
        for (size, key, mac) in [
            (AesKey::Aes128, 32, 32),
            (AesKey::Aes192, 16, 32),
            (AesKey::Aes256, 16, 32),
            (AesKey::Aes256, 32, 31),
            (AesKey::Aes256, 32, 64),
        ] {
            assert_eq!(make(size, key, mac), Some(CryptoError::KeyLength));
        }
    }
}
