//! The two agents: their configuration files, their processes, and what they
//! say about themselves in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::sys::Netns;
use super::topology::{Access, Topology};

mod config;

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    role: &'static str,
    binary: PathBuf,
    control: PathBuf,
    pins: PathBuf,
    log: PathBuf,
    /// Lines of the log that were shown.
    shown: AtomicUsize,
    pid: u32,
}

/// What a test wants beside the lab's own configuration.
#[derive(Debug, Default)]
pub struct Extra {
    /// Lines for the end user's `[[peer]]`.
    pub eu_peer: String,
    /// Lines for the gateway's `[[peer]]`.
    pub gw_peer: String,
    /// Lines for the gateway's `[[pool]]`.
    pub gw_pool: String,
    /// `layout` of the end user's child, `bundle` if empty.
    pub layout: String,
    /// Environment of both.
    pub env: Vec<(String, String)>,
}

impl Extra {
    /// For agents that are built for sabotage.
    #[must_use]
    pub fn with_fault(fault: Option<&str>) -> Self {
        let env = fault.map(|fault| ("MIFSEC_SABOTAGE".into(), fault.into()));
        Self {
            env: env.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// Both.
#[derive(Debug)]
pub struct Agents {
    /// The initiator.
    pub eu: Agent,
    /// The responder.
    pub gw: Agent,
}

/// One Child SA as one end names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sa {
    /// Of the packets it receives.
    pub spi_in: u32,
    /// Of the packets it sends.
    pub spi_out: u32,
    /// Keyed fingerprint of the inbound key.
    pub key_in: String,
    /// Keyed fingerprint of the outbound key.
    pub key_out: String,
}

/// What must not change in a move: the Child SAs of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sas {
    /// The initiator's.
    pub eu: BTreeSet<Sa>,
    /// The responder's.
    pub gw: BTreeSet<Sa>,
    /// Of the SAs of both ends by inbound SPI: bundle member and rekeyings so far.
    pub lines: BTreeMap<u32, (u64, u64)>,
    /// Packets dropped as replayed, both ends together.
    pub replay_drops: u64,
    /// The end user's access that each of its SPIs, of either direction, is at home on.
    pub access: BTreeMap<u32, Access>,
}

/// What became of the Child SAs of one end.
#[derive(Debug)]
pub struct Changes<'a> {
    /// Those that are new.
    pub new: Vec<&'a Sa>,
    /// Those that are gone.
    pub gone: Vec<&'a Sa>,
}

impl Changes<'_> {
    /// SPIs of both directions of those that are new.
    pub fn new_spis(&self) -> impl Iterator<Item = u32> {
        self.new.iter().flat_map(|sa| [sa.spi_in, sa.spi_out])
    }
}

/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

impl Agents {
    /// Writes the files and starts both, the gateway first. `fault` goes to the
    /// agents as `MIFSEC_SABOTAGE`.
    ///
    /// # Errors
    /// When a file cannot be written or an agent does not start.
    pub fn start(topology: &Topology, binary: &Path, fault: Option<&str>) -> Result<Self> {
        Self::start_with(topology, binary, &Extra::with_fault(fault))
    }

    /// As [`start`](Self::start), with more in the files than the lab needs.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(topology: &Topology, binary: &Path, extra: &Extra) -> Result<Self> {
        ensure!(
            binary.is_file(),
            "there is no agent at {}: build it with `cargo build --release`",
            binary.display()
        );
        let secrets = secrets(topology);
        let secret = topology.dir.join("gateway.psk");
        let psk = format!("lab-{}-{}", topology.tag, super::sys::now_ns());
        private(&secrets, &format!("{} = {psk}\n", config::IDENTITY))?;
        private(&secret, &format!("{psk}\n"))?;
        let gw = Self::gateway(topology, binary, extra)?;
        let eu = Agent::start(topology, &topology.eu, "eu", binary, extra, |names| {
            config::end_user(names, &secret, extra)
        })?;
        eu.wait_for_control(topology)?;
        Ok(Self { eu, gw })
    }

    /// Starts the gateway's agent once more, after it was killed.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart_gateway(
        &mut self,
        topology: &Topology,
        binary: &Path,
        extra: &Extra,
    ) -> Result<()> {
        // What a killed agent leaves would be taken for the new one's.
        let _ = fs::remove_file(&self.gw.control);
        let _ = fs::remove_dir_all(topology.dir.join("gw-state"));
        self.gw = Self::gateway(topology, binary, extra)?;
        Ok(())
    }

    fn gateway(topology: &Topology, binary: &Path, extra: &Extra) -> Result<Agent> {
        let gw = Agent::start(topology, &topology.gw, "gw", binary, extra, |names| {
            config::gateway(names, &secrets(topology), extra)
        })?;
        gw.wait_for_control(topology)?;
        Ok(gw)
    }

    /// The Child SAs of both ends as they are now.
    ///
    /// # Errors
    /// When an agent does not say, or says something else than agreed.
    pub fn sas(&self) -> Result<Sas> {
        let (eu, gw) = (self.eu.json("sa")?, self.gw.json("sa")?);
        let mut access = BTreeMap::new();
        for entry in array(&eu, "sas")? {
            let link = text(&entry["path"], "local")?;
            if let Some(used) = Access::of_link(link) {
                access.insert(spi(entry, "spi_in")?, used);
                access.insert(spi(entry, "spi_out")?, used);
            }
        }
        let replay_drops = |value: &Value| -> Result<u64> {
            array(value, "sas")?
                .iter()
                .map(|entry| number(entry, "replay_drops"))
                .sum()
        };
        Ok(Sas {
            replay_drops: replay_drops(&eu)? + replay_drops(&gw)?,
            eu: children(&eu)?,
            gw: children(&gw)?,
            lines: lines(&eu)?.into_iter().chain(lines(&gw)?).collect(),
            access,
        })
    }

    /// What both logs say since the last call, at most the last lines of it.
    #[must_use]
    pub fn tails(&self) -> String {
        [&self.gw, &self.eu].map(Agent::tail).concat()
    }

    /// Why packets were dropped so far, by end and reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for agent in [&self.eu, &self.gw] {
            // A dead agent has nothing to say.
            let Ok(status) = agent.json("status") else {
                continue;
            };
            for (reason, count) in status["drops"].as_object().into_iter().flatten() {
                let count = count.as_u64().unwrap_or(0);
                all.insert(format!("{} {reason}", agent.role), count);
            }
        }
        all
    }
}

impl Agent {
    fn start(
        topology: &Topology,
        namespace: &Netns,
        role: &'static str,
        binary: &Path,
        extra: &Extra,
        config: impl FnOnce(&config::Names) -> String,
    ) -> Result<Self> {
        let names = config::Names::new(&topology.tag, role, &topology.dir);
        let path = topology.dir.join(format!("{role}.toml"));
        private(&path, &config(&names))?;
        topology.scope().directory(&names.state_dir)?;
        topology.scope().will_have(&names.pins());
        let log = topology.dir.join(format!("{role}.log"));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = namespace.command(binary);
        command.arg("agent").arg("--config").arg(&path);
        command.stdout(file.try_clone()?).stderr(file);
        command.env_remove("MIFSEC_SABOTAGE");
        command.envs(extra.env.iter().map(|(name, value)| (name, value)));
        let pid = topology.scope().spawn(&mut command)?;
        Ok(Self {
            role,
            binary: binary.to_path_buf(),
            pins: names.pins(),
            control: names.control,
            log,
            shown: AtomicUsize::new(0),
            pid,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Files that exist as long as it runs: its process and what it pins.
    #[must_use]
    pub fn footprint(&self) -> [PathBuf; 2] {
        let process = Path::new("/proc").join(self.pid.to_string());
        [process, self.pins.clone()]
    }

    /// What `mifsec COMMAND --json` prints.
    ///
    /// # Errors
    /// When the agent does not answer, or not with the schema of that command.
    pub fn json(&self, command: &str) -> Result<Value> {
        self.run(&[command], &format!("mifsec.{command}/1"))
    }

    /// What `mifsec WORDS --json` prints, which has this schema.
    ///
    /// # Errors
    /// When the agent refuses or does not answer, or with another schema.
    pub fn run(&self, words: &[&str], expected: &str) -> Result<Value> {
        let command = words.join(" ");
        let output = Command::new(&self.binary)
            .args(words)
            .arg("--json")
            .arg("--control")
            .arg(&self.control)
            .output()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        if !output.status.success() {
            bail!(
                "`mifsec {command}` at {}: {}",
                self.role,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let value: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`mifsec {command} --json` at {}", self.role))?;
        let schema = text(&value, "schema")?;
        ensure!(
            schema == expected,
            "`mifsec {command} --json` at {} has schema {schema}",
            self.role
        );
        Ok(value)
    }

    /// The paths that are up and validated, by the end user's or gateway's own interface.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn paths_up(&self) -> Result<Vec<Value>> {
        let value = self.json("path")?;
        let up = array(&value, "paths")?
            .iter()
            .filter(|path| path["state"] == "up" && path["validated"] == true);
        Ok(up.cloned().collect())
    }

    /// The access the IKE channel is on.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn channel(&self) -> Result<Option<Access>> {
        let status = self.json("status")?;
        let peers = array(&status, "peers")?;
        let link = peers.first().and_then(|peer| peer["channel"].as_str());
        Ok(link.and_then(Access::of_link))
    }

    /// The inner IPv4 address, once there is one.
    ///
    /// # Errors
    /// As [`Agent::json`].
    pub fn lease(&self) -> Result<Option<Ipv4Addr>> {
        let status = self.json("status")?;
        let peers = array(&status, "peers")?;
        let leases = peers.iter().filter_map(|peer| peer["leases"].as_array());
        Ok(leases
            .flatten()
            .filter_map(|lease| lease.as_str()?.split('/').next()?.parse().ok())
            .next())
    }

    /// What its log says since the last call, at most the last lines of it.
    #[must_use]
    pub fn tail(&self) -> String {
        const MOST: usize = 25;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let shown = self.shown.swap(lines.len(), Ordering::Relaxed);
        let from = lines.len().saturating_sub(MOST).max(shown);
        let mut text = format!("--- log of {}: {}\n", self.role, self.log.display());
        for line in &lines[from..] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    fn wait_for_control(&self, topology: &Topology) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.json("status") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline || !topology.scope().runs(self.pid) => {
                    bail!(
                        "the agent of {} does not run: {error:#}\n{}",
                        self.role,
                        self.tail()
                    );
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Sas {
    /// Child SAs that both ends have with the same SPIs and the same keys, mirrored.
    #[must_use]
    pub fn matching(&self) -> usize {
        let mirrored = |sa: &&Sa| {
            self.gw.contains(&Sa {
                spi_in: sa.spi_out,
                spi_out: sa.spi_in,
                key_in: sa.key_out.clone(),
                key_out: sa.key_in.clone(),
            })
        };
        self.eu.iter().filter(mirrored).count()
    }

    /// Child SAs that are new or gone since `before`, of end user and gateway. New
    /// keys of a bundle member that was there, by rekeying, are no new SA.
    #[must_use]
    pub fn changes_since<'a>(&'a self, before: &'a Self) -> [Changes<'a>; 2] {
        let rekeyed = |old: &Sa, new: &Sa| {
            let then = before.lines.get(&old.spi_in);
            let now = self.lines.get(&new.spi_in);
            then.zip(now)
                .is_some_and(|(then, now)| then.0 == now.0 && then.1 < now.1)
        };
        [(&self.eu, &before.eu), (&self.gw, &before.gw)].map(|(now, then)| {
            let new = now.difference(then);
            let gone = then.difference(now);
            Changes {
                new: new
                    .filter(|new| !then.iter().any(|old| rekeyed(old, new)))
                    .collect(),
                gone: gone
                    .filter(|old| !now.iter().any(|new| rekeyed(old, new)))
                    .collect(),
            }
        })
    }

    /// SPIs of both directions that are at home on an access of the end user.
    #[must_use]
    pub fn of(&self, access: Access) -> BTreeSet<u32> {
        let mine = self.access.iter().filter(|(_, home)| **home == access);
        mine.map(|(spi, _)| *spi).collect()
    }

    /// Every SPI of either direction.
    #[must_use]
    pub fn spis(&self) -> BTreeSet<u32> {
        let all = self.eu.iter().chain(&self.gw);
        all.flat_map(|sa| [sa.spi_in, sa.spi_out]).collect()
    }
}

fn lines(value: &Value) -> Result<BTreeMap<u32, (u64, u64)>> {
    array(value, "sas")?
        .iter()
        .map(|entry| {
            let line = (number(entry, "member")?, number(entry, "generation")?);
            Ok((spi(entry, "spi_in")?, line))
        })
        .collect()
}

/// The secrets of the gateway's subscribers.
fn secrets(topology: &Topology) -> PathBuf {
    topology.dir.join("subscribers")
}

fn children(value: &Value) -> Result<BTreeSet<Sa>> {
    array(value, "sas")?
        .iter()
        .map(|entry| {
            Ok(Sa {
                spi_in: spi(entry, "spi_in")?,
                spi_out: spi(entry, "spi_out")?,
                key_in: fingerprint(entry, "key_in")?,
                key_out: fingerprint(entry, "key_out")?,
            })
        })
        .collect()
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key]
        .as_array()
        .with_context(|| format!("no list `{key}` in {value}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("no text `{key}` in {value}"))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key]
        .as_u64()
        .with_context(|| format!("no number `{key}` in {value}"))
}

fn spi(value: &Value, key: &str) -> Result<u32> {
    let written = text(value, key)?;
    let digits = written.strip_prefix("0x").unwrap_or(written);
    u32::from_str_radix(digits, 16).with_context(|| format!("{written} is no SPI"))
}

fn fingerprint(value: &Value, key: &str) -> Result<String> {
    let written = text(value, key)?;
    ensure!(
        written.len() == 16 && written.bytes().all(|octet| octet.is_ascii_hexdigit()),
        "{written} is no key fingerprint"
    );
    Ok(written.to_string())
}

fn private(path: &Path, text: &str) -> Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sas(spi_in: &str, key: &str) -> Value {
        serde_json::json!({"sas": [{
            "spi_in": spi_in, "spi_out": "0x00000002",
            "key_in": key, "key_out": "0123456789abcdef", "replay_drops": 0,
        }]})
    }

    fn both(eu: &Value) -> Sas {
        Sas {
            eu: children(eu).expect("valid"),
            gw: BTreeSet::new(),
            lines: BTreeMap::new(),
            replay_drops: 0,
            access: BTreeMap::new(),
        }
    }

    fn changes(now: &Sas, before: &Sas) -> usize {
        let changes = now.changes_since(before);
        changes.iter().map(|c| c.new.len() + c.gone.len()).sum()
    }

    #[test]
    fn a_new_spi_or_a_new_key_counts_as_recreated() {
        let before = both(&sas("0x00000001", "00000000000000aa"));
        assert_eq!(changes(&before, &before), 0);
        let rekeyed = both(&sas("0x00000001", "00000000000000bb"));
        assert_eq!(changes(&rekeyed, &before), 2);
        let renamed = both(&sas("0x00000003", "00000000000000aa"));
        assert_eq!(changes(&renamed, &before), 2);
    }

    #[test]
    fn new_keys_of_a_member_that_was_there_are_no_new_sa() {
        let mut before = both(&sas("0x00000001", "00000000000000aa"));
        before.lines = BTreeMap::from([(1, (7, 0))]);
        let mut after = both(&sas("0x00000003", "00000000000000bb"));
        after.lines = BTreeMap::from([(3, (7, 1))]);
        assert_eq!(changes(&after, &before), 0);
        after.lines = BTreeMap::from([(3, (8, 0))]);
        assert_eq!(changes(&after, &before), 2, "another member");
    }

    #[test]
    fn an_end_with_other_keys_does_not_match() {
        let mut both = both(&sas("0x00000001", "00000000000000aa"));
        let mut mirror = Sa {
            spi_in: 2,
            spi_out: 1,
            key_in: "0123456789abcdef".into(),
            key_out: "00000000000000aa".into(),
        };
        both.gw.insert(mirror.clone());
        assert_eq!(both.matching(), 1);
        mirror.key_in = "ffffffffffffffff".into();
        both.gw = BTreeSet::from([mirror]);
        assert_eq!(both.matching(), 0);
    }

    #[test]
    fn an_answer_without_a_counter_is_an_error() {
        assert!(children(&serde_json::json!({"sas": [{"spi_in": "0x1"}]})).is_err());
        assert!(children(&serde_json::json!({})).is_err());
        assert!(children(&sas("0x00000001", "short")).is_err());
    }
}
