//! The lab's steps, each in a lab of its own, and proof that each can fail.
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::path::{Path, PathBuf};

use mifsec_tests::lab::report::Step;
use mifsec_tests::lab::steps::{self, Lab, Scenario};
use mifsec_tests::lab::topology::Topology;
use mifsec_tests::lab::{cleanup, sys};

/// The agent that `cargo xtask test` has built.
fn binary(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let mut path = std::env::current_exe().expect("a test has a file");
    path.pop();
    path.pop();
    path.pop();
    path.join(name)
}

fn skipped() -> bool {
    if !sys::is_root() {
        println!("skipped: network namespaces need root");
        return true;
    }
    cleanup::on_stop_signal().expect("Ctrl-C must not leave a lab behind");
    false
}

fn scenario(key: &str) -> Scenario {
    let found = steps::by_key(key).expect("the step exists");
    assert_eq!(found.len(), 1, "{key} names one step");
    found[0]
}

fn run(keys: &[&str], binary: &Path, fault: Option<&str>) -> (Vec<Step>, String) {
    let topology = Topology::new().expect("a network");
    let mut lab = Lab::up(topology, binary, fault).unwrap_or_else(|error| panic!("{error:#}"));
    let steps = keys.iter().map(|key| lab.run(scenario(key))).collect();
    (steps, lab.tails())
}

/// The steps hold.
fn hold(keys: &[&str]) {
    if skipped() {
        return;
    }
    let (steps, tails) = run(keys, &binary("MIFSEC_BIN", "release/mifsec"), None);
    for step in &steps {
        assert!(step.ok, "{step:#?}\n{tails}");
    }
}

/// With the fault the first step still holds and the second fails for the reason named.
fn fails(fault: &str, key: &str, because: &str) {
    if skipped() {
        return;
    }
    let agent = binary("MIFSEC_SABOTAGE_BIN", "sabotage/release/mifsec");
    let (steps, tails) = run(&["a", key], &agent, Some(fault));
    assert!(steps[0].ok, "{:#?}\n{tails}", steps[0]);
    assert!(!steps[1].ok, "{fault} went unnoticed: {:#?}", steps[1]);
    // Among the problems only: what a step tells as a fact is there in any case.
    assert!(
        steps[1]
            .problems
            .iter()
            .any(|problem| problem.contains(because)),
        "{fault} failed for another reason: {:#?}\n{tails}",
        steps[1]
    );
}

#[test]
fn the_instruments_tell_the_truth() {
    if skipped() {
        return;
    }
    let topology = Topology::new().expect("a network");
    for step in steps::self_test(&topology).expect("a usable network") {
        assert!(step.ok, "{step:#?}");
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_panics() {
    if skipped() {
        return;
    }
    let (tell, told) = std::sync::mpsc::channel();
    let crashed = std::thread::spawn(move || {
        let topology = Topology::new().expect("a network");
        let agent = binary("MIFSEC_BIN", "release/mifsec");
        let lab = Lab::up(topology, &agent, None).unwrap_or_else(|error| panic!("{error:#}"));
        let footprint = lab.footprint();
        let missing: Vec<_> = footprint.iter().filter(|file| !file.exists()).collect();
        assert!(missing.is_empty(), "not where it should be: {missing:?}");
        tell.send(footprint).expect("somebody listens");
        panic!("on purpose");
    });
    assert!(crashed.join().is_err());
    let footprint = told.recv().expect("the lab came up");
    let left: Vec<_> = footprint.iter().filter(|file| file.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_session_uses_both_accesses_by_weight() {
    mifsec_tests::covers!("R03", "R04", "R10");
    hold(&["a", "b"]);
}

#[test]
fn the_wlan_moves_and_no_sa_is_touched() {
    mifsec_tests::covers!("R22", "R23", "R24", "R30", "R37");
    hold(&["c1", "c2"]);
}

#[test]
fn the_ike_channel_moves_and_no_sa_is_touched() {
    mifsec_tests::covers!("R27");
    hold(&["d1", "d2"]);
}

#[test]
fn the_ran_takes_over_from_a_dead_wlan() {
    mifsec_tests::covers!("R34");
    hold(&["e"]);
}

#[test]
fn a_flooded_ran_does_not_slow_the_wlan() {
    hold(&["f"]);
}

#[test]
fn a_third_access_joins_by_derived_sas_and_leaves_again() {
    mifsec_tests::covers!("R02", "R40", "R42", "R45", "R46", "R53", "R54", "R55");
    hold(&["add", "delete"]);
}

#[test]
fn an_access_that_was_deleted_joins_again_by_command() {
    mifsec_tests::covers!("R54", "R55");
    hold(&["delete", "add"]);
}

#[test]
fn a_gateways_second_address_is_measured_and_moved_to_by_command() {
    mifsec_tests::covers!("R13", "R18", "R41", "R51", "R52");
    hold(&["gateway"]);
}

#[test]
fn what_the_gateway_moves_first_is_taken_wherever_it_arrives() {
    mifsec_tests::covers!("R33", "R34", "R35", "R37", "R39");
    hold(&["alternate"]);
}

#[test]
fn an_access_carries_another_by_command_and_gives_it_back() {
    mifsec_tests::covers!("R26", "R30", "R38");
    hold(&["move", "drain"]);
}

#[test]
fn killed_agents_leave_nothing_in_clear() {
    mifsec_tests::covers!("R04");
    hold(&["g"]);
}

#[test]
fn a_path_that_does_not_flip_is_noticed() {
    mifsec_tests::covers!("R22", "R23");
    fails("no-flip", "c1", " down: datagrams lost in a planned move");
}

#[test]
fn a_peer_that_is_not_told_is_noticed() {
    mifsec_tests::covers!("R24");
    fails("no-update", "c2", "gateway to end user lost ");
}

#[test]
fn a_carrier_that_carries_nothing_is_noticed() {
    fails("no-flip", "move", "the WLAN still carries ");
}

#[test]
fn a_gateway_that_is_not_moved_to_is_noticed() {
    fails("no-flip", "gateway", "moved: 0 packets ");
}

#[test]
fn an_end_user_that_is_not_told_is_noticed() {
    fails("no-update", "alternate", "nobody was told");
}

#[test]
fn names_and_letters_say_which_step_is_meant() {
    let names = |key: &str| -> Vec<&str> {
        let found = steps::by_key(key).expect("the step exists");
        found.iter().map(|step| step.name).collect()
    };
    assert_eq!(names("c"), ["wlan-planned", "wlan-abrupt"]);
    assert_eq!(names("c2"), ["wlan-abrupt"]);
    assert_eq!(names("a"), ["session"], "not `add`");
    assert_eq!(names("delete"), ["delete"], "not d1 and d2");
    for wrong in ["", "deleted", "z"] {
        let error = steps::by_key(wrong).expect_err("no such step").to_string();
        assert!(error.contains("add (h), gateway (i)"), "{error}");
    }
}

#[test]
fn a_missing_guard_is_noticed() {
    fails("no-guard", "g", " packets in clear: ");
}
