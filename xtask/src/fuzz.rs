//! Coverage-guided fuzzing with libFuzzer on the stable compiler: the targets of
//! `fuzz/` are built instrumented and run one after the other.
//!
//! What is new goes to `fuzz/corpus`, what fails to `fuzz/artifacts`; neither is
//! tracked. `--keep` merges what adds coverage into `tests/corpus`, which the
//! tests replay.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cmd, setup};

/// Options of `fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target
    target: Option<String>,
    /// Minutes for each target
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Afterwards add inputs that reach new code to the committed corpus
    #[arg(long)]
    keep: bool,
}

/// The host, named so that build scripts are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Coverage for libFuzzer, and AddressSanitizer. Only the latter is unstable.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Zsanitizer=address --cfg fuzzing";

/// Longest input: what does not fit a datagram says nothing new.
const LONGEST: &str = "-max_len=4096";
/// A small input that asks for much memory at once is a fault.
const MEMORY: [&str; 2] = ["-rss_limit_mb=1024", "-malloc_limit_mb=64"];
/// Seconds one input may take.
const TIMEOUT: &str = "-timeout=20";
/// Larger ones are not worth keeping.
const LARGEST_KEPT: u64 = 2048;

/// Builds and runs the targets.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&setup::Args::new(false), setup::Need::Build)?;
    ensure_compiler()?;
    let wanted: Vec<_> = targets()?
        .into_iter()
        .filter(|name| args.target.as_ref().is_none_or(|target| target == name))
        .collect();
    if wanted.is_empty() {
        bail!("no such target; there are: {}", targets()?.join(", "));
    }
    build(&wanted)?;
    for name in &wanted {
        cmd::step(&format!("fuzz {name} for {} minutes", args.minutes));
        fuzz(name, args.minutes)?;
        if args.keep {
            keep(name)?;
        }
    }
    Ok(())
}

/// libFuzzer is C++ and built from source.
fn ensure_compiler() -> Result<()> {
    if cmd::exists("c++") {
        return Ok(());
    }
    if !Path::new("/etc/debian_version").exists() {
        bail!("a C++ compiler is missing: libFuzzer is built with it");
    }
    let mut apt = cmd::as_root("apt-get", &[])?;
    apt.args(["install", "-y", "--no-install-recommends", "g++"]);
    cmd::step(&cmd::show(&apt));
    cmd::check(&mut apt)
}

/// The files of `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = cmd::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        names.push(
            path.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

fn build(names: &[String]) -> Result<()> {
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--release", "--locked", "--target", HOST]);
    cargo
        .arg("--manifest-path")
        .arg(package().join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir());
    for name in names {
        cargo.args(["--bin", name]);
    }
    cargo.env("RUSTFLAGS", FLAGS);
    // AddressSanitizer's switch is unstable; the compiler is the pinned one.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // The eBPF programs are not fuzzed.
    cargo.env("AYA_BUILD_SKIP", "1");
    cmd::check(&mut cargo)
}

fn fuzz(name: &str, minutes: u64) -> Result<()> {
    let (found, failed) = (package().join("corpus").join(name), artifacts(name));
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&failed)?;
    let mut command = program(name);
    command
        .arg(&found)
        .arg(committed(name))
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-artifact_prefix={}/", failed.display()))
        .args(["-print_final_stats=1", TIMEOUT, LONGEST])
        .args(MEMORY);
    cmd::check(&mut command).with_context(|| {
        format!(
            "{name} found something: see {}; mend it and keep the input in tests/corpus/{name} \
             under a name that says what it was",
            failed.display()
        )
    })
}

/// Adds to the committed corpus what reaches code nothing there reaches.
fn keep(name: &str) -> Result<()> {
    let found = package().join("corpus").join(name);
    for entry in fs::read_dir(&found)? {
        let entry = entry?;
        if entry.metadata()?.len() > LARGEST_KEPT {
            fs::remove_file(entry.path())?;
        }
    }
    let mut command = program(name);
    command
        .args(["-merge=1", TIMEOUT, LONGEST])
        .args(MEMORY)
        .args([committed(name), found]);
    cmd::check(&mut command)
}

fn program(name: &str) -> Command {
    Command::new(target_dir().join(HOST).join("release").join(name))
}

fn package() -> PathBuf {
    cmd::root().join("fuzz")
}

fn target_dir() -> PathBuf {
    cmd::target().join("fuzz")
}

fn artifacts(name: &str) -> PathBuf {
    package().join("artifacts").join(name)
}

fn committed(name: &str) -> PathBuf {
    cmd::root().join("tests/corpus").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_binary_of_the_fuzz_package_and_has_a_corpus() {
        let manifest = fs::read_to_string(package().join("Cargo.toml")).unwrap();
        let names = targets().unwrap();
        assert!(names.len() >= 10);
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            assert!(committed(&name).is_dir(), "{name}");
        }
    }
}
