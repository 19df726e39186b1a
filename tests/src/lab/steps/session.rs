//! Steps a and b: a session with both paths, and both of them used.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Access, Agents, Judge, Lab, Leg, SHARE_TOLERANCE, Seen, Way, shares};
use crate::lab::topology::POOL;

/// Waits for lease and both validated paths at both ends; the lease.
///
/// # Errors
/// When it does not come about in time.
pub fn wait(agents: &Agents, patience: Duration) -> Result<Ipv4Addr> {
    let deadline = Instant::now() + patience;
    loop {
        let lease = agents.eu.lease()?;
        let (eu, gw) = (agents.eu.paths_up()?.len(), agents.gw.paths_up()?.len());
        let matching = agents.sas()?.matching();
        let all = Access::FIRST.len();
        if let Some(lease) = lease
            && eu >= all
            && gw >= all
            && matching >= all
        {
            return Ok(lease);
        }
        if Instant::now() > deadline {
            bail!(
                "no session after {} s: lease {lease:?}, {eu} paths up at the end user, \
                 {gw} at the gateway, {matching} Child SAs at both ends",
                patience.as_secs()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// a: the inner address is of the pool, both paths are validated at both ends,
/// each has its Child SA with the same keys at both ends, and nothing is lost.
pub(super) fn negotiated(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    let (network, length) = POOL;
    let shift = 32 - u32::from(length);
    judge.require(
        u32::from(lab.inner) >> shift == u32::from(network) >> shift,
        || format!("the lease {} is not of the pool", lab.inner),
    );
    let sas = lab.agents.sas()?;
    judge.require(
        sas.matching() == sas.eu.len() && sas.eu.len() == sas.gw.len(),
        || {
            format!(
                "{} Child SAs at the end user, {} at the gateway, {} the same",
                sas.eu.len(),
                sas.gw.len(),
                sas.matching()
            )
        },
    );
    let seen = lab.capture.seen();
    for way in [Way::Up, Way::Down] {
        let ike: u64 = Leg::ALL
            .iter()
            .filter_map(|leg| seen.ike.get(&(*leg, way)))
            .sum();
        judge.require(ike > 0, || format!("no IKE message {way:?} on the router"));
    }
    let running = lab.begin(64)?;
    thread::sleep(Duration::from_millis(800));
    let ended = lab.end(running, judge)?;
    judge.require(ended.outcome.lost() == 0, || {
        "datagrams lost without an event".into()
    });
    let channel = lab.agents.eu.channel()?;
    judge.fact(format!(
        "lease {}, {} Child SAs, IKE on {}",
        lab.inner,
        sas.eu.len(),
        channel.map_or("no access", Access::link)
    ));
    Ok(())
}

/// b: the octets of 256 flows are within 10 points of the weights, both ways.
pub(super) fn by_weight(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    // A TCP flow of another rate would weigh more than one flow.
    let running = lab.begin_without_tcp(256)?;
    thread::sleep(Duration::from_millis(1500));
    let ended = lab.end(running, judge)?;
    judge.require(ended.outcome.lost() == 0, || {
        "datagrams lost without an event".into()
    });
    as_configured(lab, judge, &ended.seen);
    judge.fact(shares(&ended.seen));
    Ok(())
}

/// Every access is within 10 points of its weight, both ways.
pub(super) fn as_configured(lab: &Lab, judge: &mut Judge, seen: &Seen) {
    for access in lab.accesses() {
        let wanted = lab.configured_percent(access);
        for way in [Way::Up, Way::Down] {
            let share = seen.share(access, way);
            judge.require((share - wanted).abs() <= SHARE_TOLERANCE, || {
                let link = access.link();
                format!("{link} carries {share:.0} % {way:?} instead of {wanted:.0} %")
            });
        }
    }
}
