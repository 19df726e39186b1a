//! The guest's kernel: a Debian package, unpacked below `target/vm`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cmd;

/// The kernel tests get where none is named: the newest for Debian 12.
pub(crate) const KERNEL: &str = "linux-image-6.12-cloud-amd64";

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    dir: PathBuf,
    /// What `uname -r` says in the guest.
    pub(super) release: String,
}

/// Where everything of the virtual machine is.
pub(super) fn home() -> PathBuf {
    cmd::target().join("vm")
}

/// Where a kernel package is unpacked.
pub(crate) fn unpacked(package: &str) -> PathBuf {
    home().join(package)
}

impl Kernel {
    /// The kernel that was unpacked for a package.
    pub(super) fn open(package: &str) -> Result<Self> {
        let dir = unpacked(package);
        let boot = dir.join("boot");
        let release = fs::read_dir(&boot)
            .with_context(|| format!("list {}", boot.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_string()))
            .with_context(|| format!("no kernel in {}", boot.display()))?;
        Ok(Self { dir, release })
    }

    /// What is booted.
    pub(super) fn image(&self) -> PathBuf {
        self.dir
            .join("boot")
            .join(format!("vmlinuz-{}", self.release))
    }

    /// The directory with `kernel/` in it.
    pub(super) fn modules(&self) -> PathBuf {
        self.dir.join(Path::new("lib/modules")).join(&self.release)
    }

    /// The busybox unpacked with it.
    pub(super) fn busybox(&self) -> PathBuf {
        self.dir.join("bin/busybox")
    }
}
