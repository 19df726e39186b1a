//! Contents of MOBIKE's notifies (RFC 4555 4.2).

use std::net::{IpAddr, SocketAddr};

use crate::ids::Arrival;
use crate::ike::engine::Context;
use crate::ike::message::{Notify, NotifyType};
use crate::ike::mif::{IfaceState, InterfaceRecord};
use crate::ike::task::Payloads;

/// Addresses told and kept: what other implementations keep, too.
pub(super) const MAX_ADDRESSES: usize = 8;

/// Any of these makes a message a complete list of its sender's addresses.
pub(super) const LISTS: [NotifyType; 3] = [
    NotifyType::ADDITIONAL_IP4_ADDRESS,
    NotifyType::ADDITIONAL_IP6_ADDRESS,
    NotifyType::NO_ADDITIONAL_ADDRESSES,
];

/// Our usable addresses other than `but`.
pub(super) fn own(ifaces: &[InterfaceRecord], but: IpAddr) -> Vec<IpAddr> {
    let usable = [IfaceState::UP, IfaceState::BACKUP];
    let mut out = Vec::new();
    for iface in ifaces.iter().filter(|iface| usable.contains(&iface.state)) {
        for maddr in &iface.addresses {
            if maddr.ip != but && !out.contains(&maddr.ip) && out.len() < MAX_ADDRESSES {
                out.push(maddr.ip);
            }
        }
    }
    out
}

/// One notify for each address.
pub(super) fn additional(addresses: &[IpAddr]) -> Vec<Notify> {
    let notify = |address: &IpAddr| match address {
        IpAddr::V4(ip) => Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, ip.octets().to_vec()),
        IpAddr::V6(ip) => Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS, ip.octets().to_vec()),
    };
    addresses.iter().map(notify).collect()
}

/// A complete list for INFORMATIONAL.
pub(super) fn list(addresses: &[IpAddr]) -> Vec<Notify> {
    if addresses.is_empty() {
        return vec![Notify::new(NotifyType::NO_ADDITIONAL_ADDRESSES, Vec::new())];
    }
    additional(addresses)
}

/// The addresses a peer lists; what cannot be a peer's, and what is too much, is
/// left out and counted.
pub(super) fn listed(payloads: &Payloads, cx: &mut Context) -> Vec<IpAddr> {
    let policy = cx.address_policy();
    let mut out = Vec::new();
    for notify in payloads.notifies() {
        let address = match notify.kind {
            NotifyType::ADDITIONAL_IP4_ADDRESS => {
                <[u8; 4]>::try_from(notify.data.as_slice()).map(IpAddr::from)
            }
            NotifyType::ADDITIONAL_IP6_ADDRESS => {
                <[u8; 16]>::try_from(notify.data.as_slice()).map(IpAddr::from)
            }
            _ => continue,
        };
        match address {
            Ok(ip) if policy.check_ip(ip).is_ok() && out.len() < MAX_ADDRESSES => {
                if !out.contains(&ip) {
                    out.push(ip);
                }
            }
            _ => cx.count("mobike_address"),
        }
    }
    out
}

/// NO_NATS_ALLOWED of a message from `source` to `destination`.
pub(super) fn no_nats(source: SocketAddr, destination: SocketAddr) -> Notify {
    Notify::new(
        NotifyType::NO_NATS_ALLOWED,
        no_nats_data(source, destination),
    )
}

fn no_nats_data(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut data = Vec::with_capacity(36);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => data.extend(ip.octets()),
            IpAddr::V6(ip) => data.extend(ip.octets()),
        }
    }
    for address in [source, destination] {
        data.extend(address.port().to_be_bytes());
    }
    data
}

/// Whether NO_NATS_ALLOWED, if it is there, tells how the message came in
/// (RFC 4555 3.9).
///
/// # Errors
/// What to answer if not.
pub(in crate::ike::task) fn check_no_nats(
    payloads: &Payloads,
    arrival: Arrival,
) -> Result<(), NotifyType> {
    let Some(notify) = payloads.notify(NotifyType::NO_NATS_ALLOWED) else {
        return Ok(());
    };
    if notify.data == no_nats_data(arrival.remote, arrival.local) {
        Ok(())
    } else {
        Err(NotifyType::UNEXPECTED_NAT_DETECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(local: &str, remote: &str) -> Arrival {
        Arrival {
            ifindex: 1,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    fn verdict(notify: Notify, arrival: Arrival) -> Result<(), NotifyType> {
        let payloads = Payloads(vec![crate::ike::message::Payload::Notify(notify)]);
        check_no_nats(&payloads, arrival)
    }

    #[test]
    fn no_nats_allowed_holds_for_the_same_addresses_and_ports_only() {
        for (a, b, other) in [
            ("192.0.2.1:4500", "203.0.113.1:4500", "192.0.2.2:4500"),
            (
                "[2001:db8::1]:4500",
                "[2001:db8::2]:4500",
                "[2001:db8::3]:4500",
            ),
        ] {
            let notify = || no_nats(a.parse().unwrap(), b.parse().unwrap());
            let length = if a.starts_with('[') { 36 } else { 12 };
            assert_eq!(notify().data.len(), length);
            let refused = Err(NotifyType::UNEXPECTED_NAT_DETECTED);
            assert_eq!(verdict(notify(), arrival(b, a)), Ok(()));
            assert_eq!(verdict(notify(), arrival(b, other)), refused);
            assert_eq!(verdict(notify(), arrival(other, a)), refused);
            let port = a.replace(":4500", ":4501");
            assert_eq!(verdict(notify(), arrival(b, &port)), refused);
        }
    }

    #[test]
    fn the_notify_has_the_layout_of_rfc_4555_4_2_6() {
        let v4 = no_nats(
            "192.0.2.1:500".parse().unwrap(),
            "203.0.113.1:4500".parse().unwrap(),
        );
        let expected = [192, 0, 2, 1, 203, 0, 113, 1, 0x01, 0xf4, 0x11, 0x94];
        assert_eq!(v4.data, expected);
    }
}
