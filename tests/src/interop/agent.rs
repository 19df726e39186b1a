//! Our agent at one end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::net::{End, LAN_V4, Net, POOL_V4};
use super::{CLIENT_ID, GATEWAY_ID, SECRET, wait};
use crate::lab::topology::Access;

/// The agent `cargo xtask test` has built, else the one beside the test.
///
/// # Errors
/// When it is not built.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("MIFSEC_BIN") {
        Some(path) => path.into(),
        None => {
            let own = std::env::current_exe()?;
            let target = own.parent().and_then(Path::parent);
            target.context("no target directory")?.join("mifsec")
        }
    };
    ensure!(
        path.is_file(),
        "there is no agent at {}: build it with `cargo build`",
        path.display()
    );
    Ok(path)
}

/// The configuration file: keys with their values as TOML writes them.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// `[agent]`.
    pub agent: BTreeMap<&'static str, String>,
    /// `[[access]]`.
    pub accesses: Vec<BTreeMap<&'static str, String>>,
    /// `[[pool]]`.
    pub pools: Vec<BTreeMap<&'static str, String>>,
    /// `[[peer]]`.
    pub peer: BTreeMap<&'static str, String>,
    /// `[[peer.child]]`.
    pub children: Vec<BTreeMap<&'static str, String>>,
    /// Contents of the file `psk_file` names.
    pub secret: String,
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("\"{text}\"")
}

impl AgentConfig {
    /// A client on `accesses` with a shared key that asks for an IPv4 address.
    #[must_use]
    pub fn client(accesses: &[Access]) -> Self {
        let access = |access: &Access| {
            BTreeMap::from([
                ("interface", quoted(access.link())),
                ("class", quoted(access.class())),
            ])
        };
        Self {
            agent: BTreeMap::from([("routing", quoted("managed"))]),
            accesses: accesses.iter().map(access).collect(),
            pools: Vec::new(),
            peer: BTreeMap::from([
                ("name", quoted("gw")),
                ("remote", format!("[\"{}\"]", Net::gateway())),
                ("local_id", quoted(CLIENT_ID)),
                ("remote_id", quoted(GATEWAY_ID)),
                ("psk_file", quoted("secret")),
                ("addresses", "[\"ipv4\"]".into()),
            ]),
            children: vec![BTreeMap::from([
                ("name", quoted("net")),
                ("local_ts", "[\"dynamic\"]".into()),
                ("remote_ts", format!("[\"{LAN_V4}\"]")),
            ])],
            secret: SECRET.into(),
        }
    }

    /// A gateway with a shared key that leases IPv4 addresses.
    #[must_use]
    pub fn gateway() -> Self {
        Self {
            agent: BTreeMap::from([("routing", quoted("manual"))]),
            accesses: vec![BTreeMap::from([
                ("interface", quoted("eth0")),
                ("class", quoted("ethernet")),
                ("addresses", format!("[\"{}\"]", Net::gateway())),
            ])],
            pools: vec![BTreeMap::from([
                ("name", quoted("subscribers")),
                ("cidr", format!("[\"{POOL_V4}\"]")),
            ])],
            peer: BTreeMap::from([
                ("name", quoted("subscribers")),
                ("local_id", quoted(GATEWAY_ID)),
                ("remote_id", quoted("*@example.org")),
                ("psk_file", quoted("secret")),
                ("pool", quoted("subscribers")),
            ]),
            children: vec![BTreeMap::from([
                ("name", quoted("net")),
                ("local_ts", format!("[\"{LAN_V4}\"]")),
                ("remote_ts", "[\"dynamic\"]".into()),
            ])],
            secret: SECRET.into(),
        }
    }

    /// Sets a key of `[[peer]]`; the value as TOML writes it.
    #[must_use]
    pub fn peer(mut self, key: &'static str, value: &str) -> Self {
        self.peer.insert(key, value.into());
        self
    }

    /// Sets a key of every `[[peer.child]]`.
    #[must_use]
    pub fn child(mut self, key: &'static str, value: &str) -> Self {
        for child in &mut self.children {
            child.insert(key, value.into());
        }
        self
    }

    /// Sets a key of every `[[pool]]`.
    #[must_use]
    pub fn pool(mut self, key: &'static str, value: &str) -> Self {
        for pool in &mut self.pools {
            pool.insert(key, value.into());
        }
        self
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut section = |head: &str, keys: &BTreeMap<&str, String>| {
            text += head;
            text.push('\n');
            for (key, value) in keys {
                text += &format!("{key} = {value}\n");
            }
        };
        section("[agent]", &self.agent);
        for access in &self.accesses {
            section("[[access]]", access);
        }
        for pool in &self.pools {
            section("[[pool]]", pool);
        }
        section("[[peer]]", &self.peer);
        for child in &self.children {
            section("[[peer.child]]", child);
        }
        text
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent<'a> {
    net: &'a Net,
    end: End,
    /// Configuration and what it refers to.
    pub dir: PathBuf,
    instance: String,
    pid: u32,
    starts: u32,
}

impl<'a> Agent<'a> {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not; its log is the scenario's then.
    pub fn start(net: &'a Net, end: End, config: &AgentConfig) -> Result<Self> {
        let mut agent = Self::prepare(net, end)?;
        agent.run(config)?;
        Ok(agent)
    }

    /// Its directory, for files the configuration refers to; nothing runs yet.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn prepare(net: &'a Net, end: End) -> Result<Self> {
        let role = match end {
            End::Client => "eu",
            End::Gateway => "gw",
        };
        let dir = net.topology.dir.join(format!("agent-{role}"));
        fs::create_dir_all(dir.join("state"))?;
        let instance = format!("lab{}-{role}", net.topology.tag);
        let pins = Path::new("/sys/fs/bpf/mifsec").join(&instance);
        net.topology.scope().will_have(&pins);
        Ok(Self {
            net,
            end,
            dir,
            instance,
            pid: 0,
            starts: 0,
        })
    }

    /// Starts it, also again after [`Agent::kill`] or [`Agent::stop`].
    ///
    /// # Errors
    /// When it does not answer.
    pub fn run(&mut self, config: &AgentConfig) -> Result<()> {
        self.starts += 1;
        let mut config = config.clone();
        for (key, value) in [
            ("name", quoted(&self.instance)),
            ("instance", quoted(&self.instance)),
            ("control", quoted("control.sock")),
            ("state_dir", quoted("state")),
        ] {
            config.agent.insert(key, value);
        }
        self.write("mifsec.toml", &config.text())?;
        self.write("secret", &format!("{}\n", config.secret))?;
        let log = self.dir.join(format!("log-{}", self.starts));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        self.net.will_log(log);
        // Left by one that was killed: it would seem to be there already.
        let _ = fs::remove_file(self.control());
        let mut command = self.net.namespace(self.end).command(binary()?);
        command
            .args(["agent", "--config", "mifsec.toml"])
            .current_dir(&self.dir)
            // The host's resolver has links of the same numbers.
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
            .stdout(file.try_clone()?)
            .stderr(file);
        if std::env::var_os("MIFSEC_LOG").is_none() {
            command.env("MIFSEC_LOG", "info,mifsec=debug");
        }
        self.pid = self.net.topology.scope().spawn(&mut command)?;
        wait("the agent's control socket", || {
            if !self.runs() {
                bail!("the agent ended: {}", self.log());
            }
            Ok(self.json("status").ok())
        })
        .map(drop)
    }

    /// Writes a file beside the configuration, readable by root alone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Whether its process is there.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.net.topology.scope().runs(self.pid)
    }

    /// Ends it without a word to the peer.
    pub fn kill(&self) {
        self.net.topology.scope().kill(self.pid);
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&self) -> Result<()> {
        crate::lab::sys::signal(self.pid, libc::SIGTERM)?;
        wait("the end of the agent", || Ok((!self.runs()).then_some(())))
    }

    /// What `mifsec COMMAND --json` prints.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn json(&self, command: &str) -> Result<Value> {
        let output = Command::new(binary()?)
            .args(command.split(' '))
            .args(["--json", "--control"])
            .arg(self.control())
            .output()?;
        ensure!(
            output.status.success(),
            "`mifsec {command}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// `peers` of `mifsec status`.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn peers(&self) -> Result<Vec<Value>> {
        let status = self.json("status")?;
        Ok(status["peers"].as_array().cloned().unwrap_or_default())
    }

    /// The established ones.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn established(&self) -> Result<Vec<Value>> {
        let mut peers = self.peers()?;
        peers.retain(|peer| peer["state"] == "established");
        Ok(peers)
    }

    /// `sas` of `mifsec sa`.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn sas(&self) -> Result<Vec<Value>> {
        let sas = self.json("sa")?;
        Ok(sas["sas"].as_array().cloned().unwrap_or_default())
    }

    /// Inner addresses of the established peers.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn leases(&self) -> Result<Vec<IpAddr>> {
        let mut leases = Vec::new();
        for peer in self.established()? {
            for lease in peer["leases"].as_array().into_iter().flatten() {
                let lease = lease.as_str().and_then(|l| l.split('/').next());
                leases.push(lease.context("a lease that is no text")?.parse()?);
            }
        }
        Ok(leases)
    }

    /// Waits until so many IKE SAs and Child SAs are there.
    ///
    /// # Errors
    /// When they do not come.
    pub fn wait_for(&self, ikes: usize, children: usize) -> Result<()> {
        wait(
            &format!("{ikes} IKE SAs with {children} Child SAs at our end"),
            || {
                let there = (self.established()?.len(), self.sas()?.len());
                Ok((there == (ikes, children)).then_some(()))
            },
        )
        .with_context(|| format!("{:?}", self.peers().unwrap_or_default()))
    }

    /// Waits until a peer is down for a reason that has `text`.
    ///
    /// # Errors
    /// When that does not come.
    pub fn wait_reason(&self, text: &str) -> Result<String> {
        let mut last = String::new();
        wait(&format!("the reason {text:?}"), || {
            for peer in self.peers()? {
                if let Some(reason) = peer["reason"].as_str() {
                    last = reason.to_string();
                }
            }
            Ok(last.contains(text).then(|| last.clone()))
        })
    }

    /// What the running process has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join(format!("log-{}", self.starts))).unwrap_or_default()
    }

    /// Waits until the log of the running process has `text`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        wait(&format!("{text:?} in the agent's log"), || {
            Ok(self.log().contains(text).then_some(()))
        })
    }
}
