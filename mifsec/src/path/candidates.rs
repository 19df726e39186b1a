//! The addresses a path might use: how they were learned, what may be sent to
//! them, and which of them answered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::probe::PROBE_LEN;
use super::timing::{
    AMPLIFICATION, ANNOUNCED_ALLOWANCE, CHALLENGE_GAP_MAX, CHALLENGE_LIMIT, MAX_REMOTES,
    VALIDATION_LIFETIME,
};
use super::types::Validation;

/// When the peer last said that it wants to be at an address: the sequence
/// number of a challenge from there or, for an address announced over IKE, of
/// the newest probe before it. Higher is newer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) sequence: u64,
    pub(super) announced: bool,
}

/// One address of the peer.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) rank: Rank,
    /// What its owner calls it.
    pub(super) label: Option<IpAddr>,
    /// Learned from data: the answer's sequence number becomes its rank.
    pub(super) from_data: bool,
    /// Octets that may be sent for those received from there.
    earned: u64,
    /// The peer has named it in a protected message.
    pub(super) named: bool,
    /// It is one of those the peer named last: not forgotten for others.
    announced: bool,
    proven_until: Option<Instant>,
}

impl Remote {
    pub(super) fn receive(&mut self, octets: usize) {
        let earned = (octets as u64).saturating_mul(AMPLIFICATION);
        // What a long life has earned must not go out in one burst.
        let most = ANNOUNCED_ALLOWANCE.max(earned);
        self.earned = self.earned.saturating_add(earned).min(most);
    }

    /// Takes one probe's worth of what was earned.
    pub(super) fn spend(&mut self) -> bool {
        let rest = self.earned.checked_sub(PROBE_LEN as u64);
        self.earned = rest.unwrap_or(self.earned);
        rest.is_some()
    }

    pub(super) fn prove(&mut self, now: Instant) {
        self.proven_until = Some(now + VALIDATION_LIFETIME);
    }

    pub(super) fn is_proven(&self, now: Instant) -> bool {
        self.proven_until.is_some_and(|until| now < until)
    }
}

/// One pair of addresses.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) state: Validation,
    pub(super) nat: bool,
    /// The peer has sent a challenge on this pair.
    pub(super) heard: bool,
    pub(super) rtt: Option<Duration>,
    pub(super) validated_at: Option<Instant>,
    pub(super) next_at: Option<Instant>,
    attempts: u32,
    tokens: VecDeque<(u64, Instant)>,
}

impl Candidate {
    fn new(now: Instant) -> Self {
        Self {
            state: Validation::Unvalidated,
            nat: false,
            heard: false,
            rtt: None,
            validated_at: None,
            next_at: Some(now),
            attempts: 0,
            tokens: VecDeque::new(),
        }
    }

    /// Tries again from the start, unless it is being tried.
    pub(super) fn restart(&mut self, now: Instant) {
        if self.state != Validation::Validating {
            self.state = Validation::Unvalidated;
            self.attempts = 0;
            self.next_at = Some(now);
        }
    }

    /// The peer has sent a challenge. If ours went where nothing listened yet, the
    /// next need not wait any longer.
    pub(super) fn hear(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.heard, true) && self.state == Validation::Validating {
            self.next_at = Some(now);
        }
    }

    /// A challenge is due: the gap after it.
    pub(super) fn attempt(&mut self, first_gap: Duration, pause: Duration) -> Duration {
        if self.attempts >= CHALLENGE_LIMIT {
            self.state = Validation::Failed;
            return pause;
        }
        let gap = first_gap * 2u32.pow(self.attempts.min(8));
        self.attempts += 1;
        self.state = Validation::Validating;
        gap.min(CHALLENGE_GAP_MAX.max(first_gap))
    }

    pub(super) fn challenged(&mut self, token: u64, now: Instant) {
        if self.tokens.len() >= CHALLENGE_LIMIT as usize {
            self.tokens.pop_front();
        }
        self.tokens.push_back((token, now));
    }

    fn answer(&mut self, token: u64, now: Instant) -> bool {
        let Some((_, at)) = self.tokens.iter().find(|(known, _)| *known == token) else {
            return false;
        };
        self.rtt = Some(now.saturating_duration_since(*at));
        self.state = Validation::Validated;
        self.validated_at = Some(now);
        self.next_at = None;
        self.attempts = 0;
        self.tokens.clear();
        true
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.state == Validation::Validated
            && self
                .validated_at
                .is_some_and(|at| now < at + VALIDATION_LIFETIME)
    }
}

pub(super) type Pair = (IpAddr, SocketAddr);

/// All of a path's, the pair in use among the remotes but not among the pairs.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) remotes: BTreeMap<SocketAddr, Remote>,
    pub(super) pairs: BTreeMap<Pair, Candidate>,
}

impl Candidates {
    /// The entry for `remote`, made by forgetting the least wanted one if need be.
    pub(super) fn remote(&mut self, remote: SocketAddr, keep: Option<SocketAddr>) -> &mut Remote {
        if !self.remotes.contains_key(&remote) && self.remotes.len() >= MAX_REMOTES {
            let least = self
                .remotes
                .iter()
                .filter(|(address, _)| Some(**address) != keep)
                .min_by_key(|(_, remote)| (remote.announced, remote.rank))
                .map(|(address, _)| *address);
            if let Some(least) = least {
                self.forget(least);
            }
        }
        self.remotes.entry(remote).or_default()
    }

    /// The entry for an address the peer names in a protected message. Of those
    /// at most half the entries are kept against others.
    pub(super) fn announce(&mut self, remote: SocketAddr, keep: Option<SocketAddr>) -> &mut Remote {
        let others = || {
            self.remotes
                .iter()
                .filter(|(address, other)| other.announced && **address != remote)
        };
        if others().count() >= MAX_REMOTES / 2
            && let Some(least) = others().min_by_key(|(_, other)| other.rank)
        {
            let least = *least.0;
            self.remotes.entry(least).or_default().announced = false;
        }
        let entry = self.remote(remote, keep);
        entry.named = true;
        entry.announced = true;
        entry
    }

    /// A new table comes: what it does not name is not announced any more.
    pub(super) fn withdraw(&mut self) {
        for remote in self.remotes.values_mut() {
            remote.announced = false;
        }
    }

    pub(super) fn forget(&mut self, remote: SocketAddr) {
        self.remotes.remove(&remote);
        self.pairs.retain(|(_, other), _| *other != remote);
    }

    pub(super) fn rank(&self, remote: SocketAddr) -> Rank {
        self.remotes
            .get(&remote)
            .map(|remote| remote.rank)
            .unwrap_or_default()
    }

    /// The address the peer wants to be at; on a tie the one in use.
    pub(super) fn wanted(&self, active: Option<SocketAddr>) -> Option<SocketAddr> {
        self.remotes
            .iter()
            .max_by_key(|(address, remote)| (remote.rank, Some(**address) == active))
            .map(|(address, _)| *address)
    }

    /// The pair, to be challenged at once if it is new.
    pub(super) fn pair(&mut self, pair: Pair, now: Instant) -> &mut Candidate {
        self.pairs
            .entry(pair)
            .or_insert_with(|| Candidate::new(now))
    }

    /// Whose challenge this token answers.
    pub(super) fn answer(&mut self, token: u64, now: Instant) -> Option<Pair> {
        self.pairs
            .iter_mut()
            .find_map(|(pair, candidate)| candidate.answer(token, now).then_some(*pair))
    }

    /// The best pair that may be used now. `locals` are our addresses, best first.
    pub(super) fn best(
        &self,
        locals: &[IpAddr],
        active: Option<Pair>,
        now: Instant,
    ) -> Option<Pair> {
        let place = |local: &IpAddr| locals.iter().position(|known| known == local);
        let fresh = self
            .pairs
            .iter()
            .filter(|(_, candidate)| candidate.is_fresh(now))
            .map(|(pair, _)| *pair);
        fresh
            .chain(active)
            .filter_map(|pair| {
                let place = place(&pair.0)?;
                let rank = self.rank(pair.1);
                Some(((rank, Reverse(place), Some(pair) == active), pair))
            })
            .max()
            .map(|(_, pair)| pair)
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.pairs.values().filter_map(|pair| pair.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 1].into(), port)
    }

    fn rank(sequence: u64) -> Rank {
        Rank {
            sequence,
            announced: false,
        }
    }

    #[test]
    fn what_the_peer_announced_is_not_forgotten_for_what_it_did_not() {
        let mut candidates = Candidates::default();
        for port in 0..20 {
            candidates.announce(remote(port), None);
        }
        for port in 100..200 {
            candidates.remote(remote(port), None).rank = rank(u64::from(port));
        }
        assert_eq!(candidates.remotes.len(), MAX_REMOTES);
        let announced = |candidates: &Candidates| {
            let ports = candidates.remotes.keys().map(SocketAddr::port);
            ports.filter(|port| *port < 100).collect::<Vec<_>>()
        };
        assert_eq!(announced(&candidates), [16, 17, 18, 19], "the newest ones");
        candidates.withdraw();
        for port in 200..220 {
            candidates.remote(remote(port), None).rank = rank(u64::from(port));
        }
        assert!(announced(&candidates).is_empty(), "for a time");
    }

    #[test]
    fn to_an_address_only_heard_of_by_its_probes_three_times_as_much_goes() {
        let mut heard = Remote::default();
        let spend_all = |heard: &mut Remote| (0..100).filter(|_| heard.spend()).count();
        assert_eq!(spend_all(&mut heard), 0);
        heard.receive(PROBE_LEN);
        assert_eq!(spend_all(&mut heard), 3);
        for _ in 0..1000 {
            heard.receive(PROBE_LEN);
        }
        let most = CHALLENGE_LIMIT as usize;
        assert_eq!(spend_all(&mut heard), most, "but not in one burst");
    }

    #[test]
    fn an_answer_proves_an_address_for_a_time() {
        let (mut heard, now) = (Remote::default(), Instant::now());
        assert!(!heard.is_proven(now));
        heard.prove(now);
        assert!(heard.is_proven(now));
        assert!(!heard.is_proven(now + VALIDATION_LIFETIME));
    }

    #[test]
    fn the_least_wanted_address_is_forgotten_and_the_one_in_use_never() {
        let mut candidates = Candidates::default();
        for port in 0..MAX_REMOTES as u16 {
            candidates.remote(remote(port), None).rank = rank(u64::from(port));
        }
        candidates.remote(remote(100), Some(remote(0))).rank = rank(100);
        assert_eq!(candidates.remotes.len(), MAX_REMOTES);
        assert!(candidates.remotes.contains_key(&remote(0)));
        assert!(!candidates.remotes.contains_key(&remote(1)));
    }

    #[test]
    fn the_peers_wish_counts_before_our_preference() {
        let now = Instant::now();
        let [a, b]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let mut candidates = Candidates::default();
        candidates.remote(remote(1), None).rank = rank(5);
        candidates.remote(remote(2), None).rank = rank(9);
        let active = Some((a, remote(1)));
        let mut validate = |pair: Pair| {
            let candidate = candidates.pair(pair, now);
            candidate.challenged(1, now);
            assert!(candidate.answer(1, now));
            candidates.best(&[b, a], active, now)
        };
        assert_eq!(validate((b, remote(1))), Some((b, remote(1))));
        assert_eq!(validate((a, remote(2))), Some((a, remote(2))));
        assert_eq!(validate((b, remote(2))), Some((b, remote(2))));
        assert_eq!(
            candidates.best(&[a], active, now + VALIDATION_LIFETIME),
            active,
            "an old validation is none"
        );
        assert_eq!(candidates.best(&[], active, now), None);
    }

    #[test]
    fn an_attempt_backs_off_and_ends() {
        let mut candidate = Candidate::new(Instant::now());
        let first = Duration::from_millis(100);
        let pause = Duration::from_secs(15);
        let gaps: Vec<_> = std::iter::from_fn(|| Some(candidate.attempt(first, pause)))
            .take(CHALLENGE_LIMIT as usize + 2)
            .map(|gap| gap.as_millis())
            .collect();
        assert_eq!(
            gaps,
            [100, 200, 400, 800, 1600, 2000, 2000, 2000, 15_000, 15_000]
        );
        assert_eq!(candidate.state, Validation::Failed);
    }
}
