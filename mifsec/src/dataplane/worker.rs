//! The loop of one worker: wait, take the newest snapshot, move batches.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

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

/// How long a worker that ends waits before it tries again to tell the agent.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// Runs until told to stop; ends otherwise only when it cannot go on, and says so.
pub(super) fn run(parts: Parts, shared: &Shared) {
    let result = catch_unwind(AssertUnwindSafe(|| work(&parts, shared)));
    let error = match result {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("panic: {}", said(panic.as_ref())),
    };
    tracing::error!(worker = parts.index, error, "data plane worker ends");
    report(parts.index, error, &parts.inputs, &shared.stop);
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Unlike other inputs this one is not dropped when the agent is behind; whoever
/// stops the data plane meanwhile need not hear it.
fn report(index: usize, error: String, inputs: &mpsc::Sender<Input>, stop: &AtomicBool) {
    let mut input = Input::WorkerGone { index, error };
    while let Err(TrySendError::Full(back)) = inputs.try_send(input) {
        if stop.load(Ordering::Acquire) {
            return;
        }
        input = back;
        std::thread::sleep(REPORT_PAUSE);
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
    loop {
        let timeout = outbound
            .deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        poll.wait(timeout, &mut ready)?;
        let now = Instant::now();
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
            inputs: &parts.inputs,
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
                TUN => outbound.pump(&out).context("the TUN is gone")?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_worker_is_told_even_when_the_agent_is_behind() {
        let (inputs, mut receiver) = mpsc::channel(1);
        let stop = AtomicBool::new(false);
        inputs
            .try_send(Input::FirstPacket {
                spi: crate::ids::Spi(256),
            })
            .unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| report(3, "why".to_owned(), &inputs, &stop));
            assert!(matches!(
                receiver.blocking_recv(),
                Some(Input::FirstPacket { .. })
            ));
            let Some(Input::WorkerGone { index, error }) = receiver.blocking_recv() else {
                panic!("something else was told");
            };
            assert_eq!((index, error.as_str()), (3, "why"));
        });
    }

    #[test]
    fn an_ending_worker_does_not_wait_for_an_agent_that_stops() {
        let (inputs, _receiver) = mpsc::channel(1);
        let spi = crate::ids::Spi(256);
        inputs.try_send(Input::FirstPacket { spi }).unwrap();
        report(0, String::new(), &inputs, &AtomicBool::new(true));
    }

    #[test]
    fn a_panic_is_put_into_words() {
        let formatted = catch_unwind(|| panic!("at {}", 7)).unwrap_err();
        assert_eq!(said(formatted.as_ref()), "at 7");
        let plain = catch_unwind(|| panic!("plain")).unwrap_err();
        assert_eq!(said(plain.as_ref()), "plain");
        assert_eq!(said(&7), "no message");
    }
}
