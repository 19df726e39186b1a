//! MOBIKE (RFC 4555): an IKE SA and its tunnel-mode Child SAs move to another pair
//! of addresses, one pair at a time.
//!
//! ```text
//!  initiator  SK{N(UPDATE_SA_ADDRESSES), N(NATD) x 2, N(COOKIE2), [N(NO_NATS_ALLOWED)], [N(ADDITIONAL_*)]}
//!  responder  SK{N(NATD) x 2, N(COOKIE2)}
//!          or SK{N(UNACCEPTABLE_ADDRESSES)}, SK{N(UNEXPECTED_NAT_DETECTED)}
//!  responder  SK{N(COOKIE2)}        to the new address; its answer moves the Child SAs
//! ```
//!
//! The initiator decides; a responder tells its addresses and moves by itself only
//! off an address it lost. What counts as the peer's address is the source of the
//! message. Between MIF peers this only answers.

mod ask;
mod follow;
mod notify;

use std::net::{IpAddr, SocketAddr};

use crate::ids::IkeSpi;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::event::{Channel, Event};
use crate::ike::message::{Notify, NotifyType, Payload};
use crate::ike::mif::{UpdateAddrs, UpdateFlags};
use crate::ike::sa::IkeSa;

use super::update::maddr;
use super::{Payloads, Received, Task, natd};

pub(in crate::ike) use ask::Ask;
pub(in crate::ike) use follow::follow;
pub(super) use notify::check_no_nats;

/// State of MOBIKE in one IKE SA.
#[derive(Debug, Clone)]
pub(in crate::ike) struct Mobike {
    /// The peer's addresses besides that of the channel.
    peer_addresses: Vec<IpAddr>,
    /// Our own list as last told.
    told: Vec<IpAddr>,
    /// Counts changes of the channel's pair, whoever made them.
    generation: u32,
    /// Newest request of the peer that says where it is: its number, and the IKE SA
    /// in use then, since one that takes over counts anew. What came under the keys
    /// of a former one has no number and is older.
    newest: Option<(IkeSpi, Option<u32>)>,
    /// The peer's address that answered last.
    proven: SocketAddr,
}

impl IkeSa {
    /// Further addresses of the peer.
    pub(in crate::ike) fn peer_addresses(&self) -> Vec<IpAddr> {
        let mobike = self.mobike.as_ref();
        mobike.map_or_else(Vec::new, |mobike| mobike.peer_addresses.clone())
    }

    /// Whether MOBIKE is what moves this IKE SA.
    fn moves_by_mobike(&self) -> bool {
        self.is_established() && self.mobike.is_some() && self.mif.is_none()
    }

    /// The channel runs on another pair: what was asked before is about another.
    fn next_generation(&mut self) {
        if let Some(mobike) = &mut self.mobike {
            mobike.generation = mobike.generation.wrapping_add(1);
        }
    }

    /// Child SAs are where the channel is: there is no other path.
    fn gather_children(&mut self, cx: &mut Context) {
        let pair = self.channel_pair();
        self.rebind(cx, |_| pair);
    }
}

/// Our part of IKE_AUTH: MOBIKE_SUPPORTED and our further addresses (RFC 4555 3.4).
pub(super) fn offer(sa: &IkeSa, cx: &Context) -> Vec<Payload> {
    let Some(mobility) = sa.peer.as_ref().map(|peer| peer.mobility) else {
        return Vec::new();
    };
    if !mobility.mobike {
        return Vec::new();
    }
    let mut notifies = vec![Notify::new(NotifyType::MOBIKE_SUPPORTED, Vec::new())];
    notifies.extend(notify::additional(&own_addresses(sa, cx)));
    if mobility.no_nats && sa.caller {
        notifies.push(notify::no_nats(sa.channel.local, sa.channel.remote));
    }
    notifies.into_iter().map(Payload::Notify).collect()
}

/// The responder's: only to an initiator that has it.
pub(super) fn answer(sa: &IkeSa, cx: &Context) -> Vec<Payload> {
    sa.mobike.as_ref().map_or_else(Vec::new, |_| offer(sa, cx))
}

/// Both ends have MOBIKE if the peer's part of IKE_AUTH says so and our
/// configuration has nothing against it.
pub(super) fn agree(sa: &mut IkeSa, cx: &mut Context, payloads: &Payloads) {
    let wanted = sa.peer.as_ref().is_some_and(|peer| peer.mobility.mobike);
    if !wanted || payloads.notify(NotifyType::MOBIKE_SUPPORTED).is_none() {
        return;
    }
    sa.mobike = Some(Mobike {
        peer_addresses: notify::listed(payloads, cx),
        told: own_addresses(sa, cx),
        generation: 0,
        newest: None,
        proven: sa.channel.remote,
    });
}

/// IKE_AUTH came from here, other than IKE_SA_INIT if it floated (RFC 7296 2.23):
/// the peer has answered at this address, not at that one.
pub(super) fn authenticated_from(sa: &mut IkeSa, remote: SocketAddr) {
    if let Some(mobike) = &mut sa.mobike {
        mobike.proven = remote;
    }
}

/// What a refused initiator is told: of a NAT it may know, of the rest nothing.
pub(super) fn refusal(reason: &Failure) -> NotifyType {
    match reason {
        Failure::UnexpectedNat => NotifyType::UNEXPECTED_NAT_DETECTED,
        _ => NotifyType::AUTHENTICATION_FAILED,
    }
}

/// Our interfaces changed: the peer gets the complete list (RFC 4555 3.6).
pub(in crate::ike) fn announce(sa: &mut IkeSa, cx: &mut Context) {
    if sa.moves_by_mobike() && is_news(sa, cx) {
        sa.submit(Task::Mobike(Box::new(Ask::addresses())), cx);
    }
}

/// The same list beside a MIF table, so that both say the same (protocol 3.5).
pub(super) fn beside_table(sa: &mut IkeSa, cx: &Context) -> Vec<Payload> {
    if !is_news(sa, cx) {
        return Vec::new();
    }
    let own = own_addresses(sa, cx);
    let Some(mobike) = &mut sa.mobike else {
        return Vec::new();
    };
    let list = notify::list(&own);
    mobike.told = own;
    list.into_iter().map(Payload::Notify).collect()
}

fn is_news(sa: &IkeSa, cx: &Context) -> bool {
    let told = sa.mobike.as_ref().map(|mobike| &mobike.told);
    told != Some(&own_addresses(sa, cx))
}

/// The agent moves the channel, and with it everything there is.
pub(in crate::ike) fn move_channel(sa: &mut IkeSa, cx: &mut Context, channel: Channel) {
    sa.next_generation();
    sa.move_channel(channel, cx);
    sa.gather_children(cx);
    if sa.moves_by_mobike() {
        let ask = if sa.caller {
            Ask::update()
        } else {
            Ask::addresses()
        };
        sa.submit(Task::Mobike(Box::new(ask)), cx);
    }
}

/// What the peer's INFORMATIONAL says of addresses, in the order of RFC 4555 3.5.
pub(super) fn respond(sa: &mut IkeSa, cx: &mut Context, received: &Received) -> Vec<Payload> {
    let payloads = &received.payloads;
    let has = |kind| payloads.notify(kind).is_some();
    if sa.mobike.is_none() || !sa.is_established() {
        return Vec::new();
    }
    // Only the initiator moves an IKE SA.
    let update = has(NotifyType::UPDATE_SA_ADDRESSES) && !sa.caller;
    let list = notify::LISTS.into_iter().any(has);
    let reply = if has(NotifyType::NAT_DETECTION_SOURCE_IP) {
        sa.nat_detection(received.arrival.local, received.arrival.remote)
    } else {
        Vec::new()
    };
    if !(update || list) || is_stale(sa, received.message_id) {
        return reply;
    }
    let refused = notify::check_no_nats(payloads, received.arrival).err();
    let refused = refused.or_else(|| {
        let ip = received.arrival.remote.ip();
        let policy = cx.address_policy();
        let ours = policy.own.contains(&ip);
        (update && (ours || policy.check_ip(ip).is_err()))
            .then_some(NotifyType::UNACCEPTABLE_ADDRESSES)
    });
    if let Some(kind) = refused {
        cx.count("mobike_refused");
        return vec![Payload::Notify(Notify::new(kind, Vec::new()))];
    }
    if let Some(mobike) = &mut sa.mobike {
        mobike.newest = Some((sa.spi_i, received.message_id));
    }
    if list {
        receive_list(sa, cx, received);
    }
    if update {
        receive_update(sa, cx, received);
    }
    reply
}

/// Whether a newer request of the kind was carried out already.
fn is_stale(sa: &IkeSa, message_id: Option<u32>) -> bool {
    let newest = sa.mobike.as_ref().and_then(|mobike| mobike.newest);
    newest.is_some_and(|(spi, newest)| spi == sa.spi_i && newest > message_id)
}

/// A list is complete with the source of its message, and replaces the last one.
fn receive_list(sa: &mut IkeSa, cx: &mut Context, received: &Received) {
    let listed = notify::listed(&received.payloads, cx);
    let mut addresses = vec![received.arrival.remote.ip()];
    addresses.extend(&listed);
    if let Some(mobike) = &mut sa.mobike {
        mobike.peer_addresses = listed;
    }
    cx.event(Event::PeerAddresses {
        ike: sa.id,
        addresses,
    });
}

fn receive_update(sa: &mut IkeSa, cx: &mut Context, received: &Received) {
    let arrival = received.arrival;
    let channel = sa.channel_of(arrival, cx);
    let before = sa.channel;
    sa.detect_nat(&received.payloads, arrival.local, arrival.remote);
    sa.next_generation();
    sa.move_channel(channel, cx);
    if sa.mif.is_some() {
        return move_interface(sa, cx, before, received);
    }
    let proven = sa.mobike.as_ref().map(|mobike| mobike.proven);
    if proven == Some(arrival.remote) {
        sa.channel_proven(cx);
    } else {
        // The answer leaves first; this follows it.
        sa.queue
            .push(Task::Mobike(Box::new(Ask::routability(None))));
    }
}

/// Between MIF peers it is a move of the channel's interface; its path is
/// validated by probes.
fn move_interface(sa: &mut IkeSa, cx: &mut Context, before: Channel, received: &Received) {
    let iface = sa.channel_peer;
    let observed = received.arrival;
    let flags = UpdateFlags::TUNNEL
        .with(UpdateFlags::IKE_CHANNEL)
        .with(UpdateFlags::MAKE_BEFORE_BREAK);
    cx.event(Event::PeerMoved {
        ike: sa.id,
        update: UpdateAddrs {
            txn: 0,
            flags,
            grace_ms: 0,
            old_iface: iface,
            new_iface: iface,
            old: maddr(before.remote.ip(), before.remote.port(), false),
            new: maddr(observed.remote.ip(), observed.remote.port(), false),
        },
        observed,
    });
    cx.event(Event::ChannelMoved {
        ike: sa.id,
        observed,
        nat: sa.nat,
    });
}

impl IkeSa {
    /// The two notifies of NAT detection, from `local` to `remote`.
    fn nat_detection(&self, local: SocketAddr, remote: SocketAddr) -> Vec<Payload> {
        let forced = self
            .peer
            .as_ref()
            .is_some_and(|peer| peer.mobility.force_udp);
        let (spi_i, spi_r) = self.spis();
        natd::build(spi_i, spi_r, local, remote, forced).to_vec()
    }

    /// Takes in what the peer's notifies say of NATs, if there are any.
    fn detect_nat(&mut self, payloads: &Payloads, local: SocketAddr, remote: SocketAddr) {
        if payloads
            .notify(NotifyType::NAT_DETECTION_SOURCE_IP)
            .is_some()
        {
            self.nat = natd::detect(payloads, self.spi_i, self.spi_r, local, remote);
        }
    }

    /// The peer answered at the channel's address: its Child SAs may go there.
    fn channel_proven(&mut self, cx: &mut Context) {
        if let Some(mobike) = &mut self.mobike {
            mobike.proven = self.channel.remote;
        }
        self.gather_children(cx);
        cx.event(Event::ChannelMoved {
            ike: self.id,
            observed: crate::ids::Arrival {
                ifindex: self.channel.ifindex,
                local: self.channel.local,
                remote: self.channel.remote,
            },
            nat: self.nat,
        });
    }
}

/// Our addresses besides that of the channel.
fn own_addresses(sa: &IkeSa, cx: &Context) -> Vec<IpAddr> {
    let but = sa.channel.local.ip();
    match &sa.mif {
        // As the table says, without what is deleted for this peer.
        Some(mif) => notify::own(&mif.our_table(cx).0.records, but),
        None => notify::own(&cx.ifaces, but),
    }
}
