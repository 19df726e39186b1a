//! The loaded programs against the fixture table (`BPF_PROG_TEST_RUN`); needs root.

use mifsec::ebpf::Ebpf;
use mifsec_common::steering;
use mifsec_tests::bpf::{self, Fixture, fixtures, frame};

#[test]
fn every_fixture_comes_out_as_expected() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    let wrong = bpf::wrong(&mut ebpf).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
fn our_port_passes_the_guard_for_our_sockets_alone() {
    let fixture = named("mif_guard_out our udp port v4");
    for (uid, verdict) in [(0, fixtures::NEXT), (12_345, fixtures::SHOT)] {
        let mut ebpf = Ebpf::open(&bpf::config(), uid).unwrap();
        fixtures::set_up(&mut ebpf).unwrap();
        assert_eq!(
            bpf::observe(&mut ebpf, &fixture).unwrap().verdict,
            verdict,
            "{uid}"
        );
    }
}

#[test]
fn a_removed_paths_counters_begin_anew_though_the_programs_go_on() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    fixtures::set_up(&mut ebpf).unwrap();
    let fixture = named("egress v4 udp");
    bpf::observe(&mut ebpf, &fixture).unwrap();
    let path = mifsec::ids::PathIndex(0);
    assert_eq!(ebpf.path_stats(path).tx_packets, 1);
    ebpf.remove_path(path);
    assert_eq!(ebpf.path_stats(path), mifsec::ebpf::PathStats::default());
    fixtures::set_up(&mut ebpf).unwrap();
    for sent in 1..3 {
        bpf::observe(&mut ebpf, &fixture).unwrap();
        assert_eq!(ebpf.path_stats(path).tx_packets, sent);
    }
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

#[test]
fn ike_sa_init_from_one_source_is_held_to_its_rate() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    fixtures::set_up(&mut ebpf).unwrap();
    let fixture = named("mif_ingress_xdp v6 ike on 4500");
    // A thousand within some microseconds: the burst is a hundred.
    let run = ebpf
        .run(fixture.program, &fixture.packet, None, 1000)
        .unwrap();
    assert_eq!(run.verdict, fixtures::XDP_DROP);
    let limited = reason(&ebpf, "ike_limit");
    assert!((850..=900).contains(&limited), "{limited}");
    // What was refused has cost the limit of all nothing, however long it goes on.
    ebpf.run(fixture.program, &fixture.packet, None, 30_000)
        .unwrap();
    assert_eq!(reason(&ebpf, "ike_limit_all"), 0);
    // Somebody else is not affected.
    let other = named("mif_ingress_xdp v4 ike on 500");
    let run = ebpf.run(other.program, &other.packet, None, 1).unwrap();
    assert_eq!(run.verdict, fixtures::XDP_PASS);
}

#[test]
fn events_are_rate_limited_and_the_rest_is_counted() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    fixtures::set_up(&mut ebpf).unwrap();
    let fixture = named("mif_ingress_xdp v4 known spi, new source");
    ebpf.run(fixture.program, &fixture.packet, None, 1000)
        .unwrap();
    let reported = ebpf.drain_events().len() as u64;
    // Twice the rate if the second turns meanwhile, or the run changes CPU.
    assert!((100..=400).contains(&reported), "{reported}");
    assert_eq!(reason(&ebpf, "event_lost"), 1000 - reported);
    assert_eq!(reason(&ebpf, "new_source"), 1000);
}

#[test]
fn the_queue_of_a_packet_is_its_flows_bucket_as_the_data_plane_computes_it() {
    let mut ebpf = Ebpf::open(&bpf::config(), 0).unwrap();
    let table: steering::Table = std::array::from_fn(|bucket| (bucket % 7) as u8);
    ebpf.set_queues(5, false, &table).unwrap();
    let at = |text: &str| text.parse().unwrap();
    let mut fragment = frame::udp(at("10.66.0.2:9"), at("10.9.0.1:9"), b"part of it");
    fragment[6] = 0x20;
    let mut packets = vec![fragment];
    for port in 1..50 {
        packets.push(frame::udp(
            at(&format!("10.66.0.2:{port}")),
            at("10.9.0.1:443"),
            b"x",
        ));
        packets.push(frame::udp(
            at(&format!("[fd66::2]:{port}")),
            at("[fd09::1]:443"),
            b"x",
        ));
    }
    let mut used = std::collections::BTreeSet::new();
    for packet in &packets {
        // The kernel takes the Ethernet header off before it runs the filter.
        let run = ebpf
            .run("mif_queue", &frame::ethernet(&[], packet), None, 1)
            .unwrap();
        let expected = steering::member(&table, steering::flow_hash(packet)) % 5;
        assert_eq!(run.verdict, i32::from(expected));
        used.insert(run.verdict);
    }
    assert_eq!(used.len(), 5);

    // A gateway's spread looks at the inner destination alone.
    ebpf.set_queues(5, true, &table).unwrap();
    let queue = |source: &str| {
        let packet = frame::udp(at(source), at("10.66.0.2:443"), b"x");
        ebpf.run("mif_queue", &frame::ethernet(&[], &packet), None, 1)
            .unwrap()
            .verdict
    };
    assert_eq!(queue("10.9.0.1:1"), queue("10.9.0.77:2"));
}

fn named(name: &str) -> Fixture {
    let found = fixtures::all().into_iter().find(|f| f.name == name);
    found.unwrap_or_else(|| panic!("no fixture {name}"))
}

fn reason(ebpf: &Ebpf, name: &str) -> u64 {
    ebpf.reasons()
        .into_iter()
        .find(|(n, _)| *n == name)
        .map_or(0, |(_, count)| count)
}
