//! An agent of any configuration in any namespace, and a watch that tells what
//! crossed a link: for tests whose network is the lab's, but not the services.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::interop::{agent::binary, wait, wait_for};
use crate::lab::sys::{self, Netns, PacketSocket};
use crate::lab::topology::Topology;

/// A running agent.
#[derive(Debug)]
pub struct Daemon<'a> {
    topology: &'a Topology,
    namespace: &'a Netns,
    dir: PathBuf,
    pid: u32,
    starts: u32,
}

impl<'a> Daemon<'a> {
    /// Starts one under a name of its own; `config` is the file but for the keys
    /// that say where its things are. Keys of `[agent]` come first in it.
    ///
    /// # Errors
    /// When it does not answer; its log is part of it.
    pub fn start(
        topology: &'a Topology,
        namespace: &'a Netns,
        name: &str,
        config: &str,
    ) -> Result<Self> {
        let dir = topology.dir.join(name);
        fs::create_dir_all(&dir)?;
        let instance = format!("lab{}-{name}", topology.tag);
        let pins = Path::new("/sys/fs/bpf/mifsec").join(&instance);
        topology.scope().will_have(&pins);
        let mut daemon = Self {
            topology,
            namespace,
            dir,
            pid: 0,
            starts: 0,
        };
        daemon.again(config)?;
        Ok(daemon)
    }

    /// Starts it again after [`stop`](Self::stop), with another configuration.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn again(&mut self, config: &str) -> Result<()> {
        self.starts += 1;
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let text = format!(
            "[agent]\nname = \"{name}\"\ninstance = \"lab{}-{name}\"\ncontrol = \"control.sock\"\n\
             state_dir = \"state\"\n{config}",
            self.topology.tag
        );
        self.write("mifsec.toml", &text)?;
        self.write("secret", "a secret of services\n")?;
        let log = File::create(self.log_file())?;
        let _ = fs::remove_file(self.dir.join("control.sock"));
        let mut command = self.namespace.command(binary()?);
        command
            .args(["agent", "--config", "mifsec.toml"])
            .current_dir(&self.dir)
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
            .stdout(log.try_clone()?)
            .stderr(log);
        if std::env::var_os("MIFSEC_LOG").is_none() {
            command.env("MIFSEC_LOG", "info,mifsec=debug");
        }
        self.pid = self.topology.scope().spawn(&mut command)?;
        wait("the agent's control socket", || {
            if !self.topology.scope().runs(self.pid) {
                bail!("the agent ended: {}", self.log());
            }
            Ok(self.json("status").ok())
        })
        .map(drop)
        .with_context(|| self.log())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(self.dir.join(name))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {name}"))
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join(format!("log-{}", self.starts))
    }

    /// What it has logged since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&self) -> Result<()> {
        sys::signal(self.pid, libc::SIGTERM)?;
        let runs = || self.topology.scope().runs(self.pid);
        wait("the end of the agent", || Ok((!runs()).then_some(())))
    }

    /// Ends it without a word to anybody.
    pub fn kill(&self) {
        self.topology.scope().kill(self.pid);
    }

    /// What `mifsec ARGUMENTS --json` prints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn json(&self, arguments: &str) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(arguments.split(' '))
            .args(["--json", "--control"])
            .arg(self.dir.join("control.sock"))
            .output()?;
        ensure!(
            output.status.success(),
            "`mifsec {arguments}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What `mifsec ARGUMENTS` prints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn text(&self, arguments: &str) -> Result<String> {
        let output = Command::new(binary()?)
            .args(arguments.split(' '))
            .arg("--control")
            .arg(self.dir.join("control.sock"))
            .output()?;
        ensure!(
            output.status.success(),
            "`mifsec {arguments}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A list of one of the commands.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub fn list(&self, command: &str, key: &str) -> Result<Vec<Value>> {
        let answer = self.json(command)?;
        Ok(answer[key].as_array().cloned().unwrap_or_default())
    }

    /// Inner addresses of an established peer.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub fn leases(&self, peer: &str) -> Result<Vec<IpAddr>> {
        let mut leases = Vec::new();
        for entry in self.list("status", "peers")? {
            if entry["peer"] != peer || entry["state"] != "established" {
                continue;
            }
            for lease in entry["leases"].as_array().into_iter().flatten() {
                leases.push(lease.as_str().context("a lease that is no text")?.parse()?);
            }
        }
        Ok(leases)
    }

    /// Waits until Child SAs of these names, each as often as it is listed, are there.
    ///
    /// # Errors
    /// When they do not come; what is there is part of it.
    pub fn wait_children(&self, names: &[&str]) -> Result<()> {
        let mut wanted: Vec<&str> = names.to_vec();
        wanted.sort_unstable();
        let mut last = Vec::new();
        wait("the Child SAs", || {
            let sas = self.list("sa", "sas")?;
            last = sas
                .iter()
                .filter(|sa| sa["sends"] == true)
                .map(|sa| sa["child"].as_str().unwrap_or_default().to_owned())
                .collect();
            last.sort_unstable();
            Ok((last == wanted).then_some(()))
        })
        .with_context(|| format!("{names:?}, and there are {last:?}\n{}", self.log()))
    }
}

/// A UDP and a TCP server on one address that send back what they get; they end when
/// this is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on these ports of both protocols.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(namespace: &Netns, address: Ipv4Addr, ports: &[u16]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in ports {
            let at = SocketAddr::new(address.into(), *port);
            let udp = namespace.run(|| std::net::UdpSocket::bind(at))??;
            udp.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
            let tcp = namespace.run(|| std::net::TcpListener::bind(at))??;
            tcp.set_nonblocking(true)?;
            let ended = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let mut room = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = udp.recv_from(&mut room) {
                        let _ = udp.send_to(&room[..length], from);
                    }
                }
            }));
            let ended = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    match tcp.accept() {
                        Ok((stream, _)) => {
                            let _ = stream.set_nonblocking(false);
                            let _ =
                                stream.set_read_timeout(Some(std::time::Duration::from_secs(2)));
                            let _ = std::io::copy(&mut &stream, &mut &stream);
                        }
                        Err(_) => thread::sleep(std::time::Duration::from_millis(20)),
                    }
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// An IPv4 flow as it crossed a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crossed {
    /// The link it was seen on.
    pub link: String,
    /// IP protocol.
    pub protocol: u8,
    /// Source.
    pub source: SocketAddr,
    /// Destination.
    pub destination: SocketAddr,
}

/// How much of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Frames, super-packets as one.
    pub frames: u64,
    /// Octets of them, Ethernet included.
    pub octets: u64,
    /// Frames in which the mark can be read.
    pub marked: u64,
}

type Log = BTreeMap<Crossed, Amount>;

/// Watches links of a namespace until dropped.
#[derive(Debug)]
pub struct Watch {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts; `mark` is what must not be readable where it is protected.
    ///
    /// # Errors
    /// Without the privilege or a link.
    pub fn start(namespace: &Netns, links: &[&str], mark: &'static [u8]) -> Result<Self> {
        let log = Arc::new(Mutex::new(Log::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for link in links {
            let socket = namespace.run(|| PacketSocket::open(link))??;
            let (log, stop, link) = (Arc::clone(&log), Arc::clone(&stop), (*link).to_owned());
            threads.push(thread::spawn(move || {
                let mut frame = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(Some(_)) = socket.receive(&mut frame)
                        && let Some(crossed) = crossed(&link, &frame)
                    {
                        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                        let amount = log.entry(crossed).or_default();
                        amount.frames += 1;
                        amount.octets += u64::try_from(frame.len()).unwrap_or(0);
                        let marked = frame.windows(mark.len()).any(|w| w == mark);
                        amount.marked += u64::from(marked);
                    }
                }
            }));
        }
        Ok(Self { log, stop, threads })
    }

    /// What crossed so far and is of interest.
    #[must_use]
    pub fn seen(&self, of_interest: impl Fn(&Crossed) -> bool) -> Amount {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Amount::default();
        for (_, amount) in log.iter().filter(|(crossed, _)| of_interest(crossed)) {
            sum.frames += amount.frames;
            sum.octets += amount.octets;
            sum.marked += amount.marked;
        }
        sum
    }

    /// Every flow in which the mark could be read.
    #[must_use]
    pub fn readable(&self) -> Vec<Crossed> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = log.iter().filter(|(_, amount)| amount.marked > 0);
        marked.map(|(crossed, _)| crossed.clone()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn crossed(link: &str, frame: &[u8]) -> Option<Crossed> {
    let packet = frame
        .get(14..)
        .filter(|p| p.first().is_some_and(|b| b >> 4 == 4))?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let protocol = *packet.get(9)?;
    let transport = packet.get(usize::from(packet.first()? & 15) * 4..)?;
    let port = |at: usize| -> u16 {
        let octets = transport.get(at..at + 2).and_then(|o| o.try_into().ok());
        match protocol {
            6 | 17 => octets.map_or(0, u16::from_be_bytes),
            _ => 0,
        }
    };
    Some(Crossed {
        link: link.to_owned(),
        protocol,
        source: SocketAddr::new(address(12)?, port(0)),
        destination: SocketAddr::new(address(16)?, port(2)),
    })
}

/// Polls for as long as something that should happen may take.
///
/// # Errors
/// When it does not come.
pub fn patiently<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_for(std::time::Duration::from_secs(40), what, look)
}
