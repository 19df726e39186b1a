//! Without agents: is the network as drawn, and do the instruments tell the truth?

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Access, Attachment, Judge, Scenario, Step};
use crate::lab::capture::{Capture, Seen};
use crate::lab::load::{Load, Plan};
use crate::lab::tcp::Tcp;
use crate::lab::topology::Topology;

/// Datagrams the router is told to drop.
const DROPPED: u64 = 137;

/// Sends in clear over each access: nothing is lost, except exactly what the
/// router is told to drop; and the watch sees every packet as clear.
///
/// # Errors
/// When the network cannot be used at all.
pub fn self_test(topology: &Topology) -> Result<Vec<Step>> {
    topology.clear_routes()?;
    let capture = Capture::start(topology, true)?;
    let mut steps = Vec::new();
    for (access, title) in [
        (Access::Wlan, "in clear over wlan0"),
        (Access::Ran, "in clear over wwan0"),
    ] {
        steps.push(over(topology, &capture, access, title)?);
    }
    steps.push(injected(topology, &capture)?);
    Ok(steps)
}

fn over(
    topology: &Topology,
    capture: &Capture,
    access: Access,
    title: &'static str,
) -> Result<Step> {
    let mut judge = judge(title);
    let attachment = access.attachments()[0];
    let before = capture.seen();
    let tcp = Tcp::start(topology, attachment.address)?;
    let start = crate::lab::sys::now_ns();
    let load = Load::start(topology, plan(attachment))?;
    thread::sleep(Duration::from_millis(1300));
    let outcome = load.stop();
    let tcp = tcp.stop();
    let seen = capture.seen().since(&before);
    judge.count(&outcome);
    judge.require(outcome.lost() == 0, || {
        format!("{} lost without an event", outcome.lost())
    });
    judge.tcp_moves(Some(&tcp), start);
    // Each datagram on its access's leg and on the gateway's.
    let expected = 2 * outcome.sent();
    judge.require(seen.clear >= expected, || {
        format!(
            "the watch saw {} of {expected} packets in clear",
            seen.clear
        )
    });
    missed(&mut judge, &seen);
    judge.fact(format!(
        "RTT {:.1} ms",
        outcome.round_trip().as_secs_f64() * 1000.0
    ));
    Ok(judge.finish())
}

/// The router drops a known number of datagrams: that number is reported, in
/// the direction and at the time it happened.
fn injected(topology: &Topology, capture: &Capture) -> Result<Step> {
    let mut judge = judge("injected loss is found");
    let attachment = Access::Ran.attachments()[0];
    let before = capture.seen();
    let load = Load::start(topology, plan(attachment))?;
    thread::sleep(Duration::from_millis(400));
    let at = crate::lab::sys::now_ns();
    // A quota in packets: nftables limits have a burst and then nothing for a day.
    topology.nft(&format!(
        "add rule ip lab forward iifname ran udp dport 30000 limit rate 1/day burst {DROPPED} packets drop"
    ))?;
    thread::sleep(Duration::from_millis(700));
    let outcome = load.stop();
    topology.nft("flush chain ip lab forward")?;
    judge.count(&outcome);
    let lost = outcome.up.lost_between(at, u64::MAX);
    judge.require(lost == DROPPED && outcome.lost() == DROPPED, || {
        format!("of {DROPPED} dropped datagrams {lost} were found")
    });
    let flows = outcome.up.flows_with_loss();
    judge.require(flows > 1, || {
        format!("the loss is said to be in {flows} flows")
    });
    missed(&mut judge, &capture.seen().since(&before));
    ensure!(outcome.down.lost() == 0, "lost where nothing was dropped");
    judge.fact(format!("{lost} of {DROPPED}"));
    Ok(judge.finish())
}

fn missed(judge: &mut Judge, seen: &Seen) {
    judge.require(seen.missed == 0, || {
        format!("the router's watch missed {} frames", seen.missed)
    });
}

fn plan(attachment: Attachment) -> Plan {
    Plan {
        learn: true,
        ..Plan::new(attachment.address, 64)
    }
}

fn judge(title: &'static str) -> Judge {
    Judge::new(Scenario {
        key: "-",
        name: "-",
        title,
        run: |_, _| Ok(()),
    })
}
