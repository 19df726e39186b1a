//! Two real agents with a session, in the network of the lab: for tests of what
//! the lab does not show.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::agents::{Agent, Agents, Extra};
use crate::lab::load::{Load, Outcome, Plan};
use crate::lab::steps::wait_for_session;
use crate::lab::topology::Topology;
use crate::lab::{cleanup, sys};

/// How long a session may take to come up: the machine may be busy.
const SET_UP: Duration = Duration::from_secs(60);
/// How long a responder may hold back on a new SA on which nothing has arrived.
const HOLD: Duration = Duration::from_millis(1100);

/// Two agents with a session.
#[derive(Debug)]
pub struct Session {
    /// Both.
    pub agents: Agents,
    /// The inner address.
    pub inner: Ipv4Addr,
    /// Last: it removes everything.
    pub topology: Topology,
}

/// The agent that `cargo xtask test` has built, else the one beside the test.
#[must_use]
pub fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIFSEC_BIN") {
        return Some(path.into());
    }
    let own = std::env::current_exe().ok()?;
    let binary = own.parent()?.parent()?.join("mifsec");
    binary.exists().then_some(binary)
}

/// Why a test of this kind cannot run here, if it cannot.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !sys::is_root() {
        return Some("network namespaces need root");
    }
    if binary().is_none() {
        return Some("the mifsec binary is not built");
    }
    None
}

impl Session {
    /// With more in the files than the lab needs.
    ///
    /// # Errors
    /// When the session does not come about; the ends of the logs are part of it.
    pub fn up(topology: Topology, extra: &Extra) -> Result<Self> {
        cleanup::on_stop_signal()?;
        let binary = binary().context("the mifsec binary is not built")?;
        let agents = Agents::start_with(&topology, &binary, extra)?;
        let inner = wait_for_session(&agents, SET_UP).with_context(|| agents.tails())?;
        sleep(HOLD);
        Ok(Self {
            agents,
            inner,
            topology,
        })
    }

    /// Datagrams both ways for `span`.
    ///
    /// # Errors
    /// When the sockets cannot be had.
    pub fn load(&self, span: Duration) -> Result<Outcome> {
        let load = Load::start(&self.topology, Plan::new(self.inner, 64))?;
        sleep(span);
        Ok(load.stop())
    }

    /// End user and gateway.
    #[must_use]
    pub fn both(&self) -> [&Agent; 2] {
        [&self.agents.eu, &self.agents.gw]
    }

    /// Nothing lost, nothing twice, and enough to say so.
    ///
    /// # Errors
    /// What went wrong, with what the agents say about it.
    pub fn lossless(&self, outcome: &Outcome) -> Result<()> {
        let (up, down) = (outcome.up.lost(), outcome.down.lost());
        let duplicated = outcome.duplicated();
        ensure!(outcome.sent() >= 10_000, "{} sent", outcome.sent());
        ensure!(
            up == 0 && down == 0 && duplicated == 0,
            "of {} lost {up} up, {down} down, duplicated {duplicated}: {:#?}\n{}",
            outcome.sent(),
            self.agents.drops(),
            self.agents.tails()
        );
        Ok(())
    }
}

/// One of the totals of `mifsec status`.
///
/// # Errors
/// When the agent does not answer.
pub fn total(agent: &Agent, name: &str) -> Result<u64> {
    let status = agent.json("status")?;
    status["totals"][name]
        .as_u64()
        .with_context(|| format!("no total {name}"))
}

/// One of the counters of `mifsec status`; 0 when it was never raised.
///
/// # Errors
/// When the agent does not answer.
pub fn counter(agent: &Agent, name: &str) -> Result<u64> {
    let status = agent.json("status")?;
    Ok(status["counters"][name].as_u64().unwrap_or(0))
}
