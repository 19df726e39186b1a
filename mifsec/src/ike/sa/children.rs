//! Child SAs as the IKE SA keeps them: negotiation state only; keys and counters
//! belong to the data plane.

use std::time::Instant;

use crate::crypto::{AeadAlgorithm, Secret};
use crate::ids::{ChildId, IfacePair, Spi};
use crate::ike::config::Lifetime;
use crate::ike::engine::Context;
use crate::ike::event::{ChildSa, SaRequest};
use crate::ike::selector::{self, TrafficSelector};

use super::{Ageing, IkeSa};

/// One Child SA.
pub(in crate::ike) struct Child {
    pub(in crate::ike) id: ChildId,
    pub(in crate::ike) name: String,
    pub(in crate::ike) spi_in: Spi,
    pub(in crate::ike) spi_out: Spi,
    pub(in crate::ike) algorithm: AeadAlgorithm,
    pub(in crate::ike) esn: bool,
    pub(in crate::ike) replay_window: u32,
    pub(in crate::ike) ts_local: Vec<TrafficSelector>,
    pub(in crate::ike) ts_remote: Vec<TrafficSelector>,
    pub(in crate::ike) pair: IfacePair,
    /// Our Delete of it is queued or on its way.
    pub(in crate::ike) deleting: bool,
    /// Whether equal ones may exist on other paths.
    pub(in crate::ike) bundle: bool,
    /// We asked for it, or for the first one of its line.
    pub(in crate::ike) ours: bool,
    /// When it is too old.
    pub(in crate::ike) ageing: Ageing,
    /// The one a rekey made in its place.
    pub(in crate::ike) replaced_by: Option<ChildId>,
    /// We rekeyed it, so we delete it, at this time.
    pub(in crate::ike) delete_at: Option<Instant>,
    /// Once it is deleted another one is asked for.
    pub(in crate::ike) recreate: bool,
}

/// What negotiation came to.
pub(in crate::ike) struct Installation {
    pub(in crate::ike) name: String,
    pub(in crate::ike) spi_in: Spi,
    pub(in crate::ike) spi_out: Spi,
    pub(in crate::ike) algorithm: AeadAlgorithm,
    pub(in crate::ike) keymat_in: Secret,
    pub(in crate::ike) keymat_out: Secret,
    pub(in crate::ike) esn: bool,
    pub(in crate::ike) ts_local: Vec<TrafficSelector>,
    pub(in crate::ike) ts_remote: Vec<TrafficSelector>,
    pub(in crate::ike) pair: IfacePair,
    pub(in crate::ike) bundle: bool,
    pub(in crate::ike) hold_outbound: bool,
    pub(in crate::ike) replay_window: u32,
    /// We asked for it, or for the first one of its line.
    pub(in crate::ike) ours: bool,
    /// The one it takes over from.
    pub(in crate::ike) replaces: Option<ChildId>,
    /// It lost a simultaneous rekey to this one.
    pub(in crate::ike) lost_to: Option<ChildId>,
}

impl Child {
    /// Whether it is in use and nothing is to take its place.
    pub(in crate::ike) fn is_current(&self) -> bool {
        !self.deleting && self.replaced_by.is_none()
    }

    /// Removes both directions and gives the SPI back.
    pub(in crate::ike) fn remove(self, cx: &mut Context) {
        cx.request(SaRequest::Remove { child: self.id });
        cx.release_spi(self.spi_in);
    }

    /// Whether it selects exactly this.
    pub(in crate::ike) fn selects(
        &self,
        ts_local: &[TrafficSelector],
        ts_remote: &[TrafficSelector],
    ) -> bool {
        selector::equal(&self.ts_local, ts_local) && selector::equal(&self.ts_remote, ts_remote)
    }
}

impl IkeSa {
    /// Keeps a Child SA and hands it to the data plane.
    pub(in crate::ike) fn install(&mut self, new: Installation, cx: &mut Context) -> ChildId {
        let id = cx.child_id();
        let lifetime = self.peer.as_ref().map(|peer| peer.rekey);
        let ageing = Ageing::start(lifetime.unwrap_or(Lifetime::NEVER), cx);
        self.children.insert(
            id,
            Child {
                id,
                name: new.name.clone(),
                spi_in: new.spi_in,
                spi_out: new.spi_out,
                algorithm: new.algorithm,
                esn: new.esn,
                replay_window: new.replay_window,
                ts_local: new.ts_local.clone(),
                ts_remote: new.ts_remote.clone(),
                pair: new.pair,
                deleting: false,
                bundle: new.bundle,
                ours: new.ours,
                ageing,
                replaced_by: new.lost_to,
                delete_at: None,
                recreate: false,
            },
        );
        cx.request(SaRequest::Install(Box::new(ChildSa {
            ike: self.id,
            child: id,
            name: new.name,
            spi_in: new.spi_in,
            spi_out: new.spi_out,
            algorithm: new.algorithm,
            keymat_in: new.keymat_in,
            keymat_out: new.keymat_out,
            esn: new.esn,
            ts_local: new.ts_local,
            ts_remote: new.ts_remote,
            pair: new.pair,
            bundle: new.bundle,
            hold_outbound: new.hold_outbound,
            replay_window: new.replay_window,
            replaces: new.replaces,
            redundant: new.lost_to.is_some(),
        })));
        id
    }

    /// Binds every Child SA that `matches` to another interface.
    pub(in crate::ike) fn rebind(
        &mut self,
        cx: &mut Context,
        rebound: impl Fn(IfacePair) -> IfacePair,
    ) {
        for (id, child) in &mut self.children {
            let pair = rebound(child.pair);
            if pair != child.pair {
                child.pair = pair;
                cx.request(SaRequest::Rebind { child: *id, pair });
            }
        }
    }

    /// The Child SA we receive on with this SPI.
    pub(in crate::ike) fn child_by_outbound(&self, spi_out: Spi) -> Option<ChildId> {
        self.children
            .values()
            .find(|child| child.spi_out == spi_out)
            .map(|child| child.id)
    }

    /// Path of what is negotiated without naming one: the channel's.
    pub(in crate::ike) fn channel_pair(&self) -> IfacePair {
        IfacePair {
            local: self.channel.local_iface,
            remote: self.channel_peer,
        }
    }
}
