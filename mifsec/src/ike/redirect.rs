//! Where a gateway sends its client (RFC 5685): the notify's octets, and the
//! memory that ends a loop of gateways.
//!
//! ```text
//!  REDIRECT         type (1) | length (1) | identity | [nonce of IKE_SA_INIT]
//!  REDIRECTED_FROM  type (1) | length (1) | identity
//! ```

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::wire::{Reader, Writer};

use super::dns;
use super::message::DecodeError;

/// Redirections of one peer that are followed within [`PERIOD`] (RFC 5685 8).
const MAX_REDIRECTS: usize = 5;
/// REDIRECT_LOOP_DETECT_PERIOD (RFC 5685 8).
const PERIOD: Duration = Duration::from_secs(300);

const IPV4: u8 = 1;
const IPV6: u8 = 2;
const FQDN: u8 = 3;

/// A gateway as a REDIRECT names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateway {
    /// By address.
    Address(IpAddr),
    /// By a domain name, which somebody has to resolve.
    Name(String),
}

impl std::fmt::Display for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Gateway {
    /// Reads the data of a REDIRECT; the octets after the identity are the nonce.
    ///
    /// # Errors
    /// [`DecodeError`] for what is not an address one can send to, nor a name.
    pub fn decode(data: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut reader = Reader::new(data);
        let kind = reader.u8()?;
        let length = usize::from(reader.u8()?);
        let mut identity = Reader::new(reader.bytes(length)?);
        let gateway = match (kind, length) {
            (IPV4, 4) => Self::Address(IpAddr::from(identity.array::<4>()?)),
            (IPV6, 16) => Self::Address(IpAddr::from(identity.array::<16>()?)),
            (FQDN, _) => dns::domain(identity.rest())
                .map(Self::Name)
                .ok_or(DecodeError::Malformed("gateway name"))?,
            _ => return Err(DecodeError::Malformed("gateway identity")),
        };
        let unusable = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => v4.is_broadcast() || ip.is_unspecified() || ip.is_multicast(),
            IpAddr::V6(_) => ip.is_unspecified() || ip.is_multicast(),
        };
        match &gateway {
            Self::Address(ip) if unusable(ip) => Err(DecodeError::Malformed("gateway address")),
            _ => Ok((gateway, reader.rest())),
        }
    }

    /// The data of a REDIRECT with this nonce, or with none of a REDIRECTED_FROM.
    #[must_use]
    pub fn encode(&self, nonce: &[u8]) -> Vec<u8> {
        let (kind, identity) = match self {
            Self::Address(IpAddr::V4(ip)) => (IPV4, ip.octets().to_vec()),
            Self::Address(IpAddr::V6(ip)) => (IPV6, ip.octets().to_vec()),
            Self::Name(name) => (FQDN, name.as_bytes().to_vec()),
        };
        let mut out = Writer::new();
        out.u8(kind)
            .u8(u8::try_from(identity.len()).unwrap_or(u8::MAX))
            .bytes(&identity)
            .bytes(nonce);
        out.finish()
    }
}

/// When each peer was redirected lately: bounded by peers configured.
#[derive(Debug, Default)]
pub(super) struct History(BTreeMap<String, VecDeque<Instant>>);

impl History {
    /// Whether one more redirection of this peer is to be followed; it counts if so.
    pub(super) fn allow(&mut self, peer: &str, now: Instant) -> bool {
        let times = self.0.entry(peer.to_owned()).or_default();
        times.retain(|at| now.duration_since(*at) < PERIOD);
        let allowed = times.len() < MAX_REDIRECTS;
        if allowed {
            times.push_back(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_with_its_nonce() {
        for gateway in [
            Gateway::Address("192.0.2.7".parse().unwrap()),
            Gateway::Address("2001:db8::7".parse().unwrap()),
            Gateway::Name("gw2.example.org".into()),
        ] {
            let data = gateway.encode(b"nonce");
            assert_eq!(Gateway::decode(&data), Ok((gateway, &b"nonce"[..])));
        }
        let v4 = Gateway::Address("192.0.2.7".parse().unwrap());
        assert_eq!(v4.encode(&[]), [1, 4, 192, 0, 2, 7]);
    }

    #[test]
    fn what_cannot_be_a_gateway_is_refused() {
        for data in [
            &[][..],
            &[1],
            &[1, 4, 192, 0, 2],
            &[1, 5, 192, 0, 2, 7, 0],
            &[2, 4, 192, 0, 2, 7],
            &[4, 4, 192, 0, 2, 7],
            &[1, 4, 0, 0, 0, 0],
            &[1, 4, 224, 0, 0, 1],
            &[1, 4, 255, 255, 255, 255],
            &[3, 0],
            &[3, 3, b'a', b' ', b'b'],
        ] {
            assert!(Gateway::decode(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn the_sixth_redirection_within_five_minutes_is_not_followed() {
        let start = Instant::now();
        let mut history = History::default();
        for second in 0..5 {
            assert!(history.allow("gw", start + Duration::from_secs(second)));
        }
        assert!(!history.allow("gw", start + Duration::from_secs(5)));
        assert!(history.allow("other", start + Duration::from_secs(5)));
        assert!(
            history.allow("gw", start + PERIOD),
            "the first is forgotten"
        );
        assert!(!history.allow("gw", start + PERIOD));
    }
}
