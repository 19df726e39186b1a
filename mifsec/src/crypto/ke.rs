//! Key exchange methods by IKEv2 number: x25519 (RFC 8031), ECP-256 and ECP-384
//! (RFC 5903: the public value is x | y without the 0x04 octet, the shared
//! secret is x).

use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use ring::rand::SystemRandom;

use super::{CryptoError, Secret};

/// A key exchange method we implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeGroup {
    /// 256-bit random ECP group, number 19.
    Ecp256,
    /// 384-bit random ECP group, number 20.
    Ecp384,
    /// Curve25519, number 31.
    X25519,
}

impl KeGroup {
    /// The IANA transform number.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::X25519 => 31,
        }
    }

    /// The method of a transform number, if we have it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            19 => Some(Self::Ecp256),
            20 => Some(Self::Ecp384),
            31 => Some(Self::X25519),
            _ => None,
        }
    }

    /// Octets of the public value on the wire.
    #[must_use]
    pub const fn public_len(self) -> usize {
        match self {
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::X25519 => 32,
        }
    }

    fn ring(self) -> &'static agreement::Algorithm {
        match self {
            Self::Ecp256 => &agreement::ECDH_P256,
            Self::Ecp384 => &agreement::ECDH_P384,
            Self::X25519 => &agreement::X25519,
        }
    }
}

/// Our half of one exchange. `ring` makes it from the system's random source
/// only, which is why it is not drawn from an [`super::Entropy`].
pub struct PrivateKey {
    key: EphemeralPrivateKey,
    public: Vec<u8>,
    group: KeGroup,
}

impl PrivateKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CryptoError::Entropy`].
    pub fn generate(group: KeGroup) -> Result<Self, CryptoError> {
        let key = EphemeralPrivateKey::generate(group.ring(), &SystemRandom::new())
            .map_err(|_| CryptoError::Entropy)?;
        let public = key.compute_public_key().map_err(|_| CryptoError::Entropy)?;
        let public = match group {
            KeGroup::X25519 => public.as_ref().to_vec(),
            KeGroup::Ecp256 | KeGroup::Ecp384 => public.as_ref().iter().skip(1).copied().collect(),
        };
        Ok(Self { key, public, group })
    }

    /// The value for the KE payload.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The method.
    #[must_use]
    pub fn group(&self) -> KeGroup {
        self.group
    }

    /// The shared secret with the peer's public value.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`] for a value off the curve or of wrong length.
    pub fn agree(self, peer: &[u8]) -> Result<Secret, CryptoError> {
        if peer.len() != self.group.public_len() {
            return Err(CryptoError::PublicKey);
        }
        let encoded = match self.group {
            KeGroup::X25519 => peer.to_vec(),
            KeGroup::Ecp256 | KeGroup::Ecp384 => {
                std::iter::once(0x04).chain(peer.iter().copied()).collect()
            }
        };
        let peer = UnparsedPublicKey::new(self.group.ring(), encoded);
        agreement::agree_ephemeral(self.key, &peer, |shared| Secret::new(shared.to_vec()))
            .map_err(|_| CryptoError::PublicKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_agree_in_every_group() {
        for group in [KeGroup::X25519, KeGroup::Ecp256, KeGroup::Ecp384] {
            let (a, b) = (
                PrivateKey::generate(group).unwrap(),
                PrivateKey::generate(group).unwrap(),
            );
            let (pa, pb) = (a.public().to_vec(), b.public().to_vec());
            assert_eq!(pa.len(), group.public_len());
            assert_eq!(
                a.agree(&pb).unwrap().expose(),
                b.agree(&pa).unwrap().expose()
            );
        }
    }

    #[test]
    fn a_value_of_the_wrong_length_or_off_the_curve_is_refused() {
        for group in [KeGroup::X25519, KeGroup::Ecp256, KeGroup::Ecp384] {
            for bad in [
                vec![],
                vec![1; group.public_len() - 1],
                vec![0; group.public_len()],
            ] {
                let key = PrivateKey::generate(group).unwrap();
                assert!(
                    matches!(key.agree(&bad), Err(CryptoError::PublicKey)),
                    "{group:?}"
                );
            }
        }
    }
}
