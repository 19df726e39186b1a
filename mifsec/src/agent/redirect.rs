//! Following a gateway that sends us to another one (RFC 5685). The IKE SA with
//! the old one is ended by the engine; here the way to the new one is chosen. If
//! that fails, the configured addresses are tried again.

use std::net::IpAddr;
use std::time::Instant;

use serde_json::json;

use crate::ike::Command;
use crate::ike::redirect::Gateway;

use super::Agent;
use super::retry::{LAST_PAUSE, Progress};

impl Agent {
    pub(super) fn redirected(&mut self, peer: &str, to: &Gateway, from: IpAddr, now: Instant) {
        tracing::info!(peer, %from, %to, "the gateway sends us to another one");
        let Some(index) = self.retry_index(peer) else {
            return;
        };
        let ways = match to {
            Gateway::Address(address) => self.ways_to(&[*address]),
            Gateway::Name(_) => Vec::new(),
        };
        let Some(channel) = ways.into_iter().next() else {
            let reason = match to {
                Gateway::Address(_) => format!("redirected to {to}, which no access can reach"),
                Gateway::Name(_) => format!(
                    "redirected to \"{to}\"; names are not resolved, so let the gateway redirect to an address"
                ),
            };
            tracing::warn!(peer, reason);
            self.tell("alert", &[("peer", json!(peer)), ("reason", json!(reason))]);
            let retry = &mut self.retries[index];
            retry.reason = Some(reason);
            retry.progress = Progress::Due(now + LAST_PAUSE);
            return;
        };
        self.retries[index].progress = Progress::Trying {
            local: channel.local,
            until: now + LAST_PAUSE * 3,
        };
        self.ike.handle_command(
            Command::Follow {
                peer: peer.to_owned(),
                channel,
                from,
            },
            now,
        );
    }
}
