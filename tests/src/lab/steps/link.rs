//! Step e: the WLAN loses its carrier and gets it back.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{Access, Judge, Lab, RESUME, Way, affordable, event, packets};
use crate::lab::load::Plan;
use crate::lab::sys::now_ns;

const FLOWS: u16 = 64;

/// Everything goes over the RAN, then over both again.
pub(super) fn down_and_up(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let running = lab.begin(FLOWS)?;
    let before = lab.watch(Duration::from_millis(400));
    let share = before.share(Access::Wlan, Way::Down);
    let at = now_ns();
    event(lab.topology.carrier(Access::Wlan, false), "no carrier")?;
    thread::sleep(Duration::from_millis(600));
    let without = lab.watch(Duration::from_millis(500));
    let back = now_ns();
    event(lab.topology.carrier(Access::Wlan, true), "carrier")?;
    let again = lab.wait_for_shares(&before);
    let returned = now_ns();
    let ended = lab.end(running, judge)?;
    again?;

    let [wlan_up, wlan_down] = packets(&without, Access::Wlan);
    judge.require(wlan_up + wlan_down == 0, || {
        format!("the dead WLAN carries {wlan_up} packets up, {wlan_down} down")
    });
    let ran = packets(&without, Access::Ran);
    judge.require(ran.iter().all(|count| *count > 1000), || {
        format!("the RAN carries only {ran:?} packets meanwhile")
    });
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    let rate = Plan::new(lab.inner, FLOWS).down;
    let most = affordable(rate, share, ended.outcome.round_trip(), RESUME);
    for (way, direction) in [("up", up), ("down", down)] {
        let lost = u32::try_from(direction.lost()).unwrap_or(u32::MAX);
        judge.require_in_time(f64::from(lost) <= most, || {
            format!("lost {lost} {way}, at most {most:.0} may be")
        });
    }
    let late = up.lost_between(back, u64::MAX) + down.lost_between(back, u64::MAX);
    judge.require(late == 0, || {
        format!("{late} lost while the WLAN came back")
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    judge.fact(format!(
        "lost {} up, {} down (at most {most:.0} each), both again after {} ms",
        up.lost(),
        down.lost(),
        (returned - back) / 1_000_000
    ));
    Ok(())
}
