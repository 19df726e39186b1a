//! Sequence-stamped UDP between two namespaces: what was sent, lost, repeated.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// How long the receiver waits for stragglers.
const QUIET: Duration = Duration::from_millis(500);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Datagrams in all.
    pub datagrams: u64,
    /// Of these, how many in one go before a pause.
    pub burst: u64,
    /// The pause.
    pub pause: Duration,
    /// Source ports the datagrams are spread over.
    pub flows: usize,
    /// Payload of the largest datagram, octets; sizes go from 8 to this.
    pub largest: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Distinct ones that arrived.
    pub received: u64,
    /// Arrivals of one that had arrived.
    pub duplicated: u64,
    /// Arrivals whose contents were not what was sent.
    pub damaged: u64,
}

/// Sends `load` from `from` to `address` in `to`.
///
/// # Errors
/// What the sockets said.
pub fn run(from: &Namespace, to: &Namespace, address: IpAddr, load: Load) -> Result<Outcome> {
    let receiver = to.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(address, 0))
            .with_context(|| format!("bind {address}"))?;
        receive_buffer(&socket, 8 << 20)?;
        Ok(socket)
    })?;
    let target = receiver.local_addr()?;
    let senders = from.run(|| {
        (0..load.flows.max(1))
            .map(|_| {
                let any: IpAddr = if target.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0; 16].into()
                };
                let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(target)?;
                Ok(socket)
            })
            .collect::<Result<Vec<_>>>()
    })?;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, load));
        let mut sent = 0;
        let mut room = vec![0; load.largest.max(8)];
        for (stamp, socket) in (0..load.datagrams).zip(senders.iter().cycle()) {
            let len = length(stamp, load.largest);
            fill(stamp, &mut room[..len]);
            socket.send(&room[..len]).context("send")?;
            sent += 1;
            if sent % load.burst.max(1) == 0 {
                std::thread::sleep(load.pause);
            }
        }
        let mut outcome = receiving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome.sent = sent;
        Ok(outcome)
    })
}

fn receive(socket: &UdpSocket, load: Load) -> Result<Outcome> {
    // Until all are there; if some are not, until nothing comes any more. The
    // first one may take its time.
    socket.set_read_timeout(Some(QUIET))?;
    let mut seen = BTreeSet::new();
    let mut outcome = Outcome {
        sent: 0,
        received: 0,
        duplicated: 0,
        damaged: 0,
    };
    let mut buffer = vec![0; 65536];
    let mut expected = Vec::new();
    let patience = Instant::now() + Duration::from_secs(5);
    while outcome.received < load.datagrams {
        let len = match socket.recv(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result,
        };
        let Ok(len) = len else {
            if outcome.received > 0 || Instant::now() > patience {
                break;
            }
            continue;
        };
        let Some(stamp) = buffer[..len].first_chunk::<8>() else {
            outcome.damaged += 1;
            continue;
        };
        let stamp = u64::from_be_bytes(*stamp);
        expected.resize(length(stamp, load.largest), 0);
        fill(stamp, &mut expected);
        if expected != buffer[..len] {
            outcome.damaged += 1;
        } else if seen.insert(stamp) {
            outcome.received += 1;
        } else {
            outcome.duplicated += 1;
        }
    }
    Ok(outcome)
}

/// Beyond the system's limit: the load is counted, not the reader's speed.
fn receive_buffer(socket: &UdpSocket, octets: libc::c_int) -> Result<()> {
    // SAFETY: the option value is one `int` that lives over the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const octets).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("SO_RCVBUFFORCE");
    }
    Ok(())
}

/// Every length up to the largest, in no particular order.
fn length(stamp: u64, largest: usize) -> usize {
    let span = largest.saturating_sub(8) as u64 + 1;
    8 + (stamp.wrapping_mul(7919) % span) as usize
}

fn fill(stamp: u64, out: &mut [u8]) {
    for (i, octet) in out.iter_mut().enumerate() {
        *octet = (stamp as usize + i) as u8;
    }
    if let Some(start) = out.first_chunk_mut::<8>() {
        *start = stamp.to_be_bytes();
    }
}
