//! The end user with three interfaces, the gateway with two, and what is asked of
//! them again and again.

use std::net::IpAddr;
use std::time::Duration;

use mifsec::ids::{IfaceId, IfacePair, IkeId};
use mifsec::ike::config::EngineConfig;
use mifsec::ike::message::{ExchangeType, Header, Notify, NotifyType, Payload};
use mifsec::ike::mif::InterfaceRecord;
use mifsec::ike::{Command, End, Event};
use mifsec_tests::sim::setup::{
    self, GATEWAY, GATEWAY_ADDRESS, RAN, RAN_ADDRESS, WLAN, WLAN_ADDRESS,
};
use mifsec_tests::sim::{A, B, Pair, ip};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The end user's third interface.
pub(crate) const ETH: IfaceId = IfaceId(3);
pub(crate) const ETH_ADDRESS: &str = "192.0.2.130";
/// The gateway's second one.
pub(crate) const SPARE: IfaceId = IfaceId(2);
pub(crate) const SPARE_ADDRESS: &str = "203.0.113.2";

pub(crate) fn users() -> Vec<InterfaceRecord> {
    vec![
        setup::record(WLAN, WLAN_ADDRESS),
        setup::record(RAN, RAN_ADDRESS),
        setup::record(ETH, ETH_ADDRESS),
    ]
}

pub(crate) fn gateways() -> Vec<InterfaceRecord> {
    vec![
        setup::record(GATEWAY, GATEWAY_ADDRESS),
        setup::record(SPARE, SPARE_ADDRESS),
    ]
}

/// Established over the RAN, tables exchanged, no Child SA but the first.
pub(crate) fn tables(user: EngineConfig, gateway: EngineConfig, seed: u64) -> Pair {
    let mut pair = setup::established(user, gateway, seed);
    pair.command(A, Command::SetInterfaces { ifaces: users() });
    let ifaces = gateways();
    pair.command(B, Command::SetInterfaces { ifaces });
    pair.run(SECOND);
    let (a, b) = (pair.a().ike(), pair.b().ike());
    for (who, ike, local, remote) in [(A, a, RAN, GATEWAY), (B, b, GATEWAY, RAN)] {
        pair.command(who, Command::ResolveChannel { ike, local, remote });
    }
    pair
}

/// The same with a member of the bundle on each of the end user's interfaces.
pub(crate) fn members(seed: u64) -> Pair {
    let mut pair = tables(setup::user(), setup::gateway(), seed);
    let ike = pair.a().ike();
    for iface in [WLAN, ETH] {
        pair.command(A, member(ike, "internet", iface));
    }
    pair.run(SECOND);
    assert_eq!(pair.a().children.len(), 3);
    pair
}

pub(crate) fn member(ike: IkeId, child: &str, iface: IfaceId) -> Command {
    Command::CreateChild {
        ike,
        child: child.into(),
        pair: IfacePair {
            local: iface,
            remote: GATEWAY,
        },
        local: ip(address(A, iface)),
        remote: ip(GATEWAY_ADDRESS),
    }
}

/// The address of an interface of `who`.
pub(crate) fn address(who: usize, iface: IfaceId) -> &'static str {
    match (who, iface) {
        (A, WLAN) => WLAN_ADDRESS,
        (A, RAN) => RAN_ADDRESS,
        (A, _) => ETH_ADDRESS,
        (_, GATEWAY) => GATEWAY_ADDRESS,
        _ => SPARE_ADDRESS,
    }
}

/// `who` says that `by` carries `iface`, of its own interfaces or the other end's.
pub(crate) fn carry(pair: &mut Pair, who: usize, end: End, iface: IfaceId, by: IfaceId) {
    let owner = match end {
        End::Local => who,
        End::Remote => 1 - who,
    };
    let ike = pair.ends[who].ike();
    let (old, new): (IpAddr, IpAddr) = (ip(address(owner, iface)), ip(address(owner, by)));
    let command = Command::Carry {
        ike,
        end,
        iface,
        by,
        old,
        new,
        old_is_dead: true,
        grace: Duration::ZERO,
        channel: None,
    };
    pair.command(who, command);
}

/// What carries what of the interfaces of `owner`, as both ends have it: its own
/// view, the other end's.
pub(crate) fn carried(pair: &Pair, owner: usize) -> [Vec<(u16, u16)>; 2] {
    let view = |who: usize, of: End| {
        let end = &pair.ends[who];
        let entries = end.engine.carried(end.ike()).into_iter();
        entries
            .filter(|(end, ..)| *end == of)
            .map(|(_, iface, by)| (iface.0, by.0))
            .collect()
    };
    [view(owner, End::Local), view(1 - owner, End::Remote)]
}

/// Both ends have the same.
pub(crate) fn assert_carried(pair: &Pair, owner: usize, expected: &[(u16, u16)]) {
    let [own, others] = carried(pair, owner);
    assert_eq!(own, expected, "the owner's");
    assert_eq!(others, expected, "the other end's");
}

/// What the agent at `who` was told of carriers, all of it so far.
pub(crate) fn told(pair: &Pair, who: usize) -> Vec<(End, u16, u16)> {
    let events = pair.ends[who].events.iter();
    let told = events.filter_map(|event| match event {
        Event::Carried { end, iface, by, .. } => Some((*end, iface.0, by.0)),
        _ => None,
    });
    told.collect()
}

/// What must not change in a move.
pub(crate) fn identity(pair: &Pair) -> Vec<(u32, u32, Vec<u8>, IfacePair)> {
    let children = pair.ends.iter().flat_map(|end| end.children.values());
    children
        .map(|c| (c.spi_in.0, c.spi_out.0, c.key_in.clone(), c.pair))
        .collect()
}

/// Messages that both ends have sent.
pub(crate) fn messages(pair: &Pair, since: usize) -> usize {
    pair.log[since..].len()
}

/// What the other end answers to an INFORMATIONAL of `who` that no engine would send:
/// its notifies.
pub(crate) fn ask(pair: &mut Pair, who: usize, notifies: Vec<Notify>) -> Vec<NotifyType> {
    let payloads: Vec<_> = notifies.into_iter().map(Payload::Notify).collect();
    let since = pair.log.len();
    let informational = ExchangeType::INFORMATIONAL;
    pair.forge(who, informational, None, false, &payloads);
    pair.run(Duration::from_millis(100));
    let answers = pair.log[since..].iter().filter(|(_, from, _)| *from != who);
    let read: Vec<(Header, Vec<Payload>)> = answers
        .filter_map(|(_, _, sent)| pair.ends[1 - who].engine.reveal(&sent.payload))
        .filter(|(header, _)| header.response)
        .collect();
    let [(_, payloads)] = &read[..] else {
        panic!("{} answers", read.len());
    };
    let kinds = payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify.kind),
        _ => None,
    });
    kinds.collect()
}
