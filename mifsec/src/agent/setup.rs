//! Start and end. Fail closed in both: guard and `unreachable` routes stand
//! before anything that could need them, and go last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::future::pending;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use crate::config::{self, Config, OnStop, Xdp};
use crate::crypto::SystemEntropy;
use crate::dataplane::{self, Dataplane};
use crate::ebpf::{self, Ebpf, XdpChoice};
use crate::ike;
use crate::ike::config::{ChildConfig, EngineConfig, PeerConfig};
use crate::ike::peer::RemoteAuth;
use crate::ike::selector::TsSpec;
use crate::io::netlink::{Netlink, Watch};
use crate::io::ready::Ready;
use crate::path;
use anyhow::Context as _;

use super::access::Accesses;
use super::anchors::Anchors;
use super::dns::Dns;
use super::network::{self, Devices, Numbers};
use super::retry::Retry;
use super::sabotage::Sabotage;
use super::secrets::Secrets;
use super::socket::IkeSocket;
use super::{Agent, Handle, Sources};

/// MTU of the TUN.
const TUN_MTU: u16 = 1500;
/// Highest level the programs log at: aya-log's WARN.
const PROGRAM_LOG_LEVEL: u32 = 2;
/// Bounded: the maps are allocated at start.
const MAX_ANNOUNCED: usize = 64;

impl Agent {
    /// Makes everything stand; nothing leaves in clear from here on.
    ///
    /// # Errors
    /// What could not be made, with the mend.
    pub async fn start(config: Config) -> anyhow::Result<(Self, Sources, Handle)> {
        // Before anything is changed: what another agent has would be damaged.
        let lock = lock(&config.agent.state_dir, &config.agent.instance)?;
        let ike_socket = IkeSocket::open(config.agent.ike_port).with_context(|| {
            format!(
                "opening UDP port {} (is another IKE daemon running?)",
                config.agent.ike_port
            )
        })?;
        let (netlink, watch) = Netlink::open().context("opening netlink")?;
        let before = netlink.state().await.context("reading the network")?;
        let leavings = Leavings {
            fresh: before.link(&config.agent.anchor_device).is_none()
                && !ebpf::left_behind(&config.agent.instance),
            device: config.agent.device.clone(),
            anchor_device: config.agent.anchor_device.clone(),
            numbers: Numbers::new(config.agent.table),
            accesses: config.accesses.len(),
        };
        let mut ebpf = None;
        let built = Self::build(config, &netlink, watch, (ike_socket, lock), &mut ebpf).await;
        if built.is_err() {
            leavings.remove(&netlink, ebpf).await;
        }
        built
    }

    async fn build(
        config: Config,
        netlink: &Netlink,
        watch: Watch,
        (ike_socket, lock): (IkeSocket, File),
        loaded: &mut Option<Ebpf>,
    ) -> anyhow::Result<(Self, Sources, Handle)> {
        let now = Instant::now();
        let sabotage = Sabotage::from_environment();
        let numbers = Numbers::new(config.agent.table);
        let mut accesses = Accesses::new(&config.accesses);
        anyhow::ensure!(
            accesses.count() <= MAX_ANNOUNCED,
            "{} accesses and addresses are configured, at most {MAX_ANNOUNCED} can be announced",
            accesses.count()
        );

        // The programs need the anchor device; the guard comes before all else.
        let (anchor, anchor_routes) = netlink
            .ensure_anchor(
                &config.agent.anchor_device,
                config.agent.anchor,
                numbers.anchors,
            )
            .await
            .context("making the anchor device (is this run as root?)")?;
        let ebpf = Ebpf::load(&ebpf::Config {
            instance: config.agent.instance.clone(),
            anchor_ifindex: anchor,
            anchor_prefixes: config.agent.anchor,
            max_sas: config.limits.sas,
            max_paths: config.limits.paths,
            pin: true,
            lockdown: config.agent.lockdown && !sabotage.no_guard,
            log_level: PROGRAM_LOG_LEVEL,
        })
        .context("loading the steering programs")?;
        let ebpf = loaded.insert(ebpf);
        ebpf.set_ports(&[config.agent.port], &[config.agent.ike_port])
            .context("telling the programs our ports")?;
        let none = BTreeSet::new();
        let rules = super::guard::rules(&config, &none);
        if !sabotage.no_guard {
            ebpf.set_spd(&rules).context("guard rules")?;
        }

        let mut state = netlink.state().await.context("reading the network")?;
        accesses.update(&state, now);
        let left_behind = state.link(&config.agent.device).is_some();
        // The guard lets IKE in at these alone.
        let addresses: Vec<_> = accesses
            .local()
            .flat_map(|l| l.addresses.iter().copied())
            .collect();
        ebpf.set_local(&addresses)
            .context("telling the programs our addresses")?;
        let mut attached = BTreeMap::new();
        for (_, access, link) in accesses.links() {
            let Some(link) = link else { continue };
            let mode = ebpf
                .attach_access(link.index, xdp_choice(config.agent.xdp))
                .with_context(|| format!("access {}", access.interface))?;
            tracing::info!(access = access.interface, ingress = %mode, "access attached");
            attached.insert(link.index, Ok(mode.to_string()));
        }

        let mut devices = Devices {
            tun: 0,
            anchor,
            anchor_routes,
        };
        let lockdown = config.agent.lockdown;
        let workers = workers(&config);
        let wanted = network::wanted(&config, numbers, &devices, &accesses, &[], &state, lockdown);
        network::apply(
            netlink,
            numbers,
            &devices,
            config.accesses.len(),
            &wanted,
            &state,
        )
        .await
        .context("routes and rules")?;

        let (dataplane, inputs) = Dataplane::start(&dataplane::Config {
            tun: config.agent.device.clone(),
            persist: true,
            workers: config.agent.workers,
            port: config.agent.port,
            anchor_device: config.agent.anchor_device.clone(),
            accesses: config.accesses.len(),
            paths: config.limits.paths as usize,
            queue_program: ebpf.queue_program_fd(),
            mtu: TUN_MTU,
        })
        .context("starting the data plane")?;
        devices.tun = netlink
            .ensure_tun(&config.agent.device, TUN_MTU)
            .await
            .context("bringing the TUN up")?;
        state = netlink.state().await.context("reading the network")?;
        // Once more: the first time closed the host, now the TUN is there to lead to.
        let wanted = network::wanted(&config, numbers, &devices, &accesses, &[], &state, lockdown);
        network::apply(
            netlink,
            numbers,
            &devices,
            config.accesses.len(),
            &wanted,
            &state,
        )
        .await
        .context("routes and rules")?;

        // Nothing of ours is missing any more: what a predecessor left may go.
        ebpf.clear_predecessor();
        let programs = ProgramNews::new(ebpf);
        let (handle, asked, events) = Handle::pair();
        let engine = ike::Engine::new(engine_config(&config), Box::new(SystemEntropy::default()))
            .context("address pools")?;
        let paths = path::Engine::new(
            path::Config {
                port: config.agent.port,
                max_paths: config.limits.paths,
            },
            Box::new(SystemEntropy::default()),
        );
        let retries = config
            .peers
            .iter()
            .map(|p| Retry::new(p.start, !p.remote.is_empty(), now))
            .collect();
        let sources = Sources {
            inputs,
            watch,
            asked,
            programs,
        };
        let ebpf = loaded.take().context("the programs are gone")?;
        let agent = Self {
            started: now,
            entropy: SystemEntropy::default(),
            sabotage,
            ike: engine,
            path: paths,
            sender: dataplane.sender(),
            ebpf,
            dataplane,
            ike_socket,
            _lock: lock,
            netlink: netlink.clone(),
            numbers,
            devices,
            state,
            // A fresh look: `follow` then reports every interface as changed.
            accesses: Accesses::new(&config.accesses),
            attached,
            announced: None,
            anchors: Anchors::new(config.agent.anchor),
            peers: BTreeMap::new(),
            told: BTreeMap::new(),
            retries,
            secrets: Secrets::new(&config, now),
            reauths: BTreeMap::new(),
            dns: Dns::start(&config.agent.device, left_behind),
            children: BTreeMap::new(),
            larval: BTreeSet::new(),
            probes: BTreeMap::new(),
            entries: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            seen: BTreeMap::new(),
            active_until: now,
            next_poll: now,
            changed: true,
            announce_due: false,
            guard_dirty: false,
            guard_again: None,
            guard: rules,
            queues: workers,
            queue_table: None,
            reread: None,
            routes_dirty: false,
            neighbours_dirty: false,
            totals: super::Totals::default(),
            refused: BTreeMap::new(),
            whole: 0,
            events,
            last_event: None,
            config,
        };
        Ok((agent, sources, handle))
    }

    /// Leaves the host as `on_stop` says.
    pub(super) async fn tear_down(self) -> anyhow::Result<()> {
        let Self {
            config,
            mut ebpf,
            dataplane,
            netlink,
            numbers,
            neighbours,
            dns,
            ..
        } = self;
        dns.finish().await;
        if config.agent.on_stop == OnStop::Keep {
            tracing::info!("devices, routes and guard stay (on_stop = \"keep\")");
            return Ok(());
        }
        dataplane.stop();
        for (index, hop) in neighbours {
            if let Err(error) = netlink.release_neighbour(index, hop).await {
                tracing::debug!(%error, "neighbour");
            }
        }
        network::clear(&netlink, numbers, config.accesses.len())
            .await
            .context("removing routes and rules")?;
        netlink
            .delete_link(&config.agent.device)
            .await
            .context("removing the TUN")?;
        ebpf.remove_pins();
        drop(ebpf);
        netlink
            .delete_link(&config.agent.anchor_device)
            .await
            .context("removing the anchor device")?;
        Ok(())
    }
}

/// Takes the instance for as long as the file is open; the kernel lets go of it
/// however the process ends.
fn lock(directory: &Path, instance: &str) -> anyhow::Result<File> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("creating {} (`state_dir`)", directory.display()))?;
    let path = directory.join(format!("{instance}.lock"));
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        // Whoever may read it may lock it, and keep us from starting.
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => anyhow::bail!(
            "another agent runs as instance {instance:?} ({} is locked); stop it, or give \
             this one its own `instance`",
            path.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

/// What a start that failed has to take back. Where a predecessor was killed its
/// guard is older than us and stays: the host was closed before and remains so.
struct Leavings {
    fresh: bool,
    device: String,
    anchor_device: String,
    numbers: Numbers,
    accesses: usize,
}

impl Leavings {
    async fn remove(self, netlink: &Netlink, ebpf: Option<Ebpf>) {
        if !self.fresh {
            return;
        }
        if let Some(mut ebpf) = ebpf {
            ebpf.remove_pins();
        }
        let steps = [
            network::clear(netlink, self.numbers, self.accesses).await,
            netlink.delete_link(&self.device).await,
            netlink.delete_link(&self.anchor_device).await,
        ];
        for error in steps.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "cleaning up after a failed start");
        }
    }
}

/// Readiness of the programs' ring buffers; the programs outlive it.
pub(super) struct ProgramNews {
    events: Option<Ready>,
    log: Option<Ready>,
}

impl ProgramNews {
    fn new(ebpf: &Ebpf) -> Self {
        Self {
            events: watch(Some(ebpf.events_fd())),
            log: watch(ebpf.log_fd()),
        }
    }

    /// Waits for either.
    pub(super) async fn ready(&mut self) {
        tokio::select! {
            () = readable(self.events.as_ref()) => {}
            () = readable(self.log.as_ref()) => {}
        }
    }
}

fn watch(fd: Option<BorrowedFd<'_>>) -> Option<Ready> {
    Ready::new(fd?).ok()
}

async fn readable(fd: Option<&Ready>) {
    match fd {
        Some(fd) => match fd.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

/// The configuration's word for the programs'.
pub(super) fn xdp_choice(xdp: Xdp) -> XdpChoice {
    match xdp {
        Xdp::Auto => XdpChoice::Auto,
        Xdp::Native => XdpChoice::Native,
        Xdp::Generic => XdpChoice::Generic,
        Xdp::Tc => XdpChoice::Tc,
        Xdp::Off => XdpChoice::Off,
    }
}

fn workers(config: &Config) -> u32 {
    let workers = match config.agent.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    u32::try_from(workers).unwrap_or(1)
}

/// What the engine sees to; the rest is [`super::lifetime`]'s.
fn lifetime(rekey: &config::Rekey) -> ike::config::Lifetime {
    ike::config::Lifetime {
        time: rekey.time,
        jitter: rekey.jitter,
    }
}

fn engine_config(config: &Config) -> EngineConfig {
    let ts = |ts: &[config::Ts]| {
        ts.iter()
            .map(|t| match t.net {
                net if t.is_part() => TsSpec::Part {
                    net,
                    protocol: t.protocol,
                    ports: t.ports,
                },
                None => TsSpec::Dynamic,
                Some(net) => TsSpec::Net(net),
            })
            .collect()
    };
    let peer = |p: &config::Peer| PeerConfig {
        name: p.name.clone(),
        remote: p.remote.clone(),
        local_id: p.local_id.clone(),
        remote_id: p.remote_id.clone(),
        local_auth: p.local_auth.clone(),
        remote_auth: RemoteAuth {
            psk: p.psk.as_ref().map(config::PskSource::duplicate),
            certificates: p.ca.clone(),
        },
        request_v4: p.request_v4,
        request_v6: p.request_v6,
        inner_addresses: super::pinned::count(p),
        pool: p.pool.clone(),
        require: match p.require {
            config::Require::Any => ike::config::Require::Any,
            config::Require::Mif => ike::config::Require::Mif,
            config::Require::Mobike => ike::config::Require::Mobike,
        },
        mobility: p.mobility,
        ike_proposals: p.ike.clone(),
        esp_proposals: p.esp.clone(),
        dpd: p.dpd,
        rekey: lifetime(&p.rekey),
        ike_rekey: lifetime(&p.ike_rekey),
        // A Child SA of IKE_AUTH would have all inner addresses in it.
        childless: p.childless || super::pinned::any(p),
        children: p
            .protected()
            .map(|c| ChildConfig {
                name: c.name.clone(),
                local_ts: ts(&c.local_ts),
                remote_ts: ts(&c.remote_ts),
                bundle: c.layout == config::Layout::Bundle,
                replay_window: c.replay_window,
            })
            .collect(),
    };
    EngineConfig {
        port: config.agent.port,
        ike_port: config.agent.ike_port,
        pools: config.pools.iter().map(config::Pool::leases).collect(),
        peers: config.peers.iter().map(peer).collect(),
        limits: ike::config::Limits {
            half_open: config.limits.half_open as usize,
            derived: usize::from(config.limits.derived),
            ..ike::config::Limits::default()
        },
        ..EngineConfig::default()
    }
}
