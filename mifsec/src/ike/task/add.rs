//! MIF_ADD_INTERFACE (protocol 3.9, 3.10): SAs of a further interface are derived
//! from those there are, in one exchange for all of them.
//!
//! ```text
//!  request   SK{[N(MIF_INTERFACES)], N(MIF_ADD_INTERFACE), N(MIF_DERIVED_SAS), [CP]}
//!  response  SK{[CP], N(MIF_ADD_INTERFACE), N(MIF_DERIVED_SAS)}
//!        or  SK{N(error)}
//! ```
//! Both ends find out by themselves which SAs that makes (`enumerate`); the request
//! says what its sender found, and a responder that finds something else makes
//! none. Each SPI is chosen by who receives on it, and no key is a template's.

mod ask;
mod enumerate;
mod respond;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::crypto::Secret;
use crate::ids::{ChildId, IfaceId, IfacePair, Spi};
use crate::ike::engine::Context;
use crate::ike::event::End;
use crate::ike::keymat::{Derivation, MifKeys};
use crate::ike::message::Payload;
use crate::ike::mif::{DerivedSa, NONCE_LEN};
use crate::ike::sa::{Child, IkeSa, Installation};

pub(in crate::ike) use ask::{Add, Wanted};
use enumerate::{Derived, Template};
pub(super) use respond::{busy, release, respond};

/// The peer's operations of one second that are carried out.
const PER_SECOND: u32 = 8;

/// Interfaces of the peer that are remembered as deleted.
const MAX_DELETED: usize = 64;

/// What is kept of interfaces added and deleted, both ends'.
pub(in crate::ike) struct Operations {
    /// Most SAs the peer derives in one operation.
    max_derived: usize,
    /// Number of the peer's last operation on each of its interfaces.
    last: BTreeMap<IfaceId, u32>,
    /// The peer's last MIF_ADD_INTERFACE and what it was answered.
    answered: Option<Answered>,
    /// Interfaces the peer deleted.
    pub(super) deleted: BTreeSet<IfaceId>,
    /// Interfaces of ours that are deleted for this peer.
    pub(in crate::ike) withheld: BTreeSet<IfaceId>,
    /// Inner addresses that were leased for an interface of the IKE SA's caller.
    pub(super) leased: BTreeMap<IfaceId, Vec<IpAddr>>,
    /// What the peer derived while our own request was on its way.
    rivals: Vec<Rival>,
    /// Operations of the peer since then.
    recent: Option<(Instant, u32)>,
}

struct Answered {
    txn: u32,
    /// Its two notifies.
    request: (Vec<u8>, Vec<u8>),
    response: Vec<Payload>,
}

/// The outcome of an exchange of the peer's that crossed ours.
struct Rival {
    children: Vec<ChildId>,
    /// The lower of its nonces.
    lowest: Vec<u8>,
}

impl Operations {
    /// With a peer that derives so many SAs at once, and for which these interfaces
    /// are deleted.
    pub(super) fn new(max_derived: u16, withheld: BTreeSet<IfaceId>) -> Self {
        Self {
            max_derived: usize::from(max_derived),
            last: BTreeMap::new(),
            answered: None,
            deleted: BTreeSet::new(),
            withheld,
            leased: BTreeMap::new(),
            rivals: Vec::new(),
            recent: None,
        }
    }

    /// Whether this operation of the peer's comes after its last one on the
    /// interface; if so it is the last one from now.
    pub(super) fn admit(&mut self, iface: IfaceId, txn: u32) -> bool {
        let ahead = |last: &u32| {
            let ahead = txn.wrapping_sub(*last);
            ahead != 0 && ahead < 1 << 31
        };
        let new = self.last.get(&iface).is_none_or(ahead);
        if new {
            self.last.insert(iface, txn);
        }
        new
    }

    /// Notes that the peer deleted an interface.
    pub(super) fn forget(&mut self, iface: IfaceId) {
        if self.deleted.len() >= MAX_DELETED {
            self.deleted.pop_first();
        }
        self.deleted.insert(iface);
    }

    /// The peer announced these: what was deleted is back, and of what is neither
    /// nothing is remembered.
    pub(super) fn announced(&mut self, there: impl Fn(IfaceId) -> bool) {
        self.deleted.retain(|iface| !there(*iface));
        let deleted = &self.deleted;
        self.last
            .retain(|iface, _| there(*iface) || deleted.contains(iface));
    }

    /// Whether the peer may have one more operation carried out now.
    fn take_turn(&mut self, now: Instant) -> bool {
        let lately = |at: &Instant| now.duration_since(*at) < Duration::from_secs(1);
        let (since, used) = self
            .recent
            .filter(|(since, _)| lately(since))
            .unwrap_or((now, 0));
        self.recent = Some((since, used + 1));
        used < PER_SECOND
    }
}

impl IkeSa {
    /// The path, with interface 0 named as far as it has a name (protocol 3.1).
    pub(super) fn named_pair(&self, pair: IfacePair) -> IfacePair {
        let or = |id: IfaceId, other: IfaceId| if id == IfaceId::CHANNEL { other } else { id };
        IfacePair {
            local: or(pair.local, self.channel.local_iface),
            remote: or(pair.remote, self.named_channel_peer()),
        }
    }

    /// The peer's interface on the channel, if it has a name.
    pub(super) fn named_channel_peer(&self) -> IfaceId {
        match self.channel_peer {
            IfaceId::CHANNEL => self.peer_iface_of(self.channel.remote.ip()),
            known => known,
        }
    }

    /// What is derived from, as the sender of the request sees it: Child SAs in use
    /// that nothing is to take the place of.
    fn templates(&self, sender: End) -> Vec<Template> {
        let current = self.children.values().filter(|child| child.is_current());
        current
            .map(|child| {
                let pair = self.named_pair(child.pair);
                let (init, resp) = self.by_role(child.spi_in, child.spi_out);
                let (ours, theirs) = (child.ts_local.clone(), child.ts_remote.clone());
                let (near, far, near_ts, far_ts) = match sender {
                    End::Local => (pair.local, pair.remote, ours, theirs),
                    End::Remote => (pair.remote, pair.local, theirs, ours),
                };
                Template {
                    child: child.id,
                    near,
                    far,
                    spis: (init, resp),
                    near_ts,
                    far_ts,
                    bundle: child.bundle,
                }
            })
            .collect()
    }

    /// SPIs we and the peer receive on, as the wire orders them: that of the IKE SA's
    /// caller first.
    fn by_role(&self, spi_in: Spi, spi_out: Spi) -> (Spi, Spi) {
        if self.caller {
            (spi_in, spi_out)
        } else {
            (spi_out, spi_in)
        }
    }

    /// The sender's interfaces that Child SAs are at home on, in the order of its
    /// table; what is missing there comes last, by number.
    fn sources(
        &self,
        sender: End,
        new: IfaceId,
        templates: &[Template],
        cx: &Context,
    ) -> Vec<IfaceId> {
        let Some(mif) = &self.mif else {
            return Vec::new();
        };
        let table = match sender {
            End::Local => mif.our_table(cx).0.records,
            End::Remote => mif.peer_ifaces.clone(),
        };
        let homes: BTreeSet<_> = templates.iter().map(|template| template.near).collect();
        let listed: Vec<_> = table.iter().map(|record| record.id).collect();
        let missing = homes.iter().filter(|iface| !listed.contains(iface));
        let all = listed
            .iter()
            .filter(|iface| homes.contains(iface))
            .chain(missing);
        all.copied().filter(|iface| *iface != new).collect()
    }

    /// A derived Child SA with the keys of this exchange (protocol 3.10).
    fn derive(
        &self,
        derived: &Derived,
        entry: &DerivedSa,
        exchange: &Exchange<'_>,
        sender: End,
    ) -> Option<Installation> {
        let Child {
            name,
            algorithm,
            esn,
            replay_window,
            bundle,
            ..
        } = self.children.get(&derived.child)?;
        Some(self.installation(
            Material {
                name: name.clone(),
                algorithm: *algorithm,
                esn: *esn,
                replay_window: *replay_window,
                bundle: *bundle,
            },
            derived,
            entry,
            exchange,
            sender,
        ))
    }

    fn installation(
        &self,
        material: Material,
        derived: &Derived,
        entry: &DerivedSa,
        exchange: &Exchange<'_>,
        sender: End,
    ) -> Installation {
        let keymat = exchange.keys.derived(
            material.algorithm,
            exchange.g_ir,
            (exchange.ni, exchange.nr),
            Derivation {
                txn: exchange.txn,
                index: entry.index,
                spi_init_in: entry.new_init,
                spi_resp_in: entry.new_resp,
            },
        );
        let (keymat_out, keymat_in) = keymat.split(self.caller);
        // The same swap the other way round.
        let (spi_in, spi_out) = self.by_role(entry.new_init, entry.new_resp);
        let (near, far) = (derived.near_ts.clone(), derived.far_ts.clone());
        let (ts_local, ts_remote) = match sender {
            End::Local => (near, far),
            End::Remote => (far, near),
        };
        Installation {
            name: material.name,
            spi_in,
            spi_out,
            algorithm: material.algorithm,
            keymat_in,
            keymat_out,
            esn: material.esn,
            ts_local,
            ts_remote,
            pair: exchange.pair,
            bundle: material.bundle,
            hold_outbound: sender == End::Remote,
            replay_window: material.replay_window,
            ours: sender == End::Local,
            replaces: None,
            lost_to: None,
        }
    }
}

/// What a derived SA has of its template.
#[derive(Clone)]
struct Material {
    name: String,
    algorithm: crate::crypto::AeadAlgorithm,
    esn: bool,
    replay_window: u32,
    bundle: bool,
}

/// What all SAs of one operation share.
struct Exchange<'a> {
    keys: &'a MifKeys,
    g_ir: Option<&'a Secret>,
    ni: &'a [u8],
    nr: &'a [u8],
    txn: u32,
    /// The new path, as seen from here.
    pair: IfacePair,
}

impl Exchange<'_> {
    /// The lower nonce, as RFC 7296 2.8.1 compares them.
    fn lowest(&self) -> Vec<u8> {
        self.ni.min(self.nr).to_vec()
    }
}

const _: () = assert!(NONCE_LEN == 32);
