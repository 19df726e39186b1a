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
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mifsec_tests::lab::agents::{Agent, Agents, Extra};
use mifsec_tests::lab::load::{Load, Outcome, Plan};
use mifsec_tests::lab::steps::wait_for_session;
use mifsec_tests::lab::topology::Topology;
use mifsec_tests::lab::{cleanup, sys};

/// How long a session may take to come up.
const SET_UP: Duration = Duration::from_secs(20);
/// How long a responder may hold back on a new SA on which nothing has arrived.
const HOLD: Duration = Duration::from_millis(1100);

/// Two agents with a session.
struct Session {
    agents: Agents,
    inner: Ipv4Addr,
    topology: Topology,
}

/// The agent that `cargo xtask test` has built, else the one beside the test.
fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIFSEC_BIN") {
        return Some(path.into());
    }
    let own = std::env::current_exe().ok()?;
    let binary = own.parent()?.parent()?.join("mifsec");
    binary.exists().then_some(binary)
}

impl Session {
    /// With these lines in the `[[peer]]` of the end user and of the gateway.
    fn up(eu_peer: &str, gw_peer: &str) -> Option<Self> {
        if !sys::is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        let Some(binary) = binary() else {
            println!("skipped: the mifsec binary is not built");
            return None;
        };
        cleanup::on_stop_signal().unwrap();
        let topology = Topology::new().unwrap();
        let extra = Extra {
            eu_peer: eu_peer.into(),
            gw_peer: gw_peer.into(),
            ..Extra::default()
        };
        let agents = Agents::start_with(&topology, &binary, &extra).unwrap();
        let inner = wait_for_session(&agents, SET_UP)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", agents.tails()));
        sleep(HOLD);
        Some(Self {
            agents,
            inner,
            topology,
        })
    }

    /// Datagrams both ways for `span`.
    fn load(&self, span: Duration) -> Outcome {
        let load = Load::start(&self.topology, Plan::new(self.inner, 64)).unwrap();
        sleep(span);
        load.stop()
    }

    fn both(&self) -> [&Agent; 2] {
        [&self.agents.eu, &self.agents.gw]
    }

    /// Nothing lost, nothing twice, and enough to say so.
    fn lossless(&self, outcome: &Outcome) {
        let why = || {
            let drops = self.agents.drops();
            format!("{drops:#?}\n{}", self.agents.tails())
        };
        assert!(outcome.sent() >= 10_000, "{} sent", outcome.sent());
        assert_eq!(outcome.up.lost(), 0, "end user to gateway: {}", why());
        assert_eq!(outcome.down.lost(), 0, "gateway to end user: {}", why());
        assert_eq!(outcome.duplicated(), 0, "{}", why());
    }
}

fn total(agent: &Agent, name: &str) -> u64 {
    agent.json("status").unwrap()["totals"][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no total {name}"))
}

fn counter(agent: &Agent, name: &str) -> u64 {
    let status = agent.json("status").unwrap();
    status["counters"][name].as_u64().unwrap_or(0)
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
    let session = Session::up(eu, gw)?;
    let before = session.both().map(members);
    let made = session.both().map(|agent| total(agent, "children_created"));
    let rekeys = total(&session.agents.eu, "child_rekeys");
    let outcome = session.load(span);
    session.lossless(&outcome);
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
    let Some(session) = Session::up(eu, gw) else {
        return;
    };
    let before = session.both().map(|agent| total(agent, "ike_created"));
    let outcome = session.load(Duration::from_secs(15));
    session.lossless(&outcome);
    for agent in session.both() {
        let rekeys = total(agent, "ike_rekeys");
        println!("IKE rekeys {rekeys}, datagrams {}", outcome.sent());
        assert!(rekeys >= 4, "{rekeys} rekeyings of the IKE SA");
        assert_eq!(counter(agent, "ike_retransmitted"), 0);
        assert_eq!(agent.paths_up().unwrap().len(), 2, "probes go on");
    }
    let now = session.both().map(|agent| total(agent, "ike_created"));
    assert_eq!(before, now, "the same IKE SA as far as the agent knows");
}

#[test]
fn liveness_every_10_ms_behind_saturated_esp_needs_no_retransmission() {
    // The gateway asks; the end user answers behind its own data.
    let Some(session) = Session::up("dpd = \"10ms\"", "dpd = \"10ms\"") else {
        return;
    };
    let before = session
        .both()
        .map(|agent| counter(agent, "ike_liveness_answered"));
    let end = Instant::now() + Duration::from_secs(8);
    let mut plan = Plan::new(session.inner, 64);
    (plan.up, plan.down, plan.payload) = (20_000, 20_000, 1200);
    let load = Load::start(&session.topology, plan).unwrap();
    sleep(end - Instant::now());
    let outcome = load.stop();
    for (agent, before) in session.both().into_iter().zip(before) {
        let answered = counter(agent, "ike_liveness_answered") - before;
        println!("{answered} answers beside {} datagrams", outcome.received());
        assert!(answered >= 100, "{answered} exchanges");
        assert_eq!(
            counter(agent, "ike_retransmitted"),
            0,
            "{:#?}",
            session.agents.drops()
        );
    }
}
