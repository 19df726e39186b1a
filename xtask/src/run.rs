//! Builds as the caller, then runs the lab (or the agent) as root.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{cmd, setup};

/// Options of `run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave the lab up afterwards and print how to enter it
    #[arg(long)]
    keep: bool,
    /// Build an agent with this fault; the matching step must then fail
    #[arg(long, value_name = "FAULT", value_parser = ["no-flip", "no-update", "no-guard"])]
    sabotage: Option<String>,
    /// Run only this step, by name or letter; a name that does not exist lists them
    /// (may be given more than once)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Topology and instruments only, no agents
    #[arg(long, hide = true)]
    clear: bool,
    /// Do not ask before installing what is missing
    #[arg(long)]
    yes: bool,
    /// Arguments for the mifsec binary on this host, after `--`
    #[arg(last = true, value_name = "MIFSEC ARGS")]
    mifsec: Vec<String>,
}

/// Environment that may pass through sudo to what runs as root.
pub(crate) const KEEP_ENV: &[&str] = &[
    "MIFSEC_BIN",
    "MIFSEC_SABOTAGE_BIN",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// Runs the lab, or the agent when arguments follow `--`.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(report) = &args.report {
        // Not even a build that fails may leave the result of an earlier run.
        match fs::remove_file(report) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", report.display()));
            }
            _ => {}
        }
    }
    setup::ensure(&setup::Args::new(args.yes), setup::Need::Lab)?;
    if !args.mifsec.is_empty() {
        let agent = build_agent()?;
        let mut command = cmd::as_root(&agent, KEEP_ENV)?;
        return Err(cmd::become_it(command.args(&args.mifsec)));
    }
    let agent = match &args.sabotage {
        Some(_) => build_sabotaged_agent()?,
        None => build_agent()?,
    };
    cmd::step("building the lab (release)");
    cmd::check(cmd::cargo().args([
        "build",
        "--release",
        "--package",
        "mifsec-tests",
        "--bin",
        "mifsec-lab",
    ]))?;
    let lab = cmd::target().join("release/mifsec-lab");
    let mut command = cmd::as_root(&lab, KEEP_ENV)?;
    command.arg("--agent").arg(&agent);
    if let Some(report) = &args.report {
        command.arg("--report").arg(report);
    }
    if args.keep {
        command.arg("--keep");
    }
    if args.clear {
        command.arg("--clear");
    }
    if let Some(fault) = &args.sabotage {
        command.arg("--sabotage").arg(fault);
    }
    for step in &args.only {
        command.arg("--only").arg(step);
    }
    Err(cmd::become_it(&mut command))
}

/// The release agent.
pub(crate) fn build_agent() -> Result<PathBuf> {
    cmd::step("building the agent (release)");
    build(&[])?;
    Ok(cmd::target().join("release/mifsec"))
}

/// Where an agent with the deliberate faults is built.
fn sabotage_target() -> PathBuf {
    cmd::target().join("sabotage")
}

/// The release agent with the deliberate faults compiled in. Its target
/// directory is its own: at no time is a faulty agent where people look for the
/// plain one.
pub(crate) fn build_sabotaged_agent() -> Result<PathBuf> {
    cmd::step("building the agent with the deliberate faults (release)");
    let dir = sabotage_target();
    let dir = dir.to_string_lossy();
    build(&["--features", "sabotage", "--target-dir", &dir])?;
    Ok(sabotaged_agent())
}

/// Its file.
pub(crate) fn sabotaged_agent() -> PathBuf {
    sabotage_target().join("release/mifsec")
}

fn build(extra: &[&str]) -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.args([
        "build",
        "--release",
        "--package",
        "mifsec",
        "--bin",
        "mifsec",
    ]);
    cmd::check(cargo.args(extra))
}
