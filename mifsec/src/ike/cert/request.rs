//! CERT and CERTREQ payloads (RFC 7296 3.6, 3.7).

use crate::ike::message::Payload;

use super::{MAX_AUTHORITIES, MAX_CERTIFICATES, X509_SIGNATURE};

/// SHA-1 of an authority's SubjectPublicKeyInfo: a name, not a protection.
pub type KeyHash = [u8; 20];

/// The certificates among `payloads`, in order, at most [`MAX_CERTIFICATES`].
/// Other encodings, such as hash and URL, were not asked for and are passed over.
pub fn certificates(payloads: &[Payload]) -> Vec<&[u8]> {
    let mut out: Vec<&[u8]> = Vec::new();
    for payload in payloads {
        if let Payload::Cert(body) = payload
            && let Some((&X509_SIGNATURE, certificate)) = body.split_first()
            && out.len() < MAX_CERTIFICATES
        {
            out.push(certificate);
        }
    }
    out
}

/// The authorities the peer accepts; `None` when it asked for no certificate.
/// An empty list is a request for any certificate.
#[must_use]
pub fn authorities(payloads: &[Payload]) -> Option<Vec<KeyHash>> {
    let mut asked = None;
    for payload in payloads {
        if let Payload::CertReq(body) = payload
            && let Some((&X509_SIGNATURE, hashes)) = body.split_first()
        {
            let known = asked.get_or_insert_with(Vec::new);
            let room = MAX_AUTHORITIES.saturating_sub(known.len());
            known.extend(hashes.as_chunks().0.iter().take(room).copied());
        }
    }
    asked
}

/// A request for certificates of these authorities.
pub(in crate::ike) fn request(hashes: &[KeyHash]) -> Payload {
    let hashes = hashes.iter().take(MAX_AUTHORITIES).flatten();
    Payload::CertReq(
        std::iter::once(&X509_SIGNATURE)
            .chain(hashes)
            .copied()
            .collect(),
    )
}

/// A certificate as a payload.
pub(in crate::ike) fn payload(certificate: &[u8]) -> Payload {
    Payload::Cert([&[X509_SIGNATURE], certificate].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_lists_hashes_and_says_whether_there_was_one() {
        let hashes = [[1; 20], [2; 20]];
        assert_eq!(authorities(&[request(&hashes)]), Some(hashes.to_vec()));
        assert_eq!(authorities(&[request(&[])]), Some(Vec::new()));
        assert_eq!(authorities(&[]), None);
        // Another encoding asks for something we do not have.
        assert_eq!(authorities(&[Payload::CertReq(vec![12, 0])]), None);
        let several = [request(&hashes[..1]), request(&hashes[1..])];
        assert_eq!(authorities(&several), Some(hashes.to_vec()));
    }

    #[test]
    fn every_truncation_of_a_request_gives_the_whole_hashes_left() {
        let Payload::CertReq(body) = request(&[[1; 20], [2; 20]]) else {
            panic!("a request");
        };
        for length in 0..body.len() {
            let cut = authorities(&[Payload::CertReq(body[..length].to_vec())]);
            let expected = (length > 0).then(|| (length - 1) / 20);
            assert_eq!(cut.map(|hashes| hashes.len()), expected);
        }
    }

    #[test]
    fn what_is_taken_of_a_peer_is_bounded() {
        let many = vec![payload(b"certificate"); 60];
        assert_eq!(certificates(&many).len(), MAX_CERTIFICATES);
        let odd = [
            Payload::Cert(vec![12, 1]),
            Payload::Cert(vec![]),
            payload(b"x"),
        ];
        assert_eq!(certificates(&odd), [b"x"]);
        let many = vec![request(&[[1; 20]; 100]); 60];
        assert_eq!(authorities(&many).unwrap().len(), MAX_AUTHORITIES);
    }

    proptest! {
        #[test]
        fn random_bodies_never_panic(body in any::<Vec<u8>>()) {
            let payloads = [Payload::CertReq(body.clone()), Payload::Cert(body)];
            let _ = authorities(&payloads);
            let _ = certificates(&payloads);
        }
    }
}
