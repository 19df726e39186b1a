//! Gateways that send us to another one (RFC 5685), in each of the three places.

use crate::ike::error::Failure;
use crate::ike::message::{ExchangeType, PayloadType};
use crate::ike::redirect::Gateway;

use super::*;

const OTHER: &str = "203.0.113.2";

fn gateway() -> Gateway {
    Gateway::Address(OTHER.parse().unwrap())
}

fn redirect(nonce: &[u8]) -> Payload {
    let notify = Notify::new(NotifyType::REDIRECT, gateway().encode(nonce));
    Payload::Notify(notify)
}

/// To A from where B is.
fn to_a(port: u16) -> Arrival {
    Arrival {
        ifindex: 1,
        local: format!("192.0.2.1:{port}").parse().unwrap(),
        remote: format!("203.0.113.1:{port}").parse().unwrap(),
    }
}

/// A calls this gateway once more, or follows it there.
fn call(two: &mut Two, from: Option<&str>) -> Vec<u8> {
    let channel = Channel {
        local_iface: IfaceId(1),
        ifindex: 0,
        local: "192.0.2.1:500".parse().unwrap(),
        remote: "203.0.113.1:500".parse().unwrap(),
    };
    let peer = "peer".into();
    let command = match from {
        None => Command::Initiate { peer, channel },
        Some(from) => Command::Follow {
            peer,
            channel,
            from: from.parse().unwrap(),
        },
    };
    two.a.handle_command(command, two.now);
    let sent = two.a.poll_transmit().unwrap();
    while two.a.poll_event().is_some() {}
    sent.payload
}

fn payloads(bytes: &[u8]) -> Vec<Payload> {
    match message::decode(bytes) {
        Ok((_, Body::Clear(payloads))) => payloads,
        other => panic!("{other:?}"),
    }
}

fn said(bytes: &[u8], kind: NotifyType) -> Option<Vec<u8>> {
    payloads(bytes)
        .into_iter()
        .find_map(|payload| match payload {
            Payload::Notify(notify) if notify.kind == kind => Some(notify.data),
            _ => None,
        })
}

/// A REDIRECT in clear, as the answer to an IKE_SA_INIT request.
fn answer(request: &[u8], nonce: &[u8]) -> Vec<u8> {
    let (header, ..) = Header::decode(request).unwrap();
    let header = Header {
        response: true,
        initiator: false,
        ..header
    };
    message::encode_clear(&header, &[redirect(nonce)])
}

fn nonce(request: &[u8]) -> Vec<u8> {
    let payloads = payloads(request).into_iter();
    let mut nonces = payloads.filter_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(nonce),
        _ => None,
    });
    nonces.next().unwrap()
}

/// What A says of it: where to, and how the IKE SA ended.
fn departures(two: &mut Two) -> (Vec<Gateway>, Vec<Failure>) {
    let (mut to, mut ends) = (Vec::new(), Vec::new());
    while let Some(event) = two.a.poll_event() {
        match event {
            Event::Redirected { gateway, from, .. } => {
                assert_eq!(from, to_a(500).remote.ip());
                to.push(gateway);
            }
            Event::Failed { reason, .. } | Event::Closed { reason, .. } => ends.push(reason),
            _ => {}
        }
    }
    (to, ends)
}

fn redirected() -> Failure {
    Failure::Redirected {
        gateway: OTHER.into(),
    }
}

#[test]
fn a_redirect_in_ike_sa_init_needs_our_nonce() {
    let mut two = Two::established();
    let request = call(&mut two, None);
    assert_eq!(said(&request, NotifyType::REDIRECT_SUPPORTED), Some(vec![]));
    assert_eq!(said(&request, NotifyType::REDIRECTED_FROM), None);
    let forged = [Vec::new(), vec![7; 32], nonce(&request)[..31].to_vec()];
    for nonce in forged {
        two.a
            .handle_datagram(to_a(500), &answer(&request, &nonce), two.now);
        assert_eq!(departures(&mut two), (vec![], vec![]));
    }
    let genuine = answer(&request, &nonce(&request));
    two.a.handle_datagram(to_a(500), &genuine, two.now);
    assert_eq!(departures(&mut two), (vec![gateway()], vec![redirected()]));
    assert_eq!(two.a.poll_transmit(), None, "there is nothing to delete");
    let request = call(&mut two, Some("203.0.113.9"));
    assert_eq!(said(&request, NotifyType::REDIRECT_SUPPORTED), None);
    let from = said(&request, NotifyType::REDIRECTED_FROM);
    assert_eq!(from, Some(vec![1, 4, 203, 0, 113, 9]));
}

#[test]
fn gateways_that_send_us_round_in_circles_are_followed_five_times() {
    let mut two = Two::established();
    for round in 0..7 {
        let request = call(&mut two, None);
        let genuine = answer(&request, &nonce(&request));
        two.a.handle_datagram(to_a(500), &genuine, two.now);
        let expected = if round < 5 {
            (vec![gateway()], vec![redirected()])
        } else {
            (vec![], vec![Failure::RedirectLoop])
        };
        assert_eq!(departures(&mut two), expected);
    }
    two.now += Duration::from_secs(301);
    let request = call(&mut two, None);
    let genuine = answer(&request, &nonce(&request));
    two.a.handle_datagram(to_a(500), &genuine, two.now);
    assert_eq!(departures(&mut two).0, [gateway()]);
}

#[test]
fn a_redirect_of_a_standing_ike_sa_is_answered_and_then_followed() {
    let mut two = Two::established();
    while two.a.poll_event().is_some() {}
    let bytes = Two::sa(&mut two.b)
        .forge(ExchangeType::INFORMATIONAL, &[redirect(&[])])
        .unwrap();
    two.a.handle_datagram(to_a(4500), &bytes, two.now);
    let answer = two.a.poll_transmit().unwrap().payload;
    assert!(Header::decode(&answer).unwrap().0.response);
    assert_eq!(Two::sa(&mut two.b).read(&answer), Some(vec![]));
    let delete = two.a.poll_transmit().unwrap().payload;
    let told = Two::sa(&mut two.b).read(&delete);
    assert_eq!(told, Some(vec![Payload::Delete(Delete::Ike)]));
    two.b.handle_datagram(Two::arrival(), &delete, two.now);
    two.shuttle();
    assert_eq!(departures(&mut two), (vec![gateway()], vec![redirected()]));
    assert!(two.a.views().is_empty() && two.b.views().is_empty());
}

#[test]
fn only_a_gateway_redirects() {
    let mut two = Two::established();
    while two.b.poll_event().is_some() {}
    assert_eq!(
        two.ask(ExchangeType::INFORMATIONAL, &[redirect(&[])]),
        Some(vec![])
    );
    assert!(two.events().is_empty());
    assert_eq!(two.b.views().len(), 1);
}

/// Whoever rekeys the IKE SA is its initiator from then on, and yet no gateway.
#[test]
fn a_rekey_by_the_gateway_does_not_change_who_redirects() {
    let mut two = Two::established();
    let ike = Two::sa(&mut two.b).id;
    two.b.handle_command(Command::RekeyIke { ike }, two.now);
    two.shuttle();
    assert!(Two::sa(&mut two.b).initiator && !Two::sa(&mut two.a).initiator);
    while two.a.poll_event().is_some() || two.b.poll_event().is_some() {}
    let answer = two.ask(ExchangeType::INFORMATIONAL, &[redirect(&[])]);
    assert_eq!(answer, Some(vec![]));
    assert!(two.events().is_empty());
    assert_eq!(two.b.views().len(), 1);

    let bytes = Two::sa(&mut two.b)
        .forge(ExchangeType::INFORMATIONAL, &[redirect(&[])])
        .unwrap();
    two.a.handle_datagram(to_a(4500), &bytes, two.now);
    two.shuttle();
    assert_eq!(departures(&mut two), (vec![gateway()], vec![redirected()]));
    assert!(two.a.views().is_empty() && two.b.views().is_empty());
}

#[test]
fn a_redirect_beside_a_good_auth_is_followed_and_the_ike_sa_deleted() {
    let mut two = Two::established();
    two.now += Duration::from_secs(1);
    let request = call(&mut two, None);
    let id = two.a.views().last().unwrap().ike;
    two.b.handle_datagram(
        Arrival {
            local: to_a(500).remote,
            remote: to_a(500).local,
            ifindex: 1,
        },
        &request,
        two.now,
    );
    let response = two.b.poll_transmit().unwrap().payload;
    two.a.handle_datagram(to_a(500), &response, two.now);
    let request = two.a.poll_transmit().unwrap().payload;
    two.b.handle_datagram(Two::arrival(), &request, two.now);
    let response = two.b.poll_transmit().unwrap().payload;
    // The same AUTH, without the Child SA.
    let ours = two.a.cx.sas.get(&id).unwrap();
    let mut said = ours.read(&response).unwrap();
    said.retain(|p| matches!(p.kind(), PayloadType::IDR | PayloadType::AUTH));
    assert_eq!(said.len(), 2);
    said.push(redirect(&[]));
    let theirs = two.b.cx.sas.values_mut().last().unwrap();
    let response = theirs.seal_now(ExchangeType::IKE_AUTH, 1, true, &said);
    while two.a.poll_event().is_some() {}
    two.a
        .handle_datagram(to_a(4500), &response.unwrap(), two.now);
    assert_eq!(departures(&mut two).0, [gateway()]);
    let delete = two.a.poll_transmit().unwrap().payload;
    let theirs = two.b.cx.sas.values().last().unwrap();
    assert_eq!(
        theirs.read(&delete),
        Some(vec![Payload::Delete(Delete::Ike)])
    );
    assert_eq!(
        Two::sa(&mut two.a).children.len(),
        1,
        "the first is untouched"
    );
}
