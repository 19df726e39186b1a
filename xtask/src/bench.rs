//! Benchmarks are programs of the test package that print tables. They assert
//! nothing: figures move from machine to machine, only ratios of one run mean much.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{cmd, run, setup};

/// Options of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only benchmarks whose name contains this
    filter: Option<String>,
}

/// Builds and runs each benchmark as root.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::new(false), setup::Need::Lab)?;
    let filter = args.filter.as_deref().unwrap_or_default();
    let names: Vec<_> = benchmarks()?
        .into_iter()
        .filter(|name| name.contains(filter))
        .collect();
    if names.is_empty() {
        bail!(
            "no benchmark matches `{filter}`; there are: {}",
            benchmarks()?.join(", ")
        );
    }
    run::build_agent()?;
    for name in names {
        cmd::step(&format!("benchmark {name}"));
        let mut cargo = cmd::cargo();
        cargo.args([
            "build",
            "--release",
            "--package",
            "mifsec-tests",
            "--bin",
            &name,
        ]);
        cmd::check(&mut cargo)?;
        let program = cmd::target().join("release").join(&name);
        cmd::check(&mut cmd::as_root(&program, run::KEEP_ENV)?)?;
    }
    Ok(())
}

/// Programs in `tests/src/bin` with `bench` in their name, in order.
fn benchmarks() -> Result<Vec<String>> {
    let dir = cmd::root().join("tests/src/bin");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        if stem.contains("bench") {
            names.push(stem.into_owned());
        }
    }
    names.sort();
    Ok(names)
}
