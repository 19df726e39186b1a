//! Step f: the slow access must not slow the fast one down.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Access, Judge, Lab, Leg, Way};
use crate::lab::load::{self, Load, MAGIC, Plan};
use crate::lab::sys::now_ns;
use crate::lab::topology::SERVER;

const RAN_SLOW: (u32, u32) = (10, 32_768);
const RAN_NORMAL: (u32, u32) = (200, 262_144);
const PAYLOAD: usize = 1200;
/// 29 Mbit/s.
const WLAN_RATE: u32 = 3000;
/// 50 Mbit/s.
const FLOOD_RATE: u32 = 5200;
/// Something comes back on the flooded access, as it would for any protocol.
const ANSWER_RATE: u32 = 300;
const WLAN_PORT: u16 = 30_010;
const FLOOD_PORT: u16 = 30_011;
const KEEPS: f64 = 0.95;

/// A WLAN flow keeps 95 % of its rate while the RAN is flooded fivefold.
pub(super) fn ran_flooded(lab: &mut Lab, judge: &mut Judge) -> Result<()> {
    lab.topology.shape(Access::Ran, RAN_SLOW)?;
    let result = flooded(lab, judge);
    lab.topology.shape(Access::Ran, RAN_NORMAL)?;
    result
}

fn flooded(lab: &Lab, judge: &mut Judge) -> Result<()> {
    lab.settle()?;
    let plan = |port, access, most, up, down| -> Result<Plan> {
        let flows = flows_of(lab, port, access, most)?;
        Ok(Plan {
            flows,
            port,
            up,
            down,
            payload: PAYLOAD,
            ..Plan::new(lab.inner, 0)
        })
    };
    let wlan = plan(WLAN_PORT, Access::Wlan, 1, WLAN_RATE, ANSWER_RATE)?;
    let flood = plan(FLOOD_PORT, Access::Ran, 4, FLOOD_RATE, ANSWER_RATE)?;

    let before = lab.agents.sas()?;
    let history = lab.capture.seen();
    let steady = Load::start(&lab.topology, wlan)?;
    thread::sleep(Duration::from_millis(200));
    let alone = now_ns();
    thread::sleep(Duration::from_millis(1500));
    let start = now_ns();
    let look = lab.capture.seen();
    let flood = Load::start(&lab.topology, flood)?;
    thread::sleep(Duration::from_millis(2500));
    let end = now_ns();
    let during = lab.capture.seen().since(&look);
    let flood = flood.stop();
    let steady = steady.stop();
    let seen = lab.capture.seen().since(&history);

    judge.count(&steady);
    judge.steady(&steady);
    judge.unchanged(&before, &lab.agents.sas()?, &history, &seen);
    let (free, kept) = (
        steady.up.rate_between(alone, start),
        steady.up.rate_between(start, end),
    );
    judge.require_in_time(free > 0.9 * f64::from(WLAN_RATE), || {
        format!("the WLAN flow alone has only {free:.0}/s")
    });
    judge.require_in_time(kept >= KEEPS * free, || {
        format!("the WLAN flow falls from {free:.0}/s to {kept:.0}/s")
    });
    let seconds = Duration::from_nanos(end - start).as_secs_f64();
    let octets = during.total(Leg::Ran, Way::Up).octets;
    let ran = 8.0 * f64::from(u32::try_from(octets).unwrap_or(u32::MAX)) / seconds / 1e6;
    judge.require((6.0..=11.0).contains(&ran), || {
        format!("the flood puts {ran:.1} Mbit/s on the RAN of 10")
    });
    judge.fact(format!(
        "WLAN flow {:.1} % of its rate, RAN {ran:.1} Mbit/s, flood got {:.0} % through",
        100.0 * kept / free,
        100.0 * super::super::capture::ratio(flood.up.received(), flood.up.sent())
    ));
    Ok(())
}

/// Flows to a port of the server that go over an access, found by sending: the
/// router sees which leg the packets take.
fn flows_of(lab: &Lab, port: u16, access: Access, most: usize) -> Result<Vec<u16>> {
    const TRIES: u16 = 64;
    const BURST: u64 = 16;
    // Bound so that the server does not answer with errors.
    let server = lab.topology.srv.run(|| load::server_socket(port))??;
    let offsets: Vec<u16> = (0..TRIES).collect();
    let sockets = lab
        .topology
        .eu
        .run(|| load::client_sockets(lab.inner, &offsets))??;
    let mut flows = Vec::new();
    for (offset, socket) in offsets.iter().zip(&sockets) {
        let before = lab.capture.seen();
        for _ in 0..BURST {
            socket.send_to(&MAGIC, (SERVER, port))?;
        }
        thread::sleep(Duration::from_millis(30));
        let seen = lab.capture.seen().since(&before);
        let counts: BTreeMap<_, _> = Access::ALL
            .map(|access| (access, seen.total(Leg::of(access), Way::Up).packets))
            .into();
        if counts[&access] >= BURST && access.others().all(|other| counts[&other] < BURST) {
            flows.push(*offset);
        }
        if flows.len() == most {
            break;
        }
    }
    drop(server);
    ensure!(
        !flows.is_empty(),
        "none of {TRIES} flows goes over {}",
        access.link()
    );
    Ok(flows)
}
