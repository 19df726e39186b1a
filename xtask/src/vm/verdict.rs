//! What the guest says of its tests.

use std::time::Instant;

use super::Job;
use crate::test::{Output, Tally};

/// The verdicts that must come and those that came.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// Tests without a verdict yet.
    missing: Vec<(String, String)>,
    current: Option<Current>,
    tally: Tally,
}

/// The test whose output is being read.
#[derive(Debug)]
struct Current {
    name: (String, String),
    started: Instant,
    output: Output,
    tally: Option<Tally>,
}

impl Verdicts {
    /// Before the guest starts.
    pub(super) fn new(jobs: &[Job]) -> Self {
        let names = jobs.iter().map(|job| (job.file.clone(), job.test.clone()));
        Self {
            missing: names.collect(),
            current: None,
            tally: Tally::default(),
        }
    }

    /// Takes one line of the guest's; prints the verdict when it is one.
    pub(super) fn line(&mut self, line: &str) {
        if let Some(mark) = line.strip_prefix("vm: ") {
            let words: Vec<_> = mark.split(' ').collect();
            match words[..] {
                ["begin", file, test] => self.begin(file, test),
                ["end", file, test, status] => self.end(file, test, status),
                _ => {}
            }
        } else if let Some(current) = &mut self.current
            && let Some(tally) = current.output.line(line)
        {
            current.tally = Some(tally);
        }
    }

    fn begin(&mut self, file: &str, test: &str) {
        self.current = Some(Current {
            name: (file.into(), test.into()),
            started: Instant::now(),
            output: Output::default(),
            tally: None,
        });
    }

    fn end(&mut self, file: &str, test: &str, status: &str) {
        let name = (file.to_string(), test.to_string());
        let Some(current) = self.current.take_if(|current| current.name == name) else {
            return;
        };
        let Some(at) = self.missing.iter().position(|missing| *missing == name) else {
            return;
        };
        self.missing.remove(at);
        let (verdict, tally) = judge(current.tally, status);
        let time = current.started.elapsed().as_secs_f32();
        println!("    test {file}::{test} ... {verdict} ({time:.1} s)");
        if tally.failed > 0 {
            println!("{}", current.output.text());
        }
        self.tally.add(tally);
    }

    /// The guest is down: tests that said nothing have failed. Returns how many.
    pub(super) fn finish(&mut self) -> usize {
        for (file, test) in &self.missing {
            println!("    test {file}::{test} ... FAILED (no verdict)");
        }
        if let Some(current) = self.current.take() {
            println!("{}", current.output.text());
        }
        let missing = self.missing.len();
        self.tally.failed += missing;
        self.missing.clear();
        missing
    }

    /// All of it.
    pub(super) fn tally(self) -> Tally {
        self.tally
    }
}

/// What one test came to, from its result line and its exit status.
fn judge(tally: Option<Tally>, status: &str) -> (String, Tally) {
    let failed = |why: String| {
        let tally = Tally {
            failed: 1,
            ..Tally::default()
        };
        (format!("FAILED: {why}"), tally)
    };
    match tally {
        Some(tally) if tally.failed > 0 => ("FAILED".into(), tally),
        _ if status == "137" => failed("killed, most likely at the end of its time".into()),
        _ if status != "0" => failed(format!("ended with {status}")),
        None => failed("ended without a result".into()),
        Some(tally) => match tally.skipped.first() {
            Some((_, why)) => (format!("skipped: {why}"), tally),
            None if tally.passed == 0 => failed("did not run".into()),
            None => ("ok".into(), tally),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const PASSED: &str = "\
vm: begin vm_boot a
running 1 test
test a ... ok

successes:

---- a stdout ----
covers: R10 in tests/tests/vm_boot.rs

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s
vm: end vm_boot a 0
";

    fn jobs(names: &[&str]) -> Vec<Job> {
        let job = |name: &&str| Job {
            file: "vm_boot".into(),
            test: (*name).into(),
            binary: PathBuf::new(),
        };
        names.iter().map(job).collect()
    }

    fn read(names: &[&str], text: &str) -> (usize, Tally) {
        let mut verdicts = Verdicts::new(&jobs(names));
        text.lines().for_each(|line| verdicts.line(line));
        (verdicts.finish(), verdicts.tally())
    }

    #[test]
    fn a_test_that_passed_is_counted_once() {
        let (missing, tally) = read(&["a"], PASSED);
        assert_eq!((missing, tally.passed, tally.failed), (0, 1, 0));
        let (missing, tally) = read(&["a"], &format!("{PASSED}{PASSED}"));
        assert_eq!((missing, tally.passed, tally.failed), (0, 1, 0));
    }

    #[test]
    fn a_test_that_the_guest_never_came_to_has_failed() {
        let (missing, tally) = read(&["a", "b"], PASSED);
        assert_eq!((missing, tally.passed, tally.failed), (1, 1, 1));
        // A panic in the middle of a test.
        let (cut, _) = PASSED.split_once("vm: end").unwrap_or_default();
        let (missing, tally) = read(&["a"], cut);
        assert_eq!((missing, tally.passed, tally.failed), (1, 0, 1));
    }

    #[test]
    fn a_test_that_was_killed_or_did_not_run_has_failed() {
        let killed = "vm: begin vm_boot a\nrunning 1 test\nvm: end vm_boot a 137\n";
        assert_eq!(read(&["a"], killed).1.failed, 1);
        let none = PASSED.replace("1 passed", "0 passed");
        assert_eq!(read(&["a"], &none).1.failed, 1);
        let died = PASSED.replace("a 0", "a 101");
        assert_eq!(read(&["a"], &died).1.failed, 1);
    }

    #[test]
    fn a_skip_in_the_guest_is_a_skip() {
        let skipped = PASSED.replace("covers: R10 in tests/tests/vm_boot.rs", "skipped: no TCX");
        let (missing, tally) = read(&["a"], &skipped);
        assert_eq!((missing, tally.passed, tally.failed), (0, 0, 0));
        assert_eq!(tally.skipped, [("a".to_string(), "no TCX".to_string())]);
    }
}
