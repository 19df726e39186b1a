//! One TCP connection whose octets must keep moving.
//!
//! The sender writes a little every few milliseconds: filling the path would
//! only measure its queue.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::load::Stop;
use super::sys::now_ns;
use super::topology::{SERVER, Topology};

const PORT: u16 = 30_001;
/// 1 KiB every 8 ms is 1 Mbit/s: little beside the load, which is judged by its shares.
const CHUNK: usize = 1024;
const PACE: Duration = Duration::from_millis(8);

/// The connection under way; its threads end when it is dropped.
#[derive(Debug)]
pub struct Tcp {
    stop: Stop,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<(u64, usize)>>,
}

/// What the receiver saw: (when, octets).
#[derive(Debug)]
pub struct TcpOutcome {
    reads: Vec<(u64, usize)>,
    end: u64,
}

impl Tcp {
    /// Connects from the end user's `address` to the server.
    ///
    /// # Errors
    /// When the connection does not come about in 5 s.
    pub fn start(topology: &Topology, address: Ipv4Addr) -> Result<Self> {
        let listener = topology
            .srv
            .run(|| std::net::TcpListener::bind(SocketAddrV4::new(SERVER, PORT)))?
            .context("cannot listen on the server")?;
        let accepting = thread::spawn(move || listener.accept());
        let connect = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::from(SocketAddrV4::new(address, 0)).into())?;
            let to = SocketAddr::from(SocketAddrV4::new(SERVER, PORT));
            socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
            Ok(socket.into())
        };
        let mut out = topology
            .eu
            .run(connect)?
            .context("cannot connect by TCP from end user to server")?;
        out.set_write_timeout(Some(Duration::from_millis(200)))?;
        let (mut into, _) = accepting
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .context("no TCP connection arrived")?;
        into.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Stop::default();
        let sender = {
            let stop = stop.flag();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A full window is the receiver's to notice.
                    let _ = out.write(&[0x55; CHUNK]);
                    thread::sleep(PACE);
                }
            })
        };
        let receiver = {
            let stop = stop.flag();
            thread::spawn(move || {
                let mut reads = Vec::new();
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(octets) = into.read(&mut buffer)
                        && octets > 0
                    {
                        reads.push((now_ns(), octets));
                    }
                }
                reads
            })
        };
        Ok(Self {
            stop,
            sender,
            receiver,
        })
    }

    /// Ends the connection.
    ///
    /// # Panics
    /// When one of its threads did.
    #[must_use]
    pub fn stop(self) -> TcpOutcome {
        let end = now_ns();
        drop(self.stop);
        if let Err(panic) = self.sender.join() {
            std::panic::resume_unwind(panic);
        }
        let reads = self
            .receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        TcpOutcome { reads, end }
    }
}

impl TcpOutcome {
    /// Octets that arrived from `from` on.
    #[must_use]
    pub fn octets_since(&self, from: u64) -> usize {
        let after = self.reads.iter().filter(|(at, _)| *at >= from);
        after.map(|(_, octets)| octets).sum()
    }

    /// The longest time without an octet, from `from` to the end.
    #[must_use]
    pub fn longest_stall(&self, from: u64) -> Duration {
        let mut before = from;
        let mut longest = 0;
        let after = self.reads.iter().map(|(at, _)| *at).filter(|at| *at > from);
        for at in after.chain([self.end]) {
            longest = longest.max(at.saturating_sub(before));
            before = before.max(at);
        }
        Duration::from_nanos(longest)
    }
}
