//! Names and addresses of a Child SA's path: on the wire by the roles of the IKE
//! SA, here by ours and the peer's.

use std::net::IpAddr;

use crate::ids::{IfaceId, IfacePair};
use crate::ike::mif::{Maddr, OuterAddrs, OuterFlags};
use crate::ike::sa::{Child, IkeSa};

impl IkeSa {
    /// What `dynamic` stands for at our end.
    pub(super) fn local_dynamic(&self) -> Vec<IpAddr> {
        if self.caller && !self.leases.is_empty() {
            self.leases.clone()
        } else {
            vec![self.channel.local.ip()]
        }
    }

    /// What `dynamic` stands for at the peer's end.
    pub(super) fn remote_dynamic(&self) -> Vec<IpAddr> {
        if !self.caller && !self.leases.is_empty() {
            self.leases.clone()
        } else {
            vec![self.channel.remote.ip()]
        }
    }
}

/// The inner addresses a Child SA has for itself: some of our leases, not all.
pub(super) fn inner_of(child: &Child, sa: &IkeSa) -> Option<Vec<IpAddr>> {
    let within = |ip: &IpAddr| {
        let mut local = child.ts_local.iter();
        local.any(|ts| ts.start() <= *ip && *ip <= ts.end())
    };
    let (own, others): (Vec<IpAddr>, Vec<IpAddr>) = sa.leases.iter().partition(|ip| within(ip));
    (sa.caller && !own.is_empty() && !others.is_empty()).then_some(own)
}

/// Our view of a path and its (our, the peer's) addresses, as the wire has it:
/// initiator and responder are those of the IKE SA.
pub(super) fn outer_addrs(
    sa: &IkeSa,
    pair: IfacePair,
    (local, remote): (IpAddr, IpAddr),
    flags: OuterFlags,
) -> OuterAddrs {
    let (local, remote) = (Maddr::new(local, 0), Maddr::new(remote, 0));
    if sa.caller {
        OuterAddrs {
            init_iface: pair.local,
            resp_iface: pair.remote,
            flags,
            initiator: local,
            responder: remote,
        }
    } else {
        OuterAddrs {
            init_iface: pair.remote,
            resp_iface: pair.local,
            flags,
            initiator: remote,
            responder: local,
        }
    }
}

/// The path the wire names, as seen from here.
pub(super) fn outer_pair(sa: &IkeSa, outer: &OuterAddrs) -> IfacePair {
    let (init, resp): (IfaceId, IfaceId) = (outer.init_iface, outer.resp_iface);
    if sa.caller {
        IfacePair {
            local: init,
            remote: resp,
        }
    } else {
        IfacePair {
            local: resp,
            remote: init,
        }
    }
}
