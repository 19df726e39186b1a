//! Where else a request goes while nobody answers it (protocol 3.8): the IKE channel
//! has alternates like every interface, and a request that was sent again twice
//! leaves on the next pair too, same id, same octets. The answer moves nothing by
//! itself; the agent hears on which pair it came.

use std::net::SocketAddr;

use crate::ids::{Arrival, Family, IfaceId};
use crate::ike::engine::Context;
use crate::ike::event::{Channel, End, Event, Transmit};
use crate::ike::window::Datagrams;

use super::IkeSa;

/// Octets sent to addresses the peer only announced, for each octet it sent us.
const AMPLIFICATION: u64 = 3;

/// Pairs besides the channel's, and what was sent there.
#[derive(Debug, Default)]
pub(in crate::ike) struct Standby {
    /// Pairs the agent knows to work, best first.
    pub(in crate::ike) given: Vec<Channel>,
    /// Octets of the message under way.
    message: usize,
    /// Octets of authenticated messages of the peer.
    heard: u64,
    /// Octets sent to addresses the peer only announced.
    copied: u64,
}

impl Standby {
    /// A message of so many octets came; who sent it is not known yet.
    pub(super) fn arrived(&mut self, octets: usize) {
        self.message = octets;
    }

    /// The peer sealed it.
    pub(super) fn authenticated(&mut self) {
        let octets = u64::try_from(std::mem::take(&mut self.message)).unwrap_or(u64::MAX);
        self.heard = self.heard.saturating_add(octets);
    }

    /// Whether so many octets more may go to an address the peer only announced.
    fn may_copy(&mut self, octets: u64) -> bool {
        let total = self.copied.saturating_add(octets);
        let may = total <= self.heard.saturating_mul(AMPLIFICATION);
        if may {
            self.copied = total;
        }
        may
    }
}

impl IkeSa {
    /// The pairs a request may take besides the channel's: those the agent gave,
    /// else our alternates towards where the peer is, its alternates from where we
    /// are, then both.
    pub(super) fn standby_pairs(&self, cx: &Context) -> Vec<Channel> {
        if self.mif.is_none() {
            return Vec::new();
        }
        let current = self.channel;
        let other = |pair: &Channel| (pair.local, pair.remote) != (current.local, current.remote);
        if !self.standby.given.is_empty() {
            return self.standby.given.iter().copied().filter(other).collect();
        }
        let ours = self.our_standbys(cx);
        let theirs = self.their_standbys(cx);
        let here = (current.local_iface, current.local);
        let pair = |(local_iface, local): (IfaceId, SocketAddr), remote: SocketAddr| {
            let alike = Family::of(local.ip()) == Family::of(remote.ip());
            // Interfaces are the agent's: it finds the one that has the address.
            alike.then_some(Channel {
                local_iface,
                ifindex: 0,
                local,
                remote,
            })
        };
        let to_known = ours.iter().map(|local| pair(*local, current.remote));
        let from_known = theirs.iter().map(|remote| pair(here, *remote));
        let both = ours
            .iter()
            .flat_map(|local| theirs.iter().map(|remote| pair(*local, *remote)));
        let all = to_known.chain(from_known).chain(both);
        all.flatten().filter(other).collect()
    }

    /// Our addresses on the alternates of the channel's interface, best first.
    fn our_standbys(&self, cx: &Context) -> Vec<(IfaceId, SocketAddr)> {
        let iface = match self.channel.local_iface {
            IfaceId::CHANNEL => cx.iface_of(self.channel.local.ip()),
            known => known,
        };
        let mut out = Vec::new();
        for id in self.alternates(End::Local, iface, cx) {
            let records = cx.ifaces.iter().filter(|record| record.id == id);
            for maddr in records.flat_map(|record| &record.addresses) {
                out.push((id, SocketAddr::new(maddr.ip, self.channel.local.port())));
            }
        }
        out
    }

    /// The peer's on the alternates of its interface; what a NAT hides is none.
    fn their_standbys(&self, cx: &Context) -> Vec<SocketAddr> {
        let iface = match self.channel_peer {
            IfaceId::CHANNEL => self.peer_iface_of(self.channel.remote.ip()),
            known => known,
        };
        let mut out = Vec::new();
        for id in self.alternates(End::Remote, iface, cx) {
            let ifaces = self.mif.iter().flat_map(|mif| &mif.peer_ifaces);
            let records = ifaces.filter(|record| record.id == id);
            let sendable = records
                .flat_map(|r| &r.addresses)
                .filter(|m| !m.behind_nat());
            for maddr in sendable {
                let port = match maddr.port {
                    0 if self.nat.remote => cx.port,
                    0 => self.channel.remote.port(),
                    port => port,
                };
                out.push(SocketAddr::new(maddr.ip, port));
            }
        }
        out
    }

    /// Sends a request that stays unanswered on the `turn`th of the `pairs` as well.
    pub(super) fn send_aside(
        &mut self,
        datagrams: Datagrams,
        turn: u32,
        pairs: &[Channel],
        cx: &mut Context,
    ) {
        let turn = usize::try_from(turn).unwrap_or(0);
        let Some(pair) = turn.checked_rem(pairs.len()).and_then(|n| pairs.get(n)) else {
            return;
        };
        let octets: usize = datagrams.iter().map(Vec::len).sum();
        let octets = u64::try_from(octets).unwrap_or(u64::MAX);
        // Behind one address may be several hosts.
        let known = self.standby.given.contains(pair) || pair.remote == self.channel.remote;
        if !known && !self.standby.may_copy(octets) {
            return cx.count("ike_copy_held_back");
        }
        cx.count("ike_copied");
        for payload in datagrams {
            cx.transmit(Transmit {
                ifindex: pair.ifindex,
                local: pair.local,
                remote: pair.remote,
                payload,
            });
        }
    }

    /// A response came. If not on the channel, another pair works that may do when
    /// the channel does not.
    pub(super) fn note_answered(&mut self, arrival: Arrival, cx: &mut Context) {
        let pair = (self.channel.local, self.channel.remote);
        if self.mif.is_some() && self.is_established() && pair != (arrival.local, arrival.remote) {
            let channel = self.channel_of(arrival, cx);
            cx.event(Event::ChannelAnswered {
                ike: self.id,
                channel,
            });
        }
    }
}
