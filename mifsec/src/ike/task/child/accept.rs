//! The side that answers a request for a Child SA.

use crate::crypto::{KeGroup, PrivateKey, Secret};
use crate::ids::{ChildId, IfaceId, IfacePair};
use crate::ike::config::{ChildConfig, PeerConfig};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::Event;
use crate::ike::message::{Ke, Notify, NotifyType, Payload};
use crate::ike::mif::{
    AddressPolicy, Features, OuterAddrs, OuterFlags, error as mif_error, status,
};
use crate::ike::proposal::{self, Chosen, EspSuite};
use crate::ike::sa::{Child, IkeSa, Installation, Phase};
use crate::ike::selector::{self, Narrowed, TsSpec};
use crate::ike::task::{Payloads, Received, Task};

use super::{Nonces, outer_pair, rekey};

/// The response to CREATE_CHILD_SA.
pub(in crate::ike) fn respond(
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) -> Vec<Payload> {
    let payloads = &received.payloads;
    if matches!(sa.phase, Phase::Closing { .. }) {
        // RFC 7296 2.25.2: the IKE SA is about to go.
        return vec![super::error(NotifyType::TEMPORARY_FAILURE)];
    }
    if rekey::is_of_ike(payloads) {
        return crate::ike::task::rekey::respond(sa, cx, received);
    }
    let rekeying = |task: &Task| matches!(task, Task::RekeyIke(_));
    if sa.outbound.tasks().any(rekeying) {
        return vec![super::error(NotifyType::TEMPORARY_FAILURE)];
    }
    let old = match payloads.notify(NotifyType::REKEY_SA) {
        None => None,
        Some(notify) => match rekey::named(notify, sa) {
            Ok(old) => Some(old),
            Err(refusal) => return vec![refusal],
        },
    };
    let Some(ni) = payloads.nonce() else {
        return vec![super::error(NotifyType::INVALID_SYNTAX)];
    };
    let nr = cx.nonce();
    let nonces = Nonces {
        ni,
        nr: &nr,
        in_auth: false,
    };
    answer(sa, cx, payloads, &nonces, old)
}

/// Makes the Child SA the peer asks for, installed before the response that
/// names it leaves; or says why not.
pub(in crate::ike) fn accept(
    sa: &mut IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
    nonces: &Nonces<'_>,
) -> Vec<Payload> {
    answer(sa, cx, payloads, nonces, None)
}

/// The same, in place of `old` if there is one.
fn answer(
    sa: &mut IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
    nonces: &Nonces<'_>,
    old: Option<ChildId>,
) -> Vec<Payload> {
    match consider(sa, cx, payloads, nonces, old) {
        Ok(response) => response,
        Err(refusal) => {
            if old.is_some() {
                // The old one is still there: the peer tries again.
                cx.count("ike_child_rekey_refused");
            } else if let Some(reason) = refusal.reason {
                cx.event(Event::ChildFailed {
                    ike: sa.id,
                    child: refusal.child,
                    pair: refusal.pair,
                    reason,
                });
            }
            vec![Payload::Notify(refusal.notify)]
        }
    }
}

/// Addresses of an echo are ours or were judged before.
pub(super) fn any_address() -> AddressPolicy {
    AddressPolicy {
        loopback: true,
        link_local: true,
        ..AddressPolicy::default()
    }
}

struct Refusal {
    notify: Notify,
    /// `None` for what solves itself when asked again.
    reason: Option<Failure>,
    child: String,
    pair: IfacePair,
}

/// What is asked for, judged so far.
struct Wanted {
    config: ChildConfig,
    local: Narrowed,
    remote: Narrowed,
    pair: IfacePair,
    bundle: bool,
    outer: Option<OuterAddrs>,
}

fn consider(
    sa: &mut IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
    nonces: &Nonces<'_>,
    old: Option<ChildId>,
) -> Result<Vec<Payload>, Box<Refusal>> {
    let with_ke = !nonces.in_auth;
    let former = old.and_then(|old| sa.children.get(&old));
    let mut pair = former.map_or_else(|| sa.channel_pair(), |child| child.pair);
    let refuse = |kind: NotifyType, reason: Option<Failure>, pair| {
        Box::new(Refusal {
            notify: Notify::new(kind, Vec::new()),
            reason,
            child: String::new(),
            pair,
        })
    };
    // Each may be rekeyed at once.
    let limit = cx.limits.children * if old.is_some() { 2 } else { 1 };
    if sa.children.len() >= limit {
        let reason = Failure::Limit { what: "Child SAs" };
        return Err(refuse(NotifyType::NO_ADDITIONAL_SAS, Some(reason), pair));
    }
    let outer = outer_addrs(sa, cx, payloads)
        .map_err(|kind| refuse(kind, Some(Failure::from_notify(kind, true)), pair))?;
    if let Some(outer) = &outer {
        pair = outer_pair(sa, outer);
    }
    let failed = |kind: NotifyType| refuse(kind, Some(Failure::from_notify(kind, true)), pair);
    let (Some(peer), Some(offer)) = (sa.peer.clone(), payloads.sa()) else {
        return Err(failed(NotifyType::INVALID_SYNTAX));
    };
    let chosen = proposal::select_esp(&peer.esp_proposals, offer, with_ke)
        .map_err(|_| failed(NotifyType::NO_PROPOSAL_CHOSEN))?;
    let wanted = match former {
        Some(former) => inherited(former, &peer, payloads, pair, outer),
        None => narrow(sa, payloads, pair, outer),
    };
    let wanted = wanted.ok_or_else(|| failed(NotifyType::TS_UNACCEPTABLE))?;
    if let (None, Some((kind, reason))) = (old, duplicate(sa, &wanted)) {
        return Err(Box::new(Refusal {
            child: wanted.config.name,
            ..*refuse(kind, reason, pair)
        }));
    }
    let (g_ir, ke) = match chosen.suite.ke {
        None => (None, None),
        Some(group) => {
            let (secret, ke) = agree(group, payloads).map_err(|notify| {
                Box::new(Refusal {
                    notify,
                    ..*refuse(NotifyType::INVALID_KE_PAYLOAD, None, pair)
                })
            })?;
            (Some(secret), Some(ke))
        }
    };
    let made = install(sa, cx, &chosen, wanted, (g_ir.as_ref(), ke), nonces, old);
    let Some((new, response)) = made else {
        return Err(failed(NotifyType::INVALID_SYNTAX));
    };
    if let Some(old) = old {
        rekey::accepted(old, new, nonces, sa, cx);
    }
    Ok(response)
}

/// What replaces a Child SA has its name, bundle and at most its selectors.
fn inherited(
    former: &Child,
    peer: &PeerConfig,
    payloads: &Payloads,
    pair: IfacePair,
    outer: Option<OuterAddrs>,
) -> Option<Wanted> {
    let theirs = selector::from_entries(payloads.ts_i()?);
    let ours = selector::from_entries(payloads.ts_r()?);
    Some(Wanted {
        remote: selector::narrow(&theirs, &former.ts_remote)?,
        local: selector::narrow(&ours, &former.ts_local)?,
        config: peer
            .children
            .iter()
            .find(|c| c.name == former.name)?
            .clone(),
        pair,
        bundle: former.bundle,
        outer,
    })
}

/// The path asked for, if the peer may name it.
fn outer_addrs(
    sa: &IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
) -> Result<Option<OuterAddrs>, NotifyType> {
    let (Some(mif), Some(notify)) = (&sa.mif, payloads.notify(status::MIF_OUTER_ADDRS)) else {
        return Ok(None);
    };
    if !mif.features.has(Features::OUTER_NEG) {
        return Err(mif_error::MIF_UNSUPPORTED);
    }
    let mut outer =
        OuterAddrs::decode(&notify.data, &cx.address_policy(), !sa.caller).map_err(|error| {
            cx.count(error.reason());
            error.notify_type()
        })?;
    if outer.flags.has(OuterFlags::TRANSPORT) {
        return Err(mif_error::MIF_MODE_MISMATCH);
    }
    let knows_ours = |iface| iface == IfaceId::CHANNEL || cx.ifaces.iter().any(|i| i.id == iface);
    let knows_ours = |iface| knows_ours(iface) && !mif.operations.withheld.contains(&iface);
    let mut pair = outer_pair(sa, &outer);
    if outer.flags.has(OuterFlags::ANY_RESPONDER) && !sa.caller && !knows_ours(pair.local) {
        outer.resp_iface = sa.channel.local_iface;
        outer.responder.ip = sa.channel.local.ip();
        pair = outer_pair(sa, &outer);
    }
    if !(knows_ours(pair.local) && mif.knows(pair.remote)) {
        return Err(mif_error::MIF_UNKNOWN_INTERFACE);
    }
    Ok(Some(outer))
}

/// The configured child that leaves most of what is asked for as it is, and of those
/// the one that has nothing else: of several services the one that was meant, not the
/// first that is part of it or that it is part of. Of equal ones the first (RFC 7296
/// 2.9).
fn narrow(
    sa: &IkeSa,
    payloads: &Payloads,
    pair: IfacePair,
    outer: Option<OuterAddrs>,
) -> Option<Wanted> {
    let peer = sa.peer.as_ref()?;
    let theirs = selector::from_entries(payloads.ts_i()?);
    let ours = selector::from_entries(payloads.ts_r()?);
    let candidates = peer.children.iter().filter_map(|config| {
        let local = TsSpec::resolve(&config.local_ts, &sa.local_dynamic());
        let remote = TsSpec::resolve(&config.remote_ts, &sa.remote_dynamic());
        let agreed = sa
            .mif
            .as_ref()
            .is_some_and(|mif| mif.features.has(Features::BUNDLE));
        // Without MIF_OUTER_ADDRS it is the first of a bundle at most.
        let asked = outer.is_none_or(|outer| outer.flags.has(OuterFlags::BUNDLE));
        let wider = [(&theirs, &remote), (&ours, &local)];
        let wider = wider.map(|(offer, policy)| u8::from(!selector::equal(offer, policy)));
        let wanted = Wanted {
            remote: selector::narrow(&theirs, &remote)?,
            local: selector::narrow(&ours, &local)?,
            config: config.clone(),
            pair,
            bundle: config.bundle && agreed && asked,
            outer,
        };
        let cut = u8::from(wanted.local.cut) + u8::from(wanted.remote.cut);
        Some(((cut, wider.iter().sum::<u8>()), wanted))
    });
    let best = candidates.min_by_key(|(order, _)| *order);
    best.map(|(_, wanted)| wanted)
}

/// Equal selectors are for bundles only, and there one per path (protocol 0.2,
/// R49).
fn duplicate(sa: &IkeSa, wanted: &Wanted) -> Option<(NotifyType, Option<Failure>)> {
    let name = &wanted.config.name;
    let is_for = |task: &Task| match task {
        Task::Child(create) => create
            .is_for(name, wanted.pair, sa)
            .then(|| create.rekeys()),
        Task::Add(add) => add.is_for(wanted.pair, sa).then_some(None),
        _ => None,
    };
    // What replaces the member of this path may be there already, and only the
    // response that names it is still on its way to us.
    let replaced = sa
        .outbound
        .tasks()
        .filter_map(is_for)
        .any(|old| old.is_some());
    // Both ends ask for the same member at once: the IKE SA's initiator's request
    // is the one that is carried out (RFC 7296 2.25 leaves the winner open).
    let crossing = || sa.all_tasks().filter_map(is_for).any(|old| old.is_none());
    if replaced || sa.caller && crossing() {
        return Some((NotifyType::TEMPORARY_FAILURE, None));
    }
    let mut equal = sa
        .children
        .values()
        .filter(|child| child.selects(&wanted.local.selectors, &wanted.remote.selectors))
        .peekable();
    equal.peek()?;
    let on_path = equal.any(|child| child.pair == wanted.pair && !child.deleting);
    if wanted.bundle && !on_path {
        return None;
    }
    let kind = if sa.mif.is_some() {
        mif_error::MIF_SELECTOR_EXISTS
    } else {
        NotifyType::NO_ADDITIONAL_SAS
    };
    let reason = (!wanted.bundle).then_some(Failure::SelectorsExist);
    Some((kind, reason))
}

/// A key exchange of the Child SA's own, if one was chosen.
fn agree(group: KeGroup, payloads: &Payloads) -> Result<(Secret, Payload), Notify> {
    let number = group.number();
    let other = || {
        let wanted = number.to_be_bytes().to_vec();
        Notify::new(NotifyType::INVALID_KE_PAYLOAD, wanted)
    };
    let ke = payloads
        .ke()
        .filter(|ke| ke.group == number)
        .ok_or_else(other)?;
    let syntax = |_| Notify::new(NotifyType::INVALID_SYNTAX, Vec::new());
    let private = PrivateKey::generate(group)
        .map_err(|_| Notify::new(NotifyType::TEMPORARY_FAILURE, Vec::new()))?;
    let data = private.public().to_vec();
    let secret = private.agree(&ke.data).map_err(syntax)?;
    let ke = Payload::Ke(Ke {
        group: number,
        data,
    });
    Ok((secret, ke))
}

fn install(
    sa: &mut IkeSa,
    cx: &mut Context,
    chosen: &Chosen<EspSuite>,
    wanted: Wanted,
    (g_ir, ke): (Option<&Secret>, Option<Payload>),
    nonces: &Nonces<'_>,
    old: Option<ChildId>,
) -> Option<(ChildId, Vec<Payload>)> {
    let spi_out = proposal::esp_spi(&chosen.spi)?;
    let keys = &sa.keys.as_ref()?.ike;
    let keymat = keys.child(chosen.suite.aead, g_ir, (nonces.ni, nonces.nr));
    let (keymat_out, keymat_in) = keymat.split(false);
    let spi_in = cx.allocate_spi();
    let mut response = vec![Payload::Sa(proposal::answer_esp(chosen, spi_in))];
    if !nonces.in_auth {
        response.push(Payload::Nonce(nonces.nr.to_vec()));
        response.extend(ke);
    }
    let (local, remote) = (wanted.local, wanted.remote);
    response.push(Payload::TsI(selector::to_entries(&remote.selectors)));
    response.push(Payload::TsR(selector::to_entries(&local.selectors)));
    response.extend(wanted.outer.map(|outer| Payload::Notify(outer.notify())));
    let former = old.and_then(|old| sa.children.get(&old));
    let ours = former.is_some_and(|child| child.ours);
    let id = sa.install(
        Installation {
            name: wanted.config.name,
            spi_in,
            spi_out,
            algorithm: chosen.suite.aead,
            keymat_in,
            keymat_out,
            esn: chosen.suite.esn,
            ts_local: local.selectors,
            ts_remote: remote.selectors,
            pair: wanted.pair,
            bundle: wanted.bundle,
            hold_outbound: true,
            replay_window: wanted.config.replay_window,
            ours,
            replaces: old,
            lost_to: None,
        },
        cx,
    );
    Some((id, response))
}
