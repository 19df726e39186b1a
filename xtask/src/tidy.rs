//! The repository's own rules, each a function from the tracked files to the
//! places that break it, each with a test that it can fail.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{cmd, cover};

mod layers;
mod rules;

/// A tracked text file, path relative to the workspace root.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) path: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) what: String,
}

type Rule = fn(&[File]) -> Vec<Violation>;

const RULES: &[Rule] = &[
    layers::imports_point_one_way,
    layers::engines_have_no_clock_or_runtime,
    layers::crates_stay_in_their_module,
    rules::files_are_short,
    rules::modules_are_named_files,
    rules::unsafe_is_forbidden_outside_io_and_ebpf,
    rules::nothing_is_left_open,
    rules::nothing_names_a_machine,
    rules::dependencies_have_a_reason,
    rules::nothing_generated_is_tracked,
    rules::readme_names_the_commands,
    cover::requirements_have_tests,
];

/// Checks every rule, and what the last whole test run showed if there was one,
/// and prints what breaks it.
pub(crate) fn run() -> Result<()> {
    let files = tracked()?;
    let mut violations = broken(&files);
    match cover::untested(&files)? {
        Some(untested) => violations.extend(untested),
        None => println!("tidy: no whole `cargo xtask test` yet, requirements are not compared"),
    }
    report(&files, &violations)
}

/// Checks the rules alone: a run of the tests comes after this.
pub(crate) fn before_tests() -> Result<()> {
    let files = tracked()?;
    report(&files, &broken(&files))
}

fn broken(files: &[File]) -> Vec<Violation> {
    RULES.iter().flat_map(|rule| rule(files)).collect()
}

fn report(files: &[File], violations: &[Violation]) -> Result<()> {
    for violation in violations {
        println!("{}:{}: {}", violation.path, violation.line, violation.what);
    }
    if !violations.is_empty() {
        bail!("{} places break the rules above", violations.len());
    }
    println!("tidy: {} rules, {} files", RULES.len(), files.len());
    Ok(())
}

/// What git tracks or would track; binary files with empty text.
fn tracked() -> Result<Vec<File>> {
    let root = cmd::root();
    let dir = root.to_string_lossy();
    let list = [
        "-c",
        // Root may look at a tree of somebody else.
        &format!("safe.directory={dir}"),
        "-C",
        dir.as_ref(),
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let names = cmd::output("git", &list).context("`git ls-files` failed")?;
    let mut files = Vec::new();
    for name in names.lines() {
        // A file deleted and not yet committed is still listed.
        if let Ok(bytes) = fs::read(root.join(name)) {
            files.push(File {
                path: name.to_string(),
                text: String::from_utf8(bytes).unwrap_or_default(),
            });
        }
    }
    Ok(files)
}

impl File {
    /// Lines with their numbers.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// Lines before the unit tests, comments left out.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    pub(crate) fn broken(&self, line: usize, what: impl Into<String>) -> Violation {
        Violation {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_string(),
            text: text.to_string(),
        }
    }
}
