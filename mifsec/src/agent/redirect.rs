//! Following a gateway that sends us to another one (RFC 5685). The IKE SA with
//! the old one is ended by the engine; here the way to the new one is chosen. If
//! that fails, the configured addresses are tried again. Who connects to us sends
//! us nowhere: a peer without `remote` is not followed.

use std::net::IpAddr;
use std::time::Instant;

use serde_json::json;

use crate::ids::IkeId;
use crate::ike::Command;
use crate::ike::redirect::Gateway;

use super::Agent;
use super::retry::{LAST_PAUSE, Progress};

impl Agent {
    /// The gateway of `ike`, which is on its way out, names another one.
    pub(super) fn redirected(
        &mut self,
        ike: IkeId,
        peer: &str,
        to: &Gateway,
        from: IpAddr,
        now: Instant,
    ) {
        let Some(index) = self.retry_index(peer) else {
            return;
        };
        if self.config.peers[index].remote.is_empty() {
            tracing::warn!(peer, %from, %to, "sent elsewhere by a peer that connects to us: not followed");
            self.refuse("redirect_not_followed");
            return;
        }
        tracing::info!(peer, %from, %to, "the gateway sends us to another one");
        let ways = match to {
            Gateway::Address(address) => self.ways_to(&[*address]),
            Gateway::Name(_) => Vec::new(),
        };
        let retry = &mut self.retries[index];
        let ours = concerns(retry.progress, ike);
        let Some(channel) = ways.into_iter().next() else {
            let reason = match to {
                Gateway::Address(_) => format!("redirected to {to}, which no access can reach"),
                Gateway::Name(_) => format!(
                    "redirected to \"{to}\"; names are not resolved, so let the gateway redirect to an address"
                ),
            };
            tracing::warn!(peer, reason);
            retry.reason = Some(reason.clone());
            if ours {
                retry.again(now + LAST_PAUSE);
            }
            self.tell("alert", &[("peer", json!(peer)), ("reason", json!(reason))]);
            return;
        };
        if ours {
            retry.progress = Progress::Trying {
                local: channel.local,
                until: now + LAST_PAUSE * 3,
            };
        }
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

/// Whether the end of `ike` is the end of what the peer's progress is about: not
/// for a peer we do not keep connected, nor when it was to replace one that stands.
fn concerns(progress: Progress, ike: IkeId) -> bool {
    match progress {
        Progress::Up(up) => up == ike,
        Progress::Due(_) | Progress::Trying { .. } => true,
        Progress::Waiting { .. } | Progress::Passive => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_moves_only_the_attempt_or_the_ike_sa_it_ends() {
        let now = Instant::now();
        let trying = Progress::Trying {
            local: "192.0.2.1:500".parse().unwrap(),
            until: now,
        };
        assert!(concerns(trying, IkeId(2)));
        assert!(concerns(Progress::Up(IkeId(2)), IkeId(2)));
        let reauthentication = Progress::Up(IkeId(1));
        assert!(!concerns(reauthentication, IkeId(2)), "the old one stands");
        assert!(!concerns(Progress::Passive, IkeId(2)), "start = \"manual\"");
    }
}
