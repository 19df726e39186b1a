//! What the control socket can make happen: the names in a request are looked
//! up here, once for all actions; the work is done where it belongs.

use std::net::IpAddr;

use serde::Serialize;
use tokio::sync::oneshot;

use super::Agent;
use super::handle::Question;

/// What `explain` is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Explain {
    /// An inner packet's five values.
    Flow {
        /// Source.
        src: IpAddr,
        /// Destination.
        dst: IpAddr,
        /// IP protocol number.
        protocol: u8,
        /// Source port, 0 for protocols without.
        sport: u16,
        /// Destination port, 0 for protocols without.
        dport: u16,
    },
    /// An ESP SPI of either direction.
    Spi(u32),
}

/// The answer to what could not be done.
#[derive(Serialize)]
struct Refused {
    error: String,
}

impl Agent {
    /// Does what is asked and answers; what the peer has to confirm is answered then.
    pub(super) fn act(&mut self, action: Question, reply: oneshot::Sender<String>) {
        let done: Result<String, String> = match action {
            Question::Move { peer, from, to, .. } => {
                let known = self.known_peer(&peer).and_then(|()| {
                    self.known_access(&from)?;
                    self.known_access(&to)
                });
                known.and_then(|()| Err("not built yet".into()))
            }
            Question::AddInterface { peer, access } => {
                let known = self
                    .known_peer(&peer)
                    .and_then(|()| self.known_access(&access));
                match known {
                    Ok(()) => return self.add_interface(&peer, &access, reply),
                    Err(error) => Err(error),
                }
            }
            Question::DeleteInterface {
                peer,
                access,
                move_first,
            } => {
                let known = self
                    .known_peer(&peer)
                    .and_then(|()| self.known_access(&access));
                match known {
                    Ok(()) => return self.delete_interface(&peer, &access, move_first, reply),
                    Err(error) => Err(error),
                }
            }
            Question::Drain { access, .. } => self
                .known_access(&access)
                .and_then(|()| Err("not built yet".into())),
            Question::Explain(_) => Err("not built yet".into()),
            Question::Status | Question::Paths | Question::Sas => Err("is no action".into()),
        };
        let line = done
            .unwrap_or_else(|error| serde_json::to_string(&Refused { error }).unwrap_or_default());
        // Whoever asked may be gone.
        let _ = reply.send(line);
    }

    /// There is an established peer of this name or identity.
    fn known_peer(&self, name: &str) -> Result<(), String> {
        let stands =
            |p: &super::peer::Peer| p.remote_id == name || self.config.peers[p.config].name == name;
        if self.peers.values().any(stands) {
            return Ok(());
        }
        let names: Vec<&str> = self.config.peers.iter().map(|p| p.name.as_str()).collect();
        if names.contains(&name) {
            return Err(format!(
                "peer {name:?} is not established; see `mifsec status` for why"
            ));
        }
        Err(format!(
            "there is no peer {name:?}; there are: {}",
            names.join(", ")
        ))
    }

    /// There is an access of this name.
    fn known_access(&self, name: &str) -> Result<(), String> {
        let mut names = self.accesses.links().map(|(_, c, _)| c.interface.as_str());
        if names.any(|known| known == name) {
            return Ok(());
        }
        let names: Vec<&str> = self
            .accesses
            .links()
            .map(|(_, c, _)| c.interface.as_str())
            .collect();
        Err(format!(
            "there is no access {name:?}; there are: {}",
            names.join(", ")
        ))
    }
}
