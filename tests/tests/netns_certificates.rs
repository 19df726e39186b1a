//! Two agents in two namespaces that prove who they are by certificates, and a
//! gateway whose table of secrets changes while it runs.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something unexpected happens, and says why it was skipped"
)]

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mifsec_tests::namespace::Namespace;
use mifsec_tests::pki::{Authority, Key, Request};

const USER: &str = "laptop@example.org";
const GATEWAY: &str = "gw.example.org";
/// Behind the gateway.
const ECHO: &str = "10.99.0.1:7777";

/// An end user and a gateway on one link, with something behind the gateway.
struct Net {
    user: Namespace,
    gateway: Namespace,
    files: PathBuf,
    agents: Vec<(&'static str, Child)>,
}

impl Net {
    fn new(label: &str) -> Option<Self> {
        if binary().is_none() {
            println!("skipped: the mifsec binary is not built");
            return None;
        }
        let (Ok(user), Ok(gateway)) = (Namespace::new("user"), Namespace::new("gw")) else {
            println!("skipped: making a network namespace needs root");
            return None;
        };
        let files = std::env::temp_dir().join(format!("test-{}-{label}", std::process::id()));
        fs::create_dir_all(&files).unwrap();
        let veth = [
            "link", "add", "wlan0", "type", "veth", "peer", "name", "eth0", "netns",
        ];
        user.ip(&[&veth[..], &[gateway.name()]].concat()).unwrap();
        for (namespace, link, address) in [
            (&user, "wlan0", "192.0.2.2/24"),
            (&gateway, "eth0", "192.0.2.1/24"),
        ] {
            namespace
                .ip(&["addr", "add", address, "dev", link])
                .unwrap();
            namespace.ip(&["link", "set", link, "up"]).unwrap();
        }
        let inner = ["addr", "add", "10.99.0.1/32", "dev", "lo"];
        gateway.ip(&inner).unwrap();
        echo(&gateway);
        Some(Self {
            user,
            gateway,
            files,
            agents: Vec::new(),
        })
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.files.join(name), text).unwrap();
    }

    fn configure(&self, user: &str, gateway: &str) {
        let agent = |role: &str| {
            format!(
                "[agent]\ncontrol = \"{role}.sock\"\nstate_dir = \"{role}-state\"\n\
                 instance = \"{}\"\n",
                self.instance(role)
            )
        };
        self.write(
            "user.toml",
            &format!(
                "{}[[access]]\ninterface = \"wlan0\"\n[[peer]]\nname = \"gw\"\n\
                 remote = [\"192.0.2.1\"]\nlocal_id = \"{USER}\"\nremote_id = \"{GATEWAY}\"\n\
                 addresses = [\"ipv4\"]\n{user}\n[[peer.child]]\nname = \"net\"\n\
                 remote_ts = [\"10.99.0.0/24\"]\n",
                agent("user")
            ),
        );
        self.write(
            "gw.toml",
            &format!(
                "{}routing = \"manual\"\n[[access]]\ninterface = \"eth0\"\n\
                 addresses = [\"192.0.2.1\"]\n[[pool]]\nname = \"users\"\n\
                 cidr = [\"10.66.0.0/24\"]\n[[peer]]\nname = \"users\"\n\
                 local_id = \"{GATEWAY}\"\nremote_id = \"*@example.org\"\npool = \"users\"\n\
                 {gateway}\n[[peer.child]]\nname = \"net\"\nlocal_ts = [\"10.99.0.0/24\"]\n\
                 remote_ts = [\"dynamic\"]\n",
                agent("gw")
            ),
        );
    }

    fn instance(&self, role: &str) -> String {
        let name = self.files.file_name().unwrap().to_string_lossy();
        format!("{name}-{role}")
    }

    fn enter(&self, role: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = if role == "gw" {
            &self.gateway
        } else {
            &self.user
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", namespace.name()))
            .arg("--")
            .arg(program)
            .current_dir(&self.files);
        command
    }

    fn start(&mut self, role: &'static str) {
        let log = File::create(self.files.join(format!("{role}.log"))).unwrap();
        let agent = self
            .enter(role, binary().unwrap())
            .args(["agent", "--config", &format!("{role}.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agents.push((role, agent));
        self.wait_until("the control socket", |net| {
            net.files.join(format!("{role}.sock")).exists()
        });
    }

    fn stop(&mut self, role: &str) {
        let at = self.agents.iter().position(|(name, _)| *name == role);
        let (_, mut agent) = self.agents.remove(at.unwrap());
        let id = agent.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        assert!(agent.wait().unwrap().success());
    }

    fn log(&self, role: &str) -> String {
        fs::read_to_string(self.files.join(format!("{role}.log"))).unwrap_or_default()
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "{what} never came; the agents say:\n{}\n{}",
                self.log("gw"),
                self.log("user")
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// A packet to what is behind the gateway and back.
    fn passes(&self) -> bool {
        let answered = self.user.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.send_to(b"ping", ECHO)?;
            let mut buffer = [0; 16];
            Ok(socket.recv(&mut buffer)? == 4)
        });
        answered.unwrap_or(false)
    }
}

/// Answers in the gateway's namespace as long as the test runs.
fn echo(gateway: &Namespace) {
    let socket = gateway.run(|| Ok(UdpSocket::bind(ECHO)?)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

impl Drop for Net {
    fn drop(&mut self) {
        for (_, mut agent) in self.agents.drain(..) {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        for role in ["user", "gw"] {
            let pins = PathBuf::from("/sys/fs/bpf/mifsec").join(self.instance(role));
            let _ = fs::remove_dir_all(pins);
        }
        let _ = fs::remove_dir_all(&self.files);
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MIFSEC_BIN") {
        return Some(path.into());
    }
    let own = std::env::current_exe().ok()?;
    let binary = own.parent()?.parent()?.join("mifsec");
    binary.exists().then_some(binary)
}

/// Both with certificates of one authority; the user's certificate is wrong
/// first.
#[test]
fn agents_with_certificates_pass_traffic_and_name_what_is_wrong_with_one() {
    let Some(mut net) = Net::new("pki") else {
        return;
    };
    let root = Authority::root("Root", Key::P256);
    net.write("ca.pem", &root.pem());
    let proofs = |role: &str| {
        format!("certificate = \"{role}.pem\"\nprivate_key = \"{role}.key\"\nca = \"ca.pem\"")
    };
    let mut expired = Request::new(Key::Ed25519, USER);
    expired.validity[1] = (2024, 5, 1);
    for (role, request) in [
        ("user", &expired),
        ("gw", &Request::new(Key::P384, GATEWAY)),
    ] {
        let issued = root.issue(request);
        net.write(&format!("{role}.pem"), &issued.chain);
        net.write(&format!("{role}.key"), &issued.key);
    }
    net.configure(&proofs("user"), &proofs("gw"));
    net.start("gw");
    net.start("user");
    net.wait_until("the gateway's word", |net| {
        net.log("gw")
            .contains("expired on 2024-05-01 00:00 UTC: renew it")
    });
    net.wait_until("the user's word", |net| {
        net.log("user")
            .contains("the peer refused our authentication")
    });
    assert!(
        net.log("user").contains("peers will refuse it"),
        "it was warned"
    );
    assert!(!net.passes());
    net.stop("user");
    let issued = root.issue(&Request::new(Key::Ed25519, USER));
    net.write("user.pem", &issued.chain);
    net.write("user.key", &issued.key);
    net.start("user");
    net.wait_until("traffic", Net::passes);
}

#[test]
fn a_changed_table_of_secrets_is_taken_in_and_a_bad_one_is_not() {
    let Some(mut net) = Net::new("table") else {
        return;
    };
    net.write("secret", "right\n");
    net.write("table", &format!("{USER} = right\n"));
    net.configure("psk_file = \"secret\"", "psk_table = \"table\"");
    net.start("gw");
    net.start("user");
    net.wait_until("traffic", Net::passes);
    net.write("table", "no line of a table\n");
    net.wait_until("the complaint", |net| {
        net.log("gw").contains("table:1 is not")
    });
    assert!(net.passes(), "what stands stays");
    net.stop("user");
    net.start("user");
    net.wait_until("traffic by the old table", Net::passes);
    net.write("table", &format!("{USER} = other\n"));
    net.wait_until("the new table", |net| {
        net.log("gw").contains("psk_table read again")
    });
    assert!(net.passes(), "what stands stays");
    net.stop("user");
    net.write("secret", "other\n");
    net.start("user");
    net.wait_until("traffic by the new table", Net::passes);
    assert!(!net.log("gw").contains("right") && !net.log("gw").contains("= other"));
}
