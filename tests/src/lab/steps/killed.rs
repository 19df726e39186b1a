//! Step g: agents die, packets stay protected.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Access, Judge, Lab};
use crate::lab::cleanup::ip;
use crate::lab::load::{Load, Outcome, Plan};
use crate::lab::sys::now_ns;

/// What the agents call their tunnel device.
const TUNNEL_DEVICE: &str = "mif0";

/// Both agents are killed under load. Neither the load that goes on nor one
/// started afterwards shows on the router, not even when it avoids the tunnel
/// device or when that is gone too.
pub(super) fn nothing_in_clear(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    lab.settle()?;
    let before = lab.capture.seen();
    let load = Load::start(&lab.topology, Plan::new(lab.inner, 64))?;
    thread::sleep(Duration::from_millis(700));
    let protected = lab.capture.seen().since(&before);
    let at = now_ns();
    for agent in [&lab.agents.eu, &lab.agents.gw] {
        lab.topology.scope().kill(agent.pid());
    }
    thread::sleep(Duration::from_millis(800));
    let outcome = load.stop();

    // An application that starts now takes whatever source and route it gets.
    let unbound = orphaned(lab, Ipv4Addr::UNSPECIFIED)?;
    // One bound to an access never sees the tunnel device; without that device
    // the gateway's route to the inner address is the default route.
    for namespace in [&lab.topology.eu, &lab.topology.gw] {
        // An agent whose device dies with it has done this already.
        let _ = ip(&["-n", namespace.name(), "link", "delete", TUNNEL_DEVICE]);
    }
    let bound = orphaned(lab, lab.attached[&Access::Wlan].address)?;
    let seen = lab.capture.seen().since(&before);

    for outcome in [&outcome, &unbound, &bound] {
        judge.count(outcome);
    }
    judge.require(
        protected.spis().len() >= 2 && protected.frames > 1000,
        || "the router saw no protected traffic before the agents were killed".into(),
    );
    // What an agent holds when it is killed is gone with it.
    let in_its_hands = Duration::from_millis(50).as_nanos();
    let before_kill = at.saturating_sub(u64::try_from(in_its_hands).unwrap_or(0));
    judge.require(outcome.up.lost_between(0, before_kill) == 0, || {
        "lost before the kill".into()
    });
    judge.require(seen.clear == 0, || {
        format!(
            "{} packets in clear: {}",
            seen.clear,
            seen.clear_examples.join("; ")
        )
    });
    judge.require(seen.missed == 0, || {
        format!("the router's watch missed {} frames", seen.missed)
    });
    let arrived = unbound.received() + bound.received();
    judge.require(arrived == 0, || {
        format!("{arrived} datagrams arrived without any agent")
    });
    judge.fact(format!(
        "{} packets in clear of {} sent after the kill",
        seen.clear,
        outcome.sent_since(at) + unbound.sent() + bound.sent()
    ));
    Ok(())
}

/// A load started without agents, from sockets bound to `bind`.
fn orphaned(lab: &Lab, bind: Ipv4Addr) -> Result<Outcome> {
    let plan = Plan {
        bind,
        ..Plan::new(lab.inner, 64)
    };
    let load = Load::start(&lab.topology, plan)?;
    thread::sleep(Duration::from_millis(700));
    Ok(load.stop())
}
