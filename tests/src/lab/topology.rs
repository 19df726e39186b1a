//! Namespaces, links, addresses, NAT and shaping, and the events a step needs:
//! an address that appears or goes, a link that dies, a rate that changes.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cleanup::{Scope, ip, tool};
use super::sys::Netns;

mod later;

/// The gateway's outer address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// An address of the gateway that it does not have at first.
pub const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The server behind the gateway.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Inner addresses the gateway leases, as (network, prefix length).
pub const POOL: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 66, 0, 0), 16);
/// The network of the server, as (network, prefix length).
pub const LAN: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 99, 0, 0), 24);

/// Weights the lab's configuration gives the accesses.
pub const WEIGHTS: [(Access, u8); 3] = [
    (Access::Wlan, 70),
    (Access::Ran, 30),
    (Access::Ethernet, 100),
];

/// One of the end user's accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// `wlan0`, behind NAT.
    Wlan,
    /// `wwan0`, routed.
    Ran,
    /// `eth0`, routed; plugged in later.
    Ethernet,
}

/// An address of the end user and the router's address beside it. Each access
/// has three: the one it starts with, another of the same network, and one of
/// another network (on the WLAN behind another public address).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attachment {
    /// The end user's.
    pub address: Ipv4Addr,
    /// The default gateway.
    pub router: Ipv4Addr,
}

/// The four namespaces of one lab.
#[derive(Debug)]
pub struct Topology {
    /// The end user.
    pub eu: Netns,
    /// The router, where the harness watches.
    pub rt: Netns,
    /// The gateway.
    pub gw: Netns,
    /// The server.
    pub srv: Netns,
    /// Configuration, logs and control sockets.
    pub dir: PathBuf,
    /// Part of every name: unique while this process lives.
    pub tag: String,
    // Last: the sockets and files above must be closed before it removes what they are in.
    scope: Scope,
}

/// (rate in Mbit/s, burst in octets) of an access, both directions.
const WLAN_RATE: (u32, u32) = (300, 262_144);
const RAN_RATE: (u32, u32) = (200, 262_144);
const ETHERNET_RATE: (u32, u32) = (400, 262_144);

impl Topology {
    /// Builds the network.
    ///
    /// # Errors
    /// When a tool is missing or refuses; what was made is removed again.
    pub fn new() -> Result<Self> {
        let scope = Scope::new();
        let number = match scope.id() {
            0 => String::new(),
            id => format!("x{id}"),
        };
        let tag = format!("{}{number}", std::process::id());
        let name = |role: &str| format!("mif{tag}-{role}");
        let dir = std::env::temp_dir().join(format!("mifsec-lab-{tag}"));
        scope.directory(&dir)?;
        let topology = Self {
            eu: scope.namespace(&name("eu"))?,
            rt: scope.namespace(&name("rt"))?,
            gw: scope.namespace(&name("gw"))?,
            srv: scope.namespace(&name("srv"))?,
            dir,
            tag,
            scope,
        };
        topology.links()?;
        topology.addresses()?;
        topology.nat()?;
        topology.shape(Access::Wlan, WLAN_RATE)?;
        topology.shape(Access::Ran, RAN_RATE)?;
        Ok(topology)
    }

    /// What removes everything this lab makes.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Files that exist as long as the lab does: namespaces and its directory.
    #[must_use]
    pub fn footprint(&self) -> Vec<PathBuf> {
        let namespaces = [&self.eu, &self.rt, &self.gw, &self.srv];
        let mut files: Vec<_> = namespaces
            .map(|namespace| Path::new("/run/netns").join(namespace.name()))
            .into();
        files.push(self.dir.clone());
        files
    }

    /// Leaves the lab up when dropped.
    pub fn keep(&mut self) {
        self.scope.keep();
    }

    fn links(&self) -> Result<()> {
        let [eu, rt, gw, srv] = [&self.eu, &self.rt, &self.gw, &self.srv].map(Netns::name);
        let pairs = [
            ("wlan0", eu, "wlan", rt),
            ("wwan0", eu, "ran", rt),
            ("eth0", gw, "gw", rt),
            ("srv0", srv, "lan0", gw),
        ];
        for (one, here, other, there) in pairs {
            ip(&[
                "link", "add", one, "netns", here, "type", "veth", "peer", "name", other, "netns",
                there,
            ])?;
        }
        self.dock()?;
        for (namespace, links) in [
            (eu, ["lo", "wlan0", "wwan0"].as_slice()),
            (rt, &["lo", "wlan", "ran", "eth", "gw"]),
            (gw, &["lo", "eth0", "lan0"]),
            (srv, &["lo", "srv0"]),
        ] {
            for link in links {
                ip(&["-n", namespace, "link", "set", link, "up"])?;
            }
        }
        // Without it the kernel takes every address of a network along with the first one.
        sysctl(&self.eu, "ipv4/conf/all/promote_secondaries", "1")?;
        for router in [&self.rt, &self.gw] {
            sysctl(router, "ipv4/ip_forward", "1")?;
        }
        for namespace in [&self.eu, &self.rt, &self.gw, &self.srv] {
            sysctl(namespace, "ipv4/conf/all/rp_filter", "0")?;
            sysctl(namespace, "ipv4/conf/default/rp_filter", "0")?;
        }
        Ok(())
    }

    fn addresses(&self) -> Result<()> {
        let [rt, gw, srv] = [&self.rt, &self.gw, &self.srv].map(Netns::name);
        for access in Access::ALL {
            // Each network once: the first two attachments share one.
            for attachment in &access.attachments()[1..] {
                let address = format!("{}/24", attachment.router);
                ip(&[
                    "-n",
                    rt,
                    "address",
                    "add",
                    &address,
                    "dev",
                    access.router_link(),
                ])?;
            }
        }
        for access in Access::FIRST {
            self.add_address(access, access.attachments()[0])?;
            self.add_route(access, access.attachments()[0])?;
        }
        for (namespace, link, address) in [
            (rt, "gw", "203.0.113.254/24"),
            (rt, "gw", "203.0.113.253/24"),
            (gw, "eth0", "203.0.113.1/24"),
            (gw, "lan0", "10.99.0.1/24"),
            (srv, "srv0", "10.99.0.2/24"),
        ] {
            ip(&["-n", namespace, "address", "add", address, "dev", link])?;
        }
        ip(&["-n", gw, "route", "add", "default", "via", "203.0.113.254"])?;
        ip(&["-n", srv, "route", "add", "default", "via", "10.99.0.1"])?;
        // Clear packets for the protected networks would find their way: the
        // lab proves that none is sent, not that none could arrive.
        ip(&[
            "-n",
            rt,
            "route",
            "add",
            "10.99.0.0/24",
            "via",
            "203.0.113.1",
        ])?;
        let back = Access::Ran.attachments()[0].address.to_string();
        ip(&["-n", rt, "route", "add", "10.66.0.0/16", "via", &back])?;
        Ok(())
    }

    /// Ports are chosen anew, so that 4500 is not 4500 behind the NAT; each
    /// WLAN network has a public address of its own, and nobody outside can
    /// begin with one of the private addresses.
    fn nat(&self) -> Result<()> {
        self.nft(
            "add table ip nat; \
             add chain ip nat post { type nat hook postrouting priority 100; }; \
             add rule ip nat post oifname gw ip saddr 192.168.10.0/24 masquerade fully-random; \
             add rule ip nat post oifname gw ip saddr 192.168.20.0/24 snat to 203.0.113.253 fully-random; \
             add table ip lab; \
             add chain ip lab forward { type filter hook forward priority 0; }; \
             add chain ip lab inbound { type filter hook forward priority 1; }; \
             add rule ip lab inbound iifname gw oifname wlan ct state new drop;",
        )
    }

    /// Runs nftables commands on the router.
    ///
    /// # Errors
    /// When nft refuses them.
    pub fn nft(&self, commands: &str) -> Result<()> {
        let output = self
            .rt
            .command("nft")
            .arg(commands)
            .output()
            .context("cannot start nft: run `cargo xtask setup`")?;
        anyhow::ensure!(
            output.status.success(),
            "nft: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Adds an address as a DHCP client would, without its route.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_address(&self, access: Access, attachment: Attachment) -> Result<()> {
        let address = format!("{}/24", attachment.address);
        let link = access.link();
        ip(&[
            "-n",
            self.eu.name(),
            "address",
            "add",
            &address,
            "dev",
            link,
        ])
        .map(drop)
    }

    /// Makes an attachment's router the default gateway of its access.
    ///
    /// # Errors
    /// When the router is not reachable on the link.
    pub fn add_route(&self, access: Access, attachment: Attachment) -> Result<()> {
        let router = attachment.router.to_string();
        let metric = match access {
            Access::Wlan => "100",
            Access::Ran => "200",
            Access::Ethernet => "300",
        };
        let eu = self.eu.name();
        ip(&[
            "-n",
            eu,
            "route",
            "replace",
            "default",
            "via",
            &router,
            "dev",
            access.link(),
            "metric",
            metric,
        ])
        .map(drop)
    }

    /// Removes an address.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_address(&self, access: Access, attachment: Attachment) -> Result<()> {
        let address = format!("{}/24", attachment.address);
        let link = access.link();
        ip(&[
            "-n",
            self.eu.name(),
            "address",
            "del",
            &address,
            "dev",
            link,
        ])
        .map(drop)
    }

    /// Takes the carrier away from an access, or gives it back.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn carrier(&self, access: Access, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        ip(&[
            "-n",
            self.rt.name(),
            "link",
            "set",
            access.router_link(),
            state,
        ])
        .map(drop)
    }

    /// Shapes an access to a rate in Mbit/s with a burst in octets, both
    /// directions: the end user's queue is that of a modem, and pushes back.
    ///
    /// # Errors
    /// When the kernel has no tbf.
    pub fn shape(&self, access: Access, (rate, burst): (u32, u32)) -> Result<()> {
        let (rate, burst) = (format!("{rate}mbit"), burst.to_string());
        for (namespace, link) in [(&self.eu, access.link()), (&self.rt, access.router_link())] {
            tool(
                "tc",
                &[
                    "-n",
                    namespace.name(),
                    "qdisc",
                    "replace",
                    "dev",
                    link,
                    "root",
                    "tbf",
                    "rate",
                    &rate,
                    "burst",
                    &burst,
                    "latency",
                    "50ms",
                ],
            )?;
        }
        Ok(())
    }

    /// Policy routes that a host without an agent needs to use both accesses.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn clear_routes(&self) -> Result<()> {
        let eu = self.eu.name();
        for (access, table) in [(Access::Wlan, "101"), (Access::Ran, "102")] {
            let attachment = access.attachments()[0];
            let (from, via) = (
                attachment.address.to_string(),
                attachment.router.to_string(),
            );
            ip(&["-n", eu, "rule", "add", "from", &from, "lookup", table])?;
            ip(&[
                "-n", eu, "route", "add", "default", "via", &via, "table", table,
            ])?;
        }
        Ok(())
    }

    /// How to look into a lab that was kept.
    #[must_use]
    pub fn how_to_enter(&self) -> String {
        let mut text = String::from("the lab is still up; enter with\n");
        for (role, namespace) in [
            ("end user", &self.eu),
            ("router", &self.rt),
            ("gateway", &self.gw),
            ("server", &self.srv),
        ] {
            text += &format!(
                "  nsenter --net=/run/netns/{:<14} # {role}\n",
                namespace.name()
            );
        }
        text += &format!(
            "configuration, logs and control sockets: {}\n",
            self.dir.display()
        );
        text += &format!(
            "remove it with: for n in eu rt gw srv; do ip netns pids mif{tag}-$n | xargs -r kill -9; \
             ip netns del mif{tag}-$n; done; rm -rf /sys/fs/bpf/mifsec/lab{tag}-eu /sys/fs/bpf/mifsec/lab{tag}-gw {dir}",
            tag = self.tag,
            dir = self.dir.display(),
        );
        text
    }
}

impl Access {
    /// All.
    pub const ALL: [Self; 3] = [Self::Wlan, Self::Ran, Self::Ethernet];
    /// Those that are there from the start.
    pub const FIRST: [Self; 2] = [Self::Wlan, Self::Ran];

    /// The end user's interface.
    #[must_use]
    pub fn link(self) -> &'static str {
        match self {
            Self::Wlan => "wlan0",
            Self::Ran => "wwan0",
            Self::Ethernet => "eth0",
        }
    }

    /// The router's interface on the other side.
    #[must_use]
    pub fn router_link(self) -> &'static str {
        match self {
            Self::Wlan => "wlan",
            Self::Ran => "ran",
            Self::Ethernet => "eth",
        }
    }

    /// By the end user's interface name.
    #[must_use]
    pub fn of_link(link: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|access| access.link() == link)
    }

    /// `class` in a configuration.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Wlan => "wlan",
            Self::Ran => "ran",
            Self::Ethernet => "ethernet",
        }
    }

    /// The others.
    pub fn others(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |other| *other != self)
    }

    /// The first address, one beside it, one of another network.
    #[must_use]
    pub fn attachments(self) -> [Attachment; 3] {
        let at = |a, b, c, host| Attachment {
            address: Ipv4Addr::new(a, b, c, host),
            router: Ipv4Addr::new(a, b, c, 1),
        };
        match self {
            Self::Wlan => [
                at(192, 168, 10, 2),
                at(192, 168, 10, 3),
                at(192, 168, 20, 2),
            ],
            Self::Ran => [at(198, 51, 100, 2), at(198, 51, 100, 3), at(192, 0, 2, 2)],
            Self::Ethernet => [at(198, 18, 1, 2), at(198, 18, 1, 3), at(198, 18, 2, 2)],
        }
    }
}

fn sysctl(namespace: &Netns, name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(name);
    namespace
        .run(|| fs::write(&path, value))?
        .with_context(|| format!("cannot write {}", path.display()))
}
