//! Connecting, and connecting again: each peer with `start = "auto"` is tried
//! over every access that may carry IKE, best first, then after a pause that
//! doubles from one second to one minute. One with `start = "trap"` is tried in
//! the same way when there is a packet for it, and waits for another one after
//! that pause.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::config::Start;
use crate::crypto::Entropy;
use crate::ids::IkeId;
use crate::ike::{self, Command, IkeState};
use crate::path::IfaceState;

use super::Agent;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How long one way is tried while there are others.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far a peer is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Progress {
    /// To be tried then.
    Due(Instant),
    /// Under way from this address; given up then if there is another way.
    Trying { local: SocketAddr, until: Instant },
    /// To be tried when there is a packet for it, not before then.
    Waiting { after: Instant },
    /// Stands.
    Up(IkeId),
    /// Not ours to start.
    Passive,
}

/// One configured peer.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) progress: Progress,
    /// A packet decides when it is tried.
    trap: bool,
    /// Ways tried since it last stood.
    tries: u32,
    /// The last failure, for `status`.
    pub(super) reason: Option<String>,
}

impl Retry {
    pub(super) fn new(start: Start, has_remote: bool, now: Instant) -> Self {
        Self {
            progress: match start {
                Start::Auto if has_remote => Progress::Due(now),
                Start::Trap if has_remote => Progress::Waiting { after: now },
                _ => Progress::Passive,
            },
            trap: start == Start::Trap,
            tries: 0,
            reason: None,
        }
    }

    /// To be tried then, or with the first packet from then on.
    pub(super) fn again(&mut self, at: Instant) {
        self.progress = if self.trap {
            Progress::Waiting { after: at }
        } else {
            Progress::Due(at)
        };
    }

    /// There is a packet for it; whether that is a reason to connect.
    pub(super) fn wanted(&mut self, now: Instant) -> bool {
        let waits = matches!(self.progress, Progress::Waiting { after } if after <= now);
        if waits {
            self.progress = Progress::Due(now);
        }
        waits
    }

    /// An attempt failed: then another way is tried, or all of them again.
    fn failed(&mut self, ways: usize, at: Instant) {
        match rounds(self.tries, ways) {
            Some(_) => self.again(at),
            None => self.progress = Progress::Due(at),
        }
    }
}

impl Agent {
    /// Starts what is due.
    pub(super) fn retry_due(&mut self, now: Instant) {
        for index in 0..self.retries.len() {
            match self.retries[index].progress {
                Progress::Due(at) if at <= now => self.connect(index, now),
                Progress::Trying { until, .. } if until <= now => {
                    self.abandon(index, now);
                    match rounds(self.retries[index].tries, self.ways(index).len()) {
                        Some(rounds) => {
                            let pause = self.pause(rounds);
                            self.retries[index].again(now + pause);
                        }
                        None => self.connect(index, now),
                    }
                }
                _ => {}
            }
        }
    }

    /// When the next is.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let at = |retry: &Retry| match retry.progress {
            Progress::Due(at) => Some(at),
            Progress::Trying { until, .. } => Some(until),
            Progress::Waiting { .. } | Progress::Up(_) | Progress::Passive => None,
        };
        self.retries.iter().filter_map(at).min()
    }

    /// The ways to a peer: each access that may carry IKE with each of the peer's
    /// addresses of a family it has, best access first.
    pub(super) fn ways(&self, index: usize) -> Vec<ike::Channel> {
        let peer = self.config.peers.get(index);
        let mut ways = self.ways_to(peer.map_or(&[], |peer| &peer.remote));
        // What was deleted for it is tried when nothing else answers.
        ways.sort_by_key(|way| self.is_deleted_for(index, way.local_iface));
        ways
    }

    /// The ways to these addresses.
    pub(super) fn ways_to(&self, remotes: &[IpAddr]) -> Vec<ike::Channel> {
        let mut locals: Vec<_> = self
            .accesses
            .local()
            .filter(|l| matches!(l.state, IfaceState::Up | IfaceState::Backup))
            .filter(|l| self.accesses.settings(l.id).is_some_and(|a| a.ike))
            .collect();
        locals.sort_by_key(|l| (l.state, l.priority, l.id));
        let mut out = Vec::new();
        for local in locals {
            for remote in remotes {
                let like = |a: &&IpAddr| a.is_ipv4() == remote.is_ipv4();
                if let Some(address) = local.addresses.iter().find(like) {
                    out.push(ike::Channel {
                        local_iface: local.id,
                        ifindex: local.ifindex,
                        local: SocketAddr::new(*address, self.config.agent.ike_port),
                        remote: SocketAddr::new(*remote, self.config.agent.ike_port),
                    });
                }
            }
        }
        out
    }

    fn connect(&mut self, index: usize, now: Instant) {
        let ways = self.ways(index);
        let retry = &mut self.retries[index];
        if ways.is_empty() {
            retry.reason = Some("no access has an address that can reach it".into());
            retry.again(now + FIRST_PAUSE);
            return;
        }
        let way = ways[retry.tries as usize % ways.len()];
        retry.tries = retry.tries.saturating_add(1);
        // A lone way has as long as the engine's retransmissions.
        let patience = if ways.len() > 1 {
            PATIENCE
        } else {
            LAST_PAUSE * 3
        };
        retry.progress = Progress::Trying {
            local: way.local,
            until: now + patience,
        };
        let peer = self.config.peers[index].name.clone();
        tracing::info!(peer, from = %way.local.ip(), to = %way.remote.ip(), "connecting");
        self.ike
            .handle_command(Command::Initiate { peer, channel: way }, now);
    }

    /// Our attempts to reach a peer that are under way: which, and from where.
    pub(super) fn attempts(&self, index: usize) -> Vec<(IkeId, SocketAddr)> {
        let name = &self.config.peers[index].name;
        self.ike
            .views()
            .iter()
            .filter(|v| v.state == IkeState::Connecting && v.initiator && v.peer == *name)
            .map(|v| (v.ike, v.channel.local))
            .collect()
    }

    /// Stops what is under way without waiting for its end.
    pub(super) fn abandon(&mut self, index: usize, now: Instant) {
        for (ike, _) in self.attempts(index) {
            self.ike.handle_command(Command::DeleteIke { ike }, now);
        }
    }

    /// The accesses changed: what waits is tried now, what lost its address elsewhere.
    pub(super) fn retry_accesses(&mut self, now: Instant) {
        for index in 0..self.retries.len() {
            match self.retries[index].progress {
                Progress::Due(_) if !self.ways(index).is_empty() => {
                    self.retries[index].progress = Progress::Due(now);
                }
                Progress::Trying { local, .. }
                    if !self.ways(index).iter().any(|w| w.local == local) =>
                {
                    self.abandon(index, now);
                    self.retries[index].progress = Progress::Due(now);
                }
                _ => {}
            }
        }
    }

    pub(super) fn retry_established(&mut self, peer: &str, ike: IkeId) {
        if let Some(index) = self.retry_index(peer) {
            let retry = &mut self.retries[index];
            if !matches!(retry.progress, Progress::Passive) {
                retry.progress = Progress::Up(ike);
            }
            retry.tries = 0;
            retry.reason = None;
        }
    }

    pub(super) fn retry_failed(&mut self, peer: &str, reason: &ike::Failure, now: Instant) {
        // What we stopped ourselves is already followed by another attempt. Whom
        // a peer only claimed to be we did not try to reach: it has no name here.
        if peer.is_empty() || matches!(reason, ike::Failure::Deleted) {
            return;
        }
        let Some(index) = self.retry_index(peer) else {
            return;
        };
        let ways = self.ways(index).len().max(1);
        let rounds = self.retries[index].tries / u32::try_from(ways).unwrap_or(u32::MAX);
        let pause = self.pause(rounds);
        let retry = &mut self.retries[index];
        retry.reason = Some(reason.to_string());
        if matches!(retry.progress, Progress::Trying { .. }) {
            retry.failed(ways, now + pause);
        }
    }

    pub(super) fn retry_closed(
        &mut self,
        peer: &str,
        ike: IkeId,
        reason: &ike::Failure,
        now: Instant,
    ) {
        let Some(index) = self.retry_index(peer) else {
            return;
        };
        let pause = self.pause(0);
        let retry = &mut self.retries[index];
        retry.reason = Some(reason.to_string());
        if matches!(retry.progress, Progress::Up(up) if up == ike) {
            retry.again(now + pause);
        }
    }

    pub(super) fn retry_index(&self, peer: &str) -> Option<usize> {
        self.config.peers.iter().position(|p| p.name == peer)
    }

    /// One second doubled `rounds` times, at most a minute, give or take a quarter.
    fn pause(&mut self, rounds: u32) -> Duration {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << rounds.min(6))
            .min(LAST_PAUSE);
        let mut octet = [0; 1];
        self.entropy.fill(&mut octet);
        pause.mul_f64(0.75 + f64::from(octet[0]) / 512.0)
    }
}

/// How many times every way has been tried, when the last of them just was:
/// time for a pause.
fn rounds(tries: u32, ways: usize) -> Option<u32> {
    let ways = u32::try_from(ways.max(1)).unwrap_or(u32::MAX);
    tries.is_multiple_of(ways).then_some(tries / ways)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_follows_when_every_way_was_tried_and_grows_with_the_rounds() {
        let after: Vec<_> = (1..=6).map(|tries| rounds(tries, 2)).collect();
        assert_eq!(after, [None, Some(1), None, Some(2), None, Some(3)]);
        assert_eq!(rounds(3, 1), Some(3), "a lone way pauses each time");
        assert_eq!(rounds(3, 0), Some(3), "and so does one that went away");
    }

    #[test]
    fn a_trapped_peer_is_tried_over_all_ways_by_one_packet_and_then_waits_for_the_next() {
        let now = Instant::now();
        let later = now + FIRST_PAUSE;
        let mut retry = Retry::new(Start::Trap, true, now);
        assert!(matches!(retry.progress, Progress::Waiting { .. }));
        assert!(retry.wanted(now));
        assert!(matches!(retry.progress, Progress::Due(at) if at == now));
        assert!(!retry.wanted(now), "one attempt at a time");
        retry.tries = 1;
        retry.failed(2, later);
        assert!(matches!(retry.progress, Progress::Due(_)), "the other way");
        retry.tries = 2;
        retry.failed(2, later);
        assert!(!retry.wanted(now), "not before the pause is over");
        assert!(retry.wanted(later));
        let mut auto = Retry::new(Start::Auto, true, now);
        auto.again(later);
        assert!(matches!(auto.progress, Progress::Due(at) if at == later));
    }
}
