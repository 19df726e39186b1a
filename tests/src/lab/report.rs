//! The result of a run: the table on the terminal and the JSON report.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// What one step came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Its letter and what it is about.
    pub name: String,
    /// Whether all it checks held.
    pub ok: bool,
    /// Datagrams sent, both ways.
    pub sent: u64,
    /// Datagrams that never arrived.
    pub lost: u64,
    /// Datagrams that arrived more than once.
    pub duplicated: u64,
    /// The longest time a flow went without a datagram after the event.
    pub switch_ms: f64,
    /// Child SAs new or gone, both ends.
    pub sas_recreated: u64,
    /// What else was seen, and what did not hold.
    pub detail: String,
    /// What did not hold, one by one.
    #[serde(skip)]
    pub problems: Vec<String>,
}

impl Step {
    /// One in which nothing could be counted.
    #[must_use]
    pub fn failed(name: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self {
            name: name.into(),
            ok: false,
            sent: 0,
            lost: 0,
            duplicated: 0,
            switch_ms: 0.0,
            sas_recreated: 0,
            detail: why.clone(),
            problems: vec![why],
        }
    }
}

/// All steps.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    ok: bool,
    steps: Vec<Step>,
}

impl Report {
    /// Of the steps that ran; ok when there was one and all held.
    #[must_use]
    pub fn new(steps: Vec<Step>) -> Self {
        Self {
            schema: "mifsec.lab/1",
            ok: !steps.is_empty() && steps.iter().all(|step| step.ok),
            steps,
        }
    }

    /// Whether all held.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.ok
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<30} {:<6} {:>7} {:>6} {:>5} {:>9} {:>8}  {}\n",
            "STEP", "RESULT", "SENT", "LOST", "DUP", "SWITCH ms", "NEW SAs", "DETAIL"
        );
        for step in &self.steps {
            let result = if step.ok { "ok" } else { "FAILED" };
            text += &format!(
                "{:<30} {result:<6} {:>7} {:>6} {:>5} {:>9.1} {:>8}  {}\n",
                step.name,
                step.sent,
                step.lost,
                step.duplicated,
                step.switch_ms,
                step.sas_recreated,
                step.detail,
            );
        }
        text
    }

    /// Removes the report of an earlier run, which must not pass for one of this.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove_old(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the JSON; the file belongs to whoever called sudo.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let id = |name: &str| std::env::var(name).ok()?.parse().ok();
        if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
            chown(path, Some(user), Some(group))
                .with_context(|| format!("cannot give {} to its user", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ok: bool) -> Step {
        Step {
            name: "b both".into(),
            ok,
            sent: 10_000,
            lost: 0,
            duplicated: 0,
            switch_ms: 1.5,
            sas_recreated: 0,
            detail: String::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn one_failed_step_or_none_at_all_is_not_ok() {
        assert!(Report::new(vec![step(true)]).ok());
        assert!(!Report::new(vec![step(true), step(false)]).ok());
        assert!(!Report::new(Vec::new()).ok());
    }

    #[test]
    fn a_lab_that_did_not_start_is_a_failed_step_with_the_reason() {
        let report = Report::new(vec![Step::failed("start", "no tbf")]);
        let json = serde_json::to_value(report).expect("serializes");
        assert_eq!(json["ok"], false);
        assert_eq!(json["steps"][0]["detail"], "no tbf");
    }

    #[test]
    fn an_old_report_is_gone_and_none_is_no_error() {
        let path = std::env::temp_dir().join(format!("mifsec-report-{}", std::process::id()));
        fs::write(&path, "{}").expect("writable");
        for _ in 0..2 {
            Report::remove_old(&path).expect("removable");
            assert!(!path.exists());
        }
    }

    #[test]
    fn the_report_has_the_promised_keys() {
        let json = serde_json::to_value(Report::new(vec![step(true)])).expect("serializes");
        assert_eq!(json["schema"], "mifsec.lab/1");
        assert_eq!(json["ok"], true);
        let keys: Vec<_> = json["steps"][0]
            .as_object()
            .expect("object")
            .keys()
            .cloned()
            .collect();
        let mut promised = [
            "name",
            "ok",
            "sent",
            "lost",
            "duplicated",
            "switch_ms",
            "sas_recreated",
            "detail",
        ];
        promised.sort_unstable();
        assert_eq!(keys, promised);
    }
}
