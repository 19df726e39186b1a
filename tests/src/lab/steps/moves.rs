//! Steps c and d: an access gets another address under load.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Access, Attachment, Judge, Lab, NOTICE, Way, affordable, event, packets, shares};
use crate::lab::load::Plan;
use crate::lab::sys::now_ns;

/// Both addresses are there for this long in a planned move.
const OVERLAP: Duration = Duration::from_millis(1500);
/// No address is there for this long in an abrupt move.
const WITHOUT: Duration = Duration::from_millis(300);
const FLOWS: u16 = 64;

pub(super) fn wlan_planned(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    without_channel(lab, judge)?;
    planned(lab, judge, Access::Wlan)
}

pub(super) fn wlan_abrupt(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    without_channel(lab, judge)?;
    abrupt(lab, judge, Access::Wlan)
}

pub(super) fn channel_planned(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let access = channel(lab)?;
    planned(lab, judge, access)
}

pub(super) fn channel_abrupt(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let access = channel(lab)?;
    abrupt(lab, judge, access)
}

/// Step c is about the access without the IKE channel.
fn without_channel(lab: &Lab, judge: &mut Judge) -> Result<()> {
    let channel = channel(lab)?;
    judge.require(channel != Access::Wlan, || {
        "the IKE channel is on the WLAN".into()
    });
    Ok(())
}

fn channel(lab: &Lab) -> Result<Access> {
    lab.agents
        .eu
        .channel()?
        .context("the IKE channel is on no access")
}

/// The new address is there before the old one goes: nothing is lost.
fn planned(lab: &mut Lab, judge: &mut Judge, access: Access) -> Result<()> {
    let channel = lab.agents.eu.channel()?;
    let old = lab.attached[&access];
    let new = beside(access, old);
    let running = lab.begin(FLOWS)?;
    let at = now_ns();
    event(lab.topology.add_address(access, new), "a second address")?;
    event(lab.topology.add_route(access, new), "its route")?;
    thread::sleep(OVERLAP);
    event(
        lab.topology.remove_address(access, old),
        "the first address goes",
    )?;
    // The connected route of the old network may have taken the default route along.
    event(lab.topology.add_route(access, new), "the route stays")?;
    lab.attached.insert(access, new);
    thread::sleep(Duration::from_millis(700));
    let after = lab.watch(Duration::from_millis(300));
    let ended = lab.end(running, judge)?;
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    judge.require(ended.outcome.lost() == 0, || {
        format!(
            "{} up, {} down: datagrams lost in a planned move",
            up.lost(),
            down.lost()
        )
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    moved(judge, lab, access, &after);
    judge.fact(described(access, channel, old, new));
    judge.fact(shares(&ended.seen));
    Ok(())
}

/// The old address goes, later another comes: the end user loses nothing after
/// that, the gateway what it sends until it is told.
fn abrupt(lab: &mut Lab, judge: &mut Judge, access: Access) -> Result<()> {
    let channel = lab.agents.eu.channel()?;
    let old = lab.attached[&access];
    let new = elsewhere(access, old);
    let running = lab.begin(FLOWS)?;
    let share = lab
        .watch(Duration::from_millis(300))
        .share(access, Way::Down);
    let at = now_ns();
    event(lab.topology.remove_address(access, old), "the address goes")?;
    thread::sleep(WITHOUT);
    event(lab.topology.add_address(access, new), "another address")?;
    event(lab.topology.add_route(access, new), "its route")?;
    lab.attached.insert(access, new);
    let back = now_ns();
    let settled = lab.settle();
    thread::sleep(Duration::from_millis(500));
    let after = lab.watch(Duration::from_millis(500));
    let ended = lab.end(running, judge)?;
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    if let Err(error) = settled {
        judge.require(false, || format!("{error:#}"));
    }
    let lost_up = up.lost_between(at, u64::MAX);
    judge.require(lost_up == 0, || {
        format!("end user to gateway lost {lost_up} after the event")
    });
    let round_trip = ended.outcome.round_trip();
    let rate = Plan::new(lab.inner, FLOWS).down;
    let most = affordable(rate, share, round_trip, NOTICE);
    let lost_down = u32::try_from(down.lost()).unwrap_or(u32::MAX);
    judge.require_in_time(f64::from(lost_down) <= most, || {
        format!("gateway to end user lost {lost_down}, at most {most:.0} may be")
    });
    let late = down.lost_between(back, u64::MAX) + up.lost_between(back, u64::MAX);
    judge.require(late == 0, || {
        format!("{late} lost after the new address came")
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    moved(judge, lab, access, &after);
    judge.fact(described(access, channel, old, new));
    judge.fact(format!(
        "lost {lost_up} up, {lost_down} down (at most {most:.0}), RTT {:.1} ms",
        round_trip.as_secs_f64() * 1000.0
    ));
    Ok(())
}

/// The access carries data both ways again.
fn moved(judge: &mut Judge, lab: &Lab, access: Access, after: &super::Seen) {
    let [up, down] = packets(after, access);
    judge.require(up > 100 && down > 100, || {
        format!(
            "{} carries {up} packets up and {down} down from {}",
            access.link(),
            lab.attached[&access].address
        )
    });
}

fn described(access: Access, channel: Option<Access>, old: Attachment, new: Attachment) -> String {
    let carries = if channel == Some(access) {
        " (IKE channel)"
    } else {
        ""
    };
    format!(
        "{}{carries} {} -> {}",
        access.link(),
        old.address,
        new.address
    )
}

/// Another address, of the same network where there is one.
fn beside(access: Access, old: Attachment) -> Attachment {
    let other = access.attachments().into_iter().filter(|at| *at != old);
    let near = other.clone().find(|at| at.router == old.router);
    near.or_else(|| other.clone().next()).unwrap_or(old)
}

/// Another address of another network.
fn elsewhere(access: Access, old: Attachment) -> Attachment {
    let all = access.attachments().into_iter();
    all.clone()
        .find(|at| at.router != old.router)
        .unwrap_or(old)
}
