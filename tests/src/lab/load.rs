//! Sequence-stamped UDP both ways between end user and server, and what became
//! of each datagram.
//!
//! A flow is one port of the end user. Datagram number `n` of a direction
//! belongs to flow `n mod flows`, so flows share the rate equally. Sender and
//! receiver stamp with the same clock; everything else is worked out from the
//! two lists afterwards ([`Direction`]).

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::sys::{self, now_ns};
use super::topology::{SERVER, Topology};

mod account;

pub use account::Direction;

/// First octets of every datagram of a load: what the router must never see.
pub const MAGIC: [u8; 12] = *b"mifsec-load\0";

const HEADER: usize = 24;
const SERVER_PORT: u16 = 30_000;
const FIRST_PORT: u16 = 20_000;
/// Time for what is under way to arrive.
const DRAIN: Duration = Duration::from_millis(400);

static RUN: AtomicU32 = AtomicU32::new(1);

/// What to send.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server sends to.
    pub address: Ipv4Addr,
    /// Where the end user's sockets are bound; unspecified lets the kernel choose a source.
    pub bind: Ipv4Addr,
    /// The server's port.
    pub port: u16,
    /// Offsets of the end user's ports, one flow each.
    pub flows: Vec<u16>,
    /// Datagrams each second, end user to server.
    pub up: u32,
    /// Datagrams each second, server to end user.
    pub down: u32,
    /// Octets of UDP payload.
    pub payload: usize,
    /// Whether the server answers to the address it sees instead of `address`.
    pub learn: bool,
}

impl Plan {
    /// The load of most steps: as many flows, 6,000 datagrams a second each way.
    #[must_use]
    pub fn new(address: Ipv4Addr, flows: u16) -> Self {
        Self {
            address,
            bind: address,
            port: SERVER_PORT,
            flows: (0..flows).collect(),
            up: 6000,
            down: 6000,
            payload: 400,
            learn: false,
        }
    }
}

/// A load under way; its threads end when it is dropped.
#[derive(Debug)]
pub struct Load {
    flows: usize,
    stop_sending: Stop,
    stop_receiving: Stop,
    senders: [JoinHandle<Vec<u64>>; 2],
    receivers: [JoinHandle<Vec<(u32, u64)>>; 2],
}

/// A load that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// End user to server.
    pub up: Direction,
    /// Server to end user.
    pub down: Direction,
}

/// Tells threads to end, at the latest when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

type Peers = Arc<Mutex<Vec<SocketAddr>>>;

impl Load {
    /// Starts sending both ways.
    ///
    /// # Errors
    /// When the sockets cannot be had, for example because nobody has the inner address.
    pub fn start(topology: &Topology, plan: Plan) -> Result<Self> {
        let run = RUN.fetch_add(1, Ordering::Relaxed);
        let clients = topology.eu.run(|| client_sockets(plan.bind, &plan.flows))?;
        let clients = Arc::new(clients.context("cannot open the end user's sockets")?);
        let server = topology
            .srv
            .run(|| server_socket(plan.port))?
            .context("cannot open the server's socket")?;
        let server = Arc::new(server);
        let peers: Peers = Arc::new(Mutex::new(
            plan.flows
                .iter()
                .map(|flow| SocketAddrV4::new(plan.address, FIRST_PORT + flow).into())
                .collect(),
        ));
        let [stop_sending, stop_receiving] = [(); 2].map(|()| Stop::default());

        let up_receiver = {
            let stop = stop_receiving.flag();
            let (server, peers, learn) = (Arc::clone(&server), Arc::clone(&peers), plan.learn);
            thread::spawn(move || {
                let mut list = Vec::new();
                receive(&[&*server], &stop, |bytes, from| {
                    let Some((sequence, flow)) = parse(bytes, run) else {
                        return;
                    };
                    list.push((sequence, now_ns()));
                    if learn && let Some(peer) = lock(&peers).get_mut(usize::from(flow)) {
                        *peer = from;
                    }
                });
                list
            })
        };
        let down_receiver = {
            let stop = stop_receiving.flag();
            let clients = Arc::clone(&clients);
            thread::spawn(move || {
                let mut list = Vec::new();
                let sockets: Vec<_> = clients.iter().collect();
                receive(&sockets, &stop, |bytes, _| {
                    if let Some((sequence, _)) = parse(bytes, run) {
                        list.push((sequence, now_ns()));
                    }
                });
                list
            })
        };
        let up_sender = {
            let (stop, plan) = (stop_sending.flag(), plan.clone());
            thread::spawn(move || {
                let to = SocketAddr::from(SocketAddrV4::new(SERVER, plan.port));
                send(
                    plan.up,
                    plan.payload,
                    run,
                    plan.flows.len(),
                    &stop,
                    |flow, bytes| clients[flow].send_to(bytes, to).map(drop),
                )
            })
        };
        let down_sender = {
            let (stop, plan) = (stop_sending.flag(), plan.clone());
            thread::spawn(move || {
                if plan.learn {
                    thread::sleep(Duration::from_millis(200));
                }
                send(
                    plan.down,
                    plan.payload,
                    run,
                    plan.flows.len(),
                    &stop,
                    |flow, bytes| {
                        let to = lock(&peers)[flow];
                        server.send_to(bytes, to).map(drop)
                    },
                )
            })
        };
        Ok(Self {
            flows: plan.flows.len(),
            stop_sending,
            stop_receiving,
            senders: [up_sender, down_sender],
            receivers: [up_receiver, down_receiver],
        })
    }

    /// Stops, waits for what is under way, and accounts.
    ///
    /// # Panics
    /// When a thread of the load did.
    #[must_use]
    pub fn stop(self) -> Outcome {
        drop(self.stop_sending);
        let sent = self.senders.map(join);
        thread::sleep(DRAIN);
        drop(self.stop_receiving);
        let received = self.receivers.map(join);
        let flows = self.flows;
        let [up_sent, down_sent] = sent;
        let [up_received, down_received] = received;
        Outcome {
            up: Direction::new(up_sent, &up_received, flows),
            down: Direction::new(down_sent, &down_received, flows),
        }
    }
}

impl Stop {
    /// What the threads look at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Datagrams sent, both ways.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.up.sent() + self.down.sent()
    }

    /// Datagrams sent from `from` on, both ways.
    #[must_use]
    pub fn sent_since(&self, from: u64) -> u64 {
        self.up.sent_since(from) + self.down.sent_since(from)
    }

    /// Datagrams that arrived, both ways.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.up.received() + self.down.received()
    }

    /// Datagrams lost, both ways.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.up.lost() + self.down.lost()
    }

    /// Datagrams received more than once, both ways.
    #[must_use]
    pub fn duplicated(&self) -> u64 {
        self.up.duplicated() + self.down.duplicated()
    }

    /// The longest time one of the senders sent nothing although it should have.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        self.up.longest_pause().max(self.down.longest_pause())
    }

    /// Smallest round trip seen, as the sum of the two medians of a direction's delay.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.up.median_delay() + self.down.median_delay()
    }
}

/// The end user's sockets of some flows, in the calling thread's namespace.
///
/// # Errors
/// When nobody has the address.
pub fn client_sockets(bind: Ipv4Addr, flows: &[u16]) -> io::Result<Vec<UdpSocket>> {
    flows
        .iter()
        .map(|flow| {
            let socket = UdpSocket::bind(SocketAddrV4::new(bind, FIRST_PORT + flow))?;
            prepare(&socket)?;
            Ok(socket)
        })
        .collect()
}

/// The server's socket, in the calling thread's namespace.
///
/// # Errors
/// When the port is taken.
pub fn server_socket(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(SERVER, port))?;
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &UdpSocket) -> io::Result<()> {
    sys::force_receive_buffer(socket.as_raw_fd(), 16 << 20)?;
    socket.set_nonblocking(true)
}

/// Sends at an even rate until told to stop; when each datagram was sent.
/// A datagram the kernel refuses counts as sent: it will be missing.
fn send(
    rate: u32,
    payload: usize,
    run: u32,
    flows: usize,
    stop: &AtomicBool,
    mut out: impl FnMut(usize, &[u8]) -> io::Result<()>,
) -> Vec<u64> {
    let mut sent: Vec<u64> = Vec::new();
    if rate == 0 || flows == 0 {
        return sent;
    }
    let mut bytes = vec![0u8; payload.max(HEADER)];
    bytes[..12].copy_from_slice(&MAGIC);
    bytes[12..16].copy_from_slice(&run.to_be_bytes());
    let start = now_ns();
    while !stop.load(Ordering::Relaxed) {
        let due = (now_ns() - start).saturating_mul(u64::from(rate)) / 1_000_000_000;
        // Catching up after the scheduler was away must not look like a flood.
        let burst = due.saturating_sub(count(sent.len())).min(32);
        for _ in 0..burst {
            let flow = sent.len() % flows;
            let sequence = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            bytes[16..20].copy_from_slice(&sequence.to_be_bytes());
            let flow_octets = u32::try_from(flow).unwrap_or(u32::MAX).to_be_bytes();
            bytes[20..24].copy_from_slice(&flow_octets);
            sent.push(now_ns());
            // Refused is lost, and lost is counted by the receiver.
            let _ = out(flow, &bytes);
        }
        thread::sleep(Duration::from_micros(500));
    }
    sent
}

fn receive(sockets: &[&UdpSocket], stop: &AtomicBool, mut take: impl FnMut(&[u8], SocketAddr)) {
    let fds: Vec<_> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
    let mut buffer = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        for index in sys::readable(&fds, Duration::from_millis(50)) {
            // An ICMP error on a socket is reported once and means nothing here.
            while let Ok((length, from)) = sockets[index].recv_from(&mut buffer) {
                take(&buffer[..length], from);
            }
        }
    }
}

/// Sequence number and flow of a datagram of this run.
fn parse(bytes: &[u8], run: u32) -> Option<(u32, u16)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let word = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
    (word(0)? == run).then_some(())?;
    Some((word(4)?, u16::try_from(word(8)?).ok()?))
}

fn join<T>(handle: JoinHandle<T>) -> T {
    handle
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn lock(peers: &Peers) -> std::sync::MutexGuard<'_, Vec<SocketAddr>> {
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
