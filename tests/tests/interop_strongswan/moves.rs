//! MOBIKE (RFC 4555): the client changes its access under load.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use mifsec_tests::interop::traffic::{Loss, both_ways, passes, under_load};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, Net, scenario, wait_for};
use mifsec_tests::lab::topology::Access;

use crate::connect::{our_client, strongswan_client};

/// Takes the carrier from one access, or gives it back with what a DHCP client
/// would put there.
fn carrier(net: &Net, access: Access, up: bool) -> Result<()> {
    let state = if up { "up" } else { "down" };
    let eu = &net.topology.eu;
    net.ip(eu, &format!("link set {} {state}", access.link()))?;
    if up {
        net.topology.add_route(access, access.attachments()[0])?;
    }
    Ok(())
}

/// Waits until the gateway's end of the tunnel is at an address of `access`.
fn gateway_sees(net: &Net, access: Access, seen: impl Fn() -> Result<String>) -> Result<()> {
    let outside = match access {
        // What the NAT makes of it.
        Access::Wlan => "203.0.113.254".to_string(),
        Access::Ran => Access::Ran.attachments()[0].address.to_string(),
    };
    let _ = net;
    wait_for(
        Duration::from_secs(15),
        &format!("{outside} at the gateway"),
        || Ok(seen()?.contains(&outside).then_some(())),
    )
}

/// WLAN, RAN, WLAN under load; the same Child SAs where that is possible.
fn roam(net: &Net, client: IpAddr, seen: impl Fn() -> Result<String>) -> Result<Loss> {
    both_ways(net, client)?;
    gateway_sees(net, Access::Wlan, &seen)?;
    let loss = under_load(net, client, || {
        carrier(net, Access::Wlan, false)?;
        gateway_sees(net, Access::Ran, &seen)?;
        resumes(net, client)?;
        carrier(net, Access::Wlan, true)?;
        carrier(net, Access::Ran, false)?;
        gateway_sees(net, Access::Wlan, &seen)?;
        resumes(net, client)
    })?;
    both_ways(net, client)?;
    Ok(loss)
}

fn resumes(net: &Net, client: IpAddr) -> Result<()> {
    wait_for(Duration::from_secs(15), "traffic after the move", || {
        Ok(passes(net, client)?.then_some(()))
    })
}

/// Where strongSwan sends to, in the words of its list.
fn remote_of(charon: &Charon) -> Result<String> {
    let sas = charon.sas()?;
    let line = sas.lines().find(|l| l.trim().starts_with("remote "));
    Ok(line.unwrap_or_default().to_string())
}

/// Where our gateway sends to.
fn remote_at(agent: &Agent) -> Result<String> {
    let paths = agent.json("path")?;
    let up = paths["paths"].as_array().into_iter().flatten();
    let up = up.filter(|p| p["state"] == "up");
    Ok(up.map(|p| p["remote"].to_string()).collect())
}

#[test]
fn our_client_moves_between_accesses_at_a_strongswan_gateway() {
    scenario(
        "strongSwan gateway: our client moves WLAN, RAN, WLAN",
        |net| {
            let mut ours = AgentConfig::client(&Access::ALL);
            ours.accesses[0].insert("priority", "0".into());
            ours.accesses[1].insert("priority", "1".into());
            let ours = ours.peer("require", "\"mobike\"");
            let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
            let before = agent.established()?[0]["spi_i"].clone();
            let loss = roam(net, client, || remote_of(&charon))?;
            same_ike_sa(&agent, &before)?;
            Ok(loss.to_string())
        },
    );
}

#[test]
fn a_strongswan_client_moves_between_accesses_at_our_gateway() {
    scenario("strongSwan client: it moves WLAN, RAN, WLAN", |net| {
        let ours = AgentConfig::gateway().peer("require", "\"mobike\"");
        let (agent, _charon, client) = strongswan_client(net, &ours, &Connection::client())?;
        let before = agent.established()?[0]["spi_i"].clone();
        let loss = roam(net, client, || remote_at(&agent))?;
        same_ike_sa(&agent, &before)?;
        Ok(loss.to_string())
    });
}

fn same_ike_sa(agent: &Agent, before: &serde_json::Value) -> Result<()> {
    let after = agent.established()?;
    if after.len() != 1 || after[0]["spi_i"] != *before {
        bail!("the IKE SA {before} became {after:?}");
    }
    Ok(())
}
