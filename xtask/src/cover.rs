//! Which tests show which requirement.
//!
//! A test says it itself: `covers!("R22", "R30")` at its start prints a line that
//! libtest keeps with the test's output. `cargo xtask test` counts those of tests
//! that ran, passed and were not skipped, and a whole run writes them to
//! `target/covers.txt`, one `row test` a line.
//!
//! The table in `docs/testing.md` names for each requirement the tests that show
//! it, or says `none:` and why. `cargo xtask tidy` compares the table with the
//! sources, and with what the last whole run wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cmd;
use crate::tidy::{File, Violation};

/// Numbers of the requirements that something must show.
const ROWS: [RangeInclusive<u32>; 4] = [1..=5, 10..=55, 60..=63, 85..=85];
/// Those of transport mode: they may be left to `later`.
const TRANSPORT: RangeInclusive<u32> = 70..=84;

const TABLE: &str = "docs/testing.md";
/// Where in it.
const HEADER: &str = "| number | requirement |";
const SAID: &str = "covers: ";

/// Requirement -> tests.
#[derive(Default, Debug, PartialEq, Eq, Clone)]
pub(crate) struct Covered(BTreeMap<String, BTreeSet<String>>);

impl Covered {
    /// Adds what another run showed.
    pub(crate) fn add(&mut self, other: Self) {
        for (row, tests) in other.0 {
            self.0.entry(row).or_default().extend(tests);
        }
    }

    /// A passed test with what it said; lines that say nothing of this are left out.
    pub(crate) fn passed(&mut self, test: &str, said: &BTreeSet<String>) {
        for line in said {
            let Some((rows, file)) = line.split_once(" in ") else {
                continue;
            };
            let name = name(file, test);
            for row in rows.split(' ') {
                let tests = self.0.entry(row.to_string()).or_default();
                tests.insert(name.clone());
            }
        }
    }

    /// One line about the requirements: how many have a test that passed.
    pub(crate) fn summary(&self) -> String {
        let all = required();
        let shown = all.iter().filter(|row| self.0.contains_key(*row)).count();
        format!(
            "{shown} of {} requirements shown by {} tests, the rest by reasons in {TABLE}",
            all.len(),
            self.0.values().flatten().collect::<BTreeSet<_>>().len()
        )
    }

    fn text(&self) -> String {
        let lines = self.0.iter().flat_map(|(row, tests)| {
            let line = move |test| format!("{row} {test}\n");
            tests.iter().map(line)
        });
        lines.collect()
    }

    fn parse(text: &str) -> Self {
        let mut covered = Self::default();
        for (row, test) in text.lines().filter_map(|line| line.split_once(' ')) {
            let tests = covered.0.entry(row.to_string()).or_default();
            tests.insert(test.to_string());
        }
        covered
    }
}

/// What a test says of its requirements, from a line of its output.
pub(crate) fn said(line: &str) -> Option<&str> {
    line.strip_prefix(SAID)
}

/// Takes what an earlier whole run wrote away, before another begins.
pub(crate) fn forget() -> Result<()> {
    match fs::remove_file(report()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", report().display()))
        }
        _ => Ok(()),
    }
}

/// Writes what a whole run showed.
pub(crate) fn write(covered: &Covered) -> Result<()> {
    let report = report();
    fs::write(&report, covered.text()).with_context(|| format!("cannot write {}", report.display()))
}

/// Each requirement is in the table once, with tests that exist and say so or
/// with a reason.
pub(crate) fn requirements_have_tests(files: &[File]) -> Vec<Violation> {
    let Some(table) = files.iter().find(|file| file.path == TABLE) else {
        return Vec::new();
    };
    let marks: Vec<_> = files.iter().flat_map(marks).collect();
    let rows = rows(table);
    let mut broken = Vec::new();
    for row in required().iter().chain(&transport()) {
        let lines: Vec<_> = rows.iter().filter(|found| found.id == *row).collect();
        if lines.len() != 1 {
            let times = lines.len();
            broken.push(table.broken(0, format!("{row} is {times} times in the table")));
        }
    }
    for row in &rows {
        if row.tests.is_empty() && row.reason.is_none() {
            let what = format!("{}: neither a test nor `none:` with a reason", row.id);
            broken.push(table.broken(row.line, what));
        }
        for test in &row.tests {
            let says = |mark: &&Mark| mark.test == *test && mark.rows.contains(&row.id);
            if !marks.iter().any(|mark| says(&mark)) {
                let what = if exists(files, test) {
                    format!("{}: `{test}` does not say covers!({:?})", row.id, row.id)
                } else {
                    format!("{}: there is no test `{test}`", row.id)
                };
                broken.push(table.broken(row.line, what));
            }
        }
    }
    let functions: BTreeSet<_> = files.iter().flat_map(functions).collect();
    for (line, test) in named(table) {
        let row = rows.iter().any(|row| row.line == line);
        if !row && !functions.contains(test.rsplit("::").next().unwrap_or(test)) {
            broken.push(table.broken(line, format!("there is no test `{test}`")));
        }
    }
    let known: BTreeSet<_> = rows.iter().map(|row| &row.id).collect();
    for mark in &marks {
        for row in mark.rows.iter().filter(|row| !known.contains(row)) {
            broken.push(Violation {
                path: mark.path.clone(),
                line: mark.line,
                what: format!("{row} is not in the table of {TABLE}"),
            });
        }
    }
    broken
}

/// What the last whole run left without a passed test; `None` when there was
/// no whole run.
pub(crate) fn untested(files: &[File]) -> Result<Option<Vec<Violation>>> {
    match fs::read_to_string(report()) {
        Ok(text) => Ok(Some(not_run(files, &Covered::parse(&text)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", report().display())),
    }
}

/// Rows whose tests did not all run and pass.
fn not_run(files: &[File], covered: &Covered) -> Vec<Violation> {
    let Some(table) = files.iter().find(|file| file.path == TABLE) else {
        return Vec::new();
    };
    let mut broken = Vec::new();
    for row in rows(table) {
        let ran = covered.0.get(&row.id);
        for test in &row.tests {
            if !ran.is_some_and(|ran| ran.contains(test)) {
                let what = format!(
                    "{}: `{test}` did not run and pass in the last whole `cargo xtask test`",
                    row.id
                );
                broken.push(table.broken(row.line, what));
            }
        }
    }
    broken
}

fn report() -> PathBuf {
    cmd::target().join("covers.txt")
}

fn required() -> Vec<String> {
    let numbers = ROWS.into_iter().flatten();
    numbers.map(|number| format!("R{number:02}")).collect()
}

fn transport() -> Vec<String> {
    TRANSPORT.map(|number| format!("R{number}")).collect()
}

/// A line of the table.
struct Row {
    id: String,
    line: usize,
    tests: Vec<String>,
    reason: Option<String>,
}

/// `| R22 | what | `file::test`, `file::test` |` or `| R02 | what | none: why |`;
/// `later` is a reason for transport mode alone.
fn rows(table: &File) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut lines = table.lines();
    lines.any(|(_, text)| text.starts_with(HEADER));
    for (line, text) in lines.take_while(|(_, text)| text.starts_with('|')) {
        let cells: Vec<_> = text.split('|').map(str::trim).collect();
        let [_, id, _, tests, _] = cells.as_slice() else {
            continue;
        };
        let Some(number) = id.strip_prefix('R') else {
            continue;
        };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let later = transport().iter().any(|row| row == id) && *tests == "later";
        let why = tests.strip_prefix("none: ");
        // What is missing is no reason.
        let why = why.filter(|why| !why.is_empty() && !why.starts_with("being built"));
        let reason = why.or(later.then_some(*tests)).map(str::to_string);
        let quoted = tests.split('`').skip(1).step_by(2);
        rows.push(Row {
            id: (*id).to_string(),
            line,
            tests: match reason {
                Some(_) => Vec::new(),
                None => quoted.map(str::to_string).collect(),
            },
            reason,
        });
    }
    rows
}

/// A test that says what it covers.
#[derive(Debug, PartialEq, Eq)]
struct Mark {
    path: String,
    line: usize,
    test: String,
    rows: Vec<String>,
}

/// The `covers!` of a source file, each with the function around it.
fn marks(file: &File) -> Vec<Mark> {
    let mut marks = Vec::new();
    if !file.path.ends_with(".rs") || file.path.starts_with("xtask/") {
        return marks;
    }
    let mut function = "";
    for (line, text) in file.lines() {
        let text = text.trim_start();
        if text.starts_with("//") {
            continue;
        }
        function = defined(text).unwrap_or(function);
        let Some((before, rows)) = text.split_once("covers!(") else {
            continue;
        };
        if before.contains("macro_rules") || function.is_empty() {
            continue;
        }
        let rest = file.text.lines().skip(line).take(5);
        let rows = [rows].into_iter().chain(rest).collect::<String>();
        let said = rows.split(')').next().unwrap_or_default();
        marks.push(Mark {
            path: file.path.clone(),
            line,
            test: name(&file.path, function),
            rows: said
                .split('"')
                .skip(1)
                .step_by(2)
                .map(str::to_string)
                .collect(),
        });
    }
    marks
}

/// The name of the function that a line begins.
fn defined(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let rest = line.strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// What else the document calls a test: a name like a sentence, in backquotes.
fn named(table: &File) -> impl Iterator<Item = (usize, &str)> {
    table.lines().flat_map(|(line, text)| {
        let words = text.split('`').skip(1).step_by(2);
        words
            .filter(|word| is_sentence(word))
            .map(move |word| (line, word))
    })
}

fn is_sentence(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
    word.chars().all(plain)
        && word
            .rsplit("::")
            .next()
            .is_some_and(|name| name.matches('_').count() >= 3)
}

/// Names of the functions of a source file.
fn functions(file: &File) -> impl Iterator<Item = &str> {
    let source = file.path.ends_with(".rs");
    let lines = file.text.lines().filter(move |_| source);
    lines.filter_map(|line| defined(line.trim_start()))
}

fn exists(files: &[File], test: &str) -> bool {
    let sources = files.iter().filter(|file| file.path.ends_with(".rs"));
    sources.into_iter().any(|file| {
        let mut lines = file
            .text
            .lines()
            .filter_map(|line| defined(line.trim_start()));
        lines.any(|function| name(&file.path, function) == test)
    })
}

/// How a test is called: `sim_path::bounds::name` for one of the test package's
/// `tests/`, `mifsec::ike::mif::name` for one beside the code. `test` may carry
/// the modules that libtest prints.
fn name(file: &str, test: &str) -> String {
    let function = test.rsplit("::").next().unwrap_or(test);
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_prefix("tests/tests/").unwrap_or(path);
    let parts = path.split('/').filter(|part| *part != "src");
    let mut parts: Vec<_> = parts.collect();
    parts.push(function);
    parts.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &str) -> File {
        // Every other row has a reason, so that only these lines can be wrong.
        let rest = required().into_iter().chain(transport());
        let rest = rest.filter(|row| !lines.contains(&format!("| {row} |")));
        let rest: String = rest
            .map(|row| format!("| {row} | it | none: a fact |\n"))
            .collect();
        File::new(TABLE, &format!("{HEADER}\n{lines}\n{rest}"))
    }

    fn source(rows: &str) -> File {
        File::new(
            "tests/tests/sim_move.rs",
            &format!(
                "#[test]\nfn all_move() {{\n    covers!({rows});\n}}\n#[test]\nfn mute() {{}}\n"
            ),
        )
    }

    fn said_by(files: &[File]) -> Vec<String> {
        let broken = requirements_have_tests(files);
        broken.into_iter().map(|one| one.what).collect()
    }

    const GOOD: &str = "| R22 | moves | `sim_move::all_move` |";

    #[test]
    fn a_row_with_a_test_that_says_so_is_fine() {
        assert!(said_by(&[table(GOOD), source("\"R22\"")]).is_empty());
    }

    #[test]
    fn a_row_without_test_or_reason_is_named() {
        for cell in ["", "none: ", "none: being built", "later", "the lab"] {
            let row = format!("| R22 | moves | {cell} |");
            let said = said_by(&[table(&row), source("\"R22\"")]);
            assert_eq!(
                said,
                ["R22: neither a test nor `none:` with a reason"],
                "{cell}"
            );
        }
        assert!(said_by(&[table("| R74 | transport | later |")]).is_empty());
    }

    #[test]
    fn a_missing_row_and_a_double_one_are_named() {
        let good = table(GOOD);
        let without = File::new(TABLE, &good.text.replace("| R30 |", "| the |"));
        assert_eq!(
            said_by(&[without, source("\"R22\"")]),
            ["R30 is 0 times in the table"]
        );
        let twice = table(&format!("{GOOD}\n{GOOD}"));
        assert_eq!(
            said_by(&[twice, source("\"R22\"")]),
            ["R22 is 2 times in the table"]
        );
    }

    #[test]
    fn a_test_that_does_not_exist_or_says_nothing_is_named() {
        let row = "| R22 | moves | `sim_move::gone`, `sim_move::mute` |";
        assert_eq!(
            said_by(&[table(row), source("\"R22\"")]),
            [
                "R22: there is no test `sim_move::gone`",
                "R22: `sim_move::mute` does not say covers!(\"R22\")"
            ]
        );
        assert_eq!(
            said_by(&[table(GOOD), source("\"R23\"")]),
            ["R22: `sim_move::all_move` does not say covers!(\"R22\")"]
        );
    }

    #[test]
    fn a_test_named_anywhere_else_exists_too() {
        let text =
            "| a | `sim_move`: `all_move_to_the_moon`, `sim_move::all_move`, `cargo xtask` |";
        let mut table = table(GOOD);
        table.text = format!("{text}\n{}", table.text);
        assert_eq!(
            said_by(&[table, source("\"R22\"")]),
            ["there is no test `all_move_to_the_moon`"]
        );
    }

    #[test]
    fn a_requirement_that_there_is_not_is_named_where_it_is_said() {
        let broken = requirements_have_tests(&[table(GOOD), source("\"R22\", \"R99\"")]);
        let [one] = broken.as_slice() else {
            panic!("{broken:?}");
        };
        assert_eq!(
            (one.path.as_str(), one.line),
            ("tests/tests/sim_move.rs", 3)
        );
        assert!(one.what.starts_with("R99 "));
    }

    #[test]
    fn a_list_over_several_lines_is_read() {
        let found = marks(&source("\n        \"R22\",\n        \"R30\",\n    "));
        let [mark] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(mark.rows, ["R22", "R30"]);
    }

    #[test]
    fn a_row_whose_test_did_not_pass_is_named() {
        let files = [table(GOOD), source("\"R22\"")];
        let ran = Covered::parse("R22 sim_move::all_move\n");
        assert!(not_run(&files, &ran).is_empty());
        for other in ["", "R22 sim_move::mute\n", "R23 sim_move::all_move\n"] {
            let broken = not_run(&files, &Covered::parse(other));
            assert_eq!(broken.len(), 1, "{other}");
            assert!(broken[0].what.starts_with("R22: `sim_move::all_move`"));
        }
    }

    #[test]
    fn tests_are_named_by_file_and_function() {
        assert_eq!(
            name("tests/tests/sim_path/bounds.rs", "bounds::one"),
            "sim_path::bounds::one"
        );
        assert_eq!(
            name("mifsec/src/ike/mif.rs", "ike::mif::tests::one"),
            "mifsec::ike::mif::one"
        );
    }

    #[test]
    fn what_a_run_showed_survives_its_file() {
        let mut covered = Covered::default();
        let said = [
            "R22 R30 in tests/tests/sim_move.rs".to_string(),
            "nonsense".to_string(),
        ];
        covered.passed("all_move", &BTreeSet::from(said));
        assert_eq!(
            covered.text(),
            "R22 sim_move::all_move\nR30 sim_move::all_move\n"
        );
        assert_eq!(Covered::parse(&covered.text()), covered);
        assert!(
            covered
                .summary()
                .starts_with("2 of 56 requirements shown by 1 tests")
        );
    }
}
