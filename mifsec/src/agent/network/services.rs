//! Routes and rules of services, in the order of the SPD.
//!
//! Where destinations alone tell what is protected, one table holds it all, refusals
//! behind the ways over the TUN. Where policy, order or ports decide, each selector
//! has a rule in front of that table: BYPASS looks at the main table, as if there
//! were no tunnel; DISCARD refuses; PROTECT has a table of its own.

use std::net::IpAddr;

use crate::agent::access::Accesses;
use crate::agent::pinned;
use crate::agent::spd::{self, Entry};
use crate::agent::trap::placeholders;
use crate::config::{Child, Config, Layout, Peer, Policy, Start};
use crate::ids::Family;
use crate::io::netlink::{MAIN, Route, Rule};

use super::{Devices, Leases, Numbers, Wanted};

/// What goes over the TUN while there is a lease to send from, and is refused else.
pub(in crate::agent) fn protect(
    config: &Config,
    numbers: Numbers,
    devices: &Devices,
    accesses: &Accesses,
    leases: Leases<'_>,
    lockdown: bool,
    out: &mut Wanted,
) {
    let ordered = spd::is_ordered(config);
    for (entry, place) in spd::entries(config).iter().zip(0u32..) {
        let Some(peer) = config.peers.get(entry.peer) else {
            continue;
        };
        let Some(child) = peer.children.get(entry.child) else {
            continue;
        };
        let rule = |table| Rule {
            priority: numbers.service_rules + place,
            family: Family::of(entry.remote.addr()),
            from: None,
            to: Some(entry.remote).filter(|net| net.prefix_len() > 0),
            protocol: entry.protocol,
            local_ports: entry.local_ports,
            remote_ports: entry.remote_ports,
            device: None,
            table,
        };
        match entry.policy {
            Policy::Bypass => {
                out.rules.insert(rule(Some(MAIN)));
                continue;
            }
            Policy::Discard => {
                out.rules.insert(rule(None));
                continue;
            }
            Policy::Protect if peer.remote.is_empty() || entry.leased => continue,
            Policy::Protect => {}
        }
        let leased = leases.iter().find(|(i, _)| *i == entry.peer);
        let inner = match leased {
            Some((_, leases)) => Some(inner(peer, child, accesses, leases)),
            // A packet is waited for: it needs a source.
            None => (peer.start == Start::Trap).then(|| placeholders(peer)),
        };
        if ordered {
            let table = numbers.services + place;
            out.rules.insert(rule(Some(table)));
            route(
                table,
                entry,
                child,
                devices,
                inner.as_deref(),
                lockdown,
                out,
            );
        }
        // Without a port a packet says too little for the rules above.
        if !entry.is_part() {
            out.rules.insert(Rule::lookup(
                numbers.protected_rule,
                Family::of(entry.remote.addr()),
                numbers.protected,
            ));
            let table = numbers.protected;
            route(
                table,
                entry,
                child,
                devices,
                inner.as_deref(),
                lockdown,
                out,
            );
        }
    }
}

/// One destination; `inner` are our addresses while the peer is there.
fn route(
    table: u32,
    entry: &Entry,
    child: &Child,
    devices: &Devices,
    inner: Option<&[IpAddr]>,
    lockdown: bool,
    out: &mut Wanted,
) {
    let net = entry.remote;
    if lockdown {
        out.routes.insert(Route::unreachable(table, net));
    }
    let like = |a: &&IpAddr| a.is_ipv4() == net.addr().is_ipv4();
    let source = inner.and_then(|l| l.iter().find(like).copied());
    let dynamic = child.local_ts.iter().any(|ts| ts.net.is_none());
    let usable = inner.is_some() && (source.is_some() || !dynamic);
    // Of two with one destination the first in the SPD has the route.
    let taken = |r: &Route| r.table == table && r.destination == net && r.interface != 0;
    if usable && devices.tun != 0 && !out.routes.iter().any(taken) {
        // The kernel takes no source that the host does not have.
        out.leases.extend(source);
        out.routes.insert(Route {
            source,
            ..Route::direct(table, net, devices.tun)
        });
    }
}

/// What a child sends from, the address to prefer first: of a pinned one that of the
/// best access that is up.
pub(in crate::agent) fn inner(
    peer: &Peer,
    child: &Child,
    accesses: &Accesses,
    leases: &[IpAddr],
) -> Vec<IpAddr> {
    if child.layout == Layout::Bundle {
        return pinned::of_bundle(leases);
    }
    let up = |index: usize| {
        let id = crate::agent::access::access_id(index);
        let mut mine = accesses.local().filter(|l| l.access == id);
        mine.any(|l| l.state.usable())
    };
    let mut listed: Vec<_> = accesses
        .links()
        .filter(|(index, ..)| child.accesses.contains(index))
        .map(|(index, settings, _)| (!up(index), settings.priority, index))
        .collect();
    listed.sort_unstable();
    listed
        .into_iter()
        .flat_map(|(.., index)| pinned::of_access(peer, leases, index))
        .collect()
}
