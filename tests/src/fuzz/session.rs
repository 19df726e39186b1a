//! Two engines with an IKE SA between them, and an input that says what
//! happens: an end that holds the keys and keeps no rule, forged and repeated
//! datagrams, loss, time, commands.

use std::time::Duration;

use mifsec::ids::{Arrival, ChildId, IfaceId, IfacePair, Spi};
use mifsec::ike::message::{
    Attribute, AttributeType, Auth, AuthMethod, Config, ConfigType, Delete, ExchangeType, Fragment,
    Header, Id, IdType, Ke, Notify, NotifyType, Payload, PayloadType,
};
use mifsec::ike::proposal::{EspProposal, IkeProposal, offer_esp, offer_ike};
use mifsec::ike::selector::{TrafficSelector, to_entries};
use mifsec::ike::{Command, End};

use super::input::Input;
use crate::sim::multi::{self, ETH, GATEWAY2};
use crate::sim::setup::{self, GATEWAY, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS};
use crate::sim::{A, B, Pair, ip};

/// Most steps of one input.
const STEPS: usize = 48;

/// What happens to an established pair.
///
/// # Panics
/// When a property of [`crate::sim`] does not hold, or it is never quiet again.
pub fn session(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = setup::established(setup::user(), setup::gateway(), u64::from(input.u8()));
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut pair, &mut input);
    }
    // Nothing is asked for any more: all that was begun ends within the time of
    // a request that nobody answers.
    pair.run(Duration::from_secs(600));
    for end in &pair.ends {
        assert!(end.larval.is_empty(), "an SPI is held for nothing");
    }
}

/// Fragments of one end's messages in any order and number, sealed with its keys
/// (RFC 7383 2.6).
///
/// # Panics
/// As [`session`].
pub fn fragments(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.u8());
    let mut pair = setup::established(setup::user(), setup::gateway(), seed);
    let id = pair
        .log
        .iter()
        .filter(|(_, who, _)| *who == A)
        .filter_map(|(_, _, transmit)| Header::decode(&transmit.payload).ok())
        .filter(|(header, ..)| !header.response)
        .map(|(header, ..)| header.message_id + 1)
        .max()
        .unwrap_or(0);
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let op = input.u8();
        let id = id
            .wrapping_add(u32::from(op & 3))
            .wrapping_sub(u32::from(op >> 6 & 1));
        let (number, total) = (u16::from(input.u8()), u16::from(input.u8()));
        let fragment = Fragment {
            first: PayloadType(input.u8()),
            number,
            total,
            octets: if op & 8 == 0 {
                input.counted().to_vec()
            } else {
                vec![op; usize::from(input.u16() % 2048)]
            },
        };
        let ike = pair.ends[A].engine.views().first().map(|view| view.ike);
        let Some(ike) = ike else { break };
        let engine = &mut pair.ends[A].engine;
        if let Some(bytes) = engine.forge_fragment(ike, id, op & 0x10 != 0, &fragment) {
            pair.inject(B, arrival(B), &bytes);
        }
        if op & 4 != 0 {
            pair.run(Duration::from_millis(u64::from(op) * 40));
        }
    }
    pair.run(Duration::from_secs(600));
}

fn step(pair: &mut Pair, input: &mut Input<'_>) {
    let op = input.u8();
    let who = [A, B][usize::from(op >> 7)];
    match op % 10 {
        0..=3 => {
            let exchange = exchange(input.u8());
            let payloads = payloads(pair, who, input);
            pair.forge(who, exchange, None, false, &payloads);
        }
        4 => {
            let exchange = exchange(input.u8());
            let id = u32::from(input.u8());
            let payloads = payloads(pair, who, input);
            pair.forge(who, exchange, Some(id), true, &payloads);
        }
        5 => pair.run(Duration::from_millis(u64::from(input.u16()))),
        6 => {
            if let Some(command) = command(pair, who, input) {
                pair.command(who, command);
            }
        }
        7 => {
            let arrival = arrival(who);
            pair.inject(who, arrival, input.counted());
        }
        8 => {
            let at = usize::from(input.u16());
            if let Some((_, _, transmit)) = pair.log.get(at % pair.log.len().max(1)) {
                let mut bytes = transmit.payload.clone();
                let at = usize::from(input.u16());
                if let Some(octet) = bytes.get_mut(at) {
                    *octet ^= input.u8();
                }
                pair.inject(who, arrival(who), &bytes);
            }
        }
        _ => pair.lose_all(),
    }
}

fn arrival(who: usize) -> Arrival {
    let channel = setup::channel(RAN, RAN_ADDRESS);
    let (local, remote) = if who == A {
        (channel.local, channel.remote)
    } else {
        (channel.remote, channel.local)
    };
    Arrival {
        ifindex: setup::ifindex(local.ip()),
        local,
        remote,
    }
}

fn exchange(number: u8) -> ExchangeType {
    [
        ExchangeType::CREATE_CHILD_SA,
        ExchangeType::CREATE_CHILD_SA,
        ExchangeType::INFORMATIONAL,
        ExchangeType::INFORMATIONAL,
        ExchangeType::IKE_AUTH,
        ExchangeType::IKE_SA_INIT,
        ExchangeType(number),
    ][usize::from(number % 7)]
}

fn command(pair: &mut Pair, who: usize, input: &mut Input<'_>) -> Option<Command> {
    let ike = *pair.ends[who].established().first()?;
    let which = input.u8();
    if which & 0x40 != 0 && pair.ends[who].established().len() == 1 {
        return Some(on_interfaces(pair, who, which & 0xf, input.u8()));
    }
    let (iface, address) = if which & 0x80 == 0 {
        (WLAN, WLAN_ADDRESS)
    } else {
        (RAN, RAN_ADDRESS)
    };
    let channel = setup::channel(iface, address);
    Some(match which % 9 {
        6 => Command::RekeyIke { ike },
        7 => Command::RekeyChild {
            child: nth_child(pair, who, input.u8())?,
        },
        8 => Command::ExpireChild {
            child: nth_child(pair, who, input.u8())?,
        },
        0 => setup::second_member(ike),
        1 => Command::DeleteChild {
            child: nth_child(pair, who, input.u8())?,
        },
        2 => Command::CheckLiveness { ike },
        3 if who == A => Command::MoveChannel { ike, channel },
        4 => Command::ResolveChannel {
            ike,
            local: if who == A { RAN } else { GATEWAY },
            remote: if who == A { GATEWAY } else { RAN },
        },
        5 if input.u8() > 0xe0 => Command::DeleteIke { ike },
        _ => Command::CreateChild {
            ike,
            child: "internet".into(),
            pair: IfacePair {
                local: if who == A { RAN } else { GATEWAY },
                remote: if who == A { GATEWAY } else { RAN },
            },
            local: if who == A {
                ip(RAN_ADDRESS)
            } else {
                ip(setup::GATEWAY_ADDRESS)
            },
            remote: if who == A {
                ip(setup::GATEWAY_ADDRESS)
            } else {
                ip(RAN_ADDRESS)
            },
        },
    })
}

/// Tables, alternates, interfaces added, deleted and carried.
fn on_interfaces(pair: &Pair, who: usize, what: u8, which: u8) -> Command {
    let own: &[IfaceId] = [&[WLAN, RAN, ETH][..], &[GATEWAY, GATEWAY2]][who];
    let others: &[IfaceId] = [&[GATEWAY, GATEWAY2][..], &[WLAN, RAN, ETH]][who];
    let nth = |of: &[IfaceId], n: u8| of[usize::from(n) % of.len()];
    let (iface, by) = (nth(own, which), nth(own, which >> 2));
    let (other, otherwise) = (nth(others, which >> 4), nth(others, which >> 6));
    match what {
        0 => multi::table(who, own),
        1 => multi::table(who, &own[..own.len() - 1]),
        2 => multi::carry(pair, who, End::Local, iface, by),
        3 => multi::carry(pair, who, End::Remote, other, otherwise),
        4 => multi::delete(pair, who, iface),
        5 => Command::SetAlternates {
            ike: multi::ike(pair, who),
            lists: [(iface, own.iter().copied().filter(|i| *i != iface).collect())].into(),
        },
        6 => multi::readdress(pair, who, iface, multi::address(who, iface)),
        _ => {
            let mut command = multi::add(pair, who, iface, other);
            if let Command::AddInterface {
                bundle, lease, pfs, ..
            } = &mut command
            {
                (*bundle, *lease, *pfs) = (what & 1 == 0, what & 2 == 0, what & 4 == 0);
            }
            command
        }
    }
}

fn nth_child(pair: &Pair, who: usize, n: u8) -> Option<ChildId> {
    let children = &pair.ends[who].children;
    children
        .keys()
        .nth(usize::from(n) % children.len().max(1))
        .copied()
}

fn payloads(pair: &Pair, who: usize, input: &mut Input<'_>) -> Vec<Payload> {
    let count = input.u8() % 10;
    (0..count).map(|_| payload(pair, who, input)).collect()
}

/// Mostly what a peer would send, or nearly so; sometimes any octets under any
/// payload type.
fn payload(pair: &Pair, who: usize, input: &mut Input<'_>) -> Payload {
    match input.u8() % 16 {
        0 => Payload::Sa(offer_esp(
            &[EspProposal::default()],
            Spi(input.u32()),
            false,
        )),
        1 => Payload::Sa(offer_ike(&[IkeProposal::default()], input.bytes(8))),
        2 => Payload::Nonce(vec![input.u8(); 32]),
        3 => Payload::Nonce(input.counted().to_vec()),
        4 => Payload::Ke(Ke {
            group: [31, 19, 20, 14, input.u16()][usize::from(input.u8() % 5)],
            data: vec![input.u8(); usize::from(input.u8())],
        }),
        kind @ (5 | 6) => {
            let selectors: Vec<_> = (0..1 + input.u8() % 3)
                .filter_map(|_| selector(input))
                .collect();
            if selectors.is_empty() {
                return Payload::Unknown(PayloadType::TSI, Vec::new());
            }
            let entries = to_entries(&selectors);
            if kind == 5 {
                Payload::TsI(entries)
            } else {
                Payload::TsR(entries)
            }
        }
        7 => {
            let spis = (0..input.u8() % 4).map(|_| spi(pair, who, input)).collect();
            Payload::Delete(Delete::Esp(spis))
        }
        8 if input.u8() > 0xc0 => Payload::Delete(Delete::Ike),
        8 | 9 => Payload::Notify(Notify::about(notify_type(input), spi(pair, who, input))),
        10 | 11 => Payload::Notify(Notify::new(notify_type(input), input.counted().to_vec())),
        12 => Payload::Config(Config {
            kind: ConfigType(1 + input.u8() % 4),
            attributes: (0..input.u8() % 4)
                .map(|_| Attribute {
                    kind: AttributeType(input.u16() % 32),
                    value: input.counted().to_vec(),
                })
                .collect(),
        }),
        13 => Payload::IdI(Id {
            kind: IdType(input.u8() % 13),
            reserved: [0; 3],
            data: input.counted().to_vec(),
        }),
        14 => Payload::Auth(Auth {
            method: AuthMethod(input.u8() % 16),
            data: input.counted().to_vec(),
        }),
        _ => Payload::Unknown(PayloadType(input.u8()), input.counted().to_vec()),
    }
}

/// Numbers that mean something more often than others: those of RFC 7296, of
/// MOBIKE and of MIF.
fn notify_type(input: &mut Input<'_>) -> NotifyType {
    let number = input.u16();
    let near = number & 0x3f;
    NotifyType(match number >> 13 {
        0 => near,
        1 | 2 => 16_384 + near,
        3 => 40_960 + near,
        4 => 0xb800 + (near & 0xf),
        5 => 16_393,
        _ => number,
    })
}

/// An SPI in use, or any.
fn spi(pair: &Pair, who: usize, input: &mut Input<'_>) -> Spi {
    let which = input.u8();
    let children = &pair.ends[who].children;
    let nth = children
        .values()
        .nth(usize::from(which & 0xf) % children.len().max(1));
    match nth {
        Some(child) if which & 0x80 == 0 => child.spi_in,
        Some(child) if which & 0x40 == 0 => child.spi_out,
        _ => Spi(input.u32()),
    }
}

fn selector(input: &mut Input<'_>) -> Option<TrafficSelector> {
    let (start, end) = if input.u8().is_multiple_of(2) {
        (
            std::net::Ipv4Addr::from(input.u32()).into(),
            std::net::Ipv4Addr::from(input.u32()).into(),
        )
    } else {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&input.u16().to_be_bytes());
        let start = std::net::Ipv6Addr::from(octets);
        octets[2..].fill(0xff);
        (start.into(), std::net::Ipv6Addr::from(octets).into())
    };
    TrafficSelector::range(start, end)
}
