//! Two agents of ours where one has MIF turned off, and nothing at all to follow
//! moves with: real links, stamped load, what the peer does.
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mifsec_tests::interop::moves::{
    bounded, identity, leave, on_both, remote, return_to, silence, tier, wait_on,
    wait_remote_changed,
};
use mifsec_tests::interop::net::GATEWAY_V6;
use mifsec_tests::interop::traffic::{both_ways, lease, passes, under_load};
use mifsec_tests::interop::{Agent, AgentConfig, End, Net, agent, scenario, wait};
use mifsec_tests::lab::sys;
use mifsec_tests::lab::topology::Access;

/// Runs `work` with a gateway and a client that are connected.
fn connected(
    name: &str,
    gateway: &AgentConfig,
    client: &AgentConfig,
    work: impl FnOnce(&Net, &Agent, &Agent, IpAddr) -> Result<String>,
) {
    connected_in(name, |_| Ok(()), gateway, client, work);
}

/// The same in a network that was changed first.
fn connected_in(
    name: &str,
    network: impl FnOnce(&Net) -> Result<()>,
    gateway: &AgentConfig,
    client: &AgentConfig,
    work: impl FnOnce(&Net, &Agent, &Agent, IpAddr) -> Result<String>,
) {
    if !sys::is_root() || agent::binary().is_err() {
        println!("skipped: needs root and the built agent");
        return;
    }
    scenario(name, |net| {
        network(net)?;
        let gw = Agent::start(net, End::Gateway, gateway)?;
        let eu = Agent::start(net, End::Client, client)?;
        let inner = lease(&eu)?;
        work(net, &gw, &eu, inner)
    });
}

#[test]
fn a_client_without_mif_moves_from_wlan_to_ran_and_back_and_keeps_its_sas() {
    let client = on_both().peer("mif", "\"off\"");
    connected(
        "mifsec without MIF: WLAN, RAN, WLAN",
        &AgentConfig::gateway(),
        &client,
        |net, gw, eu, inner| {
            wait_on(eu, Access::Wlan)?;
            for agent in [gw, eu] {
                ensure!(tier(agent)? == "mobike", "{}", tier(agent)?);
            }
            both_ways(net, inner)?;
            let before = [identity(gw)?, identity(eu)?];
            let loss = under_load(net, inner, || {
                leave(net, Access::Wlan)?;
                wait_on(eu, Access::Ran)?;
                std::thread::sleep(Duration::from_millis(500));
                return_to(net, Access::Wlan)?;
                wait_on(eu, Access::Wlan)?;
                std::thread::sleep(Duration::from_millis(500));
                Ok(())
            })?;
            both_ways(net, inner)?;
            ensure!(before == [identity(gw)?, identity(eu)?], "SAs changed");
            Ok(bounded(loss, 2)?.to_string())
        },
    );
}

#[test]
fn a_client_without_mif_leaves_an_access_that_is_drained() {
    let client = on_both().peer("mif", "\"off\"");
    connected(
        "mifsec without MIF: the WLAN is drained",
        &AgentConfig::gateway(),
        &client,
        |net, gw, eu, inner| {
            wait_on(eu, Access::Wlan)?;
            let before = [identity(gw)?, identity(eu)?];
            let loss = under_load(net, inner, || {
                let view = eu.json("drain wlan0")?;
                let plan = &view["moves"][0];
                ensure!(plan["to"] == "wwan0" && plan["sas"] == 1, "{view}");
                wait_on(eu, Access::Ran)?;
                // Its priority is better, but it is drained.
                std::thread::sleep(Duration::from_millis(1500));
                wait_on(eu, Access::Ran)?;
                eu.json("drain wlan0 --undo")?;
                wait_on(eu, Access::Wlan)
            })?;
            ensure!(before == [identity(gw)?, identity(eu)?], "SAs changed");
            // Whoever is connected to does not choose.
            let stays = gw.json("drain eth0");
            let said = stays.err().map(|error| error.to_string());
            ensure!(said.is_some(), "it left");
            gw.json("drain eth0 --undo")?;
            Ok(bounded(loss, 2)?.to_string())
        },
    );
}

#[test]
fn a_client_without_mif_moves_from_ipv4_to_ipv6_and_back_and_keeps_its_sas() {
    let both = format!("[\"{}\", \"{GATEWAY_V6}\"]", Net::gateway());
    let mut gateway = AgentConfig::gateway();
    for access in &mut gateway.accesses {
        access.insert("addresses", both.clone());
    }
    let client = on_both().peer("mif", "\"off\"").peer("remote", &both);
    connected_in(
        "mifsec without MIF: WLAN with IPv4, RAN with IPv6, WLAN",
        |net| {
            net.outer_v6()?;
            net.ip(&net.topology.eu, "-4 address flush dev wwan0")?;
            // No neighbour is looked for from a link whose address may be another's.
            wait("IPv6 on all links", || {
                for namespace in [&net.topology.eu, &net.topology.rt, &net.topology.gw] {
                    if !net.show(namespace, "-6 address show tentative")?.is_empty() {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            })
        },
        &gateway,
        &client,
        |net, gw, eu, inner| {
            wait_on(eu, Access::Wlan)?;
            both_ways(net, inner)?;
            let before = [identity(gw)?, identity(eu)?];
            let seen = remote(gw)?;
            let loss = under_load(net, inner, || {
                leave(net, Access::Wlan)?;
                wait_on(eu, Access::Ran)?;
                let now = remote(eu)?;
                ensure!(now.contains(&GATEWAY_V6.to_string()), "{now}");
                wait_remote_changed(gw, &seen)?;
                ensure!(passes(net, inner)?, "nothing passes over IPv6");
                std::thread::sleep(Duration::from_millis(500));
                return_to(net, Access::Wlan)?;
                wait_on(eu, Access::Wlan)?;
                std::thread::sleep(Duration::from_millis(500));
                Ok(())
            })?;
            let now = remote(eu)?;
            ensure!(now.contains(&Net::gateway().to_string()), "{now}");
            both_ways(net, inner)?;
            ensure!(before == [identity(gw)?, identity(eu)?], "SAs changed");
            Ok(bounded(loss, 2)?.to_string())
        },
    );
}

#[test]
fn a_client_without_mif_leaves_an_access_that_fell_silent() {
    let client = on_both().peer("mif", "\"off\"");
    connected(
        "mifsec without MIF: the WLAN falls silent",
        &AgentConfig::gateway(),
        &client,
        |net, gw, eu, inner| {
            wait_on(eu, Access::Wlan)?;
            both_ways(net, inner)?;
            let before = [identity(gw)?, identity(eu)?];
            let loss = under_load(net, inner, || {
                silence(net, Access::Wlan)?;
                wait_on(eu, Access::Ran)
            })?;
            both_ways(net, inner)?;
            ensure!(before == [identity(gw)?, identity(eu)?], "SAs changed");
            Ok(bounded(loss, 10)?.to_string())
        },
    );
}

#[test]
fn a_client_whose_gateway_has_neither_connects_anew_from_its_other_access() {
    let gateway = AgentConfig::gateway()
        .peer("mif", "\"off\"")
        .peer("mobike", "\"off\"");
    connected(
        "mifsec with nothing to move by: connects anew",
        &gateway,
        &on_both(),
        |net, gw, eu, inner| {
            wait_on(eu, Access::Wlan)?;
            ensure!(tier(eu)? == "plain", "{}", tier(eu)?);
            both_ways(net, inner)?;
            let before = identity(eu)?;
            leave(net, Access::Wlan)?;
            let left = Instant::now();
            wait("traffic over the RAN", || {
                Ok(passes(net, inner).unwrap_or(false).then_some(()))
            })?;
            let took = left.elapsed();
            eu.wait_for(1, 1)?;
            gw.wait_for(1, 1)?;
            ensure!(before != identity(eu)?, "the same SAs");
            both_ways(net, inner)?;
            Ok(format!("{took:.1?}"))
        },
    );
}
