//! The guest's file system: busybox, the tools and libraries of this machine, the
//! kernel's modules, the agent and the tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Job;
use super::kernel::Kernel;
use crate::cmd;

/// Programs of this machine that tests run and busybox lacks, or does in another way.
const PROGRAMS: &[&str] = &["ip", "tc", "nft", "ethtool", "nsenter", "unshare"];

/// What tc loads at run time: qdiscs of its own and netem's distributions.
const TC: &str = "/usr/lib/tc";

/// Modules the guest may ask for: all of networking and cryptography, and of the
/// drivers those that need no hardware.
const MODULES: &[(&str, Depth)] = &[
    ("net", Depth::All),
    ("crypto", Depth::All),
    ("arch", Depth::All),
    ("lib", Depth::All),
    ("drivers/net", Depth::Files),
    ("drivers/net/vxlan", Depth::Files),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The directory and all below.
    All,
    /// Its own files.
    Files,
}

/// Builds the archive and returns its file.
pub(super) fn build(dir: &Path, kernel: &Kernel, agent: &Path, jobs: &[Job]) -> Result<PathBuf> {
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    for empty in [
        "bin", "dev", "etc", "proc", "run", "sbin", "sys", "tests", "tmp", "usr/bin",
    ] {
        fs::create_dir_all(root.join(empty))?;
    }
    let busybox = root.join("bin/busybox");
    copy(&kernel.busybox(), &busybox)?;
    symlink("/bin/busybox", root.join("sbin/modprobe"))?;
    for name in PROGRAMS {
        let program = find(name)?;
        copy(&program, &root.join("usr/sbin").join(name))?;
        libraries(&program, &root)?;
    }
    if Path::new(TC).exists() {
        tree(Path::new(TC), &inside(&root, Path::new(TC)), Depth::All)?;
    }
    modules(&root, kernel)?;
    let mut list = String::new();
    for job in jobs {
        let to = root.join("tests").join(&job.file);
        if !to.exists() {
            stripped(&job.binary, &to)?;
            libraries(&job.binary, &root)?;
        }
        list += &format!(
            "{} {} {}\n",
            super::TEST_LIMIT.as_secs(),
            job.file,
            job.test
        );
    }
    fs::write(root.join("tests/list"), list)?;
    stripped(agent, &root.join("usr/bin/mifsec"))?;
    libraries(agent, &root)?;
    let init = root.join("init");
    fs::write(&init, include_str!("init.sh"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(&busybox, &root, dir.join("initramfs"))
}

/// Where a path of this machine is in the guest's file system.
fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Without what only a debugger reads: the guest's memory holds all of it.
fn stripped(from: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    cmd::check(strip.arg("--strip-debug").arg("-o").arg(to).arg(from))
}

fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("no program {name} on this machine"))
}

/// Copies the shared libraries of a program to where they are here.
fn libraries(program: &Path, root: &Path) -> Result<()> {
    let shown = cmd::output("ldd", &[&program.to_string_lossy()])
        .with_context(|| format!("`ldd {}` failed", program.display()))?;
    for library in named(&shown) {
        let to = inside(root, Path::new(library));
        if !to.exists() {
            copy(Path::new(library), &to)?;
        }
    }
    Ok(())
}

/// The files that `ldd` names: `libm.so.6 => /lib/libm.so.6 (0x..)`, and the loader
/// with nothing before it.
fn named(shown: &str) -> impl Iterator<Item = &str> {
    shown.lines().filter_map(|line| {
        let file = line.rsplit("=> ").next()?.trim().split(' ').next()?;
        file.starts_with('/').then_some(file)
    })
}

fn modules(root: &Path, kernel: &Kernel) -> Result<()> {
    let all = kernel.modules();
    let here = root.join("lib/modules").join(&kernel.release);
    for (part, depth) in MODULES {
        let part = Path::new("kernel").join(part);
        tree(&all.join(&part), &here.join(&part), *depth)?;
    }
    let busybox = kernel.busybox();
    // busybox finds a module by its name, which compression changes.
    let mut unpack = Command::new("find");
    unpack.arg(&here).args(["-name", "*.ko.xz", "-exec"]);
    cmd::check(unpack.arg(&busybox).args(["unxz", "{}", "+"]))?;
    let mut depmod = Command::new(&busybox);
    depmod.arg("depmod").arg("-b").arg(root);
    cmd::check(depmod.arg(&kernel.release))
}

fn tree(from: &Path, to: &Path, depth: Depth) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
    fs::create_dir_all(to)?;
    for entry in entries {
        let path = entry?.path();
        let to = to.join(path.file_name().unwrap_or_default());
        if !path.is_dir() {
            copy(&path, &to)?;
        } else if depth == Depth::All {
            tree(&path, &to, depth)?;
        }
    }
    Ok(())
}

/// All of it as the kernel unpacks it: cpio, format newc, everything root's.
fn archive(busybox: &Path, root: &Path, to: PathBuf) -> Result<PathBuf> {
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start find")?;
    let names = find.stdout.take().context("no standard output")?;
    let file = fs::File::create(&to).with_context(|| format!("create {}", to.display()))?;
    let mut cpio = Command::new(busybox);
    cpio.args(["cpio", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(names)
        .stdout(file)
        .stderr(Stdio::null());
    cmd::check(&mut cpio)?;
    if !find.wait()?.success() {
        bail!("find could not list {}", root.display());
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_the_vdso_is_not() {
        let shown = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                     \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f1)\n\
                     \tlibgone.so => not found\n\
                     \t/lib64/ld-linux-x86-64.so.2 (0x00007f2)\n";
        let files: Vec<_> = named(shown).collect();
        assert_eq!(
            files,
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(named("\tnot a dynamic executable\n").count(), 0);
    }
}
