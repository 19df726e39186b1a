//! Interoperability with Debian's strongSwan 5.9.8, both roles, in namespaces.
//!
//! The network is the [`lab`](crate::lab)'s with IPv6 added: a client with
//! `wlan0` (behind NAT) and `wwan0` (routed), a router that watches, a gateway,
//! a server behind it. One end runs `charon` ([`charon`]), the other our agent
//! ([`agent`]), each from files written here. [`traffic`] judges what passes,
//! and the router's capture that nothing passes in clear. A [`scenario`] that
//! fails prints the logs of both ends; everything made is removed on every way out.
//!
//! strongSwan has no kernel ESP here: its `kernel-libipsec` speaks ESP in UDP
//! through a TUN, as our data plane does.

pub mod agent;
pub mod charon;
pub mod flood;
pub mod moves;
pub mod net;
pub mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::lab::capture::Capture;
use crate::lab::sys;

pub use agent::{Agent, AgentConfig};
pub use charon::{Charon, Connection};
pub use net::{End, Net};

/// How long anything that should happen may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Who we are, on the client's and on the gateway's side.
pub const CLIENT_ID: &str = "carol@example.org";
/// The gateway's name.
pub const GATEWAY_ID: &str = "gw.example.org";
/// Shared by both ends.
pub const SECRET: &str = "interop-secret";

/// Runs one scenario on a network of its own and prints its result line.
///
/// # Panics
/// When the scenario fails, with the logs of everything that ran; when this is
/// not root or strongSwan is not installed.
#[expect(
    clippy::print_stdout,
    reason = "the result line is what this is for, and a failure needs its logs"
)]
pub fn scenario(name: &str, work: impl FnOnce(&Net) -> Result<String>) {
    let begun = Instant::now();
    let result = ready().and_then(|()| Net::new()).and_then(|net| {
        let capture = Capture::start(&net.topology, true)?;
        let mut outcome = work(&net);
        let seen = capture.seen();
        let leaked = net.leaked(&seen);
        if outcome.is_ok() && leaked > 0 {
            outcome = Err(anyhow::anyhow!(
                "{leaked} packets in clear on the router: {:?}",
                seen.clear_examples
            ));
        }
        if outcome.is_err() {
            println!("{}", net.logs());
        }
        outcome
    });
    let seconds = begun.elapsed().as_secs_f32();
    match result {
        Ok(detail) if detail.is_empty() => println!("interop: {name}: ok ({seconds:.1} s)"),
        Ok(detail) => println!("interop: {name}: ok ({detail}; {seconds:.1} s)"),
        Err(error) => {
            println!("interop: {name}: FAILED ({seconds:.1} s)");
            panic!("{name}: {error:#}");
        }
    }
}

/// Polls until `look` gives something.
///
/// # Errors
/// When it does not within [`PATIENCE`]; names `what`.
pub fn wait<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_for(PATIENCE, what, look)
}

/// Polls until `look` gives something, for as long as `limit`.
///
/// # Errors
/// When it does not; names `what`.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what} did not come in {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// What `cargo xtask test interop` sees to; without it there is no result.
fn ready() -> Result<()> {
    ensure!(
        sys::is_root(),
        "needs root: run `cargo xtask test interop`, which asks for it"
    );
    // What a run left that was killed.
    crate::lab::cleanup::stale();
    charon::installed()?;
    agent::binary().map(drop)
}
