//! What may be sent to addresses the peer named in a protected message, before
//! they have answered.
//!
//! One account for each such address and each of our interfaces; how many paths
//! lead there, and to which ports, makes no difference. It holds one attempt's
//! worth, which grows back by a probe each [`REFILL`]. What is earned by
//! receiving from an address comes first, and is kept with the path.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::probe::PROBE_LEN;
use super::timing::{ANNOUNCED_ALLOWANCE, REFILL};
use crate::ids::{IfaceId, IkeId};

/// Accounts of one peer; those in debt are never forgotten.
const MAX_ACCOUNTS: usize = 128;

#[derive(Debug)]
struct Account {
    /// Taken from the allowance and not grown back.
    debt: u64,
    since: Instant,
}

impl Account {
    fn refill(&mut self, now: Instant) {
        while self.debt > 0 && self.since + REFILL <= now {
            self.debt = self.debt.saturating_sub(PROBE_LEN as u64);
            self.since += REFILL;
        }
        if self.debt == 0 {
            self.since = now;
        }
    }
}

/// Our interface and the address.
type Key = (IfaceId, IpAddr);

#[derive(Debug, Default)]
pub(super) struct Budget {
    peers: BTreeMap<IkeId, BTreeMap<Key, Account>>,
}

impl Budget {
    /// Takes one probe's worth.
    pub(super) fn spend(&mut self, ike: IkeId, key: Key, now: Instant) -> bool {
        let Some(account) = self.account(ike, key, now) else {
            return false;
        };
        account.refill(now);
        let after = account.debt + PROBE_LEN as u64;
        let may = after <= ANNOUNCED_ALLOWANCE;
        if may {
            account.debt = after;
        }
        may
    }

    /// A challenge was answered: it was welcome.
    pub(super) fn answered(&mut self, ike: IkeId, key: Key) {
        if let Some(account) = self.peers.get_mut(&ike).and_then(|all| all.get_mut(&key)) {
            account.debt = account.debt.saturating_sub(PROBE_LEN as u64);
        }
    }

    pub(super) fn forget(&mut self, ike: IkeId) {
        self.peers.remove(&ike);
    }

    fn account(&mut self, ike: IkeId, key: Key, now: Instant) -> Option<&mut Account> {
        let accounts = self.peers.entry(ike).or_default();
        if accounts.len() >= MAX_ACCOUNTS && !accounts.contains_key(&key) {
            for account in accounts.values_mut() {
                account.refill(now);
            }
            accounts.retain(|_, account| account.debt > 0);
            if accounts.len() >= MAX_ACCOUNTS {
                return None;
            }
        }
        let account = Account {
            debt: 0,
            since: now,
        };
        Some(accounts.entry(key).or_insert(account))
    }
}

#[cfg(test)]
mod tests {
    use super::super::timing::CHALLENGE_LIMIT;
    use super::*;

    const IKE: IkeId = IkeId(1);

    fn key(host: u16) -> Key {
        let [high, low] = host.to_be_bytes();
        (IfaceId(1), IpAddr::from([192, 0, high, low]))
    }

    fn spend_all(budget: &mut Budget, key: Key, now: Instant) -> u32 {
        (0..100)
            .map(|_| u32::from(budget.spend(IKE, key, now)))
            .sum()
    }

    #[test]
    fn a_named_address_gets_one_attempts_worth_that_grows_back_slowly() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        assert_eq!(spend_all(&mut budget, key(1), now), CHALLENGE_LIMIT);
        assert_eq!(spend_all(&mut budget, key(1), now + 2 * REFILL), 2);
        let long = now + 1000 * REFILL;
        assert_eq!(spend_all(&mut budget, key(1), long), CHALLENGE_LIMIT);
    }

    #[test]
    fn what_was_answered_is_not_counted() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        spend_all(&mut budget, key(1), now);
        budget.answered(IKE, key(1));
        assert_eq!(spend_all(&mut budget, key(1), now), 1);
    }

    #[test]
    fn debts_are_not_washed_away_by_naming_many_addresses() {
        let (mut budget, now) = (Budget::default(), Instant::now());
        let total: u32 = (0..1000)
            .map(|host| spend_all(&mut budget, key(host), now))
            .sum();
        assert_eq!(total, CHALLENGE_LIMIT * MAX_ACCOUNTS as u32);
        assert_eq!(spend_all(&mut budget, key(0), now), 0);
        let later = now + REFILL * (CHALLENGE_LIMIT + 1);
        assert!(budget.spend(IKE, key(2000), later));
    }
}
