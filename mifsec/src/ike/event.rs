//! What goes into the engine besides datagrams, and what comes out.
//!
//! Commands are decisions of the agent, events are news for it, SA requests are
//! what the data plane must do. After each input drain events first, SA requests
//! second, transmits last: a peer is known before its Child SAs come, and a
//! responder's SA is installed before the reply that names it leaves. None of
//! these types knows a socket; addresses say where a datagram is to leave and
//! arrive.

mod view;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::crypto::{AeadAlgorithm, Secret};
use crate::ids::{Arrival, ChildId, IfaceId, IfacePair, IkeId, Spi};

use super::error::Failure;
use super::mif::{InterfaceRecord, UpdateAddrs};
use super::peer::PskTable;
use super::redirect::Gateway;
use super::selector::TrafficSelector;

pub use view::{ChildView, IkeSaView, IkeState};

/// Whose interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// Ours.
    Local,
    /// The peer's.
    Remote,
}

/// The address pair that carries the IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Our interface on it; [`IfaceId::CHANNEL`] when not known.
    pub local_iface: IfaceId,
    /// Kernel index of the interface to send from; 0 leaves it to the routes.
    pub ifindex: u32,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port as seen from here.
    pub remote: SocketAddr,
}

/// Who sat behind a NAT when the IKE SA was set up (RFC 7296 2.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nat {
    /// We did.
    pub local: bool,
    /// The peer did.
    pub remote: bool,
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Kernel index of the interface to leave by; 0 leaves it to the routes.
    pub ifindex: u32,
    /// Source; its port says which socket. On the NAT-T port the sender puts
    /// the non-ESP marker (RFC 3948 2.2) in front.
    pub local: SocketAddr,
    /// Destination.
    pub remote: SocketAddr,
    /// The IKE message, without marker.
    pub payload: Vec<u8>,
}

/// A decision of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Set up an IKE SA with a configured peer. IKE_SA_INIT uses the engine's
    /// `ike_port` at both ends, everything after it `port`, whatever ports
    /// `channel` names (RFC 4555 3.3: MOBIKE peers float even without NAT).
    Initiate {
        /// Name of the peer's configuration.
        peer: String,
        /// Where from and where to.
        channel: Channel,
    },
    /// As [`Initiate`](Self::Initiate), with the gateway that an
    /// [`Event::Redirected`] named.
    Follow {
        /// Name of the peer's configuration.
        peer: String,
        /// Where from and where to.
        channel: Channel,
        /// The gateway that sent us there.
        from: IpAddr,
    },
    /// The complete table of our interfaces. Announced to every MIF peer when it
    /// differs from the last one.
    SetInterfaces {
        /// All announced interfaces.
        ifaces: Vec<InterfaceRecord>,
    },
    /// A further Child SA on a chosen path (MIF_OUTER_ADDRS, BUNDLE if configured).
    CreateChild {
        /// Of which IKE SA.
        ike: IkeId,
        /// Name of the child's configuration.
        child: String,
        /// Its path.
        pair: IfacePair,
        /// Our outer address on it.
        local: IpAddr,
        /// The peer's outer address on it.
        remote: IpAddr,
    },
    /// The same with some of our inner addresses alone, as a pinned child has them (R12).
    CreatePinned {
        /// Of which IKE SA.
        ike: IkeId,
        /// Name of the child's configuration.
        child: String,
        /// Its path.
        pair: IfacePair,
        /// Our outer address on it.
        local: IpAddr,
        /// The peer's outer address on it.
        remote: IpAddr,
        /// What `dynamic` stands for at our end: leases of this IKE SA.
        inner: Vec<IpAddr>,
    },
    /// One of our interfaces has another address: MIF_UPDATE_ADDRS for all Child SAs
    /// on it. If another one carried it, it carries its own again; with different
    /// interfaces it is [`Carry`](Self::Carry).
    UpdateAddresses {
        /// Of which IKE SA.
        ike: IkeId,
        /// The interface that was used.
        old_iface: IfaceId,
        /// The interface used from now; the same for a new address on it.
        new_iface: IfaceId,
        /// The address that was used.
        old: IpAddr,
        /// The address used from now.
        new: IpAddr,
        /// Whether a NAT is known to sit in front of `new`.
        behind_nat: bool,
        /// The old address no longer receives.
        old_is_dead: bool,
        /// How long the peer accepts the old address after its switch.
        grace: Duration,
        /// Set when the IKE channel was on `old` and moves too.
        channel: Option<Channel>,
    },
    /// The Child SAs at home on `iface`, and those lent to it, ride on `by` from now;
    /// with `by == iface` it carries its own again. At once here, then the peer is
    /// told by one MIF_UPDATE_ADDRS, with SELECT_PEER if the interfaces are the
    /// peer's. Answered by [`Event::Carried`] for what changed and, if the peer
    /// does not follow, [`Event::MoveRefused`].
    Carry {
        /// Of which IKE SA.
        ike: IkeId,
        /// Whose interfaces.
        end: End,
        /// Whose Child SAs move.
        iface: IfaceId,
        /// What carries them.
        by: IfaceId,
        /// Address they leave.
        old: IpAddr,
        /// Address they go to.
        new: IpAddr,
        /// Nothing that is sent to the old address arrives any more.
        old_is_dead: bool,
        /// How long the old address keeps receiving after the switch.
        grace: Duration,
        /// Set when the IKE channel moves too.
        channel: Option<Channel>,
    },
    /// Which of our interfaces stand in for which, all that we say of it: those not
    /// in here follow the default rule. Announced to the peer by MIF_ALTERNATES
    /// when it differs from the last one.
    SetAlternates {
        /// To which peer.
        ike: IkeId,
        /// By interface, best first; an empty list is nobody.
        lists: BTreeMap<IfaceId, Vec<IfaceId>>,
    },
    /// The IKE channel moves to this pair: what is outstanding leaves from there
    /// at once (same octets), the peer is told by MIF_UPDATE_ADDRS with IKE_CHANNEL.
    ///
    /// Towards a peer that has MOBIKE only, all Child SAs move with it: as initiator
    /// by UPDATE_SA_ADDRESSES, answered by [`Event::ChannelConfirmed`] or
    /// [`Event::MoveRefused`]; as responder the peer is told our addresses and
    /// decides. One that has neither is told nothing.
    MoveChannel {
        /// Of which IKE SA.
        ike: IkeId,
        /// The new pair.
        channel: Channel,
    },
    /// Pairs that are known to work besides the channel's, best first, all of them: a
    /// request that stays unanswered goes there too. Without any the announced
    /// addresses are tried.
    SetStandby {
        /// Of which IKE SA.
        ike: IkeId,
        /// Validated pairs.
        pairs: Vec<Channel>,
    },
    /// The peer's address on the channel changed and was validated (a NAT
    /// rebinding): used from now, no message.
    ChannelRemote {
        /// Of which IKE SA.
        ike: IkeId,
        /// The peer's address and port as seen from here.
        remote: SocketAddr,
    },
    /// The interfaces of the IKE channel are now known: Child SAs bound to
    /// interface 0 are bound to these.
    ResolveChannel {
        /// Of which IKE SA.
        ike: IkeId,
        /// Our interface.
        local: IfaceId,
        /// The peer's.
        remote: IfaceId,
    },
    /// One of our interfaces is new to the peer: SAs for it are derived from those
    /// there are, in one exchange (MIF_ADD_INTERFACE). Answered by
    /// [`Event::InterfaceAdded`] or [`Event::AddRefused`].
    AddInterface {
        /// Of which IKE SA.
        ike: IkeId,
        /// Our interface.
        iface: IfaceId,
        /// The peer's interface the new SAs go to.
        remote: IfaceId,
        /// Our address on it.
        local_addr: IpAddr,
        /// The peer's outer address.
        remote_addr: IpAddr,
        /// Inner addresses in the new selectors, in place of those of the templates;
        /// none leaves the selectors as they are.
        inner: Vec<IpAddr>,
        /// Ask for inner addresses in the same exchange, of the families configured.
        lease: bool,
        /// Equal selectors on several paths are meant.
        bundle: bool,
        /// Interfaces of ours whose SAs are templates, in this order; empty for all.
        from: Vec<IfaceId>,
        /// With a key exchange of its own.
        pfs: bool,
    },
    /// One of our interfaces goes, with all SAs on it (MIF_DELETE_INTERFACE). The peer
    /// is not told of it any more, in its next IKE SAs either (see
    /// [`Engine::deleted`](super::Engine::deleted)), until it is added or restored.
    /// Answered by [`Event::InterfaceDeleted`] or [`Event::DeleteRefused`].
    DeleteInterface {
        /// Of which IKE SA.
        ike: IkeId,
        /// Our interface.
        iface: IfaceId,
        /// SAs whose outer address is the interface's.
        outer: bool,
        /// SAs whose selectors are addresses of the interface.
        ts: bool,
        /// They move to its first alternate and live on there.
        move_first: bool,
    },
    /// An interface of ours that was deleted for the peer is in its table again, without
    /// SAs: the peer may add them. What is still to be deleted is not, and
    /// [`Event::DeleteRefused`] says so.
    RestoreInterface {
        /// Of which IKE SA.
        ike: IkeId,
        /// Our interface.
        iface: IfaceId,
    },
    /// Delete one Child SA at both ends.
    DeleteChild {
        /// Which.
        child: ChildId,
    },
    /// Delete an IKE SA and its Child SAs at both ends.
    DeleteIke {
        /// Which.
        ike: IkeId,
    },
    /// The file of a peer's shared keys has changed. Established IKE SAs stay.
    SetPskTable {
        /// Name of the peer's configuration.
        peer: String,
        /// All keys, in place of those there were.
        table: PskTable,
    },
    /// Ask the peer for a sign of life (empty INFORMATIONAL); no answer closes the IKE SA.
    CheckLiveness {
        /// Of which IKE SA.
        ike: IkeId,
    },
    /// A Child SA reached its soft limit (octets, packets, sequence numbers), or the
    /// operator wants new keys: rekey it. No effect while that is under way.
    RekeyChild {
        /// Which.
        child: ChildId,
    },
    /// Rekey an IKE SA; its handle and its Child SAs stay. No effect while that is
    /// under way.
    RekeyIke {
        /// Which.
        ike: IkeId,
    },
    /// A Child SA reached its hard limit: delete it at both ends, and create it
    /// anew if it is ours.
    ExpireChild {
        /// Which.
        child: ChildId,
    },
    /// The peer is dead, as the data plane knows: forget the IKE SA without telling it.
    GiveUp {
        /// Which.
        ike: IkeId,
    },
    /// ESP of this peer was authenticated from a source we do not know: if a NAT
    /// sits in front of it the channel follows, with MOBIKE after a return
    /// routability check (RFC 7296 2.23, RFC 4555 3.8). Answered by
    /// [`Event::ChannelMoved`] or nothing.
    FollowPeer {
        /// Of which IKE SA.
        ike: IkeId,
        /// How it came in.
        observed: Arrival,
    },
    /// ESP of this peer was authenticated lately: liveness starts over (RFC 7296 2.4).
    PeerAlive {
        /// Of which IKE SA.
        ike: IkeId,
    },
}

/// One Child SA, ready for the data plane.
pub struct ChildSa {
    /// The IKE SA that made it.
    pub ike: IkeId,
    /// Its handle.
    pub child: ChildId,
    /// Name of its configuration.
    pub name: String,
    /// SPI we receive on.
    pub spi_in: Spi,
    /// SPI the peer receives on.
    pub spi_out: Spi,
    /// ESP algorithm of both directions.
    pub algorithm: AeadAlgorithm,
    /// Key and salt of what we receive.
    pub keymat_in: Secret,
    /// Key and salt of what we send.
    pub keymat_out: Secret,
    /// Extended sequence numbers (RFC 4303 2.2.1).
    pub esn: bool,
    /// What may be behind us.
    pub ts_local: Vec<TrafficSelector>,
    /// What may be behind the peer.
    pub ts_remote: Vec<TrafficSelector>,
    /// The path it is homed on.
    pub pair: IfacePair,
    /// Whether other Child SAs may carry the same selectors on other paths.
    pub bundle: bool,
    /// Responder: send after the first valid packet on it, or 1 s.
    pub hold_outbound: bool,
    /// Packets of the replay window.
    pub replay_window: u32,
    /// The Child SA it takes over from: same name, selectors and bundle. Without
    /// `hold_outbound` it sends from now on, whichever of them did. With it, it
    /// sends from its first packet or after 1 s, but only if the one it replaces
    /// is still the one that sends: of two that replace the same one (both ends
    /// rekeyed at once) the one without `hold_outbound` stays. The replaced one
    /// receives until [`SaRequest::Remove`].
    pub replaces: Option<ChildId>,
    /// It lost against another new one (RFC 7296 2.8.1) and goes soon: it receives
    /// what may come on it and never sends.
    pub redundant: bool,
}

impl std::fmt::Debug for ChildSa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChildSa")
            .field("ike", &self.ike)
            .field("child", &self.child)
            .field("name", &self.name)
            .field("spi_in", &self.spi_in)
            .field("spi_out", &self.spi_out)
            .field("algorithm", &self.algorithm)
            .field("esn", &self.esn)
            .field("pair", &self.pair)
            .field("bundle", &self.bundle)
            .finish_non_exhaustive()
    }
}

/// What the data plane must do.
#[derive(Debug)]
pub enum SaRequest {
    /// We named this inbound SPI in a request: packets on it may arrive before
    /// [`SaRequest::Install`], which ends this state.
    Larval {
        /// Of which IKE SA.
        ike: IkeId,
        /// The SPI.
        spi: Spi,
    },
    /// The request failed; the SPI is free again.
    LarvalGone {
        /// The SPI.
        spi: Spi,
    },
    /// Install both directions.
    Install(Box<ChildSa>),
    /// The Child SA belongs to another path now; nothing else of it changed.
    Rebind {
        /// Which.
        child: ChildId,
        /// Its path.
        pair: IfacePair,
    },
    /// The peer has deleted it: send on the Child SA that replaces it from now, if one
    /// does, else on it no more. It still receives, for packets on their way, until
    /// [`SaRequest::Remove`].
    Retire {
        /// Which.
        child: ChildId,
    },
    /// Remove both directions.
    Remove {
        /// Which.
        child: ChildId,
    },
}

/// Keys of the probe SA pair of one IKE SA (protocol 3.8).
pub struct ProbeKeys {
    /// SPI we receive probes on.
    pub spi_in: Spi,
    /// SPI the peer receives probes on.
    pub spi_out: Spi,
    /// The AEAD of the IKE SA.
    pub algorithm: AeadAlgorithm,
    /// Key and salt of what we receive.
    pub keymat_in: Secret,
    /// Key and salt of what we send.
    pub keymat_out: Secret,
}

impl std::fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProbeKeys")
            .field("spi_in", &self.spi_in)
            .field("spi_out", &self.spi_out)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// What two MIF peers agreed on.
#[derive(Debug)]
pub struct MifSession {
    /// Feature bits both sides have (protocol 3.4).
    pub features: u32,
    /// The probe SA pair.
    pub probe: ProbeKeys,
}

/// News for the agent.
#[derive(Debug)]
pub enum Event {
    /// An IKE SA is authenticated at both ends. Its first Child SA, if any, is
    /// an SA request of the same step.
    Established {
        /// Its handle.
        ike: IkeId,
        /// Name of the peer's configuration.
        peer: String,
        /// The identity the peer authenticated as.
        remote_id: String,
        /// Whether we started it.
        initiator: bool,
        /// Inner addresses: ours (initiator) or the peer's (responder).
        leases: Vec<IpAddr>,
        /// Name servers the responder named.
        dns: Vec<IpAddr>,
        /// Domains those resolvers are for; empty for all (RFC 8598).
        domains: Vec<String>,
        /// Set between MIF peers.
        mif: Option<MifSession>,
        /// Both ends have MOBIKE (RFC 4555).
        mobike: bool,
        /// Further addresses of the peer (RFC 4555 3.4).
        peer_addresses: Vec<IpAddr>,
        /// Where its messages go.
        channel: Channel,
        /// A NAT sits in front of us: nothing is to be expected unasked, and the
        /// mapping must be kept alive.
        nat_local: bool,
        /// A NAT sits in front of the peer: its announced addresses are labels.
        nat_remote: bool,
    },
    /// The peer's complete interface table.
    PeerInterfaces {
        /// Of which IKE SA.
        ike: IkeId,
        /// All its interfaces.
        ifaces: Vec<InterfaceRecord>,
    },
    /// Another interface carries the Child SAs at home on `iface` from now, by a
    /// message of the peer or by [`Command::Carry`].
    Carried {
        /// Of which IKE SA.
        ike: IkeId,
        /// Whose interfaces.
        end: End,
        /// Whose Child SAs they are.
        iface: IfaceId,
        /// What carries them; `iface` itself: they are at home.
        by: IfaceId,
        /// Told with OLD_IS_DEAD: what is left does not work.
        dead: bool,
    },
    /// The peer said which of its interfaces stand in for one of them.
    PeerAlternates {
        /// Of which IKE SA.
        ike: IkeId,
        /// The interface.
        iface: IfaceId,
        /// Best first; `None`: the default rule.
        list: Option<Vec<IfaceId>>,
    },
    /// The peer moved an interface with the Child SAs on it; the channel has
    /// [`ChannelMoved`](Event::ChannelMoved).
    PeerMoved {
        /// Of which IKE SA.
        ike: IkeId,
        /// What it said.
        update: UpdateAddrs,
        /// Where the message came from.
        observed: Arrival,
    },
    /// The peer moved the IKE channel to where this message came from. With
    /// MOBIKE it answered there (RFC 4555 3.7), and all Child SAs move with it.
    ChannelMoved {
        /// Of which IKE SA.
        ike: IkeId,
        /// Where the message came from.
        observed: Arrival,
        /// NATs found on the new pair; those of IKE_SA_INIT if the peer did not look.
        nat: Nat,
    },
    /// The peer took note of our [`Command::MoveChannel`] (RFC 4555 3.5).
    ChannelConfirmed {
        /// Of which IKE SA.
        ike: IkeId,
        /// The pair in use.
        channel: Channel,
        /// NATs found on it.
        nat: Nat,
    },
    /// The peer's complete list of addresses changed (RFC 4555 3.6).
    PeerAddresses {
        /// Of which IKE SA.
        ike: IkeId,
        /// All of them, the one it said so from first.
        addresses: Vec<IpAddr>,
    },
    /// The IKE SA was rekeyed: probes are sealed with these keys from now. What the
    /// peer sealed before still arrives on the old inbound SPI for
    /// [`PROBE_GRACE`](super::PROBE_GRACE).
    ProbeKeysChanged {
        /// Of which IKE SA.
        ike: IkeId,
        /// The new probe SA pair.
        probe: ProbeKeys,
    },
    /// The IKE SA has to be set up anew before long, by a second one that takes
    /// over: the peer limits how long an authentication counts (RFC 4478), or does
    /// not rekey.
    ReauthDue {
        /// Of which IKE SA.
        ike: IkeId,
    },
    /// A request had to be retransmitted this often: the channel's path may be dead.
    ChannelQuiet {
        /// Of which IKE SA.
        ike: IkeId,
        /// Retransmissions so far, from 2.
        tries: u32,
    },
    /// The answer to a request came on another pair than the channel's: that one
    /// works. Nothing has moved.
    ChannelAnswered {
        /// Of which IKE SA.
        ike: IkeId,
        /// The pair.
        channel: Channel,
    },
    /// The peer's gateway sends us to another one (RFC 5685); the IKE SA ends with
    /// [`Failure::Redirected`].
    Redirected {
        /// The IKE SA or attempt.
        ike: IkeId,
        /// Name of the peer's configuration.
        peer: String,
        /// Where to; a name is for the agent to resolve.
        gateway: Gateway,
        /// The gateway that says so, for [`Command::Follow`].
        from: IpAddr,
    },
    /// An IKE SA could not be set up. Of those others begin at most one a second is
    /// told, and one of IKE_SA_INIT.
    Failed {
        /// Name of the configuration of the peer we called; empty when somebody
        /// called us, whoever it said it is.
        peer: String,
        /// The attempt.
        ike: Option<IkeId>,
        /// Why, with the mend.
        reason: Failure,
    },
    /// An established IKE SA is gone; SA requests of the same step remove its
    /// Child SAs.
    Closed {
        /// Which.
        ike: IkeId,
        /// Why.
        reason: Failure,
    },
    /// A Child SA could not be set up; the IKE SA stands.
    ChildFailed {
        /// Of which IKE SA.
        ike: IkeId,
        /// Name of the child's configuration; empty when none matched.
        child: String,
        /// Its path.
        pair: IfacePair,
        /// Why, with the mend.
        reason: Failure,
    },
    /// An address change we announced was refused; the peer did not move.
    MoveRefused {
        /// Of which IKE SA.
        ike: IkeId,
        /// Whose interface: ours, or one of the peer's that we chose for.
        end: End,
        /// The interface that was to move.
        iface: IfaceId,
        /// Why, with the mend.
        reason: Failure,
    },
    /// SAs for a further interface were derived; those that are new are SA requests
    /// of the same step.
    InterfaceAdded {
        /// Of which IKE SA.
        ike: IkeId,
        /// Whose interface.
        end: End,
        /// The interface.
        iface: IfaceId,
        /// The other end's interface the new SAs go to.
        remote: IfaceId,
        /// SA pairs that are new.
        created: usize,
        /// Templates of which there is an equal already.
        skipped: usize,
        /// Inner addresses leased for it: ours or the peer's, as `end` says.
        leases: Vec<IpAddr>,
    },
    /// No SA was derived for an interface of ours.
    AddRefused {
        /// Of which IKE SA.
        ike: IkeId,
        /// The interface.
        iface: IfaceId,
        /// Why, with the mend.
        reason: Failure,
        /// CREATE_CHILD_SA may do.
        fall_back: bool,
    },
    /// An interface is gone with its SAs; SA requests of the same step remove them.
    InterfaceDeleted {
        /// Of which IKE SA.
        ike: IkeId,
        /// Whose interface.
        end: End,
        /// The interface.
        iface: IfaceId,
        /// SA pairs removed here.
        removed: usize,
    },
    /// An interface of ours was not deleted.
    DeleteRefused {
        /// Of which IKE SA.
        ike: IkeId,
        /// The interface.
        iface: IfaceId,
        /// Why, with the mend.
        reason: Failure,
    },
}
