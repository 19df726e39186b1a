//! Steps h and m: the end user's third access joins the session and leaves it.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::judge::Meant;
use super::session::as_configured;
use super::{Access, HOLD, Judge, Lab, Leg, Seen, Way, event, packets};
use crate::lab::capture::{CREATE_CHILD_SA, INFORMATIONAL};
use crate::lab::load::Plan;
use crate::lab::sys::now_ns;

/// Where the third access is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Never plugged in.
    Out,
    /// Part of the session.
    Joined,
    /// Plugged in, and deleted by command.
    Deleted,
}

/// The exchanges of an interface that joins: its announcement and the request
/// itself, and one the peers may have with each other anyway.
const FEW: u64 = 3;
/// The end user's name for the gateway.
const PEER: &str = "gw";
const CHANGE: &str = "mifsec.change/1";

/// h: an access is plugged in: its Child SAs are derived in one exchange, not
/// negotiated, and it carries its share; the others stay what they were.
pub(super) fn added(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    if lab.third == State::Joined {
        lab.leave()?;
    }
    // A TCP flow of another rate would weigh more than one flow.
    let running = lab.begin_plan(Plan::new(lab.inner, 256))?;
    let asked = lab.capture.seen();
    let at = now_ns();
    lab.join()?;
    let there = now_ns();
    let told = lab.capture.seen().since(&asked);
    thread::sleep(HOLD);
    let after = lab.watch(Duration::from_millis(1500));
    let ended = lab.end_but(running, judge, Meant { new: 1, gone: 0 })?;
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    judge.require(ended.outcome.lost() == 0, || {
        format!("{} up, {} down: datagrams lost", up.lost(), down.lost())
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    let negotiated = told.exchanges(CREATE_CHILD_SA);
    let informed = told.exchanges(INFORMATIONAL);
    judge.require(negotiated == 0, || {
        format!("{negotiated} CREATE_CHILD_SA exchanges: the SAs were not derived")
    });
    judge.require((1..=FEW).contains(&informed), || {
        format!("{informed} INFORMATIONAL exchanges until the SAs were there")
    });
    as_configured(lab, judge, &after);
    judge.fact(format!(
        "{} {}: 1 Child SA derived in {} ms by {informed} exchanges, carries {:.0} % up, {:.0} % down",
        Access::Ethernet.link(),
        lab.attached[&Access::Ethernet].address,
        (there - at) / 1_000_000,
        after.share(Access::Ethernet, Way::Up),
        after.share(Access::Ethernet, Way::Down),
    ));
    Ok(())
}

/// m: the operator deletes the interface: its Child SAs go at both ends by one
/// request, and what they carried goes on over the others.
pub(super) fn deleted(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    if lab.third != State::Joined {
        lab.join()?;
        thread::sleep(HOLD);
    }
    let running = lab.begin(64)?;
    let theirs = running.before.of(Access::Ethernet);
    let before = lab.watch(Duration::from_millis(300));
    let carried = packets(&before, Access::Ethernet);
    let asked = lab.capture.seen();
    let at = now_ns();
    lab.leave()?;
    let told = lab.capture.seen().since(&asked);
    thread::sleep(Duration::from_millis(300));
    let after = lab.watch(Duration::from_millis(700));
    let ended = lab.end_but(running, judge, Meant { new: 0, gone: 1 })?;
    let (up, down) = (&ended.outcome.up, &ended.outcome.down);
    judge.require(carried.iter().all(|count| *count > 100), || {
        format!(
            "{} carried only {carried:?} packets",
            Access::Ethernet.link()
        )
    });
    judge.require(ended.outcome.lost() == 0, || {
        format!("{} up, {} down: datagrams lost", up.lost(), down.lost())
    });
    judge.switched(up.longest_silence(at), down.longest_silence(at));
    judge.tcp_moves(ended.tcp.as_ref(), at);
    let still: u64 = still(&after, &theirs);
    judge.require(still == 0, || {
        format!("{still} packets of Child SAs that were deleted")
    });
    as_carried_by_the_others(judge, &after);
    judge.fact(format!(
        "{}: {} SPIs gone at each end by {} exchanges, {carried:?} packets before, {:?} after",
        Access::Ethernet.link(),
        theirs.len(),
        told.exchanges(INFORMATIONAL),
        packets(&after, Access::Ethernet)
    ));
    Ok(())
}

fn still(seen: &Seen, spis: &std::collections::BTreeSet<u32>) -> u64 {
    let legs = Leg::ALL.into_iter();
    let both = |leg| [Way::Up, Way::Down].map(|way| seen.of(spis, leg, way));
    legs.flat_map(both).sum()
}

fn as_carried_by_the_others(judge: &mut Judge, seen: &Seen) {
    for access in Access::FIRST {
        let counts = packets(seen, access);
        judge.require(counts.iter().all(|count| *count > 100), || {
            format!("{} carries only {counts:?} packets", access.link())
        });
    }
}

impl Lab {
    /// Lets the third access join and waits until both ends have its Child SAs: by
    /// itself when it is plugged in, by command after it was deleted by one.
    fn join(&mut self) -> Result<()> {
        let wanted = self.accesses().len() + 1;
        if self.third == State::Out {
            event(self.topology.plug(), "a third access")?;
        } else {
            let words = ["add-interface", PEER, Access::Ethernet.link()];
            self.agents.eu.run(&words, CHANGE)?;
        }
        self.third = State::Joined;
        self.wait_for_sas(wanted)?;
        self.settle()
    }

    /// Deletes the third access by command and waits until its Child SAs are gone;
    /// they still receive for a while.
    fn leave(&mut self) -> Result<()> {
        let words = ["delete-interface", PEER, Access::Ethernet.link()];
        self.agents.eu.run(&words, CHANGE)?;
        self.third = State::Deleted;
        self.wait_for_sas(self.accesses().len())
    }

    fn wait_for_sas(&self, wanted: usize) -> Result<()> {
        self.wait_until(|| {
            let sas = self.agents.sas()?;
            let (eu, gw, same) = (sas.eu.len(), sas.gw.len(), sas.matching());
            let all = [eu, gw, same].iter().all(|count| *count == wanted);
            Ok(all.then_some(()).ok_or(format!(
                "{eu} Child SAs at the end user, {gw} at the gateway, {same} the same, not {wanted}"
            )))
        })
    }
}
