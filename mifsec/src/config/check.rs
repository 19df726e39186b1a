//! From the raw form to the validated one, table by table.

mod access;
mod agent;
mod alternates;
mod auth;
mod mobility;
mod peer;
mod rekey;
mod service;
mod values;

pub(crate) use service::MAX_ORDERED;

use std::path::Path;

use toml::Spanned;

use super::{Config, ConfigError, raw};

const NOT_YET: &str = "not supported yet";

/// Knows the file, so that every complaint can say where.
pub(super) struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

/// One table of the file: its name for messages and where it starts.
struct Section {
    name: String,
    start: usize,
}

impl Section {
    fn of<T>(spanned: &Spanned<T>, name: String) -> Self {
        Self {
            name,
            start: spanned.span().start,
        }
    }
}

impl<'a> Checker<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    pub(super) fn config(&self, raw: raw::File) -> Result<Config, ConfigError> {
        let accesses = self.accesses(raw.access)?;
        let pools = self.pools(raw.pool)?;
        let peers = self.peers(raw.peer, &accesses, &pools)?;
        let agent = self.agent(raw.agent, &peers)?;
        self.ordered(agent.routing, &peers, &pools)?;
        let limits = self.limits(raw.limits)?;
        Ok(Config {
            agent,
            accesses,
            pools,
            peers,
            limits,
        })
    }
}
