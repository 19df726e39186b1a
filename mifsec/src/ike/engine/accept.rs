//! IKE_SA_INIT as its responder (RFC 7296 1.2, 2.6, 2.7): nothing is kept before
//! the request is acceptable and, under load, its sender has shown that it
//! receives at its address.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::crypto::{KeGroup, PrivateKey};
use crate::ids::{Arrival, IkeSpi};
use crate::ike::config::PeerConfig;
use crate::ike::error::{DropReason, Failure};
use crate::ike::event::Channel;
use crate::ike::keymat::IkeKeys;
use crate::ike::message::{self, Header, Ke, NotifyType, Payload};
use crate::ike::peer::PadEntry as _;
use crate::ike::proposal::{self, Chosen, IkeProposal, IkeSuite};
use crate::ike::sa::{IkeSa, Keys, Phase};
use crate::ike::task::auth::{self, HalfOpen, Initial};
use crate::ike::task::{Payloads, init, natd};
use crate::ike::timer::TimerKind;

use super::Engine;
use super::context::room;
use super::half_open::network;

/// How long everybody is asked for a cookie after a public value that was none:
/// it costs us a key pair and leaves nothing that counts against its sender.
const WARY: Duration = Duration::from_secs(1);

/// How often one half-open IKE SA repeats its IKE_SA_INIT response: whoever does
/// not hear one of these is not there, and sources can be forged.
const REPEATS: u32 = 10;

/// A network may hold this part of the half-open IKE SAs.
const SHARES: usize = 8;

/// A request worth an answer.
struct Offer<'a> {
    header: &'a Header,
    arrival: Arrival,
    bytes: &'a [u8],
    payloads: &'a Payloads,
    ke: &'a Ke,
    ni: &'a [u8],
}

impl Engine {
    /// Takes an IKE_SA_INIT request.
    pub(super) fn accept(
        &mut self,
        header: &Header,
        payloads: Vec<Payload>,
        bytes: &[u8],
        arrival: Arrival,
    ) {
        let fresh = header.initiator
            && header.message_id == 0
            && header.spi_r == IkeSpi(0)
            && header.spi_i != IkeSpi(0);
        if !fresh {
            return self.cx.drop(DropReason::Unexpected);
        }
        if let Some(id) = self.half_open.find(header.spi_i, arrival.remote) {
            return self.repeat(id, bytes, arrival);
        }
        let payloads = Payloads(payloads);
        let (Some(offers), Some(ke), Some(ni)) = (payloads.sa(), payloads.ke(), payloads.nonce())
        else {
            return self.cx.drop(DropReason::Malformed);
        };
        if !self.admit(header, &payloads, ni, arrival) {
            return;
        }
        let Ok(chosen) = proposal::select_ike(&self.proposals_for(arrival), offers) else {
            self.cx.drop(DropReason::NoProposal);
            self.cx.refused(None, Failure::NoIkeProposal);
            if self.answers.take(self.cx.now()) {
                self.refuse(header, arrival, NotifyType::NO_PROPOSAL_CHOSEN, Vec::new());
            }
            return;
        };
        let group = chosen.suite.ke;
        if ke.group != group.number() {
            let wanted = group.number().to_be_bytes().to_vec();
            return self.refuse(header, arrival, NotifyType::INVALID_KE_PAYLOAD, wanted);
        }
        if !group.may_have(&ke.data) {
            return self.cx.drop(DropReason::Malformed);
        }
        let offer = Offer {
            header,
            arrival,
            bytes,
            payloads: &payloads,
            ke,
            ni,
        };
        if !self.open(&offer, &chosen, group) {
            self.cx.drop(DropReason::Malformed);
            self.last_spoiled = Some(self.cx.now());
        }
    }

    /// The same request again gets the same response (RFC 7296 2.1), a few times. Another one
    /// under the same SPI is not its sender's.
    fn repeat(&mut self, id: crate::ids::IkeId, bytes: &[u8], arrival: Arrival) {
        let half_open = self.cx.sas.get_mut(&id).and_then(|sa| match &mut sa.phase {
            Phase::HalfOpen(half_open) if half_open.initial.request == bytes => Some(half_open),
            _ => None,
        });
        let Some(half_open) = half_open else {
            return self.cx.drop(DropReason::Unexpected);
        };
        if half_open.repeats >= REPEATS {
            return self.cx.drop(DropReason::Repeats);
        }
        half_open.repeats += 1;
        let response = half_open.initial.response.clone();
        self.cx.drop(DropReason::Duplicate);
        self.cx.reply(arrival, response);
    }

    /// Bounds on state, and the cookie under load (RFC 7296 2.6).
    fn admit(&mut self, header: &Header, payloads: &Payloads, ni: &[u8], arrival: Arrival) -> bool {
        let limits = self.cx.limits;
        if self.cx.sas.len() >= limits.ike_sas {
            self.cx.drop(DropReason::HalfOpenFull);
            return false;
        }
        let now = self.cx.now();
        let wary = self
            .last_spoiled
            .is_some_and(|last| now.duration_since(last) < WARY);
        let loaded = wary
            || self.half_open.len() >= limits.half_open.min(limits.cookie_threshold)
            || self.has_its_share(network(arrival.remote.ip()));
        !loaded || self.has_cookie(header, payloads, ni, arrival)
    }

    /// Whether a network holds as many half-open IKE SAs as it may.
    fn has_its_share(&self, source: IpAddr) -> bool {
        self.half_open.of(source) >= (self.cx.limits.half_open / SHARES).max(1)
    }

    /// A newcomer that has shown that it receives at its address takes the place of
    /// the oldest half-open one of its own network if that has its share, else of
    /// the network that has most: nobody keeps the others out.
    fn make_room(&mut self, source: IpAddr) {
        if self.has_its_share(source) {
            self.evict(source);
        } else if self.half_open.len() >= self.cx.limits.half_open
            && let Some(busiest) = self.half_open.busiest()
        {
            self.evict(busiest);
        }
    }

    /// Whether the sender returned our cookie; if not it is given one.
    fn has_cookie(
        &mut self,
        header: &Header,
        payloads: &Payloads,
        ni: &[u8],
        arrival: Arrival,
    ) -> bool {
        let now = self.cx.now();
        let shown = payloads.notify(NotifyType::COOKIE).is_some_and(|cookie| {
            self.cookies
                .check(&cookie.data, ni, arrival.remote, header.spi_i, now)
        });
        if !shown {
            self.cx.drop(DropReason::Cookie);
            let entropy = self.cx.entropy();
            let cookie = self
                .cookies
                .make(ni, arrival.remote, header.spi_i, entropy, now);
            self.refuse(header, arrival, NotifyType::COOKIE, cookie);
        }
        shown
    }

    /// Gives up the oldest half-open IKE SA of a network.
    fn evict(&mut self, source: IpAddr) {
        let oldest = self.half_open.oldest_of(source);
        if let Some(id) = oldest {
            self.cx.count("ike_half_open_evicted");
            self.step(id, |sa, cx| {
                let remote = sa.channel.remote;
                sa.close(Failure::Timeout { remote }, cx);
            });
        }
    }

    /// Who it is shows in IKE_AUTH: until then any peer's algorithms will do that
    /// may come from this address.
    fn proposals_for(&self, arrival: Arrival) -> Vec<IkeProposal> {
        let mut proposals: Vec<IkeProposal> = Vec::new();
        for peer in self.peers_at(arrival.remote.ip()) {
            for proposal in &peer.ike_proposals {
                if !proposals.contains(proposal) {
                    proposals.push(proposal.clone());
                }
            }
        }
        proposals
    }

    /// Peers that may call from an address.
    fn peers_at(&self, remote: IpAddr) -> impl Iterator<Item = &Arc<PeerConfig>> {
        let peers = self.cx.peers.iter();
        peers.filter(move |peer| peer.takes_from(remote))
    }

    /// Answers and keeps a half-open IKE SA; `false` for a public value that is
    /// none.
    fn open(&mut self, offer: &Offer<'_>, chosen: &Chosen<IkeSuite>, group: KeGroup) -> bool {
        let Ok(private) = PrivateKey::generate(group) else {
            return true;
        };
        let public = private.public().to_vec();
        let Ok(shared) = private.agree(&offer.ke.data) else {
            return false;
        };
        self.make_room(network(offer.arrival.remote.ip()));
        let spis = (offer.header.spi_i, self.fresh_spi());
        let Arrival { local, remote, .. } = offer.arrival;
        let nr = self.cx.nonce();
        let mut payloads = vec![
            Payload::Sa(proposal::answer_ike(chosen, &[])),
            Payload::Ke(Ke {
                group: group.number(),
                data: public,
            }),
            Payload::Nonce(nr.clone()),
        ];
        // Who it is shows later: forced if it may be one that is to be.
        let forced = self
            .peers_at(remote.ip())
            .any(|peer| peer.mobility.force_udp);
        payloads.extend(natd::build(spis.0, spis.1, local, remote, forced));
        payloads.extend(init::answer(offer.payloads));
        let announced = auth::Announced::read(offer.payloads);
        payloads.extend(announced.knows_hashes().then(auth::hashes));
        let header = Header {
            spi_r: spis.1,
            response: true,
            initiator: false,
            higher_version: false,
            ..*offer.header
        };
        // RFC 7383 cuts no IKE_SA_INIT, so it has to fit.
        let left = room(remote).saturating_sub(message::encode_clear(&header, &payloads).len());
        payloads.extend(auth::request_within(left, self.peers_at(remote.ip())));
        let response = message::encode_clear(&header, &payloads);
        let keys = IkeKeys::derive(chosen.suite, &shared, (offer.ni, &nr), spis);
        let phase = Phase::HalfOpen(Box::new(HalfOpen {
            initial: Initial {
                request: offer.bytes.to_vec(),
                response: response.clone(),
                ni: offer.ni.to_vec(),
                nr,
                announced,
            },
            repeats: 0,
        }));
        let channel = Channel {
            local_iface: self.cx.iface_of(local.ip()),
            ifindex: offer.arrival.ifindex,
            local,
            remote,
        };
        let id = self.next_id();
        let mut sa = IkeSa::new(id, false, spis, channel, phase);
        // The hashes of the request were made with a responder SPI of 0.
        sa.nat = natd::detect(offer.payloads, spis.0, IkeSpi(0), local, remote);
        sa.keys = Keys::new(keys, false);
        sa.fragmentation = offer
            .payloads
            .notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED)
            .is_some();
        sa.acquaint(offer.payloads);
        sa.inbound.answered(0, vec![response.clone()]);
        let expiry = self.cx.now() + self.cx.limits.half_open_lifetime;
        sa.timers.set(TimerKind::Expire, Some(expiry));
        self.half_open.insert(spis.0, remote, id);
        self.add(sa, |_, _| {});
        self.cx.reply(offer.arrival, response);
        true
    }
}
