//! Answers to questions: what is, as the views say it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::{Family, IfacePair, IkeId, IkeSpi};
use crate::ike::{IkeSaView, IkeState};
use crate::path::{self, IfaceState};

use super::Agent;
use super::bundle::Child;
use super::handle::{Asked, Question};
use super::peer::Peer;
use super::place::{home, of_peer};
use super::retry::Progress;
use super::views::{
    AccessView, IkeSpis, PATH_SCHEMA, PathView, PathsView, PeerView, SA_SCHEMA, STATUS_SCHEMA,
    SaPath, SaView, SasView, StatusView,
};

/// What the data plane counts that is no drop.
const TRAFFIC: [&str; 9] = [
    "tx_packets",
    "tx_octets",
    "rx_packets",
    "rx_octets",
    "keepalive",
    "ike",
    "probe",
    "dummy",
    "socket_errors",
];

/// What IKE and bundles count that is no drop either.
const EXCHANGES: [&str; 3] = [
    "ike_liveness_answered",
    "ike_retransmitted",
    "bundle_not_split",
];

impl Agent {
    pub(super) fn answer(&mut self, asked: Asked) {
        let line = match asked.question {
            Question::Status => serde_json::to_string(&self.status()),
            Question::Paths => serde_json::to_string(&self.paths()),
            Question::Sas => serde_json::to_string(&self.sas()),
            action => return self.act(action, asked.reply),
        };
        match line {
            // Whoever asked may be gone.
            Ok(line) => drop(asked.reply.send(line)),
            Err(error) => tracing::error!(%error, "answer"),
        }
    }

    fn status(&self) -> StatusView {
        let (drops, counters) = self.counters();
        StatusView {
            schema: STATUS_SCHEMA.into(),
            name: self.config.agent.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_ms: millis(self.started.elapsed()),
            peers: self.peer_views(),
            accesses: self.access_views(),
            totals: self.totals.clone(),
            last_event_ms: self.last_event.map(|at| millis(at.elapsed())),
            drops,
            counters,
        }
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let engine = self.ike.views();
        let mut out = Vec::new();
        for (index, configured) in self.config.peers.iter().enumerate() {
            let mut any = false;
            for (ike, peer) in self.peers.iter().filter(|(_, p)| p.config == index) {
                any = true;
                let view = engine.iter().find(|v| v.ike == *ike);
                out.push(PeerView {
                    peer: configured.name.clone(),
                    remote_id: peer.remote_id.clone(),
                    state: "established".into(),
                    initiator: peer.initiator,
                    mif: peer.mif,
                    tier: peer.tier().into(),
                    leases: peer.leases.iter().map(ToString::to_string).collect(),
                    spi_i: view.map(|v| spi(v.spi_i)),
                    spi_r: view.map(|v| spi(v.spi_r)),
                    children: self
                        .children
                        .values()
                        .filter(|c| c.ike == *ike && c.sends)
                        .count(),
                    channel: Some(self.accesses.name(peer.channel.local_iface)),
                    reason: None,
                });
            }
            if any {
                continue;
            }
            let connecting =
                |v: &&IkeSaView| v.peer == configured.name && v.state == IkeState::Connecting;
            let attempt = engine.iter().find(connecting);
            let retry = &self.retries[index];
            let state = match retry.progress {
                Progress::Trying { .. } => "connecting",
                Progress::Waiting { .. } => "waiting",
                Progress::Passive if configured.remote.is_empty() => "listening",
                Progress::Passive | Progress::Due(_) | Progress::Up(_) => "down",
            };
            out.push(PeerView {
                peer: configured.name.clone(),
                remote_id: configured.remote_id.to_string(),
                state: state.into(),
                initiator: !configured.remote.is_empty(),
                mif: false,
                tier: String::new(),
                leases: Vec::new(),
                spi_i: attempt.map(|v| spi(v.spi_i)),
                spi_r: attempt.map(|v| spi(v.spi_r)),
                children: 0,
                channel: None,
                reason: retry.reason.clone(),
            });
        }
        out
    }

    fn access_views(&self) -> Vec<AccessView> {
        self.accesses
            .links()
            .map(|(index, settings, used)| {
                // One without guard is not used, but it is not missing either.
                let link = used.or_else(|| self.state.link(&settings.interface));
                let id = super::access::access_id(index);
                let ifaces: Vec<_> = self.accesses.local().filter(|l| l.access == id).collect();
                let state = match link {
                    None => "missing",
                    Some(_) if ifaces.iter().any(|l| l.state == IfaceState::Up) => "up",
                    Some(_) if ifaces.iter().any(|l| l.state == IfaceState::Backup) => "drained",
                    Some(_) if ifaces.iter().any(|l| l.state == IfaceState::NoAddress) => {
                        "no-address"
                    }
                    Some(_) => "down",
                };
                AccessView {
                    interface: settings.interface.clone(),
                    state: state.into(),
                    addresses: ifaces
                        .iter()
                        .flat_map(|l| l.addresses.iter().map(ToString::to_string))
                        .collect(),
                    ingress: link.and_then(|l| match self.attached.get(&l.index)? {
                        Ok(mode) => Some(mode.clone()),
                        Err(error) => Some(format!("failed: {error}")),
                    }),
                }
            })
            .collect()
    }

    /// Drops alone, and everything; zeros are left out.
    fn counters(&self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let mut drops = BTreeMap::new();
        let mut all = BTreeMap::new();
        let add = |map: &mut BTreeMap<String, u64>, name: &str, count: u64| {
            if count > 0 {
                *map.entry(name.to_owned()).or_default() += count;
            }
        };
        for (name, count) in self.ebpf.reasons() {
            add(&mut all, name, count);
            if ebpf_drop(name) {
                add(&mut drops, name, count);
            }
        }
        for (name, count) in self.dataplane.counters() {
            add(&mut all, name, count);
            if !TRAFFIC.contains(&name) {
                add(&mut drops, name, count);
            }
        }
        let engines = [
            self.ike.counters(),
            self.path.counters(),
            self.refused.clone(),
        ];
        for (name, count) in engines.into_iter().flatten() {
            if EXCHANGES.contains(&name) {
                add(&mut all, name, count);
            } else {
                add(&mut drops, name, count);
            }
        }
        for (name, count) in &drops {
            all.entry(name.clone()).or_insert(*count);
        }
        (drops, all)
    }

    fn paths(&self) -> PathsView {
        let mut paths: Vec<PathView> = self
            .path
            .views()
            .iter()
            .map(|v| self.path_view(v))
            .collect();
        paths.sort_by_key(|p| p.index);
        PathsView {
            schema: PATH_SCHEMA.into(),
            paths,
        }
    }

    fn path_view(&self, view: &path::PathView) -> PathView {
        let (peer, remote_id) = self.names(view.ike);
        let stats = self.ebpf.path_stats(view.path);
        let address =
            |a: Option<std::net::SocketAddr>| a.map_or_else(String::new, |a| a.to_string());
        PathView {
            index: view.path.0,
            peer,
            remote_id,
            tier: self.peers.get(&view.ike).map_or("", Peer::tier).into(),
            access: self.accesses.name(view.pair.local),
            local_iface: view.pair.local.0,
            remote_iface: view.pair.remote.0,
            family: match view.family {
                Family::V4 => "ipv4".into(),
                Family::V6 => "ipv6".into(),
            },
            local: address(view.local),
            remote: address(view.remote),
            nat: view.nat,
            state: if view.up {
                "up".into()
            } else if view.validated {
                "down".into()
            } else {
                "validating".into()
            },
            validated: view.validated,
            channel: view.channel,
            home: view.home,
            carried_by: view.carried_by.map(|pair| self.carrier(view, pair)),
            rtt_us: view
                .rtt
                .map(|r| u64::try_from(r.as_micros()).unwrap_or(u64::MAX)),
            loss_ppm: view.rtt.map(|_| u64::from(view.loss_ppm)),
            tx_packets: stats.tx_packets,
            tx_octets: stats.tx_octets,
            rx_packets: stats.rx_packets,
            rx_octets: stats.rx_octets,
            mtu: view.mtu,
        }
    }

    /// The path whose entry another one has; without index while there is none.
    fn carrier(&self, carried: &path::PathView, pair: IfacePair) -> SaPath {
        let views = self.path.views();
        let mut of_peer = of_peer(&views, carried.ike).iter();
        let found = of_peer.find(|v| v.pair == pair && v.family == carried.family);
        SaPath {
            index: found.map(|v| v.path.0),
            local: self.accesses.name(pair.local),
            local_iface: pair.local.0,
            remote_iface: pair.remote.0,
        }
    }

    fn sas(&self) -> SasView {
        let now = Instant::now();
        let views = self.path.views();
        let engine = self.ike.views();
        let sas = self
            .children
            .iter()
            .map(|(id, child)| {
                let (peer, remote_id) = self.names(child.ike);
                let ike = engine.iter().find(|v| v.ike == child.ike);
                let (inbound, outbound) = (child.inbound.counters(), child.outbound.counters());
                SaView {
                    peer,
                    remote_id,
                    ike: IkeSpis {
                        spi_i: ike.map(|v| spi(v.spi_i)).unwrap_or_default(),
                        spi_r: ike.map(|v| spi(v.spi_r)).unwrap_or_default(),
                    },
                    child: child.name.clone(),
                    spi_in: child.inbound.spi().to_string(),
                    spi_out: child.outbound.spi().to_string(),
                    key_in: hex(&child.key_in),
                    key_out: hex(&child.key_out),
                    path: SaPath {
                        index: home(&views, child.ike, child.pair)
                            .current()
                            .map(|place| place.index().0),
                        local: self.accesses.name(child.pair.local),
                        local_iface: child.pair.local.0,
                        remote_iface: child.pair.remote.0,
                    },
                    bundle: child.bundle,
                    esn: child.esn,
                    algorithm: child.algorithm.to_string(),
                    packets_in: inbound.packets,
                    packets_out: outbound.packets,
                    octets_in: inbound.octets,
                    octets_out: outbound.octets,
                    replay_drops: inbound.replay_drops,
                    age_ms: millis(now.saturating_duration_since(child.installed)),
                    member: child.member.0,
                    generation: child.generation,
                    sends: child.sends,
                    replaced_by: self.replaced_by(*id).map(|spi| spi.to_string()),
                    rekey_ms: self.rekey_time(child).map(|time| {
                        millis((child.installed + time).saturating_duration_since(now))
                    }),
                    rekey_packets: some(child.lifetime.soft.packets),
                    rekey_octets: some(child.lifetime.soft.octets),
                }
            })
            .collect();
        SasView {
            schema: SA_SCHEMA.into(),
            sas,
        }
    }

    fn rekey_time(&self, child: &Child) -> Option<Duration> {
        let peer = self.peers.get(&child.ike)?;
        self.config.peers.get(peer.config)?.rekey.time
    }

    pub(super) fn names(&self, ike: IkeId) -> (String, String) {
        self.peers.get(&ike).map_or_else(Default::default, |p| {
            (
                self.config.peers[p.config].name.clone(),
                p.remote_id.clone(),
            )
        })
    }
}

/// A limit, if there is one.
fn some(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

/// Which of the programs' reasons are packets that went nowhere.
fn ebpf_drop(name: &str) -> bool {
    use mifsec_common::Reason;
    let passed = [
        Reason::DIVERTED,
        Reason::UNKNOWN_SPI_GRO,
        Reason::UNKNOWN_ESP,
        Reason::INGRESS_TRUNCATED,
        Reason::NEW_SOURCE,
        Reason::EVENT_LOST,
    ];
    !passed.iter().any(|r| r.name() == name)
}

fn spi(spi: IkeSpi) -> String {
    format!("{:016x}", spi.0)
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
