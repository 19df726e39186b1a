//! Name servers of a link, told to systemd-resolved by `resolvectl`.
//!
//! A thread runs one command at a time, each with a deadline, so that whoever asks
//! never waits. Only the newest wish counts: one that was replaced before its turn
//! is not carried out.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Answers nobody has taken yet.
const ANSWERS: usize = 16;

/// What a link's resolver should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Name servers; none takes back whatever was set.
    pub servers: Vec<IpAddr>,
    /// Domains they are for; `~` in front is for routing alone.
    pub domains: Vec<String>,
}

/// What became of a wish.
#[derive(Debug)]
pub struct Applied {
    /// The wish.
    pub names: Names,
    /// Why it was not carried out.
    pub result: Result<(), String>,
}

/// The thread; it ends, after the last wish, when this is dropped.
pub struct Resolved {
    wishes: Option<Sender<Names>>,
    thread: Option<JoinHandle<()>>,
}

impl Resolved {
    /// A thread for the link `device`, and where its answers come out.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(device: String) -> std::io::Result<(Self, mpsc::Receiver<Applied>)> {
        let (wishes, wished) = channel();
        let (answers, answered) = mpsc::channel(ANSWERS);
        let thread = std::thread::Builder::new()
            .name("mifsec-names".into())
            .spawn(move || run(&device, &wished, &answers))?;
        let resolved = Self {
            wishes: Some(wishes),
            thread: Some(thread),
        };
        Ok((resolved, answered))
    }

    /// Has it carried out; the answer comes when it is.
    pub fn wish(&self, names: Names) {
        if let Some(wishes) = &self.wishes {
            // The thread ends with us alone.
            let _ = wishes.send(names);
        }
    }

    /// Waits for what was wished.
    pub fn finish(mut self) {
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(device: &str, wished: &Receiver<Names>, answers: &mpsc::Sender<Applied>) {
    while let Ok(mut names) = wished.recv() {
        while let Ok(newer) = wished.try_recv() {
            names = newer;
        }
        let result = apply(device, &names);
        // Nobody may listen any more: the wish counts all the same.
        let _ = answers.try_send(Applied { names, result });
    }
}

fn apply(device: &str, names: &Names) -> Result<(), String> {
    if names.servers.is_empty() {
        return resolvectl(&["revert", device]);
    }
    let servers: Vec<String> = names.servers.iter().map(ToString::to_string).collect();
    let mut arguments = vec!["dns", device];
    arguments.extend(servers.iter().map(String::as_str));
    resolvectl(&arguments)?;
    let mut arguments = vec!["domain", device];
    arguments.extend(names.domains.iter().map(String::as_str));
    if names.domains.is_empty() {
        arguments.push("");
    }
    resolvectl(&arguments)
}

fn resolvectl(arguments: &[&str]) -> Result<(), String> {
    let mut child = Command::new("resolvectl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("resolvectl cannot be run ({error})"))?;
    let verb = arguments.first().copied().unwrap_or_default();
    match wait(&mut child) {
        Some(true) => Ok(()),
        Some(false) => Err(format!(
            "resolvectl {verb} failed (does systemd-resolved run?)"
        )),
        None => Err(format!("resolvectl {verb} did not end in time")),
    }
}

/// Whether it went well; `None` when it had to be ended.
fn wait(child: &mut Child) -> Option<bool> {
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}
