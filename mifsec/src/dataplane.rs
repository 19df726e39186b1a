//! The user-space ESP data plane: threads that move batches between the TUN
//! and the UDP sockets.
//!
//! Inputs: inner packets from the TUN (super-packets of up to 64 KiB), datagrams
//! on the NAT-T port, and immutable [`Snapshot`]s of the SAD and SPD from the agent.
//! Outputs: ESP to anchors, inner packets to the TUN, [`Input`]s to the agent,
//! counters by reason and activity by path.
//!
//! Invariants: a packet without a usable SA is dropped, never sent in clear; what
//! arrives on an interface that is not an access is dropped; no worker ever waits
//! for a slow access; an (SA, sequence number) pair seals at most once; nothing a
//! peer sends can grow a queue without bound.

#![forbid(unsafe_code)]

mod activity;
mod counters;
mod ecn;
#[cfg(feature = "testing")]
pub mod exercise;
mod fragment;
mod icmp;
mod inbound;
mod limit;
mod merge;
mod mss;
mod outbound;
mod packet;
mod segment;
mod snapshot;
mod trap;
mod waiting;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::ids::{Arrival, Family, PathIndex, Spi};
use crate::io::poll::Waker;
use crate::io::tun::Tun;
use crate::io::udp::{SendSocket, WildcardSocket};

use self::activity::Activity;
use self::counters::{Counters, Reason};
use self::snapshot::Published;

pub use self::snapshot::{Bundle, Inbound, Member, Selector, Snapshot};

/// What the agent receives: bounded, never unbounded memory for a flood.
pub type Inputs = mpsc::Receiver<Input>;

/// How many inputs may wait for the agent; more are dropped and counted
/// `agent_queue_full`.
const INPUT_QUEUE: usize = 1024;

/// Octets one send may carry: a UDP datagram over either family, in effect.
const MAX_SEND: usize = 65_487;

/// Everything fixed at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the TUN device; created when absent, brought up.
    pub tun: String,
    /// Keep the TUN (and so its routes) when this process ends.
    pub persist: bool,
    /// Worker threads and TUN queues; 0 = one per core.
    pub workers: usize,
    /// The NAT-T port, 4500 unless configured otherwise.
    pub port: u16,
    /// Device the ESP sockets are bound to.
    pub anchor_device: String,
    /// One anchor-bound send socket per (worker, access, family).
    pub accesses: usize,
    /// How many path indexes have an activity entry.
    pub paths: usize,
    /// `mif_queue`, for `TUNSETSTEERINGEBPF`.
    pub queue_program: Option<RawFd>,
    /// MTU of the TUN, octets.
    pub mtu: u16,
}

/// What a worker hands to the agent.
#[derive(Debug)]
pub enum Input {
    /// An IKE message, without the non-ESP marker (RFC 3948 2.2).
    Ike {
        /// Where it came from.
        arrival: Arrival,
        /// The message.
        bytes: Vec<u8>,
    },
    /// An ESP packet on a probe SA, as received (SPI first).
    Probe {
        /// Where it came from.
        arrival: Arrival,
        /// The probe SA.
        spi: Spi,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// An authenticated packet from an address no path has; at most one per
    /// arrival and 50 ms from each worker.
    NewSource {
        /// Where it came from.
        arrival: Arrival,
        /// The SA it authenticated on.
        spi: Spi,
        /// The path that SA is homed on.
        path: PathIndex,
    },
    /// The first valid packet on an SA with [`Inbound::notify_first`]; may be
    /// repeated by another worker.
    FirstPacket {
        /// The SA.
        spi: Spi,
    },
    /// A packet for a peer that is not connected, which was dropped; at most one per
    /// peer and second from each worker.
    Wanted {
        /// [`Bundle::trap`].
        peer: usize,
    },
    /// A worker ended without being told to: its device is gone, its wait failed
    /// or it panicked. What the kernel sends to its queues stays there, so the
    /// data plane is of no further use.
    WorkerGone {
        /// Which one.
        index: usize,
        /// Why.
        error: String,
    },
}

/// Sends what belongs to one path (IKE, probes, keepalives) from the wildcard
/// sockets, by the interface and from the address named. Cheap to clone.
#[derive(Clone)]
pub struct UdpSender {
    v4: Arc<WildcardSocket>,
    v6: Arc<WildcardSocket>,
}

impl UdpSender {
    /// Sends `bytes` as they are: the caller adds the non-ESP marker to IKE.
    /// `ifindex` 0 leaves the choice to routing.
    ///
    /// # Errors
    /// What `sendmsg` said; `WouldBlock` when the socket is full.
    pub fn send(
        &self,
        ifindex: u32,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> std::io::Result<()> {
        let socket = match Family::of(remote.ip()) {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        socket.send(ifindex, local.ip(), remote, bytes)
    }
}

/// The running data plane.
pub struct Dataplane {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    sender: UdpSender,
}

/// What the workers and the handle have in common.
struct Shared {
    published: Published,
    counters: Vec<Counters>,
    activity: Activity,
    wakers: Vec<Waker>,
    stop: AtomicBool,
}

impl Dataplane {
    /// Creates the TUN and the sockets and starts the workers, with an empty
    /// snapshot: everything is dropped until [`install`](Self::install).
    ///
    /// # Errors
    /// Which device, socket or option failed, and why.
    pub fn start(config: &Config) -> anyhow::Result<(Self, Inputs)> {
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let (inputs, receiver) = mpsc::channel(INPUT_QUEUE);
        let tuns = Tun::open(&config.tun, workers, config.mtu, config.persist)
            .with_context(|| format!("TUN device {}", config.tun))?;
        if let (Some(fd), Some(tun)) = (config.queue_program, tuns.first()) {
            tun.set_steering(fd)
                .with_context(|| format!("queue steering of {}", config.tun))?;
        }
        let shared = Arc::new(Shared {
            published: Published::new(),
            counters: (0..workers).map(|_| Counters::new()).collect(),
            activity: Activity::new(config.paths),
            wakers: (0..workers)
                .map(|_| Waker::new())
                .collect::<Result<_, _>>()
                .context("eventfd")?,
            stop: AtomicBool::new(false),
        });
        let mut sender = None;
        let mut parts = Vec::new();
        for (index, tun) in tuns.into_iter().enumerate() {
            let open = |family| {
                WildcardSocket::open(family, config.port)
                    .with_context(|| format!("UDP port {}", config.port))
                    .map(Arc::new)
            };
            let (v4, v6) = (open(Family::V4)?, open(Family::V6)?);
            sender.get_or_insert_with(|| UdpSender {
                v4: Arc::clone(&v4),
                v6: Arc::clone(&v6),
            });
            let send = |family| -> anyhow::Result<Vec<SendSocket>> {
                (0..config.accesses.max(1))
                    .map(|_| SendSocket::open(family, &config.anchor_device))
                    .collect::<std::io::Result<_>>()
                    .with_context(|| format!("socket on anchor device {}", config.anchor_device))
            };
            parts.push(worker::Parts {
                index,
                tun,
                wildcards: [v4, v6],
                senders: [send(Family::V4)?, send(Family::V6)?],
                inputs: inputs.clone(),
                port: config.port,
            });
        }
        let sender = sender.context("no worker")?;
        let mut threads = Vec::new();
        for part in parts {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("mifsec-{}", part.index))
                .spawn(move || worker::run(part, &shared))
                .context("worker thread")?;
            threads.push(thread);
        }
        Ok((
            Self {
                shared,
                threads,
                sender,
            },
            receiver,
        ))
    }

    /// Replaces the SAD and SPD; every worker has it before its next batch.
    /// Returns the generation number, counted from 1.
    pub fn install(&self, snapshot: Snapshot) -> u64 {
        let generation = self.shared.published.publish(snapshot);
        self.shared.wake();
        generation
    }

    /// The sender for what belongs to one path.
    #[must_use]
    pub fn sender(&self) -> UdpSender {
        self.sender.clone()
    }

    /// Counts by reason, summed over the workers; reasons never seen are present as 0.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        Reason::ALL
            .iter()
            .map(|reason| {
                let sum = self.shared.counters.iter().map(|c| c.get(*reason)).sum();
                (reason.name(), sum)
            })
            .collect()
    }

    /// Data packets sent on `path` and when something authenticated last
    /// arrived on it.
    #[must_use]
    pub fn activity(&self, path: PathIndex) -> (u64, Option<Instant>) {
        self.shared.activity.get(path)
    }

    /// Forgets the activity of `path`, before its index is used again.
    pub fn reset_activity(&self, path: PathIndex) {
        self.shared.activity.reset(path);
    }

    /// Stops the workers and closes the devices.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        for thread in self.threads.drain(..) {
            // A panic was reported by the worker itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn wake(&self) {
        for waker in &self.wakers {
            waker.wake();
        }
    }
}
