//! Both ends prove who they are by certificates: every kind of key, chains, and
//! everything that can be wrong, with what both operators get to read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mifsec::crypto::Secret;
use mifsec::ike::cert::{CertificateError, Credential, TrustAnchors, authorities};
use mifsec::ike::config::{EngineConfig, PeerConfig};
use mifsec::ike::message::{self, Body, NotifyType, Payload};
use mifsec::ike::peer::{Identity, LocalAuth, PskSource, PskTable, RemoteAuth};
use mifsec::ike::{Command, Event};
use mifsec_tests::pki::{Authority, Issued, Key, Request, authority};
use mifsec_tests::sim::setup::{self, assert_agreement, connect};
use mifsec_tests::sim::{A, B, Pair};
use rcgen::{ExtendedKeyUsagePurpose as Purpose, KeyUsagePurpose as Usage};

/// 2026-11-23, in seconds since 1970.
const TODAY: Duration = Duration::from_secs(1_795_392_000);

const LAPTOP: &str = "laptop@example.org";
const GATEWAY: &str = "gw.example.org";

fn by(issued: &Issued) -> LocalAuth {
    LocalAuth::Certificate(Arc::new(issued.credential()))
}

fn trusting(authority: &Authority) -> RemoteAuth {
    RemoteAuth::certificates(Arc::new(authority.anchors()))
}

/// Two configurations that authenticate by these certificates under `root`.
fn configs(root: &Authority, user: &Issued, gateway: &Issued) -> [EngineConfig; 2] {
    let mut configs = [setup::user(), setup::gateway()];
    for (config, issued) in configs.iter_mut().zip([user, gateway]) {
        config.peers[0].local_auth = by(issued);
        config.peers[0].remote_auth = trusting(root);
    }
    configs
}

fn pair([user, gateway]: [EngineConfig; 2]) -> Pair {
    let mut pair = setup::pair(user, gateway, 1);
    let now = pair.now;
    for end in &mut pair.ends {
        end.engine.set_wall_clock(TODAY, now);
        // Chains need fragmentation on some paths; the links here have no MTU.
        end.max_datagram = 8192;
    }
    for link in &mut pair.links {
        link.mtu = 8192;
    }
    pair
}

fn run(configs: [EngineConfig; 2]) -> Pair {
    let mut pair = pair(configs);
    connect(&mut pair);
    pair.run(Duration::from_secs(60));
    pair
}

fn assert_stands(pair: &Pair) {
    for end in &pair.ends {
        assert_eq!(end.established().len(), 1, "{:?}", end.failures());
    }
    assert_eq!(pair.ends[A].children.len(), 1);
    assert_agreement(pair);
}

/// One line each, with the mend, and nothing left.
fn assert_refused(pair: &Pair, at_user: &str, at_gateway: &str) {
    for (end, expected) in [(A, at_user), (B, at_gateway)] {
        let failures = pair.ends[end].failures();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].contains(expected), "{failures:?}");
        assert!(failures[0].contains(": ") || failures[0].contains("; "));
        assert!(pair.ends[end].engine.views().is_empty());
        assert!(pair.ends[end].children.is_empty());
    }
}

const REFUSED: &str = "the peer refused our authentication";

#[test]
fn every_kind_of_key_authenticates_at_both_ends_and_through_intermediates() {
    for key in Key::ALL {
        let root = Authority::root("Root", key);
        let between = root.intermediate("Below", Key::P256);
        let user = between.issue(&Request::new(key, LAPTOP));
        let gateway = root.issue(&Request::new(key, GATEWAY));
        let pair = run(configs(&root, &user, &gateway));
        assert_stands(&pair);
        let established = pair.ends[B].events.iter().find_map(|event| match event {
            Event::Established { remote_id, .. } => Some(remote_id.clone()),
            _ => None,
        });
        assert_eq!(established.as_deref(), Some(LAPTOP));
    }
}

#[test]
fn identities_of_every_kind_are_matched_against_the_certificate() {
    let root = Authority::root("Root", Key::P256);
    for (identity, names) in [
        ("192.0.2.10", vec!["192.0.2.10"]),
        ("2001:db8::1", vec!["2001:db8::1"]),
        (
            "laptop.example.org",
            vec!["other.example.org", "laptop.example.org"],
        ),
        ("C=CH, O=Example, CN=laptop", vec![]),
        ("c=ch, o=example, cn=LAPTOP", vec!["laptop.example.org"]),
    ] {
        let mut request = Request::new(Key::P256, "laptop");
        request.names = names.iter().map(ToString::to_string).collect();
        let user = root.issue(&request);
        let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
        let mut configs = configs(&root, &user, &gateway);
        configs[A].peers[0].local_id = identity.parse().unwrap();
        configs[B].peers[0].remote_id = "*".parse().unwrap();
        assert_stands(&run(configs));
    }
}

#[test]
fn a_pattern_of_distinguished_names_admits_whom_it_describes() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, "alice"));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    for (pattern, admitted) in [("O=Example, CN=*", true), ("O=Other, CN=*", false)] {
        let mut configs = configs(&root, &user, &gateway);
        configs[A].peers[0].local_id = "C=CH, O=Example, CN=alice".parse().unwrap();
        configs[B].peers[0].remote_id = pattern.parse().unwrap();
        let pair = run(configs);
        if admitted {
            assert_stands(&pair);
        } else {
            assert_refused(&pair, REFUSED, "unknown peer \"C=ch, O=example, CN=alice\"");
        }
    }
}

/// Certificates that need not be believed by anybody, but whose names give a search
/// for a path thousands of ways. The search gives itself up after 64 steps with
/// another reason, so this one says that it took less.
#[test]
fn names_that_lead_in_circles_are_not_followed_far() {
    let root = Authority::root("Root", Key::P256);
    let request = Request::new(Key::P256, LAPTOP);
    let identity = LAPTOP.parse().unwrap();
    let under = |issuer: &str, subject: &str| {
        let issuer = Authority::root(issuer, Key::P256);
        issuer.intermediate(subject, Key::P256).der()
    };
    let own: Vec<_> = (0..7)
        .map(|_| Authority::root("Ring", Key::P256).der())
        .collect();
    let one_name = (0..7).map(|_| under("Other", "Ring")).collect();
    let turns = ["Ring", "Second", "Third", "Ring"];
    let turns: Vec<_> = turns.windows(2).map(|w| under(w[1], w[0])).collect();
    let twice = ["Ring", "Second", "Third", "Ring"];
    let twice = twice.windows(2).map(|w| under(w[1], w[0]));
    let circle = turns.into_iter().chain(twice).collect();
    for above in [own, one_name, circle] {
        let leaf = Authority::root("Ring", Key::P256).issue_der(&request);
        let mut sent: Vec<&[u8]> = vec![&leaf];
        sent.extend(above.iter().map(Vec::as_slice));
        let error = root.anchors().verify(&sent, &identity, TODAY).unwrap_err();
        assert!(
            matches!(error, CertificateError::UnknownCa { .. }),
            "{error}"
        );
    }
    // An authority with a new key may show both.
    let (old, new) = (
        root.intermediate("Below", Key::P256),
        root.intermediate("Below", Key::P256),
    );
    let leaf = new.issue_der(&request);
    let sent = [&leaf[..], &old.der(), &new.der()];
    assert!(root.anchors().verify(&sent, &identity, TODAY).is_ok());
}

#[test]
fn more_authorities_than_fit_one_packet_ask_for_any_certificate() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    for (others, listed) in [(9, 10), (80, 0)] {
        let mut configs = configs(&root, &user, &gateway);
        let mut anchors = root.anchors();
        for n in 0..others {
            let other = Authority::root(&format!("Root {n}"), Key::P256);
            anchors.add_pem(other.pem().as_bytes()).unwrap();
        }
        configs[B].peers[0].remote_auth = RemoteAuth::certificates(Arc::new(anchors));
        let pair = run(configs);
        assert_stands(&pair);
        let first = pair.log.iter().find(|(_, who, _)| *who == B).unwrap();
        let bytes = &first.2.payload;
        assert!(20 + 8 + bytes.len() <= 1280, "{}", bytes.len());
        let Ok((_, Body::Clear(payloads))) = message::decode(bytes) else {
            panic!("an answer in clear");
        };
        assert_eq!(
            authorities(&payloads).map(|hashes| hashes.len()),
            Some(listed)
        );
    }
}

/// What is wrong with the user's certificate, and what the gateway says of it.
fn wrong_certificates(root: &Authority) -> Vec<(Issued, &'static str)> {
    let plain = Request::new(Key::P256, LAPTOP);
    let other = Authority::root("Other", Key::P256);
    let issue = |change: &dyn Fn(&mut Request)| {
        let mut request = plain.clone();
        change(&mut request);
        root.issue(&request)
    };
    let mut not_above = authority("No issuer");
    not_above.key_usages = vec![Usage::DigitalSignature];
    let mut over = authority("Over");
    over.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let unknown = |request: &Request| {
        rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![request.names.len() as u8])
    };
    vec![
        (
            issue(&|r| r.validity[1] = (2026, 11, 22)),
            "CN=laptop@example.org\" expired on 2026-11-22 00:00 UTC: renew it",
        ),
        (
            issue(&|r| r.validity[0] = (2026, 11, 24)),
            "is valid from 2026-11-24 00:00 UTC on only: correct this host's clock",
        ),
        (
            issue(&|r| r.purposes = vec![Purpose::CodeSigning, Purpose::EmailProtection]),
            "is not for authentication: issue it with digitalSignature",
        ),
        (
            issue(&|r| r.usage = vec![Usage::KeyEncipherment]),
            "is not for authentication",
        ),
        (
            issue(&|r| r.names = vec!["mallory@example.org".into()]),
            "the certificate is of \"mallory@example.org\", \"C=CH, O=Example, CN=laptop@example.org\", not of \"laptop@example.org\"",
        ),
        (
            issue(&|r| {
                let mut extension = unknown(r);
                extension.set_criticality(true);
                r.extensions = vec![extension];
            }),
            "it has a critical extension that is not supported",
        ),
        (
            other.issue(&plain),
            "is issued by \"C=CH, O=Example, CN=Other\", which no `ca` vouches for",
        ),
        (
            // The same name, another key.
            Authority::root("Root", Key::P256).issue(&plain),
            "its signature is not its issuer's",
        ),
        (
            root.intermediate("Below", Key::P256).issue(&plain).alone(),
            "is issued by \"C=CH, O=Example, CN=Below\", which no `ca` vouches for",
        ),
        (
            root.intermediate_with(not_above, Key::P256).issue(&plain),
            "its issuer may not issue certificates",
        ),
        (
            root.intermediate_with(over, Key::P256).issue(&plain),
            "certificate \"C=CH, O=Example, CN=Over\" expired on 2025-01-01",
        ),
    ]
}

#[test]
fn a_gateway_names_what_is_wrong_with_a_certificate_and_the_user_hears_that_it_is_refused() {
    let root = Authority::root("Root", Key::P256);
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    for (user, expected) in wrong_certificates(&root) {
        let pair = run(configs(&root, &user, &gateway));
        assert_refused(&pair, REFUSED, expected);
        assert_eq!(pair.ends[B].count("ike_authentication"), 1);
    }
}

#[test]
fn a_user_that_does_not_believe_the_gateway_tells_it_so() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let mut request = Request::new(Key::P256, GATEWAY);
    request.validity[1] = (2026, 1, 1);
    let expired = root.issue(&request);
    assert_refused(
        &run(configs(&root, &user, &expired)),
        "expired on 2026-01-01",
        REFUSED,
    );
    let other = Authority::root("Other", Key::P256).issue(&Request::new(Key::P256, GATEWAY));
    assert_refused(
        &run(configs(&root, &user, &other)),
        "which no `ca` vouches for",
        REFUSED,
    );
    let elsewhere = root.issue(&Request::new(Key::P256, "gw.elsewhere.org"));
    assert_refused(
        &run(configs(&root, &user, &elsewhere)),
        "the certificate is of \"gw.elsewhere.org\"",
        REFUSED,
    );
}

#[test]
fn usages_that_fit_are_accepted_and_so_is_none() {
    let root = Authority::root("Root", Key::P256);
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    for purposes in [
        vec![],
        vec![Purpose::ServerAuth],
        vec![Purpose::ClientAuth],
        vec![Purpose::Any],
        vec![
            Purpose::CodeSigning,
            Purpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]),
        ],
    ] {
        for usage in [
            vec![],
            vec![Usage::DigitalSignature],
            vec![Usage::ContentCommitment],
        ] {
            let mut request = Request::new(Key::P256, LAPTOP);
            request.purposes.clone_from(&purposes);
            request.usage = usage;
            assert_stands(&run(configs(&root, &root.issue(&request), &gateway)));
        }
    }
}

#[test]
fn without_a_clock_no_certificate_is_accepted() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    let [user, gateway] = configs(&root, &user, &gateway);
    let mut pair = setup::pair(user, gateway, 1);
    pair.ends[A].max_datagram = 8192;
    connect(&mut pair);
    pair.run(Duration::from_secs(60));
    assert_refused(&pair, REFUSED, "the time is not known");
}

#[test]
fn the_clock_goes_on_from_where_it_was_set() {
    let root = Authority::root("Root", Key::P256);
    let mut request = Request::new(Key::P256, LAPTOP);
    request.validity[1] = (2026, 11, 24);
    let user = root.issue(&request);
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    let mut pair = pair(configs(&root, &user, &gateway));
    pair.run(Duration::from_secs(86_500));
    connect(&mut pair);
    pair.run(Duration::from_secs(60));
    assert_refused(&pair, REFUSED, "expired on 2026-11-24");
}

#[test]
fn a_certificate_of_another_key_proves_nothing() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let stolen = root.issue(&Request::new(Key::P256, LAPTOP));
    let mixed = Issued {
        chain: stolen.chain,
        key: user.key,
    };
    let error = Credential::from_pem(mixed.chain.as_bytes(), mixed.key.as_bytes()).unwrap_err();
    assert!(error.is_mismatch(), "{error}");
}

fn table(secret: &str) -> PskTable {
    PskTable::new(BTreeMap::from([(
        LAPTOP.parse().expect("an identity"),
        Secret::new(secret.as_bytes().to_vec()),
    )]))
}

#[test]
fn one_entry_takes_secrets_and_certificates() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    let both = |configs: &mut [EngineConfig; 2]| {
        configs[B].peers[0].remote_auth = RemoteAuth {
            psk: Some(PskSource::Table(table("secret"))),
            certificates: Some(Arc::new(root.anchors())),
        };
    };
    let mut by_certificate = configs(&root, &user, &gateway);
    both(&mut by_certificate);
    assert_stands(&run(by_certificate));
    // The gateway answers a secret with the secret.
    let mut by_secret = configs(&root, &user, &gateway);
    both(&mut by_secret);
    by_secret[A].peers[0].local_auth = LocalAuth::Psk;
    by_secret[A].peers[0].remote_auth = setup::psk("secret");
    assert_stands(&run(by_secret));
    // A secret one way, a certificate the other.
    let mut mixed = configs(&root, &user, &gateway);
    both(&mut mixed);
    mixed[A].peers[0].local_auth = LocalAuth::Psk;
    mixed[A].peers[0].remote_auth = RemoteAuth {
        certificates: Some(Arc::new(root.anchors())),
        ..setup::psk("secret")
    };
    assert_stands(&run(mixed));
}

#[test]
fn a_peer_that_may_not_use_a_secret_cannot() {
    let root = Authority::root("Root", Key::P256);
    let issued = root.issue(&Request::new(Key::P256, LAPTOP));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    let mut by_secret = configs(&root, &issued, &gateway);
    by_secret[A].peers[0].local_auth = LocalAuth::Psk;
    by_secret[A].peers[0].remote_auth = setup::psk("secret");
    assert_refused(
        &run(by_secret),
        REFUSED,
        "authenticates by SHARED_KEY, which its [[peer]] does not accept",
    );
    let [user, _] = configs(&root, &issued, &gateway);
    assert_refused(
        &run([user, setup::gateway()]),
        REFUSED,
        "authenticates by SIGNATURE, which its [[peer]] does not accept",
    );
}

/// One gateway, several authorities with a certificate of its own for each.
#[test]
fn the_certificate_shown_follows_from_whom_the_peer_trusts() {
    let roots = [
        Authority::root("First", Key::P256),
        Authority::root("Second", Key::P384),
    ];
    for (index, root) in roots.iter().enumerate() {
        let user = root.issue(&Request::new(Key::P256, LAPTOP));
        let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
        let [user, mut gateway] = configs(root, &user, &gateway);
        gateway.peers.clear();
        for (name, root) in ["first", "second"].iter().zip(&roots) {
            let issued = root.issue(&Request::new(Key::P256, GATEWAY));
            let mut anchors = TrustAnchors::default();
            for root in &roots {
                anchors.add_pem(root.pem().as_bytes()).unwrap();
            }
            let credential = issued.credential().with_authorities(&anchors);
            let mut config = setup::gateway();
            let peer = PeerConfig {
                name: (*name).into(),
                local_auth: LocalAuth::Certificate(Arc::new(credential)),
                remote_auth: RemoteAuth::certificates(Arc::new(anchors)),
                ..config.peers.remove(0)
            };
            gateway.peers.push(peer);
        }
        let pair = run([user, gateway]);
        assert_stands(&pair);
        let entry = pair.ends[B].events.iter().find_map(|event| match event {
            Event::Established { peer, .. } => Some(peer.clone()),
            _ => None,
        });
        assert_eq!(entry.as_deref(), Some(["first", "second"][index]));
    }
}

#[test]
fn a_new_table_of_secrets_counts_for_the_next_connection_and_ends_none() {
    let mut user = setup::user();
    user.peers[0].remote_auth = setup::psk("new");
    let mut gateway = setup::gateway();
    gateway.peers[0].remote_auth = RemoteAuth::psk(PskSource::Table(table("old")));
    let mut pair = pair([user, gateway]);
    connect(&mut pair);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[B].failures().len(), 1, "the secrets differ");
    let replace = |secret| Command::SetPskTable {
        peer: "subscribers".into(),
        table: table(secret),
    };
    pair.command(B, replace("new"));
    connect(&mut pair);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.ends[B].established().len(), 1);
    pair.command(B, replace("newer"));
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[B].established().len(), 1, "it stays");
    assert!(!format!("{:?}", replace("newer")).contains("newer"));
}

#[test]
fn hashes_are_announced_by_both_and_certificates_asked_for() {
    let root = Authority::root("Root", Key::P256);
    let user = root.issue(&Request::new(Key::P256, LAPTOP));
    let gateway = root.issue(&Request::new(Key::P256, GATEWAY));
    let pair = run(configs(&root, &user, &gateway));
    let first: Vec<_> = pair
        .log
        .iter()
        .take(2)
        .map(|(_, _, transmit)| mifsec::ike::message::decode(&transmit.payload).unwrap().1)
        .collect();
    for (index, body) in first.into_iter().enumerate() {
        let mifsec::ike::message::Body::Clear(payloads) = body else {
            panic!("IKE_SA_INIT is in clear");
        };
        let hashes = payloads.iter().find_map(|payload| match payload {
            Payload::Notify(n) if n.kind == NotifyType::SIGNATURE_HASH_ALGORITHMS => Some(&n.data),
            _ => None,
        });
        assert_eq!(hashes, Some(&vec![0, 2, 0, 3, 0, 4, 0, 5]));
        let asked = mifsec::ike::cert::authorities(&payloads);
        assert_eq!(asked.map(|hashes| hashes.len()), (index == 1).then_some(1));
    }
}

#[test]
fn no_truncation_of_a_certificate_is_accepted_or_panics() {
    let root = Authority::root("Root", Key::P256);
    let issued = root.issue(&Request::new(Key::P256, LAPTOP));
    let pem = issued.chain.lines().filter(|line| !line.starts_with('-'));
    let der = base64(&pem.collect::<String>());
    let identity: Identity = LAPTOP.parse().unwrap();
    let anchors = root.anchors();
    assert!(anchors.verify(&[&der], &identity, TODAY).is_ok());
    for length in 0..der.len() {
        let refused = anchors
            .verify(&[&der[..length]], &identity, TODAY)
            .unwrap_err();
        assert!(
            matches!(refused, CertificateError::Malformed { .. }),
            "{refused}"
        );
    }
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 0x40;
        assert!(
            anchors.verify(&[&changed], &identity, TODAY).is_err(),
            "octet {at}"
        );
    }
    assert!(matches!(
        anchors.verify(&[], &identity, TODAY),
        Err(CertificateError::Missing { .. })
    ));
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | u32::from(value(c));
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).expect("eight bits"));
        }
    }
    out
}
