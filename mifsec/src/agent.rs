//! The agent: one task that owns the engines, the maps, the data plane and the
//! network, and translates between them. No engine knows another.
//!
//! Inputs: datagrams and probes from the data plane, IKE_SA_INIT from its own
//! socket, news from netlink and the programs, questions from the control
//! socket, timers. After every input all outputs are drained until nothing
//! moves: IKE events, SA requests, path events; then maps and one snapshot; then
//! what is to be sent. So a map is right before the message that depends on it
//! leaves, and the data plane sees one consistent state per input.

#![forbid(unsafe_code)]

mod access;
mod action;
mod add;
mod anchors;
mod bundle;
mod dark;
mod dns;
pub mod explain;
mod guard;
mod handle;
mod lifetime;
mod mobike;
mod moves;
mod network;
mod news;
mod paths;
mod peer;
mod pinned;
mod place;
mod probe;
mod reauth;
mod redirect;
mod rekey;
mod retry;
mod sabotage;
mod secrets;
mod setup;
mod show;
mod socket;
mod spd;
mod standby;
mod told;
mod trap;
pub mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mifsec_common::steering;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use crate::config::Config;
use crate::crypto::SystemEntropy;
use crate::dataplane::{Dataplane, Input, UdpSender};
use crate::ebpf::{Ebpf, SpdRule};
use crate::ids::{Arrival, ChildId, IkeId, PathIndex, Spi};
use crate::ike::mif::InterfaceRecord;
use crate::ike::{self, Command};
use crate::io::netlink::{Netlink, NetlinkError, News, State, Watch};
use crate::path::{self, Activity, Entry, TransmitKind};

use self::access::Accesses;
use self::anchors::Anchors;
use self::bundle::Child;
use self::dns::Dns;
use self::handle::Asked;
use self::network::{Devices, Numbers};
use self::peer::Peer;
use self::reauth::Reauth;
use self::retry::Retry;
use self::sabotage::Sabotage;
use self::secrets::Secrets;
use self::socket::IkeSocket;
use self::told::AllTold;
use self::views::{EVENT_SCHEMA, EventView, Totals};

pub use self::handle::{Handle, Question};

/// RFC 3948 2.2: four zero octets before IKE on the NAT-T port.
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// RFC 3948 2.3.
const KEEPALIVE: [u8; 1] = [0xff];
/// How long a peer still accepts our old address after a move.
const MOVE_GRACE: Duration = Duration::from_secs(2);
/// How often path activity is looked at while data flows, and while not.
const ACTIVE_POLL: Duration = Duration::from_millis(10);
const IDLE_POLL: Duration = Duration::from_millis(100);
/// How long nothing at all may be due.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// Data flows while a counter has moved within this time.
const ACTIVE_FOR: Duration = Duration::from_millis(250);
/// How often the engine hears that a peer's data comes in.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How long a clean stop waits for its deletes to be answered.
const FAREWELL: Duration = Duration::from_millis(800);
/// When the kernel's state is read again after that failed.
const REREAD: Duration = Duration::from_millis(100);
/// When rules the guard did not take are given to it again.
const GUARD_AGAIN: Duration = Duration::from_millis(500);
/// Inputs taken before outputs are drained.
const INPUTS: usize = 64;

/// The agent.
pub struct Agent {
    config: Config,
    started: Instant,
    entropy: SystemEntropy,
    sabotage: Sabotage,
    ike: ike::Engine,
    path: path::Engine,
    ebpf: Ebpf,
    dataplane: Dataplane,
    sender: UdpSender,
    ike_socket: IkeSocket,
    /// Held as long as the agent lives.
    _lock: File,
    netlink: Netlink,
    numbers: Numbers,
    devices: Devices,
    state: State,
    accesses: Accesses,
    /// Accesses the programs sit on: how arrivals are looked at, or why they do not.
    attached: BTreeMap<u32, Result<String, String>>,
    announced: Option<Vec<InterfaceRecord>>,
    anchors: Anchors,
    peers: BTreeMap<IkeId, Peer>,
    /// What the operator said of them.
    told: AllTold,
    retries: Vec<Retry>,
    secrets: Secrets,
    /// IKE SAs that are to be replaced.
    reauths: BTreeMap<IkeId, Reauth>,
    dns: Dns,
    children: BTreeMap<ChildId, Child>,
    larval: BTreeSet<Spi>,
    probes: BTreeMap<Spi, IkeId>,
    entries: BTreeMap<PathIndex, Entry>,
    arrivals: BTreeMap<Arrival, PathIndex>,
    neighbours: BTreeSet<(u32, IpAddr)>,
    seen: BTreeMap<PathIndex, (u64, Option<Instant>)>,
    active_until: Instant,
    next_poll: Instant,
    /// Something the snapshot is made of has changed.
    changed: bool,
    /// Our interfaces differ from what peers were told.
    announce_due: bool,
    guard_dirty: bool,
    /// The rules could not be written: when to try again.
    guard_again: Option<Instant>,
    /// The rules the guard has.
    guard: Vec<SpdRule>,
    /// Workers, and which one takes which flow.
    queues: u32,
    queue_table: Option<steering::Table>,
    /// The state could not be read: when to try again.
    reread: Option<Instant>,
    routes_dirty: bool,
    neighbours_dirty: bool,
    totals: Totals,
    refused: BTreeMap<&'static str, u64>,
    /// Bundles of the newest snapshot that should have been split and are not.
    whole: u64,
    events: broadcast::Sender<String>,
    last_event: Option<Instant>,
}

/// What the loop waits for.
pub struct Sources {
    inputs: mpsc::Receiver<Input>,
    watch: Watch,
    asked: mpsc::Receiver<Asked>,
    programs: setup::ProgramNews,
}

impl Agent {
    /// Runs until told to stop, then cleans up as configured.
    ///
    /// # Errors
    /// When the kernel's news cannot be read any more, or cleaning up failed.
    pub async fn run(mut self, mut sources: Sources) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        self.look().await?;
        loop {
            let deadline = loop {
                let deadline = self.due(Instant::now());
                if !self.unsettled() {
                    break deadline;
                }
                self.settle().await?;
            };
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    tracing::warn!("psk_table is read again; restart the agent to take in other changes");
                    self.read_secrets(true, Instant::now());
                }
                Some(input) = sources.inputs.recv() => self.inputs(input, &mut sources.inputs)?,
                news = sources.watch.next() => match news {
                    Some(news) => self.news(news, &mut sources.watch).await?,
                    None => anyhow::bail!("the netlink socket closed"),
                },
                received = self.ike_socket.receive() => {
                    let now = Instant::now();
                    for (arrival, bytes) in received? {
                        self.ike_datagram(arrival, &bytes, now);
                    }
                }
                Some(asked) = sources.asked.recv() => self.answer(asked),
                () = sources.programs.ready() => self.program_news(),
                applied = self.dns.answer() => self.names_applied(&applied),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
        self.farewell(&mut sources).await;
        self.tear_down().await
    }

    /// Does what is due and says when something is next.
    fn due(&mut self, now: Instant) -> Instant {
        let reached = |at: Option<(Instant, _)>| at.is_some_and(|(at, ())| at <= now);
        if reached(self.ike.poll_timeout().map(|(at, _)| (at, ()))) {
            self.ike.handle_timeout(now);
        }
        if !self.entries.is_empty() && self.next_poll <= now {
            self.poll_activity(now);
        }
        if reached(self.path.poll_timeout().map(|(at, _)| (at, ()))) {
            self.path.handle_timeout(now);
        }
        self.release_held(now);
        self.retire_probes(now);
        self.reauth_due(now);
        self.dark_due(now);
        self.retry_due(now);
        self.secrets_due(now);
        self.refused_children_due(now);
        self.changes_due(now);
        self.pairs_due(now);
        self.moves_due(now);
        self.guard_dirty |= self.guard_again.is_some_and(|at| at <= now);
        // Whatever that made is drained before anybody waits.
        self.drain();
        self.deadline(now)
    }

    /// When something is due next; without peer and timer, not soon.
    fn deadline(&self, now: Instant) -> Instant {
        [
            self.ike.poll_timeout().map(|(at, _)| at),
            self.path.poll_timeout().map(|(at, _)| at),
            self.held_until(),
            self.changes_until(),
            self.retry_at(),
            self.probes_until(),
            self.reauth_at(),
            self.dark_at(),
            self.refused_until(),
            self.pairs_until(),
            self.moves_until(),
            self.look_due(),
            self.secrets.due(),
            self.guard_again,
            (!self.entries.is_empty()).then_some(self.next_poll),
        ]
        .into_iter()
        .flatten()
        .fold(now + LONGEST_WAIT, Instant::min)
    }

    /// Fails when the data plane does: the guard stays, so nothing leaves in clear.
    fn inputs(&mut self, first: Input, more: &mut mpsc::Receiver<Input>) -> anyhow::Result<()> {
        let mut next = Some(first);
        for _ in 0..INPUTS {
            let Some(input) = next.take() else { break };
            self.input(input, Instant::now())?;
            next = more.try_recv().ok();
        }
        next.map_or(Ok(()), |input| self.input(input, Instant::now()))
    }

    fn input(&mut self, input: Input, now: Instant) -> anyhow::Result<()> {
        match input {
            Input::Ike { arrival, bytes } => self.ike_datagram(arrival, &bytes, now),
            Input::Probe {
                arrival,
                spi,
                mut bytes,
            } => {
                let Some((ike, probe)) = self
                    .probes
                    .get(&spi)
                    .and_then(|ike| Some((*ike, self.peers.get_mut(ike)?.probe.as_mut()?)))
                else {
                    self.refuse("probe_unknown_spi");
                    return Ok(());
                };
                match probe.open(spi, &mut bytes, now) {
                    Ok((sequence, payload)) => {
                        self.path.handle_probe(ike, arrival, sequence, payload, now);
                    }
                    Err(reason) => self.refuse(reason),
                }
            }
            Input::NewSource {
                arrival,
                spi: _,
                path,
            } => {
                if !self.follow_source(path, arrival, now) {
                    self.path.handle_new_source(path, arrival, now);
                }
            }
            Input::FirstPacket { spi } => self.first_packet(spi),
            Input::Wanted { peer } => self.wanted(peer, now),
            Input::WorkerGone { index, error } => {
                anyhow::bail!("data plane worker {index} ended: {error}");
            }
        }
        Ok(())
    }

    fn ike_datagram(&mut self, arrival: Arrival, bytes: &[u8], now: Instant) {
        // Only what arrives on an access is for us.
        if !self.accesses.local().any(|l| l.ifindex == arrival.ifindex) {
            self.refuse("ike_not_on_an_access");
            return;
        }
        self.tell_time(now);
        self.ike.handle_datagram(arrival, bytes, now);
    }

    /// The engine reads no clock; this one may be set at any time.
    fn tell_time(&mut self, now: Instant) {
        if let Ok(unix) = SystemTime::now().duration_since(UNIX_EPOCH) {
            self.ike.set_wall_clock(unix, now);
        }
    }

    async fn news(&mut self, first: News, watch: &mut Watch) -> anyhow::Result<()> {
        let mut news = vec![first];
        self.lost(first);
        // One change comes as several messages: read the state once for all.
        tokio::task::yield_now().await;
        while news.len() < 256
            && let Ok(Some(more)) = tokio::time::timeout(Duration::ZERO, watch.next()).await
        {
            self.lost(more);
            news.push(more);
        }
        if news.iter().any(|n| self.concerns_us(*n)) {
            self.look().await?;
        }
        Ok(())
    }

    /// Follows the kernel; what fails in passing is tried again soon.
    async fn look(&mut self) -> anyhow::Result<()> {
        self.reread = None;
        match self.follow().await {
            Ok(()) => {
                let name = &self.config.agent.anchor_device;
                let anchor = self.state.link(name).map(|l| l.index);
                // The programs sat on it. They cannot be moved; the guard stays.
                anyhow::ensure!(
                    anchor == Some(self.devices.anchor),
                    "the anchor device {name} was removed; start the agent again"
                );
                Ok(())
            }
            Err(error @ NetlinkError::Closed) => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "network");
                self.reread = Some(Instant::now() + REREAD);
                Ok(())
            }
        }
    }

    /// When the kernel is to be asked without news.
    fn look_due(&self) -> Option<Instant> {
        self.reread.or(self.accesses.deadline())
    }

    /// A path that is dead is down before anything is read: each packet counts.
    fn lost(&mut self, news: News) {
        let News::Lost(index, address) = news else {
            return;
        };
        if self.sabotage.no_update && !self.peers.is_empty() {
            return;
        }
        let now = Instant::now();
        for iface in self.accesses.lose(index, address) {
            self.path.set_local(iface, now);
            self.changed = true;
            self.announce_due = true;
        }
        self.drain();
        if self.announce_due {
            self.tell_local_addresses();
            self.announce(now);
            self.drain();
        }
    }

    fn concerns_us(&self, news: News) -> bool {
        match news {
            News::Interface(index) | News::Lost(index, Some(_)) => {
                let foreign = self.state.links.iter().any(|l| l.index == index)
                    && !self.accesses.indexes().contains(&index)
                    && index != self.devices.tun;
                !foreign
            }
            // A link that is nobody's may bear the name of an access by now.
            News::Link | News::Lost(_, None) | News::Rule | News::Anything => true,
        }
    }

    /// Tells the path engine what has passed; often while something does.
    fn poll_activity(&mut self, now: Instant) {
        let mut alive = BTreeSet::new();
        let mut moved = false;
        for path in self.entries.keys() {
            let (sent, last_rx) = self.dataplane.activity(*path);
            let known = self.seen.get(path).copied().unwrap_or_default();
            if known == (sent, last_rx) {
                if now >= self.active_until {
                    continue;
                }
            } else {
                moved = true;
                if known.1 != last_rx {
                    alive.insert(*path);
                }
                self.seen.insert(*path, (sent, last_rx));
            }
            self.path
                .handle_activity(*path, Activity { sent, last_rx }, now);
        }
        self.question_pairs(now);
        if moved {
            self.active_until = now + ACTIVE_FOR;
        }
        let pause = if now < self.active_until {
            ACTIVE_POLL
        } else {
            IDLE_POLL
        };
        self.next_poll = now + pause;
        self.check_lifetimes(now);
        if !alive.is_empty() {
            self.peers_alive(&alive, now);
        }
    }

    fn peers_alive(&mut self, paths: &BTreeSet<PathIndex>, now: Instant) {
        if !self
            .peers
            .values()
            .any(|p| p.alive.is_none_or(|at| now >= at + ALIVE_EVERY))
        {
            return;
        }
        let ikes: BTreeSet<IkeId> = self
            .path
            .views()
            .iter()
            .filter(|v| paths.contains(&v.path))
            .map(|v| v.ike)
            .collect();
        for ike in ikes {
            let Some(peer) = self.peers.get_mut(&ike) else {
                continue;
            };
            if peer.alive.is_none_or(|at| now >= at + ALIVE_EVERY) {
                peer.alive = Some(now);
                self.ike.handle_command(Command::PeerAlive { ike }, now);
            }
        }
    }

    /// Takes every output of every engine until there is none.
    fn drain(&mut self) {
        loop {
            let now = Instant::now();
            self.drain_engines(now);
            if self.guard_dirty {
                self.apply_guard();
            }
            if !self.transmit() {
                break;
            }
        }
    }

    fn drain_engines(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some(event) = self.ike.poll_event() {
                self.ike_event(event, now);
                quiet = false;
            }
            while let Some(request) = self.ike.poll_sa_request() {
                self.sa_request(request, now);
                quiet = false;
            }
            while let Some(event) = self.path.poll_event() {
                self.path_event(event, now);
                quiet = false;
            }
            if !quiet {
                continue;
            }
            if !self.changed {
                break;
            }
            self.changed = false;
            let views = self.path.views();
            self.note_dark(&views, now);
            self.ensure_carriers(&views, now);
            self.ensure_channels(&views, now);
            self.ensure_standbys(&views, now);
            self.ensure_members(&views, now);
            self.answer_additions(now);
            self.publish(&views, now);
        }
    }

    /// Sends what is waiting; whether there was anything.
    fn transmit(&mut self) -> bool {
        let now = Instant::now();
        let mut any = false;
        while let Some(transmit) = self.ike.poll_transmit() {
            any = true;
            let (local, remote) = (transmit.local, transmit.remote);
            let ifindex = self.accesses.out_of(transmit.ifindex, local.ip());
            let sent = if local.port() == self.config.agent.port {
                let mut marked = NON_ESP_MARKER.to_vec();
                marked.extend_from_slice(&transmit.payload);
                self.sender.send(ifindex, local, remote, &marked)
            } else {
                self.ike_socket
                    .send(ifindex, local, remote, &transmit.payload)
            };
            if let Err(error) = sent {
                tracing::debug!(%local, %remote, %error, "IKE message not sent");
                self.refuse("ike_not_sent");
            }
        }
        while let Some(transmit) = self.path.poll_transmit() {
            any = true;
            let bytes = match &transmit.kind {
                TransmitKind::Keepalive => KEEPALIVE.to_vec(),
                TransmitKind::Probe(plaintext) => {
                    let probe = self.peers.get(&transmit.ike).and_then(|p| p.probe.as_ref());
                    match probe.and_then(|p| p.seal(plaintext, now)) {
                        Some(packet) => packet,
                        None => continue,
                    }
                }
            };
            let sent = self
                .sender
                .send(transmit.ifindex, transmit.local, transmit.remote, &bytes);
            if let Err(error) = sent {
                tracing::debug!(local = %transmit.local, remote = %transmit.remote, %error, "probe not sent");
                self.refuse("probe_not_sent");
            }
        }
        any
    }

    /// Whether there is something for [`settle`](Self::settle).
    fn unsettled(&self) -> bool {
        self.routes_dirty
            || self.neighbours_dirty
            || self.look_due().is_some_and(|at| at <= Instant::now())
    }

    /// What needs the kernel's answer.
    async fn settle(&mut self) -> anyhow::Result<()> {
        if self.look_due().is_some_and(|at| at <= Instant::now()) {
            self.look().await?;
        } else if self.routes_dirty {
            match self.netlink.state().await {
                Ok(state) => self.state = state,
                Err(error) => tracing::warn!(%error, "network"),
            }
            self.apply_network().await;
        } else if self.neighbours_dirty {
            self.apply_neighbours().await;
        }
        Ok(())
    }

    fn apply_guard(&mut self) {
        self.guard_dirty = false;
        self.guard_again = None;
        let established: BTreeSet<&str> = self
            .peers
            .values()
            .map(|p| self.config.peers[p.config].name.as_str())
            .collect();
        let rules = if self.sabotage.no_guard {
            Vec::new()
        } else {
            guard::rules(&self.config, &established)
        };
        if rules == self.guard {
            return;
        }
        match self.ebpf.set_spd(&rules) {
            Ok(()) => self.guard = rules,
            Err(error) => {
                tracing::error!(%error, "guard rules not in the map");
                self.guard_again = Some(Instant::now() + GUARD_AGAIN);
            }
        }
    }

    fn program_news(&mut self) {
        for event in self.ebpf.drain_events() {
            tracing::debug!(?event, "program");
        }
        self.ebpf.drain_log();
    }

    /// Deletes the IKE SAs and waits a moment for the answers.
    async fn farewell(&mut self, sources: &mut Sources) {
        tracing::info!("stopping");
        let now = Instant::now();
        for retry in &mut self.retries {
            retry.progress = retry::Progress::Passive;
        }
        self.reauths.clear();
        let all: Vec<IkeId> = self.ike.views().iter().map(|v| v.ike).collect();
        for ike in all {
            self.ike.handle_command(Command::DeleteIke { ike }, now);
        }
        let end = now + FAREWELL;
        loop {
            let deadline = self.due(Instant::now()).min(end);
            self.drain();
            if self.ike.views().is_empty() || Instant::now() >= end {
                return;
            }
            tokio::select! {
                Some(input) = sources.inputs.recv() => {
                    if let Err(error) = self.inputs(input, &mut sources.inputs) {
                        tracing::warn!(%error, "while stopping");
                    }
                }
                received = self.ike_socket.receive() => {
                    for (arrival, bytes) in received.unwrap_or_default() {
                        self.ike_datagram(arrival, &bytes, Instant::now());
                    }
                }
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
        }
    }

    fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// An event for whoever listens.
    fn tell(&mut self, event: &str, fields: &[(&str, Value)]) {
        self.last_event = Some(Instant::now());
        if self.events.receiver_count() == 0 {
            return;
        }
        let at = self.started.elapsed().as_millis();
        let view = EventView {
            schema: EVENT_SCHEMA.into(),
            event: event.into(),
            at_ms: u64::try_from(at).unwrap_or(u64::MAX),
            fields: fields
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
        };
        if let Ok(line) = serde_json::to_string(&view) {
            // Nobody listening any more is no error.
            let _ = self.events.send(line);
        }
    }
}
