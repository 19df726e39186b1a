//! `mifsec explain`: what happens to a flow or an SPI, and why.
//!
//! The answer is read from the same things the data plane and the kernel were given:
//! the SPD's order, Child SAs, paths. Nothing is sent and nothing changes.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use ipnet::IpNet;
use mifsec_common::steering;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Layout, Policy, Start, Ts};
use crate::dataplane::{Bundle, Selector};
use crate::ids::{AccessId, Spi};
use crate::io::netlink::MAIN;

use super::Agent;
use super::bundle::Child;
use super::network::services;
use super::place::{Place, home};
use super::spd::{self, Entry};

/// Schema of [`ExplainView`].
pub const EXPLAIN_SCHEMA: &str = "mifsec.explain/1";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Explain {
    /// A flow as an application of this host begins it.
    Flow {
        /// Inner source; `None` leaves it to the routes.
        src: Option<IpAddr>,
        /// Inner destination.
        dst: IpAddr,
        /// IP protocol.
        protocol: u8,
        /// Source port, if it has one and it is known.
        sport: Option<u16>,
        /// Destination port, if it has one.
        dport: Option<u16>,
    },
    /// An SPI of either direction.
    Spi(u32),
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainView {
    /// [`EXPLAIN_SCHEMA`].
    pub schema: String,
    /// What was asked, as `tcp 10.66.0.7 -> 198.51.100.1:80` or `0xc0ffee01`.
    pub asked: String,
    /// `protect`, `bypass`, `discard`, `refused` (protected, but nothing can carry
    /// it now), or `clear` (no rule selects it).
    pub verdict: String,
    /// The SPD in order, down to the rule that decides; all of it for an SPI.
    pub rules: Vec<ExplainRule>,
    /// The Child SA that carries it.
    pub sa: Option<ExplainSa>,
    /// The path that Child SA is on.
    pub path: Option<ExplainPath>,
    /// Why, a sentence each, in the order of the decisions.
    pub why: Vec<String>,
}

/// A rule of the SPD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRule {
    /// Place in the SPD, from 1.
    pub place: usize,
    /// `[[peer.child]] order`.
    pub order: i32,
    /// `protect`, `bypass` or `discard`.
    pub policy: String,
    /// `[[peer]] name`.
    pub peer: String,
    /// `[[peer.child]] name`.
    pub child: String,
    /// Remote prefix, with protocol and ports if it has any.
    pub selector: String,
    /// Whether it selects the flow.
    pub selects: bool,
}

/// A Child SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainSa {
    /// `[[peer]] name`.
    pub peer: String,
    /// `[[peer.child]] name`.
    pub child: String,
    /// Inbound SPI.
    pub spi_in: String,
    /// Outbound SPI.
    pub spi_out: String,
    /// `bundle`, `pinned`, or `single`: alone, since the peer takes no equal selectors
    /// on several paths.
    pub layout: String,
    /// Our selectors.
    pub local: Vec<String>,
    /// The peer's.
    pub remote: Vec<String>,
    /// Child SAs with equal selectors, itself included.
    pub members: usize,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainPath {
    /// In the maps.
    pub index: u32,
    /// Our access.
    pub access: String,
    /// Our outer address and port.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// `up`, `down` or `validating`.
    pub state: String,
    /// Whether the Child SA is at home on it; else it is lent to it.
    pub home: bool,
    /// Smoothed round trip time.
    pub rtt_us: Option<u64>,
}

/// A flow as it is asked for.
#[derive(Debug, Clone, Copy)]
struct Flow {
    src: Option<IpAddr>,
    dst: IpAddr,
    protocol: u8,
    ports: (Option<u16>, Option<u16>),
}

impl Agent {
    /// What happens to a flow or an SPI.
    ///
    /// # Errors
    /// One line when there is no such SPI, or when the addresses are of two families.
    pub fn explain(&self, what: &Explain) -> Result<ExplainView, String> {
        match *what {
            Explain::Flow {
                src,
                dst,
                protocol,
                sport,
                dport,
            } => {
                if src.is_some_and(|src| src.is_ipv4() != dst.is_ipv4()) {
                    return Err("source and destination are of two families".into());
                }
                let ports = match has_ports(protocol) {
                    true => (sport, dport),
                    false => (None, None),
                };
                Ok(self.explain_flow(Flow {
                    src,
                    dst,
                    protocol,
                    ports,
                }))
            }
            Explain::Spi(spi) => self.explain_spi(Spi(spi)),
        }
    }

    fn explain_flow(&self, flow: Flow) -> ExplainView {
        let (rules, decided) = judge(&self.config, &flow);
        let mut view = ExplainView {
            schema: EXPLAIN_SCHEMA.into(),
            asked: flow.to_string(),
            verdict: "clear".into(),
            rules,
            sa: None,
            path: None,
            why: Vec::new(),
        };
        let Some(entry) = decided else {
            view.why
                .push("no rule selects it: it is none of our business".into());
            view.why.push(self.route_out(flow.dst));
            return view;
        };
        let place = view.rules.len();
        let by = view
            .rules
            .last()
            .map(|r| (r.selector.clone(), r.child.clone()));
        let (selector, child) = by.unwrap_or_default();
        view.why.push(format!(
            "rule {place} selects it: {selector} of child {child:?}, order {}",
            entry.order
        ));
        match entry.policy {
            Policy::Bypass => {
                view.verdict = "bypass".into();
                view.why.push(self.route_out(flow.dst));
            }
            Policy::Discard => {
                view.verdict = "discard".into();
                view.why
                    .push("it is refused here and on every access".into());
            }
            Policy::Protect => self.explain_protected(&entry, flow, &mut view),
        }
        view
    }

    /// Which Child SA and path a protected flow takes.
    fn explain_protected(&self, entry: &Entry, mut flow: Flow, view: &mut ExplainView) {
        view.verdict = "refused".into();
        let Some(settings) = self.config.peers.get(entry.peer) else {
            return;
        };
        let mut established = self.peers.values().filter(|p| p.config == entry.peer);
        let Some(peer) = established.next_back() else {
            view.why.push(format!(
                "peer {:?} is not established, so nothing can carry it",
                settings.name
            ));
            if settings.start == Start::Trap {
                view.why.push("its first packet connects that peer".into());
            }
            return;
        };
        if let (None, true, Some(child)) =
            (flow.src, peer.initiator, settings.children.get(entry.child))
        {
            let inner = services::inner(settings, child, &self.accesses, &peer.leases);
            flow.src = inner
                .into_iter()
                .find(|l| l.is_ipv4() == flow.dst.is_ipv4());
            if let Some(src) = flow.src {
                view.why
                    .push(format!("the routes give it the source {src}"));
            }
        }
        let views = self.path.views();
        let (snapshot, _) = self.snapshot(&views, Instant::now());
        // The first in order, as the data plane looks it up.
        let Some(bundle) = snapshot.bundles.iter().find(|b| selects(b, &flow)) else {
            let from = flow
                .src
                .map(|src| format!(" from {src}"))
                .unwrap_or_default();
            view.why.push(format!(
                "peer {:?} is established, but no Child SA selects it{from}",
                settings.name
            ));
            return;
        };
        if bundle.discard {
            view.why
                .push("no Child SA takes it before a rule that discards it".into());
            return;
        }
        if let Some(other) = bundle.trap.and_then(|peer| self.config.peers.get(peer)) {
            view.why
                .push(format!("its first packet connects peer {:?}", other.name));
            return;
        }
        let usable = bundle.members.iter().filter(|m| m.usable).count();
        let member = match (flow.hash(), usable) {
            (_, 0) => {
                view.why
                    .push("none of its Child SAs has a path that is up".into());
                bundle.members.first()
            }
            (Some(hash), _) => {
                let index = steering::member(&bundle.table, hash);
                if bundle.members.len() > 1 {
                    view.why.push(format!(
                        "bucket {} of {} is that of member {}",
                        hash % 256,
                        steering::BUCKETS,
                        index
                    ));
                }
                bundle.members.get(usize::from(index))
            }
            (None, 1) => bundle.members.iter().find(|m| m.usable),
            (None, _) => {
                view.verdict = "protect".into();
                let shares = bundle.members.iter().zip(0u8..).map(|(m, i)| {
                    let mine = bundle.table.iter().filter(|b| **b == i).count();
                    let access = self.access_name(m.access);
                    format!("{access} {} %", mine * 100 / steering::BUCKETS)
                });
                let shares: Vec<String> = shares.collect();
                view.why.push(format!(
                    "its ports decide which of {} members: {}",
                    bundle.members.len(),
                    shares.join(", ")
                ));
                None
            }
        };
        let Some(member) = member else { return };
        let spi = member.sa.spi();
        let child = self.children.values().find(|c| c.outbound.spi() == spi);
        if member.usable {
            view.verdict = "protect".into();
        }
        if member.held {
            view.why
                .push("it waits for the first packet of the peer on this SA, 1 s at most".into());
        }
        if let Some(child) = child {
            view.sa = Some(self.sa_of(child));
            let place = home(&views, child.ike, child.pair).current();
            self.explain_path(child, place, view);
        }
    }

    fn explain_spi(&self, spi: Spi) -> Result<ExplainView, String> {
        let both = |c: &&Child| c.inbound.spi() == spi || c.outbound.spi() == spi;
        let Some(child) = self.children.values().find(both) else {
            if let Some(peer) = self.probes.get(&spi).and_then(|ike| self.peers.get(ike)) {
                let peer = &self.config.peers[peer.config].name;
                return Err(format!(
                    "{spi} is the probe SA of peer {peer:?}: no data is on it"
                ));
            }
            return Err(match self.larval.contains(&spi) {
                true => format!("{spi} is asked for and not agreed on yet"),
                false => format!("{spi} is the SPI of no SA; `mifsec sa` lists them"),
            });
        };
        let sa = self.sa_of(child);
        let (from, to) = match child.inbound.spi() == spi {
            true => (&sa.remote, &sa.local),
            false => (&sa.local, &sa.remote),
        };
        let mut why = vec![format!(
            "{} SPI of child {:?} of peer {:?}: {} to {}",
            if child.inbound.spi() == spi {
                "inbound"
            } else {
                "outbound"
            },
            sa.child,
            sa.peer,
            from.join(", "),
            to.join(", ")
        )];
        if !child.sends {
            why.push("it receives and does not send: another one has taken over".into());
        }
        let views = self.path.views();
        let current = home(&views, child.ike, child.pair).current();
        let config = self.peers.get(&child.ike).map(|p| p.config);
        let entries = spd::entries(&self.config);
        let rules = rules(&self.config, &entries, |entry| {
            let settings = self.config.peers.get(entry.peer);
            let mine = settings.and_then(|p| p.children.get(entry.child));
            Some(entry.peer) == config && mine.is_some_and(|c| c.name == child.name)
        });
        let mut view = ExplainView {
            schema: EXPLAIN_SCHEMA.into(),
            asked: spi.to_string(),
            verdict: "protect".into(),
            rules,
            sa: Some(sa),
            path: None,
            why,
        };
        self.explain_path(child, current, &mut view);
        Ok(view)
    }

    fn explain_path(&self, child: &Child, place: Option<Place<'_>>, view: &mut ExplainView) {
        let at_home = self.accesses.name(child.pair.local);
        let Some(path) = place.map(|place| place.leads_to.unwrap_or(place.path)) else {
            view.why
                .push(format!("it is at home on {at_home}, which has no path now"));
            return;
        };
        let home = place.is_none_or(|place| place.path.carried_by.is_none());
        let access = self.accesses.name(path.pair.local);
        view.why.push(match (home, path.up) {
            (true, true) => format!("it is at home on {access}, and that path is up"),
            (true, false) => format!("it is at home on {access}, and that path is down"),
            (false, _) if path.pair.local == child.pair.local => format!(
                "it is at home on {access} towards peer:{} and lent to the path towards peer:{}",
                child.pair.remote.0, path.pair.remote.0
            ),
            (false, _) => format!("it is at home on {at_home} and lent to {access}"),
        });
        if !path.up && view.verdict == "protect" && child.sends {
            view.why.push(
                "until it is lent or works again its packets take the first alternate that is up"
                    .into(),
            );
        }
        let address = |a: Option<SocketAddr>| a.map_or_else(String::new, |a| a.to_string());
        view.path = Some(ExplainPath {
            index: path.path.0,
            access,
            local: address(path.local),
            remote: address(path.remote),
            state: match (path.up, path.validated) {
                (true, _) => "up".into(),
                (false, true) => "down".into(),
                (false, false) => "validating".into(),
            },
            home,
            rtt_us: path
                .rtt
                .map(|r| u64::try_from(r.as_micros()).unwrap_or(u64::MAX)),
        });
    }

    fn sa_of(&self, child: &Child) -> ExplainSa {
        let config = self
            .peers
            .get(&child.ike)
            .map(|p| &self.config.peers[p.config]);
        let list = |list: &[Selector]| list.iter().map(show).collect();
        let settings = config.and_then(|p| p.children.iter().find(|c| c.name == child.name));
        let pinned = settings.is_some_and(|c| c.layout == Layout::Pinned);
        let equal = |c: &&Child| {
            c.ike == child.ike
                && c.sends
                && c.name == child.name
                && c.local == child.local
                && c.remote == child.remote
        };
        ExplainSa {
            peer: config.map(|p| p.name.clone()).unwrap_or_default(),
            child: child.name.clone(),
            spi_in: child.inbound.spi().to_string(),
            spi_out: child.outbound.spi().to_string(),
            layout: match (child.bundle, pinned) {
                (true, _) => "bundle".into(),
                (false, true) => "pinned".into(),
                (false, false) => "single".into(),
            },
            local: list(&child.local),
            remote: list(&child.remote),
            members: self.children.values().filter(equal).count(),
        }
    }

    /// Where the main table sends what is not protected.
    fn route_out(&self, dst: IpAddr) -> String {
        let matching = self
            .state
            .routes
            .iter()
            .filter(|r| r.table == MAIN && r.destination.contains(&dst));
        let best = matching.min_by_key(|r| (Reverse(r.destination.prefix_len()), r.metric));
        let link = best.and_then(|r| self.state.links.iter().find(|l| l.index == r.interface));
        match link {
            Some(link) => format!(
                "it leaves in clear by {}, as the main table says",
                link.name
            ),
            None => "it would leave in clear, but the main table has no route".into(),
        }
    }

    fn access_name(&self, access: AccessId) -> String {
        let settings = self.config.accesses.get(usize::from(access.0));
        settings.map_or_else(|| "?".into(), |a| a.interface.clone())
    }
}

/// The SPD down to the entry that decides, and that entry.
fn judge(config: &Config, flow: &Flow) -> (Vec<ExplainRule>, Option<Entry>) {
    let mut entries = spd::entries(config);
    let selects = |e: &Entry| e.selects(flow.dst, flow.protocol, flow.ports);
    let decided = entries.iter().position(selects);
    if let Some(place) = decided {
        entries.truncate(place + 1);
    }
    let rules = rules(config, &entries, selects);
    (rules, decided.and_then(|_| entries.pop()))
}

fn rules(config: &Config, entries: &[Entry], selects: impl Fn(&Entry) -> bool) -> Vec<ExplainRule> {
    let names = |entry: &Entry| {
        let peer = config.peers.get(entry.peer)?;
        let child = peer.children.get(entry.child)?;
        Some((peer.name.clone(), child.name.clone()))
    };
    (1..)
        .zip(entries)
        .map(|(place, entry)| {
            let (peer, child) = names(entry).unwrap_or_default();
            ExplainRule {
                place,
                order: entry.order,
                policy: match entry.policy {
                    Policy::Protect => "protect".into(),
                    Policy::Bypass => "bypass".into(),
                    Policy::Discard => "discard".into(),
                },
                peer,
                child,
                selector: show_entry(entry),
                selects: selects(entry),
            }
        })
        .collect()
}

/// A prefix with protocol and ports, as the configuration writes it; ports of our
/// side come first.
fn show_entry(entry: &Entry) -> String {
    let ports = match (entry.local_ports, entry.remote_ports) {
        (Ts::ANY_PORTS, remote) => show_ports(remote),
        (local, remote) => {
            let remote = show_ports(remote);
            format!(
                "{} to {}",
                show_ports(local),
                if remote.is_empty() { "any" } else { &remote }
            )
        }
    };
    format!("{}{}", entry.remote, show_upper(entry.protocol, &ports))
}

fn show(selector: &Selector) -> String {
    let (first, last) = (*selector.addresses.start(), *selector.addresses.end());
    let ports = (*selector.ports.start(), *selector.ports.end());
    let most = if first.is_ipv4() { 32 } else { 128 };
    let whole = |net: &IpNet| net.network() == first && net.broadcast() == last;
    let mut nets = (0..=most).filter_map(|length| IpNet::new(first, length).ok());
    let address = match nets.find(whole) {
        _ if first == last => first.to_string(),
        Some(net) => net.to_string(),
        None => format!("{first}-{last}"),
    };
    format!(
        "{address}{}",
        show_upper(selector.protocol, &show_ports(ports))
    )
}

fn show_upper(protocol: u8, ports: &str) -> String {
    match (protocol, ports) {
        (0, _) => String::new(),
        (protocol, "") => format!("[{}]", protocol_name(protocol)),
        (protocol, ports) => format!("[{}/{ports}]", protocol_name(protocol)),
    }
}

fn show_ports(ports: (u16, u16)) -> String {
    match ports {
        Ts::ANY_PORTS => String::new(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

fn has_ports(protocol: u8) -> bool {
    mifsec_common::parse::has_ports(protocol)
}

/// Whether a bundle would take the flow, from any source if that is not known. A port
/// that is not known is within no range but all.
fn selects(bundle: &Bundle, flow: &Flow) -> bool {
    let any = |s: &Selector| s.ports == (0..=u16::MAX);
    let within = |s: &Selector, address: IpAddr, port: Option<u16>| {
        s.addresses.contains(&address)
            && (s.protocol == 0 || s.protocol == flow.protocol)
            && (any(s) || port.is_some_and(|p| s.ports.contains(&p)))
    };
    let local = |s: &Selector| match flow.src {
        Some(src) => within(s, src, flow.ports.0),
        None => s.addresses.start().is_ipv4() == flow.dst.is_ipv4(),
    };
    bundle.local.iter().any(local)
        && bundle
            .remote
            .iter()
            .any(|s| within(s, flow.dst, flow.ports.1))
}

impl Flow {
    /// What the data plane will make of it; `None` while something is not known.
    fn hash(&self) -> Option<u32> {
        let ports = match (has_ports(self.protocol), self.ports) {
            (false, _) => [0; 4],
            (true, (Some(source), Some(destination))) => {
                let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
                [a, b, c, d]
            }
            (true, _) => return None,
        };
        let mut packet = Vec::new();
        match (self.src?, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                packet.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, self.protocol, 0, 0]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                packet.extend([0x60, 0, 0, 0, 0, 8, self.protocol, 64]);
                packet.extend(src.octets());
                packet.extend(dst.octets());
            }
            _ => return None,
        }
        packet.extend(ports);
        packet.extend([0; 4]);
        Some(steering::flow_hash(&packet))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |address: IpAddr, port: Option<u16>| match port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        };
        write!(f, "{} ", protocol_name(self.protocol))?;
        match (self.src, self.ports.0) {
            (Some(src), port) => write!(f, "{}", end(src, port))?,
            (None, Some(port)) => write!(f, "any:{port}")?,
            (None, None) => write!(f, "any")?,
        }
        write!(f, " -> {}", end(self.dst, self.ports.1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    fn flow(dst: &str, protocol: u8, dport: Option<u16>) -> Flow {
        Flow {
            src: None,
            dst: dst.parse().unwrap(),
            protocol,
            ports: (Some(40_000), dport),
        }
    }

    /// As one line for each rule: place, policy, child, selector, whether it selects.
    fn lines(rules: &[ExplainRule]) -> Vec<String> {
        let line = |r: &ExplainRule| {
            let selects = if r.selects { "*" } else { "" };
            format!(
                "{} {} {} {}{selects}",
                r.place, r.policy, r.child, r.selector
            )
        };
        rules.iter().map(line).collect()
    }

    const SERVICES: &str = r#"
        [[peer.child]]
        name = "video"
        policy = "bypass"
        order = 5
        remote_ts = ["0.0.0.0/0[udp/5000-5010]"]
        [[peer.child]]
        name = "late"
        order = 9
        remote_ts = ["0.0.0.0/0"]
        [[peer.child]]
        name = "telnet"
        policy = "discard"
        order = -1
        remote_ts = ["0.0.0.0/0[tcp/23]"]
        [[peer.child]]
        name = "lan"
        remote_ts = ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/16[tcp/80]"]
    "#;

    #[test]
    fn the_first_rule_in_order_decides_and_all_before_it_are_shown() {
        let text = LAPTOP.replace(r#"["0.0.0.0/0", "10.0.0.0/8"]"#, r#"["192.0.2.0/24"]"#);
        let config = config(&format!("{text}{SERVICES}"), "explain");
        let says = |flow: Flow| {
            let (rules, decided) = judge(&config, &flow);
            (lines(&rules), decided.map(|e| e.policy))
        };
        let (rules, policy) = says(flow("198.51.100.1", 17, Some(5004)));
        assert_eq!(policy, Some(Policy::Bypass));
        assert_eq!(
            rules,
            [
                "1 discard telnet 0.0.0.0/0[tcp/23]",
                "2 protect all 192.0.2.0/24",
                "3 protect lan 10.1.0.0/16[tcp/80]",
                "4 protect lan 10.1.0.0/16",
                "5 protect lan 10.0.0.0/8",
                "6 bypass video 0.0.0.0/0[udp/5000-5010]*",
            ]
        );
        // Order comes before everything: the narrower bypass is behind these.
        assert_eq!(
            says(flow("10.2.0.1", 17, Some(5004))).1,
            Some(Policy::Protect)
        );
        assert_eq!(says(flow("10.1.0.1", 6, Some(23))).1, Some(Policy::Discard));
        let (rules, policy) = says(flow("198.51.100.1", 17, Some(5011)));
        assert_eq!((rules.len(), policy), (7, Some(Policy::Protect)), "late");
        let (rules, policy) = says(flow("2001:db8::1", 6, Some(80)));
        assert_eq!((rules.len(), policy), (7, None), "no rule of its family");
    }

    #[test]
    fn a_flow_hashes_as_its_packets_do_once_it_is_known() {
        let mut flow = flow("10.99.0.2", 17, Some(53));
        assert_eq!(flow.hash(), None, "no source yet");
        flow.src = Some("10.66.0.7".parse().unwrap());
        let packet = [
            [0x45, 0, 0, 40, 9, 9, 0, 0, 63, 17, 1, 2].as_slice(),
            &[10, 66, 0, 7, 10, 99, 0, 2],
            &[0x9c, 0x40, 0, 53, 0, 20, 0, 0],
            &[7; 12],
        ];
        assert_eq!(flow.hash(), Some(steering::flow_hash(&packet.concat())));
        flow.ports.0 = None;
        assert_eq!(flow.hash(), None, "any source port");
        assert_eq!(flow.to_string(), "udp 10.66.0.7 -> 10.99.0.2:53");
    }

    #[test]
    fn selectors_are_shown_as_they_are_written() {
        let selector = |first: &str, last: &str, protocol, ports| {
            show(&Selector {
                addresses: first.parse().unwrap()..=last.parse().unwrap(),
                protocol,
                ports,
            })
        };
        let any = 0..=u16::MAX;
        assert_eq!(
            selector("10.66.0.7", "10.66.0.7", 0, any.clone()),
            "10.66.0.7"
        );
        assert_eq!(
            selector("10.66.0.0", "10.66.0.255", 6, 80..=80),
            "10.66.0.0/24[tcp/80]"
        );
        assert_eq!(
            selector("10.66.0.1", "10.66.0.9", 17, 5000..=5010),
            "10.66.0.1-10.66.0.9[udp/5000-5010]"
        );
        assert_eq!(
            selector("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 58, any),
            "::/0[icmpv6]"
        );
    }
}
