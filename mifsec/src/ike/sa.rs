//! One IKE SA: who the peer is, its keys and windows, its Child SAs, and what
//! waits to be asked of it.
//!
//! ```text
//!  initiator  Connecting ─ IKE_SA_INIT ─ IKE_AUTH ─► Established ─ Delete ─► gone
//!  responder  HalfOpen ─── IKE_AUTH ───────────────► Established ─ Delete ─► Spent
//!                 └─ refused ─► Spent                     └─ rekey ─► Replaced ─► Spent
//! ```
//! A `Spent` IKE SA only repeats its responses for a while, so that a peer whose
//! copy got lost learns the outcome.

mod ageing;
mod children;
mod exchange;
mod fragment;
mod handover;
#[cfg(feature = "testing")]
mod inspect;
mod standby;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crypto::Aead;
use crate::ids::{Arrival, ChildId, IfaceId, IkeId, IkeSpi, Spi};

use super::config::{Lifetime, PeerConfig};
use super::engine::Context;
use super::error::Failure;
use super::event::{Channel, ChildView, Event, IkeSaView, IkeState, Nat, SaRequest, Transmit};
use super::keymat::IkeKeys;
use super::message::NotifyType;
use super::mif::Maddr;
use super::task::config::Resolvers;
use super::task::{Payloads, Queue, Task, auth, child, delete, interfaces, mobike};
use super::timer::{TimerKind, TimerTable};
use super::vendor;
use super::window::{Datagrams, Inbound, Outbound};

pub(super) use ageing::{Ageing, Lingering};
pub(super) use children::{Child, Installation};
pub(super) use handover::{Handover, OldIkeSa, Successor, begin as handed_over};
pub(super) use standby::Standby;

/// How long a [`Phase::Spent`] IKE SA answers duplicates: longer than a peer
/// with default timing needs to retransmit three times.
const SPENT_LIFETIME: Duration = Duration::from_secs(5);

/// First wait before asking again what was refused for the moment; it doubles.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How often it is asked again.
const MAX_POSTPONED: u32 = 6;

/// Shell of all phases, kept over their changes.
pub(super) struct IkeSa {
    pub(super) id: IkeId,
    /// We sent its first message: the request that rekeyed another one, or
    /// IKE_SA_INIT.
    pub(super) initiator: bool,
    /// We sent the IKE_SA_INIT of the first of its line. It says who leases, and
    /// who is the initiator in the numbers and keys of the multiple-interface
    /// extension: neither changes when the other end rekeys.
    pub(super) caller: bool,
    pub(super) spi_i: IkeSpi,
    /// 0 until the responder chose it.
    pub(super) spi_r: IkeSpi,
    /// Known from the start by the initiator, from IKE_AUTH by the responder.
    pub(super) peer: Option<Arc<PeerConfig>>,
    /// The identity the peer proved.
    pub(super) remote_id: String,
    pub(super) channel: Channel,
    /// The peer's interface on the channel; [`IfaceId::CHANNEL`] until known.
    pub(super) channel_peer: IfaceId,
    pub(super) nat: Nat,
    pub(super) phase: Phase,
    pub(super) keys: Option<Keys>,
    pub(super) outbound: Outbound<Task>,
    pub(super) inbound: Inbound,
    pub(super) queue: Queue,
    /// Refused with TEMPORARY_FAILURE: asked again when the Retry timer comes.
    pub(super) postponed: Vec<Task>,
    pub(super) timers: TimerTable,
    pub(super) children: BTreeMap<ChildId, Child>,
    /// SPIs the peer deleted while the response that names them may still be on
    /// its way to us.
    pub(super) early_deletes: BTreeSet<Spi>,
    pub(super) mif: Option<interfaces::Mif>,
    /// When the peer was told that a request is outside of its window.
    told_outside: Option<Instant>,
    /// Both ends take fragments (RFC 7383).
    pub(super) fragmentation: bool,
    /// The peer's messages of which fragments are missing.
    reassembly: fragment::Reassembly,
    /// What the peer is by its vendor ids, if we know it.
    pub(super) vendor: Option<&'static str>,
    /// Both ends have MOBIKE; beside MIF it only answers.
    pub(super) mobike: Option<mobike::Mobike>,
    /// Ours (initiator) or the peer's (responder).
    pub(super) leases: Vec<IpAddr>,
    /// When it is too old.
    pub(super) ageing: Ageing,
    /// When the peer's authentication of us runs out (RFC 4478), with time to spare.
    pub(super) reauth_at: Option<Instant>,
    /// Child SAs both ends are rekeying, and what the peer's request made.
    pub(super) child_rivals: BTreeMap<ChildId, child::Rival>,
    /// The peer's rekey of this IKE SA, accepted while ours is under way.
    pub(super) rival: Option<Box<Successor>>,
    /// What takes its place at the end of this step.
    pub(super) handover: Option<Box<Handover>>,
    /// What receives a while longer.
    pub(super) lingering: Vec<Lingering>,
    /// What rekeys replaced and is still there, by the handles it has since.
    pub(super) shells: Vec<IkeId>,
    /// Where else a request goes that nobody answers.
    pub(super) standby: Standby,
}

/// How far an IKE SA is.
pub(super) enum Phase {
    /// Initiator: IKE_SA_INIT or IKE_AUTH is under way. `refused` is what an
    /// unauthenticated error said, believed only when nothing better comes.
    Connecting { refused: Option<Failure> },
    /// Responder: the peer has to prove who it is.
    HalfOpen(Box<auth::HalfOpen>),
    /// Both ends proved who they are.
    Established,
    /// Our Delete is on its way; `announced` unless it never got established.
    Closing { reason: Failure, announced: bool },
    /// A rekey replaced it. It answers duplicates, passes on what was asked under
    /// its keys, and goes with the Delete of the rekey's initiator.
    Replaced { successor: IkeId },
    /// Only repeats responses. Without an authenticated peer it counts against
    /// the bound on half-open ones.
    Spent,
}

/// Keys of the SK payload, and of what is derived later.
pub(super) struct Keys {
    pub(super) ike: IkeKeys,
    /// Seals what we send.
    outbound: Aead,
    /// Opens what we receive.
    inbound: Aead,
    /// Counts our messages: never the same IV twice under one key (RFC 5282 3.1).
    iv: u64,
}

impl Keys {
    /// Both directions' keys, as this side uses them.
    pub(super) fn new(ike: IkeKeys, initiator: bool) -> Option<Self> {
        let (aead_i, aead_r) = (ike.aead_i().ok()?, ike.aead_r().ok()?);
        let (outbound, inbound) = if initiator {
            (aead_i, aead_r)
        } else {
            (aead_r, aead_i)
        };
        Some(Self {
            ike,
            outbound,
            inbound,
            iv: 0,
        })
    }
}

impl IkeSa {
    /// A fresh IKE SA on `channel`.
    pub(super) fn new(
        id: IkeId,
        initiator: bool,
        (spi_i, spi_r): (IkeSpi, IkeSpi),
        channel: Channel,
        phase: Phase,
    ) -> Self {
        Self {
            id,
            initiator,
            caller: initiator,
            spi_i,
            spi_r,
            peer: None,
            remote_id: String::new(),
            channel,
            channel_peer: IfaceId::CHANNEL,
            nat: Nat::default(),
            phase,
            keys: None,
            outbound: Outbound::new(),
            inbound: Inbound::new(),
            queue: Queue::default(),
            postponed: Vec::new(),
            timers: TimerTable::default(),
            children: BTreeMap::new(),
            early_deletes: BTreeSet::new(),
            mif: None,
            told_outside: None,
            fragmentation: false,
            reassembly: fragment::Reassembly::default(),
            vendor: None,
            mobike: None,
            leases: Vec::new(),
            ageing: Ageing::default(),
            reauth_at: None,
            child_rivals: BTreeMap::new(),
            rival: None,
            handover: None,
            lingering: Vec::new(),
            shells: Vec::new(),
            standby: Standby::default(),
        }
    }

    /// Our SPI, by which messages find this IKE SA.
    pub(super) fn own_spi(&self) -> IkeSpi {
        if self.initiator {
            self.spi_i
        } else {
            self.spi_r
        }
    }

    /// Both SPIs, initiator's first.
    pub(super) fn spis(&self) -> (IkeSpi, IkeSpi) {
        (self.spi_i, self.spi_r)
    }

    /// Name of the peer's configuration; empty while unknown.
    pub(super) fn peer_name(&self) -> String {
        self.peer
            .as_ref()
            .map(|peer| peer.name.clone())
            .unwrap_or_default()
    }

    /// Whether requests other than IKE_SA_INIT and IKE_AUTH may be made.
    pub(super) fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    /// Whether the peer proved who it is and the IKE SA is not over.
    pub(super) fn is_authenticated(&self) -> bool {
        matches!(self.phase, Phase::Established | Phase::Closing { .. })
    }

    /// Queues `task`; it leaves when the window allows.
    pub(super) fn submit(&mut self, task: Task, cx: &mut Context) {
        self.queue.push(task);
        self.pump(cx);
    }

    /// Whether what was refused for the moment may be asked again after so many
    /// attempts (RFC 7296 2.25); if so the time for what is
    /// [`postponed`](Self::postponed) is set.
    ///
    /// The wait is drawn at random: both ends may have refused each other.
    pub(super) fn postpone(&mut self, attempts: u32, cx: &mut Context) -> bool {
        let again = attempts < MAX_POSTPONED;
        if again {
            let wait = (RETRY_AFTER * 2u32.pow(attempts)).mul_f64(0.5 + cx.unit());
            self.timers.hasten(TimerKind::Retry, cx.now() + wait);
        }
        again
    }

    /// Notes what a message says of its sender: vendor ids, and how many requests
    /// it takes at once (RFC 7296 2.3).
    pub(super) fn acquaint(&mut self, payloads: &Payloads) {
        self.vendor = vendor::name(&payloads.0).or(self.vendor);
        if let Some(size) = payloads.notify(NotifyType::SET_WINDOW_SIZE) {
            interfaces::grow(size, self);
        }
    }

    /// Sends a message on the channel.
    pub(super) fn send(&self, datagrams: Datagrams, cx: &mut Context) {
        for payload in datagrams {
            cx.transmit(Transmit {
                ifindex: self.channel.ifindex,
                local: self.channel.local,
                remote: self.channel.remote,
                payload,
            });
        }
    }

    /// The IKE SA lives: both ends proved who they are.
    pub(super) fn establish(&mut self, resolvers: Resolvers, cx: &mut Context) {
        self.phase = Phase::Established;
        self.timers.set(TimerKind::Expire, None);
        self.alive(cx);
        let lifetime = self.peer.as_ref().map(|peer| peer.ike_rekey);
        self.ageing = Ageing::start(lifetime.unwrap_or(Lifetime::NEVER), cx);
        let mif = self.mif_session();
        cx.event(Event::Established {
            ike: self.id,
            peer: self.peer_name(),
            remote_id: self.remote_id.clone(),
            initiator: self.initiator,
            leases: self.leases.clone(),
            dns: resolvers.dns,
            domains: resolvers.domains,
            mif,
            mobike: self.mobike.is_some(),
            peer_addresses: self.peer_addresses(),
            channel: self.channel,
            nat_local: self.nat.local,
            nat_remote: self.nat.remote,
        });
    }

    /// A protected message of the peer came, or its ESP did: liveness starts
    /// over (RFC 7296 2.4).
    pub(super) fn alive(&mut self, cx: &Context) {
        if self.is_established() {
            let dpd = self.peer.as_ref().and_then(|peer| peer.dpd);
            let due = dpd.and_then(|quiet| cx.now().checked_add(quiet));
            self.timers.set(TimerKind::Dpd, due);
        }
    }

    /// The channel runs on another pair from now: what is outstanding leaves from
    /// there at once, same octets (protocol 3.8).
    pub(super) fn move_channel(&mut self, channel: Channel, cx: &mut Context) {
        self.channel = channel;
        for datagrams in self.outbound.resend(&cx.retransmit, cx.now()) {
            self.send(datagrams, cx);
        }
    }

    /// Where the peer sees us once it sent this message.
    pub(super) fn channel_of(&self, arrival: Arrival, cx: &Context) -> Channel {
        Channel {
            local_iface: cx.iface_of(arrival.local.ip()),
            ifindex: arrival.ifindex,
            local: arrival.local,
            remote: arrival.remote,
        }
    }

    /// Which of the peer's interfaces has this address; [`IfaceId::CHANNEL`] when
    /// it announced none.
    pub(super) fn peer_iface_of(&self, address: IpAddr) -> IfaceId {
        let ifaces = self.mif.iter().flat_map(|mif| &mif.peer_ifaces);
        let has = |maddr: &Maddr| maddr.ip == address && !maddr.behind_nat();
        ifaces
            .filter(|iface| iface.addresses.iter().any(has))
            .map(|iface| iface.id)
            .next()
            .unwrap_or(IfaceId::CHANNEL)
    }

    /// The interfaces of the channel are known: what was bound to interface 0 is
    /// bound to them (protocol 3.1).
    pub(super) fn resolve_channel(&mut self, local: IfaceId, remote: IfaceId, cx: &mut Context) {
        if self.channel.local_iface == IfaceId::CHANNEL {
            self.channel.local_iface = local;
        }
        if self.channel.local_iface == local {
            self.channel_peer = remote;
        }
        for (id, child) in &mut self.children {
            let before = child.pair;
            if child.pair.local == IfaceId::CHANNEL {
                child.pair.local = local;
            }
            if child.pair.remote == IfaceId::CHANNEL {
                child.pair.remote = remote;
            }
            if child.pair != before {
                cx.request(SaRequest::Rebind {
                    child: *id,
                    pair: child.pair,
                });
            }
        }
    }

    /// Ends it: Child SAs go, what waited fails with it. It stays as
    /// [`Phase::Spent`] while the peer may still repeat a request.
    pub(super) fn close(&mut self, reason: Failure, cx: &mut Context) {
        let was = std::mem::replace(&mut self.phase, Phase::Spent);
        for child in std::mem::take(&mut self.children).into_values() {
            child.remove(cx);
        }
        for lingering in self.lingering.drain(..) {
            lingering.end(cx);
        }
        if let Some(rival) = self.rival.take() {
            rival.abandon(cx);
        }
        let waiting = self.queue.take().chain(self.postponed.drain(..));
        let tasks: Vec<_> = self.outbound.abandon().chain(waiting).collect();
        if let Phase::Replaced { successor } = was {
            handover::ask_again(successor, tasks, cx);
        } else {
            for task in tasks {
                task.abandon(cx);
            }
        }
        if let Some(mif) = self.mif.take() {
            cx.release_spi(mif.probe_in);
        }
        self.release_leases(cx);
        self.reassembly = fragment::Reassembly::default();
        self.timers = TimerTable::default();
        // Without keys there is no response that could be repeated; after a
        // timeout nobody is there to ask for one.
        let timeout = matches!(reason, Failure::Timeout { .. });
        if self.keys.is_some() && !timeout {
            self.timers
                .set(TimerKind::Expire, Some(cx.now() + SPENT_LIFETIME));
        }
        let ike = self.id;
        match was {
            Phase::Established
            | Phase::Closing {
                announced: true, ..
            } => cx.event(Event::Closed { ike, reason }),
            // Nobody came back for it: that is worth a count, not a line.
            Phase::HalfOpen(_) if timeout => cx.count("ike_half_open_expired"),
            Phase::HalfOpen(_) => cx.refused(Some(ike), reason),
            Phase::Connecting { .. } | Phase::Closing { .. } => {
                cx.event(Event::Failed {
                    peer: self.peer_name(),
                    ike: Some(ike),
                    reason,
                });
            }
            Phase::Replaced { .. } | Phase::Spent => {}
        }
    }

    /// Tells the peer to forget this IKE SA, and forgets it when it answers.
    pub(super) fn begin_closing(&mut self, reason: Failure, cx: &mut Context) {
        let announced = match self.phase {
            Phase::Established => true,
            Phase::Connecting { .. } if self.keys.is_some() => false,
            Phase::Connecting { .. } | Phase::HalfOpen(_) => return self.close(reason, cx),
            Phase::Closing { .. } | Phase::Replaced { .. } | Phase::Spent => return,
        };
        self.phase = Phase::Closing { reason, announced };
        self.submit(Task::Delete(delete::Target::Ike), cx);
    }

    /// Whether nothing of it is of use any more.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Spent) && self.timers.next().is_none()
    }

    /// Gives the peer's addresses back to the pool.
    fn release_leases(&mut self, cx: &mut Context) {
        let leased = std::mem::take(&mut self.leases);
        if self.caller {
            return;
        }
        let Some(peer) = &self.peer else {
            return;
        };
        let pool = peer.pool.as_ref();
        if let Some(pool) = pool.and_then(|pool| cx.pools.get_mut(pool)) {
            for address in leased {
                pool.release(&peer.name, &self.remote_id, address);
            }
        }
    }

    /// When it has to act next.
    pub(super) fn next_deadline(&self) -> Option<(Instant, TimerKind)> {
        let aged = self.next_aged().map(|at| (at, TimerKind::Lifetime));
        self.timers.next().into_iter().chain(aged).min()
    }

    /// For `mifsec status`.
    pub(super) fn view(&self) -> Option<IkeSaView> {
        let state = match self.phase {
            Phase::Connecting { .. } | Phase::HalfOpen(_) => IkeState::Connecting,
            Phase::Established => IkeState::Established,
            Phase::Closing { .. } => IkeState::Closing,
            Phase::Replaced { .. } | Phase::Spent => return None,
        };
        Some(IkeSaView {
            ike: self.id,
            peer: self.peer_name(),
            remote_id: self.remote_id.clone(),
            initiator: self.caller,
            state,
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            mif: self.mif.is_some(),
            fragmentation: self.fragmentation,
            vendor: self.vendor,
            mobike: self.mobike.is_some(),
            leases: self.leases.clone(),
            channel: self.channel,
            nat: self.nat,
            children: self
                .children
                .iter()
                .map(|(id, child)| ChildView {
                    child: *id,
                    name: child.name.clone(),
                    spi_in: child.spi_in,
                    spi_out: child.spi_out,
                    pair: child.pair,
                })
                .collect(),
        })
    }
}
