//! Name servers that came with a lease, for the host's resolver.
//!
//! What all standing IKE SAs of ours brought is wished for as one: `resolvectl`
//! sets it on the TUN and takes it back with the last of them. Where that does not
//! work, and where it does too, an event says which servers and domains there are,
//! so that something else can act. A TUN that was there already may have what a
//! predecessor set and did not live to take back: that goes first.

use std::net::IpAddr;

use serde_json::json;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::io::resolved::{Applied, Names, Resolved};

use super::Agent;

/// Everything may be asked of these servers (systemd-resolved's notation).
const EVERYTHING: &str = "~.";

/// What an IKE SA brought.
#[derive(Debug, Clone, Default)]
pub(super) struct Brought {
    pub(super) servers: Vec<IpAddr>,
    pub(super) domains: Vec<String>,
}

/// The resolver's side.
pub(super) struct Dns {
    resolved: Option<Resolved>,
    /// Its answers.
    answers: mpsc::Receiver<Applied>,
    /// What was wished for last.
    wished: Names,
    /// What was said last to have become of it.
    told: Names,
}

impl Dns {
    /// With `left_behind` the device was there before us.
    pub(super) fn start(device: &str, left_behind: bool) -> Self {
        let (resolved, answers) = match Resolved::start(device.to_owned()) {
            Ok((resolved, answers)) => (Some(resolved), answers),
            Err(error) => {
                tracing::error!(%error, "name servers will not be set");
                (None, mpsc::channel(1).1)
            }
        };
        if let Some(resolved) = resolved.as_ref().filter(|_| left_behind) {
            resolved.wish(Names::default());
        }
        Self {
            resolved,
            answers,
            wished: Names::default(),
            told: Names::default(),
        }
    }

    /// Waits for the next answer, for ever if there will be none.
    pub(super) async fn answer(&mut self) -> Applied {
        match self.answers.recv().await {
            Some(applied) => applied,
            None => std::future::pending().await,
        }
    }

    /// Takes back what was set, and waits until it is.
    pub(super) async fn finish(self) {
        let Some(resolved) = self.resolved else {
            return;
        };
        if self.wished != Names::default() {
            resolved.wish(Names::default());
        }
        let _ = tokio::task::spawn_blocking(|| resolved.finish()).await;
    }
}

impl Agent {
    /// Peers came or went: the resolver follows.
    pub(super) fn update_names(&mut self) {
        let mut names = Names::default();
        for peer in self.peers.values().filter(|p| p.initiator) {
            for server in &peer.names.servers {
                if !names.servers.contains(server) {
                    names.servers.push(*server);
                }
            }
            for domain in domains(&self.config, peer.config, &peer.names) {
                if !names.domains.contains(&domain) {
                    names.domains.push(domain);
                }
            }
        }
        if names.servers.is_empty() {
            names.domains.clear();
        }
        if names == self.dns.wished {
            return;
        }
        self.dns.wished = names.clone();
        if let Some(resolved) = &self.dns.resolved {
            resolved.wish(names);
        }
    }

    /// What became of it.
    pub(super) fn names_applied(&mut self, applied: &Applied) {
        let names = &applied.names;
        // Taking back what a predecessor left is no news of ours.
        if *names == self.dns.told {
            return;
        }
        self.dns.told.clone_from(names);
        match &applied.result {
            Ok(()) => {
                tracing::info!(servers = ?names.servers, domains = ?names.domains, "name servers")
            }
            // Nothing to take back where nothing could be set.
            Err(_) if names.servers.is_empty() => {}
            Err(error) => tracing::warn!(error, servers = ?names.servers, "name servers not set"),
        }
        let servers: Vec<String> = names.servers.iter().map(ToString::to_string).collect();
        let fields = [
            ("servers", json!(servers)),
            ("domains", json!(names.domains)),
            ("applied", json!(applied.result.is_ok())),
            ("reason", json!(applied.result.as_ref().err())),
        ];
        self.tell("dns", &fields);
    }
}

/// The domains to ask these servers for: those named, else everything if the
/// tunnel carries everything, else what no other link answers.
fn domains(config: &Config, peer: usize, brought: &Brought) -> Vec<String> {
    if !brought.domains.is_empty() {
        // Not for completing short names: the peer's word is not trusted so far.
        return brought.domains.iter().map(|d| format!("~{d}")).collect();
    }
    let whole = config.peers.get(peer).is_some_and(|p| {
        let mut selectors = p.protected().flat_map(|c| &c.remote_ts);
        selectors.any(|ts| !ts.is_part() && ts.net.is_some_and(|net| net.prefix_len() == 0))
    });
    if whole && !brought.servers.is_empty() {
        return vec![EVERYTHING.to_owned()];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::network::tests::{LAPTOP, config};
    use super::*;

    #[test]
    fn a_full_tunnel_answers_for_everything_unless_domains_are_named() {
        let config = config(LAPTOP, "dns");
        let mut brought = Brought {
            servers: vec!["10.66.0.1".parse().unwrap()],
            domains: Vec::new(),
        };
        assert_eq!(domains(&config, 0, &brought), ["~."]);
        brought.domains = vec!["example.org".into()];
        assert_eq!(domains(&config, 0, &brought), ["~example.org"]);
    }
}
