//! The agent's commands. One for an IKE SA that is gone has no effect: its
//! `Closed` and the command crossed.

use std::net::IpAddr;

use crate::ids::{ChildId, IfaceId, IfacePair, IkeId, IkeSpi};
use crate::ike::error::Failure;
use crate::ike::event::{Channel, Command, End, Event};
use crate::ike::fault::Fault;
use crate::ike::mif::{DeleteFlags, UpdateFlags};
use crate::ike::sa::{IkeSa, Phase};
use crate::ike::task::add::{Add, Wanted};
use crate::ike::task::child::Create;
use crate::ike::task::init::Init;
use crate::ike::task::remove::{self, Remove};
use crate::ike::task::update::{Update, maddr};
use crate::ike::task::{Task, alternates, interfaces, mobike};

use super::{Context, Engine};

impl Engine {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Initiate { peer, channel } => self.initiate(peer, channel, None),
            Command::Follow {
                peer,
                channel,
                from,
            } => self.initiate(peer, channel, Some(from)),
            Command::SetInterfaces { ifaces } => {
                if self.cx.ifaces != ifaces {
                    self.cx.ifaces = ifaces;
                    self.cx.epoch = self.cx.epoch.wrapping_add(1);
                    let ids: Vec<_> = self.cx.sas.keys().copied().collect();
                    for id in ids {
                        self.step(id, interfaces::announce);
                        self.step(id, mobike::announce);
                    }
                }
            }
            Command::CreateChild {
                ike, local, pair, ..
            } if self.cx.faulty(Fault::ChannelPerInterface) => {
                self.channel_of_its_own(ike, pair.local, local);
            }
            Command::CreateChild {
                ike,
                child,
                pair,
                local,
                remote,
            } => self.step(ike, |sa, cx| {
                create_child(sa, cx, child, pair, (local, remote), None);
            }),
            Command::CreatePinned {
                ike,
                child,
                pair,
                local,
                remote,
                inner,
            } => self.step(ike, |sa, cx| {
                create_child(sa, cx, child, pair, (local, remote), Some(inner));
            }),
            Command::UpdateAddresses { ike, .. }
            | Command::Carry { ike, .. }
            | Command::MoveChannel { ike, .. } => {
                self.step(ike, |sa, cx| {
                    if sa.is_established() {
                        match command {
                            Command::MoveChannel { channel, .. } if sa.mif.is_none() => {
                                mobike::move_channel(sa, cx, channel);
                            }
                            _ => move_away(sa, cx, command),
                        }
                    }
                });
            }
            Command::SetAlternates { ike, lists } => {
                self.step(ike, |sa, cx| alternates::set(sa, cx, lists));
            }
            Command::SetStandby { ike, pairs } => {
                self.step(ike, |sa, _| sa.standby.given = pairs);
            }
            Command::ChannelRemote { ike, remote } => self.step(ike, |sa, cx| {
                let channel = Channel {
                    remote,
                    ..sa.channel
                };
                sa.move_channel(channel, cx);
            }),
            Command::FollowPeer { ike, observed } => {
                self.step(ike, |sa, cx| mobike::follow(sa, cx, observed));
            }
            Command::ResolveChannel { ike, local, remote } => {
                self.step(ike, |sa, cx| sa.resolve_channel(local, remote, cx));
            }
            Command::AddInterface {
                ike,
                iface,
                remote,
                local_addr,
                remote_addr,
                inner,
                lease,
                bundle,
                from,
                pfs,
            } => self.step(ike, |sa, cx| {
                if sa.is_established() {
                    let add = Add::new(Wanted {
                        iface,
                        remote,
                        local_addr,
                        remote_addr,
                        inner,
                        lease,
                        bundle,
                        from,
                        pfs,
                    });
                    sa.submit(Task::Add(Box::new(add)), cx);
                }
            }),
            Command::DeleteInterface {
                ike,
                iface,
                outer,
                ts,
                move_first,
            } => self.step(ike, |sa, cx| {
                if sa.is_established() {
                    let scopes = [
                        (outer, DeleteFlags::OUTER),
                        (ts, DeleteFlags::TS),
                        (move_first, DeleteFlags::MOVE_TO_ALTERNATE_FIRST),
                    ];
                    let flags = scopes.into_iter().filter(|(set, _)| *set);
                    let flags = flags.fold(DeleteFlags::default(), |all, (_, f)| all.with(f));
                    remove::submit(Remove::new(iface, flags), sa, cx);
                }
            }),
            Command::RestoreInterface { ike, iface } => self.step(ike, |sa, cx| {
                if sa.is_established() {
                    remove::restore(iface, sa, cx);
                }
            }),
            Command::DeleteChild { child } => {
                self.step_owner(child, |sa, cx| sa.delete_child(child, cx));
            }
            Command::SetPskTable { peer, table } => {
                self.cx.psk_tables.insert(peer, table);
            }
            Command::DeleteIke { ike } => {
                self.step(ike, |sa, cx| sa.begin_closing(Failure::Deleted, cx));
            }
            Command::CheckLiveness { ike } => self.step(ike, |sa, cx| {
                // Any request in flight is a question about its life already.
                if sa.is_established() && sa.outbound.is_empty() {
                    sa.submit(Task::Liveness, cx);
                }
            }),
            Command::RekeyChild { child } => {
                self.step_owner(child, |sa, cx| sa.rekey_child(child, cx));
            }
            Command::RekeyIke { ike } => self.step(ike, |sa, cx| sa.rekey_ike(cx)),
            Command::ExpireChild { child } => {
                self.step_owner(child, |sa, cx| sa.expire_child(child, cx));
            }
            Command::GiveUp { ike } => self.step(ike, |sa, cx| {
                let remote = sa.channel.remote;
                sa.close(Failure::Timeout { remote }, cx);
            }),
            Command::PeerAlive { ike } => self.step(ike, |sa, cx| sa.alive(cx)),
        }
    }

    fn initiate(&mut self, name: String, mut channel: Channel, from: Option<IpAddr>) {
        let peer = self.cx.peers.iter().find(|peer| peer.name == name).cloned();
        let Some(peer) = peer else {
            let reason = Failure::UnknownPeerName { name: name.clone() };
            return self.fail(name, reason);
        };
        let first = peer.ike_proposals.first().and_then(|p| p.groups.first());
        let Some(group) = first.copied() else {
            return self.fail(name, Failure::NoIkeProposal);
        };
        let Some(init) = Init::new(group, from, &mut self.cx) else {
            return self.fail(name, Failure::Entropy);
        };
        channel.local.set_port(self.cx.ike_port);
        channel.remote.set_port(self.cx.ike_port);
        let spis = (self.fresh_spi(), IkeSpi(0));
        let phase = Phase::Connecting { refused: None };
        let mut sa = IkeSa::new(self.next_id(), true, spis, channel, phase);
        sa.peer = Some(peer);
        self.add(sa, |sa, cx| sa.submit(Task::Init(Box::new(init)), cx));
    }

    fn fail(&mut self, peer: String, reason: Failure) {
        self.cx.event(Event::Failed {
            peer,
            ike: None,
            reason,
        });
    }

    /// Lets the IKE SA that has this Child SA take a step.
    fn step_owner(&mut self, child: ChildId, step: impl FnOnce(&mut IkeSa, &mut Context)) {
        let has = |sa: &IkeSa| sa.children.contains_key(&child);
        if let Some(ike) = self.cx.sas.values().find(|sa| has(sa)).map(|sa| sa.id) {
            self.step(ike, step);
        }
    }

    /// What [`Fault::ChannelPerInterface`] does.
    fn channel_of_its_own(&mut self, ike: IkeId, iface: IfaceId, local: IpAddr) {
        let sa = self.cx.sas.get(&ike);
        let found = sa.and_then(|sa| sa.peer.as_ref().map(|peer| (peer.name.clone(), sa.channel)));
        if let Some((peer, mut channel)) = found {
            channel.local_iface = iface;
            channel.local.set_ip(local);
            self.initiate(peer, channel, None);
        }
    }
}

/// Our own side moves first, then the peer is told: its answer changes nothing
/// here but that it may undo a choice among its interfaces.
fn move_away(sa: &mut IkeSa, cx: &mut Context, command: Command) {
    let manner = |old_is_dead| match old_is_dead {
        true => UpdateFlags::OLD_IS_DEAD,
        false => UpdateFlags::MAKE_BEFORE_BREAK,
    };
    let (mut update, channel) = match command {
        Command::UpdateAddresses {
            old_iface,
            new_iface,
            old,
            new,
            behind_nat,
            old_is_dead,
            grace,
            channel,
            ..
        } => {
            let new = maddr(new, cx.port, behind_nat);
            let ifaces = (old_iface, new_iface);
            let update = Update::new(ifaces, (maddr(old, 0, false), new))
                .with(UpdateFlags::TUNNEL.with(manner(old_is_dead)), grace);
            (update.lend(End::Local, sa, cx), channel)
        }
        Command::Carry {
            end,
            iface,
            by,
            old,
            new,
            old_is_dead,
            grace,
            channel,
            ..
        } => {
            let new = maddr(new, cx.port, false);
            let update = Update::new((iface, by), (maddr(old, 0, false), new))
                .with(UpdateFlags::TUNNEL.with(manner(old_is_dead)), grace);
            (update.lend(end, sa, cx), channel)
        }
        Command::MoveChannel { channel, .. } => {
            let ifaces = (sa.channel.local_iface, channel.local_iface);
            let old = maddr(sa.channel.local.ip(), 0, false);
            let new = maddr(channel.local.ip(), cx.port, false);
            (Update::new(ifaces, (old, new)), Some(channel))
        }
        _ => return,
    };
    if let Some(channel) = channel {
        let known = (sa.channel.remote.ip(), sa.channel_peer);
        sa.channel_peer = match channel.remote.ip() {
            same if same == known.0 => known.1,
            other => sa.peer_iface_of(other),
        };
        sa.move_channel(channel, cx);
        update.flags = update.flags.with(UpdateFlags::IKE_CHANNEL);
    }
    sa.submit(Task::Update(Box::new(update)), cx);
}

fn create_child(
    sa: &mut IkeSa,
    cx: &mut Context,
    child: String,
    pair: IfacePair,
    outer: (IpAddr, IpAddr),
    inner: Option<Vec<IpAddr>>,
) {
    let configured = sa
        .peer
        .as_ref()
        .and_then(|peer| peer.children.iter().find(|c| c.name == child));
    let Some(config) = configured.cloned() else {
        let peer = sa.peer_name();
        let reason = Failure::UnknownChildName {
            peer,
            name: child.clone(),
        };
        return cx.event(Event::ChildFailed {
            ike: sa.id,
            child,
            pair,
            reason,
        });
    };
    if sa.is_established() {
        // Without MIF there is one path, and nobody to name it to.
        let create = match sa.mif {
            Some(_) => Create::on_path(config, sa, pair, outer),
            None => Create::on_channel(config, sa),
        };
        sa.submit(Task::Child(Box::new(create.with_inner(inner))), cx);
    }
}
