//! x
#[test]
fn loads() {
    let config = mifsec::ebpf::Config {
        instance: "fixtures".into(),
        anchor_ifindex: 0,
        anchor_prefixes: (
            "240.0.0.0/8".parse().unwrap(),
            "fd6d:6966::/64".parse().unwrap(),
        ),
        max_sas: 64,
        max_paths: 16,
        pin: false,
        log_level: 2,
    };
    let e = mifsec::ebpf::Ebpf::open(&config, 0)
        .map_err(|e| println!("{e:#}"))
        .unwrap();
    for p in e.programs() {
        println!("{p:?}");
    }
}
