//! Watching from the router: ESP by SPI on each leg, and anything in clear.
//!
//! One packet socket and one thread for each leg. Super-packets are taken
//! apart by the segment size the kernel gives with them, so every ESP header is
//! seen. A frame the kernel could not queue makes the watch worthless and is
//! reported ([`Seen::missed`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

use super::sys::PacketSocket;
use super::topology::{Access, Topology};

mod classify;
mod header;

pub use classify::{Kind, classify};
pub use header::{CREATE_CHILD_SA, INFORMATIONAL};

/// Packets and octets of ESP.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// ESP packets.
    pub packets: u64,
    /// Their octets, from the SPI to the end.
    pub octets: u64,
}

/// Where on the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    /// To the end user, WLAN side, before NAT.
    Wlan,
    /// To the end user, RAN side.
    Ran,
    /// To the end user, the access that comes later.
    Ethernet,
    /// To the gateway.
    Gateway,
}

/// As the end user sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From end user to gateway.
    Up,
    /// From gateway to end user.
    Down,
}

/// What was seen so far; the difference of two is what happened in between.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// ESP by leg, direction and SPI.
    pub esp: BTreeMap<(Leg, Way, u32), Count>,
    /// IKE messages by leg and direction.
    pub ike: BTreeMap<(Leg, Way), u64>,
    /// IKE requests on the gateway's leg by exchange type and who asks; those sent
    /// again count again.
    pub requests: BTreeMap<(u8, Way), u64>,
    /// ESP packets on the gateway's leg by the gateway's outer address.
    pub gateway: BTreeMap<(Ipv4Addr, Way, u32), u64>,
    /// Packets in clear that should have been protected.
    pub clear: u64,
    /// The same by direction.
    pub clear_ways: BTreeMap<Way, u64>,
    /// The first of them, described.
    pub clear_examples: Vec<String>,
    /// Frames the kernel could not queue for us.
    pub missed: u64,
    /// Frames looked at.
    pub frames: u64,
}

/// The running watch on all legs.
#[derive(Debug)]
pub struct Capture {
    legs: Vec<(Arc<Mutex<Seen>>, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
}

const EXAMPLES: usize = 5;

impl Capture {
    /// Starts watching. With `protected` everything that a full tunnel should
    /// protect counts as in clear; without it nothing does.
    ///
    /// # Errors
    /// Without the privilege.
    pub fn start(topology: &Topology, protected: bool) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut legs = Vec::new();
        for leg in Leg::ALL {
            let socket = topology
                .rt
                .run(|| PacketSocket::open(leg.link()))?
                .with_context(|| format!("cannot watch {} on the router", leg.link()))?;
            let seen = Arc::new(Mutex::new(Seen::default()));
            let (shared, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            let thread = thread::spawn(move || watch(&socket, leg, protected, &shared, &stop));
            legs.push((seen, thread));
        }
        Ok(Self { legs, stop })
    }

    /// What was seen on all legs so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut all = Seen::default();
        for (seen, _) in &self.legs {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            all.esp.extend(&seen.esp);
            all.ike.extend(&seen.ike);
            // Only one leg has these.
            all.requests.extend(&seen.requests);
            all.gateway.extend(&seen.gateway);
            all.clear += seen.clear;
            for (way, count) in &seen.clear_ways {
                *all.clear_ways.entry(*way).or_default() += count;
            }
            all.clear_examples
                .extend(seen.clear_examples.iter().cloned());
            all.missed += seen.missed;
            all.frames += seen.frames;
        }
        all
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (_, thread) in self.legs.drain(..) {
            // A panic there has been printed; the counts stay as they were.
            let _ = thread.join();
        }
    }
}

impl Seen {
    /// What happened since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (key, count) in &mut difference.esp {
            if let Some(before) = earlier.esp.get(key) {
                count.packets -= before.packets;
                count.octets -= before.octets;
            }
        }
        difference.esp.retain(|_, count| count.packets > 0);
        for (key, count) in &mut difference.ike {
            *count -= earlier.ike.get(key).copied().unwrap_or(0);
        }
        for (key, count) in &mut difference.requests {
            *count -= earlier.requests.get(key).copied().unwrap_or(0);
        }
        for (key, count) in &mut difference.gateway {
            *count -= earlier.gateway.get(key).copied().unwrap_or(0);
        }
        difference.clear -= earlier.clear;
        for (way, count) in &mut difference.clear_ways {
            *count -= earlier.clear_ways.get(way).copied().unwrap_or(0);
        }
        difference.missed -= earlier.missed;
        difference.frames -= earlier.frames;
        difference
    }

    /// ESP of all SPIs on one leg in one direction.
    #[must_use]
    pub fn total(&self, leg: Leg, way: Way) -> Count {
        let mut total = Count::default();
        for ((at, direction, _), count) in &self.esp {
            if (*at, *direction) == (leg, way) {
                total.packets += count.packets;
                total.octets += count.octets;
            }
        }
        total
    }

    /// ESP of some SPIs on one leg in one direction.
    #[must_use]
    pub fn of(&self, spis: &BTreeSet<u32>, leg: Leg, way: Way) -> u64 {
        let mine = |((at, direction, spi), _): &(&(Leg, Way, u32), &Count)| {
            (*at, *direction) == (leg, way) && spis.contains(spi)
        };
        self.esp.iter().filter(mine).map(|(_, c)| c.packets).sum()
    }

    /// ESP of some SPIs from or to one outer address of the gateway.
    #[must_use]
    pub fn at_gateway(&self, spis: &BTreeSet<u32>, address: Ipv4Addr, way: Way) -> u64 {
        let mine = |((at, direction, spi), _): &(&(Ipv4Addr, Way, u32), &u64)| {
            (*at, *direction) == (address, way) && spis.contains(spi)
        };
        self.gateway
            .iter()
            .filter(mine)
            .map(|(_, count)| count)
            .sum()
    }

    /// Requests of an exchange type, both ways.
    #[must_use]
    pub fn exchanges(&self, exchange: u8) -> u64 {
        let of_type = self.requests.iter().filter(|((e, _), _)| *e == exchange);
        of_type.map(|(_, count)| count).sum()
    }

    /// The SPIs seen anywhere.
    #[must_use]
    pub fn spis(&self) -> BTreeSet<u32> {
        self.esp.keys().map(|(_, _, spi)| *spi).collect()
    }

    /// The part of one access in the octets of all, in percent.
    #[must_use]
    pub fn share(&self, access: Access, way: Way) -> f64 {
        let octets = |access| self.total(Leg::of(access), way).octets;
        100.0 * ratio(octets(access), Access::ALL.map(octets).iter().sum())
    }
}

/// One number over another; 0 of nothing.
#[must_use]
pub fn ratio(part: u64, whole: u64) -> f64 {
    let float = |number: u64| {
        f64::from(u32::try_from(number >> 8).unwrap_or(u32::MAX)) * 256.0
            + f64::from(u8::try_from(number & 0xff).unwrap_or(u8::MAX))
    };
    if whole == 0 {
        0.0
    } else {
        float(part) / float(whole)
    }
}

impl Leg {
    /// All.
    pub const ALL: [Self; 4] = [Self::Wlan, Self::Ran, Self::Ethernet, Self::Gateway];

    /// The router's interface.
    #[must_use]
    pub fn link(self) -> &'static str {
        match self {
            Self::Wlan => Access::Wlan.router_link(),
            Self::Ran => Access::Ran.router_link(),
            Self::Ethernet => Access::Ethernet.router_link(),
            Self::Gateway => "gw",
        }
    }

    /// The leg of an access.
    #[must_use]
    pub fn of(access: Access) -> Self {
        match access {
            Access::Wlan => Self::Wlan,
            Access::Ran => Self::Ran,
            Access::Ethernet => Self::Ethernet,
        }
    }

    /// What the router sends on the gateway's leg goes up, on the others down.
    fn way(self, outgoing: bool) -> Way {
        if outgoing == (self == Self::Gateway) {
            Way::Up
        } else {
            Way::Down
        }
    }
}

fn watch(socket: &PacketSocket, leg: Leg, protected: bool, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut frame = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        // The interface is gone: so is the lab.
        let Ok(received) = socket.receive(&mut frame) else {
            return;
        };
        let missed = socket.dropped().map_or(0, u64::from);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.missed += missed;
        let Some(info) = received else {
            continue;
        };
        seen.frames += 1;
        let way = leg.way(info.outgoing);
        let gateway = (leg == Leg::Gateway)
            .then(|| header::gateway_address(&frame, way))
            .flatten();
        for kind in classify(&frame, info.segment) {
            match kind {
                Kind::Esp { spi, octets } => {
                    if let Some(address) = gateway {
                        *seen.gateway.entry((address, way, spi)).or_default() += 1;
                    }
                    let count = seen.esp.entry((leg, way, spi)).or_default();
                    count.packets += 1;
                    count.octets += u64::from(octets);
                }
                Kind::Ike => {
                    *seen.ike.entry((leg, way)).or_default() += 1;
                    if gateway.is_some()
                        && let Some(exchange) = header::request(&frame)
                    {
                        *seen.requests.entry((exchange, way)).or_default() += 1;
                    }
                }
                Kind::Clear(what) if protected => {
                    seen.clear += 1;
                    *seen.clear_ways.entry(way).or_default() += 1;
                    if seen.clear_examples.len() < EXAMPLES {
                        seen.clear_examples.push(format!("{leg:?} {way:?} {what}"));
                    }
                }
                Kind::Clear(_) | Kind::Other => {}
            }
        }
    }
}
