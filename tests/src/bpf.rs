//! Fixtures of the programs: packets, contexts, map state, and what must come out.
//!
//! The same records are checked by `tests/bpf_programs.rs` and timed by
//! `mifsec-bpf-bench`.

pub mod fixtures;
pub mod frame;
pub mod net;
pub mod skb;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use mifsec::ebpf::{Config, Ebpf, EbpfEvent, PathStats};
use mifsec::ids::PathIndex;

pub use fixtures::Fixture;
pub use skb::Context;

/// Paths of the fixtures' map state.
pub const PATHS: u32 = 16;

/// The configuration the fixtures are loaded with; nothing is attached.
///
/// # Panics
/// Never: the prefixes are constants.
#[must_use]
pub fn config() -> Config {
    Config {
        instance: format!("fixtures-{}", std::process::id()),
        anchor_ifindex: 0,
        anchor_prefixes: (
            "240.0.0.0/8".parse().expect("a constant"),
            "fd6d:6966::/64".parse().expect("a constant"),
        ),
        max_sas: 64,
        max_paths: PATHS,
        pin: false,
        lockdown: false,
        log_level: 2,
    }
}

/// What a fixture changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The program's return value.
    pub verdict: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Reasons counted.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Paths counted: transmitted packets and octets, received packets and octets, drops.
    pub paths: BTreeMap<u32, [u64; 5]>,
    /// Events reported.
    pub events: Vec<EbpfEvent>,
}

/// Runs one fixture and reads what it changed.
///
/// # Errors
/// The kernel refuses the run.
pub fn observe(ebpf: &mut Ebpf, fixture: &Fixture) -> Result<Outcome> {
    ebpf.drain_events();
    let reasons = ebpf.reasons();
    let paths = all_stats(ebpf);
    let context = fixture.context.octets(fixture.program);
    let run = ebpf.run(fixture.program, &fixture.packet, context.as_deref(), 1)?;
    Ok(Outcome {
        verdict: run.verdict,
        packet: run.packet,
        reasons: ebpf
            .reasons()
            .into_iter()
            .zip(reasons)
            .filter(|((_, after), (_, before))| after != before)
            .map(|((name, after), (_, before))| (name, after - before))
            .collect(),
        paths: (0u32..)
            .zip(all_stats(ebpf).into_iter().zip(paths))
            .filter(|(_, (after, before))| after != before)
            .map(|(path, (after, before))| (path, std::array::from_fn(|i| after[i] - before[i])))
            .collect(),
        events: ebpf.drain_events(),
    })
}

/// Sets up the fixtures' state, runs all of them and says of those that come out
/// otherwise than expected what they are and should be.
///
/// # Errors
/// The kernel refuses a run.
pub fn wrong(ebpf: &mut Ebpf) -> Result<Vec<String>> {
    fixtures::set_up(ebpf)?;
    let mut wrong = Vec::new();
    for fixture in &fixtures::all() {
        let outcome = observe(ebpf, fixture).with_context(|| fixture.name.to_string())?;
        let expected = fixture.outcome();
        if outcome != expected {
            wrong.push(format!(
                "{}:\n  is     {outcome:02x?}\n  should {expected:02x?}",
                fixture.name
            ));
        }
    }
    Ok(wrong)
}

fn all_stats(ebpf: &Ebpf) -> Vec<[u64; 5]> {
    (0..PATHS)
        .map(|path| {
            let PathStats {
                tx_packets,
                tx_octets,
                rx_packets,
                rx_octets,
                tx_drops,
                ..
            } = ebpf.path_stats(PathIndex(path));
            [tx_packets, tx_octets, rx_packets, rx_octets, tx_drops]
        })
        .collect()
}
