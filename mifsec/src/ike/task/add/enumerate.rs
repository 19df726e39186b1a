//! Which SAs a further interface makes (R47 to R49): one pure function for both
//! ends, from what both know.
//!
//! For each listed interface, for each Child SA at home on it in the order of its
//! SPIs: copy the selectors, put the new inner addresses in place of the old ones,
//! the new path in place of the old one; unless an equal one exists, also one made
//! earlier in the same run. In a bundle equal ones may exist on other paths.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::ids::{ChildId, IfaceId, Spi};
use crate::ike::selector::TrafficSelector;

/// A Child SA that may be derived from; `near` is the end that adds the interface.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) child: ChildId,
    pub(super) near: IfaceId,
    pub(super) far: IfaceId,
    /// Inbound at the IKE SA's caller, inbound at the other end.
    pub(super) spis: (Spi, Spi),
    pub(super) near_ts: Vec<TrafficSelector>,
    pub(super) far_ts: Vec<TrafficSelector>,
    pub(super) bundle: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// Interfaces whose SAs are templates, in this order.
    pub(super) from: &'a [IfaceId],
    /// The new path.
    pub(super) near: IfaceId,
    pub(super) far: IfaceId,
    /// Inner addresses the near end has, of which those of the templates are; if none
    /// are known any single address is taken for one.
    pub(super) known: &'a [IpAddr],
    /// Those in their place; none leaves the selectors as they are.
    pub(super) inner: &'a [IpAddr],
    /// Equal selectors on several paths are meant.
    pub(super) bundle: bool,
}

/// What becomes of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Derived {
    pub(super) child: ChildId,
    pub(super) spis: (Spi, Spi),
    pub(super) near_ts: Vec<TrafficSelector>,
    pub(super) far_ts: Vec<TrafficSelector>,
    /// There is an equal one, or nothing to select.
    pub(super) skipped: bool,
}

type Key = (Vec<TrafficSelector>, Vec<TrafficSelector>);

/// Equal selectors have the same one.
fn key(near: &[TrafficSelector], far: &[TrafficSelector]) -> Key {
    let sorted = |list: &[TrafficSelector]| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        list
    };
    (sorted(near), sorted(far))
}

/// All templates in order, and what becomes of each.
pub(super) fn enumerate(templates: &[Template], target: &Target<'_>) -> Vec<Derived> {
    let keys = |only: &dyn Fn(&Template) -> bool| -> BTreeSet<Key> {
        let those = templates.iter().filter(|template| only(template));
        those.map(|t| key(&t.near_ts, &t.far_ts)).collect()
    };
    let mut anywhere = keys(&|_| true);
    let mut on_path = keys(&|t| (t.near, t.far) == (target.near, target.far));
    let mut all = Vec::new();
    for iface in target.from {
        let mut here: Vec<_> = templates.iter().filter(|t| t.near == *iface).collect();
        here.sort_unstable_by_key(|template| template.spis);
        for template in here {
            let near_ts = substitute(&template.near_ts, target);
            let new = key(&near_ts, &template.far_ts);
            let bundle = target.bundle && template.bundle;
            let exists = if bundle { &on_path } else { &anywhere }.contains(&new);
            let skipped = exists || near_ts.is_empty();
            if !skipped {
                anywhere.insert(new.clone());
                on_path.insert(new);
            }
            all.push(Derived {
                child: template.child,
                spis: template.spis,
                near_ts,
                far_ts: template.far_ts.clone(),
                skipped,
            });
        }
    }
    all
}

/// Single inner addresses give way to the new one of their family, with their
/// protocol and ports; without one they go. Networks stay.
fn substitute(selectors: &[TrafficSelector], target: &Target<'_>) -> Vec<TrafficSelector> {
    if target.inner.is_empty() {
        return selectors.to_vec();
    }
    let is_inner = |selector: &TrafficSelector| {
        selector.is_host() && (target.known.is_empty() || target.known.contains(&selector.start()))
    };
    let replaced = selectors.iter().filter_map(|selector| {
        if !is_inner(selector) {
            return Some(*selector);
        }
        let same = |ip: &&IpAddr| ip.is_ipv4() == selector.start().is_ipv4();
        let new = target.inner.iter().find(same)?;
        let (first, last) = selector.ports();
        TrafficSelector::host(*new).with_ports(selector.protocol(), first, last)
    });
    replaced.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WLAN: IfaceId = IfaceId(1);
    const RAN: IfaceId = IfaceId(2);
    const ETH: IfaceId = IfaceId(3);
    const GATEWAY: IfaceId = IfaceId(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> TrafficSelector {
        text.parse::<ipnet::IpNet>().unwrap().into()
    }

    fn template(child: u64, near: IfaceId, near_ts: &[TrafficSelector], far_ts: &str) -> Template {
        let spi = u32::try_from(child).unwrap() * 0x1000;
        Template {
            child: ChildId(child),
            near,
            far: GATEWAY,
            spis: (Spi(spi), Spi(spi + 1)),
            near_ts: near_ts.to_vec(),
            far_ts: vec![net(far_ts)],
            bundle: true,
        }
    }

    fn target<'a>(from: &'a [IfaceId], inner: &'a [IpAddr], bundle: bool) -> Target<'a> {
        Target {
            from,
            near: ETH,
            far: GATEWAY,
            known: &[],
            inner,
            bundle,
        }
    }

    /// Which templates make one, which are skipped.
    fn outcome(all: &[Derived]) -> (Vec<u64>, Vec<u64>) {
        let of = |skipped| {
            let those = all.iter().filter(move |derived| derived.skipped == skipped);
            those.map(|derived| derived.child.0).collect()
        };
        (of(false), of(true))
    }

    #[test]
    fn one_sa_of_each_interface_makes_one_of_the_new_one_r47_r49() {
        covers!("R47");
        let inner: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip).to_vec();
        let host = |n: usize| TrafficSelector::host(inner[n]);
        let templates = [
            template(2, RAN, &[host(1)], "0.0.0.0/0"),
            template(1, WLAN, &[host(0)], "0.0.0.0/0"),
        ];
        let mut target = target(&[WLAN, RAN], &inner[2..], false);
        target.known = &inner;
        let all = enumerate(&templates, &target);
        assert_eq!(outcome(&all), (vec![1], vec![2]));
        assert_eq!(all[0].near_ts, [host(2)]);
        // The order says from which: nothing else differs.
        target.from = &[RAN, WLAN];
        assert_eq!(outcome(&enumerate(&templates, &target)), (vec![2], vec![1]));
        // It exists from now.
        let there = [
            templates.to_vec(),
            vec![template(3, ETH, &[host(2)], "0.0.0.0/0")],
        ]
        .concat();
        assert_eq!(outcome(&enumerate(&there, &target)), (vec![], vec![2, 1]));
    }

    #[test]
    fn a_bundle_over_three_interfaces_makes_one_member() {
        let lease = [ip("10.0.0.1")];
        let host = [TrafficSelector::host(lease[0])];
        let mut templates: Vec<_> = [(1, WLAN), (2, RAN), (4, IfaceId(4))]
            .map(|(child, near)| template(child, near, &host, "0.0.0.0/0"))
            .to_vec();
        let from = [WLAN, RAN, IfaceId(4)];
        let all = enumerate(&templates, &target(&from, &lease, true));
        assert_eq!(outcome(&all), (vec![1], vec![2, 4]));
        // Without the flag equal selectors exist (R49), as for what is no bundle.
        let all = enumerate(&templates, &target(&from, &lease, false));
        assert_eq!(outcome(&all), (vec![], vec![1, 2, 4]));
        for template in &mut templates {
            template.bundle = false;
        }
        let all = enumerate(&templates, &target(&from, &lease, true));
        assert_eq!(outcome(&all), (vec![], vec![1, 2, 4]));
    }

    #[test]
    fn each_service_is_derived_in_the_order_of_the_spis() {
        let lease = [ip("10.0.0.1")];
        let host = [TrafficSelector::host(lease[0])];
        let service = |n: u64| template(n, WLAN, &host, &format!("198.18.{n}.0/24"));
        let templates: Vec<_> = [7, 3, 9].map(service).to_vec();
        let all = enumerate(&templates, &target(&[WLAN], &lease, true));
        assert_eq!(outcome(&all), (vec![3, 7, 9], vec![]));
    }

    #[test]
    fn protocol_ports_and_networks_stay_and_a_family_without_address_goes() {
        let (old4, old6) = (ip("10.0.0.1"), ip("fd66::1"));
        let http = TrafficSelector::host(old4).with_ports(6, 80, 80).unwrap();
        let near = [http, TrafficSelector::host(old6), net("10.9.0.0/24")];
        let templates = [template(1, WLAN, &near, "0.0.0.0/0")];
        let new = [ip("10.0.0.9")];
        let all = enumerate(&templates, &target(&[WLAN], &new, false));
        let moved = TrafficSelector::host(new[0]).with_ports(6, 80, 80).unwrap();
        assert_eq!(all[0].near_ts, [moved, net("10.9.0.0/24")]);
        // Of the other family nothing is left of an SA that has only this one.
        let templates = [template(1, WLAN, &[TrafficSelector::host(old6)], "::/0")];
        assert!(enumerate(&templates, &target(&[WLAN], &new, true))[0].skipped);
        // An address that is none of the inner ones is a network of one.
        let mut target = target(&[WLAN], &new, true);
        let known = [old4];
        target.known = &known;
        assert!(!enumerate(&templates, &target)[0].skipped);
    }

    #[test]
    fn both_ends_find_the_same_whatever_order_they_keep_their_sas_in() {
        let lease = [ip("10.0.0.1"), ip("fd66::1")];
        let host = lease.map(TrafficSelector::host);
        let mut templates: Vec<_> = (1..=6)
            .map(|n| {
                template(
                    n,
                    IfaceId(1 + u16::try_from(n % 2).unwrap()),
                    &host,
                    &format!("198.18.{}.0/24", n / 2),
                )
            })
            .collect();
        let target = target(&[RAN, WLAN], &lease, true);
        let expected = enumerate(&templates, &target);
        for turn in 0..templates.len() {
            templates.rotate_left(turn);
            templates.swap(0, 1);
            assert_eq!(enumerate(&templates, &target), expected);
        }
    }
}
