//! What the control socket can make happen: the names in a request are looked up
//! here, once for all actions, so that a wrong one is told with those there are. The
//! work is done where it belongs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::ids::IfaceId;

use super::Agent;
use super::handle::Question;
use super::peer::Peer;
use super::views::{MOVE_SCHEMA, MovePlan, MovesView, StayView};

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
                let known = self.known_peer(&peer);
                let plan = known.and_then(|()| self.move_interface(&peer, &from, &onto, dry_run));
                let moves = plan.map(|plan| vec![plan]);
                reply(to, moves.map(|moves| view(moves, Vec::new(), dry_run)));
            }
            Question::Drain { access, undo } => {
                let known = self.known_access(&access);
                let done = known.and_then(|()| self.drain_access(&access, undo));
                reply(to, done.map(|(moves, stays)| view(moves, stays, false)));
            }
            Question::AddInterface { peer, access } => match self.known_peer(&peer) {
                Ok(()) => self.add_interface(&peer, &access, to),
                Err(error) => reply::<()>(to, Err(error)),
            },
            Question::DeleteInterface {
                peer,
                access,
                move_first,
            } => match self.known_peer(&peer) {
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

    /// An interface of ours: by its access, or by one of its addresses.
    pub(super) fn our_iface(&self, name: &str) -> Result<IfaceId, String> {
        let several = match self.accesses.named(name) {
            Ok(iface) => return Ok(iface),
            Err(several) => several,
        };
        if name.parse::<IpAddr>().is_ok() {
            return Err(format!("no access has the address {name} now"));
        }
        self.known_access(name)?;
        Err(format!(
            "access {name:?} has several addresses, name one: {}",
            list(several.iter().map(String::as_str))
        ))
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

fn view(moves: Vec<MovePlan>, stays: Vec<StayView>, dry_run: bool) -> MovesView {
    MovesView {
        schema: MOVE_SCHEMA.into(),
        dry_run,
        moves,
        stays,
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
