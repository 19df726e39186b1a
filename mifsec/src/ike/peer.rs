//! Who may be at the other end: identities, shared keys and the lookup in the
//! peer authorisation database (RFC 4301 4.4.3). The entries themselves are the
//! engine's configuration.

#![forbid(unsafe_code)]

mod identity;

pub use identity::{Identity, IdentityError, IdentityPattern};

use std::collections::BTreeMap;

use crate::crypto::Secret;

/// Shared keys of a peer.
pub enum PskSource {
    /// The same for whoever matches.
    One(Secret),
    /// By identity as [`Identity`] prints it.
    Table(BTreeMap<String, Secret>),
}

impl PskSource {
    /// The key shared with `identity`.
    #[must_use]
    pub fn lookup(&self, identity: &Identity) -> Option<&Secret> {
        match self {
            Self::One(secret) => Some(secret),
            Self::Table(table) => table.get(&identity.to_string()),
        }
    }
}

/// An entry of the peer authorisation database: who we are to whom.
pub trait PadEntry {
    /// Our identity towards the peer.
    fn local_id(&self) -> &Identity;
    /// The identities the peer may have.
    fn remote_id(&self) -> &IdentityPattern;
}

/// The entry for the peer an initiator claims to be, before it has proved it:
/// an exact match of IDi before a pattern, then the first. With IDr only those
/// entries count where we are who it asks for (RFC 7296 3.5).
#[must_use]
pub fn authorise<'a, E: PadEntry>(
    entries: &'a [E],
    idi: &Identity,
    idr: Option<&Identity>,
) -> Option<&'a E> {
    let mut candidates = entries.iter().filter(|entry| {
        entry.remote_id().matches(idi) && idr.is_none_or(|idr| idr == entry.local_id())
    });
    let exact = |entry: &&E| entry.remote_id().is_exact();
    candidates.clone().find(exact).or_else(|| candidates.next())
}
