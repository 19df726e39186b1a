//! Routes of the tables that are ours: what should be there against what is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, REPLACE, State};

/// The main table.
pub const MAIN: u32 = 254;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Sends.
    Unicast,
    /// Refuses, whatever the interface asked for.
    Unreachable,
}

/// One route with one next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Table number.
    pub table: u32,
    /// Destination.
    pub destination: IpNet,
    /// Lower wins.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// Next hop; `None` = on the link.
    pub gateway: Option<IpAddr>,
    /// Kernel index of the interface; 0 for one that does not send.
    pub interface: u32,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// The gateway is reachable although no prefix says so.
    pub onlink: bool,
}

impl Route {
    /// To `destination` over `interface`, directly.
    #[must_use]
    pub fn direct(table: u32, destination: IpNet, interface: u32) -> Self {
        Self {
            table,
            destination,
            metric: default_metric(destination),
            kind: RouteKind::Unicast,
            gateway: None,
            interface,
            source: None,
            onlink: false,
        }
    }

    /// Refuses `destination` when nothing better is in the table.
    #[must_use]
    pub fn unreachable(table: u32, destination: IpNet) -> Self {
        Self {
            metric: u32::MAX - 1,
            kind: RouteKind::Unreachable,
            ..Self::direct(table, destination, 0)
        }
    }

    /// Whether it is a default route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination);
        header.destination_prefix_length = self.destination.prefix_len();
        header.protocol = RouteProtocol::Static;
        header.table = u8::try_from(self.table).unwrap_or(0);
        header.scope = match self.gateway {
            None if self.kind == RouteKind::Unicast && self.destination.addr().is_ipv4() => {
                RouteScope::Link
            }
            _ => RouteScope::Universe,
        };
        header.kind = match self.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Unreachable => RouteType::Unreachable,
        };
        if self.onlink {
            header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        if self.destination.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        match (self.gateway, self.destination.addr()) {
            (Some(IpAddr::V6(via)), IpAddr::V4(_)) => {
                attributes.push(RouteAttribute::Via(RouteVia::Inet6(via)));
            }
            (Some(via), _) => attributes.push(RouteAttribute::Gateway(via.into())),
            (None, _) => {}
        }
        if self.interface != 0 {
            attributes.push(RouteAttribute::Oif(self.interface));
        }
        if let Some(source) = self.source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }
}

impl Netlink {
    /// Makes the tables `ours` hold exactly `wanted`, adding before removing.
    /// `state` is what is there. Returns how many routes had to change.
    ///
    /// # Errors
    /// The first refusal; what could be done is done.
    pub async fn apply_routes(
        &self,
        ours: &BTreeSet<u32>,
        wanted: &BTreeSet<Route>,
        state: &State,
    ) -> Result<usize, NetlinkError> {
        let present: BTreeSet<&Route> = state
            .routes
            .iter()
            .filter(|r| ours.contains(&r.table))
            .collect();
        let mut first_error = None;
        let mut changes = 0;
        // On-link prefixes first: a gateway must be reachable to be accepted.
        // Compared with every table: a pool's route stands in one that is not ours, and
        // setting it again would announce itself to us without end.
        let mut missing: Vec<_> = wanted
            .iter()
            .filter(|r| !state.routes.contains(r))
            .collect();
        missing.sort_by_key(|r| r.gateway.is_some());
        for route in missing {
            // IPv6 takes REPLACE to mean any next hop of the same prefix and metric, as IPv4 does.
            let message = RouteNetlinkMessage::NewRoute(route.message());
            match self
                .change(message, REPLACE, || format!("adding route {route:?}"))
                .await
            {
                Ok(()) => changes += 1,
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        for route in present {
            let replaced = |w: &&Route| {
                w.table == route.table
                    && w.destination == route.destination
                    && w.metric == route.metric
            };
            if wanted.contains(route) || wanted.iter().any(|w| replaced(&w)) {
                continue;
            }
            if self.delete_route(route).await? {
                changes += 1;
            }
        }
        first_error.map_or(Ok(changes), Err)
    }

    /// Removes one route; false when it was gone already.
    async fn delete_route(&self, route: &Route) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        match self
            .change(message, 0, || format!("removing route {route:?}"))
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What the kernel puts in when none is given.
fn default_metric(destination: IpNet) -> u32 {
    match destination {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

fn family(net: IpNet) -> AddressFamily {
    match net {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

/// The interface a route message is about, if it is about one.
pub(super) fn interface(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The routes of a message: one for each next hop.
pub(super) fn parse(message: &RouteNetlinkMessage) -> Vec<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return Vec::new();
    };
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        _ => return Vec::new(),
    };
    // Cached exceptions are not routes of anybody.
    if message.header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    let mut destination = unspecified;
    let mut hops = Vec::new();
    let mut route = Route {
        table: u32::from(message.header.table),
        metric: 0,
        kind,
        gateway: None,
        interface: 0,
        source: None,
        onlink: message.header.flags.contains(RouteFlags::Onlink),
        destination: IpNet::from(unspecified),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => match ip(address) {
                Some(ip) => destination = ip,
                None => return Vec::new(),
            },
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => route.interface = *index,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => {
                route.gateway = gateway(attribute)
            }
            RouteAttribute::MultiPath(next) => hops.clone_from(next),
            _ => {}
        }
    }
    let Ok(net) = IpNet::new(destination, message.header.destination_prefix_length) else {
        return Vec::new();
    };
    route.destination = net;
    if kind == RouteKind::Unreachable {
        // IPv6 names lo.
        route.interface = 0;
    }
    if hops.is_empty() {
        return vec![route];
    }
    hops.iter()
        .map(|hop| Route {
            interface: hop.interface_index,
            gateway: hop.attributes.iter().find_map(gateway),
            onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
            ..route.clone()
        })
        .collect()
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(via)) => Some(IpAddr::V4(*via)),
        RouteAttribute::Via(RouteVia::Inet6(via)) => Some(IpAddr::V6(*via)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
