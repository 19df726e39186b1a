//! Our own devices: the anchor pair, the TUN, their addresses; neighbours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkVeth, packet_route::route::RouteType};

use super::{Address, Link, Netlink, NetlinkError, REPLACE, Route};

/// What veth takes at most: the anchor must never be what limits a packet, the
/// egress program judges by the path.
const ANCHOR_MTU: u16 = 65_535;

/// The name of the unused end of the anchor pair.
#[must_use]
pub fn anchor_peer(anchor: &str) -> String {
    match anchor.strip_suffix('0') {
        Some(stem) => format!("{stem}1"),
        None => format!("{anchor}p"),
    }
}

/// First and second host of each prefix: our address there, and the gateway the
/// whole prefix is reached through.
fn anchor_hosts(v4: Ipv4Net, v6: Ipv6Net) -> [(IpNet, IpAddr, IpAddr); 2] {
    let n4 = u32::from(v4.network());
    let n6 = u128::from(v6.network());
    [
        (
            v4.into(),
            IpAddr::V4((n4 + 1).into()),
            IpAddr::V4((n4 + 2).into()),
        ),
        (
            v6.into(),
            IpAddr::V6((n6 + 1).into()),
            IpAddr::V6((n6 + 2).into()),
        ),
    ]
}

impl Netlink {
    /// Makes the anchor device: a veth pair, the far end never used, our
    /// addresses, and a permanent neighbour that stands for the whole prefix.
    /// Returns its index and the routes its table needs.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn ensure_anchor(
        &self,
        name: &str,
        prefixes: (Ipv4Net, Ipv6Net),
        table: u32,
    ) -> Result<(u32, Vec<Route>), NetlinkError> {
        let peer_name = anchor_peer(name);
        if self.find(name).await?.is_none() {
            let message = LinkVeth::new(name, &peer_name).build();
            self.change(
                RouteNetlinkMessage::NewLink(message),
                NLM_F_CREATE | NLM_F_EXCL,
                || format!("creating anchor device {name}"),
            )
            .await?;
        }
        let missing = |name: &str| NetlinkError::Refused {
            what: format!("anchor device {name}"),
            source: std::io::Error::from_raw_os_error(libc::ENODEV),
        };
        let link = self.find(name).await?.ok_or_else(|| missing(name))?;
        let peer = self
            .find(&peer_name)
            .await?
            .ok_or_else(|| missing(&peer_name))?;
        for (end, name) in [(&link, name), (&peer, peer_name.as_str())] {
            quieten(name);
            self.set_mtu(end.index, name, ANCHOR_MTU).await?;
            self.up(end.index, name).await?;
        }
        let mut routes = Vec::new();
        for (net, own, gateway) in anchor_hosts(prefixes.0, prefixes.1) {
            self.add_address(link.index, own).await?;
            self.permanent_neighbour(link.index, gateway, &peer.mac)
                .await?;
            routes.push(Route {
                gateway: Some(gateway),
                source: Some(own),
                onlink: true,
                ..Route::direct(table, net, link.index)
            });
        }
        Ok((link.index, routes))
    }

    /// Brings the TUN up; returns its index.
    ///
    /// # Errors
    /// When it does not exist or cannot come up.
    pub async fn ensure_tun(&self, name: &str, mtu: u16) -> Result<u32, NetlinkError> {
        let link = self
            .find(name)
            .await?
            .ok_or_else(|| NetlinkError::Refused {
                what: format!("TUN device {name}"),
                source: std::io::Error::from_raw_os_error(libc::ENODEV),
            })?;
        quieten(name);
        self.set_mtu(link.index, name, mtu).await?;
        self.up(link.index, name).await?;
        Ok(link.index)
    }

    async fn set_mtu(&self, index: u32, name: &str, mtu: u16) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu.into()));
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("MTU of {name}")
        })
        .await
    }

    /// Makes `index` hold exactly `wanted` as host addresses; link-local ones are left alone.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn apply_addresses(
        &self,
        index: u32,
        wanted: &BTreeSet<IpAddr>,
        present: &[Address],
    ) -> Result<(), NetlinkError> {
        for ip in wanted {
            if !present.iter().any(|a| a.index == index && a.ip == *ip) {
                self.add_address(index, *ip).await?;
            }
        }
        for address in present.iter().filter(|a| a.index == index) {
            let link_local = matches!(address.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
            if link_local || wanted.contains(&address.ip) {
                continue;
            }
            let message =
                RouteNetlinkMessage::DelAddress(address_message(index, address.ip, address.prefix));
            match self
                .change(message, 0, || format!("removing address {}", address.ip))
                .await
            {
                Err(error) if error.errno() != Some(libc::EADDRNOTAVAIL) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks the kernel to keep `ip` resolved on `index`: a cold neighbour would
    /// cost the first packet of a move.
    ///
    /// # Errors
    /// What the kernel said; before Linux 5.16 entries cannot be managed.
    pub async fn manage_neighbour(&self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(index, ip);
        message.header.state = NeighbourState::None;
        message
            .attributes
            .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        self.change(RouteNetlinkMessage::NewNeighbour(message), REPLACE, || {
            format!("keeping next hop {ip} resolved")
        })
        .await
    }

    /// Lets go of a managed neighbour.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn release_neighbour(&self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(index, ip));
        match self
            .change(message, 0, || format!("releasing next hop {ip}"))
            .await
        {
            Err(error)
                if !matches!(
                    error.errno(),
                    Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Removes a device of ours, if it is there.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        match self
            .change(RouteNetlinkMessage::DelLink(message), 0, || {
                format!("removing {name}")
            })
            .await
        {
            Err(error) if error.errno() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    async fn find(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        Ok(self.links().await?.into_iter().find(|l| l.name == name))
    }

    async fn up(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("bringing {name} up")
        })
        .await
    }

    async fn add_address(&self, index: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        let message = address_message(index, ip, prefix);
        let added = self
            .change(RouteNetlinkMessage::NewAddress(message), REPLACE, || {
                format!("adding address {ip}")
            })
            .await;
        match added {
            Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
            _ => Ok(()),
        }
    }

    async fn permanent_neighbour(
        &self,
        index: u32,
        ip: IpAddr,
        mac: &[u8],
    ) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(index, ip);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(message), REPLACE, || {
            format!("anchor neighbour {ip}")
        })
        .await
    }
}

fn address_message(index: u32, ip: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Local(ip));
    message.attributes.push(AddressAttribute::Address(ip));
    message.attributes.push(AddressAttribute::Flags(
        AddressFlags::Nodad | AddressFlags::Noprefixroute,
    ));
    message
}

fn neighbour_message(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = index;
    message.header.flags = NeighbourFlags::empty();
    message.header.kind = RouteType::Unspec;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
    message
}

/// Settings of our own devices only: no reverse path filter (sources are the
/// whole world), no address discovery. A kernel without IPv6 has no second half.
fn quieten(device: &str) {
    let settings = [
        ("ipv4", "rp_filter", "0"),
        ("ipv6", "accept_dad", "0"),
        ("ipv6", "dad_transmits", "0"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "autoconf", "0"),
        ("ipv6", "router_solicitations", "0"),
        // No link-local address: nothing on these devices speaks neighbour discovery.
        ("ipv6", "addr_gen_mode", "1"),
    ];
    for (family, key, value) in settings {
        let path = Path::new("/proc/sys/net")
            .join(family)
            .join("conf")
            .join(device)
            .join(key);
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(path = %path.display(), %error, "setting not written");
        }
    }
}
