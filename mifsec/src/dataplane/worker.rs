//! The loop of one worker: wait, take the newest snapshot, move batches.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::io::poll::{Poll, Ready};
use crate::io::tun::Tun;
use crate::io::udp::{SendSocket, WildcardSocket};

use super::counters::Reason;
use super::inbound::{self, Inbound};
use super::outbound::{self, Outbound};
use super::{Input, Shared};

/// Batches from one socket before the TUN gets its turn.
const BATCHES: usize = 4;

/// What one worker owns.
pub(super) struct Parts {
    pub(super) index: usize,
    pub(super) tun: Tun,
    /// IPv4, IPv6.
    pub(super) wildcards: [Arc<WildcardSocket>; 2],
    /// IPv4, IPv6; by access.
    pub(super) senders: [Vec<SendSocket>; 2],
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) port: u16,
}

const WAKE: u64 = 0;
const TUN: u64 = 1;
const SOCKETS: u64 = 2;

/// Runs until told to stop, or until the devices are gone.
pub(super) fn run(parts: Parts, shared: &Shared) {
    if let Err(error) = work(&parts, shared) {
        tracing::error!(worker = parts.index, %error, "data plane worker ends");
    }
}

fn work(parts: &Parts, shared: &Shared) -> anyhow::Result<()> {
    let (Some(counters), Some(waker)) = (
        shared.counters.get(parts.index),
        shared.wakers.get(parts.index),
    ) else {
        anyhow::bail!("more workers than counters");
    };
    let poll = Poll::new()?;
    poll.add(waker, WAKE)?;
    poll.add(&parts.tun, TUN)?;
    for (token, socket) in (SOCKETS..).zip(&parts.wildcards) {
        poll.add(socket.as_ref(), token)?;
    }
    let mut compiled = shared.published.current();
    let mut outbound = Outbound::new();
    let mut inbound = Inbound::new();
    let mut ready: Vec<Ready> = Vec::new();
    let mut now = Instant::now();
    loop {
        let timeout = outbound
            .deadline()
            .map(|deadline| deadline.saturating_duration_since(now));
        poll.wait(timeout, &mut ready)?;
        now = Instant::now();
        if ready.iter().any(|event| event.token == WAKE) {
            // Before the snapshot is looked at: a later wake is a later snapshot.
            waker.clear();
        }
        if shared.stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let changed = shared.published.refresh(&mut compiled);
        let out = outbound::Outside {
            tun: &parts.tun,
            senders: &parts.senders,
            counters,
            activity: &shared.activity,
            compiled: &compiled,
            now,
        };
        let into = inbound::Outside {
            tun: &parts.tun,
            counters,
            activity: &shared.activity,
            compiled: &compiled,
            inputs: &parts.inputs,
            port: parts.port,
            now,
        };
        if changed {
            inbound.retry_larval(&into);
        }
        if changed || outbound.deadline().is_some_and(|deadline| deadline <= now) {
            outbound.retry_held(&out);
        }
        for event in &ready {
            match event.token {
                WAKE => {}
                TUN => {
                    if let Err(error) = outbound.pump(&out) {
                        tracing::error!(worker = parts.index, %error, "the TUN is gone");
                        poll.remove(&parts.tun)?;
                    }
                }
                token => {
                    let index = usize::from(token != SOCKETS);
                    let Some(socket) = parts.wildcards.get(index) else {
                        continue;
                    };
                    if event.error {
                        counters.add(Reason::SocketErrors, socket.clear_errors());
                    }
                    for _ in 0..BATCHES {
                        if !inbound.pump(socket, &into) {
                            break;
                        }
                    }
                }
            }
        }
    }
}
