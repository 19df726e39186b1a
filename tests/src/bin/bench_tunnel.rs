//! Throughput of one TCP flow through the user-space ESP data plane, as a ratio
//! to the plain veth under it, measured in turn in one run.
//!
//! Both ends, the crypto and the endpoints of the flow share this machine.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use mifsec::crypto::AeadAlgorithm;
use mifsec_tests::pump;
use mifsec_tests::tunnel::{Options, Tunnel};

/// Throughput of the tunnel against the plain veth.
#[derive(Parser)]
struct Args {
    /// Rounds of each; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Worker threads at each end
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// IPv6 outside and inside
    #[arg(long)]
    v6: bool,
    /// ChaCha20-Poly1305 instead of AES-128-GCM
    #[arg(long)]
    chacha: bool,
    /// Measure the tunnel alone, for a profiler
    #[arg(long)]
    alone: bool,
    /// Print the data planes' counters
    #[arg(long)]
    counters: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let algorithm = if args.chacha {
        AeadAlgorithm::ChaCha20Poly1305
    } else {
        AeadAlgorithm::Aes128Gcm16
    };
    let tunnel = Tunnel::start(Options {
        outer_v6: args.v6,
        workers: args.workers,
        algorithm,
        ..Options::default()
    })?;
    let [a, b] = &tunnel.ends;
    let time = Duration::from_secs(args.seconds.max(1));
    let measure = |address| {
        let before = processor_time();
        let pumped = pump::tcp(&a.namespace, &b.namespace, address, time, false)?;
        let spent = processor_time().saturating_sub(before);
        Ok::<_, anyhow::Error>(Measured {
            gigabits: pumped.gigabits(),
            cost: spent.as_secs_f64() * 1e9 / pumped.octets.max(1) as f64,
        })
    };
    println!(
        "one TCP flow, {algorithm:?}, {} workers; Gbit/s, processor seconds per gigaoctet",
        args.workers
    );
    if args.alone {
        println!("{}", measure(Tunnel::inner(1, args.v6))?);
        return Ok(());
    }
    println!(
        "{:>6} {:>7} {:>6} {:>7} {:>6} {:>6}",
        "round", "plain", "cost", "tunnel", "cost", "ratio"
    );
    let (mut plain, mut through) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds.max(1) {
        plain.push(measure(Tunnel::outer(1, args.v6))?);
        through.push(measure(Tunnel::inner(1, args.v6))?);
        if let (Some(plain), Some(through)) = (plain.last(), through.last()) {
            let ratio = through.gigabits / plain.gigabits;
            println!("{round:>6} {plain} {through} {ratio:>6.2}");
        }
    }
    let (plain, through) = (median(plain)?, median(through)?);
    let ratio = through.gigabits / plain.gigabits;
    println!("median {plain} {through} {ratio:>6.2}");
    if args.counters {
        for end in &tunnel.ends {
            let seen: Vec<_> = end.counters().into_iter().filter(|(_, n)| *n > 0).collect();
            println!("{}: {seen:?}", end.namespace.name());
        }
    }
    Ok(())
}

/// One measurement.
#[derive(Clone, Copy)]
struct Measured {
    gigabits: f64,
    /// Processor seconds of this process per gigaoctet: what is left of the
    /// comparison when the machine is busy with other things.
    cost: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>7.2} {:>6.2}", self.gigabits, self.cost)
    }
}

fn median(mut values: Vec<Measured>) -> Result<Measured> {
    values.sort_by(|a, b| a.gigabits.total_cmp(&b.gigabits));
    values.get(values.len() / 2).copied().context("no rounds")
}

/// User and system time of all threads so far.
fn processor_time() -> Duration {
    // SAFETY: `rusage` is a C struct of integers, for which zeros are a value,
    // and getrusage writes one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .into_iter()
        .map(|t| {
            Duration::from_secs(t.tv_sec.unsigned_abs())
                + Duration::from_micros(t.tv_usec.unsigned_abs())
        })
        .sum()
}
