//! The loaded programs against the fixture table (`BPF_PROG_TEST_RUN`); needs root.

use mifsec::ebpf::Ebpf;
use mifsec_tests::bpf::{self, fixtures};

#[test]
fn every_fixture_comes_out_as_expected() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    fixtures::set_up(&mut ebpf).unwrap();
    let table = fixtures::all();
    let mut wrong = 0;
    for fixture in &table {
        let outcome = match bpf::observe(&mut ebpf, fixture) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}: {error:#}", fixture.name),
        };
        let expected = fixture.outcome();
        if outcome != expected {
            wrong += 1;
            println!(
                "{}:\n  is     {outcome:02x?}\n  should {expected:02x?}",
                fixture.name
            );
        }
    }
    assert_eq!(wrong, 0, "of {}", table.len());
}

#[test]
fn packets_of_other_users_never_leave_by_an_anchor() {
    let mut ebpf = Ebpf::open(&bpf::config(), 12_345).unwrap();
    fixtures::set_up(&mut ebpf).unwrap();
    let fixture = &fixtures::all()[0];
    let outcome = bpf::observe(&mut ebpf, fixture).unwrap();
    assert_eq!(outcome.verdict, fixtures::SHOT);
    assert_eq!(outcome.reasons, [("foreign", 1)].into());
    assert!(outcome.paths.is_empty());
}

#[test]
fn programs_stay_far_from_the_verifiers_limit() {
    let ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    for (name, instructions) in ebpf.programs() {
        let instructions = instructions.unwrap();
        println!("{name}: {instructions}");
        assert!(instructions < 50_000, "{name}: {instructions}");
    }
}
