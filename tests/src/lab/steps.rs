//! The steps of the lab and the lab they run in.
//!
//! A step makes something happen under load and judges what the harness
//! counted. Each can run alone in a fresh lab; together they run in the order
//! of [`ALL`] in one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::agents::{Agents, Sas};
use super::capture::{Capture, Leg, Seen, Way};
use super::load::{Load, Outcome, Plan};
use super::report::Step;
use super::tcp::{Tcp, TcpOutcome};
use super::topology::{Access, Attachment, Topology, WEIGHTS};

mod clear;
mod flood;
mod killed;
mod link;
mod moves;
mod session;

pub use clear::self_test;
pub use session::wait as wait_for_session;

/// A network with two agents that have a session.
#[derive(Debug)]
pub struct Lab {
    capture: Capture,
    agents: Agents,
    /// The inner address.
    inner: Ipv4Addr,
    /// The address each access has now.
    attached: BTreeMap<Access, Attachment>,
    topology: Topology,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its letter, with a digit where a letter of the issue has two parts.
    pub key: &'static str,
    /// What it is about.
    pub title: &'static str,
    run: fn(&mut Lab, &mut Judge) -> Result<()>,
}

/// Counters that every step raises, beside those of what went wrong.
const TRAFFIC: [&str; 4] = ["_packets", "_octets", " probe", " ike"];

/// Fewer datagrams than this prove nothing.
pub const LEAST_DATAGRAMS: u64 = 10_000;

/// The step that leaves no agent alive.
pub const DEADLY: &str = "g";

/// All steps in order. The last one leaves no agent alive.
pub const ALL: &[Scenario] = &[
    scenario("a", "negotiation, both paths", session::negotiated),
    scenario("b", "both accesses by weight", session::by_weight),
    scenario("c1", "WLAN moves, planned", moves::wlan_planned),
    scenario("c2", "WLAN moves, abrupt", moves::wlan_abrupt),
    scenario("d1", "IKE channel moves, planned", moves::channel_planned),
    scenario("d2", "IKE channel moves, abrupt", moves::channel_abrupt),
    scenario("e", "WLAN goes down and up", link::down_and_up),
    scenario("f", "RAN flooded at 10 Mbit/s", flood::ran_flooded),
    scenario(DEADLY, "both agents killed", killed::nothing_in_clear),
];

const fn scenario(
    key: &'static str,
    title: &'static str,
    run: fn(&mut Lab, &mut Judge) -> Result<()>,
) -> Scenario {
    Scenario { key, title, run }
}

/// How long a session may take to come up with both paths.
const SET_UP: Duration = Duration::from_secs(20);
/// How long a responder may hold back on a new SA on which nothing has arrived.
const HOLD: Duration = Duration::from_millis(1100);
/// How long paths may take to be up again after a step.
const SETTLE: Duration = Duration::from_secs(10);
/// The limits.
const RESUME: Duration = Duration::from_millis(300);
/// A sender that pauses longer cannot tell how long the network was silent.
const STEADY: Duration = Duration::from_millis(100);
const NOTICE: Duration = Duration::from_millis(50);
const SHARE_TOLERANCE: f64 = 10.0;

impl Lab {
    /// Starts both agents and waits for the session.
    ///
    /// # Errors
    /// When it does not come about; the ends of the logs are part of the error.
    pub fn up(topology: Topology, binary: &Path, fault: Option<&str>) -> Result<Self> {
        let capture = Capture::start(&topology, true)?;
        let agents = Agents::start(&topology, binary, fault)?;
        let inner = session::wait(&agents, SET_UP).with_context(|| agents.tails())?;
        thread::sleep(HOLD);
        Ok(Self {
            capture,
            agents,
            inner,
            attached: Access::ALL
                .map(|access| (access, access.attachments()[0]))
                .into(),
            topology,
        })
    }

    /// Runs one step. What goes wrong in the harness fails the step too.
    ///
    /// When a sender stood still, because the machine was busy, and nothing
    /// failed but what follows from that, the step is repeated once and says so.
    pub fn run(&mut self, scenario: Scenario) -> Step {
        let first = self.attempt(scenario);
        if !first.step.ok
            && !first.certain
            && let Some(pause) = first.stood_still
        {
            let mut second = self.attempt(scenario).step;
            second.detail += &format!(
                "; repeated once, a sender had stood still for {} ms ({})",
                pause.as_millis(),
                first.step.problems.join("; ")
            );
            return second;
        }
        first.step
    }

    fn attempt(&mut self, scenario: Scenario) -> Attempt {
        let mut judge = Judge::new(scenario);
        let before = self.agents.drops();
        if let Err(error) = (scenario.run)(self, &mut judge) {
            judge.require(false, || format!("{error:#}"));
        }
        if !judge.problems.is_empty() {
            // Where to look: what the agents and their programs say they dropped meanwhile.
            for (reason, count) in self.agents.drops() {
                let more = count.saturating_sub(before.get(&reason).copied().unwrap_or(0));
                if more > 0 && !TRAFFIC.iter().any(|word| reason.contains(word)) {
                    judge.fact(format!("{reason} {more}"));
                }
            }
        }
        let (certain, stood_still) = (judge.certain, judge.stood_still);
        Attempt {
            step: judge.finish(),
            certain,
            stood_still,
        }
    }

    /// What both agents' logs say since the last call, at most the last lines of it.
    #[must_use]
    pub fn tails(&self) -> String {
        self.agents.tails()
    }

    /// Files that exist as long as the lab does: namespaces, processes, pins, its directory.
    #[must_use]
    pub fn footprint(&self) -> Vec<PathBuf> {
        let mut files = self.topology.footprint();
        files.extend(self.agents.eu.footprint());
        files.extend(self.agents.gw.footprint());
        files
    }

    /// Waits until both ends say that both paths are up.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let up = [
                self.agents.eu.paths_up()?.len(),
                self.agents.gw.paths_up()?.len(),
            ];
            if up.iter().all(|count| *count >= Access::ALL.len()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "after {} s {} of the end user's and {} of the gateway's paths are up",
                    SETTLE.as_secs(),
                    up[0],
                    up[1]
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts the load of a step with its TCP flow, and notes what must not change.
    fn begin(&self, flows: u16) -> Result<Running> {
        let tcp = Tcp::start(&self.topology, self.inner)?;
        Ok(Running {
            tcp: Some(tcp),
            ..self.begin_without_tcp(flows)?
        })
    }

    /// As [`Lab::begin`], with nothing but equal flows.
    fn begin_without_tcp(&self, flows: u16) -> Result<Running> {
        self.settle()?;
        let before = self.agents.sas()?;
        let history = self.capture.seen();
        let load = Load::start(&self.topology, Plan::new(self.inner, flows))?;
        // Half a second without an event: a loss here is a loss of its own.
        thread::sleep(Duration::from_millis(500));
        Ok(Running {
            before,
            history,
            load,
            tcp: None,
        })
    }

    /// Ends the load and judges what holds for every step.
    fn end(&self, running: Running, judge: &mut Judge) -> Result<Ended> {
        let outcome = running.load.stop();
        let tcp = running.tcp.map(Tcp::stop);
        let seen = self.capture.seen().since(&running.history);
        judge.count(&outcome);
        judge.steady(&outcome);
        judge.unchanged(
            &running.before,
            &self.agents.sas()?,
            &running.history,
            &seen,
        );
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
        Ok(Ended { outcome, tcp, seen })
    }

    /// What the router sees in `span` from now.
    fn watch(&self, span: Duration) -> Seen {
        let before = self.capture.seen();
        thread::sleep(span);
        self.capture.seen().since(&before)
    }

    /// Waits until the WLAN's part of the octets is again what it was, both ways.
    fn wait_for_shares(&self, before: &Seen) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        let ways = [Way::Up, Way::Down];
        loop {
            let seen = self.watch(Duration::from_millis(400));
            let as_before = |way: &Way| {
                let change = seen.share(Access::Wlan, *way) - before.share(Access::Wlan, *way);
                change.abs() <= SHARE_TOLERANCE
            };
            if ways.iter().all(as_before) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "before: {}; after {} s again: {}",
                    shares(before),
                    SETTLE.as_secs(),
                    shares(&seen)
                );
            }
        }
    }
}

/// The load of a step under way.
struct Running {
    before: Sas,
    history: Seen,
    load: Load,
    tcp: Option<Tcp>,
}

/// The load of a step when it has ended.
struct Ended {
    outcome: Outcome,
    tcp: Option<TcpOutcome>,
    seen: Seen,
}

/// A step that ran once.
struct Attempt {
    step: Step,
    /// Something failed that a busy machine is no excuse for.
    certain: bool,
    stood_still: Option<Duration>,
}

/// Collects what a step found.
#[derive(Debug)]
pub struct Judge {
    step: Step,
    facts: Vec<String>,
    problems: Vec<String>,
    certain: bool,
    stood_still: Option<Duration>,
}

impl Judge {
    fn new(scenario: Scenario) -> Self {
        Self {
            step: Step {
                name: format!("{:<2} {}", scenario.key, scenario.title),
                ok: false,
                sent: 0,
                lost: 0,
                duplicated: 0,
                switch_ms: 0.0,
                sas_recreated: 0,
                detail: String::new(),
                problems: Vec::new(),
            },
            facts: Vec::new(),
            problems: Vec::new(),
            certain: false,
            stood_still: None,
        }
    }

    fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        self.certain |= !holds;
        self.require_in_time(holds, otherwise);
    }

    /// What fails also when the sender stands still.
    fn require_in_time(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(otherwise());
        }
    }

    /// The senders kept their pace, else the times of the step mean nothing.
    fn steady(&mut self, outcome: &Outcome) {
        let pause = outcome.longest_pause();
        if pause > STEADY {
            self.stood_still = Some(pause);
        }
        self.require_in_time(pause <= STEADY, || {
            format!("a sender stood still for {} ms", pause.as_millis())
        });
    }

    fn fact(&mut self, fact: impl Into<String>) {
        self.facts.push(fact.into());
    }

    fn count(&mut self, outcome: &Outcome) {
        self.step.sent += outcome.sent();
        self.step.lost += outcome.lost();
        self.step.duplicated += outcome.duplicated();
        let strange = outcome.up.strange() + outcome.down.strange();
        self.require(strange == 0, || {
            format!("{strange} datagrams arrived that were never sent")
        });
        let duplicated = outcome.duplicated();
        self.require(duplicated == 0, || {
            format!("{duplicated} datagrams arrived twice")
        });
    }

    /// SPIs and keys of both ends, SPIs on the router, replay drops.
    fn unchanged(&mut self, before: &Sas, after: &Sas, history: &Seen, seen: &Seen) {
        let known: BTreeSet<u32> = &before.spis() | &history.spis();
        let foreign = seen.spis().difference(&known).count();
        let changed = after.recreated_since(before);
        self.step.sas_recreated = changed.max(u64::try_from(foreign).unwrap_or(u64::MAX));
        self.require(changed == 0, || format!("{changed} SAs are new or gone"));
        self.require(foreign == 0, || {
            format!("the router saw {foreign} new SPIs")
        });
        self.require(before.matching() > 0, || {
            "no SA is the same at both ends".into()
        });
        let replayed = after.replay_drops.saturating_sub(before.replay_drops);
        self.require(replayed == 0, || {
            format!("{replayed} packets dropped as replayed")
        });
    }

    fn switched(&mut self, up: Duration, down: Duration) {
        let longest = up.max(down);
        self.step.switch_ms = longest.as_secs_f64() * 1000.0;
        self.require_in_time(longest <= RESUME, || {
            format!(
                "silent for {} ms up, {} ms down",
                up.as_millis(),
                down.as_millis()
            )
        });
    }

    fn tcp_moves(&mut self, tcp: Option<&TcpOutcome>, from: u64) {
        let Some(tcp) = tcp else {
            self.require(false, || "there was no TCP flow".into());
            return;
        };
        let octets = tcp.octets_since(from);
        let stall = tcp.longest_stall(from);
        self.require(octets > 0, || "TCP moved nothing".into());
        self.require_in_time(stall < Duration::from_secs(1), || {
            format!(
                "TCP moved {octets} octets and stood still for {} ms",
                stall.as_millis()
            )
        });
        self.fact(format!("TCP stall {} ms", stall.as_millis()));
    }

    fn finish(mut self) -> Step {
        let sent = self.step.sent;
        self.require_in_time(sent >= LEAST_DATAGRAMS, || {
            format!("only {sent} datagrams, at least {LEAST_DATAGRAMS} are needed")
        });
        self.step.ok = self.problems.is_empty();
        let mut detail = self.problems.clone();
        detail.extend(self.facts);
        self.step.detail = detail.join("; ");
        self.step.problems = self.problems;
        self.step
    }
}

/// Whether the WLAN's part is within 10 points of its weight.
fn as_configured(wlan_percent: f64) -> bool {
    (wlan_percent - configured_percent(Access::Wlan)).abs() <= SHARE_TOLERANCE
}

fn configured_percent(access: Access) -> f64 {
    let sum: f64 = WEIGHTS.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mine = WEIGHTS.iter().find(|(of, _)| *of == access);
    mine.map_or(0.0, |(_, weight)| 100.0 * f64::from(*weight) / sum)
}

/// Datagrams that a direction may lose when the sender learns of a dead path
/// only from its peer: rate on that path x (round trip + `notice`).
fn affordable(rate: u32, percent: f64, round_trip: Duration, notice: Duration) -> f64 {
    f64::from(rate) * percent / 100.0 * (round_trip + notice).as_secs_f64()
}

/// The leg and direction totals of both accesses in octets, for the detail column.
fn shares(seen: &Seen) -> String {
    format!(
        "WLAN {:.0} % up, {:.0} % down",
        seen.share(Access::Wlan, Way::Up),
        seen.share(Access::Wlan, Way::Down)
    )
}

/// The step with this key.
///
/// # Errors
/// When there is none.
pub fn by_key(key: &str) -> Result<Vec<Scenario>> {
    let found: Vec<_> = ALL
        .iter()
        .filter(|step| step.key.starts_with(key))
        .copied()
        .collect();
    if found.is_empty() {
        let keys: Vec<_> = ALL.iter().map(|step| step.key).collect();
        bail!("there is no step `{key}`; there are {}", keys.join(", "));
    }
    Ok(found)
}

/// Packets of an access in both directions.
fn packets(seen: &Seen, access: Access) -> [u64; 2] {
    [Way::Up, Way::Down].map(|way| seen.total(Leg::of(access), way).packets)
}

/// The event could not even be made.
fn event(result: Result<()>, what: &str) -> Result<()> {
    result.with_context(|| format!("cannot make this happen: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::load::Direction;

    /// Sent every millisecond, with one pause; everything arrives at once.
    fn outcome(pause_ms: u64) -> Outcome {
        let direction = || {
            let at = |n: u64| (n + if n > 50 { pause_ms } else { 0 }) * 1_000_000;
            let received: Vec<_> = (0..100u32).map(|n| (n, at(n.into()))).collect();
            Direction::new((0..100).map(at).collect(), &received, 1)
        };
        Outcome {
            up: direction(),
            down: direction(),
        }
    }

    #[test]
    fn a_sender_that_stood_still_fails_the_step_and_excuses_silence_only() {
        let mut judge = Judge::new(ALL[0]);
        judge.steady(&outcome(400));
        judge.switched(Duration::from_millis(400), Duration::ZERO);
        assert_eq!(judge.problems.len(), 2);
        assert!(judge.stood_still.is_some() && !judge.certain);
        judge.require(false, || "lost".into());
        assert!(judge.certain);
    }

    #[test]
    fn a_steady_sender_excuses_nothing() {
        let mut judge = Judge::new(ALL[0]);
        judge.steady(&outcome(50));
        assert!(judge.problems.is_empty() && judge.stood_still.is_none());
    }
}
