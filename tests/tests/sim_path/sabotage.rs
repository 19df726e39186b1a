//! All paths of an interface move with it, and the same check without that.

use super::*;

/// Of an interface with paths to two interfaces of the gateway, how many leave by
/// the access that carries it.
fn moved(one_path_moves: bool) -> usize {
    let mut world = World::new(
        60,
        &[
            (WLAN, &["10.0.0.5"], Link::default()),
            (WWAN, &["100.64.0.5"], Link::default()),
        ],
        &[(1, &["203.0.113.1"]), (2, &["203.0.113.2"])],
    );
    world.run(3 * SECOND);
    world.hosts[USER].engine.one_path_moves = one_path_moves;
    world.carry(USER, USER, WLAN, WWAN);
    world.run(SECOND);
    let entry = |remote| {
        let path = world.view(USER, WLAN, remote).path;
        world.hosts[USER].entries[&path]
    };
    let left_by = [1, 2].map(|remote| entry(remote).local);
    left_by
        .iter()
        .filter(|local| **local == addr("100.64.0.5"))
        .count()
}

#[test]
fn paths_left_behind_when_their_interface_moves_are_noticed() {
    mifsec_tests::covers!("R30");
    assert_eq!(moved(false), 2, "all of them");
    assert_eq!(moved(true), 1, "the fault would leave one behind");
}
