//! Runs the tests by kind and ends with one line: `N passed, N failed, N skipped`.
//!
//! A test that cannot run prints `skipped: why` and returns. Those are counted
//! apart from the passed ones, printed with their reasons, and compared with
//! `.ci/allowed-skips`: a skip that is not listed there fails the run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cover::Covered;
use crate::{cmd, cover, run, setup, vm};

/// Options of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// unit, sim, bpf, netns, interop, vm or all; the first words of names in tests/tests,
    /// such as netns_moves; anything else is a part of test names
    #[arg(value_name = "KIND|FILE|FILTER")]
    what: Option<String>,
    /// A part of test names within a kind or file
    filter: Option<String>,
    /// Do not ask before installing what is missing
    #[arg(long)]
    yes: bool,
}

const ALLOWED_SKIPS: &str = ".ci/allowed-skips";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// In the crates themselves, documentation examples included.
    Unit,
    /// Files of the test package that need no privileges.
    Sim,
    /// BPF_PROG_TEST_RUN fixtures.
    Bpf,
    /// Real agents in network namespaces.
    Netns,
    /// Against other implementations.
    Interop,
    /// In a virtual machine, on another kernel.
    Vm,
}

/// What one stage or the whole run came to.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// (test, why)
    pub(crate) skipped: Vec<(String, String)>,
    /// What the passed ones show.
    pub(crate) covered: Covered,
}

/// Runs the tests asked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let Selection {
        kinds,
        file,
        filter,
    } = selection(args)?;
    if filter.is_none() && !file.is_empty() {
        let what = &file;
        println!(
            "`{what}` names files of tests/tests; for tests whose names have it: \
             `cargo xtask test all {what}`"
        );
    }
    let whole = kinds.len() == Kind::ALL.len() && filter.is_none();
    if whole {
        cover::forget()?;
    }
    if let Some(need) = kinds.iter().map(|kind| kind.need()).max() {
        setup::ensure(&setup::Args::new(args.yes), need)?;
    }
    let mut total = Tally::default();
    let mut agents_built = false;
    for kind in kinds {
        let files = files(kind, &file)?;
        if kind == Kind::Vm {
            let (setup, filters) = (setup::Args::new(args.yes), filter.as_slice());
            total.add(vm::stage(&setup, vm::kernel::KERNEL, &files, filters)?);
            continue;
        }
        if kind.needs_agents() && !agents_built && !files.is_empty() {
            run::build_agent()?;
            run::build_sabotaged_agent()?;
            agents_built = true;
        }
        for mut command in commands(kind, &files, filter.as_deref())? {
            let started = Instant::now();
            cmd::step(&cmd::show(&command));
            let tally = execute(&mut command)?;
            println!(
                "    {} passed, {} failed, {} skipped ({:.0} s)",
                tally.passed,
                tally.failed,
                tally.skipped.len(),
                started.elapsed().as_secs_f32()
            );
            total.add(tally);
        }
    }
    if whole {
        cover::write(&total.covered)?;
        println!("{}", total.covered.summary());
    }
    conclude(&total)
}

/// Prints the skips and the one line that counts; an error when something failed or
/// was skipped that may not be.
pub(crate) fn conclude(total: &Tally) -> Result<()> {
    let allowed = fs::read_to_string(cmd::root().join(ALLOWED_SKIPS)).unwrap_or_default();
    println!("{}", total.summary(&allowed));
    total.verdict(&allowed)
}

/// What is to run.
#[derive(Debug, PartialEq, Eq)]
struct Selection {
    kinds: Vec<Kind>,
    /// The first words of the names of test files, or none.
    file: String,
    /// A part of the names of tests.
    filter: Option<String>,
}

/// What the arguments mean.
fn selection(args: &Args) -> Result<Selection> {
    let what = args.what.as_deref().unwrap_or("all");
    let filter = args.filter.clone();
    let all = |file: &str, filter| Selection {
        kinds: Kind::ALL.to_vec(),
        file: file.to_string(),
        filter,
    };
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == what) {
        return Ok(Selection {
            kinds: vec![kind],
            ..all("", filter)
        });
    }
    if what == "all" {
        return Ok(all("", filter));
    }
    let mut kinds = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Unit) {
        if !files(kind, what)?.is_empty() {
            kinds.push(kind);
        }
    }
    Ok(match (kinds.is_empty(), filter) {
        (false, filter) => Selection {
            kinds,
            ..all(what, filter)
        },
        (true, None) => all("", Some(what.to_string())),
        (true, Some(_)) => bail!(
            "`{what}` is no kind of test and no file in tests/tests; try `cargo xtask test {what}` \
             for what has it in its name"
        ),
    })
}

/// The test files of the test package that belong to a kind: by the first word
/// of their names, and without privileges where the word says nothing. Of those, the
/// ones whose name is this or starts with these words.
fn files(kind: Kind, words: &str) -> Result<Vec<String>> {
    let mut names = stems()?;
    names.retain(|stem| Kind::of_file(stem) == kind && has_first_words(stem, words));
    Ok(names)
}

/// Those that run in a virtual machine.
pub(crate) fn vm_files() -> Result<Vec<String>> {
    files(Kind::Vm, "")
}

/// All test files of the test package.
pub(crate) fn stems() -> Result<Vec<String>> {
    let dir = cmd::root().join("tests/tests");
    let mut names = Vec::new();
    if !dir.exists() {
        return Ok(names);
    }
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            names.push(stem.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether whole `words` are where the name begins; without any, every name has them.
fn has_first_words(name: &str, words: &str) -> bool {
    let rest = name.strip_prefix(words);
    rest.is_some_and(|rest| words.is_empty() || rest.is_empty() || rest.starts_with('_'))
}

fn commands(kind: Kind, files: &[String], filter: Option<&str>) -> Result<Vec<Command>> {
    let mut list = Vec::new();
    if kind == Kind::Unit {
        let mut crates = cmd::cargo();
        crates.args(["test", "--workspace", "--exclude", "mifsec-tests"]);
        let mut harness = cmd::cargo();
        harness.args(["test", "--package", "mifsec-tests", "--lib"]);
        list.extend([crates, harness]);
    } else {
        if files.is_empty() {
            return Ok(list);
        }
        let mut cargo = cmd::cargo();
        cargo.args(["test", "--package", "mifsec-tests"]);
        for file in files {
            cargo.args(["--test", file]);
        }
        if kind.needs_root() {
            let words = cmd::privilege(run::KEEP_ENV)?;
            if !words.is_empty() {
                let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
                let runner = format!("target.\"cfg(all())\".runner=[{}]", quoted.join(","));
                cargo.args(["--config", &runner]);
            }
        }
        list.push(cargo);
    }
    for cargo in &mut list {
        cargo.arg("--no-fail-fast");
        cargo.env("MIFSEC_BIN", cmd::target().join("release/mifsec"));
        cargo.env("MIFSEC_SABOTAGE_BIN", run::sabotaged_agent());
        cargo.arg("--").arg("--show-output");
        if kind.needs_root() {
            // Two agents and their load fill a small machine; the other end's
            // daemons mostly wait.
            let threads = if kind == Kind::Interop { 2 } else { 1 };
            cargo.arg(format!("--test-threads={threads}"));
        }
        cargo.args(filter);
    }
    Ok(list)
}

/// Runs one command, shows what matters of its output, and counts.
fn execute(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", cmd::show(command)))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let mut tally = Tally::default();
    let mut binary = Output::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the test output")?;
        if shown(&line) {
            println!("    {line}");
        }
        if let Some(result) = binary.line(&line) {
            if result.failed > 0 {
                println!("{}", binary.text);
            }
            tally.add(result);
            binary = Output::default();
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // Did not compile, or a test binary died without a result line.
        println!("{}", binary.text);
        println!("    ended with {status} and no failed test");
        tally.failed = 1;
    }
    Ok(tally)
}

/// Each test as it ends, and what the interop scenarios came to.
fn shown(line: &str) -> bool {
    let test = line.starts_with("test ") && !line.starts_with("test result");
    test || line.starts_with("interop: ")
}

/// The output of one test binary so far.
#[derive(Debug, Default)]
pub(crate) struct Output {
    text: String,
    /// The test whose captured output is being printed.
    current: String,
    skipped: Vec<(String, String)>,
    /// Whether the tests whose output is being printed passed.
    passing: bool,
    /// What tests that passed say they show.
    said: BTreeMap<String, BTreeSet<String>>,
}

impl Output {
    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Takes one line; the binary's result line gives its tally.
    pub(crate) fn line(&mut self, line: &str) -> Option<Tally> {
        self.text.push_str(line);
        self.text.push('\n');
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            self.current = name.to_string();
        } else if line == "successes:" || line == "failures:" {
            self.passing = line == "successes:";
        } else if let Some(said) = cover::said(line) {
            if self.passing && !self.current.is_empty() {
                let lines = self.said.entry(self.current.clone()).or_default();
                lines.insert(said.to_string());
            }
        } else if let Some(why) = line.strip_prefix("skipped: ")
            && !self.current.is_empty()
        {
            // Taken, so that a second line of the same test does not count again.
            let test = std::mem::take(&mut self.current);
            self.skipped.push((test, why.to_string()));
        } else if let Some(rest) = line.strip_prefix("test ")
            && let Some((name, why)) = rest.split_once(" ... ignored")
        {
            let why = why.trim_start_matches(", ");
            let why = if why.is_empty() { "ignored" } else { why };
            self.skipped.push((name.to_string(), why.to_string()));
        }
        let counts = line.strip_prefix("test result: ")?;
        let count = |word: &str| {
            counts
                .split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
                .unwrap_or(0usize)
        };
        let ignored = count("ignored");
        let mut covered = Covered::default();
        for (test, said) in std::mem::take(&mut self.said) {
            if !self.skipped.iter().any(|(skipped, _)| *skipped == test) {
                covered.passed(&test, &said);
            }
        }
        let said_skipped = self.skipped.len().saturating_sub(ignored);
        Some(Tally {
            passed: count("passed").saturating_sub(said_skipped),
            failed: count("failed"),
            skipped: std::mem::take(&mut self.skipped),
            covered,
        })
    }
}

impl Tally {
    /// Tests that cannot run here, for one reason.
    pub(crate) fn all_skipped<'a>(tests: impl Iterator<Item = &'a str>, why: &str) -> Self {
        Self {
            skipped: tests.map(|test| (test.into(), why.into())).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.covered.add(other.covered);
    }

    /// What was skipped and why, then the one line that counts.
    fn summary(&self, allowed: &str) -> String {
        let mut text = String::new();
        for (test, why) in &self.skipped {
            text += &format!("skipped: {test}: {why}\n");
        }
        for test in self.unlisted(allowed) {
            text += &format!("this skip is not in {ALLOWED_SKIPS}: {test}\n");
        }
        text + &format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed,
            self.skipped.len()
        )
    }

    fn verdict(&self, allowed: &str) -> Result<()> {
        if self.failed > 0 {
            bail!("{} tests failed", self.failed);
        }
        let unlisted = self.unlisted(allowed).len();
        if unlisted > 0 {
            bail!("{unlisted} skips are not allowed");
        }
        if self.passed == 0 {
            bail!("no test ran");
        }
        Ok(())
    }

    /// Skipped tests that no line of the list names.
    fn unlisted(&self, allowed: &str) -> BTreeSet<String> {
        let allowed: BTreeSet<_> = allowed
            .lines()
            .filter_map(|line| line.split('#').next())
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        self.skipped
            .iter()
            .map(|(test, _)| test.clone())
            .filter(|test| !allowed.contains(test.as_str()))
            .collect()
    }
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Unit,
        Self::Sim,
        Self::Bpf,
        Self::Netns,
        Self::Interop,
        Self::Vm,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Sim => "sim",
            Self::Bpf => "bpf",
            Self::Netns => "netns",
            Self::Interop => "interop",
            Self::Vm => "vm",
        }
    }

    fn of_file(stem: &str) -> Self {
        match stem.split('_').next() {
            Some("bpf") => Self::Bpf,
            Some("netns") => Self::Netns,
            Some("interop") => Self::Interop,
            Some("vm") => Self::Vm,
            _ => Self::Sim,
        }
    }

    fn needs_root(self) -> bool {
        matches!(self, Self::Bpf | Self::Netns | Self::Interop)
    }

    /// What the machine must have for it.
    fn need(self) -> setup::Need {
        match self {
            Self::Unit => setup::Need::Build,
            Self::Sim => setup::Need::Compare,
            // The guest gets the lab's tools from this machine.
            Self::Bpf | Self::Netns | Self::Vm => setup::Need::Lab,
            Self::Interop => setup::Need::Interop,
        }
    }

    /// Whether its tests run the agent's binary.
    fn needs_agents(self) -> bool {
        matches!(self, Self::Sim | Self::Netns | Self::Interop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &str) -> Tally {
        let mut output = Output::default();
        let mut tally = Tally::default();
        for line in text.lines() {
            if let Some(result) = output.line(line) {
                tally.add(result);
                output = Output::default();
            }
        }
        tally
    }

    const RUN: &str = "\
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored, needs a modem

successes:

---- b stdout ----
skipped: no bpffs here

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn arguments_name_a_kind_a_file_or_a_part_of_names() {
        let select = |words: [Option<&str>; 2]| {
            selection(&Args {
                what: words[0].map(str::to_string),
                filter: words[1].map(str::to_string),
                yes: true,
            })
            .map(|s| (s.kinds.len(), s.file, s.filter))
        };
        let all = Kind::ALL.len();
        let text = str::to_string;
        assert_eq!(select([None; 2]).unwrap(), (all, text(""), None));
        let kind = select([Some("sim"), Some("rekey")]).unwrap();
        assert_eq!(kind, (1, text(""), Some(text("rekey"))));
        let file = select([Some("netns_moves"), None]).unwrap();
        assert_eq!(file, (1, text("netns_moves"), None));
        let files = select([Some("sim_ike"), Some("rekey")]).unwrap();
        assert_eq!(files, (1, text("sim_ike"), Some(text("rekey"))));
        for part in ["s", "netns_move", "no_such_file"] {
            let names = select([Some(part), None]).unwrap();
            assert_eq!(names, (all, text(""), Some(text(part))), "no whole words");
        }
        let part = select([Some("all"), Some("cli")]).unwrap();
        assert_eq!(part, (all, text(""), Some(text("cli"))));
        assert!(select([Some("no_such_file"), Some("rekey")]).is_err());
    }

    #[test]
    fn a_skipped_test_is_not_counted_as_passed() {
        let tally = feed(RUN);
        assert_eq!((tally.passed, tally.failed), (1, 1));
        assert_eq!(
            tally.skipped,
            [
                ("d".to_string(), "needs a modem".to_string()),
                ("b".to_string(), "no bpffs here".to_string()),
            ]
        );
    }

    /// One that passed, one that was skipped, one that failed, each saying what it shows.
    const SAYING: &str = "\
successes:

---- a stdout ----
covers: R10 R11 in tests/tests/sim_a.rs

---- b stdout ----
covers: R20 in tests/tests/sim_a.rs
skipped: no bpffs here


successes:
    a
    b

failures:

---- c stdout ----
covers: R22 in tests/tests/sim_a.rs

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn only_what_ran_and_passed_counts_as_shown() {
        let mut expected = Covered::default();
        let said = BTreeSet::from(["R10 R11 in tests/tests/sim_a.rs".to_string()]);
        expected.passed("a", &said);
        assert_eq!(feed(SAYING).covered, expected);
        // Of a binary that died nothing is known.
        let cut = SAYING.split("test result").next().unwrap_or_default();
        assert_eq!(feed(cut).covered, Covered::default());
    }

    #[test]
    fn tests_and_scenarios_are_listed() {
        assert!(shown("test a ... ok"));
        assert!(shown("interop: strongSwan client: behind NAT: ok (1.9 s)"));
        assert!(!shown("test result: ok. 1 passed"));
        assert!(!shown("running 2 tests"));
    }

    #[test]
    fn tallies_of_several_binaries_add_up() {
        let tally = feed(&format!("{RUN}{RUN}"));
        assert_eq!((tally.passed, tally.failed, tally.skipped.len()), (2, 2, 4));
    }

    #[test]
    fn a_skip_that_is_not_listed_fails_the_run() {
        let mut tally = feed(RUN);
        tally.failed = 0;
        assert!(tally.verdict("d\n# b\n").is_err());
        assert!(tally.verdict("d\nb # no bpffs in containers\n").is_ok());
    }

    #[test]
    fn the_summary_ends_with_the_one_line() {
        let summary = feed(RUN).summary("d\n");
        assert_eq!(
            summary.lines().last(),
            Some("1 passed, 1 failed, 2 skipped")
        );
        assert!(summary.contains("skipped: b: no bpffs here"));
        assert!(summary.contains("not in .ci/allowed-skips: b"));
    }

    #[test]
    fn a_run_without_a_test_fails() {
        assert!(Tally::default().verdict("").is_err());
    }

    #[test]
    fn a_failed_test_fails_the_run() {
        let tally = Tally {
            passed: 3,
            failed: 1,
            ..Tally::default()
        };
        assert!(tally.verdict("").is_err());
    }

    #[test]
    fn files_are_sorted_into_kinds_by_their_first_word() {
        assert_eq!(Kind::of_file("bpf_fixtures"), Kind::Bpf);
        assert_eq!(Kind::of_file("netns_lab"), Kind::Netns);
        assert_eq!(Kind::of_file("interop_strongswan"), Kind::Interop);
        assert_eq!(Kind::of_file("vm_boot"), Kind::Vm);
        assert_eq!(Kind::of_file("sim_pair"), Kind::Sim);
        assert_eq!(Kind::of_file("esp_vectors"), Kind::Sim);
    }
}
