//! Where links live on when the agent does not.
//!
//! `/sys/fs/bpf/mifsec/<instance>/<generation>/<hook>-<ifindex>`: each start is
//! a new generation, so that a predecessor's links can go after the new ones
//! are attached.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tracing::{debug, warn};

const ROOT: &str = "/sys/fs/bpf";
/// `f_type` of a BPF file system.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The pins of one instance.
pub(super) struct Pins {
    instance: PathBuf,
    own: PathBuf,
}

impl Pins {
    /// Opens a new generation; mounts the BPF file system when it is not there.
    pub(super) fn open(instance: &str) -> Result<Self> {
        if instance.is_empty() || instance.contains(['/', '\0']) || instance.starts_with('.') {
            bail!("instance name {instance:?} cannot be a directory");
        }
        mount()?;
        let instance = Path::new(ROOT).join("mifsec").join(instance);
        fs::create_dir_all(&instance).with_context(|| format!("create {}", instance.display()))?;
        let next = generations(&instance).last().map_or(0, |g| g + 1);
        let own = instance.join(next.to_string());
        fs::create_dir(&own).with_context(|| format!("create {}", own.display()))?;
        Ok(Self { instance, own })
    }

    /// Where a link of ours goes.
    pub(super) fn path(&self, hook: &str, ifindex: u32) -> PathBuf {
        self.own.join(format!("{hook}-{ifindex}"))
    }

    /// Removes predecessors' pins of `hook` on `ifindex`, or all of them.
    pub(super) fn clear_stale(&self, which: Option<(&str, u32)>) {
        for generation in generations(&self.instance) {
            let dir = self.instance.join(generation.to_string());
            if dir == self.own {
                continue;
            }
            match which {
                Some((hook, ifindex)) => remove_file(&dir.join(format!("{hook}-{ifindex}"))),
                None => remove_files(&dir),
            }
            // Fails while something is left in it, which is right.
            let _ = fs::remove_dir(&dir);
        }
    }

    /// Removes everything of this instance.
    pub(super) fn remove(&self) {
        self.clear_stale(None);
        remove_files(&self.own);
        for dir in [&self.own, &self.instance] {
            if let Err(error) = fs::remove_dir(dir) {
                debug!(dir = %dir.display(), %error, "pin directory stays");
            }
        }
    }
}

fn remove_files(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        remove_file(&entry.path());
    }
}

pub(super) fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(pin = %path.display(), %error, "cannot remove a pin");
        }
        _ => {}
    }
}

/// Whether links of an agent that did not stop cleanly are pinned for `instance`.
#[must_use]
pub fn left_behind(instance: &str) -> bool {
    let instance = Path::new(ROOT).join("mifsec").join(instance);
    generations(&instance).iter().any(|generation| {
        fs::read_dir(instance.join(generation.to_string()))
            .is_ok_and(|mut entries| entries.next().is_some())
    })
}

/// Numbers of the generations there are, ascending.
fn generations(instance: &Path) -> Vec<u64> {
    let mut found: Vec<u64> = fs::read_dir(instance)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

fn mount() -> Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    let (source, target) = (CString::new("bpf")?, CString::new(ROOT)?);
    // SAFETY: strings that outlive the call; no data.
    let failed = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            source.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("mount {ROOT}"));
    }
    Ok(())
}

fn is_mounted() -> Result<bool> {
    let target = CString::new(ROOT)?;
    // SAFETY: a statfs of zeros is a value; the call fills it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: pointers to values that outlive the call.
    if unsafe { libc::statfs(target.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("statfs {ROOT}"));
    }
    Ok(stat.f_type == BPF_FS_MAGIC)
}
