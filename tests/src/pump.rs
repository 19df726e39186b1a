//! One TCP flow as fast as it goes, from one namespace to another.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;

/// Octets per write and read, as iperf3 does.
const CHUNK: usize = 128 * 1024;

/// What a flow came to.
#[derive(Debug, Clone, Copy)]
pub struct Pumped {
    /// Octets that arrived.
    pub octets: u64,
    /// From the first octet to the last.
    pub time: Duration,
    /// Whether every octet was the one sent.
    pub intact: bool,
}

impl Pumped {
    /// Gigabits per second.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        self.octets as f64 * 8.0 / self.time.as_secs_f64() / 1e9
    }
}

/// Sends from `from` to `address` in `to` for `time`; with `verify`, the
/// receiver compares every octet with what was sent.
///
/// # Errors
/// What the sockets said.
pub fn tcp(
    from: &Namespace,
    to: &Namespace,
    address: IpAddr,
    time: Duration,
    verify: bool,
) -> Result<Pumped> {
    let listener = to.run(|| {
        TcpListener::bind(SocketAddr::new(address, 0)).with_context(|| format!("bind {address}"))
    })?;
    let target = listener.local_addr()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| to.run(|| receive(&listener, verify)));
        let sender = scope.spawn(|| {
            from.run(|| {
                let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
                    .with_context(|| format!("connect {target}"))?;
                let chunk = pattern();
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&chunk)?;
                }
                Ok(())
            })
        });
        let deadline = Instant::now() + time;
        while Instant::now() < deadline && !sender.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        let sent = sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if sent.is_err() {
            // The receiver may still be waiting for the connection.
            let _ = to.run(|| Ok(TcpStream::connect(target)?));
        }
        let received = receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        sent.and(received)
    })
}

/// A period of 251 octets: no power of two, so that a shifted or repeated
/// segment shows.
fn pattern() -> Vec<u8> {
    (0..CHUNK).map(|i| (i % 251) as u8).collect()
}

fn receive(listener: &TcpListener, verify: bool) -> Result<Pumped> {
    let (mut stream, _) = listener.accept()?;
    let expected = pattern();
    let mut buffer = vec![0; CHUNK];
    let mut pumped = Pumped {
        octets: 0,
        time: Duration::ZERO,
        intact: true,
    };
    let mut start = None;
    loop {
        let n = stream.read(&mut buffer)?;
        let now = Instant::now();
        let start = *start.get_or_insert(now);
        if n == 0 {
            pumped.time = now - start;
            return Ok(pumped);
        }
        if verify {
            let at = (pumped.octets % CHUNK as u64) as usize;
            let mut wanted = expected[at..].iter().chain(&expected);
            pumped.intact &= buffer[..n].iter().all(|octet| Some(octet) == wanted.next());
        }
        pumped.octets += n as u64;
    }
}
