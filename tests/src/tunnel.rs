//! A tunnel with static keys between two namespaces: the data plane without
//! IKE, without eBPF. The anchor is the peer's own address and the anchor
//! device the veth itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mifsec::crypto::{AeadAlgorithm, Secret};
use mifsec::dataplane::{Bundle, Config, Dataplane, Inbound, Inputs, Member, Selector, Snapshot};
use mifsec::esp::{InboundSa, OutboundSa, SaParams};
use mifsec::ids::{AccessId, PathIndex, Spi};
use mifsec_common::steering;

use crate::namespace::Namespace;

/// The NAT-T port of both ends.
pub const PORT: u16 = 4500;
/// The path every SA is homed on.
pub const PATH: PathIndex = PathIndex(3);
/// The device under the tunnel, in both namespaces.
pub const DEVICE: &str = "veth0";
/// The device of the tunnel, in both namespaces.
pub const TUN: &str = "mif0";

/// Outer addresses of the two ends.
const OUTER: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]];
/// Link-layer addresses of the two ends.
const MAC: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
/// Inner addresses of the two ends.
const INNER: [[&str; 2]; 2] = [["10.9.0.1", "10.9.0.2"], ["fd09::1", "fd09::2"]];

/// What may differ between tunnels.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the outer packets are IPv6.
    pub outer_v6: bool,
    /// Worker threads at each end.
    pub workers: usize,
    /// MTU of the path.
    pub mtu: u16,
    /// The cipher.
    pub algorithm: AeadAlgorithm,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            outer_v6: false,
            workers: 2,
            mtu: 1500,
            algorithm: AeadAlgorithm::Aes128Gcm16,
        }
    }
}

/// Two ends and what is between them.
pub struct Tunnel {
    /// The two ends.
    pub ends: [End; 2],
}

/// One end of a tunnel.
pub struct End {
    /// Which one, 0 or 1.
    pub index: usize,
    /// Where it lives.
    pub namespace: Namespace,
    /// Index of [`DEVICE`] there.
    pub ifindex: u32,
    /// Its data plane; `None` once stopped.
    pub dataplane: Option<Dataplane>,
    /// What its data plane tells.
    pub inputs: Inputs,
    /// What its data plane was last given.
    pub snapshot: Snapshot,
}

impl Tunnel {
    /// Builds the namespaces, starts the data planes, installs one SA each way.
    ///
    /// # Errors
    /// What could not be set up; most likely this is not root.
    pub fn start(options: Options) -> Result<Self> {
        let namespaces = [Namespace::new("a")?, Namespace::new("b")?];
        join(&namespaces)?;
        let [a, b] = namespaces;
        let ends = [End::start(0, a, options)?, End::start(1, b, options)?];
        // Both ends can receive before either sends.
        for end in &ends {
            end.install();
        }
        Ok(Self { ends })
    }

    /// Outer address of end `index`.
    #[must_use]
    pub fn outer(index: usize, v6: bool) -> IpAddr {
        address(&OUTER, index, v6)
    }

    /// Inner address of end `index`.
    #[must_use]
    pub fn inner(index: usize, v6: bool) -> IpAddr {
        address(&INNER, index, v6)
    }
}

impl End {
    fn start(index: usize, namespace: Namespace, options: Options) -> Result<Self> {
        let config = Config {
            tun: TUN.into(),
            persist: false,
            workers: options.workers,
            port: PORT,
            anchor_device: DEVICE.into(),
            accesses: 1,
            paths: 16,
            queue_program: None,
            mtu: 1500,
        };
        let (dataplane, inputs, ifindex) = namespace.run(|| {
            let (dataplane, inputs) = Dataplane::start(&config)?;
            Ok((dataplane, inputs, ifindex(DEVICE)?))
        })?;
        for (v6, prefix) in [(false, 24), (true, 64)] {
            let address = format!("{}/{prefix}", Tunnel::inner(index, v6));
            let mut arguments = vec!["addr", "add", &address, "dev", TUN];
            if v6 {
                arguments.push("nodad");
            }
            namespace.ip(&arguments)?;
        }
        for v6 in [false, true] {
            namespace.run(|| settled(Tunnel::inner(index, v6)))?;
            namespace.run(|| settled(Tunnel::outer(index, v6)))?;
        }
        let snapshot = snapshot(index, ifindex, options)?;
        dataplane.install(Snapshot {
            bundles: Vec::new(),
            ..snapshot.clone()
        });
        Ok(Self {
            index,
            namespace,
            ifindex,
            dataplane: Some(dataplane),
            inputs,
            snapshot,
        })
    }

    /// Gives the data plane what [`snapshot`](Self::snapshot) now says.
    pub fn install(&self) {
        if let Some(dataplane) = &self.dataplane {
            dataplane.install(self.snapshot.clone());
        }
    }

    /// The data plane's counts by reason.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.dataplane
            .as_ref()
            .map(Dataplane::counters)
            .unwrap_or_default()
    }

    /// One of them.
    #[must_use]
    pub fn count(&self, reason: &str) -> u64 {
        self.counters().get(reason).copied().unwrap_or_default()
    }
}

/// SPI of the SA towards end `index`.
#[must_use]
pub fn spi(index: usize) -> Spi {
    Spi(if index == 0 { 0xa000_0001 } else { 0xb000_0001 })
}

/// Key and salt of that SA.
#[must_use]
pub fn keymat(index: usize, algorithm: AeadAlgorithm) -> Secret {
    let fill = if index == 0 { 0x11 } else { 0x22 };
    Secret::new(vec![fill; algorithm.keymat_len()])
}

/// Everything of both families.
#[must_use]
pub fn everything() -> Vec<Selector> {
    let range = |first: &str, last: &str| {
        let parse = |text: &str| text.parse::<IpAddr>();
        Some(Selector::range(parse(first).ok()?..=parse(last).ok()?))
    };
    [
        range("0.0.0.0", "255.255.255.255"),
        range("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn snapshot(index: usize, ifindex: u32, options: Options) -> Result<Snapshot> {
    let other = 1 - index;
    let keys = [keymat(0, options.algorithm), keymat(1, options.algorithm)];
    let params = |to: usize| SaParams {
        spi: spi(to),
        algorithm: options.algorithm,
        keymat: &keys[to],
        esn: true,
        replay_window: 8192,
    };
    let member = Member {
        sa: Arc::new(OutboundSa::new(&params(other))?),
        anchor: SocketAddr::new(Tunnel::outer(other, options.outer_v6), PORT),
        access: AccessId(0),
        path: PATH,
        mtu: options.mtu,
        usable: true,
        weight: 1,
        held: false,
    };
    let inbound = Inbound {
        sa: Arc::new(InboundSa::new(&params(index))?),
        ts_local: everything(),
        ts_remote: everything(),
        path: PATH,
        notify_first: true,
    };
    Ok(Snapshot {
        bundles: vec![Bundle {
            local: everything(),
            remote: everything(),
            trap: None,
            discard: false,
            members: vec![member],
            table: steering::table(&[steering::Member {
                weight: 1,
                usable: true,
            }]),
        }],
        inbound: HashMap::from([(spi(index), inbound)]),
        accesses: HashSet::from([ifindex]),
        ..Snapshot::default()
    })
}

/// Waits until the kernel takes packets for `address` as its own: the route of a
/// new IPv6 address is made by a work queue, later than `ip` returns.
fn settled(address: IpAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        // A new socket each time: an old one remembers the route it found first.
        let socket = UdpSocket::bind(SocketAddr::new(address, 0))
            .with_context(|| format!("bind {address}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let own = socket.local_addr()?;
        if socket.send_to(b"?", own).is_ok() && socket.recv(&mut [0; 1]).is_ok() {
            return Ok(());
        }
    }
    bail!("{address} never became an address of this namespace")
}

/// A veth with both families between the namespaces. The neighbours are known
/// beforehand, so that no first packet waits or gets lost.
fn join(namespaces: &[Namespace; 2]) -> Result<()> {
    let [a, b] = namespaces;
    a.ip(&[
        "link",
        "add",
        DEVICE,
        "address",
        MAC[0],
        "type",
        "veth",
        "peer",
        "name",
        DEVICE,
        "address",
        MAC[1],
        "netns",
        b.name(),
    ])?;
    for (index, namespace) in namespaces.iter().enumerate() {
        let other = 1 - index;
        namespace.ip(&["link", "set", DEVICE, "addrgenmode", "none", "up"])?;
        for (v6, prefix) in [(false, 24), (true, 64)] {
            let address = format!("{}/{prefix}", Tunnel::outer(index, v6));
            let mut arguments = vec!["addr", "add", &address, "dev", DEVICE];
            if v6 {
                arguments.push("nodad");
            }
            namespace.ip(&arguments)?;
            let neighbour = Tunnel::outer(other, v6).to_string();
            namespace.ip(&[
                "neigh",
                "replace",
                &neighbour,
                "lladdr",
                MAC[other],
                "dev",
                DEVICE,
                "nud",
                "permanent",
            ])?;
        }
    }
    Ok(())
}

fn address(table: &[[&str; 2]; 2], index: usize, v6: bool) -> IpAddr {
    table[usize::from(v6)][index]
        .parse()
        .expect("the tables above hold addresses")
}

fn ifindex(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: `name` is a terminated string that lives over the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0)
        .then_some(index)
        .context("no such device in this namespace")
}
