//! What the control socket can make happen: the names in a request are looked up
//! here, once for all actions, so that a wrong one is told with those there are. The
//! work is done where it belongs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::oneshot;

use super::Agent;
use super::handle::Question;
use super::peer::Peer;
use super::views::{MOVE_SCHEMA, MovePlan, MovesView};

/// Names told when one is wrong.
const NAMES: usize = 8;

/// The answer to what could not be done.
#[derive(Serialize)]
struct Refused {
    error: String,
}

impl Agent {
    /// Does what is asked and answers; a change of interfaces answers by itself, when
    /// the peer has.
    pub(super) fn act(&mut self, action: Question, to: oneshot::Sender<String>) {
        match action {
            Question::Move {
                peer,
                from,
                to: onto,
                dry_run,
            } => {
                let known = self.known_peer(&peer).and_then(|()| {
                    self.known_interface(&from)?;
                    self.known_interface(&onto)
                });
                let plan = known.and_then(|()| self.move_interface(&peer, &from, &onto, dry_run));
                reply(to, plan.map(|plan| moves(vec![plan], dry_run)));
            }
            Question::Drain { access, undo } => {
                let known = self.known_access(&access);
                let plans = known.and_then(|()| self.drain_access(&access, undo));
                reply(to, plans.map(|plans| moves(plans, false)));
            }
            Question::AddInterface { peer, access } => {
                match self
                    .known_peer(&peer)
                    .and_then(|()| self.known_access(&access))
                {
                    Ok(()) => self.add_interface(&peer, &access, to),
                    Err(error) => reply::<()>(to, Err(error)),
                }
            }
            Question::DeleteInterface {
                peer,
                access,
                move_first,
            } => match self
                .known_peer(&peer)
                .and_then(|()| self.known_access(&access))
            {
                Ok(()) => self.delete_interface(&peer, &access, move_first, to),
                Err(error) => reply::<()>(to, Err(error)),
            },
            Question::Explain(what) => reply(to, self.explain(&what)),
            Question::Status | Question::Paths | Question::Sas => {}
        }
    }

    /// There is one established peer of this name or identity.
    fn known_peer(&self, name: &str) -> Result<(), String> {
        let named = |p: &&Peer| {
            let config = self.config.peers.get(p.config);
            p.remote_id == name || config.is_some_and(|c| c.name == name)
        };
        let found = self.peers.values().filter(named);
        let identities: BTreeSet<&str> = found.map(|p| p.remote_id.as_str()).collect();
        if identities.len() > 1 {
            return Err(format!(
                "{name:?} is several peers; name one by its identity: {}",
                list(identities.into_iter())
            ));
        }
        if identities.len() == 1 {
            return Ok(());
        }
        if self.config.peers.iter().any(|p| p.name == name) {
            return Err(format!(
                "peer {name:?} is not established; `mifsec status` says why"
            ));
        }
        let names = self.config.peers.iter().map(|p| p.name.as_str());
        Err(format!(
            "there is no peer {name:?}; there are: {}",
            list(names)
        ))
    }

    /// An access of ours by its name or address, or an interface of the peer's.
    fn known_interface(&self, name: &str) -> Result<(), String> {
        let other = name.starts_with("peer:") || name.parse::<IpAddr>().is_ok();
        if other {
            Ok(())
        } else {
            self.known_access(name)
        }
    }

    /// There is an access of this name.
    fn known_access(&self, name: &str) -> Result<(), String> {
        let mut names = self.config.accesses.iter().map(|a| a.interface.as_str());
        if names.any(|known| known == name) {
            return Ok(());
        }
        let names = self.config.accesses.iter().map(|a| a.interface.as_str());
        Err(format!(
            "there is no access {name:?}; there are: {}",
            list(names)
        ))
    }
}

fn moves(moves: Vec<MovePlan>, dry_run: bool) -> MovesView {
    MovesView {
        schema: MOVE_SCHEMA.into(),
        dry_run,
        moves,
    }
}

/// Names with commas between, the first few of them.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    if names.len() > NAMES {
        names.truncate(NAMES);
        names.push("...");
    }
    names.join(", ")
}

/// Sends a view or a refusal; whoever asked may be gone.
fn reply<T: Serialize>(to: oneshot::Sender<String>, done: Result<T, String>) {
    let line = match done {
        Ok(view) => serde_json::to_string(&view),
        Err(error) => serde_json::to_string(&Refused { error }),
    };
    match line {
        Ok(line) => drop(to.send(line)),
        Err(error) => tracing::error!(%error, "answer"),
    }
}
