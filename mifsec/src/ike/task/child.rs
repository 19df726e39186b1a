//! Child SAs (RFC 7296 1.3.1, 2.9, 2.17), in IKE_AUTH or CREATE_CHILD_SA, there
//! on a chosen path (protocol 3.6).
//!
//! ```text
//!  request   SK{SA, Ni, [KEi], TSi, TSr, [N(MIF_OUTER_ADDRS)]}
//!  response  SK{SA, Nr, [KEr], TSi, TSr, [N(MIF_OUTER_ADDRS)]}
//!        or  SK{N(error)}
//! ```
//! Here is the side that asks; `child/accept.rs` has the side that answers.

mod accept;
mod path;
mod rekey;

use std::net::IpAddr;

use crate::crypto::{KeGroup, PrivateKey, Secret};
use crate::ids::{ChildId, IfaceId, IfacePair, Spi};
use crate::ike::config::ChildConfig;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{Event, SaRequest};
use crate::ike::message::{Ke, Notify, NotifyType, Payload};
use crate::ike::mif::{
    Features, InterfaceRecord, OuterAddrs, OuterFlags, error as mif_error, status,
};
use crate::ike::proposal;
use crate::ike::sa::{Child, IkeSa, Installation};
use crate::ike::selector::{self, TrafficSelector, TsSpec};

use super::{Payloads, Received, Task, delete};

pub(in crate::ike) use accept::{accept, respond};
use path::{outer_addrs, outer_pair};
pub(in crate::ike) use rekey::{Rival, deleted};

/// Nonces of the exchange that makes a Child SA.
pub(in crate::ike) struct Nonces<'a> {
    /// Of the exchange's initiator.
    pub(in crate::ike) ni: &'a [u8],
    /// Of its responder.
    pub(in crate::ike) nr: &'a [u8],
    /// The exchange is IKE_AUTH: nonces of IKE_SA_INIT, no key exchange.
    pub(in crate::ike) in_auth: bool,
}

/// A Child SA we ask for.
pub(in crate::ike) struct Create {
    config: ChildConfig,
    pair: IfacePair,
    /// Our and the peer's outer address; `None` is the channel's pair.
    outer: Option<(IpAddr, IpAddr)>,
    spi: Option<Spi>,
    nonce: Vec<u8>,
    group: Option<KeGroup>,
    private: Option<PrivateKey>,
    /// Our and the peer's selectors as offered.
    offered: (Vec<TrafficSelector>, Vec<TrafficSelector>),
    attempts: u32,
    /// The Child SA it is to replace.
    rekeys: Option<ChildId>,
    /// What `dynamic` stands for at our end; `None` is all our leases.
    inner: Option<Vec<IpAddr>>,
}

impl Create {
    /// On the path of the IKE channel.
    pub(in crate::ike) fn on_channel(config: ChildConfig, sa: &IkeSa) -> Self {
        Self {
            config,
            pair: sa.channel_pair(),
            outer: None,
            spi: None,
            nonce: Vec::new(),
            group: None,
            private: None,
            offered: (Vec::new(), Vec::new()),
            attempts: 0,
            rekeys: None,
            inner: None,
        }
    }

    /// With these of our inner addresses alone.
    pub(in crate::ike) fn with_inner(self, inner: Option<Vec<IpAddr>>) -> Self {
        Self { inner, ..self }
    }

    /// On a path of its own.
    pub(in crate::ike) fn on_path(
        config: ChildConfig,
        sa: &IkeSa,
        pair: IfacePair,
        outer: (IpAddr, IpAddr),
    ) -> Self {
        Self {
            pair,
            outer: Some(outer),
            ..Self::on_channel(config, sa)
        }
    }

    /// The same Child SA anew, on the path it was on if that is there.
    fn again(child: &Child, sa: &IkeSa, cx: &Context) -> Option<Self> {
        let peer = sa.peer.as_ref()?;
        let config = peer.children.iter().find(|c| c.name == child.name)?.clone();
        let first = |ifaces: &[InterfaceRecord], id| {
            let record = ifaces.iter().find(|record| record.id == id);
            record.and_then(|record| record.addresses.first().map(|maddr| maddr.ip))
        };
        let outer = sa.mif.as_ref().and_then(|mif| {
            let local = first(&cx.ifaces, child.pair.local)?;
            Some((local, first(&mif.peer_ifaces, child.pair.remote)?))
        });
        let unnamed = [child.pair.local, child.pair.remote].contains(&IfaceId::CHANNEL);
        let create = match outer {
            Some(outer) => Self::on_path(config, sa, child.pair, outer),
            None if sa.mif.is_none() || unnamed => Self::on_channel(config, sa),
            // Its interface is gone: another path may have its member already.
            None => return None,
        };
        Some(create.with_inner(path::inner_of(child, sa)))
    }

    /// Whether it is, or may come out as, the Child SA of this name on this path:
    /// which interfaces the channel has may not be known yet.
    pub(in crate::ike) fn is_for(&self, name: &str, pair: IfacePair, sa: &IkeSa) -> bool {
        let same = |a, b| a == b || a == IfaceId::CHANNEL || b == IfaceId::CHANNEL;
        let path = self.path(sa);
        self.config.name == name && same(path.local, pair.local) && same(path.remote, pair.remote)
    }

    /// Whether it is to make a Child SA on this path beside those there are.
    pub(super) fn makes_anew_on(&self, pair: IfacePair, sa: &IkeSa) -> bool {
        self.rekeys.is_none() && self.is_for(&self.config.name, pair, sa)
    }

    /// Where it is to be: the channel's pair, and that of what it replaces, may be
    /// another by now.
    fn path(&self, sa: &IkeSa) -> IfacePair {
        match self.rekeys {
            Some(old) => sa.children.get(&old).map_or(self.pair, |old| old.pair),
            None if self.outer.is_none() => sa.channel_pair(),
            None => self.pair,
        }
    }

    /// The CREATE_CHILD_SA request; nothing if the path has its member by now,
    /// made by the peer or asked for twice.
    pub(super) fn build(&mut self, sa: &mut IkeSa, cx: &mut Context) -> Option<Vec<Payload>> {
        self.pair = self.path(sa);
        if self.rekeys.is_none() && self.exists(sa) {
            self.release(cx);
            return None;
        }
        if self.outer.is_some() && sa.mif.is_none() {
            self.release(cx);
            cx.event(Event::ChildFailed {
                ike: sa.id,
                child: self.config.name.clone(),
                pair: self.pair,
                reason: Failure::MifRequired,
            });
            return None;
        }
        let rekey = match self.rekeys.map(|old| Self::rekey_notify(old, sa)) {
            // Deleted or replaced while this waited.
            Some(None) => return None,
            Some(notify) => notify,
            None => None,
        };
        self.nonce = cx.nonce();
        let mut payloads = self.offer(sa, cx, true);
        payloads.insert(1, Payload::Nonce(self.nonce.clone()));
        if let Some(private) = &self.private {
            let ke = Ke {
                group: private.group().number(),
                data: private.public().to_vec(),
            };
            payloads.insert(2, Payload::Ke(ke));
        }
        payloads.extend(self.outer_addrs(sa).map(|o| Payload::Notify(o.notify())));
        let rekey = rekey.map(Payload::Notify);
        Some(rekey.into_iter().chain(payloads).collect())
    }

    /// SA, TSi and TSr, with a fresh inbound SPI the first time.
    pub(super) fn offer(&mut self, sa: &IkeSa, cx: &mut Context, with_ke: bool) -> Vec<Payload> {
        let Some(peer) = &sa.peer else {
            return Vec::new();
        };
        let spi = match self.spi {
            Some(spi) => spi,
            None => {
                let spi = cx.allocate_spi();
                cx.request(SaRequest::Larval { ike: sa.id, spi });
                *self.spi.insert(spi)
            }
        };
        if with_ke {
            let first = peer.esp_proposals.first().and_then(|p| p.groups.first());
            self.group = self.group.or(first.copied());
            self.private = self
                .group
                .and_then(|group| PrivateKey::generate(group).ok());
        }
        let asks = !with_ke && (peer.request_v4 || peer.request_v6);
        let old = self.rekeys.and_then(|old| sa.children.get(&old));
        let local = if let Some(old) = old {
            old.ts_local.clone()
        } else if asks {
            TsSpec::offer(&self.config.local_ts, peer.request_v4, peer.request_v6)
        } else {
            match &self.inner {
                Some(inner) => TsSpec::resolve(&self.config.local_ts, inner),
                None => TsSpec::resolve(&self.config.local_ts, &sa.local_dynamic()),
            }
        };
        let remote = match old {
            Some(old) => old.ts_remote.clone(),
            None => TsSpec::resolve(&self.config.remote_ts, &sa.remote_dynamic()),
        };
        let payloads = vec![
            Payload::Sa(proposal::offer_esp(&peer.esp_proposals, spi, with_ke)),
            Payload::TsI(selector::to_entries(&local)),
            Payload::TsR(selector::to_entries(&remote)),
        ];
        self.offered = (local, remote);
        payloads
    }

    fn outer_addrs(&self, sa: &IkeSa) -> Option<OuterAddrs> {
        let (local, remote) = self.outer?;
        let mif = sa.mif.as_ref()?;
        if !mif.features.has(Features::OUTER_NEG) {
            return None;
        }
        let bundle = self.config.bundle && mif.features.has(Features::BUNDLE);
        let flags = if bundle {
            OuterFlags::BUNDLE
        } else {
            OuterFlags::default()
        };
        Some(outer_addrs(sa, self.pair, (local, remote), flags))
    }

    fn exists(&self, sa: &IkeSa) -> bool {
        sa.children.values().any(|child| {
            child.name == self.config.name && child.pair == self.pair && !child.deleting
        })
    }

    /// The CREATE_CHILD_SA response.
    pub(super) fn process(
        mut self: Box<Self>,
        sa: &mut IkeSa,
        cx: &mut Context,
        received: &Received,
    ) {
        let payloads = &received.payloads;
        if let (Some(old), Some(error)) = (self.rekeys, payloads.error()) {
            return self.rekey_refused(old, error, sa, cx);
        }
        if payloads.error().is_some() && sa.is_to_go(self.iface(sa)) {
            return self.deleted(sa, cx);
        }
        if let Some(error) = payloads.error() {
            // Our table, or a Delete of the path's former member, may still be on
            // its way to the peer.
            let on_its_way = error.kind == mif_error::MIF_UNKNOWN_INTERFACE
                || error.kind == mif_error::MIF_SELECTOR_EXISTS && self.config.bundle;
            match error.kind {
                kind if (kind == NotifyType::TEMPORARY_FAILURE || on_its_way)
                    && sa.postpone(self.attempts, cx) =>
                {
                    self.attempts += 1;
                    return sa.postponed.push(Task::Child(self));
                }
                NotifyType::INVALID_KE_PAYLOAD if self.take_group(error, sa) => {
                    return sa.queue.push(Task::Child(self));
                }
                _ => {}
            }
        }
        let nonce = std::mem::take(&mut self.nonce);
        let nonces = Nonces {
            ni: &nonce,
            nr: payloads.nonce().map_or(&[], Vec::as_slice),
            in_auth: false,
        };
        self.finish(sa, cx, payloads, &nonces);
    }

    /// Takes the method the peer wants, if we offered it.
    fn take_group(&mut self, notify: &Notify, sa: &IkeSa) -> bool {
        let number = <[u8; 2]>::try_from(notify.data.as_slice()).ok();
        let group = number.and_then(|n| KeGroup::from_number(u16::from_be_bytes(n)));
        let offered = |group: &KeGroup| {
            sa.peer
                .as_ref()
                .is_some_and(|peer| peer.esp_proposals.iter().any(|p| p.groups.contains(group)))
        };
        let group = group
            .filter(offered)
            .filter(|group| self.group != Some(*group));
        self.group = group.or(self.group);
        group.is_some()
    }

    /// Installs what the response agreed to, or says why not.
    pub(super) fn finish(
        mut self,
        sa: &mut IkeSa,
        cx: &mut Context,
        payloads: &Payloads,
        nonces: &Nonces<'_>,
    ) {
        let outcome = self.agreed(sa, payloads, nonces);
        let outcome = outcome.and_then(|new| match sa.early_deletes.remove(&new.spi_out) {
            true => Err(Refusal {
                reason: Failure::DeletedByPeer,
                installed: false,
            }),
            false => Ok(new),
        });
        // What it was to replace is deleted by command: so is the new one.
        let unwanted = self.rekeys.and_then(|old| sa.children.get(&old));
        let outcome = outcome.and_then(|new| match unwanted.is_some_and(|old| old.deleting) {
            true => Err(Refusal {
                reason: Failure::Deleted,
                installed: true,
            }),
            false => Ok(new),
        });
        if !sa.outbound.tasks().any(Task::makes_child) {
            sa.early_deletes.clear();
        }
        match outcome {
            Ok(new) => match self.rekeys {
                Some(old) => Self::replace(old, new, nonces, sa, cx),
                None => {
                    sa.install(new, cx);
                }
            },
            Err(refusal) => {
                use Failure::{Busy, NoAdditionalSas, SelectorsExist};
                let refused = matches!(refusal.reason, Busy | NoAdditionalSas | SelectorsExist);
                let moot = refused && self.exists(sa);
                if let (Some(spi), true) = (self.spi, refusal.installed) {
                    // The peer installed its side: our SPI stays taken until it
                    // confirmed the Delete.
                    self.spi = None;
                    cx.request(SaRequest::LarvalGone { spi });
                    sa.queue.push(Task::Delete(delete::Target::Orphan(spi)));
                }
                if let Some(old) = self.rekeys {
                    match refusal.reason {
                        // The peer ended all of it.
                        Failure::DeletedByPeer => sa.delete_child(old, cx),
                        _ => Self::rekey_failed(old, sa, cx),
                    }
                } else if !moot {
                    cx.event(Event::ChildFailed {
                        ike: sa.id,
                        child: self.config.name.clone(),
                        pair: self.pair,
                        reason: refusal.reason,
                    });
                }
                self.release(cx);
            }
        }
    }

    /// Our interface it is on.
    pub(super) fn iface(&self, sa: &IkeSa) -> IfaceId {
        self.path(sa).local
    }

    /// The interface is to be deleted before this is asked.
    pub(super) fn deleted(mut self, sa: &IkeSa, cx: &mut Context) {
        self.release(cx);
        cx.event(Event::ChildFailed {
            ike: sa.id,
            child: self.config.name.clone(),
            pair: self.pair,
            reason: Failure::Deleted,
        });
    }

    /// Nothing came of it and nobody needs to know why.
    pub(in crate::ike) fn abandon(mut self, cx: &mut Context) {
        self.release(cx);
    }

    fn release(&mut self, cx: &mut Context) {
        if let Some(spi) = self.spi.take() {
            cx.request(SaRequest::LarvalGone { spi });
            cx.release_spi(spi);
        }
    }

    fn agreed(
        &mut self,
        sa: &IkeSa,
        payloads: &Payloads,
        nonces: &Nonces<'_>,
    ) -> Result<Installation, Refusal> {
        let (Some(answer), Some(ts_i), Some(ts_r), Some(spi_in), Some(peer), Some(keys)) = (
            payloads.sa(),
            payloads.ts_i(),
            payloads.ts_r(),
            self.spi,
            &sa.peer,
            &sa.keys,
        ) else {
            let error = payloads.error().map(|e| Failure::from_notify(e.kind, true));
            return Err(Refusal {
                reason: error.unwrap_or(Failure::Protocol { what: "Child SA" }),
                installed: false,
            });
        };
        let refuse = |reason| Refusal {
            reason,
            installed: true,
        };
        let with_ke = !nonces.in_auth;
        let chosen = proposal::accept_esp(&peer.esp_proposals, answer, with_ke)
            .map_err(|_| refuse(Failure::NoEspProposal))?;
        let spi_out = proposal::esp_spi(&chosen.spi)
            .ok_or_else(|| refuse(Failure::Protocol { what: "SPI" }))?;
        let ts_local = selector::from_entries(ts_i);
        let ts_remote = selector::from_entries(ts_r);
        if !selector::is_narrowing(&ts_local, &self.offered.0)
            || !selector::is_narrowing(&ts_remote, &self.offered.1)
        {
            return Err(refuse(Failure::TrafficSelectors));
        }
        if with_ke && nonces.nr.is_empty() {
            return Err(refuse(Failure::Protocol { what: "nonce" }));
        }
        let g_ir = match chosen.suite.ke {
            None => None,
            Some(group) => Some(
                self.agree(group, payloads)
                    .ok_or_else(|| refuse(Failure::Protocol { what: "public key" }))?,
            ),
        };
        let pair = self.answered_pair(sa, payloads);
        let keymat = keys
            .ike
            .child(chosen.suite.aead, g_ir.as_ref(), (nonces.ni, nonces.nr));
        let (keymat_out, keymat_in) = keymat.split(true);
        Ok(Installation {
            name: self.config.name.clone(),
            spi_in,
            spi_out,
            algorithm: chosen.suite.aead,
            keymat_in,
            keymat_out,
            esn: chosen.suite.esn,
            ts_local,
            ts_remote,
            pair,
            bundle: self.config.bundle,
            hold_outbound: false,
            replay_window: self.config.replay_window,
            ours: true,
            replaces: None,
            lost_to: None,
        })
    }

    fn agree(&mut self, group: KeGroup, payloads: &Payloads) -> Option<Secret> {
        let private = self.private.take().filter(|p| p.group() == group)?;
        let ke = payloads.ke().filter(|ke| ke.group == group.number())?;
        private.agree(&ke.data).ok()
    }

    /// The response echoes the path it chose; without the echo the Child SA is on
    /// the channel's (protocol 3.6).
    fn answered_pair(&self, sa: &IkeSa, payloads: &Payloads) -> IfacePair {
        if self.outer.is_none() {
            // Without MIF it has moved with the channel since.
            return if sa.mif.is_none() {
                sa.channel_pair()
            } else {
                self.pair
            };
        }
        let echo = payloads
            .notify(status::MIF_OUTER_ADDRS)
            .and_then(|n| OuterAddrs::decode(&n.data, &accept::any_address(), !sa.caller).ok());
        match echo {
            Some(echo) => IfacePair {
                local: self.pair.local,
                remote: outer_pair(sa, &echo).remote,
            },
            None => sa.channel_pair(),
        }
    }
}

/// Why a response made no Child SA.
struct Refusal {
    reason: Failure,
    /// The peer has installed its side of it.
    installed: bool,
}

/// An error notify.
pub(in crate::ike) fn error(kind: NotifyType) -> Payload {
    Payload::Notify(Notify::new(kind, Vec::new()))
}
