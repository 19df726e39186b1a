//! The network between the two ends, and the files and logs of what runs in it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::lab::capture::{Seen, Way};
use crate::lab::sys::Netns;
use crate::lab::topology::{Access, SERVER, Topology};

/// The server's inner IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2);
/// Its network.
pub const LAN_V6: &str = "fd99::/64";
/// The network of the server.
pub const LAN_V4: &str = "10.99.0.0/24";
/// Inner IPv4 addresses the gateway leases.
pub const POOL_V4: &str = "10.66.0.0/24";
/// Inner IPv6 addresses the gateway leases.
pub const POOL_V6: &str = "fd66::/64";
/// The gateway's outer IPv6 address, when there is one.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);

/// Where something runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Two accesses, gets a lease.
    Client,
    /// One public address, a network behind it.
    Gateway,
}

/// Client, router, gateway, server.
#[derive(Debug)]
pub struct Net {
    /// The namespaces.
    pub topology: Topology,
    logs: Mutex<Vec<PathBuf>>,
    clear: Mutex<Vec<End>>,
}

impl Net {
    /// Builds it.
    ///
    /// # Errors
    /// When a tool is missing or refuses.
    pub fn new() -> Result<Self> {
        let net = Self {
            topology: Topology::new()?,
            logs: Mutex::default(),
            clear: Mutex::default(),
        };
        for namespace in [&net.topology.rt, &net.topology.gw] {
            sysctl(namespace, "ipv6/conf/all/forwarding", "1")?;
        }
        net.address(&net.topology.gw, "fd99::1/64", "lan0")?;
        net.address(&net.topology.srv, "fd99::2/64", "srv0")?;
        net.ip(&net.topology.srv, "-6 route add default via fd99::1")?;
        Ok(net)
    }

    /// Gives the RAN and the gateway outer IPv6 addresses.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn outer_v6(&self) -> Result<()> {
        let [eu, rt, gw] = [&self.topology.eu, &self.topology.rt, &self.topology.gw];
        self.address(rt, "2001:db8:1::1/64", "ran")?;
        self.address(rt, "2001:db8:9::fe/64", "gw")?;
        self.address(eu, "2001:db8:1::2/64", "wwan0")?;
        self.address(gw, "2001:db8:9::1/64", "eth0")?;
        self.ip(
            eu,
            "-6 route add default via 2001:db8:1::1 dev wwan0 metric 200",
        )?;
        self.ip(gw, "-6 route add default via 2001:db8:9::fe dev eth0")
    }

    /// Only this access is left of the client's two.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn only(&self, access: Access) -> Result<()> {
        let eu = &self.topology.eu;
        let mut others = Access::FIRST.into_iter().filter(|other| *other != access);
        others.try_for_each(|other| self.ip(eu, &format!("link set {} down", other.link())))
    }

    /// An MTU of one access, at both of its ends.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn mtu(&self, access: Access, mtu: u16) -> Result<()> {
        let [eu, rt] = [&self.topology.eu, &self.topology.rt];
        self.ip(eu, &format!("link set {} mtu {mtu}", access.link()))?;
        self.ip(rt, &format!("link set {} mtu {mtu}", access.router_link()))
    }

    /// The namespace of an end.
    #[must_use]
    pub fn namespace(&self, end: End) -> &Netns {
        match end {
            End::Client => &self.topology.eu,
            End::Gateway => &self.topology.gw,
        }
    }

    /// Runs `ip` with blank-separated arguments in a namespace.
    ///
    /// # Errors
    /// What it said.
    pub fn ip(&self, namespace: &Netns, arguments: &str) -> Result<()> {
        self.show(namespace, arguments).map(drop)
    }

    /// What `ip` prints in a namespace.
    ///
    /// # Errors
    /// What it complained of.
    pub fn show(&self, namespace: &Netns, arguments: &str) -> Result<String> {
        let mut all = vec!["-n", namespace.name()];
        all.extend(arguments.split(' '));
        crate::lab::cleanup::ip(&all)
    }

    /// Without duplicate address detection, which takes a second.
    fn address(&self, namespace: &Netns, address: &str, link: &str) -> Result<()> {
        let words = match address.contains(':') {
            true => format!("address add {address} dev {link} nodad"),
            false => format!("address add {address} dev {link}"),
        };
        self.ip(namespace, &words)
    }

    /// The server's address of the family of `like`.
    #[must_use]
    pub fn server(like: IpAddr) -> IpAddr {
        match like {
            IpAddr::V4(_) => SERVER.into(),
            IpAddr::V6(_) => SERVER_V6.into(),
        }
    }

    /// The gateway's outer address.
    #[must_use]
    pub fn gateway() -> Ipv4Addr {
        crate::lab::topology::GATEWAY
    }

    /// Packets in clear that come from this end's side are no failure: they are
    /// strongSwan's host's, or of an agent that was told to stop.
    pub fn expect_clear(&self, from: End) {
        let mut clear = self.clear.lock().unwrap_or_else(PoisonError::into_inner);
        clear.push(from);
    }

    /// Packets in clear that count.
    pub(super) fn leaked(&self, seen: &Seen) -> u64 {
        let clear = self.clear.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = |way: &Way| match way {
            Way::Up => !clear.contains(&End::Client),
            Way::Down => !clear.contains(&End::Gateway),
        };
        let ways = seen.clear_ways.iter().filter(|(way, _)| counts(way));
        ways.map(|(_, count)| count).sum()
    }

    /// A log to be printed when the scenario fails.
    pub(super) fn will_log(&self, path: PathBuf) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !logs.contains(&path) {
            logs.push(path);
        }
    }

    /// Everything that was logged, the last lines of each file.
    #[must_use]
    pub fn logs(&self) -> String {
        const MOST: usize = 150;
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for path in logs.iter() {
            let log = fs::read_to_string(path).unwrap_or_default();
            // Every look at its SAs leaves four lines in strongSwan's log.
            let said = log.lines().filter(|line| !line.contains("vici client"));
            let lines: Vec<_> = said.collect();
            let from = lines.len().saturating_sub(MOST);
            text += &format!("--- {} ({} lines)\n", path.display(), lines.len());
            for line in &lines[from..] {
                text += line;
                text.push('\n');
            }
        }
        text
    }
}

fn sysctl(namespace: &Netns, name: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    namespace
        .run(|| fs::write(&path, value))?
        .with_context(|| format!("cannot write {}", path.display()))
}
