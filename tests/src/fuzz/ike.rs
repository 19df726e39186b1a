//! IKE messages, the payloads behind the keys, and the MIF notifies.

use std::net::IpAddr;

use mifsec::crypto::{Aead, AeadAlgorithm, AesKey, Integrity};
use mifsec::ids::IkeSpi;
use mifsec::ike::message::{
    self, Body, HEADER_LEN, Header, MAX_PAYLOADS, OpenError, Payload, PayloadType,
};
use mifsec::ike::mif::{
    AddInterface, AddressPolicy, Alternates, DeleteInterface, DerivedSas, Interfaces,
    MAX_ALTERNATES, MAX_RECORDS, OuterAddrs, Supported, UpdateAddrs,
};
use mifsec::ike::peer::Identity;
use mifsec::ike::redirect::Gateway;
use mifsec::ike::selector;

use super::input::Input;

/// A datagram as anybody may send it.
///
/// # Panics
/// When a property does not hold.
pub fn message(data: &[u8]) {
    let Ok((header, body)) = message::decode(data) else {
        return;
    };
    let Body::Clear(payloads) = body else {
        return;
    };
    bounded(&payloads, data.len());
    let encoded = message::encode_clear(&header, &payloads);
    let (again, body) = message::decode(&encoded).expect("our own message");
    assert_eq!(again, header);
    let Body::Clear(again) = body else {
        panic!("what was in clear is in clear");
    };
    assert_eq!(message::encode_clear(&header, &again), encoded);
    look_into(&again);
}

/// The chain behind the keys: which algorithm, the first type, then its octets
/// with padding.
///
/// # Panics
/// When a property does not hold.
pub fn payloads(data: &[u8]) {
    let mut input = Input::new(data);
    let key = key(input.u8());
    let first = PayloadType(input.u8());
    let bytes = sealed(&key, first, input.rest());
    let Ok((header, Body::Protected(encrypted))) = message::decode(&bytes) else {
        assert!(bytes.len() > message::MAX_MESSAGE);
        return;
    };
    let payloads = match encrypted.open(&key) {
        Ok(payloads) => payloads,
        Err(OpenError::Integrity) => panic!("sealed with the same key"),
        Err(OpenError::Content(error)) => {
            // The answer to it can be sent.
            let answer = [Payload::Notify(error.notify())];
            let _ = message::seal(&header, &answer, &key, 2);
            return;
        }
    };
    bounded(&payloads, data.len());
    let encoded = message::seal(&header, &payloads, &key, 3);
    let Ok((_, Body::Protected(encrypted))) = message::decode(&encoded) else {
        panic!("our own message");
    };
    let again = encrypted.open(&key).expect("our own message");
    assert_eq!(message::seal(&header, &again, &key, 3), encoded);
    look_into(&again);
}

/// A MIF notify's data, for each codec: which is chosen by the first octet.
///
/// # Panics
/// When a property does not hold.
pub fn mif_notifies(data: &[u8]) {
    let mut input = Input::new(data);
    let which = input.u8();
    let policy = AddressPolicy {
        loopback: which & 0x80 != 0,
        link_local: which & 0x40 != 0,
        own: vec![IpAddr::from([192, 0, 2, 1])],
        ..AddressPolicy::default()
    };
    let data = input.rest();
    match which % 8 {
        0 => {
            if let Ok(read) = Supported::decode(data) {
                let again = Supported::decode(&read.notify().data).expect("our own notify");
                assert_eq!(again, read);
            }
        }
        1 => {
            if let Ok((read, _)) = Interfaces::decode(data, &policy) {
                assert!(read.records.len() <= MAX_RECORDS);
                let written = read.notify();
                assert!(written.data.len() <= data.len());
                assert_eq!(
                    Interfaces::decode(&written.data, &policy),
                    Ok((read.clone(), 0))
                );
                let mut fitted = read;
                fitted.fit(which);
                assert!(fitted.records.len() <= usize::from(which));
                let _ = Interfaces::decode(&fitted.notify().data, &policy).expect("our own table");
            }
        }
        2 => {
            let from_initiator = which & 0x20 != 0;
            if let Ok(read) = OuterAddrs::decode(data, &policy, from_initiator) {
                let written = read.notify();
                let again = OuterAddrs::decode(&written.data, &policy, from_initiator);
                assert_eq!(again, Ok(read));
            }
        }
        4 => {
            if let Ok(read) = Alternates::decode(data) {
                let kept = read.list.as_deref().unwrap_or_default();
                assert!(kept.len() <= usize::from(MAX_ALTERNATES));
                let again = Alternates::decode(&read.notify(MAX_ALTERNATES).data);
                assert_eq!(again, Ok(read));
            }
        }
        5 => {
            if let Ok(read) = AddInterface::decode(data, Some(&policy)) {
                let written = read.notify();
                assert!(written.data.len() <= data.len());
                let again = AddInterface::decode(&written.data, Some(&policy));
                assert_eq!(again, Ok(read));
            }
        }
        6 => {
            let most = usize::from(which);
            if let Ok(read) = DerivedSas::decode(data, most) {
                assert!(read.entries.len() <= most);
                assert_eq!(DerivedSas::decode(&read.notify().data, most), Ok(read));
            }
        }
        7 => {
            if let Ok(read) = DeleteInterface::decode(data) {
                assert_eq!(DeleteInterface::decode(&read.notify().data), Ok(read));
            }
        }
        _ => {
            if let Ok(read) = UpdateAddrs::decode(data, &policy) {
                let again = UpdateAddrs::decode(&read.notify().data, &policy);
                assert_eq!(again, Ok(read));
            }
        }
    }
}

/// What is kept is not more than what came.
fn bounded(payloads: &[Payload], octets: usize) {
    assert!(payloads.len() <= MAX_PAYLOADS);
    let kept: usize = payloads
        .iter()
        .map(|payload| match payload {
            Payload::Sa(proposals) => proposals
                .iter()
                .map(|p| p.spi.len() + p.transforms.len() * 8)
                .sum(),
            Payload::Ke(ke) => ke.data.len(),
            Payload::IdI(id) | Payload::IdR(id) => id.data.len(),
            Payload::Auth(auth) => auth.data.len(),
            Payload::Notify(notify) => notify.spi.len() + notify.data.len(),
            Payload::Delete(message::Delete::Esp(spis)) => spis.len() * 4,
            Payload::Delete(_) => 0,
            Payload::TsI(entries) | Payload::TsR(entries) => entries.len() * 4,
            Payload::Config(config) => config.attributes.iter().map(|a| 4 + a.value.len()).sum(),
            Payload::Cert(data)
            | Payload::CertReq(data)
            | Payload::Nonce(data)
            | Payload::VendorId(data)
            | Payload::Eap(data)
            | Payload::Unknown(_, data) => data.len(),
        })
        .sum();
    assert!(kept <= octets, "{kept} octets kept of {octets}");
}

/// The parsers that run on payloads when their meaning is asked for.
fn look_into(payloads: &[Payload]) {
    for payload in payloads {
        match payload {
            Payload::IdI(id) | Payload::IdR(id) => {
                if let Ok(identity) = Identity::from_id(id) {
                    let again = Identity::from_id(&identity.to_id()).expect("our own identity");
                    assert_eq!(again, identity);
                    let _ = identity.to_string();
                }
            }
            Payload::TsI(entries) | Payload::TsR(entries) => {
                let selectors = selector::from_entries(entries);
                let again = selector::from_entries(&selector::to_entries(&selectors));
                assert_eq!(again, selectors);
            }
            Payload::Notify(notify) => {
                let _ = notify.esp_spi();
                let _ = notify.kind.is_error();
                if let Ok((gateway, nonce)) = Gateway::decode(&notify.data) {
                    let again = gateway.encode(nonce);
                    assert_eq!(Gateway::decode(&again), Ok((gateway, nonce)));
                }
            }
            _ => {}
        }
    }
}

fn key(which: u8) -> Aead {
    let algorithm = [
        AeadAlgorithm::Aes128Gcm16,
        AeadAlgorithm::AesCbc(AesKey::Aes128, Integrity::HmacSha512_256),
    ][usize::from(which % 2)];
    Aead::new(algorithm, &vec![7; algorithm.keymat_len()]).expect("of the right length")
}

/// A protected message around any octets, as a peer with the key could send it.
fn sealed(key: &Aead, first: PayloadType, chain: &[u8]) -> Vec<u8> {
    const GENERIC: usize = 4;
    let algorithm = key.algorithm();
    let header = Header {
        spi_i: IkeSpi(1),
        spi_r: IkeSpi(2),
        exchange: message::ExchangeType::INFORMATIONAL,
        response: false,
        initiator: true,
        higher_version: false,
        message_id: 1,
    };
    let mut text = chain.to_vec();
    text.resize(text.len().next_multiple_of(algorithm.block_len()), 0);
    let mut iv = vec![0; algorithm.iv_len()];
    let mut icv = vec![0; algorithm.icv_len()];
    let body = GENERIC + iv.len() + text.len() + icv.len();
    // Header and generic header of a real message, with our lengths.
    let mut front = message::seal(&header, &[], key, 1);
    front.truncate(HEADER_LEN + GENERIC);
    let octets = u32::try_from(HEADER_LEN + body).unwrap_or(u32::MAX);
    front[24..28].copy_from_slice(&octets.to_be_bytes());
    front[HEADER_LEN] = first.0;
    let octets = u16::try_from(body).unwrap_or(u16::MAX);
    front[HEADER_LEN + 2..].copy_from_slice(&octets.to_be_bytes());
    key.seal(2, &front, None, &mut iv, &mut text, &mut icv);
    [front, iv, text, icv].concat()
}
