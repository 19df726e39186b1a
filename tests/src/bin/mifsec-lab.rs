//! The lab as a program: what `cargo xtask run` starts as root.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its user"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use mifsec_tests::lab::report::{Report, Step};
use mifsec_tests::lab::steps::{self, Lab, Scenario};
use mifsec_tests::lab::topology::Topology;
use mifsec_tests::lab::{cleanup, sys};

/// Runs two agents in network namespaces and checks what becomes of packets.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The mifsec binary
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the lab up and print how to enter it
    #[arg(long)]
    keep: bool,
    /// Fault for an agent built with the feature `sabotage`
    #[arg(long, value_name = "FAULT")]
    sabotage: Option<String>,
    /// Only this step, by name or letter (may be given more than once)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Topology and instruments only, no agents
    #[arg(long, hide = true)]
    clear: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cleanup::on_stop_signal().and_then(|()| run(&cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    ensure!(sys::is_root(), "the lab needs root: run `cargo xtask run`");
    if let Some(path) = &cli.report {
        Report::remove_old(path)?;
    }
    // A name that does not exist is told before anything is made.
    let chosen = chosen(cli)?;
    cleanup::stale();
    let steps = steps(cli, chosen).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        vec![Step::failed("start", format!("{error:#}"))]
    });
    let report = Report::new(steps);
    println!("\n{}", report.table());
    if let Some(path) = &cli.report {
        report.write(path)?;
        println!("report: {}", path.display());
    }
    Ok(report.ok())
}

/// Builds the network and runs the steps in it.
fn steps(cli: &Cli, chosen: Vec<Scenario>) -> Result<Vec<Step>> {
    println!("==> network: end user (wlan0 behind NAT, wwan0), router, gateway, server");
    let mut topology = Topology::new()?;
    let enter = topology.how_to_enter();
    if cli.keep {
        topology.keep();
    }
    let steps = if cli.clear {
        steps::self_test(&topology)
    } else {
        with_agents(cli, chosen, topology)
    };
    if cli.keep {
        println!("{enter}");
    }
    steps
}

/// What `--only` says, else all.
fn chosen(cli: &Cli) -> Result<Vec<Scenario>> {
    let mut chosen = Vec::new();
    for key in &cli.only {
        chosen.extend(steps::by_key(key)?);
    }
    if chosen.is_empty() {
        chosen.extend(steps::ALL);
        if cli.keep {
            // A lab to look into needs its agents.
            chosen.retain(|scenario| scenario.key != steps::DEADLY);
        }
    }
    Ok(chosen)
}

fn with_agents(cli: &Cli, chosen: Vec<Scenario>, topology: Topology) -> Result<Vec<Step>> {
    println!("==> two agents: {}", cli.agent.display());
    let mut lab = Lab::up(topology, &cli.agent, cli.sabotage.as_deref())?;
    let mut done = Vec::new();
    for scenario in chosen {
        println!(
            "==> step {} {}: {}",
            scenario.key, scenario.name, scenario.title
        );
        let started = Instant::now();
        let step = lab.run(scenario);
        let verdict = if step.ok { "ok" } else { "FAILED" };
        println!(
            "    {verdict} ({:.1} s) {}",
            started.elapsed().as_secs_f32(),
            step.detail
        );
        if !step.ok {
            println!("{}", lab.tails());
        }
        done.push(step);
    }
    Ok(done)
}
