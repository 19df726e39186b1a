//! Files of shared keys that change while the agent runs: `psk_table`. They are
//! looked at every two seconds and on SIGHUP; one that cannot be used changes
//! nothing and is said once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::config::{Config, FileStamp, PskSource};
use crate::ike::Command;

use super::Agent;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(2);

/// The files, and what they looked like when they were read.
pub(super) struct Secrets {
    tables: Vec<(String, PathBuf, FileStamp)>,
    next: Instant,
}

impl Secrets {
    /// Those of `config`, which has read them.
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let tables = config
            .peers
            .iter()
            .filter_map(|peer| {
                let (path, stamp) = peer.psk.as_ref()?.table_file()?;
                Some((peer.name.clone(), path.to_owned(), stamp))
            })
            .collect();
        Self {
            tables,
            next: now + EVERY,
        }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.tables.is_empty()).then_some(self.next)
    }

    /// Peers whose file is another one than last time, or all.
    fn changed(&mut self, all: bool) -> Vec<(String, PathBuf)> {
        let mut out = Vec::new();
        for (peer, path, known) in &mut self.tables {
            let found = FileStamp::of(path);
            if all || found != *known {
                *known = found;
                out.push((peer.clone(), path.clone()));
            }
        }
        out
    }
}

impl Agent {
    /// Reads changed files when it is time to.
    pub(super) fn secrets_due(&mut self, now: Instant) {
        if self.secrets.due().is_some_and(|at| at <= now) {
            self.read_secrets(false, now);
        }
    }

    /// Reads changed files, or `all`.
    pub(super) fn read_secrets(&mut self, all: bool, now: Instant) {
        self.secrets.next = now + EVERY;
        for (peer, path) in self.secrets.changed(all) {
            match PskSource::read_table(&path) {
                Ok(table) => {
                    tracing::info!(peer, identities = table.len(), "psk_table read again");
                    let command = Command::SetPskTable { peer, table };
                    self.ike.handle_command(command, now);
                }
                Err(error) => {
                    let reason =
                        format!("psk_table: {error}; the table read before stays, mend the file");
                    tracing::warn!(peer, reason, "psk_table");
                    self.tell("alert", &[("peer", json!(peer)), ("reason", json!(reason))]);
                }
            }
        }
    }
}
