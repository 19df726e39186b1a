//! PRF and `prf+` of RFC 7296 2.13, HMAC-SHA2 variants (RFC 4868).

use ring::hmac;

use super::Secret;

/// The pseudo-random functions we implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PrfAlgorithm {
    /// PRF_HMAC_SHA2_256, number 5.
    HmacSha256,
    /// PRF_HMAC_SHA2_384, number 6.
    HmacSha384,
    /// PRF_HMAC_SHA2_512, number 7.
    HmacSha512,
}

impl PrfAlgorithm {
    /// Octets of output, and of the preferred key.
    #[must_use]
    pub const fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// `prf(key, parts[0] | parts[1] | ...)`.
    #[must_use]
    pub fn prf(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let key = hmac::Key::new(self.ring(), key);
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        Secret::new(context.sign().as_ref().to_vec())
    }

    /// The first `len` octets of `prf+(key, parts[0] | parts[1] | ...)`.
    ///
    /// # Panics
    /// When `len` exceeds 255 blocks, which no caller's algorithm set can ask for.
    #[must_use]
    pub fn prf_plus(self, key: &[u8], parts: &[&[u8]], len: usize) -> Secret {
        assert!(len <= 255 * self.output_len(), "prf+ ends after 255 blocks");
        let key = hmac::Key::new(self.ring(), key);
        let mut out = Vec::with_capacity(len + self.output_len());
        let mut counter = 0u8;
        while out.len() < len {
            counter += 1;
            let mut context = hmac::Context::with_key(&key);
            let previous = out.len().saturating_sub(self.output_len());
            context.update(&out[previous..]);
            for part in parts {
                context.update(part);
            }
            context.update(&[counter]);
            out.extend_from_slice(context.sign().as_ref());
        }
        out.truncate(len);
        Secret::new(out)
    }

    fn ring(self) -> hmac::Algorithm {
        match self {
            Self::HmacSha256 => hmac::HMAC_SHA256,
            Self::HmacSha384 => hmac::HMAC_SHA384,
            Self::HmacSha512 => hmac::HMAC_SHA512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 test case 2.
    #[test]
    fn matches_rfc_4231() {
        let hex = |s: &Secret| {
            s.expose()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        };
        let parts: &[&[u8]] = &[b"what do ya want ", b"for nothing?"];
        assert_eq!(
            hex(&PrfAlgorithm::HmacSha256.prf(b"Jefe", parts)),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(&PrfAlgorithm::HmacSha384.prf(b"Jefe", parts)),
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e\
             8e2240ca5e69e2c78b3239ecfab21649"
        );
        assert_eq!(
            hex(&PrfAlgorithm::HmacSha512.prf(b"Jefe", parts)),
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
        );
    }

    /// T1 = prf(K, S | 1), T2 = prf(K, T1 | S | 2): RFC 7296 2.13.
    #[test]
    fn prf_plus_chains_its_blocks() {
        let prf = PrfAlgorithm::HmacSha256;
        let out = prf.prf_plus(b"key", &[b"se", b"ed"], 50);
        let t1 = prf.prf(b"key", &[b"seed", &[1]]);
        let t2 = prf.prf(b"key", &[t1.expose(), b"seed", &[2]]);
        assert_eq!(&out.expose()[..32], t1.expose());
        assert_eq!(&out.expose()[32..], &t2.expose()[..18]);
    }
}
