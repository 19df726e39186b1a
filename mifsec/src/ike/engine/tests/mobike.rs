//! What a peer with our keys could say about addresses.

use crate::ike::Failure;

use super::*;

/// MOBIKE without MIF.
fn two() -> Two {
    let mut two = Two::established_with(|a, b| {
        for config in [a, b] {
            config.peers[0].mobility.mif = false;
            config.peers[0].mobility.force_udp = false;
        }
    });
    two.events();
    two
}

fn update_sa_addresses() -> Notify {
    Notify::new(NotifyType::UPDATE_SA_ADDRESSES, Vec::new())
}

/// A request of A as it comes from another address.
fn deliver_from(two: &mut Two, remote: &str, bytes: &[u8]) {
    let arrival = Arrival {
        remote: remote.parse().unwrap(),
        ..Two::arrival()
    };
    two.b.handle_datagram(arrival, bytes, two.now);
}

fn forge(two: &mut Two, payloads: Vec<Notify>) -> Vec<u8> {
    let payloads: Vec<_> = payloads.into_iter().map(Payload::Notify).collect();
    Two::sa(&mut two.a)
        .forge(ExchangeType::INFORMATIONAL, &payloads)
        .unwrap()
}

fn channel(local: &str) -> Channel {
    Channel {
        local_iface: IfaceId(2),
        ifindex: 0,
        local: local.parse().unwrap(),
        remote: "203.0.113.1:4500".parse().unwrap(),
    }
}

#[test]
fn a_wrong_or_missing_cookie2_closes_the_ike_sa() {
    for answer in [
        vec![Payload::Notify(Notify::new(
            NotifyType::COOKIE2,
            vec![7; 32],
        ))],
        vec![],
    ] {
        let mut two = two();
        let ike = Two::sa(&mut two.a).id;
        let channel = channel("192.0.2.2:4500");
        two.a
            .handle_command(Command::MoveChannel { ike, channel }, two.now);
        let request = two.a.poll_transmit().unwrap();
        // It gets through; its answer does not.
        deliver_from(&mut two, "192.0.2.2:4500", &request.payload);
        let (header, ..) = Header::decode(&request.payload).unwrap();
        let bytes = Two::sa(&mut two.b)
            .forge_answer(ExchangeType::INFORMATIONAL, header.message_id, &answer)
            .unwrap();
        let arrival = Arrival {
            ifindex: 1,
            local: request.local,
            remote: request.remote,
        };
        two.a.handle_datagram(arrival, &bytes, two.now);
        two.shuttle();
        assert!(two.a.views().is_empty(), "closed, and the peer told");
        let wrong = |e: Event| {
            matches!(
                e,
                Event::Closed {
                    reason: Failure::WrongCookie,
                    ..
                }
            )
        };
        assert!(std::iter::from_fn(|| two.a.poll_event()).any(wrong));
        assert_eq!(two.a.counters()["mobike_cookie"], 1);
    }
}

#[test]
fn an_update_that_was_overtaken_is_answered_and_does_nothing() {
    let mut two = two();
    Two::sa(&mut two.b).inbound.grow(4);
    let first = forge(&mut two, vec![update_sa_addresses()]);
    let second = forge(&mut two, vec![update_sa_addresses()]);
    deliver_from(&mut two, "192.0.2.2:4500", &second);
    deliver_from(&mut two, "192.0.2.3:4500", &first);
    let to: Vec<_> = std::iter::from_fn(|| two.b.poll_transmit())
        .map(|t| t.remote.to_string())
        .collect();
    // Answer and check of the newer one; the older one is only answered.
    assert_eq!(to, ["192.0.2.2:4500", "192.0.2.2:4500", "192.0.2.3:4500"]);
    let now = Two::sa(&mut two.b).channel.remote;
    assert_eq!(now, "192.0.2.2:4500".parse().unwrap());
}

#[test]
fn an_update_under_former_keys_is_older_than_the_first_under_the_new_ones() {
    let mut two = two();
    Two::sa(&mut two.b).inbound.grow(4);
    let late = forge(&mut two, vec![update_sa_addresses()]);
    let ike = Two::sa(&mut two.a).id;
    two.a.handle_command(Command::RekeyIke { ike }, two.now);
    let request = two.a.poll_transmit().unwrap();
    deliver_from(&mut two, "192.0.2.1:4500", &request.payload);
    let answer = two.b.poll_transmit().unwrap();
    let arrival = Arrival {
        ifindex: 1,
        local: answer.remote,
        remote: answer.local,
    };
    two.a.handle_datagram(arrival, &answer.payload, two.now);
    // Its Delete of the old one is late as well.
    while two.a.poll_transmit().is_some() {}
    let first = forge(&mut two, vec![update_sa_addresses()]);
    assert_eq!(Header::decode(&first).unwrap().0.message_id, 0);
    deliver_from(&mut two, "192.0.2.2:4500", &first);
    deliver_from(&mut two, "192.0.2.3:4500", &late);
    let now = Two::sa(&mut two.b).channel.remote;
    assert_eq!(now, "192.0.2.2:4500".parse().unwrap());
}

#[test]
fn the_responder_does_not_move_the_initiator() {
    let mut two = two();
    std::mem::swap(&mut two.a, &mut two.b);
    let bytes = forge(&mut two, vec![update_sa_addresses()]);
    let before = Two::sa(&mut two.b).channel;
    deliver_from(&mut two, "203.0.113.9:4500", &bytes);
    assert_eq!(Two::sa(&mut two.b).channel, before);
    assert!(two.b.poll_transmit().is_some(), "answered");
}

#[test]
fn addresses_that_cannot_be_a_peers_or_are_no_addresses_are_left_out() {
    let mut two = two();
    let v4 = |data: Vec<u8>| Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS, data);
    let v6 = |data: Vec<u8>| Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS, data);
    let mut list = vec![
        v4(vec![127, 0, 0, 1]),
        v4(vec![224, 0, 0, 1]),
        v4(vec![1, 2, 3]),
        v6(vec![1, 2, 3, 4]),
        v4(vec![192, 0, 2, 7]),
        v4(vec![192, 0, 2, 7]),
    ];
    list.extend((10..40).map(|i| v4(vec![192, 0, 2, i])));
    let bytes = forge(&mut two, list);
    deliver_from(&mut two, "192.0.2.1:4500", &bytes);
    let events = two.events();
    let [Event::PeerAddresses { addresses, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(addresses.len(), 9, "the source and eight more");
    assert_eq!(addresses[1].to_string(), "192.0.2.7");
    assert_eq!(two.b.counters()["mobike_address"], 4 + 23);
}

#[test]
fn cookie2_is_returned_if_it_is_one() {
    let mut two = two();
    for (length, returned) in [(0, false), (7, false), (8, true), (64, true), (65, false)] {
        let cookie = Notify::new(NotifyType::COOKIE2, vec![5; length]);
        let answer = two.tell(cookie.clone());
        let expected = returned.then_some(Payload::Notify(cookie));
        assert_eq!(answer, Vec::from_iter(expected), "{length} octets");
    }
}

#[test]
fn nat_detection_in_any_request_is_answered_in_kind() {
    let mut two = two();
    let natd = |kind| Notify::new(kind, vec![1; 20]);
    let bytes = forge(
        &mut two,
        vec![
            natd(NotifyType::NAT_DETECTION_SOURCE_IP),
            natd(NotifyType::NAT_DETECTION_DESTINATION_IP),
        ],
    );
    let answer = two.deliver(&bytes).unwrap();
    assert_eq!(answer.len(), 2);
    // The peer only asked: nothing changed.
    assert_eq!(Two::sa(&mut two.b).nat, crate::ike::Nat::default());
}

#[test]
fn a_mif_peers_plain_update_moves_the_interface_of_the_channel() {
    let mut two = Two::established();
    two.events();
    let bytes = forge(&mut two, vec![update_sa_addresses()]);
    deliver_from(&mut two, "192.0.2.9:4500", &bytes);
    let events = two.events();
    let [
        Event::PeerMoved { update, .. },
        Event::ChannelMoved { observed, .. },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(update.old_iface, update.new_iface);
    assert_eq!(update.new.ip.to_string(), "192.0.2.9");
    assert!(update.flags.has(UpdateFlags::TUNNEL));
    assert_eq!(observed.remote.to_string(), "192.0.2.9:4500");
    // Its path is validated by probes, not by COOKIE2.
    assert!(two.b.poll_transmit().is_some());
    assert!(two.b.poll_transmit().is_none());
}
