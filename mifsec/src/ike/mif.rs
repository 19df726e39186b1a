//! The multiple-interface extension on the wire: notify numbers, vendor id and
//! the layouts of what is implemented.
//!
//! Interfaces are named by a number their owner chose; addresses are their
//! attributes. All of this means something only after the peer's vendor id was
//! received inside IKE_AUTH. Integers are big endian, reserved fields are sent
//! as 0 and ignored. Decoding checks counts before it allocates and refuses
//! addresses that cannot be a peer's ([`AddressPolicy`]).

#![forbid(unsafe_code)]

mod add;
mod alternates;
mod code;
mod delete;
mod derived;
mod interfaces;
mod maddr;
mod outer;
mod supported;
mod update;

pub use add::{AddFlags, AddInterface, AddMode, NONCE_LEN};
pub use alternates::{Alternates, MAX_ALTERNATES, default_list};
pub use code::{VENDOR_ID, error, is_vendor_id, status};
pub use delete::{DeleteFlags, DeleteInterface};
pub use derived::{DerivedFlags, DerivedSa, DerivedSas};
pub use interfaces::{
    DEFAULT_RECORDS, IfaceState, InterfaceRecord, Interfaces, LinkClass, MAX_ADDRESSES, MAX_RECORDS,
};
pub use maddr::{AddressPolicy, Maddr, MaddrFlags, Refusal};
pub use outer::{OuterAddrs, OuterFlags};
pub use supported::{Features, Supported};
pub use update::{UpdateAddrs, UpdateFlags};

use std::net::IpAddr;

use super::message::{Notify, NotifyType};
use crate::ids::{IfaceId, Spi};
use crate::wire::Truncated;

/// Why a MIF notify was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MifError {
    /// Ends within a field.
    #[error("notify ends within a field")]
    Truncated,
    /// Octets after the last field.
    #[error("notify is longer than its fields")]
    TooLong,
    /// An address family that is neither IPv4 nor IPv6.
    #[error("address family {0}")]
    Family(u8),
    /// A version we cannot read.
    #[error("version {0}")]
    Version(u8),
    /// An address that cannot be a peer's.
    #[error("address {0} is {1}")]
    Address(IpAddr, Refusal),
    /// More of something than we accept.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// A probe SPI among the reserved values (RFC 4303 2.1).
    #[error("probe SPI {0} is reserved")]
    Spi(Spi),
    /// An interface named twice in one table, or named 0.
    #[error("interface {0:?} named twice or with the reserved number")]
    Interface(IfaceId),
    /// A mode that is none.
    #[error("mode {0}")]
    Mode(u8),
    /// Fields that contradict each other.
    #[error("fields contradict each other")]
    Fields,
}

impl From<Truncated> for MifError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl MifError {
    /// The name it is counted under.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "mif_truncated",
            Self::TooLong => "mif_too_long",
            Self::Family(_) => "mif_family",
            Self::Version(_) => "mif_version",
            Self::Address(..) => "mif_address",
            Self::TooMany(_) => "mif_too_many",
            Self::Spi(_) => "mif_probe_spi",
            Self::Interface(_) => "mif_interface",
            Self::Mode(_) => "mif_mode",
            Self::Fields => "mif_fields",
        }
    }

    /// The error notify the request is answered with.
    #[must_use]
    pub const fn notify_type(&self) -> NotifyType {
        match self {
            Self::Address(..) | Self::Family(_) => error::MIF_ADDRESS_REJECTED,
            Self::TooMany(_) => error::MIF_LIMIT_EXCEEDED,
            Self::Interface(_) => error::MIF_UNKNOWN_INTERFACE,
            Self::Version(_) => error::MIF_UNSUPPORTED,
            Self::Mode(_) => error::MIF_MODE_MISMATCH,
            Self::Truncated | Self::TooLong | Self::Spi(_) | Self::Fields => {
                NotifyType::INVALID_SYNTAX
            }
        }
    }
}

/// A MIF notify: protocol 0, no SPI.
#[must_use]
fn notify(kind: NotifyType, data: Vec<u8>) -> Notify {
    Notify::new(kind, data)
}

/// Path as named on the wire: initiator's interface << 16 | responder's.
#[must_use]
pub fn path_id(initiator: IfaceId, responder: IfaceId) -> u32 {
    u32::from(initiator.0) << 16 | u32::from(responder.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::ike::message::{self, ExchangeType, Header, Payload};
    use crate::ike::testing::{hex, unhex};

    use super::*;

    /// The notify as a payload of its own, next payload 0.
    fn wire(notify: Notify) -> String {
        let header = Header {
            spi_i: crate::ids::IkeSpi(1),
            spi_r: crate::ids::IkeSpi(2),
            exchange: ExchangeType::INFORMATIONAL,
            response: false,
            initiator: true,
            higher_version: false,
            message_id: 0,
        };
        let bytes = message::encode_clear(&header, &[Payload::Notify(notify)]);
        hex(&bytes[message::HEADER_LEN..])
    }

    fn golden(digits: &str) -> String {
        hex(&unhex(digits))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The addresses of the golden values are documentation addresses.
    fn policy() -> AddressPolicy {
        AddressPolicy::default()
    }

    #[test]
    fn supported_matches_the_golden_bytes() {
        covers!("R29");
        let supported = Supported {
            max_ifaces: 8,
            max_alternates: 4,
            max_derived: 64,
            max_path_sas: 128,
            features: Features(0x7ff),
            probe_spi: Spi(0x0a0b_0c0d),
        };
        assert_eq!(
            wire(supported.notify()),
            golden("000000180000b800 0100080400400080000007ff 0a0b0c0d")
        );
        assert_eq!(Supported::decode(&supported.notify().data), Ok(supported));
    }

    #[test]
    fn update_matches_the_golden_bytes() {
        let update = UpdateAddrs {
            txn: 7,
            flags: UpdateFlags::TUNNEL.with(UpdateFlags::MAKE_BEFORE_BREAK),
            grace_ms: 500,
            old_iface: IfaceId(3),
            new_iface: IfaceId(4),
            old: Maddr::new(ip("192.0.2.3"), 0),
            new: Maddr {
                flags: MaddrFlags::BEHIND_NAT,
                port: 4500,
                ip: ip("198.51.100.4"),
            },
        };
        assert_eq!(
            wire(update.notify()),
            golden("000000240000b803 00000007000901f400030004 01000000c0000203 01011194c6336404")
        );
        assert_eq!(
            UpdateAddrs::decode(&update.notify().data, &policy()),
            Ok(update)
        );
    }

    #[test]
    fn outer_addrs_matches_the_golden_bytes() {
        let outer = OuterAddrs {
            init_iface: IfaceId(3),
            resp_iface: IfaceId(1),
            flags: OuterFlags::default(),
            initiator: Maddr::new(ip("2001:db8::3"), 0),
            responder: Maddr::new(ip("2001:db8:1::1"), 0),
        };
        assert_eq!(
            wire(outer.notify()),
            golden(
                "000000380000b802 0003000100000000 0200000020010db8000000000000000000000003 \
                 0200000020010db8000100000000000000000001"
            )
        );
        assert_eq!(
            OuterAddrs::decode(&outer.notify().data, &policy(), true),
            Ok(outer)
        );
    }

    fn octets(range: std::ops::RangeInclusive<u8>) -> Vec<u8> {
        range.collect()
    }

    /// Put together by a separate Python script with `struct.pack`, like those above.
    #[test]
    fn add_interface_matches_the_golden_bytes() {
        let mut add = AddInterface {
            txn: 5,
            flags: AddFlags::BUNDLE,
            iface: IfaceId(3),
            mode: AddMode::TUNNEL,
            inner: vec![Maddr::new(ip("10.66.0.9"), 0)],
            outer: Maddr {
                flags: MaddrFlags::BEHIND_NAT,
                port: 4500,
                ip: ip("203.0.113.7"),
            },
            destination: None,
            from: None,
            nonce: octets(0x20..=0x3f),
            ke: None,
        };
        assert_eq!(
            wire(add.notify()),
            golden(
                "000000480000b805 000000050020000301000020 01000000 010000000a420009 01011194cb007107 \
                 202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
            )
        );
        assert_eq!(
            AddInterface::decode(&add.notify().data, Some(&policy())),
            Ok(add.clone())
        );
        // Case B to another destination, three interfaces listed, with x25519.
        add.txn = 0x0102_0304;
        add.flags = AddFlags::CONFIG;
        add.iface = IfaceId(9);
        add.inner.clear();
        add.outer = Maddr::new(ip("2001:db8::9"), 0);
        add.destination = Some(Maddr::new(ip("198.51.100.1"), 4500));
        add.from = Some([2, 1, 7].map(IfaceId).to_vec());
        add.ke = Some(crate::ike::message::Ke {
            group: 31,
            data: octets(0x60..=0x7f),
        });
        assert_eq!(
            wire(add.notify()),
            golden(
                "000000800000b805 010203040017000901030020 00000000 \
                 0200000020010db8000000000000000000000009 01001194c6336401 0002000100070000 \
                 202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f \
                 001f0020606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
            )
        );
        assert_eq!(
            AddInterface::decode(&add.notify().data, Some(&policy())),
            Ok(add)
        );
    }

    #[test]
    fn derived_sas_match_the_golden_bytes() {
        let entry = |index, flags, init, resp, new| DerivedSa {
            index,
            flags: DerivedFlags(flags),
            template_init: Spi(init),
            template_resp: Spi(resp),
            new_init: Spi(new),
            new_resp: Spi(0),
        };
        let list = DerivedSas {
            txn: 5,
            entries: vec![
                entry(0, 0, 0xa000_0001, 0xb000_0001, 0x1122_3344),
                entry(1, 1, 0xa000_0002, 0xb000_0002, 0),
            ],
        };
        assert_eq!(
            wire(list.notify()),
            golden(
                "000000380000b806 0000000500020000 00000000a0000001b00000011122334400000000 \
                 00010001a0000002b00000020000000000000000"
            )
        );
        let data = list.notify().data;
        assert_eq!(DerivedSas::decode(&data, 2), Ok(list));
        let error = MifError::TooMany("derived SAs");
        assert_eq!(DerivedSas::decode(&data, 1), Err(error));
    }

    #[test]
    fn delete_interface_matches_the_golden_bytes() {
        let delete = DeleteInterface {
            txn: 6,
            flags: DeleteFlags::OUTER.with(DeleteFlags::MOVE_TO_ALTERNATE_FIRST),
            iface: IfaceId(3),
        };
        assert_eq!(
            wire(delete.notify()),
            golden("000000100000b807 0000000600050003")
        );
        assert_eq!(DeleteInterface::decode(&delete.notify().data), Ok(delete));
    }

    #[test]
    fn an_operation_that_contradicts_itself_is_refused() {
        let good = AddInterface {
            txn: 5,
            flags: AddFlags::default(),
            iface: IfaceId(3),
            mode: AddMode::TUNNEL,
            inner: vec![Maddr::new(ip("10.66.0.9"), 0)],
            outer: Maddr::new(ip("203.0.113.7"), 0),
            destination: None,
            from: None,
            nonce: octets(0..=31),
            ke: None,
        };
        let data = good.notify().data;
        let with = |at: usize, value: u8| {
            let mut data = data.clone();
            data[at] = value;
            AddInterface::decode(&data, Some(&policy())).unwrap_err()
        };
        assert_eq!(with(7, 0), MifError::Interface(IfaceId(0)));
        assert_eq!(with(8, 0), MifError::Mode(0));
        assert_eq!(with(8, 4), MifError::Mode(4));
        assert_eq!(with(9, 1), MifError::Fields, "a list without its flag");
        assert_eq!(with(9, 65), MifError::TooMany("interfaces"));
        assert_eq!(with(11, 31), MifError::Fields, "another nonce");
        assert_eq!(with(12, 9), MifError::TooMany("inner addresses"));
        assert_eq!(
            with(20, 224),
            MifError::Address(ip("224.66.0.9"), Refusal::Multicast)
        );
        assert_eq!(
            with(28, 127),
            MifError::Address(ip("127.0.113.7"), Refusal::Loopback)
        );
        let twice = AddInterface {
            from: Some(vec![IfaceId(1); 2]),
            ..good.clone()
        };
        assert_eq!(
            AddInterface::decode(&twice.notify().data, None),
            Err(MifError::Interface(IfaceId(1)))
        );
        for end in 0..data.len() {
            assert!(AddInterface::decode(&data[..end], None).is_err(), "{end}");
        }
        let long = [&data[..], &[0]].concat();
        assert_eq!(AddInterface::decode(&long, None), Err(MifError::TooLong));
        let delete = |octets: &[u8]| DeleteInterface::decode(octets);
        assert_eq!(delete(&[0, 0, 0, 1, 0, 0, 0, 3]), Err(MifError::Fields));
        assert_eq!(delete(&[0, 0, 0, 1, 0, 4, 0, 3]), Err(MifError::Fields));
        assert_eq!(
            delete(&[0, 0, 0, 1, 0, 1, 0, 0]),
            Err(MifError::Interface(IfaceId(0)))
        );
        assert_eq!(delete(&[0, 0, 0, 1, 0, 1, 0]), Err(MifError::Truncated));
        assert_eq!(delete(&[0; 9]), Err(MifError::TooLong));
    }

    #[test]
    fn the_vendor_id_is_the_hash_of_its_text() {
        covers!("R85");
        let digest = ring::digest::digest(&ring::digest::SHA256, b"mifsec IKEv2-MIF v1");
        assert_eq!(VENDOR_ID, digest.as_ref()[..16]);
        assert!(is_vendor_id(&VENDOR_ID));
        assert!(!is_vendor_id(&VENDOR_ID[..15]));
    }

    fn table() -> Interfaces {
        let record = |id, address: &str| InterfaceRecord {
            id: IfaceId(id),
            class: LinkClass::WLAN,
            state: IfaceState::UP,
            priority: 0,
            weight: 70,
            mtu: 1500,
            addresses: vec![Maddr::new(ip(address), 4500)],
        };
        Interfaces {
            epoch: 1,
            records: vec![record(1, "192.0.2.1"), record(2, "2001:db8::2")],
        }
    }

    #[test]
    fn interfaces_have_the_documented_layout() {
        assert_eq!(
            hex(&table().notify().data),
            golden(
                "00000001 02 00 0000
                 0001 02 02 00 46 05dc 01 000000 01001194 c0000201
                 0002 02 02 00 46 05dc 01 000000 02001194 20010db8000000000000000000000002"
            )
        );
        assert_eq!(
            Interfaces::decode(&table().notify().data, &policy()),
            Ok((table(), 0))
        );
    }

    #[test]
    fn a_table_is_cut_to_one_packet_and_every_interface_keeps_its_best_address() {
        let mut large = Interfaces {
            epoch: 1,
            records: (1..=20)
                .map(|id| InterfaceRecord {
                    id: IfaceId(id),
                    addresses: (0..12)
                        .map(|n| Maddr::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, id, n]), 0))
                        .collect(),
                    ..table().records[0].clone()
                })
                .collect(),
        };
        assert!(large.fit(16));
        assert_eq!(large.records.len(), 16);
        let data = large.notify().data;
        assert!(data.len() <= 640 && data.len() > 600, "{}", data.len());
        for record in &large.records {
            let best = [0x2001, 0xdb8, 0, 0, 0, 0, record.id.0, 0];
            assert_eq!(record.addresses[0].ip, IpAddr::from(best));
        }
        assert!(!large.fit(16), "what fits is left alone");
        let mut whole = Interfaces {
            records: vec![large.records[0].clone(); 40],
            ..large
        };
        assert!(
            whole.limit(30),
            "a peer that takes fragments has a limit too"
        );
        assert_eq!(whole.records.len(), 30);
        assert!(whole.notify().data.len() > 640);
    }

    #[test]
    fn epochs_compare_as_serial_numbers() {
        let at = |epoch| Interfaces {
            epoch,
            records: Vec::new(),
        };
        assert!(at(1).is_newer_than(0));
        assert!(at(0).is_newer_than(u32::MAX));
        assert!(!at(5).is_newer_than(5));
        assert!(!at(5).is_newer_than(6));
        assert!(!at(1 << 31).is_newer_than(0));
    }

    #[test]
    fn addresses_that_cannot_be_a_peers_are_refused_by_name_and_left_out_of_a_table() {
        let own = AddressPolicy {
            own: vec![ip("192.0.2.9")],
            ..policy()
        };
        for (address, refusal) in [
            ("0.0.0.0", Refusal::Unspecified),
            ("::", Refusal::Unspecified),
            ("224.0.0.1", Refusal::Multicast),
            ("255.255.255.255", Refusal::Multicast),
            ("ff02::1", Refusal::Multicast),
            ("127.0.0.1", Refusal::Loopback),
            ("::1", Refusal::Loopback),
            ("169.254.1.1", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("::ffff:192.0.2.1", Refusal::Mapped),
            ("192.0.2.9", Refusal::Ours),
        ] {
            let mut table = table();
            let bad = Maddr::new(ip(address), 0);
            let error = own.check(&bad).unwrap_err();
            assert_eq!(error, MifError::Address(ip(address), refusal));
            assert_eq!(error.notify_type(), error::MIF_ADDRESS_REJECTED);
            let good = table.clone();
            table.records[1].addresses.push(bad);
            let read = Interfaces::decode(&table.notify().data, &own);
            assert_eq!(read, Ok((good, 1)));
        }
    }

    #[test]
    fn of_a_path_only_the_senders_address_is_judged() {
        let own = AddressPolicy {
            own: vec![ip("192.0.2.9")],
            ..policy()
        };
        let outer = OuterAddrs {
            init_iface: IfaceId(1),
            resp_iface: IfaceId(1),
            flags: OuterFlags::ANY_RESPONDER,
            initiator: Maddr::new(ip("198.51.100.1"), 0),
            responder: Maddr::new(ip("192.0.2.9"), 0),
        };
        let data = outer.notify().data;
        assert_eq!(OuterAddrs::decode(&data, &own, true), Ok(outer));
        assert!(OuterAddrs::decode(&data, &own, false).is_err());
    }

    #[test]
    fn an_address_behind_a_nat_may_look_like_ours() {
        let own = AddressPolicy {
            own: vec![ip("192.168.1.2")],
            ..policy()
        };
        let mut address = Maddr::new(ip("192.168.1.2"), 4500);
        assert!(own.check(&address).is_err());
        address.flags = MaddrFlags::BEHIND_NAT;
        assert_eq!(own.check(&address), Ok(()));
        address.ip = ip("127.0.0.1");
        assert!(own.check(&address).is_err());
    }

    #[test]
    fn a_reserved_probe_spi_is_refused_where_there_is_to_be_a_probe_sa() {
        let mut supported = Supported::ours(Spi(255));
        assert_eq!(
            Supported::decode(&supported.notify().data),
            Err(MifError::Spi(Spi(255)))
        );
        supported.features = Features::TUNNEL;
        assert!(Supported::decode(&supported.notify().data).is_ok());
    }

    #[test]
    fn loopback_and_link_local_pass_where_they_are_allowed() {
        let lab = AddressPolicy {
            loopback: true,
            link_local: true,
            ..policy()
        };
        for address in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1"] {
            assert_eq!(lab.check(&Maddr::new(ip(address), 0)), Ok(()));
        }
        assert!(lab.check(&Maddr::new(ip("0.0.0.0"), 0)).is_err());
    }

    #[test]
    fn counts_are_refused_before_anything_is_allocated() {
        let mut data = table().notify().data;
        data[4] = 255;
        let error = Interfaces::decode(&data, &policy()).unwrap_err();
        assert_eq!(error, MifError::TooMany("interfaces"));
        assert_eq!(error.notify_type(), error::MIF_LIMIT_EXCEEDED);
        let mut data = table().notify().data;
        data[16] = 255;
        let error = Interfaces::decode(&data, &policy()).unwrap_err();
        assert_eq!(error, MifError::TooMany("addresses of an interface"));
    }

    #[test]
    fn an_interface_named_twice_or_zero_is_refused() {
        for id in [0, 1] {
            let mut table = table();
            table.records[1].id = IfaceId(id);
            let error = Interfaces::decode(&table.notify().data, &policy());
            assert_eq!(error, Err(MifError::Interface(IfaceId(id))));
        }
    }

    #[test]
    fn an_unknown_family_is_refused() {
        let mut data = table().notify().data;
        data[20] = 3;
        assert_eq!(
            Interfaces::decode(&data, &policy()),
            Err(MifError::Family(3))
        );
    }

    #[test]
    fn a_newer_longer_capability_is_read_as_far_as_known() {
        let supported = Supported::ours(Spi(300));
        let mut data = supported.notify().data;
        data[0] = 2;
        data.extend([1, 2, 3]);
        assert_eq!(Supported::decode(&data), Ok(supported));
        data[0] = 0;
        assert_eq!(Supported::decode(&data), Err(MifError::Version(0)));
    }

    #[test]
    fn a_selection_of_our_own_address_is_not_judged_as_the_peers() {
        let own = AddressPolicy {
            own: vec![ip("192.0.2.9")],
            ..policy()
        };
        let mut update = UpdateAddrs {
            txn: 1,
            flags: UpdateFlags::TUNNEL,
            grace_ms: 0,
            old_iface: IfaceId(1),
            new_iface: IfaceId(1),
            old: Maddr::new(ip("192.0.2.1"), 0),
            new: Maddr::new(ip("192.0.2.9"), 0),
        };
        assert!(UpdateAddrs::decode(&update.notify().data, &own).is_err());
        update.flags = update.flags.with(UpdateFlags::SELECT_PEER);
        assert!(UpdateAddrs::decode(&update.notify().data, &own).is_ok());
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let update = UpdateAddrs {
            txn: 1,
            flags: UpdateFlags::TUNNEL,
            grace_ms: 0,
            old_iface: IfaceId(1),
            new_iface: IfaceId(1),
            old: Maddr::new(ip("192.0.2.1"), 0),
            new: Maddr::new(ip("2001:db8::1"), 0),
        };
        let outer = OuterAddrs {
            init_iface: IfaceId(3),
            resp_iface: IfaceId(1),
            flags: OuterFlags::BUNDLE,
            initiator: update.old,
            responder: update.new,
        };
        let refuses = |data: &[u8], decode: &dyn Fn(&[u8]) -> bool, tail: bool| {
            assert!(decode(data));
            for end in 0..data.len() {
                assert!(!decode(&data[..end]), "{end} octets");
            }
            assert_eq!(decode(&[data, &[0]].concat()), tail);
        };
        let policy = policy();
        refuses(
            &table().notify().data,
            &|data| Interfaces::decode(data, &policy).is_ok(),
            false,
        );
        refuses(
            &update.notify().data,
            &|data| UpdateAddrs::decode(data, &policy).is_ok(),
            false,
        );
        refuses(
            &outer.notify().data,
            &|data| OuterAddrs::decode(data, &policy, true).is_ok(),
            false,
        );
        refuses(
            &Supported::ours(Spi(300)).notify().data,
            &|data| Supported::decode(data).is_ok(),
            true,
        );
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(data in proptest::collection::vec(any::<u8>(), 0..256)) {
            let policy = policy();
            let _ = Supported::decode(&data);
            let _ = Interfaces::decode(&data, &policy);
            let _ = OuterAddrs::decode(&data, &policy, true);
            let _ = UpdateAddrs::decode(&data, &policy);
            let _ = AddInterface::decode(&data, Some(&policy));
            let _ = DerivedSas::decode(&data, 64);
            let _ = DeleteInterface::decode(&data);
        }

        #[test]
        fn tables_survive_a_round_trip(
            epoch in any::<u32>(),
            records in proptest::collection::btree_map(
                1..=u16::MAX,
                (any::<[u8; 4]>(), any::<u16>(), proptest::collection::vec(
                    (any::<u8>(), any::<u16>(), 0x0101_0101u32..0x7e00_0000), 0..8)),
                0..8,
            ),
        ) {
            let records = records.into_iter().map(|(id, ([class, state, priority, weight], mtu, ips))| {
                InterfaceRecord {
                    id: IfaceId(id),
                    class: LinkClass(class),
                    state: IfaceState(state),
                    priority,
                    weight,
                    mtu,
                    addresses: ips.into_iter().map(|(flags, port, ip)| Maddr {
                        flags: MaddrFlags(flags),
                        port,
                        ip: std::net::Ipv4Addr::from(ip).into(),
                    }).collect(),
                }
            }).collect();
            let table = Interfaces { epoch, records };
            prop_assert_eq!(Interfaces::decode(&table.notify().data, &policy()), Ok((table, 0)));
        }
    }
}
