//! Steps k and l: by command the RAN carries what is at home on the WLAN, and gives
//! it back.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Access, Judge, Lab, Leg, Running, Seen, Way};
use crate::lab::sys::now_ns;

const FLOWS: u16 = 64;
const MOVE: &str = "mifsec.move/1";

/// k: `mifsec move`; what the command only would do happens not.
pub(super) fn moved(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let running = lab.begin(FLOWS)?;
    let wlan = running.before.of(Access::Wlan);
    let to_ran = ["move", "gw", "--from", "wlan0", "--to", "wwan0"];
    let back = ["move", "gw", "--from", "wlan0", "--to", "wlan0"];
    let dry = [to_ran.as_slice(), &["--dry-run"]].concat();
    let plan = lab.agents.eu.run(&dry, MOVE)?;
    let unmoved = lab.watch(Duration::from_millis(400));
    on(judge, &unmoved, &wlan, Access::Wlan, "after a dry run");
    judge.fact(format!(
        "{} Child SAs on {} paths by {} messages",
        plan["moves"][0]["sas"], plan["moves"][0]["paths"], plan["moves"][0]["messages"]
    ));
    there_and_back(lab, judge, running, &to_ran, &back)
}

/// l: `mifsec drain`, which finds the alternate itself.
pub(super) fn drained(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let running = lab.begin(FLOWS)?;
    let undo = ["drain", "wlan0", "--undo"];
    there_and_back(lab, judge, running, &["drain", "wlan0"], &undo)
}

fn there_and_back(
    lab: &Lab,
    judge: &mut Judge,
    running: Running,
    there: &[&str],
    back: &[&str],
) -> Result<()> {
    let wlan = running.before.of(Access::Wlan);
    let before = lab.watch(Duration::from_millis(400));
    let at = now_ns();
    lab.agents.eu.run(there, MOVE)?;
    thread::sleep(Duration::from_millis(300));
    let carried = lab.watch(Duration::from_millis(600));
    lab.agents.eu.run(back, MOVE)?;
    let returned = lab.wait_for_shares(&before);
    let ended = lab.end(running, judge)?;
    returned?;
    let empty = |way| carried.of(&wlan, Leg::Wlan, way);
    judge.require(empty(Way::Up) + empty(Way::Down) == 0, || {
        format!(
            "the WLAN still carries {} packets up, {} down",
            empty(Way::Up),
            empty(Way::Down)
        )
    });
    let data = |way| carried.total(Leg::Ran, way).packets;
    judge.require(data(Way::Up) > 1000 && data(Way::Down) > 1000, || {
        format!(
            "the RAN carries {} packets up, {} down",
            data(Way::Up),
            data(Way::Down)
        )
    });
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    judge.require(ended.outcome.lost() == 0, || {
        format!("{} up, {} down: datagrams lost", up.lost(), down.lost())
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    judge.fact(format!(
        "the RAN carried {} packets up and {} down of the WLAN's SAs",
        carried.of(&wlan, Leg::Ran, Way::Up),
        carried.of(&wlan, Leg::Ran, Way::Down)
    ));
    Ok(())
}

/// The SAs at home on an access are carried by it.
fn on(judge: &mut Judge, seen: &Seen, spis: &BTreeSet<u32>, access: Access, when: &str) {
    let leg = Leg::of(access);
    let counts = [Way::Up, Way::Down].map(|way| seen.of(spis, leg, way));
    judge.require(counts.iter().all(|count| *count > 100), || {
        format!("{when} {} carries {counts:?} packets", access.link())
    });
}
