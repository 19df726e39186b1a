//! Which of the peer's interfaces each interface is at home with.
//!
//! A pure function of both tables, so that both ends come to the same answer:
//! every usable interface of the original initiator is at home with the
//! responder's best usable interface that shares a family with it. Best is `up`
//! before `backup`, then the lowest priority number; where several are equally
//! good, the initiator's interfaces take turns, in the order of their ids. A home
//! once chosen stays: a better interface of the responder's moves what is there
//! (MIF_UPDATE_ADDRS with SELECT_PEER) and makes no home of its own.

use std::collections::BTreeMap;

use super::types::IfaceState;
use crate::ids::IfaceId;

/// What the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: IfaceId,
    pub(super) state: IfaceState,
    pub(super) priority: u8,
    pub(super) v4: bool,
    pub(super) v6: bool,
}

/// Initiator's interface to responder's. What is in `before` stays.
pub(super) fn homes(
    initiator: impl IntoIterator<Item = Candidate>,
    responder: &[Candidate],
    before: &BTreeMap<IfaceId, IfaceId>,
) -> BTreeMap<IfaceId, IfaceId> {
    let mut initiator: Vec<_> = initiator.into_iter().collect();
    initiator.sort_by_key(|iface| iface.id);
    let mut responder: Vec<_> = responder.to_vec();
    responder.sort_by_key(|iface| (iface.state, iface.priority, iface.id));

    let share = |a: &Candidate, b: &Candidate| a.v4 && b.v4 || a.v6 && b.v6;
    let mut homes = before.clone();
    // The turn is the place in the whole table, so that an interface going down
    // does not send the others elsewhere.
    for (turn, iface) in initiator.iter().enumerate() {
        if !iface.state.usable() {
            continue;
        }
        if let Some(home) = before.get(&iface.id) {
            let home = responder.iter().find(|other| other.id == *home);
            // Down it may come back; with no family in common it will not do.
            if home.is_none_or(|home| !home.state.usable() || share(iface, home)) {
                continue;
            }
        }
        let shared: Vec<_> = responder
            .iter()
            .filter(|other| other.state.usable())
            .filter(|other| share(iface, other))
            .collect();
        let Some(best) = shared.first() else {
            continue;
        };
        let equals = shared
            .iter()
            .take_while(|other| (other.state, other.priority) == (best.state, best.priority))
            .count();
        if let Some(home) = shared.get(turn % equals) {
            homes.insert(iface.id, home.id);
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iface(id: u16, priority: u8) -> Candidate {
        Candidate {
            id: IfaceId(id),
            state: IfaceState::Up,
            priority,
            v4: true,
            v6: false,
        }
    }

    fn pairs(initiator: &[Candidate], responder: &[Candidate]) -> Vec<(u16, u16)> {
        homes(initiator.iter().copied(), responder, &BTreeMap::new())
            .into_iter()
            .map(|(from, to)| (from.0, to.0))
            .collect()
    }

    #[test]
    fn many_to_one_all_go_to_the_one() {
        covers!("R18");
        let gateway = [iface(1, 0)];
        assert_eq!(
            pairs(&[iface(1, 0), iface(2, 1), iface(7, 9)], &gateway),
            [(1, 1), (2, 1), (7, 1)]
        );
    }

    #[test]
    fn equals_take_turns_and_the_order_of_the_tables_does_not_matter() {
        covers!("R18");
        let user = [iface(2, 0), iface(1, 0), iface(3, 0)];
        let gateway = [iface(9, 0), iface(4, 0), iface(5, 1)];
        let expected = [(1, 4), (2, 9), (3, 4)];
        assert_eq!(pairs(&user, &gateway), expected);
        let reversed: Vec<_> = gateway.into_iter().rev().collect();
        assert_eq!(pairs(&user, &reversed), expected);
    }

    #[test]
    fn a_backup_is_home_only_when_nothing_is_up() {
        let mut gateway = [iface(1, 5), iface(2, 0)];
        gateway[1].state = IfaceState::Backup;
        assert_eq!(pairs(&[iface(1, 0)], &gateway), [(1, 1)]);
        gateway[0].state = IfaceState::Down;
        assert_eq!(pairs(&[iface(1, 0)], &gateway), [(1, 2)]);
    }

    #[test]
    fn without_a_shared_family_there_is_no_home() {
        let mut gateway = [iface(1, 0), iface(2, 1)];
        gateway[0].v4 = false;
        gateway[0].v6 = true;
        assert_eq!(pairs(&[iface(1, 0)], &gateway), [(1, 2)]);
        assert_eq!(pairs(&[iface(1, 0)], &gateway[..1]), []);
    }

    #[test]
    fn a_home_stays_when_a_better_interface_comes() {
        let before = BTreeMap::from([(IfaceId(1), IfaceId(1))]);
        let mut gateway = [iface(1, 1), iface(2, 0)];
        let chosen = |gateway: &[Candidate]| {
            let user = [iface(1, 0), iface(2, 0)];
            homes(user, gateway, &before)
                .into_values()
                .map(|home| home.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(chosen(&gateway), [1, 2], "the second chooses among all");
        gateway[0].state = IfaceState::Down;
        assert_eq!(chosen(&gateway), [1, 2], "lent, not left");
        gateway[0].state = IfaceState::Up;
        (gateway[0].v4, gateway[0].v6) = (false, true);
        assert_eq!(chosen(&gateway), [2, 2], "no family in common");
    }

    #[test]
    fn an_interface_going_down_does_not_move_the_others() {
        let mut user = [iface(1, 0), iface(2, 0), iface(3, 0)];
        let gateway = [iface(1, 0), iface(2, 0)];
        assert_eq!(pairs(&user, &gateway), [(1, 1), (2, 2), (3, 1)]);
        user[0].state = IfaceState::Down;
        assert_eq!(pairs(&user, &gateway), [(2, 2), (3, 1)]);
    }
}
