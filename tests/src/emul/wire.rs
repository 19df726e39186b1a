//! Two links that run between two namespaces with real frames.
//!
//! ```text
//! namespace a [device] -- veth -- emulator -- veth -- [device] namespace b
//! ```
//!
//! One thread reads both packet sockets in batches, puts the frames into the
//! link of their way and sends what is due. Octets and the MTU count from the IP
//! header on, as the MTU of a device does. ARP and neighbour discovery are
//! impaired like all else: where packets are counted, neighbours are permanent.
//! The other end of a wire is not told when a device goes down, and what reaches
//! a device that is down has arrived, as far as the wire knows.
//!
//! The devices at the ends segment and sum for themselves, so what passes is
//! what a wire would carry. What the instrument itself lost is in [`Faults`],
//! which a test asserts to be nothing.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use mifsec::io::poll::Waker;

use super::port::{Frame, Inbox, Port};
use super::{Counters, Impairments, Link};
use crate::ethtool;
use crate::lab::sys::Netns;
use crate::namespace::Namespace;

/// Names of the ports in the emulator's namespace.
const PORTS: [&str; 2] = ["end-a", "end-b"];
/// Batches read from one port before anything is sent.
const ROUNDS: usize = 4;

/// An end of a wire, made with it.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    /// Name of the namespace.
    pub namespace: &'a str,
    /// Name the device shall have there.
    pub name: &'a str,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the first end to the second.
    AToB,
    /// From the second end to the first.
    BToA,
}

/// What the instrument itself lost, both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Frames the kernel could not queue for the emulator.
    pub overrun: u64,
    /// Frames the kernel did not take from it though the other end was up.
    pub refused: u64,
    /// Super-packets, which cannot be impaired packet by packet; not forwarded.
    pub oversized: u64,
}

/// A running wire. It goes with its value, and the devices at both ends with it.
pub struct Wire {
    shared: Arc<Shared>,
    stop: Arc<Waker>,
    thread: Option<JoinHandle<Result<()>>>,
    /// Holds the devices; dropped last.
    _namespace: Namespace,
}

struct Shared {
    start: Instant,
    ports: [Port; 2],
    state: Mutex<State>,
}

struct State {
    /// By [`Way`].
    links: [Link<Frame>; 2],
    refused: u64,
    oversized: u64,
    /// Longest time a frame left after it was due.
    latest: Duration,
}

impl Wire {
    /// Makes the devices `a` and `b`, without addresses but up, and joins them
    /// by a link that does nothing yet. What it will draw comes from `seed`.
    ///
    /// # Errors
    /// What `ip` or the kernel said.
    pub fn new(a: Device<'_>, b: Device<'_>, seed: u64) -> Result<Self> {
        let namespace = Namespace::new("emul")?;
        for (port, end) in PORTS.into_iter().zip([a, b]) {
            let Device {
                namespace: there,
                name,
            } = end;
            // Ours carries whatever the other end's MTU allows, and says nothing
            // of its own.
            let add = format!(
                "link add {port} mtu 65535 type veth peer name {name} mtu 1500 netns {there}"
            );
            namespace.ip(&add.split(' ').collect::<Vec<_>>())?;
            let quiet = format!("link set {port} arp off multicast off addrgenmode none up");
            namespace.ip(&quiet.split(' ').collect::<Vec<_>>())?;
            Netns::open(there)?
                .run(|| ethtool::no_offload(&UdpSocket::bind("0.0.0.0:0")?, name))?
                .with_context(|| format!("offloads of {name}"))?;
            crate::namespace::ip(&["-n", there, "link", "set", name, "up"])?;
        }
        let ports = namespace.run(|| Ok([Port::open(PORTS[0])?, Port::open(PORTS[1])?]))?;
        let link = |way: u64| Link::new(Impairments::default(), seed.rotate_left(1) ^ way);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            ports,
            state: Mutex::new(State {
                links: [link(0), link(1)],
                refused: 0,
                oversized: 0,
                latest: Duration::ZERO,
            }),
        });
        let stop = Arc::new(Waker::new()?);
        let thread = std::thread::Builder::new().name("emul".into()).spawn({
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            move || shared.run(&stop)
        })?;
        Ok(Self {
            shared,
            stop,
            thread: Some(thread),
            _namespace: namespace,
        })
    }

    /// Changes one direction, from the next packet on.
    pub fn set(&self, way: Way, impairments: Impairments) {
        self.shared.state().links[way as usize].set(impairments);
    }

    /// Changes both.
    pub fn set_both(&self, impairments: Impairments) {
        for link in &mut self.shared.state().links {
            link.set(impairments);
        }
    }

    /// Throws away what is on the way in one direction.
    pub fn clear(&self, way: Way) {
        self.shared.state().links[way as usize].clear();
    }

    /// What became of the packets of one direction so far.
    #[must_use]
    pub fn counters(&self, way: Way) -> Counters {
        self.shared.state().links[way as usize].counters()
    }

    /// Packets on the way in one direction.
    #[must_use]
    pub fn on_the_way(&self, way: Way) -> usize {
        self.shared.state().links[way as usize].on_the_way()
    }

    /// What the instrument lost so far.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn faults(&self) -> Result<Faults> {
        let [a, b] = &self.shared.ports;
        let overrun = a.overrun()? + b.overrun()?;
        let state = self.shared.state();
        Ok(Faults {
            overrun,
            refused: state.refused,
            oversized: state.oversized,
        })
    }

    /// The longest time a packet left the emulator after it was due: how far
    /// its delays are to be believed.
    #[must_use]
    pub fn latest(&self) -> Duration {
        self.shared.state().latest
    }

    /// Ends it; what is on the way is thrown away.
    ///
    /// # Errors
    /// Why it ended earlier, if it did.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.wake();
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread
            .join()
            .map_err(|_| anyhow!("the emulator panicked"))?
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, stop: &Waker) -> Result<()> {
        on_time();
        let mut inbox = Inbox::new();
        let mut outbox = Vec::new();
        loop {
            for from in 0..2 {
                self.take_in(from, &mut inbox)?;
            }
            let mut next: Option<Duration> = None;
            for way in 0..2 {
                let due = self.give_out(way, &mut outbox);
                next = next.into_iter().chain(due).min();
            }
            let wait = next.map(|at| at.saturating_sub(self.start.elapsed()));
            if wait == Some(Duration::ZERO) {
                continue;
            }
            if self.wait(stop, wait)? {
                return Ok(());
            }
        }
    }

    /// Reads what waits at a port.
    fn take_in(&self, from: usize, inbox: &mut Inbox) -> Result<()> {
        for _ in 0..ROUNDS {
            let mut state = self.state();
            let now = self.start.elapsed();
            let State {
                links, oversized, ..
            } = &mut *state;
            let more = inbox.receive(&self.ports[from], oversized, |frame| {
                links[from].send(now, frame);
            })?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Sends what is due on a way; when the next is.
    fn give_out(&self, way: usize, outbox: &mut Vec<Frame>) -> Option<Duration> {
        let due = {
            let mut state = self.state();
            let now = self.start.elapsed();
            while let Some((at, frame)) = state.links[way].receive(now) {
                state.latest = state.latest.max(now.saturating_sub(at));
                outbox.push(frame);
            }
            state.links[way].due()
        };
        if !outbox.is_empty() {
            let refused = self.ports[1 - way].send(outbox);
            outbox.clear();
            self.state().refused += refused;
        }
        due
    }

    /// Until a frame comes, the time is over or it shall stop; whether that.
    fn wait(&self, stop: &Waker, time: Option<Duration>) -> io::Result<bool> {
        let [a, b] = &self.ports;
        let mut polls = [as_raw(a), as_raw(b), as_raw(stop)].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        let time = time.map(|time| libc::timespec {
            tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the descriptors, their number and the time are live; no mask is given.
        let ready = unsafe { libc::ppoll(polls.as_mut_ptr(), 3, time, std::ptr::null()) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(false),
                _ => Err(error),
            };
        }
        Ok(polls[2].revents != 0)
    }
}

fn as_raw(fd: &impl std::os::fd::AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

/// Makes this thread wake when it asks to, before all that is not as urgent: a
/// busy machine must not make a link slower. Without the privilege it is only
/// less exact, and [`Wire::latest`] says how much.
fn on_time() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: both calls concern this thread (who 0); the parameter is live.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest);
    }
}
