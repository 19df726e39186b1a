//! The steering programs: loading, attaching, and the maps they read.
//!
//! The only user of aya. User space alone writes policy and addresses, the
//! programs alone write counters, and keys never come here.
//!
//! A path's address is changed by writing a new slot and flipping one word; a
//! slot left behind is not written again for 100 ms. Links of `mif_guard` and
//! `mif_egress` are pinned, so that a killed agent leaves the guard in place.
//! Its successor's guard is attached, with rules, before the old one goes.

mod attach;
mod device;
mod mapped;
mod pins;
mod rules;
mod slots;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use aya::util::KernelVersion;
use aya::{EbpfLoader, Pod, programs::SocketFilter};
use aya_log::EbpfLogger;
use mifsec_common::event::EventRecord;
use mifsec_common::maps::{self, QueueSettings};
use mifsec_common::{Addr, PathKey, Reason, SaIn, SaOutKey, SpdEntry, spd, steering};
pub use mifsec_common::{PathEntry, PathStats, SaOut};
use tracing::{debug, info, warn};

pub use types::{
    Config, Direction, EbpfEvent, IngressMode, SpdAction, SpdRule, XdpChoice, path_entry,
};

use crate::ids::{Arrival, PathIndex, Spi};
use attach::{Attached, Hook, NoXdp};
use mapped::MappedArray;
use pins::Pins;
pub use pins::left_behind;
use slots::Slots;

/// Shortest time between two rule tables: a program that still reads the table
/// before the last is long done.
const SPD_REST: Duration = Duration::from_millis(10);

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mifsec-programs"));

/// The loaded programs of one instance.
pub struct Ebpf {
    ebpf: aya::Ebpf,
    config: Config,
    pins: Option<Pins>,
    anchor: Option<Attached>,
    accesses: BTreeMap<u32, Access>,
    sa_out: HashMap<MapData, SaOutKey, SaOut>,
    sa_in: HashMap<MapData, [u8; 4], SaIn>,
    path_in: HashMap<MapData, PathKey, u32>,
    local: HashMap<MapData, Addr, u32>,
    path_stats: PerCpuArray<MapData, PathStats>,
    ports: Array<MapData, u64>,
    spd: Array<MapData, SpdEntry>,
    queue: Array<MapData, QueueSettings>,
    reasons: PerCpuArray<MapData, u64>,
    path_slot: MappedArray<u32>,
    paths: MappedArray<PathEntry>,
    spd_state: MappedArray<u32>,
    /// Keeps the maps behind the mappings in the programs' use alive and named.
    _mapped: [Map; 3],
    events: RingBuf<MapData>,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
    slots: Slots,
    /// Counters of a path when it was last removed: only the programs write them,
    /// a zero from here could be undone by an addition under way.
    counted_before: BTreeMap<u32, PathStats>,
    generation: u32,
    spd_table: u32,
    spd_changed: Option<Instant>,
    port_words: Vec<u64>,
    local_set: BTreeSet<IpAddr>,
    arrivals: BTreeMap<PathKey, IpAddr>,
}

/// What is attached to an access; a part that failed is tried again.
#[derive(Default)]
struct Access {
    guards: BTreeMap<&'static str, Attached>,
    /// Settled once its program is there or not wanted.
    ingress: Option<(IngressMode, Option<Attached>)>,
}

/// What a program did with a packet in [`Ebpf::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The program's return value.
    pub verdict: i32,
    /// The packet after it.
    pub packet: Vec<u8>,
    /// Mean time of a run.
    pub duration: Duration,
}

impl Ebpf {
    /// Loads the object and attaches `mif_egress` to the anchor device.
    ///
    /// What a predecessor of this instance pinned on the anchor is replaced at
    /// once; its guards stay until ours have rules.
    ///
    /// # Errors
    /// The kernel is older than 6.6, refuses a program, or has no TC egress on the anchor device:
    /// without either there is no start. With lockdown, links cannot be pinned.
    pub fn load(config: &Config) -> Result<Self> {
        attach::supported(KernelVersion::current()?)?;
        // SAFETY: no arguments, cannot fail.
        let uid = unsafe { libc::geteuid() };
        let mut this = Self::open(config, uid)?;
        if config.pin {
            match Pins::open(&config.instance) {
                Ok(pins) => this.pins = Some(pins),
                Err(error) if config.lockdown => {
                    return Err(error.context(
                        "lockdown needs pins: without them the guard goes when the agent dies",
                    ));
                }
                Err(error) => warn!(
                    error = format!("{error:#}"),
                    "running unpinned: the guard goes when the agent dies"
                ),
            }
        }
        let anchor = device::device(config.anchor_ifindex).context("anchor device")?;
        let pin = this.pins.as_ref().map(|p| (p, config.anchor_ifindex));
        this.anchor = Some(attach::tc(
            &mut this.ebpf,
            EGRESS,
            &anchor.name,
            Hook::EgressFirst,
            pin,
        )?);
        if let Some(pins) = &this.pins {
            pins.clear_stale(Some((EGRESS, config.anchor_ifindex)));
        }
        Ok(this)
    }

    /// Loads the object without attaching anything, for a socket owner `uid`:
    /// what [`Ebpf::run`] needs.
    ///
    /// # Errors
    /// The kernel refuses a program or a map.
    pub fn open(config: &Config, uid: u32) -> Result<Self> {
        ensure!(
            !OBJECT.is_empty(),
            "built with AYA_BUILD_SKIP: there are no eBPF programs in this binary"
        );
        ensure!(
            config.max_paths > 0 && config.max_sas > 0,
            "no room for paths or SAs"
        );
        let slot_count = maps::slots(config.max_paths);
        let log_level = u8::try_from(config.log_level).unwrap_or(u8::MAX);
        let mut ebpf = EbpfLoader::new()
            .override_global(maps::GLOBAL_UID, &uid, true)
            // Gone when the object has no log sites.
            .override_global(aya_log::LEVEL, &log_level, false)
            // Each may be there twice while it is rekeyed, and linger once more;
            // outbound with an anchor of either family.
            .map_max_entries(maps::SA_OUT, config.max_sas.saturating_mul(8))
            .map_max_entries(maps::SA_IN, config.max_sas.saturating_mul(4))
            .map_max_entries(maps::PATH_SLOT, config.max_paths)
            .map_max_entries(maps::PATHS, slot_count)
            // A path keeps its old arrivals for a grace.
            .map_max_entries(maps::PATH_IN, config.max_paths.saturating_mul(4))
            .map_max_entries(maps::PATH_STATS, config.max_paths)
            .load(OBJECT)
            .context("load the eBPF object")?;
        // The log map is to be held before the programs are loaded.
        let log = match EbpfLogger::init(&mut ebpf) {
            Ok(log) => Some(log),
            Err(error) => {
                debug!(%error, "the programs do not log");
                None
            }
        };
        attach::load_programs(&mut ebpf)?;

        let path_slot = take(&mut ebpf, maps::PATH_SLOT)?;
        let paths = take(&mut ebpf, maps::PATHS)?;
        let spd_state = take(&mut ebpf, maps::SPD_STATE)?;
        Ok(Self {
            sa_out: hash(&mut ebpf, maps::SA_OUT)?,
            sa_in: hash(&mut ebpf, maps::SA_IN)?,
            path_in: hash(&mut ebpf, maps::PATH_IN)?,
            local: hash(&mut ebpf, maps::LOCAL)?,
            path_stats: take(&mut ebpf, maps::PATH_STATS)?.try_into()?,
            ports: array(&mut ebpf, maps::PORTS)?,
            spd: array(&mut ebpf, maps::SPD)?,
            queue: array(&mut ebpf, maps::QUEUE)?,
            reasons: take(&mut ebpf, maps::REASONS)?.try_into()?,
            events: take(&mut ebpf, maps::EVENTS)?.try_into()?,
            path_slot: mapped(&path_slot, config.max_paths)?,
            paths: mapped(&paths, slot_count)?,
            spd_state: mapped(&spd_state, 1)?,
            _mapped: [path_slot, paths, spd_state],
            ebpf,
            config: config.clone(),
            pins: None,
            anchor: None,
            accesses: BTreeMap::new(),
            log,
            slots: Slots::new(slot_count),
            counted_before: BTreeMap::new(),
            generation: 0,
            spd_table: 0,
            spd_changed: None,
            port_words: vec![0; maps::PORT_WORDS as usize],
            local_set: BTreeSet::new(),
            arrivals: BTreeMap::new(),
        })
    }

    /// Attaches `mif_guard` both ways (egress first and last, ingress first) and
    /// `mif_ingress` as chosen. Does nothing for an access that has them; after
    /// an error it may be called again and does what is left.
    ///
    /// # Errors
    /// The device is gone, or a hook refuses. What was attached stays: a guard
    /// without an ingress program is the safe half.
    pub fn attach_access(&mut self, ifindex: u32, xdp: XdpChoice) -> Result<IngressMode> {
        let access = self.accesses.entry(ifindex).or_default();
        if let Some((mode, _)) = access.ingress {
            return Ok(mode);
        }
        let device = device::device(ifindex)?;
        if !sabotaged("no-guard") {
            for (program, layer3, hook) in [
                (GUARD_TOP, GUARD_TOP_L3, Hook::EgressFirst),
                (GUARD_OUT, GUARD_OUT_L3, Hook::EgressLast),
                (GUARD_IN, GUARD_IN_L3, Hook::IngressFirst),
            ] {
                let program = if device.layer3 { layer3 } else { program };
                if access.guards.contains_key(program) {
                    continue;
                }
                let pin = self.pins.as_ref().map(|p| (p, ifindex));
                let link = attach::tc(&mut self.ebpf, program, &device.name, hook, pin)?;
                access.guards.insert(program, link);
            }
        }
        let (mode, program) = attach_ingress(&mut self.ebpf, ifindex, &device, xdp)?;
        access.ingress = Some((mode, program));
        info!(device = device.name, %mode, "access attached");
        self.relieve_predecessor();
        Ok(mode)
    }

    /// Detaches everything from an access.
    pub fn detach_access(&mut self, ifindex: u32) {
        if let Some(access) = self.accesses.remove(&ifindex) {
            let ingress = access.ingress.and_then(|(_, program)| program);
            let all = access.guards.into_values().chain(ingress);
            all.for_each(Attached::detach);
        }
    }

    /// Adds or replaces an outbound SA.
    ///
    /// # Errors
    /// The map is full, or the anchor is outside the configured prefixes.
    pub fn set_sa_out(&mut self, anchor: IpAddr, spi: Spi, sa: SaOut) -> Result<()> {
        let (v4, v6) = &self.config.anchor_prefixes;
        let inside = match anchor {
            IpAddr::V4(a) => v4.contains(&a),
            IpAddr::V6(a) => v6.contains(&a),
        };
        ensure!(inside, "anchor {anchor} is in neither {v4} nor {v6}");
        self.sa_out
            .insert(sa_out_key(anchor, spi), sa, 0)
            .with_context(|| format!("outbound SA {spi}"))
    }

    /// Removes an outbound SA.
    pub fn remove_sa_out(&mut self, anchor: IpAddr, spi: Spi) {
        // The only failure is that it was not there.
        let _ = self.sa_out.remove(&sa_out_key(anchor, spi));
    }

    /// Adds or replaces an inbound SPI.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_sa_in(&mut self, spi: Spi, larval: bool) -> Result<()> {
        let flags = if larval {
            mifsec_common::sa::SA_IN_LARVAL
        } else {
            0
        };
        self.sa_in
            .insert(spi.0.to_be_bytes(), SaIn { flags }, 0)
            .with_context(|| format!("inbound SA {spi}"))
    }

    /// Removes an inbound SPI.
    pub fn remove_sa_in(&mut self, spi: Spi) {
        let _ = self.sa_in.remove(&spi.0.to_be_bytes());
    }

    /// Puts `entry` in force for `path`: a new slot, then the flip. Its
    /// generation is set here.
    ///
    /// # Errors
    /// The index is beyond the configured number of paths.
    pub fn set_path(&mut self, path: PathIndex, entry: &PathEntry) -> Result<()> {
        ensure!(
            path.0 < self.config.max_paths,
            "path {} of {}",
            path.0,
            self.config.max_paths
        );
        if self.slots.current(path.0).is_some() && sabotaged("no-flip") {
            return Ok(());
        }
        let slot = loop {
            match self.slots.take(Instant::now()) {
                Ok(slot) => break slot,
                // More than one flip of every path within the quarantine.
                Err(slots::Exhausted(Some(until))) => {
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                }
                Err(slots::Exhausted(None)) => anyhow::bail!("no path slot is left"),
            }
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.paths.write(
            slot,
            PathEntry {
                generation,
                ..*entry
            },
        )?;
        self.path_slot.flip(path.0, slot)?;
        self.slots.flipped(path.0, slot, Instant::now());
        Ok(())
    }

    /// Takes a path out of force; its counters begin anew.
    pub fn remove_path(&mut self, path: PathIndex) {
        if self.slots.current(path.0).is_none() {
            return;
        }
        // Slot 0 is empty: state "none". The index was checked when it was set.
        let _ = self.path_slot.flip(path.0, 0);
        self.slots.removed(path.0, Instant::now());
        let counted = self.counted(path);
        self.counted_before.insert(path.0, counted);
    }

    /// Counts what arrives like this on `path`. For native ESP the remote port is 0.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_arrival(&mut self, arrival: &Arrival, path: PathIndex) -> Result<()> {
        let key = types::arrival_key(arrival);
        self.path_in
            .insert(key, path.0, 0)
            .with_context(|| format!("arrival {arrival:?}"))?;
        self.arrivals.insert(key, arrival.local.ip());
        self.put_local(arrival.local.ip())
    }

    /// Forgets an arrival.
    pub fn remove_arrival(&mut self, arrival: &Arrival) {
        let key = types::arrival_key(arrival);
        let _ = self.path_in.remove(&key);
        self.arrivals.remove(&key);
        self.drop_local(arrival.local.ip());
    }

    /// Replaces the guard's rules as a whole: the other table is written, then
    /// one word says which is in force.
    ///
    /// # Errors
    /// More than 256 rules, or a rule that mixes families; nothing has changed then.
    pub fn set_spd(&mut self, rules: &[SpdRule]) -> Result<()> {
        let entries = rules::entries(rules)?;
        if let Some(since) = self.spd_changed {
            std::thread::sleep(SPD_REST.saturating_sub(since.elapsed()));
        }
        let table = 1 - self.spd_table;
        for (i, entry) in (table * spd::MAX_RULES..).zip(&entries) {
            self.spd.set(i, entry, 0).context("SPD")?;
        }
        let count = u32::try_from(entries.len())?;
        self.spd_state.flip(0, maps::spd_state(table, count))?;
        self.spd_table = table;
        self.spd_changed = Some(Instant::now());
        self.relieve_predecessor();
        Ok(())
    }

    /// Replaces our UDP ports: those that carry ESP and marked IKE (`nat_t`,
    /// usually 4500), and those of plain IKE (`ike`, usually 500).
    ///
    /// # Errors
    /// The kernel refuses a write.
    pub fn set_ports(&mut self, nat_t: &[u16], ike: &[u16]) -> Result<()> {
        let mut words = vec![0u64; self.port_words.len()];
        let kinds = [(ike, maps::PORT_IKE), (nat_t, maps::PORT_NAT_T)];
        for (port, kind) in kinds
            .into_iter()
            .flat_map(|(ports, kind)| ports.iter().map(move |p| (*p, kind)))
        {
            let (word, shift) = maps::port_word(port);
            if let Some(word) = words.get_mut(word as usize) {
                *word = (*word & !(3 << shift)) | (kind << shift);
            }
        }
        for (i, (new, old)) in (0u32..).zip(words.iter().zip(&self.port_words)) {
            if new != old {
                self.ports.set(i, new, 0).context("PORTS")?;
            }
        }
        self.port_words = words;
        Ok(())
    }

    /// Replaces the set of our outer addresses. On ingress only traffic to them
    /// (and to the addresses of arrivals) is policed; the rest is somebody else's.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<()> {
        let gone: Vec<IpAddr> = self
            .local_set
            .iter()
            .copied()
            .filter(|a| !addresses.contains(a))
            .collect();
        self.local_set = addresses.iter().copied().collect();
        gone.into_iter().for_each(|a| self.drop_local(a));
        addresses.iter().try_for_each(|a| self.put_local(*a))
    }

    /// What the programs counted on `path` since it was last removed.
    #[must_use]
    pub fn path_stats(&self, path: PathIndex) -> PathStats {
        let now = self.counted(path);
        let Some(before) = self.counted_before.get(&path.0) else {
            return now;
        };
        let later = |now, before| if now == before { 0 } else { now };
        PathStats {
            tx_packets: now.tx_packets.saturating_sub(before.tx_packets),
            tx_octets: now.tx_octets.saturating_sub(before.tx_octets),
            rx_packets: now.rx_packets.saturating_sub(before.rx_packets),
            rx_octets: now.rx_octets.saturating_sub(before.rx_octets),
            tx_last: later(now.tx_last, before.tx_last),
            rx_last: later(now.rx_last, before.rx_last),
            tx_drops: now.tx_drops.saturating_sub(before.tx_drops),
            reserved: now.reserved,
        }
    }

    /// What the programs counted on `path` since the start.
    fn counted(&self, path: PathIndex) -> PathStats {
        let mut sum = PathStats::default();
        let Ok(values) = self.path_stats.get(&path.0, 0) else {
            return sum;
        };
        for cpu in values.iter() {
            let PathStats {
                tx_packets,
                tx_octets,
                rx_packets,
                rx_octets,
                tx_last,
                rx_last,
                tx_drops,
                reserved: _,
            } = *cpu;
            sum.tx_packets += tx_packets;
            sum.tx_octets += tx_octets;
            sum.rx_packets += rx_packets;
            sum.rx_octets += rx_octets;
            sum.tx_last = sum.tx_last.max(tx_last);
            sum.rx_last = sum.rx_last.max(rx_last);
            sum.tx_drops += tx_drops;
        }
        sum
    }

    /// All reasons with their counts over all CPUs, in fixed order.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL
            .iter()
            .map(|reason| {
                let counts = self.reasons.get(&reason.0, 0);
                (reason.name(), counts.map_or(0, |c| c.iter().sum()))
            })
            .collect()
    }

    /// File descriptor that is readable when [`Ebpf::drain_events`] has something.
    #[must_use]
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Takes all events that are there.
    pub fn drain_events(&mut self) -> Vec<EbpfEvent> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            events.extend(EventRecord::from_octets(&item).and_then(|r| EbpfEvent::from_record(&r)));
        }
        events
    }

    /// File descriptor that is readable when [`Ebpf::drain_log`] has something;
    /// none when the object has no log sites.
    #[must_use]
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(|log| log.as_fd())
    }

    /// Hands the programs' log records to the `log` crate.
    pub fn drain_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// `mif_queue`, for `TUNSETSTEERINGEBPF`. Valid as long as this value.
    #[must_use]
    pub fn queue_program_fd(&self) -> Option<RawFd> {
        let program: &SocketFilter = self.ebpf.program(QUEUE)?.try_into().ok()?;
        Some(program.fd().ok()?.as_fd().as_raw_fd())
    }

    /// Sets how `mif_queue` spreads inner packets: by the flow's bucket in
    /// `table` (bucket → queue), or by inner destination for gateways.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn set_queues(
        &mut self,
        queues: u32,
        by_destination: bool,
        table: &steering::Table,
    ) -> Result<()> {
        let settings = QueueSettings {
            mode: if by_destination {
                maps::QUEUE_BY_DESTINATION
            } else {
                maps::QUEUE_BY_FLOW
            },
            queues,
            table: *table,
        };
        self.queue.set(0, settings, 0).context("QUEUE")
    }

    /// Runs a loaded program over a packet without any device
    /// (`BPF_PROG_TEST_RUN`): fixtures, and what would become of a packet.
    /// `context` is a `__sk_buff` or `xdp_md` in memory form.
    ///
    /// # Errors
    /// No such program, or the kernel refuses the packet or context.
    pub fn run(
        &self,
        program: &str,
        packet: &[u8],
        context: Option<&[u8]>,
        repeat: u32,
    ) -> Result<Run> {
        attach::run(&self.ebpf, program, packet, context, repeat)
    }

    /// Names of the programs in the object, with their verified size in instructions.
    #[must_use]
    pub fn programs(&self) -> Vec<(String, Option<u32>)> {
        self.ebpf
            .programs()
            .map(|(name, program)| {
                let size = program
                    .info()
                    .ok()
                    .and_then(|i| i.verified_instruction_count());
                (name.to_owned(), size)
            })
            .collect()
    }

    /// Detaches what is pinned and removes the instance's directory: a clean
    /// stop with `on_stop = "delete"`.
    pub fn remove_pins(&mut self) {
        for ifindex in self.accesses.keys().copied().collect::<Vec<_>>() {
            self.detach_access(ifindex);
        }
        if let Some(anchor) = self.anchor.take() {
            anchor.detach();
        }
        if let Some(pins) = self.pins.take() {
            pins.remove();
        }
    }

    /// Removes a predecessor's guards once all is in place: ours have rules and
    /// are attached where it had them. Accesses it guarded and we do not have
    /// are cleared by [`Ebpf::clear_predecessor`].
    fn relieve_predecessor(&self) {
        let (Some(pins), Some(_)) = (&self.pins, self.spd_changed) else {
            return;
        };
        if sabotaged("no-guard") {
            return pins.clear_stale(None);
        }
        // The predecessor's guard stays where ours is not whole.
        let whole = self.accesses.iter().filter(|(_, a)| a.ingress.is_some());
        for (ifindex, _) in whole {
            for hook in [
                GUARD_TOP,
                GUARD_TOP_L3,
                GUARD_OUT,
                GUARD_OUT_L3,
                GUARD_IN,
                GUARD_IN_L3,
            ] {
                pins.clear_stale(Some((hook, *ifindex)));
            }
        }
    }

    /// Removes all that is left of a predecessor, guards of accesses we do not
    /// have included. To be called when the set-up is complete.
    pub fn clear_predecessor(&self) {
        if let Some(pins) = &self.pins {
            pins.clear_stale(None);
        }
    }

    fn put_local(&mut self, address: IpAddr) -> Result<()> {
        self.local
            .insert(Addr::from(address), 1, 0)
            .with_context(|| format!("local address {address}"))
    }

    /// Forgets a local address unless it is announced or an arrival has it.
    fn drop_local(&mut self, address: IpAddr) {
        if !self.local_set.contains(&address) && !self.arrivals.values().any(|a| *a == address) {
            let _ = self.local.remove(&Addr::from(address));
        }
    }
}

const EGRESS: &str = "mif_egress";
const INGRESS_XDP: &str = "mif_ingress_xdp";
const INGRESS_TC: &str = "mif_ingress_tc";
const INGRESS_L3: &str = "mif_ingress_l3";
const GUARD_TOP: &str = "mif_guard_top";
const GUARD_TOP_L3: &str = "mif_guard_top_l3";
const GUARD_OUT: &str = "mif_guard_out";
const GUARD_OUT_L3: &str = "mif_guard_out_l3";
const GUARD_IN: &str = "mif_guard_in";
const GUARD_IN_L3: &str = "mif_guard_in_l3";
const QUEUE: &str = "mif_queue";

/// Puts `mif_ingress` where `choice` and the device allow.
fn attach_ingress(
    ebpf: &mut aya::Ebpf,
    ifindex: u32,
    device: &device::Device,
    choice: XdpChoice,
) -> Result<(IngressMode, Option<Attached>)> {
    let native = match choice {
        XdpChoice::Off => return Ok((IngressMode::Off, None)),
        XdpChoice::Native => Some(true),
        XdpChoice::Generic => Some(false),
        // Native XDP on a veth turns the peer's offloads off: a fifth of the rate.
        XdpChoice::Auto => (device.physical && !device.layer3).then_some(true),
        XdpChoice::Tc => None,
    };
    if let Some(native) = native {
        ensure!(
            !device.layer3 || choice == XdpChoice::Auto,
            "{}: XDP needs an Ethernet header, this device has none",
            device.name
        );
        match attach::xdp(ebpf, INGRESS_XDP, ifindex, native)? {
            Ok(link) => {
                let mode = if native {
                    IngressMode::Native
                } else {
                    IngressMode::Generic
                };
                return Ok((mode, Some(link)));
            }
            Err(NoXdp::Foreign) => warn!(
                device = device.name,
                "another XDP program is on the device and stays: using TC ingress"
            ),
            Err(NoXdp::Unsupported) => {
                ensure!(
                    choice == XdpChoice::Auto,
                    "{}: no {} XDP on this device",
                    device.name,
                    if native { "native" } else { "generic" }
                );
                info!(device = device.name, "no native XDP: using TC ingress");
            }
        }
    }
    let program = if device.layer3 {
        INGRESS_L3
    } else {
        INGRESS_TC
    };
    let link = attach::tc(ebpf, program, &device.name, Hook::IngressLast, None)?;
    Ok((IngressMode::Tc, Some(link)))
}

/// Whether a deliberate fault is on; never in a build without the feature.
fn sabotaged(fault: &str) -> bool {
    cfg!(feature = "sabotage")
        && std::env::var("MIFSEC_SABOTAGE").is_ok_and(|v| v.split(',').any(|f| f.trim() == fault))
}

fn sa_out_key(anchor: IpAddr, spi: Spi) -> SaOutKey {
    SaOutKey {
        anchor: anchor.into(),
        spi: spi.0.to_be_bytes(),
    }
}

fn take(ebpf: &mut aya::Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("no map {name} in the object"))
}

fn hash<K: Pod, V: Pod>(ebpf: &mut aya::Ebpf, name: &str) -> Result<HashMap<MapData, K, V>> {
    take(ebpf, name)?
        .try_into()
        .with_context(|| format!("map {name}"))
}

fn array<V: Pod>(ebpf: &mut aya::Ebpf, name: &str) -> Result<Array<MapData, V>> {
    take(ebpf, name)?
        .try_into()
        .with_context(|| format!("map {name}"))
}

fn mapped<V: Pod>(map: &Map, len: u32) -> Result<MappedArray<V>> {
    let Map::Array(data) = map else {
        anyhow::bail!("not an array")
    };
    MappedArray::new(data.fd().as_fd(), len)
}
