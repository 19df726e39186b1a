//! Requests a peer with our keys could send and ours never does: each is refused
//! in the RFC's words. What ours does send is tested in the `tests` package.

use std::time::Duration;

use crate::crypto::{Secret, SeededEntropy};
use crate::ids::{Arrival, IfaceId, Spi};
use crate::ike::config::{ChildConfig, Lifetime, PeerConfig, Require};
use crate::ike::event::Channel;
use crate::ike::message::{Config, ConfigType, Delete, Ke, Notify};
use crate::ike::mif::{
    IfaceState, InterfaceRecord, Interfaces, LinkClass, MAX_RECORDS, Maddr, OuterAddrs, OuterFlags,
    UpdateAddrs, UpdateFlags, error as mif_error, status,
};
use crate::ike::peer::{LocalAuth, PskSource, RemoteAuth};
use crate::ike::proposal;
use crate::ike::selector::{TsEntry, TsSpec};
use crate::ike::timer::tests::some_instant;

use super::*;

mod mobike;

/// Two engines and the time.
struct Two {
    a: Engine,
    b: Engine,
    now: Instant,
}

fn config(local: &str, remote: &str, specs: [Vec<TsSpec>; 2]) -> EngineConfig {
    let [local_ts, remote_ts] = specs;
    EngineConfig {
        peers: vec![PeerConfig {
            name: "peer".into(),
            remote: Vec::new(),
            local_id: local.parse().unwrap(),
            remote_id: remote.parse().unwrap(),
            local_auth: LocalAuth::Psk,
            remote_auth: RemoteAuth::psk(PskSource::One(Secret::new(b"secret".to_vec()))),
            request_v4: false,
            request_v6: false,
            inner_addresses: 1,
            pool: None,
            require: Require::Any,
            mobility: Default::default(),
            ike_proposals: vec![proposal::IkeProposal::default()],
            esp_proposals: vec![proposal::EspProposal::default()],
            dpd: None,
            rekey: Lifetime::NEVER,
            ike_rekey: Lifetime::NEVER,
            childless: false,
            children: vec![ChildConfig {
                name: "net".into(),
                local_ts,
                remote_ts,
                bundle: true,
                replay_window: 64,
            }],
        }],
        ..EngineConfig::default()
    }
}

fn iface(id: u16, address: &str) -> InterfaceRecord {
    InterfaceRecord {
        id: IfaceId(id),
        class: LinkClass::UNSPECIFIED,
        state: IfaceState::UP,
        priority: 0,
        weight: 1,
        mtu: 0,
        addresses: vec![Maddr::new(address.parse().unwrap(), 0)],
    }
}

impl Two {
    fn established() -> Self {
        Self::established_with(|_, _| {})
    }

    fn established_with(change: impl FnOnce(&mut EngineConfig, &mut EngineConfig)) -> Self {
        let net = |text: &str| vec![TsSpec::Net(text.parse().unwrap())];
        let specs = [net("10.1.0.0/16"), net("10.2.0.0/16")];
        let [here, there] = specs.clone();
        let mut a = config("a.example", "b.example", specs);
        let mut b = config("b.example", "a.example", [there, here]);
        change(&mut a, &mut b);
        let engine =
            |config, seed| Engine::new(config, Box::new(SeededEntropy::new(seed))).unwrap();
        let mut two = Self {
            a: engine(a, 1),
            b: engine(b, 2),
            now: some_instant(),
        };
        let ifaces = vec![iface(1, "192.0.2.1"), iface(2, "192.0.2.2")];
        two.a
            .handle_command(Command::SetInterfaces { ifaces }, two.now);
        let ifaces = vec![iface(1, "203.0.113.1")];
        two.b
            .handle_command(Command::SetInterfaces { ifaces }, two.now);
        let channel = Channel {
            local_iface: IfaceId(1),
            ifindex: 0,
            local: "192.0.2.1:500".parse().unwrap(),
            remote: "203.0.113.1:500".parse().unwrap(),
        };
        let peer = "peer".into();
        two.a
            .handle_command(Command::Initiate { peer, channel }, two.now);
        two.shuttle();
        two
    }

    /// Carries datagrams to and fro until there are none.
    fn shuttle(&mut self) {
        loop {
            let mut quiet = true;
            for _ in 0..2 {
                while let Some(transmit) = self.a.poll_transmit() {
                    quiet = false;
                    let arrival = Arrival {
                        ifindex: 1,
                        local: transmit.remote,
                        remote: transmit.local,
                    };
                    self.b.handle_datagram(arrival, &transmit.payload, self.now);
                }
                std::mem::swap(&mut self.a, &mut self.b);
            }
            if quiet {
                break;
            }
        }
    }

    fn sa(engine: &mut Engine) -> &mut IkeSa {
        engine.cx.sas.values_mut().next().unwrap()
    }

    fn arrival() -> Arrival {
        Arrival {
            ifindex: 1,
            local: "203.0.113.1:4500".parse().unwrap(),
            remote: "192.0.2.1:4500".parse().unwrap(),
        }
    }

    /// What B answers to octets of A.
    fn deliver(&mut self, bytes: &[u8]) -> Option<Vec<Payload>> {
        self.b.handle_datagram(Self::arrival(), bytes, self.now);
        let answer = self.b.poll_transmit()?;
        Self::sa(&mut self.a).read(&answer.payload)
    }

    /// What B answers to a request of A.
    fn ask(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let bytes = Self::sa(&mut self.a).forge(exchange, payloads)?;
        self.deliver(&bytes)
    }

    fn tell(&mut self, notify: Notify) -> Vec<Payload> {
        self.ask(ExchangeType::INFORMATIONAL, &[Payload::Notify(notify)])
            .unwrap()
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.b.poll_event()).collect()
    }

    fn children(&mut self) -> usize {
        Self::sa(&mut self.b).children.len()
    }
}

/// The one notify in a response.
fn notified(payloads: Option<Vec<Payload>>) -> NotifyType {
    match payloads.as_deref() {
        Some([Payload::Notify(notify)]) => notify.kind,
        other => panic!("{other:?}"),
    }
}

fn table(epoch: u32, records: Vec<InterfaceRecord>) -> Notify {
    Interfaces { epoch, records }.notify()
}

fn update(txn: u32, flags: UpdateFlags, iface: (u16, u16), new: &str) -> Notify {
    UpdateAddrs {
        txn,
        flags,
        grace_ms: 0,
        old_iface: IfaceId(iface.0),
        new_iface: IfaceId(iface.1),
        old: Maddr::new("192.0.2.1".parse().unwrap(), 0),
        new: Maddr::new(new.parse().unwrap(), 4500),
    }
    .notify()
}

#[test]
fn an_old_transaction_has_no_effect_and_is_told_so_if_it_contradicts() {
    let mut two = Two::established();
    let moved = |two: &mut Two| {
        let events = two.events();
        events.iter().any(|e| matches!(e, Event::PeerMoved { .. }))
    };
    let tunnel = UpdateFlags::TUNNEL;
    two.events();
    assert_eq!(two.tell(update(7, tunnel, (1, 1), "192.0.2.70")), []);
    assert!(moved(&mut two));
    // The same again, and an older one with the same content: done already.
    for txn in [7, 6] {
        assert_eq!(two.tell(update(txn, tunnel, (1, 1), "192.0.2.70")), []);
        assert!(!moved(&mut two));
    }
    let stale = two.tell(update(6, tunnel, (1, 1), "192.0.2.60"));
    assert_eq!(notified(Some(stale)), mif_error::MIF_STALE_TXN);
    assert!(!moved(&mut two));
    // Another interface has its own order; serial arithmetic wraps.
    assert_eq!(two.tell(update(u32::MAX, tunnel, (2, 2), "192.0.2.61")), []);
    assert!(moved(&mut two));
    assert_eq!(two.tell(update(1, tunnel, (2, 2), "192.0.2.62")), []);
    assert!(moved(&mut two));
}

#[test]
fn moves_are_remembered_of_announced_interfaces_only() {
    let mut two = Two::established();
    for id in 10..200 {
        let ifaces = vec![iface(id, "192.0.2.70")];
        two.tell(table(u32::from(id), ifaces));
        let moved = update(1, UpdateFlags::TUNNEL, (id, id), "192.0.2.71");
        assert_eq!(two.tell(moved), []);
    }
    let mif = Two::sa(&mut two.b).mif.as_ref().unwrap();
    assert!(mif.moves.remembered() <= MAX_RECORDS + 1);
}

#[test]
fn an_interface_has_no_more_addresses_after_moves_than_its_table_may_have() {
    let mut two = Two::established();
    for n in 1..100u8 {
        let moved = update(
            n.into(),
            UpdateFlags::TUNNEL,
            (1, 1),
            &format!("198.51.100.{n}"),
        );
        assert_eq!(two.tell(moved), []);
    }
    let mif = Two::sa(&mut two.b).mif.as_ref().unwrap();
    let iface = mif.peer_ifaces.iter().find(|iface| iface.id == IfaceId(1));
    let addresses = &iface.unwrap().addresses;
    assert_eq!(addresses.len(), 8);
    assert_eq!(addresses[0].ip.to_string(), "198.51.100.99");
}

#[test]
fn a_move_of_the_channel_alone_moves_no_path() {
    let mut two = Two::established();
    two.events();
    assert_eq!(
        two.tell(update(1, UpdateFlags::IKE_CHANNEL, (1, 2), "192.0.2.2")),
        []
    );
    assert!(matches!(two.events()[..], [Event::ChannelMoved { .. }]));
}

#[test]
fn nobody_moves_what_is_not_his() {
    let mut two = Two::established();
    let tunnel = UpdateFlags::TUNNEL;
    for (notify, expected) in [
        (
            update(
                1,
                tunnel.with(UpdateFlags::SELECT_PEER),
                (1, 1),
                "203.0.113.9",
            ),
            mif_error::MIF_ADDRESS_REJECTED,
        ),
        (
            update(1, UpdateFlags::TRANSPORT, (1, 1), "192.0.2.9"),
            mif_error::MIF_UNSUPPORTED,
        ),
        (
            update(1, tunnel, (8, 8), "192.0.2.9"),
            mif_error::MIF_UNKNOWN_INTERFACE,
        ),
        (
            update(1, tunnel, (1, 8), "192.0.2.9"),
            mif_error::MIF_UNKNOWN_INTERFACE,
        ),
        (
            update(1, tunnel, (1, 1), "203.0.113.1"),
            mif_error::MIF_ADDRESS_REJECTED,
        ),
        (
            Notify::new(status::MIF_STEERING, vec![1, 2, 3]),
            mif_error::MIF_UNSUPPORTED,
        ),
    ] {
        assert_eq!(notified(Some(two.tell(notify))), expected);
    }
    assert!(
        !two.events()
            .iter()
            .any(|e| matches!(e, Event::PeerMoved { .. }))
    );
}

#[test]
fn a_rekey_that_cannot_be_done_is_refused_without_harm() {
    let mut two = Two::established();
    let esp = || {
        Payload::Sa(proposal::offer_esp(
            &[Default::default()],
            Spi(0x1000),
            true,
        ))
    };
    let ike = |text: &str| {
        let offer: proposal::IkeProposal = text.parse().unwrap();
        Payload::Sa(proposal::offer_ike(&[offer], &[1; 8]))
    };
    let nonce = || Payload::Nonce(vec![1; 32]);
    let ke = || {
        Payload::Ke(Ke {
            group: 19,
            data: vec![4; 64],
        })
    };
    let rekey = Notify::about(NotifyType::REKEY_SA, Spi(0x1234_5678));
    for (request, expected) in [
        (
            vec![Payload::Notify(rekey), esp(), nonce()],
            NotifyType::CHILD_SA_NOT_FOUND,
        ),
        (
            vec![ike("aes256gcm16-prfsha256-x25519"), nonce(), ke()],
            NotifyType::INVALID_KE_PAYLOAD,
        ),
        (
            vec![ike("aes256gcm16-prfsha512-modp2048"), nonce(), ke()],
            NotifyType::NO_PROPOSAL_CHOSEN,
        ),
    ] {
        let answer = two.ask(ExchangeType::CREATE_CHILD_SA, &request);
        assert_eq!(notified(answer), expected);
    }
    assert_eq!(two.children(), 1);
    assert_eq!(
        two.tell(Notify::new(
            NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED,
            vec![]
        )),
        []
    );
}

fn create(ts: bool, notify: Option<Notify>) -> Vec<Payload> {
    let entry = |net: &str| {
        let net: ipnet::IpNet = net.parse().unwrap();
        vec![TsEntry::Range(net.into())]
    };
    let mut payloads = vec![
        Payload::Sa(proposal::offer_esp(
            &[Default::default()],
            Spi(0x1000),
            true,
        )),
        Payload::Nonce(vec![1; 32]),
    ];
    if ts {
        payloads.push(Payload::TsI(entry("10.1.0.0/16")));
        payloads.push(Payload::TsR(entry("10.2.0.0/16")));
    }
    payloads.extend(notify.map(Payload::Notify));
    payloads
}

fn outer(init: u16, resp: u16, flags: OuterFlags) -> Notify {
    OuterAddrs {
        init_iface: IfaceId(init),
        resp_iface: IfaceId(resp),
        flags,
        initiator: Maddr::new("192.0.2.2".parse().unwrap(), 0),
        responder: Maddr::new("203.0.113.1".parse().unwrap(), 0),
    }
    .notify()
}

#[test]
fn a_path_must_be_of_announced_interfaces_and_in_tunnel_mode() {
    let mut two = Two::established();
    let bundle = OuterFlags::BUNDLE;
    for (notify, expected) in [
        (outer(9, 1, bundle), mif_error::MIF_UNKNOWN_INTERFACE),
        (outer(2, 9, bundle), mif_error::MIF_UNKNOWN_INTERFACE),
        (
            outer(2, 1, bundle.with(OuterFlags::TRANSPORT)),
            mif_error::MIF_MODE_MISMATCH,
        ),
        (
            outer(2, 1, OuterFlags::default()),
            mif_error::MIF_SELECTOR_EXISTS,
        ),
    ] {
        let answer = two.ask(ExchangeType::CREATE_CHILD_SA, &create(true, Some(notify)));
        assert_eq!(notified(answer), expected);
    }
    assert_eq!(two.children(), 1);
    let any = outer(2, 9, bundle.with(OuterFlags::ANY_RESPONDER));
    let answer = two
        .ask(ExchangeType::CREATE_CHILD_SA, &create(true, Some(any)))
        .unwrap();
    let echo = Payload::Notify(outer(2, 1, bundle.with(OuterFlags::ANY_RESPONDER)));
    assert!(answer.contains(&echo), "the responder picked: {answer:?}");
    assert_eq!(two.children(), 2);
}

#[test]
fn nothing_new_is_begun_while_the_ike_sa_closes() {
    let mut two = Two::established();
    let ike = Two::sa(&mut two.b).id;
    two.b.handle_command(Command::DeleteIke { ike }, two.now);
    while two.b.poll_transmit().is_some() {}
    let answer = two.ask(ExchangeType::CREATE_CHILD_SA, &create(true, None));
    assert_eq!(notified(answer), NotifyType::TEMPORARY_FAILURE);
}

#[test]
fn a_critical_payload_we_do_not_know_refuses_its_request_only() {
    let mut two = Two::established();
    let critical = [0, 0x80, 0, 6, 1, 2];
    let bytes = Two::sa(&mut two.a).forge_raw(200, &critical).unwrap();
    let answer = two.deliver(&bytes);
    let Some([Payload::Notify(notify)]) = answer.as_deref() else {
        panic!("{answer:?}");
    };
    assert_eq!(notify.kind, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD);
    assert_eq!(notify.data, [200]);
    // Not critical: passed over.
    let bytes = Two::sa(&mut two.a)
        .forge_raw(200, &[0, 0, 0, 6, 1, 2])
        .unwrap();
    assert_eq!(two.deliver(&bytes), Some(vec![]));
    assert_eq!(two.b.counters()["ike_critical_payload"], 1);
}

#[test]
fn a_sealed_message_that_breaks_its_format_ends_the_ike_sa_at_both_ends() {
    let mut two = Two::established();
    let bytes = Two::sa(&mut two.a).forge_raw(41, &[0, 0, 0, 99]).unwrap();
    let answer = two.deliver(&bytes);
    assert_eq!(notified(answer), NotifyType::INVALID_SYNTAX);
    assert!(two.b.views().is_empty());
    let closed = two.events();
    assert!(closed.iter().any(|e| matches!(e, Event::Closed { .. })));
    // The answer is repeated to a duplicate, and then forgotten.
    assert_eq!(notified(two.deliver(&bytes)), NotifyType::INVALID_SYNTAX);
    two.now += Duration::from_secs(10);
    two.b.handle_timeout(two.now);
    assert_eq!(two.deliver(&bytes), None);
}

#[test]
fn requests_out_of_place_are_not_answered() {
    let mut two = Two::established();
    let auth = [Payload::Config(Config {
        kind: ConfigType::REQUEST,
        attributes: vec![],
    })];
    for exchange in [ExchangeType::IKE_AUTH, ExchangeType(99)] {
        let before = Two::sa(&mut two.a).outbound.next_id();
        assert_eq!(two.ask(exchange, &auth), None);
        assert_eq!(two.b.views().len(), 1);
        assert_eq!(Two::sa(&mut two.a).outbound.next_id(), before + 1);
    }
}

#[test]
fn a_delete_of_what_is_not_there_is_answered_empty() {
    let mut two = Two::established();
    let delete = Payload::Delete(Delete::Esp(vec![Spi(0xdead_beef)]));
    assert_eq!(
        two.ask(ExchangeType::INFORMATIONAL, &[delete]),
        Some(vec![])
    );
    assert_eq!(two.children(), 1);
}

#[test]
fn a_peer_without_the_extension_gets_none_of_it() {
    let mut two = Two::established();
    Two::sa(&mut two.b).mif = None;
    let answer = two.tell(Notify::new(status::MIF_ADD_INTERFACE, vec![1]));
    assert_eq!(answer, [], "unknown status notifies are ignored");
    let request = create(true, Some(outer(9, 9, OuterFlags::BUNDLE)));
    let answer = two.ask(ExchangeType::CREATE_CHILD_SA, &request);
    assert_eq!(
        notified(answer),
        NotifyType::NO_ADDITIONAL_SAS,
        "equal selectors, in words anybody knows"
    );
}

#[test]
fn return_routability_of_the_peer_is_answered() {
    let mut two = Two::established();
    let cookie = Notify::new(NotifyType::COOKIE2, vec![7; 16]);
    let answer = two.tell(cookie.clone());
    assert_eq!(answer, [Payload::Notify(cookie)]);
}

#[test]
fn a_table_too_large_is_refused_whole() {
    let mut two = Two::established();
    two.events();
    let table = |records| table(100, records);
    let many = (1..100).map(|id| iface(id, "192.0.2.1")).take(40).collect();
    let answer = two.tell(table(many));
    assert_eq!(notified(Some(answer)), mif_error::MIF_LIMIT_EXCEEDED);
    assert!(two.events().is_empty());
    assert_eq!(two.tell(table(vec![iface(1, "192.0.2.9")])), []);
    assert_eq!(
        two.tell(table(vec![iface(1, "192.0.2.8")])),
        [],
        "not newer"
    );
    assert_eq!(two.events().len(), 1);
}

/// The tables B was told, as addresses.
mod bad_input;
mod redirect;

fn announced(two: &mut Two) -> Vec<Vec<String>> {
    let of = |event| match event {
        Event::PeerInterfaces { ifaces, .. } => Some(ifaces),
        _ => None,
    };
    let texts = |ifaces: Vec<InterfaceRecord>| {
        let addresses = ifaces.into_iter().flat_map(|iface| iface.addresses);
        addresses.map(|maddr| maddr.ip.to_string()).collect()
    };
    two.events().into_iter().filter_map(of).map(texts).collect()
}

#[test]
fn a_bad_address_is_left_out_of_its_table_and_counted() {
    let mut two = Two::established();
    two.events();
    let ifaces = vec![iface(1, "192.0.2.1"), iface(2, "224.0.0.5")];
    assert_eq!(two.tell(table(100, ifaces)), []);
    assert_eq!(announced(&mut two), [["192.0.2.1"]]);
    assert_eq!(two.b.counters()["mif_address"], 1);
}

#[test]
fn inside_addresses_of_a_providers_nat_may_be_the_same_at_both_ends() {
    let mut two = Two::established();
    let ifaces = vec![iface(1, "100.64.0.5"), iface(2, "100.128.0.5")];
    two.b
        .handle_command(Command::SetInterfaces { ifaces }, two.now);
    while two.b.poll_transmit().is_some() {}
    two.events();
    let theirs = vec![iface(1, "100.64.0.5"), iface(2, "100.128.0.5")];
    assert_eq!(two.tell(table(100, theirs)), []);
    assert_eq!(announced(&mut two), [["100.64.0.5"]]);
}

#[test]
fn a_peer_is_told_no_more_interfaces_than_it_keeps() {
    let mut two = Two::established_with(|_, b| b.limits.interfaces = 1);
    assert_eq!(announced(&mut two), [["192.0.2.1"]]);
    assert_eq!(two.a.counters()["mif_table_trimmed"], 1);
    let ours = crate::ike::mif::Supported::ours(Spi(300)).max_ifaces;
    let kept = crate::ike::config::Limits::default().interfaces;
    assert_eq!(usize::from(ours), kept);
}

#[test]
fn a_long_message_is_sent_in_fragments_or_else_whole_and_counted() {
    // 16 octets per selector and side.
    for (selectors, room, oversized) in [(20, 1228, None), (60, 1228, None), (60, 9000, Some(&1))] {
        let mut two = Two::established_with(|a, b| {
            a.fragment_size = room;
            b.fragment_size = room;
            let nets = |site: u8| {
                let net = |n: u8| TsSpec::Net(format!("10.{site}.{n}.0/24").parse().unwrap());
                (0..selectors).map(move |n| net(n * 2)).collect()
            };
            a.peers[0].children[0].local_ts = nets(1);
            a.peers[0].children[0].remote_ts = nets(2);
        });
        assert_eq!(two.children(), 1);
        for engine in [&two.a, &two.b] {
            assert_eq!(engine.counters().get("ike_oversize_sent"), oversized);
        }
    }
}

#[test]
fn what_names_no_path_is_on_the_channels_once_its_interfaces_are_known() {
    let mut two = Two::established();
    let ike = Two::sa(&mut two.b).id;
    let (local, remote) = (IfaceId(1), IfaceId(1));
    let remote_of = |two: &mut Two| Two::sa(&mut two.b).channel_pair().remote;
    assert_eq!(remote_of(&mut two), IfaceId::CHANNEL);
    let resolve = Command::ResolveChannel { ike, local, remote };
    two.b.handle_command(resolve, two.now);
    assert_eq!(remote_of(&mut two), remote);
    // Equal selectors on the same path, where there was an unresolved one.
    let answer = two.ask(ExchangeType::CREATE_CHILD_SA, &create(true, None));
    assert_eq!(notified(answer), mif_error::MIF_SELECTOR_EXISTS);
    // The peer says which interface it moves the channel to.
    two.tell(update(1, UpdateFlags::IKE_CHANNEL, (1, 2), "192.0.2.2"));
    assert_eq!(remote_of(&mut two), IfaceId(2));
    // We move it: the address tells.
    let channel = Channel {
        remote: "192.0.2.2:4500".parse().unwrap(),
        ..Two::sa(&mut two.b).channel
    };
    two.b
        .handle_command(Command::MoveChannel { ike, channel }, two.now);
    assert_eq!(remote_of(&mut two), IfaceId(2));
}

#[test]
fn a_demand_for_mif_fails_closed_at_both_ends() {
    for responder in [false, true] {
        let mut two = Two::established_with(|a, b| {
            let demanding = if responder { b } else { a };
            demanding.peers[0].require = Require::Mif;
        });
        assert_eq!(two.b.views().len(), 1, "between us it is met");
        let sa = Two::sa(&mut two.b);
        sa.mif = None;
        assert_eq!(
            crate::ike::task::auth::lacking(sa).is_some(),
            responder,
            "without it the demanding end has a reason to refuse"
        );
    }
}
