//! Where the packets of a Child SA go: the path it is at home on, and the one that
//! path's index leads to while another interface carries it.

use crate::ids::{Family, IfaceId, IfacePair, IkeId, PathIndex};
use crate::path::PathView;

/// The path of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The one whose index the Child SA has.
    pub(super) path: &'a PathView,
    /// What that index leads to: itself or its carrier, if there is one.
    pub(super) leads_to: Option<&'a PathView>,
}

impl Place<'_> {
    /// Whether packets may take it.
    pub(super) fn is_up(&self) -> bool {
        self.leads_to.is_some_and(|view| view.up)
    }

    /// What the maps know it by.
    pub(super) fn index(&self) -> PathIndex {
        self.path.path
    }
}

/// The home path of each family.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) v4: Option<Place<'a>>,
    pub(super) v6: Option<Place<'a>>,
}

impl<'a> Home<'a> {
    /// The one in use: up before down, the pair's home first, then IPv6.
    pub(super) fn current(&self) -> Option<Place<'a>> {
        [self.v6, self.v4]
            .into_iter()
            .flatten()
            .max_by_key(|p| (p.is_up(), p.path.home, p.path.family == Family::V6))
    }
}

/// Those of one peer; all views are in the order of the peers.
pub(super) fn of_peer(views: &[PathView], ike: IkeId) -> &[PathView] {
    let from = views.partition_point(|view| view.ike < ike);
    let to = views.partition_point(|view| view.ike <= ike);
    views.get(from..to).unwrap_or_default()
}

/// The paths a pair is homed on.
pub(super) fn home(views: &[PathView], ike: IkeId, pair: IfacePair) -> Home<'_> {
    let views = of_peer(views, ike);
    let of_pair = |v: &&PathView| {
        (v.validated || v.carried_by.is_some())
            && v.pair.local == pair.local
            // A Child SA or a path made before the peer's table came has no name for its end.
            && (v.pair.remote == pair.remote
                || (v.channel && (pair.remote == IfaceId::CHANNEL || v.pair.remote == IfaceId::CHANNEL)))
    };
    let by = views.iter().filter(of_pair).find_map(|v| v.carried_by);
    let carrier = |family| {
        let carries = |v: &&PathView| Some(v.pair) == by && v.family == family && v.validated;
        views.iter().find(carries)
    };
    let of = |family| {
        let own = views
            .iter()
            .filter(of_pair)
            .filter(|v| v.family == family)
            .max_by_key(|v| (v.home, v.up));
        let carrier = carrier(family);
        // A family the pair has no path of is the carrier's own.
        let path = own.or(carrier)?;
        let leads_to = match path.carried_by {
            Some(_) => carrier,
            None => Some(path),
        };
        Some(Place { path, leads_to })
    };
    Home {
        v4: of(Family::V4),
        v6: of(Family::V6),
    }
}
