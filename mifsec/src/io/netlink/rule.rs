//! Policy rules of the priorities that are ours.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};
use crate::ids::Family;

/// `[from ADDRESS] [oif DEVICE] lookup TABLE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Lower is asked first.
    pub priority: u32,
    /// Of which family's packets.
    pub family: Family,
    /// Only packets with this source.
    pub from: Option<IpAddr>,
    /// Only packets bound to this device.
    pub device: Option<String>,
    /// Where to look.
    pub table: u32,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match self.family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message
            .attributes
            .push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Table(self.table));
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
    let mut rule = Rule {
        priority: 0,
        family: match message.header.family {
            AddressFamily::Inet => Family::V4,
            AddressFamily::Inet6 => Family::V6,
            _ => return None,
        },
        from: None,
        device: None,
        table: u32::from(message.header.table),
    };
    let mut foreign = message.header.action != RuleAction::ToTable;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Source(ip) => rule.from = Some(*ip),
            RuleAttribute::Oifname(name) => rule.device = Some(name.clone()),
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(_) => {}
            _ => foreign = true,
        }
    }
    if !ours.contains(&rule.priority) {
        return None;
    }
    Some((message, (!foreign).then_some(rule)))
}
