//! One run of the emulator.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// The emulator, as in `PATH`.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// What is booted.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// Where the kernel's console goes.
    pub(super) console: PathBuf,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The guest powered off or restarted, as a panic makes it do.
    Down,
    /// It was killed when its time was over.
    Hung,
    /// The emulator itself failed.
    Emulator(String),
}

/// The emulator, killed by its pid when dropped.
struct Running(Child);

impl Machine {
    /// Runs the guest for at most `limit`; each line of its second serial port goes to `line`.
    pub(super) fn run(&self, limit: Duration, mut line: impl FnMut(&str)) -> Result<Ending> {
        let mut qemu = Running(
            self.command()
                .spawn()
                .with_context(|| format!("cannot start {QEMU}"))?,
        );
        let stdout = qemu.0.stdout.take().context("no standard output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for octets in BufReader::new(stdout).split(b'\n') {
                let Ok(octets) = octets else { break };
                if sender.send(octets).is_err() {
                    break;
                }
            }
        });
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                // A terminal ends its lines with both.
                Ok(octets) => line(String::from_utf8_lossy(&octets).trim_end_matches('\r')),
                Err(RecvTimeoutError::Timeout) => return Ok(Ending::Hung),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = qemu.0.wait()?;
        Ok(if status.success() {
            Ending::Down
        } else {
            Ending::Emulator(format!("{QEMU} ended with {status}"))
        })
    }

    fn command(&self) -> Command {
        let file = |path: &Path| format!("file:{}", path.display());
        // So that it ends with this process however that ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", QEMU]);
        // In software, as every machine can; a panic restarts and so ends it.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-append", "console=ttyS0 panic=-1"])
            .args(["-serial", &file(&self.console), "-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        qemu
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
