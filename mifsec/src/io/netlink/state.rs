//! What the kernel has: links, addresses, routes, as plain values.

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;

use super::{Netlink, NetlinkError, Route, route};

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Administratively up and with carrier.
    pub up: bool,
    /// Octets of an IP packet.
    pub mtu: u32,
    /// No Ethernet header.
    pub layer3: bool,
    /// Link-layer address.
    pub mac: Vec<u8>,
}

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Kernel index of its interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Of global scope, not tentative, not failed: packets may have it as source.
    pub usable: bool,
    /// Deprecated, or temporary: last choice.
    pub last_choice: bool,
}

/// Everything about this network namespace the agent looks at.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All addresses, in kernel order.
    pub addresses: Vec<Address>,
    /// All routes of all tables, next hops of multipath routes one by one.
    pub routes: Vec<Route>,
}

impl State {
    /// The interface called `name`.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
}

impl Netlink {
    /// Reads links, addresses and routes.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn state(&self) -> Result<State, NetlinkError> {
        let links = self.links().await?;
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let addresses = self.dump(message, "reading addresses").await?;
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let routes = self.dump(message, "reading routes").await?;
        Ok(State {
            links,
            addresses: addresses.iter().filter_map(address).collect(),
            routes: routes.iter().flat_map(route::parse).collect(),
        })
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self.dump(message, "reading links").await?;
        Ok(links.iter().filter_map(link).collect())
    }
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut out = Link {
        index: message.header.index,
        name: String::new(),
        up: is_up(message),
        mtu: 1500,
        layer3: message.header.link_layer_type != LinkLayerType::Ether,
        mac: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => out.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => out.mtu = *mtu,
            LinkAttribute::Address(mac) => out.mac.clone_from(mac),
            _ => {}
        }
    }
    Some(out)
}

/// Administratively up and with carrier.
pub(super) fn is_up(message: &LinkMessage) -> bool {
    message
        .header
        .flags
        .contains(LinkFlags::Up | LinkFlags::LowerUp)
}

/// The address a message is about. On point-to-point links IFA_ADDRESS is the
/// other end.
pub(super) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    local.or(address)
}

fn address(message: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let ip = address_of(message)?;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        if let AddressAttribute::Flags(all) = attribute {
            flags = *all;
        }
    }
    let unfit = flags.intersects(AddressFlags::Dadfailed)
        || (flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic));
    // For IPv6 the bit of "secondary" means temporary.
    let temporary = ip.is_ipv6() && flags.contains(AddressFlags::Secondary);
    Some(Address {
        index: message.header.index,
        ip,
        prefix: message.header.prefix_len,
        usable: message.header.scope == AddressScope::Universe && !unfit,
        last_choice: temporary || flags.contains(AddressFlags::Deprecated),
    })
}
