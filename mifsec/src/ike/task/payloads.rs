//! Looking payloads up by kind.

use crate::ike::message::{Auth, Config, Delete, Id, Ke, Notify, NotifyType, Payload, Proposal};
use crate::ike::selector::TsEntry;

/// The payloads of one message, in order.
pub(in crate::ike) struct Payloads(pub(in crate::ike) Vec<Payload>);

macro_rules! first {
    ($(#[$doc:meta])* $name:ident, $variant:ident, $out:ty) => {
        $(#[$doc])*
        pub(in crate::ike) fn $name(&self) -> Option<&$out> {
            self.0.iter().find_map(|payload| match payload {
                Payload::$variant(inner) => Some(inner),
                _ => None,
            })
        }
    };
}

impl Payloads {
    first!(
        /// Offer or choice.
        sa, Sa, Vec<Proposal>
    );
    first!(
        /// Public value.
        ke, Ke, Ke
    );
    first!(
        /// Ni or Nr.
        nonce, Nonce, Vec<u8>
    );
    first!(
        /// The initiator's identity.
        id_i, IdI, Id
    );
    first!(
        /// The responder's identity.
        id_r, IdR, Id
    );
    first!(
        /// Proof of identity.
        auth, Auth, Auth
    );
    first!(
        /// Configuration.
        config, Config, Config
    );
    first!(
        /// The initiator's selectors.
        ts_i, TsI, Vec<TsEntry>
    );
    first!(
        /// The responder's selectors.
        ts_r, TsR, Vec<TsEntry>
    );

    /// All notifies, in order.
    pub(in crate::ike) fn notifies(&self) -> impl Iterator<Item = &Notify> {
        self.0.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        })
    }

    /// The first notify of a type.
    pub(in crate::ike) fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// The first error notify. An error of a type we do not know fails a
    /// request all the same (RFC 7296 3.10.1).
    pub(in crate::ike) fn error(&self) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    /// All Delete payloads, in order.
    pub(in crate::ike) fn deletes(&self) -> impl Iterator<Item = &Delete> {
        self.0.iter().filter_map(|payload| match payload {
            Payload::Delete(delete) => Some(delete),
            _ => None,
        })
    }

    /// Whether this vendor id is among them.
    pub(in crate::ike) fn has_vendor(&self, id: &[u8]) -> bool {
        self.0
            .iter()
            .any(|payload| matches!(payload, Payload::VendorId(vendor) if vendor == id))
    }
}
