//! The multiple-interface extension's handshake and interface tables
//! (protocol 3.4, 3.5): MIF_SUPPORTED in IKE_AUTH, MIF_INTERFACES in the
//! responder's IKE_AUTH response and in any INFORMATIONAL.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{IfaceId, Spi};
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{End, Event, MifSession, ProbeKeys};
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::mif::{Features, InterfaceRecord, Interfaces, Supported, VENDOR_ID, status};
use crate::ike::sa::IkeSa;

use super::add::Operations;
use super::alternates::{Lists, Tell};
use super::update::Moves;
use super::{Payloads, Received, Task, mobike};

/// Without these there is no session worth the name.
const NEEDED: Features = Features(Features::TUNNEL.0 | Features::ESP_PROBE.0);

/// State of the extension in one IKE SA.
pub(in crate::ike) struct Mif {
    /// What both sides have.
    pub(in crate::ike) features: Features,
    pub(in crate::ike) probe_in: Spi,
    pub(in crate::ike) probe_out: Spi,
    /// The peer's table and its epoch.
    pub(in crate::ike) peer_ifaces: Vec<InterfaceRecord>,
    /// Those missing in it that have Child SAs, with their last place.
    pub(super) absent: BTreeMap<IfaceId, (usize, InterfaceRecord)>,
    peer_epoch: Option<u32>,
    /// Most interfaces the peer keeps of us.
    peer_max_ifaces: u8,
    /// Epoch of our table we last sent, and of that the peer last confirmed.
    announced: Option<u32>,
    confirmed: Option<u32>,
    /// A message may be as long as it must.
    fragments: bool,
    /// We told the peer our window.
    window_offered: bool,
    /// Number of our next operation.
    pub(in crate::ike) next_txn: u32,
    /// Who moved what, and what carries what since.
    pub(in crate::ike) moves: Moves,
    /// Which interfaces stand in for which.
    pub(in crate::ike) lists: Lists,
    /// Interfaces added and deleted.
    pub(in crate::ike) operations: Operations,
}

impl Mif {
    /// The peer answered a message that carried our table of this epoch.
    pub(super) fn confirm(&mut self, epoch: Option<u32>) {
        self.confirmed = epoch.or(self.confirmed);
    }

    /// A rekey of the IKE SA made other probe SPIs, if it did; gives the one we
    /// received on. The window is offered again.
    pub(in crate::ike) fn rekeyed(&mut self, probe: Option<(Spi, Spi)>) -> Option<Spi> {
        self.window_offered = false;
        self.operations.rekeyed();
        let (probe_in, probe_out) = probe?;
        self.probe_out = probe_out;
        Some(std::mem::replace(&mut self.probe_in, probe_in))
    }

    /// What was announced last stayed unanswered.
    pub(in crate::ike) fn unannounced(&mut self) {
        self.announced = self.confirmed;
    }

    /// Whether the peer announced this interface; 0 is always there.
    pub(in crate::ike) fn knows(&self, iface: IfaceId) -> bool {
        iface == IfaceId::CHANNEL || self.peer_ifaces.iter().any(|record| record.id == iface)
    }
}

impl IkeSa {
    /// What the agent gets to know, with the probe SA's keys.
    pub(in crate::ike) fn mif_session(&self) -> Option<MifSession> {
        let mif = self.mif.as_ref()?;
        let keys = self.keys.as_ref()?.ike.mif(self.spis());
        let (init_in, resp_in) = if self.caller {
            (mif.probe_in, mif.probe_out)
        } else {
            (mif.probe_out, mif.probe_in)
        };
        let (keymat_out, keymat_in) = keys.probe(init_in, resp_in).split(self.caller);
        Some(MifSession {
            features: mif.features.0,
            probe: ProbeKeys {
                spi_in: mif.probe_in,
                spi_out: mif.probe_out,
                algorithm: keys.probe_algorithm(),
                keymat_in,
                keymat_out,
            },
        })
    }
}

/// The initiator's vendor id and MIF_SUPPORTED.
pub(super) fn offer(probe_spi: Spi, cx: &Context) -> [Payload; 2] {
    [
        Payload::VendorId(VENDOR_ID.to_vec()),
        Payload::Notify(supported(probe_spi, cx)),
    ]
}

/// Our MIF_SUPPORTED.
pub(super) fn supported(probe_spi: Spi, cx: &Context) -> Notify {
    let supported = Supported {
        max_ifaces: cx.address_policy().max_ifaces,
        max_derived: u16::try_from(cx.limits.derived).unwrap_or(u16::MAX),
        max_path_sas: u16::try_from(cx.limits.children).unwrap_or(u16::MAX),
        ..Supported::ours(probe_spi)
    };
    supported.notify()
}

/// Starts a session if the peer's message offers or accepts one; else the probe
/// SPI is free again. The numbers mean something only behind the vendor id.
pub(super) fn agree(sa: &mut IkeSa, cx: &mut Context, payloads: &Payloads, probe_spi: Spi) {
    let theirs = payloads
        .notify(status::MIF_SUPPORTED)
        .filter(|_| payloads.has_vendor(&VENDOR_ID))
        .filter(|_| sa.peer.as_ref().is_none_or(|peer| peer.mobility.mif))
        .and_then(|notify| match Supported::decode(&notify.data) {
            Ok(supported) => Some(supported),
            Err(error) => {
                cx.count(error.reason());
                None
            }
        });
    let theirs = theirs.filter(|theirs| {
        theirs.probe_spi.0 >= 256 && Features::IMPLEMENTED.common(theirs.features).has(NEEDED)
    });
    let Some(theirs) = theirs else {
        return cx.release_spi(probe_spi);
    };
    let withheld = cx.deleted_for(sa);
    sa.mif = Some(Mif {
        features: Features::IMPLEMENTED.common(theirs.features),
        probe_in: probe_spi,
        probe_out: theirs.probe_spi,
        peer_ifaces: Vec::new(),
        absent: BTreeMap::new(),
        peer_epoch: None,
        peer_max_ifaces: theirs.max_ifaces,
        announced: None,
        confirmed: None,
        fragments: sa.fragmentation,
        window_offered: false,
        next_txn: 1,
        moves: Moves::default(),
        lists: Lists::new(theirs.max_alternates),
        operations: Operations::new(theirs.max_derived, withheld),
    });
}

/// A table that went out before it was known what the peer keeps.
pub(super) struct Early {
    epoch: u32,
    records: usize,
    withheld: BTreeSet<IfaceId>,
}

/// Puts our table into the IKE_AUTH request, if it fits.
pub(super) fn early(sa: &IkeSa, cx: &Context, payloads: &mut Vec<Payload>) -> Option<Early> {
    let (epoch, records) = (cx.epoch, cx.ifaces.clone());
    let mut table = Interfaces { epoch, records };
    let withheld = cx.deleted_for(sa);
    table.records.retain(|r| !withheld.contains(&r.id));
    if table.records.is_empty() || table.fit(u8::MAX) {
        return None;
    }
    payloads.push(Payload::Notify(table.notify()));
    let records = table.records.len();
    Some(Early {
        epoch,
        records,
        withheld,
    })
}

/// The peer took that table, if it keeps as many interfaces. If another one is for
/// this peer that has a number of its own: it would not be taken for a newer one.
pub(super) fn taken_early(sa: &mut IkeSa, early: Option<Early>, cx: &mut Context) {
    let (Some(mif), Some(early)) = (&mut sa.mif, early) else {
        return;
    };
    if mif.operations.withheld != early.withheld {
        cx.epoch = cx.epoch.wrapping_add(1);
    } else if usize::from(mif.peer_max_ifaces) >= early.records {
        mif.announced = Some(early.epoch);
        mif.confirmed = Some(early.epoch);
    }
}

/// The responder's side of IKE_AUTH: MIF only if asked, and the table, because
/// the initiator has proved who it is.
pub(super) fn answer(sa: &mut IkeSa, cx: &mut Context) -> Vec<Payload> {
    let Some(mif) = &mut sa.mif else {
        return Vec::new();
    };
    let mut payloads = offer(mif.probe_in, cx).to_vec();
    payloads.extend(table(mif, cx).map(Payload::Notify));
    payloads
}

/// Tells the peer our table if it does not have it, and what stands in for what is
/// new in it.
pub(in crate::ike) fn announce(sa: &mut IkeSa, cx: &mut Context) {
    if sa.mif.is_some() && sa.is_established() {
        sa.queue.push(Task::Announce(None));
        sa.submit(Task::Alternates(Tell::default()), cx);
    }
}

/// `SK{[N(SET_WINDOW_SIZE)], N(MIF_INTERFACES), [N(ADDITIONAL_*)]}`.
pub(super) fn build_announce(
    epoch: &mut Option<u32>,
    sa: &mut IkeSa,
    cx: &mut Context,
) -> Option<Vec<Payload>> {
    let mif = sa.mif.as_mut()?;
    let mut payloads = Vec::new();
    if !mif.window_offered && sa.initiator {
        mif.window_offered = true;
        sa.inbound.grow(cx.limits.window);
        payloads.push(Payload::Notify(window_notify(cx)));
    }
    if let Some(table) = table(mif, cx) {
        *epoch = Some(cx.epoch);
        payloads.push(Payload::Notify(table));
        payloads.extend(mobike::beside_table(sa, cx));
    }
    (!payloads.is_empty()).then_some(payloads)
}

/// The response to our announcement.
pub(super) fn process_announce(
    epoch: Option<u32>,
    sa: &mut IkeSa,
    cx: &mut Context,
    received: &Received,
) {
    if let Some(size) = received.payloads.notify(NotifyType::SET_WINDOW_SIZE) {
        grow(size, sa);
    }
    if let Some(error) = received.payloads.error() {
        cx.event(Event::MoveRefused {
            ike: sa.id,
            end: End::Local,
            iface: IfaceId::CHANNEL,
            reason: Failure::from_notify(error.kind, false),
        });
    } else if let Some(mif) = &mut sa.mif {
        mif.confirm(epoch);
    }
}

/// Our table, for a request that is of no use to a peer without it: unless the
/// peer confirmed that it has it.
pub(super) fn table_if_unconfirmed(mif: &mut Mif, cx: &mut Context) -> Option<(u32, Notify)> {
    if mif.confirmed == Some(cx.epoch) {
        return None;
    }
    mif.announced = mif.announced.filter(|epoch| *epoch != cx.epoch);
    table(mif, cx).map(|notify| (cx.epoch, notify))
}

/// The peer's SET_WINDOW_SIZE is answered with ours (RFC 7296 2.3).
pub(super) fn answer_window(notify: &Notify, sa: &mut IkeSa, cx: &Context) -> Notify {
    grow(notify, sa);
    sa.inbound.grow(cx.limits.window);
    if let Some(mif) = &mut sa.mif {
        mif.window_offered = true;
    }
    window_notify(cx)
}

/// Takes the table in the peer's message, if it has one newer than what we know.
/// Announcing creates no SA. The answer is an error or nothing.
pub(super) fn receive_table(
    sa: &mut IkeSa,
    cx: &mut Context,
    payloads: &Payloads,
) -> Option<Notify> {
    let homes: BTreeSet<_> = sa.children.values().map(|c| c.pair.remote).collect();
    let mif = sa.mif.as_mut()?;
    let notify = payloads.notify(status::MIF_INTERFACES)?;
    let table = match Interfaces::decode(&notify.data, &cx.address_policy()) {
        Ok((table, left_out)) => {
            for _ in 0..left_out {
                cx.count("mif_address");
            }
            table
        }
        Err(error) => {
            cx.count(error.reason());
            return Some(Notify::new(error.notify_type(), Vec::new()));
        }
    };
    if mif
        .peer_epoch
        .is_some_and(|epoch| !table.is_newer_than(epoch))
    {
        return None;
    }
    mif.peer_epoch = Some(table.epoch);
    mif.replace(&table.records, &homes);
    let ids: Vec<_> = mif.peer_ifaces.iter().map(|record| record.id).collect();
    mif.operations.announced(|iface| ids.contains(&iface));
    sa.forget_interfaces(cx);
    cx.event(Event::PeerInterfaces {
        ike: sa.id,
        ifaces: table.records,
    });
    None
}

impl Mif {
    /// The peer's table is now this. What is missing and has `homes` on it is down,
    /// not deleted: what stands in for it counts from where it was.
    fn replace(&mut self, records: &[InterfaceRecord], homes: &BTreeSet<IfaceId>) {
        let before = std::mem::replace(&mut self.peer_ifaces, records.to_vec());
        let placed = before.into_iter().enumerate();
        let placed = placed.map(|(place, record)| (record.id, (place, record)));
        self.absent.extend(placed);
        let there = |iface| records.iter().any(|record| record.id == iface);
        self.absent
            .retain(|iface, _| homes.contains(iface) && !there(*iface));
    }

    /// The peer's table, with `iface` where it was if it is missing.
    pub(super) fn peer_table(&self, iface: IfaceId) -> Vec<InterfaceRecord> {
        let mut table = self.peer_ifaces.clone();
        if let Some((place, record)) = self.absent.get(&iface) {
            table.insert((*place).min(table.len()), record.clone());
        }
        table
    }

    /// Our table as the peer may keep it, and whether anything had to be left out.
    pub(super) fn our_table(&self, cx: &Context) -> (Interfaces, bool) {
        let mut table = Interfaces {
            epoch: cx.epoch,
            records: cx.ifaces.clone(),
        };
        let withheld = &self.operations.withheld;
        table.records.retain(|r| !withheld.contains(&r.id));
        let most = self.peer_max_ifaces;
        let trimmed = match self.fragments {
            true => table.limit(most),
            false => table.fit(most),
        };
        (table, trimmed)
    }
}

/// Our table as the peer may keep it; `None` when it has it or there is none.
fn table(mif: &mut Mif, cx: &mut Context) -> Option<Notify> {
    if mif.announced == Some(cx.epoch) || cx.ifaces.is_empty() && mif.announced.is_none() {
        return None;
    }
    mif.announced = Some(cx.epoch);
    let (table, trimmed) = mif.our_table(cx);
    if trimmed {
        cx.count("mif_table_trimmed");
    }
    Some(table.notify())
}

fn window_notify(cx: &Context) -> Notify {
    let size = cx.limits.window.to_be_bytes().to_vec();
    Notify::new(NotifyType::SET_WINDOW_SIZE, size)
}

/// The peer takes this many requests at once.
pub(in crate::ike) fn grow(notify: &Notify, sa: &mut IkeSa) {
    if let Ok(size) = <[u8; 4]>::try_from(notify.data.as_slice()) {
        sa.outbound.grow(u32::from_be_bytes(size));
    }
}
