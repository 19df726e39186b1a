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
    let measure =
        |address| pump::tcp(&a.namespace, &b.namespace, address, time, false).map(|p| p.gigabits());
    println!(
        "one TCP flow, Gbit/s; {algorithm:?}, {} workers",
        args.workers
    );
    println!(
        "{:>5} {:>8} {:>8} {:>6}",
        "round", "plain", "tunnel", "ratio"
    );
    let (mut plain, mut through) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds.max(1) {
        let direct = measure(Tunnel::outer(1, args.v6))?;
        let tunnelled = measure(Tunnel::inner(1, args.v6))?;
        let ratio = tunnelled / direct;
        println!("{round:>5} {direct:>8.2} {tunnelled:>8.2} {ratio:>6.2}");
        plain.push(direct);
        through.push(tunnelled);
    }
    let (plain, through) = (median(plain)?, median(through)?);
    let ratio = through / plain;
    println!("{:>5} {plain:>8.2} {through:>8.2} {ratio:>6.2}", "median");
    if args.counters {
        for end in &tunnel.ends {
            let seen: Vec<_> = end.counters().into_iter().filter(|(_, n)| *n > 0).collect();
            println!("{}: {seen:?}", end.namespace.name());
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("no rounds")
}
