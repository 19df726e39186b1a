//! A path for people to look at.

use std::net::SocketAddr;

use super::Path;
use crate::ids::IfacePair;
use crate::path::types::{PathView, Validation};

impl Path {
    pub(in crate::path) fn view(&self, channel: bool, carried_by: Option<IfacePair>) -> PathView {
        let trying = self.candidates.pairs.iter().next();
        let validation = match self.active {
            Some(_) if self.live.is_doubted() => Validation::Suspect,
            Some(_) if self.up => Validation::Validated,
            Some(_) if self.live.is_dead() => Validation::Failed,
            Some(_) => Validation::Validated,
            None => trying.map_or(Validation::Unvalidated, |(_, pair)| pair.state),
        };
        let remote_nat = self.active.is_some_and(|active| {
            let label = self.candidates.remotes.get(&active.remote);
            label
                .and_then(|remote| remote.label)
                .is_some_and(|label| label != active.remote.ip())
        });
        let local_nat = self.active.is_some_and(|active| active.nat);
        PathView {
            path: self.index,
            ike: self.key.ike,
            access: self.local.access,
            pair: self.key.pair,
            family: self.key.family,
            local: self
                .active
                .map(|active| active.local)
                .or_else(|| trying.map(|(pair, _)| SocketAddr::new(pair.0, self.port))),
            remote: self
                .active_remote()
                .or_else(|| trying.map(|(pair, _)| pair.1)),
            nat: remote_nat || local_nat,
            local_nat,
            up: self.up,
            validation,
            validated: self.validated,
            channel,
            home: self.told_home == Some(true),
            watched: self.watched,
            carried_by,
            rtt: self.live.rtt().smoothed(),
            loss_ppm: self.live.loss_ppm(),
            mtu: self.mtu(),
        }
    }
}
