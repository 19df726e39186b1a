//! One mistake, one line.

use std::fmt;
use std::path::{Path, PathBuf};

/// A mistake in the configuration, printed as `file:line: key: problem; mend`.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    key: Option<String>,
    problem: String,
    mend: Option<String>,
}

impl ConfigError {
    /// A mistake of the file as a whole.
    pub(super) fn file(file: &Path, problem: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: None,
            problem: one_line(&problem.into()),
            mend: None,
        }
    }

    /// Names the key at fault.
    pub(super) fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(one_line(&key.into()));
        self
    }

    /// Names the line, counted from 1.
    pub(super) fn line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    /// Says what to do about it.
    pub(super) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(one_line(&mend.into()));
        self
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.problem)?;
        if let Some(mend) = &self.mend {
            write!(f, "; {mend}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
