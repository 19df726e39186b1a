//! One agent alone in a namespace: what it makes, what it leaves.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mifsec_tests::namespace::Namespace;

/// An end user with one access whose gateway never answers.
struct Host {
    namespace: Namespace,
    files: PathBuf,
    instance: String,
    agent: Option<Child>,
}

impl Host {
    fn new(label: &str) -> Option<Self> {
        if binary().is_none() {
            println!("skipped: the mifsec binary is not built");
            return None;
        }
        let Ok(namespace) = Namespace::new(label) else {
            println!("skipped: making a network namespace needs root");
            return None;
        };
        let instance = format!("test-{}-{label}", std::process::id());
        let files = std::env::temp_dir().join(&instance);
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("gw.psk"), "secret\n").unwrap();
        let host = Self {
            namespace,
            files,
            instance,
            agent: None,
        };
        host.ip("link add wlan0 type veth peer name far");
        host.ip("link set far up");
        host.ip("link set wlan0 up");
        host.ip("addr add 192.0.2.2/24 dev wlan0");
        host.ip("route add default via 192.0.2.1 dev wlan0");
        let config = format!(
            r#"
            [agent]
            control = "control.sock"
            state_dir = "state"
            instance = "{}"
            [[access]]
            interface = "wlan0"
            [[peer]]
            name = "gw"
            remote = ["203.0.113.1"]
            local_id = "laptop@example.org"
            remote_id = "gw.example.org"
            psk_file = "gw.psk"
            addresses = ["ipv4"]
            [[peer.child]]
            name = "internet"
            remote_ts = ["0.0.0.0/0"]
            "#,
            host.instance
        );
        fs::write(host.files.join("mifsec.toml"), config).unwrap();
        Some(host)
    }

    fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        self.namespace.ip(&arguments).unwrap();
    }

    /// What `ip` prints inside the namespace.
    fn show(&self, arguments: &str) -> String {
        let output = self
            .enter("ip")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace.name()))
            .arg("--")
            .arg(program);
        command
    }

    fn start(&mut self) {
        let log = File::create(self.files.join("log")).unwrap();
        let child = self
            .enter(binary().unwrap())
            .args(["agent", "--config", "mifsec.toml"])
            .current_dir(&self.files)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.join("log")).unwrap_or_default()
    }

    fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            let ended = self.agent.as_mut().and_then(|a| a.try_wait().unwrap());
            assert!(
                ended.is_none() && Instant::now() < end,
                "{what} never came; the agent says:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(50));
        }
    }

    fn started(&mut self) {
        self.start();
        self.wait_until("the control socket", |h| {
            h.files.join("control.sock").exists()
        });
    }

    fn signal(&self, name: &str) {
        let id = self.agent.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(status.success());
    }

    fn ended(&mut self) -> bool {
        self.agent.take().unwrap().wait().unwrap().success()
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/mifsec").join(&self.instance)
    }

    /// How many guard links are pinned, over all generations.
    fn guards(&self) -> usize {
        let generations = fs::read_dir(self.pins()).unwrap();
        generations
            .flat_map(|g| fs::read_dir(g.unwrap().path()).unwrap())
            .filter(|pin| {
                let name = pin.as_ref().unwrap().file_name();
                name.to_string_lossy().contains("guard")
            })
            .count()
    }

    /// Nothing of ours in the namespace or under bpffs.
    fn assert_untouched(&self) {
        let links = self.show("-br link");
        assert!(!links.contains("mif"), "{links}");
        let rules = self.show("rule");
        assert_eq!(rules.lines().count(), 3, "{rules}");
        for table in ["4500", "4501", "4510"] {
            let routes = self.show(&format!("route show table {table}"));
            assert!(routes.trim().is_empty(), "table {table}: {routes}");
        }
        assert!(!self.pins().exists(), "pins are gone");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = fs::remove_dir_all(self.pins());
        let _ = fs::remove_dir_all(&self.files);
    }
}

/// The agent `cargo xtask test` has built, else the one beside the test.
fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIFSEC_BIN") {
        return Some(path.into());
    }
    let own = std::env::current_exe().ok()?;
    let binary = own.parent()?.parent()?.join("mifsec");
    binary.exists().then_some(binary)
}

#[test]
fn a_clean_stop_leaves_nothing() {
    let Some(mut host) = Host::new("stop") else {
        return;
    };
    host.started();
    let control = fs::metadata(host.files.join("control.sock")).unwrap();
    assert_eq!(control.permissions().mode() & 0o777, 0o600);
    let protected = host.show("route show table 4500");
    assert!(protected.contains("unreachable default"), "{protected}");
    let access = host.show("route show table 4510");
    assert!(
        access.contains("default via 192.0.2.1 dev wlan0"),
        "{access}"
    );
    let rules = host.show("rule");
    assert!(rules.contains("from 192.0.2.2 lookup 4510"), "{rules}");
    host.signal("-TERM");
    assert!(host.ended(), "{}", host.log());
    host.assert_untouched();
    assert!(!host.files.join("control.sock").exists());
}

#[test]
fn a_killed_agent_leaves_the_host_closed_and_a_successor_takes_over() {
    let Some(mut host) = Host::new("kill") else {
        return;
    };
    host.started();
    host.signal("-KILL");
    assert!(!host.ended());
    let protected = host.show("route show table 4500");
    assert!(protected.contains("unreachable default"), "{protected}");
    assert!(host.show("-br link").contains("mif0"), "the TUN stays");
    assert_eq!(host.guards(), 3, "egress first and last, ingress");
    // The dead agent's socket file is no obstacle.
    fs::remove_file(host.files.join("control.sock")).unwrap();
    host.started();
    assert_eq!(
        host.guards(),
        3,
        "the predecessor's are gone, its own there"
    );
    host.signal("-TERM");
    assert!(host.ended(), "{}", host.log());
    host.assert_untouched();
}

#[test]
fn a_start_that_fails_after_a_killed_agent_leaves_its_guard_and_routes() {
    let Some(mut host) = Host::new("after") else {
        return;
    };
    host.started();
    host.signal("-KILL");
    assert!(!host.ended());
    fs::remove_file(host.files.join("control.sock")).unwrap();
    // Without the anchor the host looks as if no agent had been there.
    host.ip("link del mifanchor0");
    let taken = host
        .namespace
        .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:4500")?))
        .unwrap();
    host.start();
    assert!(!host.ended());
    assert!(host.log().contains("UDP port 4500"), "{}", host.log());
    assert_eq!(host.guards(), 3, "the predecessor's");
    let protected = host.show("route show table 4500");
    assert!(protected.contains("unreachable default"), "{protected}");
    drop(taken);
    host.started();
    host.signal("-TERM");
    assert!(host.ended(), "{}", host.log());
    host.assert_untouched();
}

#[test]
fn rules_removed_by_others_are_put_back_and_new_addresses_followed() {
    let Some(mut host) = Host::new("follow") else {
        return;
    };
    host.started();
    host.ip("rule del pref 4500");
    host.wait_until("the rule", |h| h.show("rule").contains("lookup 4500"));
    host.ip("addr add 192.0.2.9/24 dev wlan0");
    host.wait_until("the rule of the new address", |h| {
        h.show("rule").contains("from 192.0.2.9 lookup 4510")
    });
    host.ip("link set wlan0 down");
    host.ip("link set wlan0 up");
    host.ip("route add default via 192.0.2.1 dev wlan0");
    host.wait_until("the route", |h| {
        h.show("route show table 4510")
            .contains("default via 192.0.2.1")
    });
}

#[test]
fn an_interface_that_gets_the_name_of_an_access_is_guarded_and_used() {
    mifsec_tests::covers!("R02");
    let Some(mut host) = Host::new("rename") else {
        return;
    };
    host.ip("link set wlan0 down");
    host.ip("link set wlan0 name usb0");
    host.started();
    host.ip("link set usb0 name wlan0");
    host.ip("link set wlan0 up");
    host.wait_until("the program", |h| h.log().contains("access attached"));
    host.wait_until("the rule", |h| {
        h.show("rule").contains("from 192.0.2.2 lookup 4510")
    });
}

#[test]
fn a_second_agent_of_the_same_instance_ends_before_it_changes_anything() {
    let Some(mut host) = Host::new("second") else {
        return;
    };
    host.started();
    let seen = |h: &Host| {
        [
            h.show("rule"),
            h.show("route show table 4500"),
            h.show("-o link"),
        ]
    };
    let before = seen(&host);
    // Another control socket, so that it comes as far as it can.
    let config = fs::read_to_string(host.files.join("mifsec.toml")).unwrap();
    let second = config.replace("control.sock", "second.sock");
    fs::write(host.files.join("second.toml"), second).unwrap();
    let output = host
        .enter(binary().unwrap())
        .args(["agent", "--config", "second.toml"])
        .current_dir(&host.files)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("another agent runs as instance"), "{error}");
    assert_eq!(seen(&host), before);
    host.signal("-TERM");
    assert!(host.ended(), "{}", host.log());
    host.assert_untouched();
}

#[test]
fn an_agent_whose_anchor_device_is_removed_ends_and_leaves_the_host_closed() {
    let Some(mut host) = Host::new("anchor") else {
        return;
    };
    host.started();
    host.ip("link del mifanchor0");
    assert!(!host.ended());
    let log = host.log();
    assert!(
        log.contains("anchor device mifanchor0 was removed"),
        "{log}"
    );
    let protected = host.show("route show table 4500");
    assert!(protected.contains("unreachable default"), "{protected}");
    assert!(host.pins().exists(), "the guard stays");
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let Some(mut host) = Host::new("fail") else {
        return;
    };
    // Another IKE daemon has the port, without sharing it.
    let taken = host
        .namespace
        .run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:500")?));
    let taken = taken.unwrap();
    host.start();
    assert!(!host.ended());
    let log = host.log();
    let error = log.lines().last().unwrap_or_default();
    assert!(
        error.contains("UDP port 500") && error.contains("another IKE daemon"),
        "{log}"
    );
    host.assert_untouched();
    drop(taken);
}
