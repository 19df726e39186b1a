//! Policy rules of the priorities that are ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla as _};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};
use crate::ids::Family;

/// FRA_SPORT_MASK and FRA_DPORT_MASK.
const PORT_MASKS: [u16; 2] = [28, 29];
/// Any port.
const ANY_PORTS: (u16, u16) = (0, u16::MAX);

/// `[from ADDRESS] [to PREFIX] [ipproto N] [sport A-B] [dport A-B] [oif DEVICE]`
/// `lookup TABLE` or `prohibit`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Lower is asked first.
    pub priority: u32,
    /// Of which family's packets.
    pub family: Family,
    /// Only packets with this source.
    pub from: Option<IpAddr>,
    /// Only packets with a destination in it; `None` for all, not a prefix of 0 bits.
    pub to: Option<IpNet>,
    /// Only packets of this protocol; 0 for any.
    pub protocol: u8,
    /// First and last source port; `(0, 65535)` for any.
    pub local_ports: (u16, u16),
    /// First and last destination port; `(0, 65535)` for any.
    pub remote_ports: (u16, u16),
    /// Only packets bound to this device.
    pub device: Option<String>,
    /// Where to look; `None` refuses.
    pub table: Option<u32>,
}

impl Rule {
    /// All packets of a family.
    #[must_use]
    pub const fn lookup(priority: u32, family: Family, table: u32) -> Self {
        Self {
            priority,
            family,
            from: None,
            to: None,
            protocol: 0,
            local_ports: ANY_PORTS,
            remote_ports: ANY_PORTS,
            device: None,
            table: Some(table),
        }
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match self.family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.header.action = RuleAction::Prohibit;
        message
            .attributes
            .push(RuleAttribute::Priority(self.priority));
        if let Some(table) = self.table {
            message.header.action = RuleAction::ToTable;
            message.header.table = u8::try_from(table).unwrap_or(0);
            message.attributes.push(RuleAttribute::Table(table));
        }
        if let Some(to) = self.to {
            message.header.dst_len = to.prefix_len();
            let to = RuleAttribute::Destination(to.network());
            message.attributes.push(to);
        }
        if self.protocol != 0 {
            let protocol = RuleAttribute::IpProtocol(self.protocol.into());
            message.attributes.push(protocol);
        }
        let range = |(start, end)| RulePortRange { start, end };
        if self.local_ports != ANY_PORTS {
            let ports = RuleAttribute::SourcePortRange(range(self.local_ports));
            message.attributes.push(ports);
        }
        if self.remote_ports != ANY_PORTS {
            let ports = RuleAttribute::DestinationPortRange(range(self.remote_ports));
            message.attributes.push(ports);
        }
        if let Some(from) = self.from {
            message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
            message.attributes.push(RuleAttribute::Source(from));
        }
        if let Some(device) = &self.device {
            message
                .attributes
                .push(RuleAttribute::Oifname(device.clone()));
        }
        message
    }
}

impl Netlink {
    /// Makes the rules whose priority is one of `ours` exactly `wanted`, adding
    /// before removing. Returns how many had to change.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn apply_rules(
        &self,
        ours: &RangeInclusive<u32>,
        wanted: &BTreeSet<Rule>,
    ) -> Result<usize, NetlinkError> {
        let mut present = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let message = RouteNetlinkMessage::GetRule(message);
            let answers = self.dump(message, "reading rules").await?;
            present.extend(answers.into_iter().filter_map(|m| parse(m, ours)));
        }
        let mut changes = 0;
        for rule in wanted {
            if present.iter().any(|(_, p)| p.as_ref() == Some(rule)) {
                continue;
            }
            let message = RouteNetlinkMessage::NewRule(rule.message());
            let flags = NLM_F_CREATE | NLM_F_EXCL;
            match self
                .change(message, flags, || format!("adding rule {rule:?}"))
                .await
            {
                Ok(()) => changes += 1,
                Err(error) if error.errno() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        let mut kept = BTreeSet::new();
        for (message, rule) in present {
            // A second copy of a wanted rule goes too.
            if let Some(rule) = &rule
                && wanted.contains(rule)
                && kept.insert(rule.clone())
            {
                continue;
            }
            let message = RouteNetlinkMessage::DelRule(message);
            match self
                .change(message, 0, || format!("removing rule {rule:?}"))
                .await
            {
                Ok(()) => changes += 1,
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
    }
}

/// A rule of ours: as message, and as value when it has only what we use.
fn parse(
    message: RouteNetlinkMessage,
    ours: &RangeInclusive<u32>,
) -> Option<(RuleMessage, Option<Rule>)> {
    let RouteNetlinkMessage::NewRule(message) = message else {
        return None;
    };
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let mut rule = Rule::lookup(0, family, u32::from(message.header.table));
    let mut foreign = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = Some(*table),
            RuleAttribute::Destination(ip) => match IpNet::new(*ip, message.header.dst_len) {
                Ok(net) => rule.to = Some(net),
                Err(_) => foreign = true,
            },
            RuleAttribute::IpProtocol(protocol) => rule.protocol = u8::from(*protocol),
            RuleAttribute::SourcePortRange(r) => rule.local_ports = (r.start, r.end),
            RuleAttribute::DestinationPortRange(r) => rule.remote_ports = (r.start, r.end),
            RuleAttribute::Source(ip) => rule.from = Some(*ip),
            RuleAttribute::Oifname(name) => rule.device = Some(name.clone()),
            // Said of a single port since Linux 6.14.
            RuleAttribute::Other(nla) if PORT_MASKS.contains(&nla.kind()) => {
                foreign |= *nla != DefaultNla::new(nla.kind(), vec![0xff; 2]);
            }
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(_) => {}
            _ => foreign = true,
        }
    }
    match message.header.action {
        RuleAction::ToTable => {}
        RuleAction::Prohibit => rule.table = None,
        _ => foreign = true,
    }
    if !ours.contains(&rule.priority) {
        return None;
    }
    Some((message, (!foreign).then_some(rule)))
}
