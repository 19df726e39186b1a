//! Step j: the gateway notices first that the WLAN is dead, and sends over the RAN.
//!
//! In a lab of its own, in which each access has an inner address and Child SAs of
//! its own: what is sent to the WLAN's can only go over its SAs. Wherever those arrive
//! they must be taken (R37), although the end user knows of nothing yet.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Access, Judge, Lab, Leg, RESUME, SETTLE, Seen, Topology, Way, affordable, event};
use crate::lab::agents::Extra;
use crate::lab::capture::INFORMATIONAL;
use crate::lab::load::Plan;
use crate::lab::sys::now_ns;

const FLOWS: u16 = 64;
/// Enough that the step sends as many datagrams as the others.
const RATE: u32 = 8000;

/// Only the gateway sends, and what it sends over the WLAN silently goes nowhere:
/// no interface, no carrier and no datagram tells the end user.
pub(super) fn gateway_first(outer: &mut Lab, judge: &mut Judge) -> Result<()> {
    let extra = Extra {
        layout: "pinned".into(),
        ..outer.extra()
    };
    let lab = Lab::up_with(Topology::new()?, &outer.binary, &extra)?;
    let result = downlink_dies(&lab, judge);
    outer.aside = lab.tails();
    result
}

fn downlink_dies(lab: &Lab, judge: &mut Judge) -> Result<()> {
    let plan = Plan {
        up: 0,
        down: RATE,
        ..Plan::new(lab.inner, FLOWS)
    };
    let running = lab.begin_plan(plan)?;
    let wlan = running.before.of(Access::Wlan);
    let on = |seen: &Seen, leg| seen.of(&wlan, leg, Way::Down);
    let before = lab.watch(Duration::from_millis(300));
    judge.require(
        on(&before, Leg::Wlan) > 1000 && on(&before, Leg::Ran) == 0,
        || {
            let (there, elsewhere) = (on(&before, Leg::Wlan), on(&before, Leg::Ran));
            format!("{there} packets of the WLAN's SAs over the WLAN, {elsewhere} over the RAN")
        },
    );
    let asked = lab.capture.seen();
    let at = now_ns();
    let dead = "add rule ip lab forward oifname wlan drop";
    event(lab.topology.nft(dead), "the WLAN's downlink dies")?;
    let first = first_to_ask(lab, &asked);
    thread::sleep(RESUME);
    let carried = lab.watch(Duration::from_millis(500));
    event(
        lab.topology.nft("flush chain ip lab forward"),
        "the WLAN lives again",
    )?;
    let back = now_ns();
    let home = wait_until_home(lab, &on);
    let returned = now_ns();
    let ended = lab.end(running, judge)?;
    home?;

    // On a machine that is busy either end may be late.
    judge.require_in_time(first == Some(Way::Down), || match first {
        Some(Way::Up) => "the end user told it first".into(),
        _ => "nobody was told".into(),
    });
    judge.require(
        on(&carried, Leg::Ran) > 1000 && on(&carried, Leg::Wlan) == 0,
        || {
            let (here, there) = (on(&carried, Leg::Ran), on(&carried, Leg::Wlan));
            format!("{here} packets of the WLAN's SAs over the RAN, {there} over the WLAN")
        },
    );
    let down = &ended.outcome.down;
    let most = affordable(RATE, 100.0, ended.outcome.round_trip(), RESUME);
    let lost = u32::try_from(down.lost()).unwrap_or(u32::MAX);
    judge.require_in_time(f64::from(lost) <= most, || {
        format!("lost {lost}, at most {most:.0} may be")
    });
    let resumed = at + u64::try_from(RESUME.as_nanos()).unwrap_or(u64::MAX);
    let late = down.lost_between(resumed, u64::MAX);
    judge.require_in_time(late == 0, || {
        format!("{late} of those that went over the RAN or back over the WLAN were lost")
    });
    judge.switched(Duration::ZERO, down.longest_silence(at));
    judge.fact(format!(
        "gateway told it first, lost {lost} down (at most {most:.0}), then {} packets of the WLAN's SAs over the RAN, home again after {} ms",
        on(&carried, Leg::Ran),
        (returned - back) / 1_000_000
    ));
    Ok(())
}

/// Who sends the first IKE request about it.
fn first_to_ask(lab: &Lab, since: &Seen) -> Option<Way> {
    let end = Instant::now() + RESUME;
    while Instant::now() < end {
        let seen = lab.capture.seen().since(since);
        let asks = |way| {
            seen.requests
                .get(&(INFORMATIONAL, way))
                .is_some_and(|n| *n > 0)
        };
        // Both within two milliseconds: none is the first.
        match (asks(Way::Up), asks(Way::Down)) {
            (false, false) => thread::sleep(Duration::from_millis(2)),
            (true, _) => return Some(Way::Up),
            (false, true) => return Some(Way::Down),
        }
    }
    None
}

fn wait_until_home(lab: &Lab, on: &impl Fn(&Seen, Leg) -> u64) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let seen = lab.watch(Duration::from_millis(200));
        if on(&seen, Leg::Wlan) > 0 && on(&seen, Leg::Ran) == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{} s after the WLAN lives its SAs are still elsewhere",
                SETTLE.as_secs()
            );
        }
    }
}
