//! The guard's rules in the form of the `SPD` map.

use ipnet::IpNet;
use mifsec_common::path::{FAMILY_V4, FAMILY_V6};
use mifsec_common::{Addr, SpdEntry, spd};

use super::types::{Direction, SpdAction, SpdRule};

/// What is wrong with a rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum RuleError {
    #[error("rule {0}: local and remote are not of one family")]
    Families(usize),
    #[error("rule {0}: empty port range")]
    Ports(usize),
    #[error("{0} rules, at most {max} fit", max = spd::MAX_RULES)]
    TooMany(usize),
}

/// Converts all rules or none.
pub(super) fn entries(rules: &[SpdRule]) -> Result<Vec<SpdEntry>, RuleError> {
    if rules.len() > spd::MAX_RULES as usize {
        return Err(RuleError::TooMany(rules.len()));
    }
    rules
        .iter()
        .enumerate()
        .map(|(i, rule)| entry(i, rule))
        .collect()
}

fn entry(i: usize, rule: &SpdRule) -> Result<SpdEntry, RuleError> {
    let SpdRule {
        direction,
        local,
        remote,
        protocol,
        local_ports,
        remote_ports,
        action,
    } = rule;
    let v4 = match (local, remote) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (IpNet::V6(_), IpNet::V6(_)) => false,
        _ => return Err(RuleError::Families(i)),
    };
    if local_ports.is_empty() || remote_ports.is_empty() {
        return Err(RuleError::Ports(i));
    }
    let family = if v4 { FAMILY_V4 } else { FAMILY_V6 };
    Ok(SpdEntry {
        local: Addr::from(local.network()),
        local_mask: Addr::mask(v4, local.prefix_len()),
        remote: Addr::from(remote.network()),
        remote_mask: Addr::mask(v4, remote.prefix_len()),
        local_ports: [*local_ports.start(), *local_ports.end()],
        remote_ports: [*remote_ports.start(), *remote_ports.end()],
        protocol: *protocol,
        direction: match direction {
            Direction::Out => spd::OUT,
            Direction::In => spd::IN,
        },
        action: match action {
            SpdAction::Bypass => spd::BYPASS,
            SpdAction::ProtectTunnel => spd::PROTECT_TUNNEL,
            SpdAction::ProtectTransport => spd::PROTECT_TRANSPORT,
            SpdAction::Discard => spd::DISCARD,
        },
        // 4 and 6 fit.
        family: u8::try_from(family).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(local: &str, remote: &str) -> SpdRule {
        SpdRule {
            direction: Direction::Out,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            protocol: 0,
            local_ports: 0..=u16::MAX,
            remote_ports: 0..=u16::MAX,
            action: SpdAction::ProtectTunnel,
        }
    }

    #[test]
    fn host_bits_are_cut_and_masks_follow_the_family() {
        let [v4, v6] = entries(&[
            rule("10.1.2.3/8", "0.0.0.0/0"),
            rule("::/0", "2001:db8::7/64"),
        ])
        .unwrap()
        .try_into()
        .unwrap();
        assert_eq!(v4.local.low(), [10, 0, 0, 0]);
        assert_eq!(v4.local_mask.low(), [255, 0, 0, 0]);
        assert_eq!(v4.remote_mask.words()[2], u32::MAX);
        assert_eq!((v4.family, v6.family), (4, 6));
        assert_eq!(v6.local_mask, Addr::NONE);
        assert_eq!(v6.remote.octets()[15], 0);
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        assert_eq!(
            entries(&[rule("10.0.0.0/8", "::/0")]),
            Err(RuleError::Families(0))
        );
        let mut empty = rule("::/0", "::/0");
        #[expect(clippy::reversed_empty_ranges, reason = "that is the mistake")]
        {
            empty.local_ports = 2..=1;
        }
        assert_eq!(entries(&[empty]), Err(RuleError::Ports(0)));
        let many = vec![rule("::/0", "::/0"); 257];
        assert_eq!(entries(&many), Err(RuleError::TooMany(257)));
    }
}
