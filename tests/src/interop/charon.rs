//! strongSwan at one end: its own configuration, its own `/run`, its own process.
//!
//! `charon` runs in a private mount namespace, so that nothing of the host's
//! `/run` or `/etc` is used; `swanctl` reaches it by a socket in the scenario's
//! directory. Both are run from a copy: AppArmor profiles of Debian are bound to
//! the installed paths and would forbid that directory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::net::{End, LAN_V4, Net, POOL_V4};
use super::{CLIENT_ID, GATEWAY_ID, SECRET, wait};

const CHARON: &str = "/usr/lib/ipsec/charon";
const SWANCTL: &str = "/usr/sbin/swanctl";
const PLUGINS: &str = "random drbg nonce kdf aes gcm sha1 sha2 hmac mgf1 pem pkcs1 pkcs8 pubkey gmp \
                       x509 constraints openssl kernel-libipsec kernel-netlink socket-default resolve \
                       vici updown";

/// Whether strongSwan is there.
///
/// # Errors
/// When it is not.
pub fn installed() -> Result<()> {
    for file in [
        CHARON,
        SWANCTL,
        "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so",
        "/usr/lib/ipsec/plugins/libstrongswan-gcm.so",
    ] {
        ensure!(
            Path::new(file).exists(),
            "{file} is missing: run `cargo xtask setup`"
        );
    }
    Ok(())
}

/// One connection in `swanctl.conf`. Lines added to a section come last and
/// override what is there.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Of the connection itself.
    pub connection: Vec<String>,
    /// Section `local`.
    pub local: Vec<String>,
    /// Section `remote`.
    pub remote: Vec<String>,
    /// Sections `children`: name and lines.
    pub children: Vec<(String, Vec<String>)>,
    /// Section `secrets`.
    pub secrets: Vec<String>,
    /// Section `pools`.
    pub pools: Vec<String>,
}

fn lines(text: &[&str]) -> Vec<String> {
    text.iter().map(ToString::to_string).collect()
}

impl Connection {
    /// A client with a shared key that asks for an IPv4 address.
    #[must_use]
    pub fn client() -> Self {
        let gateway = Net::gateway();
        Self {
            connection: vec![
                "version = 2".into(),
                "encap = yes".into(),
                format!("remote_addrs = {gateway}"),
                "vips = 0.0.0.0".into(),
                "proposals = aes128gcm16-prfsha256-x25519".into(),
            ],
            local: vec!["auth = psk".into(), format!("id = {CLIENT_ID}")],
            remote: vec!["auth = psk".into(), format!("id = {GATEWAY_ID}")],
            children: vec![(
                "net".into(),
                vec![
                    format!("remote_ts = {LAN_V4}"),
                    "esp_proposals = aes128gcm16".into(),
                ],
            )],
            secrets: Self::shared(SECRET),
            pools: Vec::new(),
        }
    }

    /// A gateway with a shared key that leases IPv4 addresses.
    #[must_use]
    pub fn gateway() -> Self {
        let gateway = Net::gateway();
        Self {
            connection: vec![
                "version = 2".into(),
                "encap = yes".into(),
                format!("local_addrs = {gateway}"),
                "pools = v4".into(),
                "proposals = aes128gcm16-prfsha256-x25519, aes256gcm16-prfsha384-ecp384".into(),
            ],
            local: vec!["auth = psk".into(), format!("id = {GATEWAY_ID}")],
            remote: vec!["auth = psk".into(), format!("id = {CLIENT_ID}")],
            children: vec![(
                "net".into(),
                vec![
                    format!("local_ts = {LAN_V4}"),
                    "esp_proposals = aes128gcm16, aes256gcm16".into(),
                ],
            )],
            secrets: Self::shared(SECRET),
            pools: vec![format!("v4 {{\n addrs = {POOL_V4}\n }}")],
        }
    }

    /// A secret both identities share, as the section `secrets` has it.
    #[must_use]
    pub fn shared(secret: &str) -> Vec<String> {
        vec![format!(
            "ike-1 {{\n id-1 = {CLIENT_ID}\n id-2 = {GATEWAY_ID}\n secret = \"{secret}\"\n }}"
        )]
    }

    /// Adds lines to the connection.
    #[must_use]
    pub fn with(mut self, text: &[&str]) -> Self {
        self.connection.extend(lines(text));
        self
    }

    /// Adds lines to every child.
    #[must_use]
    pub fn child(mut self, text: &[&str]) -> Self {
        for (_, child) in &mut self.children {
            child.extend(lines(text));
        }
        self
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let join = |lines: &[String]| lines.join("\n");
        let children: String = self
            .children
            .iter()
            .map(|(name, lines)| format!("{name} {{\n{}\n}}\n", join(lines)))
            .collect();
        format!(
            "connections {{\n gw {{\n{}\nlocal {{\n{}\n}}\nremote {{\n{}\n}}\nchildren {{\n{children}}}\n}}\n}}\n\
             secrets {{\n{}\n}}\npools {{\n{}\n}}\n",
            join(&self.connection),
            join(&self.local),
            join(&self.remote),
            join(&self.secrets),
            join(&self.pools),
        )
    }
}

/// A running `charon`.
#[derive(Debug)]
pub struct Charon<'a> {
    net: &'a Net,
    end: End,
    /// `x509`, `x509ca`, `private` and so on belong into `swanctl` below it.
    pub dir: PathBuf,
    pid: u32,
    starts: u32,
}

impl<'a> Charon<'a> {
    /// Starts it; `settings` are lines of the section `charon` of strongswan.conf.
    ///
    /// # Errors
    /// When it does not come up; its log is the scenario's then.
    pub fn start(net: &'a Net, end: End, settings: &str) -> Result<Self> {
        let name = match end {
            End::Client => "charon-client",
            End::Gateway => "charon-gateway",
        };
        let dir = net.topology.dir.join(name);
        for sub in ["x509", "x509ca", "private", "pubkey"] {
            fs::create_dir_all(dir.join("swanctl").join(sub))?;
        }
        fs::create_dir_all(dir.join("bin"))?;
        for program in [CHARON, SWANCTL] {
            let file = Path::new(program).file_name().context("no name")?;
            fs::copy(program, dir.join("bin").join(file))
                .with_context(|| format!("cannot copy {program}"))?;
        }
        fs::write(dir.join("strongswan.conf"), conf(&dir, settings))?;
        let mut charon = Self {
            net,
            end,
            dir,
            pid: 0,
            starts: 0,
        };
        charon.run()?;
        Ok(charon)
    }

    /// Starts it and loads one connection.
    ///
    /// # Errors
    /// As [`Charon::start`] and [`Charon::load`].
    pub fn with(net: &'a Net, end: End, connection: &Connection) -> Result<Self> {
        let charon = Self::start(net, end, "")?;
        charon.load(connection)?;
        Ok(charon)
    }

    fn run(&mut self) -> Result<()> {
        self.starts += 1;
        let log = self.dir.join(format!("log-{}", self.starts));
        let file =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        self.net.will_log(log);
        // Left by one that was killed.
        let _ = fs::remove_file(self.dir.join("charon.vici"));
        let mut command = self.net.namespace(self.end).command("unshare");
        command
            .args(["--mount", "--", "/bin/sh", "-c"])
            .arg("mount -t tmpfs tmpfs /run && exec \"$0\"")
            .arg(self.dir.join("bin/charon"))
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .stdout(file.try_clone()?)
            .stderr(file);
        self.pid = self.net.topology.scope().spawn(&mut command)?;
        let started = wait("strongSwan's control socket", || {
            if !self.net.topology.scope().runs(self.pid) {
                bail!("charon ended");
            }
            Ok(self.swanctl(&["--stats"]).ok())
        });
        started.map(drop)
    }

    /// Loads a connection, with its secrets, pools and the files in `swanctl`.
    ///
    /// # Errors
    /// What `swanctl` said.
    pub fn load(&self, connection: &Connection) -> Result<()> {
        // swanctl looks for keys and certificates beside it.
        let file = self.dir.join("swanctl/swanctl.conf");
        fs::write(&file, connection.text())?;
        let file = file.to_string_lossy().into_owned();
        self.swanctl(&["--load-all", "--clear", "--noprompt", "--file", &file])
            .map(drop)
    }

    /// Runs `swanctl`; what it printed.
    ///
    /// # Errors
    /// What it printed, when it fails.
    pub fn swanctl(&self, arguments: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.dir.join("charon.vici").display());
        let output = Command::new(self.dir.join("bin/swanctl"))
            .args(arguments)
            .args(["--uri", &uri])
            .env("STRONGSWAN_CONF", self.dir.join("strongswan.conf"))
            .env("SWANCTL_DIR", self.dir.join("swanctl"))
            .output()
            .context("cannot run swanctl")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(
            output.status.success(),
            "swanctl {}: {}",
            arguments.join(" "),
            said.trim()
        );
        Ok(said)
    }

    /// Brings up a child of the connection.
    ///
    /// # Errors
    /// When that fails, with strongSwan's log of it.
    pub fn initiate(&self, child: &str) -> Result<String> {
        self.swanctl(&["--initiate", "--child", child, "--timeout", "15"])
    }

    /// Deletes the IKE SA.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate_ike(&self) -> Result<String> {
        self.swanctl(&["--terminate", "--ike", "gw", "--timeout", "10"])
    }

    /// Deletes one Child SA.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate_child(&self, child: &str) -> Result<String> {
        self.swanctl(&["--terminate", "--child", child, "--timeout", "10"])
    }

    /// Its IKE SAs and Child SAs in the words of `swanctl --list-sas`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sas(&self) -> Result<String> {
        self.swanctl(&["--list-sas"])
    }

    /// How many IKE SAs are established.
    ///
    /// # Errors
    /// As [`Charon::sas`].
    pub fn established(&self) -> Result<usize> {
        let sas = self.sas()?;
        Ok(sas.lines().filter(|l| l.contains("ESTABLISHED")).count())
    }

    /// How many Child SAs are installed.
    ///
    /// # Errors
    /// As [`Charon::sas`].
    pub fn children(&self) -> Result<usize> {
        let sas = self.sas()?;
        Ok(sas.lines().filter(|l| l.contains("INSTALLED")).count())
    }

    /// The SPIs it receives on.
    ///
    /// # Errors
    /// As [`Charon::sas`].
    pub fn spis_in(&self) -> Result<Vec<String>> {
        let sas = self.sas()?;
        let lines = sas.lines().filter_map(|l| l.trim().strip_prefix("in "));
        Ok(lines
            .filter_map(|l| Some(l.trim().split([',', ' ']).next()?.to_string()))
            .collect())
    }

    /// Waits until so many IKE SAs and Child SAs are there.
    ///
    /// # Errors
    /// When they do not come.
    pub fn wait_for(&self, ikes: usize, children: usize) -> Result<()> {
        wait(
            &format!("{ikes} IKE SAs with {children} Child SAs at strongSwan"),
            || {
                let there = (self.established()?, self.children()?);
                Ok((there == (ikes, children)).then_some(()))
            },
        )
        .with_context(|| self.sas().unwrap_or_default())
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
        wait(&format!("{text:?} in strongSwan's log"), || {
            Ok(self.log().contains(text).then_some(()))
        })
    }

    /// Ends it without a word to the peer.
    pub fn kill(&self) {
        self.net.topology.scope().kill(self.pid);
    }

    /// Asks it to end, with its deletes, and waits until it has.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self) -> Result<()> {
        crate::lab::sys::signal(self.pid, libc::SIGTERM)?;
        let runs = || self.net.topology.scope().runs(self.pid);
        wait("the end of charon", || Ok((!runs()).then_some(())))
    }

    /// Starts it again after [`Charon::kill`].
    ///
    /// # Errors
    /// As [`Charon::start`].
    pub fn restart(&mut self, connection: &Connection) -> Result<()> {
        self.run()?;
        self.load(connection)
    }
}

fn conf(dir: &Path, settings: &str) -> String {
    format!(
        "charon {{\n\
         load = {PLUGINS}\n\
         filelog {{\n stderr {{\n default = 1\n ike = 2\n cfg = 2\n knl = 1\n flush_line = yes\n \
         time_format = %H:%M:%S\n time_add_ms = yes\n }}\n }}\n\
         syslog {{\n daemon {{\n default = -1\n }}\n auth {{\n default = -1\n }}\n }}\n\
         plugins {{\n\
         vici {{\n socket = unix://{vici}\n }}\n\
         kernel-netlink {{\n fwmark = !0x42\n }}\n\
         socket-default {{\n fwmark = 0x42\n }}\n\
         kernel-libipsec {{\n load = yes\n allow_peer_ts = yes\n }}\n\
         resolve {{\n file = {resolv}\n }}\n\
         }}\n\
         {settings}\n\
         }}\n\
         swanctl {{\n load = pem pkcs1 pkcs8 x509 pubkey openssl random\n }}\n",
        vici = dir.join("charon.vici").display(),
        resolv = dir.join("resolv.conf").display(),
    )
}
