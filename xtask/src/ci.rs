//! The stages every change passes, each with one line of summary.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{cmd, setup, tidy};

type Stage = (&'static str, fn() -> Result<()>);

/// Runs the stages in order and stops after the first that fails.
pub(crate) fn run() -> Result<()> {
    let stages: [Stage; 7] = [
        ("setup", || setup::run(&setup::Args::new(true))),
        ("fmt", || {
            cmd::check(cmd::cargo().args(["fmt", "--all", "--check"]))
        }),
        ("clippy", || cmd::check(&mut clippy())),
        ("doc", || cmd::check(&mut doc())),
        ("tidy", tidy::before_tests),
        ("test", || {
            cmd::check(cmd::cargo().args(["xtask", "test", "--yes"]))
        }),
        // Once more, now with what the tests showed.
        ("covers", tidy::run),
    ];
    let mut lines = Vec::new();
    for (name, stage) in stages {
        cmd::step(&format!("ci: {name}"));
        let started = Instant::now();
        let result = stage();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        lines.push(format!(
            "ci: {name:<7} {verdict:<7} {:>5.0} s",
            started.elapsed().as_secs_f32()
        ));
        if let Err(error) = result {
            println!("{}", lines.join("\n"));
            bail!("stage {name}: {error:#}");
        }
    }
    println!("{}", lines.join("\n"));
    Ok(())
}

fn clippy() -> Command {
    let mut cargo = cmd::cargo();
    cargo.args(["clippy", "--workspace", "--all-targets"]);
    cargo.args(["--", "--deny", "warnings"]);
    cargo
}

fn doc() -> Command {
    let mut cargo = cmd::cargo();
    cargo.args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    cargo
}
