//! The accesses: from what the kernel has to what the engines are told.
//!
//! Each `[[access]]` is one announced interface, or one for each of its listed
//! `addresses`; the numbers are fixed for the life of the agent. The newest
//! address of an access comes first. An address whose next hop is not known yet
//! waits a moment: DHCP and RA bring the route right after the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::config;
use crate::ids::{AccessId, Family, IfaceId};
use crate::ike::mif::{
    IfaceState as Announced, InterfaceRecord, LinkClass as Class, Maddr, MaddrFlags,
};
use crate::io::netlink::{Address, Link, MAIN, Route, RouteKind, State};
use crate::path::{IfaceState, LinkClass, LocalIface, Probing};

/// How long a new address waits for its route.
const ROUTE_GRACE: Duration = Duration::from_millis(300);

/// One announced interface.
#[derive(Debug, Clone)]
struct Iface {
    id: IfaceId,
    access: usize,
    /// The one address it stands for; `None` = all of the access.
    address: Option<IpAddr>,
}

/// When an address was first seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    order: u64,
    at: Instant,
}

/// All accesses.
pub(super) struct Accesses {
    config: Vec<config::Access>,
    ifaces: Vec<Iface>,
    links: Vec<Option<Link>>,
    /// Of the configured accesses those that are to be left: others come first.
    drained: BTreeSet<usize>,
    /// Kernel indexes without a guard: as good as not there.
    unguarded: BTreeSet<u32>,
    seen: BTreeMap<(u32, IpAddr), Seen>,
    next_order: u64,
    /// Accesses and families that have had a default route: a new address there
    /// waits for its own.
    routed: BTreeMap<(u32, Family), ()>,
    local: BTreeMap<IfaceId, LocalIface>,
    /// When an address that waits is taken without a route.
    deadline: Option<Instant>,
}

impl Accesses {
    pub(super) fn new(config: &[config::Access]) -> Self {
        let mut ifaces = Vec::new();
        let mut id = 0;
        for (access, settings) in config.iter().enumerate() {
            let addresses = settings.addresses.iter().map(|a| Some(*a));
            let listed: Vec<_> = if settings.addresses.is_empty() {
                vec![None]
            } else {
                addresses.collect()
            };
            for address in listed {
                id += 1;
                ifaces.push(Iface {
                    id: IfaceId(id),
                    access,
                    address,
                });
            }
        }
        Self {
            config: config.to_vec(),
            links: vec![None; config.len()],
            ifaces,
            drained: BTreeSet::new(),
            unguarded: BTreeSet::new(),
            seen: BTreeMap::new(),
            next_order: 0,
            routed: BTreeMap::new(),
            local: BTreeMap::new(),
            deadline: None,
        }
    }

    /// Says whether the `index`th `[[access]]` is to be left; returns the interfaces
    /// that changed.
    pub(super) fn drain(&mut self, index: usize, drained: bool) -> Vec<LocalIface> {
        if drained {
            self.drained.insert(index);
        } else {
            self.drained.remove(&index);
        }
        let mut changed = Vec::new();
        let id = access_id(index);
        for local in self.local.values_mut().filter(|l| l.access == id) {
            let state = match local.state {
                IfaceState::Up if drained => IfaceState::Backup,
                IfaceState::Backup if !drained => IfaceState::Up,
                _ => continue,
            };
            local.state = state;
            changed.push(local.clone());
        }
        changed
    }

    /// Interfaces of accesses that are to be left.
    pub(super) fn drained(&self) -> BTreeSet<IfaceId> {
        let of = self.ifaces.iter();
        of.filter(|iface| self.drained.contains(&iface.access))
            .map(|iface| iface.id)
            .collect()
    }

    /// Says which devices have no guard, for the next [`update`](Self::update).
    pub(super) fn set_unguarded(&mut self, indexes: BTreeSet<u32>) {
        self.unguarded = indexes;
    }

    /// The configured accesses that exist in `state`, with or without guard.
    pub(super) fn present(&self, state: &State) -> Vec<(u32, String)> {
        self.config
            .iter()
            .filter_map(|c| Some((state.link(&c.interface)?.index, c.interface.clone())))
            .collect()
    }

    /// Takes in the kernel's state; returns the interfaces that changed.
    pub(super) fn update(&mut self, state: &State, now: Instant) -> Vec<LocalIface> {
        self.deadline = None;
        self.links = self
            .config
            .iter()
            .map(|c| state.link(&c.interface).cloned())
            .map(|link| link.filter(|l| !self.unguarded.contains(&l.index)))
            .collect();
        self.note_addresses(state, now);
        let mut changed = Vec::new();
        for iface in self.ifaces.clone() {
            let local = self.local_iface(&iface, state, now);
            if self.local.get(&iface.id) != Some(&local) {
                self.local.insert(iface.id, local.clone());
                changed.push(local);
            }
        }
        changed
    }

    /// Takes away what is known to be gone before the state is read: an address
    /// of a device, or all of them. Returns the interfaces that changed.
    pub(super) fn lose(&mut self, index: u32, address: Option<IpAddr>) -> Vec<LocalIface> {
        let mut changed = Vec::new();
        for local in self.local.values_mut().filter(|l| l.ifindex == index) {
            let before = local.clone();
            match address {
                Some(gone) => local.addresses.retain(|a| *a != gone),
                None => {
                    local.addresses.clear();
                    local.state = IfaceState::Down;
                }
            }
            if local.addresses.is_empty() && local.state != IfaceState::Down {
                local.state = IfaceState::NoAddress;
            }
            if *local != before {
                changed.push(local.clone());
            }
        }
        changed
    }

    fn note_addresses(&mut self, state: &State, now: Instant) {
        // What is on a link that came back up is new: its routes may still come.
        let up = self.links.iter().flatten().filter(|l| l.up);
        let indexes: Vec<u32> = up.map(|l| l.index).collect();
        let ours = |a: &&Address| indexes.contains(&a.index) && a.usable;
        let present: Vec<(u32, IpAddr)> = state
            .addresses
            .iter()
            .filter(ours)
            .map(|a| (a.index, a.ip))
            .collect();
        self.seen.retain(|key, _| present.contains(key));
        for key in present {
            let order = self.next_order;
            self.seen
                .entry(key)
                .or_insert_with(|| Seen { order, at: now });
            self.next_order += 1;
        }
    }

    fn local_iface(&mut self, iface: &Iface, state: &State, now: Instant) -> LocalIface {
        let settings = self.config[iface.access].clone();
        let link = self.links[iface.access].clone();
        let mut local = LocalIface {
            id: iface.id,
            access: access_id(iface.access),
            ifindex: link.as_ref().map_or(0, |l| l.index),
            state: IfaceState::Down,
            class: LinkClass(settings.class as u8),
            priority: settings.priority,
            weight: settings.weight,
            mtu: settings.mtu.unwrap_or(1500),
            addresses: Vec::new(),
            next_hop_v4: None,
            next_hop_v6: None,
            layer3: link.as_ref().is_some_and(|l| l.layer3),
            probing: match settings.probe {
                config::ProbeStyle::Default => Probing::Default,
                config::ProbeStyle::Fast => Probing::Fast,
                config::ProbeStyle::Idle => Probing::Idle,
            },
        };
        let Some(link) = link else { return local };
        if settings.mtu.is_none() {
            local.mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
        }
        if !link.up {
            return local;
        }
        let mut addresses: Vec<&Address> = state
            .addresses
            .iter()
            .filter(|a| a.index == link.index && a.usable)
            .filter(|a| iface.address.is_none_or(|only| only == a.ip))
            .collect();
        addresses.sort_by_key(|a| {
            let seen = self.seen.get(&(a.index, a.ip)).map_or(0, |s| s.order);
            (a.last_choice, std::cmp::Reverse(seen))
        });
        for address in addresses {
            match self.next_hop(address, state, now) {
                Hop::Wait(until) => {
                    self.deadline = Some(self.deadline.map_or(until, |d| d.min(until)));
                }
                Hop::Known(hop) => {
                    // The first, so newest, address of a family decides.
                    let first = !local
                        .addresses
                        .iter()
                        .any(|a| a.is_ipv4() == address.ip.is_ipv4());
                    match hop {
                        Some(IpAddr::V4(hop)) if first => local.next_hop_v4 = Some(hop),
                        Some(IpAddr::V6(hop)) if first => local.next_hop_v6 = Some(hop),
                        _ => {}
                    }
                    local.addresses.push(address.ip);
                }
            }
        }
        local.state = match (local.addresses.is_empty(), iface.access) {
            (true, _) => IfaceState::NoAddress,
            (false, access) if self.drained.contains(&access) => IfaceState::Backup,
            (false, _) => IfaceState::Up,
        };
        local
    }

    /// The router for packets from `address`.
    fn next_hop(&mut self, address: &Address, state: &State, now: Instant) -> Hop {
        let family = Family::of(address.ip);
        let mut defaults: Vec<&Route> = defaults(state, address.index)
            .filter(|r| Family::of(r.destination.addr()) == family)
            .collect();
        defaults.sort_by_key(|r| r.metric);
        let on_link = |route: &&&Route| match route.gateway {
            None => true,
            Some(IpAddr::V6(via)) if via.is_unicast_link_local() => true,
            Some(via) => contains(address, via),
        };
        if let Some(route) = defaults.iter().find(on_link) {
            self.routed.insert((address.index, family), ());
            return Hop::Known(route.gateway);
        }
        let others = defaults.iter().any(|r| {
            let via = |a: &Address| r.gateway.is_some_and(|via| contains(a, via));
            state
                .addresses
                .iter()
                .any(|a| a.index == address.index && via(a))
        });
        let waits =
            others || (defaults.is_empty() && self.routed.contains_key(&(address.index, family)));
        let since = self
            .seen
            .get(&(address.index, address.ip))
            .map_or(now, |s| s.at);
        if waits && now < since + ROUTE_GRACE {
            return Hop::Wait(since + ROUTE_GRACE);
        }
        Hop::Known(defaults.first().and_then(|r| r.gateway))
    }

    /// When [`update`](Self::update) is due without news.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// How many interfaces can be announced.
    pub(super) fn count(&self) -> usize {
        self.ifaces.len()
    }

    /// The interfaces as they are, by id.
    pub(super) fn local(&self) -> impl Iterator<Item = &LocalIface> {
        self.local.values()
    }

    pub(super) fn iface(&self, id: IfaceId) -> Option<&LocalIface> {
        self.local.get(&id)
    }

    /// The interface that has `address` now, or is the only one of the device.
    pub(super) fn find(&self, ifindex: u32, address: IpAddr) -> Option<IfaceId> {
        let on_device = |l: &&LocalIface| l.ifindex == ifindex;
        let exact = self
            .local
            .values()
            .find(|l| (ifindex == 0 || l.ifindex == ifindex) && l.addresses.contains(&address));
        exact
            .or_else(|| self.local.values().find(on_device).filter(|_| ifindex != 0))
            .map(|l| l.id)
    }

    /// What we announce of the `index`th `[[access]]`.
    pub(super) fn ifaces_of(&self, index: usize) -> impl Iterator<Item = IfaceId> {
        let of = self
            .ifaces
            .iter()
            .filter(move |iface| iface.access == index);
        of.map(|iface| iface.id)
    }

    /// The device a message from `address` leaves by, if the sender did not say.
    pub(super) fn out_of(&self, ifindex: u32, address: IpAddr) -> u32 {
        let found = self.local.values().find(|l| l.addresses.contains(&address));
        match ifindex {
            0 => found.map_or(0, |l| l.ifindex),
            known => known,
        }
    }

    pub(super) fn settings(&self, id: IfaceId) -> Option<&config::Access> {
        let iface = self.ifaces.iter().find(|i| i.id == id)?;
        self.config.get(iface.access)
    }

    /// Kernel name of the access of `id`, for people.
    pub(super) fn name(&self, id: IfaceId) -> String {
        self.settings(id)
            .map_or_else(|| format!("iface-{}", id.0), |c| c.interface.clone())
    }

    /// How commands name an interface of ours: by its access, or by its address where
    /// the access has several of its own.
    pub(super) fn label(&self, id: IfaceId) -> String {
        let several = |i: &&Iface| i.id == id && self.ifaces_of(i.access).nth(1).is_some();
        let one = self.ifaces.iter().find(several);
        match one.and_then(|iface| iface.address) {
            Some(address) => address.to_string(),
            None => self.name(id),
        }
    }

    /// The interface of this label, or what there is of an access that has several.
    pub(super) fn named(&self, name: &str) -> Result<IfaceId, Vec<String>> {
        let label = |i: &&Iface| self.label(i.id) == name;
        if let Some(iface) = self.ifaces.iter().find(label) {
            return Ok(iface.id);
        }
        let has = |l: &&LocalIface| l.addresses.iter().any(|a| a.to_string() == name);
        if let Some(local) = self.local.values().find(has) {
            return Ok(local.id);
        }
        let of = |i: &&Iface| self.name(i.id) == name;
        let several = self.ifaces.iter().filter(of);
        Err(several.map(|iface| self.label(iface.id)).collect())
    }

    /// The configured accesses with the links they have now, if they are guarded.
    pub(super) fn links(&self) -> impl Iterator<Item = (usize, &config::Access, Option<&Link>)> {
        self.config
            .iter()
            .zip(&self.links)
            .enumerate()
            .map(|(i, (c, l))| (i, c, l.as_ref()))
    }

    /// Kernel indexes of the accesses that exist and are guarded.
    pub(super) fn indexes(&self) -> Vec<u32> {
        self.links.iter().flatten().map(|l| l.index).collect()
    }

    /// The table to announce (MIF_INTERFACES). `nat` = addresses known to sit
    /// behind a NAT.
    pub(super) fn records(&self, port: u16, nat: &[IpAddr]) -> Vec<InterfaceRecord> {
        let record = |iface: &Iface| {
            let local = self.local.get(&iface.id)?;
            let settings = self.config.get(iface.access)?;
            let mut flags = MaddrFlags::default();
            if settings.metered {
                flags = flags.with(MaddrFlags::METERED);
            }
            if !settings.trusted {
                flags = flags.with(MaddrFlags::UNTRUSTED_ACCESS);
            }
            let maddr = |ip: &IpAddr| Maddr {
                flags: if nat.contains(ip) {
                    flags.with(MaddrFlags::BEHIND_NAT)
                } else {
                    flags
                },
                port,
                ip: *ip,
            };
            Some(InterfaceRecord {
                id: iface.id,
                class: Class(settings.class as u8),
                state: match local.state {
                    IfaceState::Down => Announced::DOWN,
                    IfaceState::NoAddress => Announced::NO_ADDRESS,
                    IfaceState::Up => Announced::UP,
                    IfaceState::Backup => Announced::BACKUP,
                },
                priority: settings.priority,
                weight: settings.weight,
                mtu: local.mtu,
                addresses: local.addresses.iter().take(8).map(maddr).collect(),
            })
        };
        self.ifaces.iter().filter_map(record).collect()
    }
}

/// Whether there is a way out for an address yet.
enum Hop {
    /// `None` = everything is on the link.
    Known(Option<IpAddr>),
    /// A route may still come.
    Wait(Instant),
}

/// The default routes others made over an interface.
pub(super) fn defaults(state: &State, index: u32) -> impl Iterator<Item = &Route> {
    state.routes.iter().filter(move |r| {
        r.table == MAIN && r.interface == index && r.is_default() && r.kind == RouteKind::Unicast
    })
}

fn contains(address: &Address, ip: IpAddr) -> bool {
    ipnet::IpNet::new(address.ip, address.prefix).is_ok_and(|net| net.contains(&ip))
}

/// The id of the `index`th `[[access]]`.
pub(super) fn access_id(index: usize) -> AccessId {
    AccessId(u16::try_from(index).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Class, ProbeStyle};

    fn access(interface: &str, addresses: &[&str]) -> config::Access {
        config::Access {
            interface: interface.into(),
            class: Class::Wlan,
            priority: 0,
            weight: 70,
            metered: true,
            trusted: true,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            mtu: None,
            ike: true,
            probe: ProbeStyle::Default,
        }
    }

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            up: true,
            mtu: 1400,
            layer3: false,
            mac: vec![2; 6],
        }
    }

    fn address(index: u32, net: &str) -> Address {
        let net: ipnet::IpNet = net.parse().unwrap();
        Address {
            index,
            ip: net.addr(),
            prefix: net.prefix_len(),
            usable: true,
            last_choice: false,
        }
    }

    fn default_route(index: u32, via: &str) -> Route {
        Route {
            gateway: Some(via.parse().unwrap()),
            ..Route::direct(MAIN, "0.0.0.0/0".parse().unwrap(), index)
        }
    }

    fn addresses(accesses: &Accesses, id: u16) -> Vec<String> {
        let iface = accesses.iface(IfaceId(id)).unwrap();
        iface.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_address_is_first_and_its_gateway_is_the_next_hop() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("wlan0", &[])]);
        let mut state = State {
            links: vec![link(3, "wlan0")],
            addresses: vec![address(3, "192.168.1.2/24")],
            routes: vec![default_route(3, "192.168.1.1")],
        };
        assert_eq!(accesses.update(&state, now).len(), 1);
        assert_eq!(
            accesses.update(&state, now).len(),
            0,
            "nothing new, nothing told"
        );
        state.addresses.insert(0, address(3, "192.168.2.9/24"));
        state.routes.push(default_route(3, "192.168.2.1"));
        let changed = accesses.update(&state, now);
        assert_eq!(addresses(&accesses, 1), ["192.168.2.9", "192.168.1.2"]);
        assert_eq!(changed[0].next_hop_v4, Some("192.168.2.1".parse().unwrap()));
        assert_eq!(changed[0].mtu, 1400);
    }

    #[test]
    fn a_new_address_waits_for_its_route_but_not_for_ever() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("wlan0", &[])]);
        let mut state = State {
            links: vec![link(3, "wlan0")],
            addresses: vec![address(3, "192.168.1.2/24")],
            routes: vec![default_route(3, "192.168.1.1")],
        };
        accesses.update(&state, now);
        // The address is replaced; the kernel flushed the routes with the old one.
        state.addresses = vec![address(3, "192.168.2.9/24")];
        state.routes.clear();
        let changed = accesses.update(&state, now);
        assert_eq!(changed[0].state, IfaceState::NoAddress);
        let due = accesses.deadline().expect("a look without news");
        let changed = accesses.update(&state, due);
        assert_eq!(changed[0].state, IfaceState::Up);
        assert_eq!(
            changed[0].next_hop_v4, None,
            "everything is on the link then"
        );
        assert_eq!(accesses.deadline(), None);
    }

    #[test]
    fn an_access_without_carrier_has_no_addresses() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("wlan0", &[]), access("wwan0", &[])]);
        let mut state = State {
            links: vec![link(3, "wlan0")],
            addresses: vec![address(3, "192.168.1.2/24")],
            routes: Vec::new(),
        };
        accesses.update(&state, now);
        assert_eq!(
            accesses.iface(IfaceId(2)).unwrap().state,
            IfaceState::Down,
            "not there yet"
        );
        state.links[0].up = false;
        accesses.update(&state, now);
        assert_eq!(accesses.iface(IfaceId(1)).unwrap().state, IfaceState::Down);
        assert!(addresses(&accesses, 1).is_empty());
    }

    #[test]
    fn an_access_without_guard_is_not_used_until_it_has_one() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("wlan0", &[])]);
        let state = State {
            links: vec![link(3, "wlan0")],
            addresses: vec![address(3, "192.168.1.2/24")],
            routes: Vec::new(),
        };
        accesses.set_unguarded(BTreeSet::from([3]));
        accesses.update(&state, now);
        assert_eq!(accesses.iface(IfaceId(1)).unwrap().state, IfaceState::Down);
        assert!(accesses.indexes().is_empty(), "nothing is sent or read");
        assert_eq!(accesses.present(&state), [(3, "wlan0".to_owned())]);
        accesses.set_unguarded(BTreeSet::new());
        accesses.update(&state, now);
        assert_eq!(addresses(&accesses, 1), ["192.168.1.2"]);
    }

    #[test]
    fn each_listed_address_is_an_interface_of_its_own() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("eth0", &["203.0.113.1", "2001:db8::1"])]);
        let state = State {
            links: vec![link(2, "eth0")],
            addresses: vec![
                address(2, "203.0.113.1/24"),
                address(2, "203.0.113.7/24"),
                address(2, "2001:db8::1/64"),
            ],
            routes: Vec::new(),
        };
        accesses.update(&state, now);
        assert_eq!(addresses(&accesses, 1), ["203.0.113.1"]);
        assert_eq!(addresses(&accesses, 2), ["2001:db8::1"]);
        let records = accesses.records(4500, &["203.0.113.1".parse().unwrap()]);
        assert_eq!(records.len(), 2);
        assert!(records[0].addresses[0].behind_nat());
        assert!(!records[1].addresses[0].behind_nat());
    }

    #[test]
    fn what_is_lost_is_gone_before_the_state_is_read() {
        let now = Instant::now();
        let mut accesses = Accesses::new(&[access("wlan0", &[])]);
        let state = State {
            links: vec![link(3, "wlan0")],
            addresses: vec![address(3, "192.168.1.2/24"), address(3, "192.168.1.3/24")],
            routes: Vec::new(),
        };
        accesses.update(&state, now);
        let changed = accesses.lose(3, Some("192.168.1.3".parse().unwrap()));
        assert_eq!(changed.len(), 1);
        assert_eq!(addresses(&accesses, 1), ["192.168.1.2"]);
        assert!(
            accesses
                .lose(3, Some("10.0.0.1".parse().unwrap()))
                .is_empty()
        );
        let changed = accesses.lose(3, None);
        assert_eq!(changed[0].state, IfaceState::Down);
    }
}
