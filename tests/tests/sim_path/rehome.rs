//! The only path of a peer without probes goes where IKE says, whatever the
//! interface and the family, and stays the same path.

use std::collections::BTreeMap;
use std::time::Instant;

use mifsec::crypto::SeededEntropy;
use mifsec::ids::{AccessId, PathIndex};
use mifsec::path::{Config, Engine, Entry, LinkClass, LocalIface, PathView};

use super::*;
use crate::world::{IKE, PORT};

/// The engine and what its maps hold.
struct End {
    engine: Engine,
    entries: BTreeMap<PathIndex, Entry>,
    arrivals: BTreeMap<Arrival, PathIndex>,
    downs: Vec<DownReason>,
    now: Instant,
}

fn iface(id: u16, addresses: &[&str]) -> LocalIface {
    LocalIface {
        id: IfaceId(id),
        access: AccessId(id),
        ifindex: u32::from(id) + 10,
        state: IfaceState::Up,
        class: LinkClass(1),
        priority: 0,
        weight: 1,
        mtu: 1500,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        next_hop_v4: Some("192.0.2.254".parse().unwrap()),
        next_hop_v6: Some("2001:db8::fe".parse().unwrap()),
        layer3: false,
        probing: Probing::Default,
    }
}

fn channel(local: u16, from: &str, to: &str) -> Channel {
    Channel {
        local: IfaceId(local),
        local_addr: addr(from),
        remote_addr: addr(to),
    }
}

const V4: (&str, &str) = ("192.0.2.1", "203.0.113.1");
const V6: (&str, &str) = ("2001:db8::1", "2001:db8:9::1");

impl End {
    /// WLAN has IPv4, WWAN has both; the channel is on the WLAN.
    fn new(probes: bool) -> Self {
        let config = Config {
            port: PORT,
            max_paths: 8,
        };
        let now = Instant::now();
        let mut engine = Engine::new(config, Box::new(SeededEntropy::new(60)));
        engine.set_local(iface(WLAN, &[V4.0]), now);
        engine.set_local(iface(WWAN, &["192.0.2.2", V6.0]), now);
        let params = PeerParams {
            initiator: true,
            probes,
            behind_nat: true,
            channel: channel(WLAN, V4.0, V4.1),
        };
        engine.add_peer(IKE, params, now);
        let mut end = Self {
            engine,
            entries: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            downs: Vec::new(),
            now,
        };
        end.drain();
        end
    }

    fn drain(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::Entry { path, entry } => drop(self.entries.insert(path, entry)),
                Event::ArrivalAdded { arrival, path } => {
                    self.arrivals.insert(arrival, path);
                }
                Event::ArrivalRemoved { arrival } => drop(self.arrivals.remove(&arrival)),
                Event::Down { why, .. } => self.downs.push(why),
                Event::Removed { path } => panic!("{path:?} removed"),
                _ => {}
            }
        }
    }

    fn rehome(&mut self, to: Channel, behind_nat: bool) {
        self.engine.rehome(IKE, to, behind_nat, self.now);
        self.drain();
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some((at, _)) = self.engine.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            self.drain();
            while self.engine.poll_transmit().is_some() {}
        }
        self.now = end;
    }

    fn only(&self) -> PathView {
        let views = self.engine.views();
        assert_eq!(views.len(), 1, "{views:?}");
        views[0].clone()
    }

    /// Packets go and come this way, and only this way counts as the path's.
    fn on(&self, iface: u16, (local, remote): (&str, &str)) -> PathView {
        let view = self.only();
        let local_ip = ip(local);
        assert!(
            view.up && view.validated && view.channel && view.home,
            "{view:?}"
        );
        assert_eq!(
            (view.pair.local, view.access),
            (IfaceId(iface), AccessId(iface))
        );
        assert_eq!(view.family, Family::of(local_ip));
        let hop = if local_ip.is_ipv4() {
            "192.0.2.254"
        } else {
            "2001:db8::fe"
        };
        let ifindex = u32::from(iface) + 10;
        let entry = Entry {
            up: true,
            ifindex,
            local: addr(local),
            remote: addr(remote),
            next_hop: ip(hop),
            mtu: 1500,
            layer3: false,
        };
        assert_eq!(self.entries[&view.path], entry);
        assert_eq!(
            self.arrivals.get(&self.arrival(iface, (local, remote))),
            Some(&view.path)
        );
        view
    }

    fn arrival(&self, iface: u16, (local, remote): (&str, &str)) -> Arrival {
        Arrival {
            ifindex: u32::from(iface) + 10,
            local: addr(local),
            remote: addr(remote),
        }
    }
}

#[test]
fn the_path_of_a_peer_without_probes_changes_interface_and_family_and_stays_up() {
    let mut end = End::new(false);
    let first = end.on(WLAN, V4);
    assert!(first.local_nat);

    end.rehome(channel(WWAN, V6.0, V6.1), false);
    let moved = end.on(WWAN, V6);
    assert_eq!(moved.path, first.path, "the SAs need not be told");
    assert!(!moved.local_nat, "there is no NAT on the way any more");
    let old = end.arrival(WLAN, V4);
    assert_eq!(end.arrivals.get(&old), Some(&first.path), "still under way");
    end.run(GRACE + SECOND);
    assert_eq!(end.arrivals.get(&old), None, "not for ever");
    end.on(WWAN, V6);

    // The same interface, the other family.
    end.rehome(channel(WWAN, "192.0.2.2", V4.1), true);
    assert_eq!(end.on(WWAN, ("192.0.2.2", V4.1)).path, first.path);
    end.rehome(channel(WLAN, V4.0, V4.1), true);
    assert_eq!(end.on(WLAN, V4).path, first.path);
    // Back before what was outdated is forgotten: it is the path's again for good.
    end.rehome(channel(WWAN, V6.0, V6.1), false);
    end.run(GRACE + SECOND);
    end.on(WWAN, V6);
    assert_eq!(end.arrivals.len(), 1);
    assert_eq!(end.downs, []);
}

#[test]
fn a_path_whose_address_went_is_up_again_where_ike_moves_it() {
    let mut end = End::new(false);
    let first = end.on(WLAN, V4);
    end.engine.set_local(iface(WLAN, &[]), end.now);
    end.drain();
    assert!(!end.only().up);
    assert!(!end.entries[&first.path].up, "nothing leaves from nowhere");
    end.rehome(channel(WWAN, V6.0, V6.1), false);
    assert_eq!(end.on(WWAN, V6).path, first.path);

    // To an address that is not there, and never was.
    end.rehome(channel(WLAN, V4.0, V4.1), false);
    assert!(!end.only().up);
    assert!(!end.entries[&first.path].up);
    end.engine.set_local(iface(WLAN, &[V4.0]), end.now);
    end.drain();
    end.on(WLAN, V4);
}

#[test]
fn paths_with_probes_and_interfaces_unknown_are_not_moved() {
    let mut end = End::new(true);
    let before = end.only();
    end.rehome(channel(WWAN, V6.0, V6.1), false);
    assert_eq!(end.only(), before, "probes decide");

    let mut end = End::new(false);
    let before = end.only();
    end.rehome(channel(9, V6.0, V6.1), false);
    assert_eq!(end.only(), before);
    assert_eq!(end.engine.counters()["path_unknown_peer"], 1);
}
