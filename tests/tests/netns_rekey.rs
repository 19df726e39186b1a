//! New keys under load: two real agents rekey by time and by packets, from both
//! ends, while stamped datagrams flow both ways, and nothing is lost.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use mifsec_tests::lab::agents::{Agent, Extra};
use mifsec_tests::lab::topology::Topology;
use mifsec_tests::session::{self, Session};

/// A session with these lines in the `[[peer]]` of the end user and of the gateway.
fn session(eu_peer: &str, gw_peer: &str) -> Option<Session> {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return None;
    }
    let extra = Extra {
        eu_peer: eu_peer.into(),
        gw_peer: gw_peer.into(),
        ..Extra::default()
    };
    Some(Session::up(Topology::new().unwrap(), &extra).unwrap())
}

fn total(agent: &Agent, name: &str) -> u64 {
    session::total(agent, name).unwrap()
}

/// Where each bundle member is homed, and which keys of its line send.
fn members(agent: &Agent) -> BTreeMap<u64, (String, u64)> {
    let view = agent.json("sa").unwrap();
    let sending = view["sas"].as_array().unwrap().iter();
    sending
        .filter(|sa| sa["sends"] == true)
        .map(|sa| {
            let local = sa["path"]["local"].as_str().unwrap().to_owned();
            let generation = sa["generation"].as_u64().unwrap();
            (sa["member"].as_u64().unwrap(), (local, generation))
        })
        .collect()
}

/// Rekeys under load for `span`; how many there were at the end user.
fn rekeys_without_loss(eu: &str, gw: &str, span: Duration) -> Option<u64> {
    let session = session(eu, gw)?;
    let before = session.both().map(members);
    let made = session.both().map(|agent| total(agent, "children_created"));
    let rekeys = total(&session.agents.eu, "child_rekeys");
    let outcome = session.load(span).unwrap();
    session.lossless(&outcome).unwrap();
    let after = session.both().map(members);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.len(), 2, "one member on each access");
        let homes = |members: &BTreeMap<u64, (String, u64)>| -> Vec<(u64, String)> {
            let homes = members.iter();
            homes.map(|(m, (local, _))| (*m, local.clone())).collect()
        };
        assert_eq!(homes(before), homes(after), "members and their paths stay");
        for (member, (_, generation)) in after {
            assert!(*generation > before[member].1, "{member} has new keys");
        }
    }
    let now = session.both().map(|agent| total(agent, "children_created"));
    assert_eq!(made, now, "a rekeying is no new bundle member");
    let rekeys = total(&session.agents.eu, "child_rekeys") - rekeys;
    println!(
        "rekeys {rekeys}, IKE rekeys {}, datagrams {}, lost {}, duplicated {}",
        total(&session.agents.eu, "ike_rekeys"),
        outcome.sent(),
        outcome.lost(),
        outcome.duplicated()
    );
    Some(rekeys)
}

#[test]
fn rekeying_by_time_from_both_ends_loses_nothing() {
    let eu = "rekey = \"2s\"\nike_rekey = \"never\"";
    let gw = "rekey = { time = \"3s\", jitter = 0.5 }\nike_rekey = \"never\"";
    if let Some(rekeys) = rekeys_without_loss(eu, gw, Duration::from_secs(15)) {
        assert!(rekeys >= 10, "{rekeys} rekeyings");
    }
}

#[test]
fn rekeying_by_packets_from_both_ends_loses_nothing() {
    let peer = "rekey = { packets = 3000, jitter = 0.5 }\nike_rekey = \"never\"";
    if let Some(rekeys) = rekeys_without_loss(peer, peer, Duration::from_secs(10)) {
        assert!(rekeys >= 10, "{rekeys} rekeyings");
    }
}

#[test]
fn tiny_lifetimes_are_kept_up_with() {
    let peer = "rekey = { packets = 100 }\nike_rekey = \"never\"";
    if let Some(rekeys) = rekeys_without_loss(peer, "rekey = \"never\"", Duration::from_secs(6)) {
        assert!(rekeys >= 8, "{rekeys} rekeyings");
    }
}

#[test]
fn rekeying_the_ike_sa_beside_its_child_sas_loses_nothing() {
    let eu = "rekey = \"3s\"\nike_rekey = \"2s\"";
    let gw = "rekey = \"never\"\nike_rekey = { time = \"3s\", jitter = 0.3 }";
    let Some(session) = session(eu, gw) else {
        return;
    };
    let before = session.both().map(|agent| total(agent, "ike_created"));
    let outcome = session.load(Duration::from_secs(15)).unwrap();
    session.lossless(&outcome).unwrap();
    for agent in session.both() {
        let rekeys = total(agent, "ike_rekeys");
        println!("IKE rekeys {rekeys}, datagrams {}", outcome.sent());
        assert!(rekeys >= 4, "{rekeys} rekeyings of the IKE SA");
        assert_eq!(session::counter(agent, "ike_retransmitted").unwrap(), 0);
        assert_eq!(agent.paths_up().unwrap().len(), 2, "probes go on");
    }
    let now = session.both().map(|agent| total(agent, "ike_created"));
    assert_eq!(before, now, "the same IKE SA as far as the agent knows");
}
