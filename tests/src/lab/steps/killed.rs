//! Step g: agents die, packets stay protected.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Judge, Lab};
use crate::lab::load::{Load, Plan};
use crate::lab::sys::now_ns;

/// Both agents are killed under load. Neither the load that goes on nor one
/// started afterwards shows on the router.
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
    thread::sleep(Duration::from_millis(1000));
    let outcome = load.stop();

    // An application that starts now takes whatever source and route it gets.
    let fresh = Plan {
        bind: Ipv4Addr::UNSPECIFIED,
        ..Plan::new(lab.inner, 64)
    };
    let load = Load::start(&lab.topology, fresh)?;
    thread::sleep(Duration::from_millis(1200));
    let orphaned = load.stop();
    let seen = lab.capture.seen().since(&before);

    judge.count(&outcome);
    judge.count(&orphaned);
    judge.require(
        protected.spis().len() >= 2 && protected.frames > 1000,
        || "the router saw no protected traffic before the agents were killed".into(),
    );
    judge.require(outcome.up.lost_between(0, at) == 0, || {
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
    let arrived = orphaned.up.received() + orphaned.down.received();
    judge.require(arrived == 0, || {
        format!("{arrived} datagrams arrived without any agent")
    });
    judge.fact(format!(
        "{} packets in clear of {} sent after the kill",
        seen.clear,
        orphaned.sent() + outcome.sent_since(at)
    ));
    Ok(())
}
