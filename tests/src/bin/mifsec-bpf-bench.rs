//! Nanoseconds per packet of the programs, over what an empty program costs.
//!
//! Runs fixtures a million times and more in the kernel and prints a table;
//! called by `cargo xtask bench`. Needs root.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]

use anyhow::{Context as _, Result};
use clap::Parser;
use mifsec::ebpf::Ebpf;
use mifsec_tests::bpf::{self, Context, Fixture, fixtures};

/// Measures the eBPF programs.
#[derive(Parser)]
struct Args {
    /// Runs per measurement.
    #[arg(long, default_value_t = 1_000_000)]
    repeat: u32,
    /// Measurements of each fixture; the best counts.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut ebpf = Ebpf::open(&bpf::config(), 0).context("load the programs (are you root?)")?;
    fixtures::set_up(&mut ebpf)?;
    fixtures::set_up_for_bench(&mut ebpf)?;

    println!("{:<58} {:>8} {:>12}", "fixture", "ns", "over empty");
    for fixture in fixtures::for_bench() {
        let empty = Fixture {
            program: if fixture.program.contains("xdp") {
                "mif_empty_xdp"
            } else {
                "mif_empty_tc"
            },
            ..fixture.clone()
        };
        let (mut base, mut full) = (f64::MAX, f64::MAX);
        // Interleaved, so that a busy moment hits both.
        for _ in 0..args.rounds {
            base = base.min(nanoseconds(&ebpf, &empty, args.repeat)?);
            full = full.min(nanoseconds(&ebpf, &fixture, args.repeat)?);
        }
        println!("{:<58} {full:>8.0} {:>12.0}", fixture.name, full - base);
    }
    Ok(())
}

/// Mean of one measurement. The kernel reports whole nanoseconds.
fn nanoseconds(ebpf: &Ebpf, fixture: &Fixture, repeat: u32) -> Result<f64> {
    let context = if fixture.program == "mif_queue" {
        None
    } else {
        Context::octets(&fixture.context, fixture.program)
    };
    let run = ebpf.run(fixture.program, &fixture.packet, context.as_deref(), repeat)?;
    Ok(run.duration.as_secs_f64() * 1e9)
}
