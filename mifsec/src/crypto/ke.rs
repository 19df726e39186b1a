//! Key exchange methods by IKEv2 number: x25519 (RFC 8031), ECP-256 and ECP-384
//! (RFC 5903: the public value is x | y without the 0x04 octet, the shared
//! secret is x), MODP-2048 (RFC 3526).

use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey};
use ring::rand::SystemRandom;

use super::modp::{self, Modp2048};
use super::{CryptoError, Secret};

/// A key exchange method we implement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeGroup {
    /// 2048-bit MODP group, number 14.
    Modp2048,
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
            Self::Modp2048 => 14,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::X25519 => 31,
        }
    }

    /// The method of a transform number, if we have it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            14 => Some(Self::Modp2048),
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
            Self::Modp2048 => modp::VALUE_LEN,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::X25519 => 32,
        }
    }

    /// Whether a peer's public value can be one of this group, as far as that costs
    /// nothing: its length, and the range of a MODP group (RFC 6989 2.1). Whether it
    /// is on the curve shows when [`PrivateKey::agree`] needs it.
    #[must_use]
    pub fn may_have(self, public: &[u8]) -> bool {
        match self {
            Self::Modp2048 => modp::is_in_range(public),
            Self::X25519 => public.len() == self.public_len() && public.iter().any(|o| *o != 0),
            Self::Ecp256 | Self::Ecp384 => public.len() == self.public_len(),
        }
    }
}

/// Our half of one exchange. `ring` makes it from the system's random source
/// only, which is why it is not drawn from an [`super::Entropy`].
pub struct PrivateKey {
    key: Half,
    group: KeGroup,
}

enum Half {
    Modp(Box<Modp2048>),
    Curve {
        key: EphemeralPrivateKey,
        algorithm: &'static agreement::Algorithm,
        /// What stands before the wire's octets in `ring`'s encoding.
        prefix: &'static [u8],
        public: Vec<u8>,
    },
}

impl PrivateKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CryptoError::Entropy`].
    pub fn generate(group: KeGroup) -> Result<Self, CryptoError> {
        let key = match group {
            KeGroup::Modp2048 => Half::Modp(Box::new(Modp2048::generate()?)),
            KeGroup::Ecp256 => Half::curve(&agreement::ECDH_P256, &[0x04])?,
            KeGroup::Ecp384 => Half::curve(&agreement::ECDH_P384, &[0x04])?,
            KeGroup::X25519 => Half::curve(&agreement::X25519, &[])?,
        };
        Ok(Self { key, group })
    }

    /// The value for the KE payload.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        match &self.key {
            Half::Modp(key) => key.public(),
            Half::Curve { public, .. } => public,
        }
    }

    /// The method.
    #[must_use]
    pub fn group(&self) -> KeGroup {
        self.group
    }

    /// The shared secret with the peer's public value.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`] for a value that is not one of the group's or
    /// of wrong length.
    pub fn agree(self, peer: &[u8]) -> Result<Secret, CryptoError> {
        if peer.len() != self.group.public_len() {
            return Err(CryptoError::PublicKey);
        }
        match self.key {
            Half::Modp(key) => key.agree(peer),
            Half::Curve {
                key,
                algorithm,
                prefix,
                ..
            } => {
                let peer = UnparsedPublicKey::new(algorithm, [prefix, peer].concat());
                agreement::agree_ephemeral(key, &peer, |shared| Secret::new(shared.to_vec()))
                    .map_err(|_| CryptoError::PublicKey)
            }
        }
    }
}

impl Half {
    fn curve(
        algorithm: &'static agreement::Algorithm,
        prefix: &'static [u8],
    ) -> Result<Self, CryptoError> {
        let key = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
            .map_err(|_| CryptoError::Entropy)?;
        let public = key.compute_public_key().map_err(|_| CryptoError::Entropy)?;
        let public = public
            .as_ref()
            .strip_prefix(prefix)
            .ok_or(CryptoError::Entropy)?;
        Ok(Self::Curve {
            public: public.to_vec(),
            key,
            algorithm,
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [KeGroup; 4] = [
        KeGroup::X25519,
        KeGroup::Ecp256,
        KeGroup::Ecp384,
        KeGroup::Modp2048,
    ];

    #[test]
    fn both_halves_agree_in_every_group() {
        for group in ALL {
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
    fn what_cannot_be_a_value_shows_before_a_key_is_made() {
        for group in ALL {
            let key = PrivateKey::generate(group).unwrap();
            assert!(group.may_have(key.public()), "{group:?}");
            assert!(!group.may_have(&[]));
            assert!(!group.may_have(&vec![1; group.public_len() - 1]));
            assert!(!group.may_have(&vec![1; group.public_len() + 1]));
        }
        assert!(!KeGroup::X25519.may_have(&[0; 32]));
        assert!(!KeGroup::Modp2048.may_have(&[0; 256]));
        assert!(!KeGroup::Modp2048.may_have(&[0xff; 256]));
    }

    #[test]
    fn a_value_of_the_wrong_length_or_off_the_curve_is_refused() {
        for group in ALL {
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
