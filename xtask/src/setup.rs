//! What building and testing need beyond rustup: the compiler's source, a few
//! Debian packages, bpf-linker against the LLVM of the compiler, and bpffs.
//!
//! `rust-toolchain.toml` makes rustup select and install the compiler itself.
//! Every item is looked at first, so a second run does nothing.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cmd, vm};

const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const BPF_LINKER: &str = "0.13.0";
const BPFFS: &str = "/sys/fs/bpf";

/// What the machine must be able to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Need {
    /// Build everything and run what needs no privileges.
    Build,
    /// Run without privileges what compares with other implementations.
    Compare,
    /// Run agents in network namespaces, as root.
    Lab,
    /// Run other IKEv2 daemons beside them.
    Interop,
}

/// (package, what for, from which need on)
const PACKAGES: &[(&str, &str, Need)] = &[
    (
        "python3-scapy",
        "ESP packets made by another implementation",
        Need::Compare,
    ),
    (
        "iproute2",
        "the lab's namespaces, links and shaping",
        Need::Lab,
    ),
    ("nftables", "the lab's NAT", Need::Lab),
    (
        "ethtool",
        "links that glue packets together as real ones do",
        Need::Lab,
    ),
    ("tcpdump", "looking into a lab that was kept", Need::Lab),
];

/// (package, what for): the other end of the interop tests. Their dependency
/// strongswan-starter brings a service, see [`without_service`].
const STRONGSWAN: &[(&str, &str)] = &[
    ("strongswan-charon", "the IKEv2 daemon of the interop tests"),
    ("strongswan-swanctl", "controls it"),
    ("libcharon-extra-plugins", "its ESP in user space"),
    ("libstrongswan-standard-plugins", "its AES-GCM and OpenSSL"),
];

/// (package, what for), only for as long as bpf-linker must be built.
const LINKER_PACKAGES: &[(&str, &str)] = &[
    (
        "llvm-22-dev",
        "bpf-linker links against the compiler's LLVM",
    ),
    ("libpolly-22-dev", "part of that LLVM's link line"),
    ("zlib1g-dev", "part of that LLVM's link line"),
    ("libzstd-dev", "part of that LLVM's link line"),
    ("g++", "the C++ runtime LLVM is written in"),
];

/// Options of `setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Args {
    /// What another task passes on.
    pub(crate) fn new(yes: bool) -> Self {
        Self { yes }
    }
}

/// One missing thing and the commands that mend it.
struct Missing {
    what: String,
    commands: Vec<Line>,
}

/// One command: shown to the user and run.
struct Line {
    root: bool,
    env: Vec<(&'static str, &'static str)>,
    words: Vec<String>,
}

/// Installs what is missing, and says so when nothing is.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut done = ensure(args, Need::Interop)?;
    match ensure_vm(args, vm::kernel::KERNEL) {
        Ok(more) => done |= more,
        Err(error) => {
            println!("setup: tests in a virtual machine will be skipped: {error:#}");
            done = true;
        }
    }
    if !done {
        println!("setup: nothing to do");
    }
    Ok(())
}

/// Installs what is missing; true when there was something to do.
pub(crate) fn ensure(args: &Args, need: Need) -> Result<bool> {
    install(args, || missing(need))
}

/// The same for what a virtual machine with the kernel of a package needs; the
/// error is why it cannot be had.
pub(crate) fn ensure_vm(args: &Args, kernel: &str) -> Result<bool> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guest is x86-64, as its tools and tests are this machine's");
    }
    install(args, || missing_for_vm(kernel))
}

fn install(args: &Args, missing: impl Fn() -> Vec<Missing>) -> Result<bool> {
    let list = missing();
    if list.is_empty() {
        return Ok(false);
    }
    println!("setup: missing on this machine:");
    for item in &list {
        println!("  - {}", item.what);
        for line in &item.commands {
            println!("      {line}");
        }
    }
    let needs_apt = list
        .iter()
        .flat_map(|item| &item.commands)
        .any(|line| line.words.iter().any(|word| word == "apt-get"));
    if needs_apt && !Path::new("/etc/debian_version").exists() {
        bail!(
            "this is not a Debian system: install the above with its own package manager \
             (LLVM 22 with headers, the tools by the same names), then run the command again"
        );
    }
    if !confirmed(args)? {
        bail!("nothing installed; run the commands above, or `cargo xtask setup --yes`");
    }
    for line in list.iter().flat_map(|item| &item.commands) {
        cmd::step(&line.to_string());
        cmd::check(&mut line.command()?)?;
    }
    if let Some(item) = missing().first() {
        bail!("still missing after installing: {}", item.what);
    }
    Ok(true)
}

fn missing(need: Need) -> Vec<Missing> {
    let linker = has_bpf_linker();
    let mut list = Vec::new();
    if !has_rust_src() {
        list.push(Missing {
            what: "component rust-src (the eBPF programs build `core` themselves)".into(),
            commands: vec![Line::user(&["rustup", "component", "add", "rust-src"])],
        });
    }
    let packages: Vec<_> = packages(need, linker)
        .into_iter()
        .filter(|(name, _)| !installed(name))
        .collect();
    if !packages.is_empty() {
        let reasons: Vec<_> = packages
            .iter()
            .map(|(name, why)| format!("{name} ({why})"))
            .collect();
        let mut install = vec!["apt-get", "install", "-y", "--no-install-recommends"];
        install.extend(packages.iter().map(|(name, _)| *name));
        list.push(Missing {
            what: format!("packages {}", reasons.join(", ")),
            commands: vec![Line::root(&["apt-get", "update"]), Line::root(&install)],
        });
    }
    if !linker {
        let mut line = Line::user(&[
            "cargo",
            "install",
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--locked",
            "--no-default-features",
            "--features",
            "llvm-22",
        ]);
        line.env.push(("LLVM_PREFIX", LLVM_PREFIX));
        list.push(Missing {
            what: format!("bpf-linker {BPF_LINKER} (links the eBPF programs)"),
            commands: vec![line],
        });
    }
    if need >= Need::Interop {
        list.extend(strongswan());
    }
    if need >= Need::Lab && !bpffs_mounted() {
        list.push(Missing {
            what: format!("a BPF file system on {BPFFS} (pins survive the agent there)"),
            commands: vec![Line::root(&["mount", "-t", "bpf", "bpf", BPFFS])],
        });
    }
    list
}

/// QEMU is installed, the guest's kernel only unpacked.
fn missing_for_vm(kernel: &str) -> Vec<Missing> {
    let mut list = Vec::new();
    if !cmd::exists(vm::machine::QEMU) {
        list.push(Missing {
            what: "package qemu-system-x86 (tests on kernels of their own)".into(),
            commands: vec![
                Line::root(&["apt-get", "update"]),
                Line::root(&[
                    "apt-get",
                    "install",
                    "-y",
                    "--no-install-recommends",
                    "qemu-system-x86",
                ]),
            ],
        });
    }
    let unpacked = vm::kernel::unpacked(kernel);
    if !unpacked.exists() {
        let dir = unpacked.to_string_lossy();
        list.push(Missing {
            what: format!("kernel of {kernel} in {dir} (the guest's; not installed)"),
            commands: vec![
                Line::root(&["apt-get", "update"]),
                Line::user(&["sh", "xtask/src/vm/fetch.sh", kernel, &dir]),
            ],
        });
    }
    list
}

/// strongSwan as a program for tests: no daemon of it may start on this host,
/// now or at the next boot. A host that has its service already keeps it.
fn strongswan() -> Option<Missing> {
    let packages: Vec<_> = STRONGSWAN
        .iter()
        .filter(|(name, _)| !installed(name))
        .collect();
    if packages.is_empty() {
        return None;
    }
    let names = packages.iter().map(|(name, _)| *name);
    let install: Vec<_> = ["apt-get", "install", "-y", "--no-install-recommends"]
        .into_iter()
        .chain(names)
        .collect();
    let reasons: Vec<_> = packages
        .iter()
        .map(|(name, why)| format!("{name} ({why})"))
        .collect();
    let mut what = format!("packages {}", reasons.join(", "));
    let mut commands = vec![Line::root(&["apt-get", "update"]), Line::root(&install)];
    if !installed("strongswan-starter") {
        what += "; the service that comes with them is neither started nor enabled";
        without_service(&mut commands);
    }
    Some(Missing { what, commands })
}

/// Both variables keep the packages' scripts from starting it: the one with
/// systemd, the other with System V init.
fn without_service(commands: &mut Vec<Line>) {
    for line in commands.iter_mut() {
        line.env = vec![("SYSTEMD_OFFLINE", "1"), ("RUNLEVEL", "1")];
    }
    commands.push(if Path::new("/run/systemd/system").exists() {
        Line::root(&[
            "systemctl",
            "disable",
            "--now",
            "strongswan-starter.service",
        ])
    } else {
        Line::root(&["update-rc.d", "ipsec", "disable"])
    });
}

/// Packages for a need, with the reason for each.
fn packages(need: Need, linker: bool) -> Vec<(&'static str, &'static str)> {
    let linker: &[_] = if linker { &[] } else { LINKER_PACKAGES };
    let others = PACKAGES.iter().filter(|(_, _, from)| *from <= need);
    linker
        .iter()
        .copied()
        .chain(others.map(|(name, why, _)| (*name, *why)))
        .collect()
}

fn has_rust_src() -> bool {
    cmd::output("rustc", &["--print", "sysroot"]).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// On Debian what dpkg says; elsewhere what can be seen of the package.
fn installed(package: &str) -> bool {
    if cmd::exists("dpkg-query") {
        let query = ["-W", "-f=${db:Status-Status}", package];
        return cmd::output("dpkg-query", &query).is_some_and(|status| status == "installed");
    }
    match package {
        "llvm-22-dev" => Path::new(LLVM_PREFIX).join("bin/llvm-config").exists(),
        "g++" | "tcpdump" => cmd::exists(package),
        "iproute2" => cmd::exists("ip") && cmd::exists("tc"),
        "nftables" => cmd::exists("nft"),
        "strongswan-swanctl" => cmd::exists("swanctl"),
        "strongswan-charon" | "strongswan-starter" => charon_file("charon"),
        "libcharon-extra-plugins" => charon_file("plugins/libstrongswan-kernel-libipsec.so"),
        "libstrongswan-standard-plugins" => charon_file("plugins/libstrongswan-gcm.so"),
        "python3-scapy" => cmd::output("/usr/bin/python3", &["-c", "import scapy"]).is_some(),
        // Libraries of LLVM's link line: judged by whether bpf-linker is there.
        _ => has_bpf_linker(),
    }
}

fn charon_file(name: &str) -> bool {
    Path::new("/usr/lib/ipsec").join(name).exists()
}

fn has_bpf_linker() -> bool {
    cmd::output("bpf-linker", &["--version"])
        .is_some_and(|version| version.trim() == format!("bpf-linker {BPF_LINKER}"))
}

fn bpffs_mounted() -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| {
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(BPFFS) && line.contains(" bpf "))
    })
}

/// Asks once on a terminal. Without one nobody can answer, and CI must not wait.
fn confirmed(args: &Args) -> Result<bool> {
    if args.yes || std::env::var_os("CI").is_some() || !io::stdin().is_terminal() {
        return Ok(true);
    }
    print!("setup: run these commands? [Y/n] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "" | "y" | "Y" | "yes"))
}

impl Line {
    fn user(words: &[&str]) -> Self {
        Self {
            root: false,
            env: Vec::new(),
            words: words.iter().map(ToString::to_string).collect(),
        }
    }

    fn root(words: &[&str]) -> Self {
        Self {
            root: true,
            ..Self::user(words)
        }
    }

    fn command(&self) -> Result<Command> {
        // apt must never stop at a question; sudo resets the environment, so env(1) sets it.
        let (first, rest) = self.words.split_first().context("an empty command")?;
        let mut command = if self.root {
            let mut command = cmd::as_root("env", &[])?;
            command.arg("DEBIAN_FRONTEND=noninteractive");
            for (name, value) in &self.env {
                command.arg(format!("{name}={value}"));
            }
            command.arg(first);
            command
        } else {
            Command::new(first)
        };
        command.args(rest).envs(self.env.iter().copied());
        command.current_dir(cmd::root());
        Ok(command)
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.root && !cmd::is_root() {
            f.write_str("sudo ")?;
        }
        for (name, value) in &self.env {
            write!(f, "{name}={value} ")?;
        }
        f.write_str(&self.words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_privileges_installs_nothing_for_the_lab() {
        assert!(packages(Need::Build, true).is_empty());
        let names = |need| -> Vec<_> { packages(need, true).iter().map(|(n, _)| *n).collect() };
        assert_eq!(names(Need::Compare), ["python3-scapy"]);
        assert!(names(Need::Lab).contains(&"nftables"));
        assert!(!names(Need::Interop).iter().any(|n| n.contains("swan")));
        assert!(packages(Need::Build, false).contains(&LINKER_PACKAGES[0]));
    }

    #[test]
    fn a_service_that_comes_along_is_neither_started_nor_enabled() {
        let mut commands = vec![Line::root(&["apt-get", "install", "strongswan-charon"])];
        without_service(&mut commands);
        let shown: Vec<_> = commands.iter().map(ToString::to_string).collect();
        assert!(shown[0].contains("SYSTEMD_OFFLINE=1 RUNLEVEL=1 apt-get"));
        assert!(shown[1].contains("disable"), "{shown:?}");
    }
}
