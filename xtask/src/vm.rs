//! Tests in a virtual machine: the kernel features this machine's kernel lacks, and
//! other kernels. QEMU emulates in software; the kernel comes from a Debian package
//! and is installed nowhere.
//!
//! The test binaries are built here and listed here, so that it is known which
//! verdicts must come. The guest ([`initramfs`], `vm/init.sh`) runs each test as a
//! process of its own with a time limit and writes its output to a serial port, where
//! [`verdict`] reads it. A test without a verdict has failed: the guest has hung,
//! panicked or never started.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::machine::{Ending, Machine};
use self::verdict::Verdicts;
use crate::test::{self, Tally};
use crate::{cmd, run, setup};

mod initramfs;
pub(crate) mod kernel;
pub(crate) mod machine;
mod verdict;

/// How long one test may take; the guest kills it then.
const TEST_LIMIT: Duration = Duration::from_secs(120);
/// How long a guest may take that does nothing.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Lines of the console shown when a guest did not end as it should.
const CONSOLE_LINES: usize = 40;

/// Options of `vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Parts of test names, or test files (`netns_agent`) to run there instead of vm_*
    #[arg(value_name = "TEST")]
    tests: Vec<String>,
    /// Debian's package of the guest's kernel
    #[arg(long, value_name = "PACKAGE", default_value = kernel::KERNEL)]
    kernel: String,
    /// Do not ask before installing what is missing
    #[arg(long)]
    yes: bool,
}

/// One test to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// The name of its file, `vm_boot`.
    file: String,
    /// Its name in the file.
    test: String,
    /// The binary built from the file.
    binary: PathBuf,
}

/// Runs the tests named and ends with the line that counts them.
pub(crate) fn run(args: &Args) -> Result<()> {
    let setup = setup::Args::new(args.yes);
    setup::ensure(&setup, setup::Need::Lab)?;
    let all = test::stems()?;
    let (mut files, filters): (Vec<_>, Vec<_>) = args
        .tests
        .iter()
        .cloned()
        .partition(|name| all.contains(name));
    if files.is_empty() {
        files = test::vm_files()?;
    }
    let tally = stage(&setup, &args.kernel, &files, &filters)?;
    test::conclude(&tally)
}

/// Runs those tests of the files whose name has one of the filters in it, or all.
pub(crate) fn stage(
    setup: &setup::Args,
    package: &str,
    files: &[String],
    filters: &[String],
) -> Result<Tally> {
    if files.is_empty() {
        return Ok(Tally::default());
    }
    cmd::step("building the tests for the VM");
    let mut jobs = jobs(&binaries(files)?)?;
    jobs.retain(|job| filters.is_empty() || filters.iter().any(|part| job.test.contains(part)));
    if jobs.is_empty() {
        return Ok(Tally::default());
    }
    if let Err(error) = setup::ensure_vm(setup, package) {
        let why = format!("no VM here: {error:#}");
        println!("    skipped: {why}");
        return Ok(Tally::all_skipped(
            jobs.iter().map(|job| job.test.as_str()),
            &why,
        ));
    }
    let agent = run::build_agent()?;
    let kernel = kernel::Kernel::open(package)?;
    let dir = kernel::home();
    let machine = Machine {
        kernel: kernel.image(),
        initramfs: initramfs::build(&dir, &kernel, &agent, &jobs)?,
        console: dir.join("console.log"),
    };
    cmd::step(&format!(
        "{} with Linux {}: {} tests",
        machine::QEMU,
        kernel.release,
        jobs.len()
    ));
    let started = Instant::now();
    let mut verdicts = Verdicts::new(&jobs);
    let limit = BOOT_LIMIT + TEST_LIMIT * u32::try_from(jobs.len())?;
    let ending = machine.run(limit, |line| verdicts.line(line))?;
    if verdicts.finish() > 0 {
        println!("{}", explain(&ending));
        println!("    the end of {}:", machine.console.display());
        println!("{}", tail(&machine.console));
    }
    let tally = verdicts.tally();
    println!(
        "    {} passed, {} failed, {} skipped ({:.0} s)",
        tally.passed,
        tally.failed,
        tally.skipped.len(),
        started.elapsed().as_secs_f32()
    );
    Ok(tally)
}

fn explain(ending: &Ending) -> String {
    match ending {
        Ending::Down => "    the guest went down before its tests were over".into(),
        Ending::Hung => "    the guest hung and was killed".into(),
        Ending::Emulator(why) => format!("    {why}"),
    }
}

fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.trim_end_matches('\r'))
        .collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

/// Builds test files; each with its binary.
fn binaries(files: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = cmd::cargo();
    cargo.args(["test", "--no-run", "--package", "mifsec-tests"]);
    cargo.arg("--message-format=json-render-diagnostics");
    for file in files {
        cargo.args(["--test", file]);
    }
    let shown = cmd::show(&cargo);
    let mut child = cargo.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut found = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?)?;
        if let (Some(name), Some(binary)) = (
            message["target"]["name"].as_str(),
            message["executable"].as_str(),
        ) && files.iter().any(|file| file == name)
        {
            found.push((name.to_string(), PathBuf::from(binary)));
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    found.sort();
    Ok(found)
}

/// The tests of the binaries, asked here so that none can go missing there.
fn jobs(binaries: &[(String, PathBuf)]) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (file, binary) in binaries {
        let list = cmd::output(&binary.to_string_lossy(), &["--list", "--format", "terse"])
            .with_context(|| format!("cannot list the tests of {file}"))?;
        jobs.extend(listed(&list).map(|test| Job {
            file: file.clone(),
            test: test.to_string(),
            binary: binary.clone(),
        }));
    }
    Ok(jobs)
}

fn listed(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_listed_and_benchmarks_are_not() {
        let list = "one::two: test\nfast: benchmark\n";
        assert_eq!(listed(list).collect::<Vec<_>>(), ["one::two"]);
    }
}
