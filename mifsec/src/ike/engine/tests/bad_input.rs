//! What RFC 7296 2.21 says to do about messages that nothing can be done with.

use super::*;

/// The notify of a message in clear.
fn in_clear(bytes: &[u8]) -> (Header, Notify) {
    match message::decode(bytes) {
        Ok((header, Body::Clear(payloads))) => match payloads.as_slice() {
            [Payload::Notify(notify)] => (header, notify.clone()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn count(engine: &Engine, reason: &str) -> u64 {
    engine.counters().get(reason).copied().unwrap_or(0)
}

#[test]
fn a_request_of_an_ike_sa_we_lost_is_told_so_a_limited_number_of_times() {
    let mut two = Two::established();
    let net = |text: &str| vec![TsSpec::Net(text.parse().unwrap())];
    let config = config(
        "b.example",
        "a.example",
        [net("10.2.0.0/16"), net("10.1.0.0/16")],
    );
    two.b = Engine::new(config, Box::new(SeededEntropy::new(3))).unwrap();
    let bytes = Two::sa(&mut two.a)
        .forge(ExchangeType::INFORMATIONAL, &[])
        .unwrap();
    let (asked, ..) = Header::decode(&bytes).unwrap();
    two.b.handle_datagram(Two::arrival(), &bytes, two.now);
    let answer = two.b.poll_transmit().unwrap().payload;
    let (header, notify) = in_clear(&answer);
    assert_eq!(notify.kind, NotifyType::INVALID_IKE_SPI);
    assert!(answer.len() <= bytes.len(), "no amplification");
    assert_eq!(
        header,
        Header {
            response: true,
            initiator: false,
            ..asked
        }
    );
    // A hint at most: nothing of the IKE SA changes.
    let back = Arrival {
        ifindex: 1,
        local: Two::arrival().remote,
        remote: Two::arrival().local,
    };
    let before = format!("{:?}", two.a.views());
    two.a.handle_datagram(back, &answer, two.now);
    assert_eq!(format!("{:?}", two.a.views()), before);
    assert_eq!(two.a.poll_transmit(), None);
    for _ in 0..10_000 {
        two.b.handle_datagram(Two::arrival(), &bytes, two.now);
    }
    let answers = std::iter::from_fn(|| two.b.poll_transmit()).count();
    assert_eq!(answers, usize::try_from(ANSWERS_PER_SECOND).unwrap() - 1);
    assert_eq!(count(&two.b, "ike_unknown_spi"), 10_001);
}

#[test]
fn responses_and_errors_of_unknown_ike_sas_are_never_answered() {
    let mut two = Two::established();
    for response in [true, false] {
        let header = Header {
            spi_i: IkeSpi(77),
            spi_r: IkeSpi(78),
            exchange: ExchangeType::INFORMATIONAL,
            response,
            initiator: true,
            higher_version: false,
            message_id: 0,
        };
        let notify = Notify::new(NotifyType::INVALID_IKE_SPI, Vec::new());
        let bytes = message::encode_clear(&header, &[Payload::Notify(notify)]);
        two.b.handle_datagram(Two::arrival(), &bytes, two.now);
        assert_eq!(two.b.poll_transmit(), None);
    }
    assert_eq!(count(&two.b, "ike_unknown_spi"), 2);
}

#[test]
fn invalid_spi_in_clear_makes_us_ask_for_a_sign_of_life_and_no_more() {
    let mut two = Two::established();
    let spi_out = Two::sa(&mut two.b)
        .children
        .values()
        .next()
        .unwrap()
        .spi_out;
    let message = |spi: Spi| {
        let header = Header {
            spi_i: IkeSpi(0),
            spi_r: IkeSpi(0),
            exchange: ExchangeType::INFORMATIONAL,
            response: false,
            initiator: true,
            higher_version: false,
            message_id: 0,
        };
        let notify = Notify::new(NotifyType::INVALID_SPI, spi.0.to_be_bytes().to_vec());
        message::encode_clear(&header, &[Payload::Notify(notify)])
    };
    let other = Arrival {
        remote: "198.51.100.66:4500".parse().unwrap(),
        ..Two::arrival()
    };
    for (from, spi, asks) in [
        (Two::arrival(), Spi(spi_out.0 ^ 1), false),
        (other, spi_out, false),
        (Two::arrival(), spi_out, true),
        // Already asked.
        (Two::arrival(), spi_out, false),
    ] {
        two.b.handle_datagram(from, &message(spi), two.now);
        let asked = two.b.poll_transmit();
        assert_eq!(asked.is_some(), asks);
        if let Some(asked) = asked {
            let payloads = Two::sa(&mut two.a).read(&asked.payload);
            assert_eq!(payloads, Some(vec![]), "an empty INFORMATIONAL");
        }
    }
    assert_eq!(two.b.views().len(), 1);
}

#[test]
fn ids_beyond_the_window_are_told_once_in_a_while() {
    let mut two = Two::established();
    let beyond = |two: &mut Two| {
        for _ in 0..20 {
            Two::sa(&mut two.a).outbound.skip();
        }
        let id = Two::sa(&mut two.a).outbound.next_id();
        let bytes = Two::sa(&mut two.a)
            .forge(ExchangeType::INFORMATIONAL, &[])
            .unwrap();
        (id, two.deliver(&bytes))
    };
    let (id, told) = beyond(&mut two);
    let Some([Payload::Notify(notify)]) = told.as_deref() else {
        panic!("{told:?}");
    };
    assert_eq!(notify.kind, NotifyType::INVALID_MESSAGE_ID);
    assert_eq!(notify.data, id.to_be_bytes());
    assert_eq!(beyond(&mut two).1, None, "not each time");
    assert_eq!(two.b.views().len(), 1);
}

/// What A sends after B's response to its liveness check was replaced.
#[test]
fn a_response_that_cannot_be_read_is_followed_by_a_delete() {
    for chain in [&[0, 0x80, 0, 4][..], &[0, 0, 0, 99]] {
        let mut two = Two::established();
        let ike = Two::sa(&mut two.a).id;
        two.a
            .handle_command(Command::CheckLiveness { ike }, two.now);
        let request = two.a.poll_transmit().unwrap().payload;
        let (asked, ..) = Header::decode(&request).unwrap();
        let id = asked.message_id;
        let kind = if chain[1] == 0 { 41 } else { 200 };
        let response = Two::sa(&mut two.b).forge_response(id, kind, chain).unwrap();
        let back = Arrival {
            ifindex: 1,
            local: Two::arrival().remote,
            remote: Two::arrival().local,
        };
        two.a.handle_datagram(back, &response, two.now);
        let told = two.a.poll_transmit().unwrap().payload;
        let told = Two::sa(&mut two.b).read(&told);
        assert_eq!(told, Some(vec![Payload::Delete(Delete::Ike)]));
    }
}

#[test]
fn a_critical_payload_in_an_ike_sa_init_response_does_not_end_the_attempt() {
    let mut two = Two::established();
    let net = |text: &str| vec![TsSpec::Net(text.parse().unwrap())];
    let config = config(
        "a.example",
        "b.example",
        [net("10.1.0.0/16"), net("10.2.0.0/16")],
    );
    two.a = Engine::new(config, Box::new(SeededEntropy::new(3))).unwrap();
    let channel = Channel {
        local_iface: IfaceId(1),
        ifindex: 0,
        local: "192.0.2.1:500".parse().unwrap(),
        remote: "203.0.113.1:500".parse().unwrap(),
    };
    let peer = "peer".into();
    two.a
        .handle_command(Command::Initiate { peer, channel }, two.now);
    let request = two.a.poll_transmit().unwrap().payload;
    let (header, ..) = Header::decode(&request).unwrap();
    let header = Header {
        response: true,
        initiator: false,
        ..header
    };
    let unknown = Payload::Unknown(message::PayloadType(200), vec![]);
    let mut bytes = message::encode_clear(&header, &[unknown]);
    bytes[message::HEADER_LEN + 1] = 0x80;
    let back = Arrival {
        ifindex: 1,
        local: channel.local,
        remote: channel.remote,
    };
    two.a.handle_datagram(back, &bytes, two.now);
    assert_eq!(count(&two.a, "ike_critical_payload"), 1);
    assert_eq!(two.a.poll_transmit(), None, "nobody answers a response");
    two.b.handle_datagram(
        Arrival {
            local: channel.remote,
            remote: channel.local,
            ifindex: 1,
        },
        &request,
        two.now,
    );
    let real = two.b.poll_transmit().unwrap().payload;
    two.a.handle_datagram(back, &real, two.now);
    assert!(two.a.poll_transmit().is_some(), "IKE_AUTH follows");
}

#[test]
fn a_higher_major_version_is_answered_within_the_allowance_and_a_lower_one_not() {
    let mut two = Two::established();
    let header = Header {
        spi_i: IkeSpi(77),
        spi_r: IkeSpi(0),
        exchange: ExchangeType::IKE_SA_INIT,
        response: false,
        initiator: true,
        higher_version: false,
        message_id: 0,
    };
    let mut bytes = message::encode_clear(&header, &[]);
    for version in [0x10, 0x30] {
        bytes[17] = version;
        for _ in 0..1_000 {
            two.b.handle_datagram(Two::arrival(), &bytes, two.now);
        }
        let answers: Vec<_> = std::iter::from_fn(|| two.b.poll_transmit()).collect();
        if version == 0x10 {
            assert!(answers.is_empty());
        } else {
            assert_eq!(answers.len(), usize::try_from(ANSWERS_PER_SECOND).unwrap());
            let (_, notify) = in_clear(&answers[0].payload);
            assert_eq!(notify.kind, NotifyType::INVALID_MAJOR_VERSION);
            assert_eq!(notify.data, [2]);
        }
    }
    assert_eq!(count(&two.b, "ike_version"), 2_000);
}
