//! NAT detection in IKE_SA_INIT (RFC 7296 2.23).

use std::net::{IpAddr, SocketAddr};

use crate::crypto::sha1;
use crate::ids::IkeSpi;
use crate::ike::event::Nat;
use crate::ike::message::{Notify, NotifyType, Payload};

use super::Payloads;

/// The two notifies of a message from `local` to `remote`. With `forced` the
/// source is none that could ever be seen, as if it were translated: the peer
/// then wraps its ESP in UDP.
pub(in crate::ike) fn build(
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
    forced: bool,
) -> [Payload; 2] {
    let source = if forced { nowhere(local) } else { local };
    let notify =
        |kind, address| Payload::Notify(Notify::new(kind, hash(spi_i, spi_r, address).to_vec()));
    [
        notify(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        notify(NotifyType::NAT_DETECTION_DESTINATION_IP, remote),
    ]
}

/// No packet comes from here.
fn nowhere(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Compares what the peer wrote with where its message came from and went to.
/// A sender that does not know which of its addresses will be used names
/// several; one that matches is enough. A peer that names none does not do NAT
/// traversal.
pub(in crate::ike) fn detect(
    payloads: &Payloads,
    spi_i: IkeSpi,
    spi_r: IkeSpi,
    local: SocketAddr,
    remote: SocketAddr,
) -> Nat {
    let translated = |kind, address| {
        let expected = hash(spi_i, spi_r, address);
        let mut named = payloads
            .notifies()
            .filter(|notify| notify.kind == kind)
            .peekable();
        named.peek().is_some() && !named.any(|notify| notify.data == expected)
    };
    Nat {
        local: translated(NotifyType::NAT_DETECTION_DESTINATION_IP, local),
        remote: translated(NotifyType::NAT_DETECTION_SOURCE_IP, remote),
    }
}

/// `SHA-1(SPIi | SPIr | address | port)`.
fn hash(spi_i: IkeSpi, spi_r: IkeSpi, address: SocketAddr) -> [u8; 20] {
    let spis = [spi_i.0.to_be_bytes(), spi_r.0.to_be_bytes()].concat();
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => sha1(&[&spis, &ip.octets(), &port]),
        IpAddr::V6(ip) => sha1(&[&spis, &ip.octets(), &port]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIS: (IkeSpi, IkeSpi) = (IkeSpi(1), IkeSpi(2));

    fn detected(built: Vec<Payload>, local: &str, remote: &str) -> Nat {
        detect(
            &Payloads(built),
            SPIS.0,
            SPIS.1,
            local.parse().unwrap(),
            remote.parse().unwrap(),
        )
    }

    #[test]
    fn a_translated_address_or_port_shows_at_the_other_end() {
        let sent = || {
            build(
                SPIS.0,
                SPIS.1,
                "10.0.0.2:500".parse().unwrap(),
                "203.0.113.1:500".parse().unwrap(),
                false,
            )
            .to_vec()
        };
        let nat = |local, remote| Nat { local, remote };
        assert_eq!(
            detected(sent(), "203.0.113.1:500", "10.0.0.2:500"),
            nat(false, false)
        );
        assert_eq!(
            detected(sent(), "203.0.113.1:500", "198.51.100.9:500"),
            nat(false, true)
        );
        assert_eq!(
            detected(sent(), "203.0.113.1:500", "10.0.0.2:1024"),
            nat(false, true)
        );
        assert_eq!(
            detected(sent(), "10.1.1.1:500", "10.0.0.2:500"),
            nat(true, false)
        );
        assert_eq!(
            detected(vec![], "10.1.1.1:500", "10.0.0.2:500"),
            nat(false, false)
        );
    }

    #[test]
    fn one_of_several_named_sources_is_enough() {
        let to = "203.0.113.1:500".parse().unwrap();
        let mut sent = Vec::new();
        for from in ["10.0.0.2:500", "10.9.0.2:500"] {
            sent.extend(build(SPIS.0, SPIS.1, from.parse().unwrap(), to, false));
        }
        assert!(!detected(sent, "203.0.113.1:500", "10.9.0.2:500").remote);
    }
}
