//! Stateless cookies for IKE_SA_INIT under load (RFC 7296 2.6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::crypto::{Entropy, PrfAlgorithm, Secret, constant_time_eq};
use crate::ids::IkeSpi;
use crate::wire::Writer;

/// How long one secret makes cookies; it accepts them for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(60);

/// `version | prf(secret, Ni | IPi | port | SPIi)`: proves that the sender
/// receives at its address, and costs us no state.
#[derive(Default)]
pub(super) struct CookieJar {
    current: Option<Generation>,
    previous: Option<Generation>,
}

struct Generation {
    version: u8,
    secret: Secret,
    since: Instant,
}

impl CookieJar {
    /// The cookie to ask for.
    pub(super) fn make(
        &mut self,
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: IkeSpi,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Vec<u8> {
        let expired = |g: &Generation| now.duration_since(g.since) >= SECRET_LIFETIME;
        if self.current.as_ref().is_none_or(expired) {
            let mut secret = vec![0; 32];
            entropy.fill(&mut secret);
            let version = self
                .current
                .as_ref()
                .map_or(0, |g| g.version.wrapping_add(1));
            self.previous = self.current.replace(Generation {
                version,
                secret: Secret::new(secret),
                since: now,
            });
        }
        self.current
            .as_ref()
            .map(|generation| generation.cookie(nonce, remote, spi_i))
            .unwrap_or_default()
    }

    /// Whether `cookie` is one we asked this sender for lately.
    pub(super) fn check(
        &self,
        cookie: &[u8],
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: IkeSpi,
        now: Instant,
    ) -> bool {
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .filter(|g| now.duration_since(g.since) < 2 * SECRET_LIFETIME)
            .any(|g| constant_time_eq(&g.cookie(nonce, remote, spi_i), cookie))
    }
}

impl Generation {
    fn cookie(&self, nonce: &[u8], remote: SocketAddr, spi_i: IkeSpi) -> Vec<u8> {
        let mut sender = Writer::new();
        match remote.ip() {
            std::net::IpAddr::V4(ip) => sender.bytes(&ip.octets()),
            std::net::IpAddr::V6(ip) => sender.bytes(&ip.octets()),
        };
        sender.u16(remote.port()).u64(spi_i.0);
        let mac = PrfAlgorithm::HmacSha256.prf(self.secret.expose(), &[nonce, sender.as_slice()]);
        let mut cookie = vec![self.version];
        cookie.extend_from_slice(mac.expose());
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededEntropy;

    #[test]
    fn a_cookie_is_good_for_its_sender_until_its_secret_was_replaced_twice() {
        let now = Instant::now();
        let entropy = &mut SeededEntropy::new(1);
        let mut jar = CookieJar::default();
        let (here, there) = (
            "192.0.2.1:500".parse().unwrap(),
            "192.0.2.2:500".parse().unwrap(),
        );
        assert!(!jar.check(&[], b"nonce", here, IkeSpi(1), now));
        let cookie = jar.make(b"nonce", here, IkeSpi(1), entropy, now);
        assert!((1..=64).contains(&cookie.len()), "RFC 7296 2.6");
        assert!(jar.check(&cookie, b"nonce", here, IkeSpi(1), now));
        assert!(!jar.check(&cookie, b"other", here, IkeSpi(1), now));
        assert!(!jar.check(&cookie, b"nonce", there, IkeSpi(1), now));
        assert!(!jar.check(&cookie, b"nonce", here, IkeSpi(2), now));

        let later = now + SECRET_LIFETIME;
        let next = jar.make(b"nonce", here, IkeSpi(1), entropy, later);
        assert_ne!(next, cookie);
        assert!(jar.check(&cookie, b"nonce", here, IkeSpi(1), later));
        let latest = later + SECRET_LIFETIME;
        jar.make(b"nonce", here, IkeSpi(1), entropy, latest);
        assert!(!jar.check(&cookie, b"nonce", here, IkeSpi(1), latest));
    }
}
