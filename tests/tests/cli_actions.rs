//! What the command line does to a running agent, and that each mistake is one line
//! with its mend.
//!
//! What needs agents needs root and the built `mifsec` binary, and says so otherwise.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mifsec_tests::lab::agents::{Agent, Extra};
use mifsec_tests::lab::sys;
use mifsec_tests::lab::topology::Topology;
use mifsec_tests::session::{self, Session};
use serde_json::Value;

/// How long an event may take: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn session() -> Option<Session> {
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return None;
    }
    Some(Session::up(Topology::new().unwrap(), &Extra::default()).unwrap())
}

fn mifsec(control: &Path, words: &str) -> Output {
    Command::new(session::binary().unwrap())
        .args(words.split(' '))
        .env("MIFSEC_CONTROL", control)
        .output()
        .unwrap()
}

/// The one line a refused command prints.
fn refused(control: &Path, words: &str) -> String {
    let output = mifsec(control, words);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{words}: {said}");
    assert!(output.stdout.is_empty(), "{words}");
    assert_eq!(said.lines().count(), 1, "{words}: one line: {said}");
    assert!(said.starts_with("mifsec: "), "{words}: {said}");
    said.trim_end().to_owned()
}

fn said(control: &Path, words: &str) -> String {
    let output = mifsec(control, words);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(agent: &Agent, words: &str) -> Value {
    serde_json::from_str(&said(agent.control(), &format!("{words} --json"))).unwrap()
}

/// Child SAs that send, by inbound SPI, with their access.
fn sas(agent: &Agent) -> Vec<(String, String)> {
    let view = agent.json("sa").unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = view["sas"].as_array().unwrap().iter();
    let mut all: Vec<_> = all
        .filter(|sa| sa["sends"] == true)
        .map(|sa| (text(&sa["spi_in"]), text(&sa["path"]["local"])))
        .collect();
    all.sort();
    all
}

#[test]
fn a_wrong_name_is_told_with_those_there_are() {
    let Some(session) = session() else { return };
    let (eu, gw) = (&session.agents.eu, &session.agents.gw);
    let accesses = "there is no access \"eth9\"; there are: wlan0, wwan0, eth0";
    let peers = "there is no peer \"nobody\"; there are: gw";
    let before = sas(eu);
    for (words, says) in [
        ("move nobody --from wlan0 --to wwan0", peers),
        ("move gw --from eth9 --to wwan0", accesses),
        ("move gw --from wlan0 --to eth9", accesses),
        ("move gw --from wlan0 --to peer:1", "both the peer's"),
        ("move gw --from peer:9 --to peer:1", "see `mifsec path`"),
        ("move gw --from wlan0 --to eth0", "see `mifsec path`"),
        ("drain eth9", accesses),
        ("add-interface nobody eth0", peers),
        ("add-interface gw eth9", accesses),
        ("delete-interface nobody wlan0", peers),
        ("delete-interface gw eth9 --move-first", accesses),
        ("explain 0x00000100", "0x00000100"),
    ] {
        let line = refused(eu.control(), words);
        assert!(line.contains(says), "{words}: {line}");
    }
    let line = refused(gw.control(), "add-interface subscribers 203.0.113.1");
    assert!(line.contains("that peer connected to us"), "{line}");
    assert_eq!(sas(eu), before, "and nothing was done");
}

#[test]
fn a_peer_that_is_not_there_is_no_wrong_name() {
    let Some(session) = session() else { return };
    sys::signal(session.agents.gw.pid(), libc::SIGTERM).unwrap();
    let eu = session.agents.eu.control();
    let mut line = String::new();
    for _ in 0..100 {
        let output = mifsec(eu, "move gw --from wlan0 --to wwan0 --dry-run");
        line = String::from_utf8(output.stderr).unwrap();
        if !output.status.success() {
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    assert!(
        line.contains("not established; `mifsec status` says why"),
        "{line}"
    );
}

#[test]
fn moves_are_rehearsed_done_undone_and_told() {
    let Some(session) = session() else { return };
    let eu = &session.agents.eu;
    let events = monitor(eu);
    let before = sas(eu);
    let dry = json(eu, "move gw --from wlan0 --to wwan0 --dry-run");
    assert_eq!(dry["schema"], "mifsec.move/1");
    assert_eq!(dry["dry_run"], true);
    assert_eq!(dry["moves"][0]["peer"], "gw.example.org");
    assert_eq!(dry["moves"][0]["sas"], 1);
    assert_eq!(dry["moves"][0]["messages"], 1);
    let done = said(eu.control(), "move gw --from wlan0 --to wwan0");
    assert!(
        done.starts_with("gw.example.org: wlan0 is carried by wwan0: 1 Child SA on "),
        "{done}"
    );
    let event = next(&events, "alternate");
    assert_eq!(event["access"], "wlan0");
    assert_eq!(event["by"], "wwan0");
    // The identity is a name, too.
    said(eu.control(), "move gw.example.org --from wlan0 --to wlan0");
    assert_eq!(next(&events, "alternate")["by"], "wlan0");
    let drained = json(eu, "drain wlan0");
    assert_eq!(drained["moves"][0]["to"], "wwan0");
    assert_eq!(said(eu.control(), "drain wlan0"), "nothing to move\n");
    // Where it is is told; and what nothing else can carry stays, which is no success.
    let paths = json(eu, "path");
    let paths = paths["paths"].as_array().unwrap();
    let wlan = paths.iter().find(|p| p["access"] == "wlan0").unwrap();
    assert_eq!(wlan["carried_by"]["local"], "wwan0", "{wlan}");
    let other = paths.iter().find(|p| p["access"] == "wwan0").unwrap();
    assert!(other["carried_by"].is_null(), "{other}");
    let (spi, _) = before.iter().find(|(_, access)| access == "wlan0").unwrap();
    let view = json(eu, &format!("explain {spi}"));
    assert_eq!(
        (&view["path"]["home"], &view["path"]["access"]),
        (&false.into(), &"wwan0".into()),
        "{view}"
    );
    assert_eq!(view["sa"]["layout"], "bundle");
    let line = refused(eu.control(), "drain wwan0");
    assert!(
        line.contains("gw.example.org stays on wwan0: no other access"),
        "{line}"
    );
    let output = mifsec(eu.control(), "drain wwan0 --json");
    assert_eq!(output.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(view["stays"][0]["peer"], "gw.example.org");
    assert_eq!(view["stays"][0]["access"], "wwan0");
    let line = refused(eu.control(), "move gw --from wlan0 --to wwan0");
    assert!(
        line.contains("wwan0 is drained; `mifsec drain wwan0 --undo`"),
        "{line}"
    );
    let status = json(eu, "status");
    assert_eq!(status["accesses"][1]["state"], "drained");
    said(eu.control(), "drain wwan0 --undo");
    said(eu.control(), "drain wlan0 --undo");
    let status = json(eu, "status");
    assert_eq!(status["accesses"][0]["state"], "up");
    assert_eq!(sas(eu), before, "no SA was touched");
}

#[test]
fn interfaces_join_and_leave_and_both_ends_are_told() {
    let Some(session) = session() else { return };
    let (eu, gw) = (&session.agents.eu, &session.agents.gw);
    let (here, there) = (monitor(eu), monitor(gw));
    let before = sas(eu);
    session.topology.plug().unwrap();
    let added = next(&here, "add-interface");
    assert_eq!(
        (&added["access"], &added["sas"]),
        (&"eth0".into(), &1.into())
    );
    assert_eq!(next(&there, "add-interface")["access"], "peer:3");
    let left = json(eu, "delete-interface gw eth0");
    assert_eq!(left["schema"], "mifsec.change/1");
    assert_eq!(
        (&left["change"], &left["sas"]),
        (&"delete".into(), &1.into())
    );
    assert_eq!(next(&there, "delete-interface")["access"], "peer:3");
    assert_eq!(sas(eu), before, "what was there stays");
    // What the operator took away comes back only when the operator says so.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(sas(eu).len(), before.len());
    let back = said(eu.control(), "add-interface gw eth0");
    assert!(
        back.starts_with("gw.example.org: eth0 joined, new: 1 Child SA"),
        "{back}"
    );
    session.topology.second_gateway(true).unwrap();
    let told = next(&here, "interfaces");
    let second = &told["interfaces"][1];
    assert_eq!(
        (&second["access"], &second["state"]),
        (&"peer:2".into(), &"up".into())
    );
    assert_eq!(second["addresses"][0], "203.0.113.2");
}

#[test]
fn a_flow_and_an_spi_are_explained() {
    let Some(session) = session() else { return };
    let eu = &session.agents.eu;
    let flow = format!("udp {}:4000 10.99.0.2:53", session.inner);
    let text = said(eu.control(), &format!("explain {flow}"));
    assert!(
        text.contains(": protect\n") && text.contains("internet"),
        "{text}"
    );
    let view = json(eu, &format!("explain {flow}"));
    assert_eq!(view["schema"], "mifsec.explain/1");
    let (spi, access) = sas(eu).remove(0);
    let view = json(eu, &format!("explain {spi}"));
    assert_eq!(view["path"]["access"], access.as_str());
}

#[test]
fn what_is_no_flow_is_told_before_anybody_is_asked() {
    if session::binary().is_none() {
        println!("skipped: the mifsec binary is not built");
        return;
    }
    let nowhere = Path::new("/nonexistent/control.sock");
    for (words, says) in [
        ("explain 0xnope", "is no SPI; write"),
        ("explain udp 10.66.0.1:1 10.99.0.2", "lacks its port; write"),
        ("explain icmp 10.66.0.1:1 10.99.0.2", "has no ports; leave"),
        ("explain udp 10.66.0.1:1 [fd66::1]:2", "two families; use"),
        ("drain wlan0", "start one with `mifsec agent --config FILE`"),
    ] {
        let line = refused(nowhere, words);
        assert!(line.contains(says), "{words}: {line}");
    }
    let help = said(nowhere, "--help");
    for command in [
        "move",
        "drain",
        "add-interface",
        "delete-interface",
        "explain",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
        assert!(said(nowhere, &format!("{command} --help")).contains("--json"));
    }
}

#[test]
fn a_gateway_takes_an_interface_from_a_peer_and_gives_it_back() {
    let Some(session) = session() else { return };
    let (eu, gw) = (&session.agents.eu, &session.agents.gw);
    session.topology.second_gateway(true).unwrap();
    let with_second = |there: bool| {
        for _ in 0..100 {
            let view = eu.json("path").unwrap();
            let paths = view["paths"].as_array().unwrap();
            if paths
                .iter()
                .any(|p| p["remote_iface"] == 2 && p["state"] == "up")
                == there
            {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("paths to the second interface: {there} never came");
    };
    with_second(true);
    let line = refused(gw.control(), "delete-interface subscribers eth0");
    assert!(
        line.contains("several addresses, name one: 203.0.113.1, 203.0.113.2"),
        "{line}"
    );
    let left = json(gw, "delete-interface subscribers 203.0.113.2");
    assert_eq!(left["access"], "203.0.113.2");
    with_second(false);
    let line = refused(eu.control(), "move gw --from peer:1 --to peer:2");
    assert!(line.contains("the peer has no interface"), "{line}");
    let back = json(gw, "add-interface subscribers 203.0.113.2");
    assert_eq!(back["change"], "add");
    with_second(true);
}

/// The events of an agent from now on.
fn monitor(agent: &Agent) -> mpsc::Receiver<Value> {
    let (tell, told) = mpsc::channel();
    let mut child = Command::new(session::binary().unwrap())
        .args(["monitor", "--json", "--control"])
        .arg(agent.control())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It ends with the agent.
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if tell.send(serde_json::from_str(&line).unwrap()).is_err() {
                break;
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    });
    // Until it listens.
    thread::sleep(Duration::from_millis(500));
    told
}

/// The next event of this name.
fn next(events: &mpsc::Receiver<Value>, name: &str) -> Value {
    loop {
        let event = events.recv_timeout(PATIENCE);
        let event = event.unwrap_or_else(|_| panic!("no event {name}"));
        if event["event"] == name {
            return event;
        }
    }
}
