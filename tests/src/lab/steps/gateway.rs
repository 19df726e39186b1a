//! Step i: the gateway gets a second address, and the end user goes there.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Judge, Lab, Seen, Way, event};
use crate::lab::capture::CREATE_CHILD_SA;
use crate::lab::sys::now_ns;
use crate::lab::topology::{GATEWAY, SECOND_GATEWAY};

/// The gateway's interfaces as the end user's commands name them.
const FIRST: &str = "peer:1";
const SECOND: &str = "peer:2";
const FLOWS: u16 = 64;
const MOVE: &str = "mifsec.move/1";

/// The gateway announces it; the end user measures it and nothing else happens.
/// Then the end user moves there by command, and back.
pub(super) fn announced(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let running = lab.begin(FLOWS)?;
    let at = now_ns();
    event(lab.topology.second_gateway(true), "a second address")?;
    let result = there_and_back(lab, judge, &running.before.spis(), at);
    if result.is_err() {
        // The next step finds the network as this one did.
        let _ = lab.topology.second_gateway(false);
    }
    result?;
    let ended = lab.end(running, judge)?;
    event(lab.topology.second_gateway(false), "it goes again")?;
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    judge.require(ended.outcome.lost() == 0, || {
        format!("{} up, {} down: datagrams lost", up.lost(), down.lost())
    });
    let negotiated = ended.seen.exchanges(CREATE_CHILD_SA);
    judge.require(negotiated == 0, || {
        format!("{negotiated} CREATE_CHILD_SA exchanges")
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    Ok(())
}

fn there_and_back(lab: &Lab, judge: &mut Judge, spis: &BTreeSet<u32>, at: u64) -> Result<()> {
    let accesses = lab.accesses().len();
    lab.wait_until(|| {
        let paths = lab.agents.eu.paths_up()?;
        let second = paths.iter().filter(|path| path["remote_iface"] == 2);
        let count = second.count();
        Ok((count >= accesses)
            .then_some(())
            .ok_or(format!("{count} paths to the second address are up")))
    })?;
    let measured = now_ns();
    let announced = lab.watch(Duration::from_millis(500));
    at_only(judge, &announced, spis, GATEWAY, "announced only");

    let plan = go(lab, FIRST, SECOND)?;
    let moved = lab.watch(Duration::from_millis(500));
    at_only(judge, &moved, spis, SECOND_GATEWAY, "moved");
    go(lab, FIRST, FIRST)?;
    let back = lab.watch(Duration::from_millis(500));
    at_only(judge, &back, spis, GATEWAY, "moved back");
    judge.fact(format!(
        "{accesses} paths to {SECOND_GATEWAY} measured after {} ms, no SA made; moved there by {} message, back by command",
        (measured - at) / 1_000_000,
        plan["moves"][0]["messages"]
    ));
    Ok(())
}

/// Tells the end user which address of the gateway to use.
fn go(lab: &Lab, from: &str, to: &str) -> Result<serde_json::Value> {
    let words = ["move", "gw", "--from", from, "--to", to];
    let plan = lab.agents.eu.run(&words, MOVE)?;
    thread::sleep(Duration::from_millis(300));
    Ok(plan)
}

/// All data go to and come from one address of the gateway.
fn at_only(judge: &mut Judge, seen: &Seen, spis: &BTreeSet<u32>, address: Ipv4Addr, when: &str) {
    for way in [Way::Up, Way::Down] {
        let of = |address| seen.at_gateway(spis, address, way);
        let other = if address == GATEWAY {
            SECOND_GATEWAY
        } else {
            GATEWAY
        };
        let (here, there) = (of(address), of(other));
        judge.require(here > 1000 && there == 0, || {
            format!("{when}: {here} packets {way:?} at {address}, {there} at {other}")
        });
    }
}
