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
use serde_json::Value;

use super::agents::{Agents, Extra, Sas};
use super::capture::{Capture, Leg, Seen, Way};
use super::load::{Load, Outcome, Plan};
use super::report::Step;
use super::tcp::{Tcp, TcpOutcome};
use super::topology::{Access, Attachment, Topology, WEIGHTS};

use judge::Meant;

mod alternate;
mod carry;
mod clear;
mod flood;
mod gateway;
mod judge;
mod killed;
mod link;
mod moves;
mod session;
mod third;

pub use clear::self_test;
pub use judge::Judge;
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
    third: third::State,
    /// What the agents are, for a lab within a step.
    binary: PathBuf,
    fault: Option<String>,
    /// The ends of the logs of such a lab.
    aside: String,
    topology: Topology,
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its letter, with a digit where a letter of the issue has two parts.
    pub key: &'static str,
    /// Its name on the command line.
    pub name: &'static str,
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
    scenario(
        "a",
        "session",
        "negotiation, both paths",
        session::negotiated,
    ),
    scenario(
        "b",
        "weights",
        "both accesses by weight",
        session::by_weight,
    ),
    scenario(
        "c1",
        "wlan-planned",
        "WLAN moves, planned",
        moves::wlan_planned,
    ),
    scenario(
        "c2",
        "wlan-abrupt",
        "WLAN moves, abrupt",
        moves::wlan_abrupt,
    ),
    scenario(
        "d1",
        "ike-planned",
        "IKE channel moves, planned",
        moves::channel_planned,
    ),
    scenario(
        "d2",
        "ike-abrupt",
        "IKE channel moves, abrupt",
        moves::channel_abrupt,
    ),
    scenario("e", "link", "WLAN goes down and up", link::down_and_up),
    scenario("f", "flood", "RAN flooded at 10 Mbit/s", flood::ran_flooded),
    scenario("h", "add", "third interface is added", third::added),
    scenario(
        "i",
        "gateway",
        "gateway's second address",
        gateway::announced,
    ),
    scenario(
        "j",
        "alternate",
        "gateway notices first",
        alternate::gateway_first,
    ),
    scenario("k", "move", "WLAN carried by RAN and back", carry::moved),
    scenario("l", "drain", "WLAN drained and back", carry::drained),
    scenario("m", "delete", "third interface is deleted", third::deleted),
    scenario(
        DEADLY,
        "killed",
        "both agents killed",
        killed::nothing_in_clear,
    ),
];

const fn scenario(
    key: &'static str,
    name: &'static str,
    title: &'static str,
    run: fn(&mut Lab, &mut Judge) -> Result<()>,
) -> Scenario {
    Scenario {
        key,
        name,
        title,
        run,
    }
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
        let mut lab = Self::up_with(topology, binary, &Extra::with_fault(fault))?;
        lab.fault = fault.map(str::to_owned);
        Ok(lab)
    }

    /// As [`Lab::up`], with more in the agents' files.
    fn up_with(topology: Topology, binary: &Path, extra: &Extra) -> Result<Self> {
        let capture = Capture::start(&topology, true)?;
        let agents = Agents::start_with(&topology, binary, extra)?;
        let inner = session::wait(&agents, SET_UP).with_context(|| agents.tails())?;
        thread::sleep(HOLD);
        Ok(Self {
            capture,
            agents,
            inner,
            attached: Access::ALL
                .map(|access| (access, access.attachments()[0]))
                .into(),
            third: third::State::Out,
            binary: binary.to_path_buf(),
            fault: None,
            aside: String::new(),
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
            // A load that nobody ended ends by itself.
            thread::sleep(Duration::from_millis(200));
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
        self.agents.tails() + &self.aside
    }

    /// What a lab within a step has beside the lab's own configuration.
    fn extra(&self) -> Extra {
        Extra::with_fault(self.fault.as_deref())
    }

    /// Files that exist as long as the lab does: namespaces, processes, pins, its directory.
    #[must_use]
    pub fn footprint(&self) -> Vec<PathBuf> {
        let mut files = self.topology.footprint();
        files.extend(self.agents.eu.footprint());
        files.extend(self.agents.gw.footprint());
        files
    }

    /// The accesses that are part of the session.
    fn accesses(&self) -> Vec<Access> {
        let mut all = Access::FIRST.to_vec();
        if self.third == third::State::Joined {
            all.push(Access::Ethernet);
        }
        all
    }

    /// What an access should carry by its weight, in percent.
    fn configured_percent(&self, access: Access) -> f64 {
        let used = self.accesses();
        let weights = WEIGHTS.iter().filter(|(of, _)| used.contains(of));
        let sum: f64 = weights.clone().map(|(_, weight)| f64::from(*weight)).sum();
        let mine = weights.clone().find(|(of, _)| *of == access);
        mine.map_or(0.0, |(_, weight)| 100.0 * f64::from(*weight) / sum)
    }

    /// Waits until both ends say that a path on each access is up.
    fn settle(&self) -> Result<()> {
        let wanted = self.accesses().len();
        let accesses = |paths: Vec<Value>, key: &str| {
            let of: BTreeSet<String> = paths.iter().map(|path| path[key].to_string()).collect();
            of.len()
        };
        self.wait_until(|| {
            let eu = accesses(self.agents.eu.paths_up()?, "local_iface");
            let gw = accesses(self.agents.gw.paths_up()?, "remote_iface");
            Ok((eu >= wanted && gw >= wanted).then_some(()).ok_or(format!(
                "{eu} of the end user's accesses have a path that is up, at the gateway {gw}"
            )))
        })
    }

    /// Waits until something holds; what holds instead is part of the error.
    fn wait_until<T>(&self, look: impl Fn() -> Result<Result<T, String>>) -> Result<T> {
        let deadline = Instant::now() + SETTLE;
        loop {
            match look()? {
                Ok(found) => return Ok(found),
                Err(instead) if Instant::now() > deadline => {
                    bail!("after {} s {instead}", SETTLE.as_secs())
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
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
        self.begin_plan(Plan::new(self.inner, flows))
    }

    /// As [`Lab::begin`], with a load of its own.
    fn begin_plan(&self, plan: Plan) -> Result<Running> {
        self.settle()?;
        let before = self.agents.sas()?;
        let history = self.capture.seen();
        let load = Load::start(&self.topology, plan)?;
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
        self.end_but(running, judge, Meant::default())
    }

    /// The same for a step that changes the Child SAs.
    fn end_but(&self, running: Running, judge: &mut Judge, meant: Meant) -> Result<Ended> {
        let outcome = running.load.stop();
        let tcp = running.tcp.map(Tcp::stop);
        let seen = self.capture.seen().since(&running.history);
        judge.count(&outcome);
        judge.steady(&outcome);
        judge.unchanged_but(
            &running.before,
            &self.agents.sas()?,
            &running.history,
            &seen,
            meant,
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

/// The step of this name, or all whose letters begin so.
///
/// # Errors
/// When there is none.
pub fn by_key(key: &str) -> Result<Vec<Scenario>> {
    let named = ALL.iter().filter(|step| step.name == key);
    let found: Vec<_> = match named.copied().collect::<Vec<_>>() {
        named if named.is_empty() && !key.is_empty() => {
            let lettered = ALL.iter().filter(|step| step.key.starts_with(key));
            lettered.copied().collect()
        }
        named => named,
    };
    if found.is_empty() {
        let known: Vec<_> = ALL
            .iter()
            .map(|step| format!("{} ({})", step.name, step.key))
            .collect();
        bail!("there is no step `{key}`; there are {}", known.join(", "));
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
