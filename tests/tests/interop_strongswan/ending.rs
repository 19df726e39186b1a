//! Deletes, restarts, and peers that are gone without a word.

use std::time::Duration;

use mifsec_tests::interop::traffic::{both_ways, lease};
use mifsec_tests::interop::{
    Agent, AgentConfig, Charon, Connection, End, scenario, wait, wait_for,
};
use mifsec_tests::lab::topology::Access;

use crate::connect::{our_client, strongswan_client};

/// Quick to notice: 2 tries, 3.5 s in all.
const IMPATIENT: &str = "retransmit_tries = 2\nretransmit_timeout = 0.5\nretransmit_base = 1.5";

#[test]
fn a_strongswan_client_deletes_and_comes_back() {
    scenario("strongSwan client: deletes Child SA and IKE SA", |net| {
        let (agent, charon, client) =
            strongswan_client(net, &AgentConfig::gateway(), &Connection::client())?;
        both_ways(net, client)?;
        charon.terminate_child("net")?;
        agent.wait_for(1, 0)?;
        charon.initiate("net")?;
        agent.wait_for(1, 1)?;
        both_ways(net, client)?;
        charon.terminate_ike()?;
        agent.wait_for(0, 0)?;
        charon.wait_for(0, 0)?;
        charon.initiate("net")?;
        both_ways(net, lease(&agent)?)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_comes_back_when_a_strongswan_gateway_deletes() {
    scenario("strongSwan gateway: deletes Child SA and IKE SA", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        both_ways(net, client)?;
        charon.terminate_child("net")?;
        // What is configured to stand is set up anew.
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        both_ways(net, client)?;
        let before = agent.established()?[0]["spi_i"].clone();
        charon.terminate_ike()?;
        wait("another IKE SA", || {
            let peers = agent.established()?;
            Ok(peers.iter().any(|p| p["spi_i"] != before).then_some(()))
        })?;
        charon.wait_for(1, 1)?;
        both_ways(net, lease(&agent)?)?;
        Ok(String::new())
    });
}

#[test]
fn our_gateway_stops_and_strongswan_hears_of_it() {
    scenario("strongSwan client: our gateway stops", |net| {
        let (agent, charon, client) =
            strongswan_client(net, &AgentConfig::gateway(), &Connection::client())?;
        both_ways(net, client)?;
        // A clean stop takes the guard along.
        net.expect_clear(End::Gateway);
        agent.stop()?;
        charon.wait_for(0, 0)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_stops_and_strongswan_hears_of_it() {
    scenario("strongSwan gateway: our client stops", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        both_ways(net, client)?;
        agent.stop()?;
        charon.wait_for(0, 0)?;
        Ok(String::new())
    });
}

#[test]
fn a_killed_strongswan_client_that_starts_again_replaces_its_old_state() {
    scenario("strongSwan client: killed and started again", |net| {
        let theirs = Connection::client();
        let (agent, mut charon, client) = strongswan_client(net, &AgentConfig::gateway(), &theirs)?;
        both_ways(net, client)?;
        charon.kill();
        charon.restart(&theirs)?;
        charon.initiate("net")?;
        // INITIAL_CONTACT: the old ones are gone at once.
        agent.wait_for(1, 1)?;
        both_ways(net, lease(&agent)?)?;
        Ok(String::new())
    });
}

#[test]
fn our_killed_client_that_starts_again_replaces_its_old_state_at_strongswan() {
    scenario(
        "strongSwan gateway: our client killed and started again",
        |net| {
            let ours = AgentConfig::client(&[Access::Ran]);
            let (mut agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
            both_ways(net, client)?;
            agent.kill();
            agent.run(&ours)?;
            agent.wait_for(1, 1)?;
            charon.wait_for(1, 1)?;
            both_ways(net, lease(&agent)?)?;
            Ok(String::new())
        },
    );
}

#[test]
fn our_gateway_started_again_serves_a_strongswan_client_that_comes_back() {
    scenario(
        "strongSwan client: our gateway killed and started again",
        |net| {
            let ours = AgentConfig::gateway();
            let mut agent = Agent::start(net, End::Gateway, &ours)?;
            let charon = Charon::start(net, End::Client, IMPATIENT)?;
            charon.load(
                &Connection::client()
                    .with(&["dpd_delay = 1s"])
                    .child(&["dpd_action = restart"]),
            )?;
            charon.initiate("net")?;
            both_ways(net, lease(&agent)?)?;
            agent.kill();
            // A strongSwan client sends in clear until it has made the tunnel anew.
            net.expect_clear(End::Client);
            agent.run(&ours)?;
            agent.wait_for(1, 1)?;
            both_ways(net, lease(&agent)?)?;
            Ok(String::new())
        },
    );
}

#[test]
fn our_client_comes_back_to_a_strongswan_gateway_that_was_killed() {
    scenario("strongSwan gateway: killed and started again", |net| {
        let ours = AgentConfig::client(&[Access::Ran]).peer("dpd", "\"1s\"");
        let theirs = Connection::gateway();
        let (agent, mut charon, client) = our_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        charon.kill();
        // Its host forwards in clear what its daemon does not protect any more.
        net.expect_clear(End::Gateway);
        wait_for(Duration::from_secs(100), "that the peer is missed", || {
            Ok(agent.established()?.is_empty().then_some(()))
        })?;
        charon.restart(&theirs)?;
        wait_for(Duration::from_secs(60), "another IKE SA", || {
            Ok((!agent.established()?.is_empty()).then_some(()))
        })?;
        both_ways(net, lease(&agent)?)?;
        Ok(String::new())
    });
}

#[test]
fn our_gateway_misses_a_strongswan_client_that_was_killed() {
    scenario("strongSwan client: killed for good", |net| {
        let ours = AgentConfig::gateway().peer("dpd", "\"1s\"");
        let (agent, charon, client) = strongswan_client(net, &ours, &Connection::client())?;
        both_ways(net, client)?;
        charon.kill();
        wait_for(Duration::from_secs(100), "that the peer is missed", || {
            Ok((agent.established()?.is_empty() && agent.sas()?.is_empty()).then_some(()))
        })?;
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_gateway_misses_our_client_that_was_killed() {
    scenario("strongSwan gateway: our client killed for good", |net| {
        let charon = Charon::start(net, End::Gateway, IMPATIENT)?;
        charon.load(&Connection::gateway().with(&["dpd_delay = 1s"]))?;
        let agent = Agent::start(net, End::Client, &AgentConfig::client(&[Access::Ran]))?;
        both_ways(net, lease(&agent)?)?;
        agent.kill();
        charon.wait_for(0, 0)?;
        Ok(String::new())
    });
}
