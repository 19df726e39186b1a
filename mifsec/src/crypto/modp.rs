//! The 2048-bit MODP group, number 14 (RFC 3526 3), in constant time.
//!
//! Its prime is safe, so the only values of small order are 0, 1 and p - 1;
//! they are refused and nothing else need be (RFC 6989 2.1). Values are 256
//! octets, with leading zeros (RFC 7296 2.14, 3.4).

use crypto_bigint::modular::ConstMontyForm;
use crypto_bigint::{U320, U2048, const_monty_params};
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use super::{CryptoError, Secret};

/// Octets of a value on the wire.
pub(super) const VALUE_LEN: usize = 256;
/// Octets of the private exponent: the upper estimate of what the group's
/// strength has use for (RFC 3526 8).
const EXPONENT_LEN: usize = 40;

/// 2^2048 - 2^1984 - 1 + 2^64 * (floor(2^1918 pi) + 124476).
const PRIME: &str = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74\
     020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f1437\
     4fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7ed\
     ee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf05\
     98da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb\
     9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3b\
     e39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf695581718\
     3995497cea956ae515d2261898fa051015728e5a8aacaa68ffffffffffffffff";

const_monty_params!(Prime, U2048, PRIME, "The field.");
type Element = ConstMontyForm<Prime, { U2048::LIMBS }>;

/// A private exponent and its public value.
pub(super) struct Modp2048 {
    exponent: Zeroizing<U320>,
    public: [u8; VALUE_LEN],
}

impl Modp2048 {
    /// # Errors
    /// [`CryptoError::Entropy`].
    pub(super) fn generate() -> Result<Self, CryptoError> {
        let mut octets = Zeroizing::new([0; EXPONENT_LEN]);
        SystemRandom::new()
            .fill(octets.as_mut())
            .map_err(|_| CryptoError::Entropy)?;
        Ok(Self::new(&octets))
    }

    fn new(exponent: &[u8; EXPONENT_LEN]) -> Self {
        let exponent = Zeroizing::new(U320::from_be_slice(exponent));
        let public = Element::new(&U2048::from(2u8)).pow(&*exponent);
        Self {
            exponent,
            public: octets(&public.retrieve()),
        }
    }

    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// # Errors
    /// [`CryptoError::PublicKey`] for a value of the wrong length or not between
    /// 1 and p - 1.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Secret, CryptoError> {
        let peer = in_range(peer).ok_or(CryptoError::PublicKey)?;
        let shared = Zeroizing::new(Element::new(&peer).pow(&*self.exponent).retrieve());
        let shared = Zeroizing::new(octets(&shared));
        Ok(Secret::new(shared.to_vec()))
    }
}

/// Whether octets are a value of the group: 256 of them, above 1 and below p - 1.
pub(super) fn is_in_range(public: &[u8]) -> bool {
    in_range(public).is_some()
}

fn in_range(public: &[u8]) -> Option<U2048> {
    if public.len() != VALUE_LEN {
        return None;
    }
    let value = U2048::from_be_slice(public);
    let last = U2048::from_be_hex(PRIME).wrapping_sub(&U2048::ONE);
    (value > U2048::ONE && value < last).then_some(value)
}

fn octets(value: &U2048) -> [u8; VALUE_LEN] {
    let mut out = [0; VALUE_LEN];
    out.copy_from_slice(value.to_be_bytes().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::testing::{hex, unhex};

    fn exponent(step: u8, first: u8) -> [u8; EXPONENT_LEN] {
        let mut next = first.wrapping_sub(step);
        std::array::from_fn(|_| {
            next = next.wrapping_add(step);
            next
        })
    }

    /// Computed with Python's `pow(2, a, p)`, `pow(2, b, p)`, `pow(2, a * b, p)`.
    #[test]
    fn matches_another_implementation() {
        let (a, b) = (
            Modp2048::new(&exponent(7, 1)),
            Modp2048::new(&exponent(11, 3)),
        );
        assert_eq!(
            hex(a.public()),
            "3f70846d15644f6ff08cd563616f2bfadffdfe0be0f7ea13d1636e3843393919\
             f2c65ab8ce29da5f210b3554c6151f9108443f21d6e86d1240edc6485e313e53\
             4ff6e46d454ec052f587e0885604047b79a1a5a0b4e0efeb24eb276929ae871b\
             1a51eecff461285670c47c5f06a275b83fd0ea8cb7a277be83c505cdca606460\
             fb4c59929ee9a4df38228979eb54237c754df6be4ae4d126bd78795b8d735564\
             7591a6d6acc51146a779928d561809c22c5d63c01faa06c508819585651c80e9\
             ad513128903989dc94046648ed50ede36b37cb71b4958f0318634dca13e0578e\
             5bc1bf8875bf0c66faeba94f05ee6105b671d7c2aa22e16d1d1735ae1cf66e20"
        );
        assert_eq!(
            hex(b.public()),
            "f4bcfda6938b97de4c85038485d2dc7b648e9ee5dffb641812b14943566b9878\
             cf7bd497cc1ee1e6ef45a1427a1f66e08eda4f3215b1ca47f04f091e8bbf3206\
             7c75c22eb1f8f11335bb0ee86f49576ee85caf18031b0f592e241e58c0480330\
             4d1aa7bce1d55192ac365d0a07ce92aba36aa998e51ed1b4e479c294bd23e618\
             95c67fb7f13d14f4d266c022d6f6571d9668d2c809c30c8673df4a9fceb4c4cd\
             d1a003196b1b4dbfa9c3d1f23e77c5e3b056356c658e67bfa9bcda1c72fb55be\
             7f34baf2557d365f60a66907602b69be2dc39ca844aea384a9daad716988ba99\
             8d25873d526d117a3ac0fe3ecadaa207f5d71a62fb6cfe1ba90755d0af6194bf"
        );
        let shared = "012edb4dde09e040e8ddc66b52c4a18d66686b4069aea9a444c3ba16c187d8b1\
             d42385940ffd9bc13961f4845b37b44101fec3f5f29660c453616eefa4e05e6f\
             a5b63f3c3c7da196f49643ffc1665a879a92e26543e8d556f110a16ad97416d2\
             c3e24d89fd6ab5e651238a63c2243f9405ee004af3373361b11ccad0d0a8c836\
             ac0797e8b8a5a18235f37b4340aed38a1da8405f0857ee1bec360fa61889499d\
             d6327dd764bd7da6767af318fe501a68a0f86ffe6a963447ac5bbd0c4aae1b96\
             ba1c009c8469e753949bb98e48f09f21675d7022e98259458e7025ab05ed74aa\
             4d020c1e21f15d74b4a4590d7d197034f5c60eed41bdaf369f0de5b340f30ef6";
        assert_eq!(hex(a.agree(b.public()).unwrap().expose()), shared);
        assert_eq!(hex(b.agree(a.public()).unwrap().expose()), shared);
    }

    /// 2^(a * 156) begins with a zero octet, which RFC 7296 2.14 keeps.
    #[test]
    fn a_short_shared_secret_keeps_its_leading_zeros() {
        let a = Modp2048::new(&exponent(7, 1));
        let peer = Element::new(&U2048::from(2u8)).pow(&U320::from(156u32));
        let shared = a.agree(&octets(&peer.retrieve())).unwrap();
        assert_eq!(shared.expose().len(), VALUE_LEN);
        assert_eq!(shared.expose()[0], 0);
        assert_eq!(
            hex(shared.expose()),
            "00df9cdc8d2094b4679bba6439ca52d092ca5b068b3405c541a5f6cec9bbf159\
             d914ddc6ade332b27fc3fa7f211c150a9805a382ca76cf561355997b00e7b359\
             4d5414565082865a9daec69907caed01029e2149841555e90c93187e3dca6be3\
             cd444894c5ca0ee8400c07fa93737d0537611363b284d1af5d44a89b35740d7e\
             888d2f75d92666a025f86f70321e2298ca211304c336ac25a3e89ab5cea597fc\
             86d40aa103bdea57bbaabb28ad59c94a75aadf0ab93e4c39e81b469048077db9\
             a0462b581bc7ddafb9bf87cf2985f4f9692d66c7b9f38ed7b46ffc7346a30dec\
             c8b8ecba296c14c22920a8215c5c1e7d1a3c053d280052cd170d38d104cf8f30"
        );
    }

    #[test]
    fn values_of_small_order_or_out_of_range_are_refused() {
        let prime = unhex(PRIME);
        let near = |difference: i8| {
            let mut value = prime.clone();
            let last = value.last_mut().unwrap();
            *last = last.wrapping_add_signed(difference);
            value
        };
        let small = |n: u8| {
            let mut value = vec![0; VALUE_LEN];
            value[VALUE_LEN - 1] = n;
            value
        };
        for bad in [
            small(0),
            small(1),
            near(-1),
            near(0),
            vec![0xff; VALUE_LEN],
            vec![2; VALUE_LEN - 1],
            vec![2; VALUE_LEN + 1],
            Vec::new(),
        ] {
            let key = Modp2048::new(&exponent(7, 1));
            assert!(matches!(key.agree(&bad), Err(CryptoError::PublicKey)));
        }
        for good in [small(2), near(-2)] {
            let key = Modp2048::new(&exponent(7, 1));
            assert!(key.agree(&good).is_ok());
        }
    }
}
