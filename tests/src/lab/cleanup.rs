//! What the lab made and how it goes away again: processes, namespaces,
//! directories (the BPF pins among them).
//!
//! Everything is registered in one place, so that a signal can remove what the
//! main thread made, and so that nothing is made once removal has begun.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};

use super::sys;

static REGISTRY: Mutex<Vec<(u32, Made)>> = Mutex::new(Vec::new());
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long an agent has to leave by itself.
const PATIENCE: Duration = Duration::from_secs(3);

enum Made {
    Process(Child),
    Namespace(String),
    Directory(PathBuf),
}

/// Owns what one lab made; dropping it removes all of that.
#[derive(Debug)]
pub struct Scope {
    id: u32,
    keep: bool,
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

impl Scope {
    /// An empty scope.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            keep: false,
        }
    }

    /// 0 for the first scope of this process, then 1 and so on.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Leaves everything behind on drop.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Creates a network namespace.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn namespace(&self, name: &str) -> Result<sys::Netns> {
        let mut registry = registry();
        ip(&["netns", "add", name])?;
        registry.push((self.id, Made::Namespace(name.to_string())));
        sys::Netns::open(name)
    }

    /// Starts a process; its id.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<u32> {
        if !self.keep {
            sys::die_with_parent(command);
        }
        let mut registry = registry();
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let pid = child.id();
        registry.push((self.id, Made::Process(child)));
        Ok(pid)
    }

    /// Creates a directory for root alone, with everything that will be put into it.
    ///
    /// # Errors
    /// When it is there already, whoever made it, or cannot be created.
    pub fn directory(&self, path: &Path) -> Result<()> {
        let mut registry = registry();
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        builder
            .create(path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        registry.push((self.id, Made::Directory(path.to_path_buf())));
        Ok(())
    }

    /// Registers a directory that a process of the lab will create.
    pub fn will_have(&self, path: &Path) {
        registry().push((self.id, Made::Directory(path.to_path_buf())));
    }

    /// Ends a process at once and waits until it is gone.
    pub fn kill(&self, pid: u32) {
        let mut registry = registry();
        if let Some(at) = registry
            .iter()
            .position(|(_, made)| matches!(made, Made::Process(child) if child.id() == pid))
            && let (_, Made::Process(mut child)) = registry.remove(at)
        {
            // A process that has ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether a process of the lab still runs.
    #[must_use]
    pub fn runs(&self, pid: u32) -> bool {
        registry().iter_mut().any(|(_, made)| match made {
            Made::Process(child) => child.id() == pid && matches!(child.try_wait(), Ok(None)),
            Made::Namespace(_) | Made::Directory(_) => false,
        })
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let mut registry = registry();
        let all = std::mem::take(&mut *registry);
        let (mine, others) = all.into_iter().partition(|(id, _)| *id == self.id);
        *registry = others;
        remove(mine);
    }
}

/// From now on a signal that asks this process to stop removes what every scope made.
///
/// # Errors
/// When the process has no descriptors left.
pub fn on_stop_signal() -> Result<()> {
    let stop = |signal| {
        // Whoever listened may be gone already.
        let _ = writeln!(
            std::io::stderr(),
            "\nstopped by signal {signal}: removing the lab"
        );
        everything_and_exit(128 + signal);
    };
    sys::on_stop_signal(stop).context("cannot watch for signals")
}

/// Removes what every scope made, and never lets go of the registry again: the
/// process is about to exit, and nothing may be made in between.
pub fn everything_and_exit(status: i32) -> ! {
    let mut registry = registry();
    remove(std::mem::take(&mut *registry));
    std::process::exit(status);
}

/// Removes what labs left whose process was killed. A lab that was kept has
/// agents in its namespaces and stays. What is not named exactly as a lab names
/// it, or does not belong to root, is somebody else's.
pub fn stale() {
    let dead = |pid: &u32| !sys::is_alive(*pid);
    let mut kept = BTreeSet::new();
    for (name, _) in Place::Namespace.entries() {
        if let Some(pid) = Place::Namespace.lab_of(&name).filter(dead)
            && ip(&["netns", "pids", &name]).is_ok_and(|pids| !pids.trim().is_empty())
        {
            kept.insert(pid);
        }
    }
    for place in Place::ALL {
        for (name, path) in place.entries() {
            let left = place.lab_of(&name).filter(dead);
            if left.is_none_or(|pid| kept.contains(&pid)) || !of_root(&path) {
                continue;
            }
            // Another lab may be doing the same.
            let _ = match place {
                Place::Namespace => ip(&["netns", "del", &name]).is_ok(),
                Place::Pins | Place::Directory => fs::remove_dir_all(path).is_ok(),
            };
        }
    }
}

/// Where a lab leaves something that outlives its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `mif<lab>-eu` and so on in `/run/netns`.
    Namespace,
    /// `lab<lab>-eu` and `lab<lab>-gw` in the BPF file system.
    Pins,
    /// `mifsec-lab-<lab>` in the directory for temporary files.
    Directory,
}

impl Place {
    const ALL: [Self; 3] = [Self::Namespace, Self::Pins, Self::Directory];

    fn dir(self) -> PathBuf {
        match self {
            Self::Namespace => "/run/netns".into(),
            Self::Pins => "/sys/fs/bpf/mifsec".into(),
            Self::Directory => std::env::temp_dir(),
        }
    }

    fn entries(self) -> Vec<(String, PathBuf)> {
        // A place that does not exist has nothing in it.
        let entries = fs::read_dir(self.dir()).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect()
    }

    /// The process whose lab made what has this name here; `None` for any name
    /// that no lab gives.
    fn lab_of(self, name: &str) -> Option<u32> {
        let (prefix, roles): (_, &[&str]) = match self {
            Self::Namespace => ("mif", &["-eu", "-rt", "-gw", "-srv"]),
            Self::Pins => ("lab", &["-eu", "-gw"]),
            Self::Directory => ("mifsec-lab-", &[""]),
        };
        let rest = name.strip_prefix(prefix)?;
        let tag = roles.iter().find_map(|role| rest.strip_suffix(role))?;
        let (pid, number) = match tag.split_once('x') {
            Some((pid, number)) => (pid, Some(number)),
            None => (tag, None),
        };
        let plain = |text: &str| {
            let number: u32 = text.parse().ok()?;
            // As the lab writes it: no sign, no leading zero.
            (number > 0 && number.to_string() == text).then_some(number)
        };
        if let Some(number) = number {
            plain(number)?;
        }
        plain(pid)
    }
}

/// Whether root owns the entry itself, not what a link points to.
fn of_root(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|entry| entry.uid() == 0 && !entry.is_symlink())
}

/// Runs `ip`; its complaint is the error.
///
/// # Errors
/// When it fails.
pub fn ip(args: &[&str]) -> Result<String> {
    tool("ip", args)
}

/// Runs a tool of the system; its complaint is the error.
///
/// # Errors
/// When it is missing or fails.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start {program}: run `cargo xtask setup`"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn registry() -> MutexGuard<'static, Vec<(u32, Made)>> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processes first, all at once; then what they used, newest first.
fn remove(all: Vec<(u32, Made)>) {
    let (mut children, mut rest) = (Vec::new(), Vec::new());
    for (_, made) in all {
        match made {
            Made::Process(child) => children.push(child),
            Made::Namespace(_) | Made::Directory(_) => rest.push(made),
        }
    }
    for child in &children {
        // One that has ended already is as good.
        let _ = sys::signal(child.id(), libc::SIGTERM);
    }
    let deadline = Instant::now() + PATIENCE;
    for child in &mut children {
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    for made in rest.into_iter().rev() {
        // Removal goes on whatever one of them says.
        let _ = match made {
            Made::Namespace(name) => ip(&["netns", "del", &name]).map(drop),
            Made::Directory(path) => fs::remove_dir_all(path).map_err(Into::into),
            Made::Process(_) => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_lab_they_belong_to() {
        for name in ["mif123-eu", "mif123-rt", "mif123x2-gw", "mif123x10-srv"] {
            assert_eq!(Place::Namespace.lab_of(name), Some(123), "{name}");
        }
        for name in ["lab123-gw", "lab123x1-eu"] {
            assert_eq!(Place::Pins.lab_of(name), Some(123), "{name}");
        }
        for name in ["mifsec-lab-123", "mifsec-lab-123x1"] {
            assert_eq!(Place::Directory.lab_of(name), Some(123), "{name}");
        }
    }

    #[test]
    fn a_directory_that_somebody_made_before_is_not_used() {
        let path = std::env::temp_dir().join(format!("mifsec-scope-{}", std::process::id()));
        let scope = Scope::new();
        scope.directory(&path).expect("new");
        let mode = fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(scope.directory(&path).is_err());
        drop(scope);
        assert!(!path.exists());
    }

    #[test]
    fn what_only_looks_like_a_lab_is_somebody_elses() {
        let others = [
            "lab5000",
            "lab2024-results",
            "lab-notes",
            "lab123-srv",
            "mif123",
            "mif123-eu2",
            "mif123x-eu",
            "mif123x0-eu",
            "mif123y1-eu",
            "mif0123-eu",
            "mif+123-eu",
            "mif0-eu",
            "mif99999999999-eu",
            "mifsec",
            "mifsec-lab-",
            "mifsec-lab-12a",
            "mifsec-lab-12-old",
            "other123",
        ];
        for place in Place::ALL {
            for name in others {
                assert_eq!(place.lab_of(name), None, "{name} in {place:?}");
            }
        }
        // The right name in the wrong place.
        assert_eq!(Place::Directory.lab_of("lab123-gw"), None);
        assert_eq!(Place::Directory.lab_of("mif123-gw"), None);
        assert_eq!(Place::Namespace.lab_of("lab123-gw"), None);
    }
}
