//! The first packet for a peer that is connected only when there is something for
//! it: the packet is dropped, the agent is told. A flood of them tells it once a
//! second from each worker.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Input;
use super::counters::{Counters, Reason};

/// How often a worker tells of packets for one peer.
const EVERY: Duration = Duration::from_secs(1);

/// When the agent was last told of packets for each peer.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<usize, Instant>);

impl Told {
    /// Drops and counts a packet for `peer`, and tells the agent of it.
    pub(super) fn drop(
        &mut self,
        peer: usize,
        destination: IpAddr,
        inputs: &mpsc::Sender<Input>,
        counters: &Counters,
        now: Instant,
    ) {
        if is_of_the_link(destination) {
            return counters.hit(Reason::NoPolicy);
        }
        counters.hit(Reason::Trapped);
        let told = self.0.get(&peer);
        if told.is_some_and(|at| now < *at + EVERY) {
            return;
        }
        self.0.insert(peer, now);
        if inputs.try_send(Input::Wanted { peer }).is_err() {
            counters.hit(Reason::AgentQueueFull);
        }
    }
}

/// A host says something to its links by itself: no reason to connect.
fn is_of_the_link(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(ip) => {
            ip.is_multicast() || ip.is_broadcast() || ip.is_link_local() || ip.is_unspecified()
        }
        IpAddr::V6(ip) => ip.is_multicast() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_for_a_peer_tells_the_agent_once_a_second_and_each_packet_counts() {
        let (inputs, mut receiver) = mpsc::channel(8);
        let (mut told, counters, start) = (Told::default(), Counters::new(), Instant::now());
        let to = "198.51.100.2".parse().unwrap();
        for (ms, peer) in [(0, 3), (500, 3), (500, 0), (999, 3), (1000, 3)] {
            let now = start + Duration::from_millis(ms);
            told.drop(peer, to, &inputs, &counters, now);
        }
        let mut peers = Vec::new();
        while let Ok(Input::Wanted { peer }) = receiver.try_recv() {
            peers.push(peer);
        }
        assert_eq!(peers, [3, 0, 3]);
        assert_eq!(counters.get(Reason::Trapped), 5);
    }

    #[test]
    fn what_is_for_the_link_connects_no_peer() {
        let (inputs, mut receiver) = mpsc::channel(8);
        let (mut told, counters, now) = (Told::default(), Counters::new(), Instant::now());
        for to in [
            "224.0.0.251",
            "255.255.255.255",
            "169.254.1.1",
            "ff02::2",
            "fe80::1",
        ] {
            told.drop(0, to.parse().unwrap(), &inputs, &counters, now);
        }
        assert!(receiver.try_recv().is_err());
        assert_eq!(counters.get(Reason::NoPolicy), 5);
    }
}
