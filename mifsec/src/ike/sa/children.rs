//! Child SAs as the IKE SA keeps them: negotiation state only; keys and counters
//! belong to the data plane.

use crate::crypto::{AeadAlgorithm, Secret};
use crate::ids::{ChildId, IfacePair, Spi};
use crate::ike::engine::Context;
use crate::ike::event::{ChildSa, SaRequest};
use crate::ike::selector::{self, TrafficSelector};

use super::IkeSa;

/// One Child SA.
pub(in crate::ike) struct Child {
    pub(in crate::ike) id: ChildId,
    pub(in crate::ike) name: String,
    pub(in crate::ike) spi_in: Spi,
    pub(in crate::ike) spi_out: Spi,
    pub(in crate::ike) ts_local: Vec<TrafficSelector>,
    pub(in crate::ike) ts_remote: Vec<TrafficSelector>,
    pub(in crate::ike) pair: IfacePair,
    /// Our Delete of it is queued or on its way.
    pub(in crate::ike) deleting: bool,
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
}

impl Child {
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
    pub(in crate::ike) fn install(&mut self, new: Installation, cx: &mut Context) {
        let id = cx.child_id();
        self.children.insert(
            id,
            Child {
                id,
                name: new.name.clone(),
                spi_in: new.spi_in,
                spi_out: new.spi_out,
                ts_local: new.ts_local.clone(),
                ts_remote: new.ts_remote.clone(),
                pair: new.pair,
                deleting: false,
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
            replaces: None,
            redundant: false,
        })));
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
