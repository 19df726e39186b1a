//! A client that changes its access, and what must not change with it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::net::{End, Net};
use super::traffic::Loss;
use super::{Agent, AgentConfig, wait};
use crate::lab::topology::Access;

/// Our client on both accesses; the WLAN is the better one.
#[must_use]
pub fn on_both() -> AgentConfig {
    let mut config = AgentConfig::client(&[Access::Wlan, Access::Ran]);
    for (access, priority) in config.accesses.iter_mut().zip(["0", "1"]) {
        access.insert("priority", priority.into());
    }
    config
}

/// The client's link goes down, and with it its routes.
///
/// # Errors
/// When `ip` refuses.
pub fn leave(net: &Net, access: Access) -> Result<()> {
    net.ip(
        net.namespace(End::Client),
        &format!("link set {} down", access.link()),
    )
}

/// It is back, with its routes.
///
/// # Errors
/// When `ip` refuses.
pub fn return_to(net: &Net, access: Access) -> Result<()> {
    net.ip(
        net.namespace(End::Client),
        &format!("link set {} up", access.link()),
    )?;
    let [attachment, ..] = access.attachments();
    net.topology.add_route(access, attachment)
}

/// Packets of the access are lost on the router, and nobody says so.
///
/// # Errors
/// When nft refuses.
pub fn silence(net: &Net, access: Access) -> Result<()> {
    let link = access.router_link();
    net.topology.nft(&format!(
        "add rule ip lab forward iifname {link} drop; add rule ip lab forward oifname {link} drop"
    ))
}

/// The Child SAs of an agent: SPIs and fingerprints of keys.
///
/// # Errors
/// When it does not answer.
pub fn identity(agent: &Agent) -> Result<BTreeSet<String>> {
    let sas = agent.sas()?;
    Ok(sas
        .iter()
        .map(|sa| {
            let keys = ["spi_in", "spi_out", "key_in", "key_out"];
            keys.map(|key| sa[key].to_string()).join(" ")
        })
        .collect())
}

/// The SPIs of the agent's only IKE SA.
///
/// # Errors
/// When it does not answer, or has none.
pub fn ike_sa(agent: &Agent) -> Result<String> {
    let peers = agent.established()?;
    let peer = peers.first().context("no peer")?;
    Ok(format!("{} {}", peer["spi_i"], peer["spi_r"]))
}

/// Waits until the agent's only path is up on this access and the peer knows.
///
/// # Errors
/// When it is not in time.
pub fn wait_on(agent: &Agent, access: Access) -> Result<()> {
    wait(&format!("the path on {}", access.link()), || {
        let paths = agent.json("path")?;
        let path = &paths["paths"][0];
        let there = path["access"] == access.link() && path["state"] == "up";
        Ok(there.then_some(()))
    })
}

/// Where the agent's data to its only peer goes.
///
/// # Errors
/// When there is no path.
pub fn remote(agent: &Agent) -> Result<String> {
    let paths = agent.json("path")?;
    let remote = paths["paths"][0]["remote"].as_str();
    remote.map(str::to_owned).context("no path")
}

/// Waits until the agent's data goes elsewhere than `before`.
///
/// # Errors
/// When it does not in time.
pub fn wait_remote_changed(agent: &Agent, before: &str) -> Result<String> {
    wait(&format!("another remote than {before}"), || {
        let now = remote(agent)?;
        Ok((now != before).then_some(now))
    })
}

/// No more was lost than what is sent in `seconds`, each way.
///
/// # Errors
/// When more was.
pub fn bounded(loss: Loss, seconds: u64) -> Result<Loss> {
    let most = 1500 * seconds;
    ensure!(
        loss.up <= most && loss.down <= most && loss.duplicated == 0,
        "{loss:?} is more than {seconds} s of it"
    );
    Ok(loss)
}

/// What the agent says of how its peer moves.
///
/// # Errors
/// When it does not answer, or has no peer.
pub fn tier(agent: &Agent) -> Result<String> {
    let peers = agent.established()?;
    let tier = peers.first().and_then(|peer| peer["tier"].as_str());
    tier.map(str::to_owned).context("no peer")
}
