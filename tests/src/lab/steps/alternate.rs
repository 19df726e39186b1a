//! Step j: the gateway notices first that the WLAN is dead, and sends over the RAN.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Access, Judge, Lab, Leg, RESUME, Way, affordable, event, packets};
use crate::lab::load::Plan;
use crate::lab::sys::now_ns;

const FLOWS: u16 = 64;
/// Enough that the step sends as many datagrams as the others.
const RATE: u32 = 8000;

/// Only the gateway sends, and what it sends over the WLAN silently goes nowhere:
/// no interface, no carrier and no datagram tells the end user.
pub(super) fn gateway_first(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let plan = Plan {
        up: 0,
        down: RATE,
        ..Plan::new(lab.inner, FLOWS)
    };
    let running = lab.begin_plan(plan)?;
    let wlan = running.before.of(Access::Wlan);
    let before = lab.watch(Duration::from_millis(400));
    let share = before.share(Access::Wlan, Way::Down);
    let asked = lab.capture.seen();
    let at = now_ns();
    let dead = "add rule ip lab forward oifname wlan drop";
    event(lab.topology.nft(dead), "the WLAN's downlink dies")?;
    thread::sleep(Duration::from_millis(600));
    let told = lab.capture.seen().since(&asked);
    let without = lab.watch(Duration::from_millis(500));
    event(
        lab.topology.nft("flush chain ip lab forward"),
        "the WLAN lives again",
    )?;
    let back = now_ns();
    let settled = lab.settle();
    thread::sleep(Duration::from_millis(500));
    let ended = lab.end(running, judge)?;
    settled?;

    let ran = packets(&without, Access::Ran)[1];
    judge.require(ran > 1000, || {
        format!("the RAN carries only {ran} packets meanwhile")
    });
    let down = &ended.outcome.down;
    let most = affordable(RATE, share, ended.outcome.round_trip(), RESUME);
    let lost = u32::try_from(down.lost()).unwrap_or(u32::MAX);
    judge.require_in_time(f64::from(lost) <= most, || {
        format!("lost {lost}, at most {most:.0} may be")
    });
    let late = down.lost_between(back, u64::MAX);
    judge.require(late == 0, || {
        format!("{late} lost while the WLAN came back")
    });
    judge.switched(Duration::ZERO, down.longest_silence(at));
    judge.fact(format!(
        "lost {lost} down (at most {most:.0}), {} packets of the WLAN's SAs over the RAN, requests {:?}",
        told.of(&wlan, Leg::Ran, Way::Down) + without.of(&wlan, Leg::Ran, Way::Down),
        told.requests
    ));
    Ok(())
}
