//! A second IKE SA to the same peer takes over from the first: make before break.
//!
//! The peer says how long an authentication counts (RFC 4478), or cannot rekey.
//! The new IKE SA is set up beside the old one and gets Child SAs on the same
//! paths; the address leased is the same, since the identity is. Bundles of the
//! newer IKE SA come first at both ends, so traffic follows as soon as it can.
//! When nothing is under way to the old one any more, it is deleted.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::{IfacePair, IkeId};
use crate::ike::Command;

use super::Agent;

/// What is under way to the old Child SAs has arrived after this.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the new IKE SA may need for the Child SAs the old one has.
const PATIENCE: Duration = Duration::from_secs(20);
/// When is looked whether an attempt failed and has to be repeated.
const AGAIN: Duration = Duration::from_secs(5);

/// One IKE SA that is to be replaced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reauth {
    stage: Stage,
    /// The next step, whatever happens.
    due: Instant,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// To be asked for, or asked for.
    Asked,
    /// It stands, but does not have everything yet.
    Filling(IkeId),
    /// It carries the traffic; the old one drains.
    Draining,
}

impl Agent {
    pub(super) fn reauth(&mut self, old: IkeId, now: Instant) {
        let ours = self.peers.get(&old).is_some_and(|p| p.initiator);
        if !ours || self.reauths.contains_key(&old) {
            return;
        }
        let reauth = Reauth {
            stage: Stage::Asked,
            due: now,
        };
        self.reauths.insert(old, reauth);
        self.changed = true;
    }

    /// A new IKE SA stands: the one a predecessor waits for?
    pub(super) fn reauth_established(&mut self, new: IkeId, now: Instant) {
        let Some(config) = self.peers.get(&new).map(|p| p.config) else {
            return;
        };
        let mut awaited = false;
        for (old, reauth) in &mut self.reauths {
            let same = self.peers.get(old).is_some_and(|p| p.config == config);
            if *old != new && same && matches!(reauth.stage, Stage::Asked) {
                *reauth = Reauth {
                    stage: Stage::Filling(new),
                    due: now + PATIENCE,
                };
                awaited = true;
            }
        }
        if awaited {
            // One successor is enough; nobody would ever end a second one.
            self.abandon(config, now);
        }
    }

    /// Does what is due.
    pub(super) fn reauth_due(&mut self, now: Instant) {
        self.reauths.retain(|old, _| self.peers.contains_key(old));
        let all: Vec<(IkeId, Reauth)> = self.reauths.iter().map(|(i, r)| (*i, *r)).collect();
        for (old, mut reauth) in all {
            match reauth.stage {
                Stage::Asked if reauth.due <= now => {
                    self.ask_anew(old, now);
                    reauth.due = now + AGAIN;
                }
                Stage::Filling(new) if !self.peers.contains_key(&new) => {
                    reauth = Reauth {
                        stage: Stage::Asked,
                        due: now + AGAIN,
                    };
                }
                Stage::Filling(new) if reauth.due <= now || self.has_all_of(new, old) => {
                    tracing::info!(old = old.0, new = new.0, "the new IKE SA has taken over");
                    reauth = Reauth {
                        stage: Stage::Draining,
                        due: now + DRAIN,
                    };
                }
                Stage::Draining if reauth.due <= now => {
                    self.ike
                        .handle_command(Command::DeleteIke { ike: old }, now);
                    reauth.due = now + PATIENCE;
                }
                _ => continue,
            }
            self.reauths.insert(old, reauth);
        }
    }

    /// When the next is.
    pub(super) fn reauth_at(&self) -> Option<Instant> {
        self.reauths.values().map(|r| r.due).min()
    }

    /// The same peer from the same place. An attempt from there goes on as long as
    /// it retransmits: all that were begun would stand once the peer answers.
    fn ask_anew(&mut self, old: IkeId, now: Instant) {
        let Some(peer) = self.peers.get(&old) else {
            return;
        };
        let (config, channel) = (peer.config, peer.channel);
        let here = |attempt: &(IkeId, SocketAddr)| attempt.1.ip() == channel.local.ip();
        if self.attempts(config).iter().any(here) {
            return;
        }
        self.abandon(config, now);
        let name = self.config.peers[config].name.clone();
        tracing::info!(peer = name, "authenticating anew");
        let command = Command::Initiate {
            peer: name,
            channel,
        };
        self.ike.handle_command(command, now);
    }

    fn has_all_of(&self, new: IkeId, old: IkeId) -> bool {
        let of = |ike: IkeId| -> BTreeSet<(&str, IfacePair)> {
            let children = self.children.values().filter(|c| c.ike == ike && c.sends);
            children.map(|c| (c.name.as_str(), c.pair)).collect()
        };
        of(new).is_superset(&of(old))
    }
}
