//! Following the kernel: accesses, routes, rules, leases, neighbours.
//!
//! Order of a change: what went away is told to the path engine at once; routes
//! and rules for what is new are made; then the path engine may use it. A probe
//! from a new address needs its rule, a dead path must not wait for one.

pub(super) mod services;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use crate::config::{Config, MAX_ORDERED, Routing};
use crate::ids::Family;
use crate::ike::Command;
use crate::io::netlink::MAIN;
use crate::io::netlink::{Netlink, NetlinkError, Route, RouteKind, Rule, State};
use crate::path::{IfaceState, LocalIface};

use super::Agent;
use super::access::{Accesses, defaults};

/// Numbers of tables and rules, from `table`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The protected selectors.
    pub(super) protected: u32,
    /// The anchors.
    pub(super) anchors: u32,
    accesses: u32,
    access_rules: u32,
    /// One table and one rule for each selector where order decides.
    services: u32,
    service_rules: u32,
    anchor_rule: u32,
    protected_rule: u32,
}

impl Numbers {
    /// From `[agent] table`.
    pub(super) fn new(table: u32) -> Self {
        Self {
            protected: table,
            anchors: table + 1,
            accesses: table + 10,
            access_rules: table - 100,
            services: table + 100,
            service_rules: table - 50,
            // Before the protected table: an `unreachable` there refuses packets
            // whatever device they are bound to.
            anchor_rule: table - 1,
            protected_rule: table,
        }
    }

    fn tables(&self, accesses: usize) -> BTreeSet<u32> {
        let per_access = (0..).take(accesses).map(|i| self.accesses + i);
        // A former configuration may have had more than this one.
        let services = (0..).take(MAX_ORDERED).map(|i| self.services + i);
        let others = [self.protected, self.anchors];
        per_access.chain(services).chain(others).collect()
    }

    fn rules(&self) -> std::ops::RangeInclusive<u32> {
        self.access_rules..=self.protected_rule + 1
    }
}

/// What never changes after the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Devices {
    pub(super) tun: u32,
    pub(super) anchor: u32,
    pub(super) anchor_routes: Vec<Route>,
}

/// Inner addresses of the peers that are there, by their place in the configuration.
pub(super) type Leases<'a> = &'a [(usize, Vec<IpAddr>)];

/// All routes and rules that should be there.
pub(super) struct Wanted {
    routes: BTreeSet<Route>,
    rules: BTreeSet<Rule>,
    leases: BTreeSet<IpAddr>,
}

/// Computes [`Wanted`]. `leases` are the inner addresses of established peers
/// with their configuration.
pub(super) fn wanted(
    config: &Config,
    numbers: Numbers,
    devices: &Devices,
    accesses: &Accesses,
    leases: Leases<'_>,
    state: &State,
    lockdown: bool,
) -> Wanted {
    let mut out = Wanted {
        routes: devices.anchor_routes.iter().cloned().collect(),
        rules: BTreeSet::new(),
        leases: leases.iter().flat_map(|(_, l)| l.iter().copied()).collect(),
    };
    for family in [Family::V4, Family::V6] {
        out.rules.insert(Rule {
            device: Some(config.agent.anchor_device.clone()),
            ..Rule::lookup(numbers.anchor_rule, family, numbers.anchors)
        });
    }
    match config.agent.routing {
        Routing::Managed => {
            services::protect(
                config, numbers, devices, accesses, leases, lockdown, &mut out,
            );
            reach(numbers, accesses, state, &mut out);
        }
        Routing::Manual => {
            let pools = config.pools.iter().flat_map(|p| &p.cidr);
            if devices.tun != 0 {
                out.routes
                    .extend(pools.map(|net| Route::direct(MAIN, *net, devices.tun)));
            }
        }
    }
    out
}

/// A table for each access with what the main table has of it, and a rule for
/// each of its addresses.
fn reach(numbers: Numbers, accesses: &Accesses, state: &State, out: &mut Wanted) {
    for ((index, _, link), i) in accesses.links().zip(0u32..) {
        let Some(link) = link else { continue };
        let table = numbers.accesses + i;
        for address in state.addresses.iter().filter(|a| a.index == link.index) {
            if matches!(address.ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
                continue;
            }
            let priority = numbers.access_rules + u32::try_from(index).unwrap_or(0);
            out.rules.insert(Rule {
                from: Some(address.ip),
                ..Rule::lookup(priority, Family::of(address.ip), table)
            });
        }
        let connected = state.routes.iter().filter(|r| {
            r.table == MAIN
                && r.interface == link.index
                && r.gateway.is_none()
                && !r.is_default()
                && r.kind == RouteKind::Unicast
        });
        for route in connected {
            out.routes
                .insert(Route::direct(table, route.destination, link.index));
        }
        // Of each family the default that wins.
        for family in [Family::V4, Family::V6] {
            let best = defaults(state, link.index)
                .filter(|r| Family::of(r.destination.addr()) == family)
                .min_by_key(|r| r.metric);
            if let Some(route) = best {
                out.routes.insert(Route {
                    gateway: route.gateway,
                    onlink: route
                        .gateway
                        .is_some_and(|g| !connects(state, link.index, g)),
                    ..Route::direct(table, route.destination, link.index)
                });
            }
        }
    }
}

/// Whether `gateway` lies in a prefix of the interface.
fn connects(state: &State, index: u32, gateway: IpAddr) -> bool {
    if matches!(gateway, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
        return true;
    }
    state.addresses.iter().any(|a| {
        a.index == index && IpNet::new(a.ip, a.prefix).is_ok_and(|net| net.contains(&gateway))
    })
}

impl Agent {
    /// Reads the kernel's state and follows it.
    pub(super) async fn follow(&mut self) -> Result<(), NetlinkError> {
        let state = self.netlink.state().await?;
        let now = Instant::now();
        let before: Vec<LocalIface> = self.accesses.local().cloned().collect();
        self.attach_accesses(&state);
        let changed = self.accesses.update(&state, now);
        if !changed.is_empty() || self.announce_due {
            self.tell_local_addresses();
        }
        let frozen = self.sabotage.no_update && !self.peers.is_empty();
        if !frozen {
            for iface in &changed {
                self.withdraw(before.iter().find(|b| b.id == iface.id), iface, now);
            }
            self.drain();
        }
        self.state = state;
        self.apply_network().await;
        if (!changed.is_empty() || self.announce_due) && !frozen {
            let now = Instant::now();
            for iface in changed {
                tracing::info!(
                    access = self.accesses.name(iface.id),
                    state = ?iface.state,
                    addresses = ?iface.addresses,
                    "access changed"
                );
                self.path.set_local(iface, now);
            }
            self.changed = true;
            self.announce_due = false;
            self.drain();
            self.announce(now);
            self.retry_accesses(now);
        }
        Ok(())
    }

    /// Tells the path engine at once what an interface lost.
    fn withdraw(&mut self, before: Option<&LocalIface>, after: &LocalIface, now: Instant) {
        let Some(before) = before else { return };
        let mut less = before.clone();
        less.addresses.retain(|a| after.addresses.contains(a));
        if !matches!(after.state, IfaceState::Up | IfaceState::Backup) {
            less.state = after.state;
            less.addresses.clear();
        } else if less.addresses.is_empty() {
            less.state = IfaceState::NoAddress;
        }
        if less != *before {
            self.path.set_local(less, now);
            self.changed = true;
        }
    }

    /// Announces our interfaces when the table differs from the last one.
    pub(super) fn announce(&mut self, now: Instant) {
        let nat: Vec<IpAddr> = self
            .path
            .views()
            .iter()
            .filter(|v| v.local_nat)
            .filter_map(|v| v.local.map(|l| l.ip()))
            .collect();
        let ifaces = self.accesses.records(self.config.agent.port, &nat);
        if self.announced.as_ref() != Some(&ifaces) {
            self.announced = Some(ifaces.clone());
            self.ike
                .handle_command(Command::SetInterfaces { ifaces }, now);
        }
    }

    /// Guard and ingress program on accesses that appeared, before anything uses
    /// them; one that refuses is tried again whenever the kernel has news.
    fn attach_accesses(&mut self, state: &State) {
        let present = self.accesses.present(state);
        let gone: Vec<u32> = self
            .attached
            .keys()
            .filter(|i| !present.iter().any(|(p, _)| p == *i))
            .copied()
            .collect();
        for index in gone {
            self.ebpf.detach_access(index);
            self.attached.remove(&index);
            self.changed = true;
        }
        for (index, name) in present {
            let before = self.attached.get(&index);
            if before.is_some_and(Result::is_ok) {
                continue;
            }
            match self
                .ebpf
                .attach_access(index, super::setup::xdp_choice(self.config.agent.xdp))
            {
                Ok(mode) => {
                    tracing::info!(access = name, ingress = %mode, "access attached");
                    self.attached.insert(index, Ok(mode.to_string()));
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if before.is_some_and(|b| b.as_ref() == Err(&error)) {
                        continue;
                    }
                    tracing::error!(
                        access = name,
                        error,
                        "no program on this access: it is not used"
                    );
                    self.attached.insert(index, Err(error));
                }
            }
            self.changed = true;
        }
        let unguarded = self.attached.iter().filter(|(_, mode)| mode.is_err());
        self.accesses
            .set_unguarded(unguarded.map(|(index, _)| *index).collect());
    }

    pub(super) fn tell_local_addresses(&mut self) {
        let addresses: Vec<IpAddr> = self
            .accesses
            .local()
            .flat_map(|l| l.addresses.clone())
            .collect();
        if let Err(error) = self.ebpf.set_local(&addresses) {
            tracing::error!(%error, "local addresses not in the map");
        }
    }

    /// Makes routes, rules, leases and neighbours what they should be.
    pub(super) async fn apply_network(&mut self) {
        self.routes_dirty = false;
        let leases: Vec<(usize, Vec<IpAddr>)> = self
            .peers
            .values()
            .filter(|p| p.initiator)
            .map(|p| (p.config, p.leases.clone()))
            .collect();
        let wanted = wanted(
            &self.config,
            self.numbers,
            &self.devices,
            &self.accesses,
            &leases,
            &self.state,
            self.config.agent.lockdown,
        );
        let count = self.config.accesses.len();
        let applied = apply(
            &self.netlink,
            self.numbers,
            &self.devices,
            count,
            &wanted,
            &self.state,
        )
        .await;
        if let Err(error) = applied {
            tracing::warn!(%error, "network");
        }
        self.apply_neighbours().await;
    }

    /// Keeps the next hops in use resolved.
    pub(super) async fn apply_neighbours(&mut self) {
        self.neighbours_dirty = false;
        let mut wanted = BTreeSet::new();
        for local in self
            .accesses
            .local()
            .filter(|l| l.ifindex != 0 && !l.layer3)
        {
            wanted.extend(local.next_hop_v4.map(|h| (local.ifindex, IpAddr::V4(h))));
            wanted.extend(local.next_hop_v6.map(|h| (local.ifindex, IpAddr::V6(h))));
        }
        for entry in self.entries.values().filter(|e| !e.layer3) {
            wanted.insert((entry.ifindex, entry.next_hop));
        }
        for (index, hop) in self.neighbours.difference(&wanted) {
            if let Err(error) = self.netlink.release_neighbour(*index, *hop).await {
                tracing::debug!(%error, "neighbour");
            }
        }
        // A link that went down and up again has forgotten them: asked for anew each time.
        for (index, hop) in &wanted {
            if let Err(error) = self.netlink.manage_neighbour(*index, *hop).await {
                tracing::debug!(%error, "neighbour");
            }
        }
        self.neighbours = wanted;
    }
}

/// Leases before the routes that name them, rules last: a rule may only point to
/// a table that is complete.
pub(super) async fn apply(
    netlink: &Netlink,
    numbers: Numbers,
    devices: &Devices,
    accesses: usize,
    wanted: &Wanted,
    state: &State,
) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    let mut keep = |step: Result<(), NetlinkError>| {
        if result.is_ok() {
            result = step;
        }
    };
    if devices.tun != 0 {
        keep(
            netlink
                .apply_addresses(devices.tun, &wanted.leases, &state.addresses)
                .await,
        );
    }
    let tables = numbers.tables(accesses);
    keep(
        netlink
            .apply_routes(&tables, &wanted.routes, state)
            .await
            .map(|_| ()),
    );
    keep(
        netlink
            .apply_rules(&numbers.rules(), &wanted.rules)
            .await
            .map(|_| ()),
    );
    result
}

/// Takes all of it away.
pub(super) async fn clear(
    netlink: &Netlink,
    numbers: Numbers,
    accesses: usize,
) -> Result<(), NetlinkError> {
    netlink
        .apply_rules(&numbers.rules(), &BTreeSet::new())
        .await?;
    let state = netlink.state().await?;
    let tables = numbers.tables(accesses);
    netlink
        .apply_routes(&tables, &BTreeSet::new(), &state)
        .await?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::io::netlink::{Address, Link};

    pub(in crate::agent) const LAPTOP: &str = r#"
        [[access]]
        interface = "wlan0"
        [[access]]
        interface = "wwan0"
        [[peer]]
        name = "gw"
        remote = ["203.0.113.1"]
        local_id = "laptop@example.org"
        remote_id = "gw.example.org"
        psk_file = "/dev/stdin"
        addresses = ["ipv4"]
        [[peer.child]]
        name = "all"
        remote_ts = ["0.0.0.0/0", "10.0.0.0/8"]
    "#;

    pub(in crate::agent) fn config(text: &str, name: &str) -> Config {
        let secret = std::env::temp_dir().join(format!("mifsec-{name}-{}", std::process::id()));
        std::fs::write(&secret, "secret").unwrap();
        let text = text.replace("/dev/stdin", &secret.display().to_string());
        let config = Config::parse(Path::new("test.toml"), &text);
        std::fs::remove_file(&secret).unwrap();
        config.unwrap_or_else(|e| panic!("{e}"))
    }

    fn state() -> State {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            up: true,
            mtu: 1500,
            layer3: false,
            mac: vec![2; 6],
        };
        let address = |index, ip: &str| Address {
            index,
            ip: ip.parse().unwrap(),
            prefix: 24,
            usable: true,
            last_choice: false,
        };
        let via = |index, gateway: &str| Route {
            gateway: Some(gateway.parse().unwrap()),
            ..Route::direct(MAIN, "0.0.0.0/0".parse().unwrap(), index)
        };
        State {
            links: vec![link(2, "wlan0"), link(3, "wwan0"), link(9, "docker0")],
            addresses: vec![
                address(2, "192.168.1.2"),
                address(3, "10.64.3.7"),
                address(9, "172.17.0.1"),
            ],
            routes: vec![
                Route::direct(MAIN, "192.168.1.0/24".parse().unwrap(), 2),
                Route::direct(MAIN, "172.17.0.0/16".parse().unwrap(), 9),
                via(2, "192.168.1.1"),
                via(3, "100.64.0.1"),
            ],
        }
    }

    fn wanted_for(config: &Config, leases: &[(usize, Vec<IpAddr>)], lockdown: bool) -> Wanted {
        let mut accesses = Accesses::new(&config.accesses);
        accesses.update(&state(), Instant::now());
        let devices = Devices {
            tun: 7,
            anchor: 8,
            anchor_routes: Vec::new(),
        };
        wanted(
            config,
            Numbers::new(4500),
            &devices,
            &accesses,
            leases,
            &state(),
            lockdown,
        )
    }

    #[test]
    fn without_a_lease_protected_destinations_are_refused() {
        let config = config(LAPTOP, "refused");
        let wanted = wanted_for(&config, &[], true);
        let protected: Vec<_> = wanted.routes.iter().filter(|r| r.table == 4500).collect();
        assert_eq!(protected.len(), 2);
        assert!(protected.iter().all(|r| r.kind == RouteKind::Unreachable));
        assert!(wanted.leases.is_empty());
    }

    #[test]
    fn a_peer_that_waits_for_a_packet_is_routed_from_an_address_that_is_nobodys() {
        let text = LAPTOP.replace("addresses", "start = \"trap\"\naddresses");
        let config = config(&text, "trap");
        let dummy: IpAddr = "192.0.0.8".parse().unwrap();
        let over_tun = |leases: &[(usize, Vec<IpAddr>)], source| {
            let wanted = wanted_for(&config, leases, true);
            assert_eq!(wanted.leases, BTreeSet::from([source]));
            let tun: Vec<_> = wanted.routes.iter().filter(|r| r.interface == 7).collect();
            assert!(tun.iter().all(|r| r.source == Some(source)), "{tun:?}");
            tun.len()
        };
        assert_eq!(over_tun(&[], dummy), 2);
        let lease: IpAddr = "10.66.0.7".parse().unwrap();
        assert_eq!(over_tun(&[(0, vec![lease])], lease), 2);
    }

    #[test]
    fn with_a_lease_they_go_over_the_tun_and_stay_refused_behind_it() {
        let config = config(LAPTOP, "leased");
        let lease: IpAddr = "10.66.0.7".parse().unwrap();
        let wanted = wanted_for(&config, &[(0, vec![lease])], true);
        let over_tun: Vec<_> = wanted.routes.iter().filter(|r| r.interface == 7).collect();
        assert_eq!(over_tun.len(), 2);
        for route in over_tun {
            assert_eq!(route.source, Some(lease));
            let behind = Route::unreachable(4500, route.destination);
            assert!(wanted.routes.contains(&behind));
            assert!(route.metric < behind.metric);
        }
        let open = wanted_for(&config, &[], false);
        assert!(
            open.routes.iter().all(|r| r.kind != RouteKind::Unreachable),
            "lockdown = false"
        );
    }

    #[test]
    fn each_access_has_its_own_way_out_and_the_anchor_comes_before_the_refusal() {
        let config = config(LAPTOP, "access");
        let wanted = wanted_for(&config, &[], true);
        let rule = |from: &str, table| {
            let from: IpAddr = from.parse().unwrap();
            wanted
                .rules
                .iter()
                .any(|r| r.from == Some(from) && r.table == Some(table))
        };
        assert!(rule("192.168.1.2", 4510));
        assert!(rule("10.64.3.7", 4511));
        assert!(
            wanted
                .rules
                .iter()
                .all(|r| r.from != Some("172.17.0.1".parse().unwrap()))
        );
        let wwan: Vec<_> = wanted.routes.iter().filter(|r| r.table == 4511).collect();
        assert_eq!(wwan.len(), 1);
        assert!(wwan[0].onlink, "its gateway lies in no prefix of it");
        let priority = |table| {
            wanted
                .rules
                .iter()
                .find(|r| r.table == Some(table))
                .map(|r| r.priority)
        };
        assert!(
            priority(4501) < priority(4500),
            "an unreachable route ignores the device"
        );
    }

    const SERVICES: &str = r#"
        [[peer.child]]
        name = "video"
        policy = "bypass"
        remote_ts = ["0.0.0.0/0[udp/5000-5010]"]
        [[peer.child]]
        name = "telnet"
        policy = "discard"
        order = -1
        remote_ts = ["0.0.0.0/0[tcp/23]"]
    "#;

    #[test]
    fn where_order_decides_each_selector_has_a_rule_in_that_order() {
        let config = config(&format!("{LAPTOP}{SERVICES}"), "ordered");
        let wanted = wanted_for(&config, &[], true);
        let mut rules: Vec<&Rule> = wanted
            .rules
            .iter()
            .filter(|r| (4450..4499).contains(&r.priority))
            .collect();
        rules.sort_by_key(|r| r.priority);
        let lines: Vec<_> = rules
            .iter()
            .map(|r| {
                (
                    r.to.map(|t| t.to_string()),
                    r.protocol,
                    r.remote_ports,
                    r.table,
                )
            })
            .collect();
        let any = (0, u16::MAX);
        let ten = Some("10.0.0.0/8".to_owned());
        assert_eq!(
            lines,
            [
                (None, 6, (23, 23), None),
                (ten, 0, any, Some(4601)),
                (None, 17, (5000, 5010), Some(MAIN)),
                (None, 0, any, Some(4603)),
            ],
            "discard by order, then the longer prefix, then ports before none"
        );
        // Each protected one is refused until there is a lease, and again behind it.
        for table in [4601, 4603, 4500] {
            let mut refused = wanted.routes.iter().filter(|r| r.table == table);
            assert!(refused.all(|r| r.kind == RouteKind::Unreachable), "{table}");
        }
        let lease: IpAddr = "10.66.0.7".parse().unwrap();
        let wanted = wanted_for(&config, &[(0, vec![lease])], true);
        let mut over_tun = wanted.routes.iter().filter(|r| r.interface == 7);
        assert!(over_tun.all(|r| r.source == Some(lease)));
        // All of it is in what is compared and cleared.
        let numbers = Numbers::new(4500);
        let tables = numbers.tables(config.accesses.len());
        assert!(tables.contains(&4647), "of a former one, too");
        assert!(wanted.routes.iter().all(|r| tables.contains(&r.table)));
        assert!(
            wanted
                .rules
                .iter()
                .all(|r| numbers.rules().contains(&r.priority))
        );
    }

    #[test]
    fn a_pinned_child_sends_from_the_address_of_the_best_access_that_is_up() {
        let text = LAPTOP.replace("name = \"all\"", "name = \"all\"\nlayout = \"pinned\"");
        let config = config(&text, "pinned-routes");
        let leases = ["10.66.0.7", "10.66.0.9"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let source = |state: &State| {
            let mut accesses = Accesses::new(&config.accesses);
            accesses.update(state, Instant::now());
            let devices = Devices {
                tun: 7,
                anchor: 8,
                anchor_routes: Vec::new(),
            };
            let leases = [(0, leases.to_vec())];
            let numbers = Numbers::new(4500);
            let wanted = wanted(&config, numbers, &devices, &accesses, &leases, state, true);
            assert_eq!(wanted.leases.len(), 2, "the TUN holds both");
            let mut over_tun = wanted.routes.iter().filter(|r| r.interface == 7);
            over_tun.next().unwrap().source
        };
        assert_eq!(source(&state()), Some(leases[0]), "wlan0 comes first");
        let mut without = state();
        without.links[0].up = false;
        assert_eq!(source(&without), Some(leases[1]), "only wwan0 is up");
    }
}
