//! New keys under load, whichever end wants them; reauthentication.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mifsec_tests::interop::moves::ike_sa;
use mifsec_tests::interop::traffic::{both_ways, lease, passes, under_load};
use mifsec_tests::interop::{
    Agent, AgentConfig, Charon, Connection, End, Net, scenario, wait, wait_for,
};
use mifsec_tests::lab::topology::Access;
use serde_json::Value;

use crate::connect::{our_client, strongswan_client};

/// How often each kind of key is replaced in a scenario.
const TIMES: usize = 4;

/// What names the keys in use: strongSwan's inbound SPIs, our IKE SPIs.
fn spis(agent: &Agent, charon: &Charon) -> Result<(BTreeSet<String>, String)> {
    let ike = agent.established()?;
    let ike = ike.first().map(|p| p["spi_i"].to_string());
    Ok((
        charon.spis_in()?.into_iter().collect(),
        ike.unwrap_or_default(),
    ))
}

/// strongSwan replaces the keys of Child SA and IKE SA by turns.
fn strongswan_rekeys(net: &Net, agent: &Agent, charon: &Charon, client: IpAddr) -> Result<String> {
    both_ways(net, client)?;
    let loss = under_load(net, client, || {
        for _ in 0..TIMES {
            for what in [["--child", "net"], ["--ike", "gw"]] {
                let (children, ike) = spis(agent, charon)?;
                charon.swanctl(&["--rekey", what[0], what[1]])?;
                wait("new keys", || {
                    let (now, ike_now) = spis(agent, charon)?;
                    let replaced = match what[0] {
                        "--child" => !now.is_subset(&children),
                        _ => ike_now != ike,
                    };
                    Ok(replaced.then_some(()))
                })?;
            }
        }
        Ok(())
    })?;
    settled(agent, charon)?;
    both_ways(net, client)?;
    let loss = loss.none()?;
    Ok(format!(
        "{TIMES} rekeys of the Child SA, {TIMES} of the IKE SA, {loss}"
    ))
}

/// We replace them, because they are short-lived.
fn we_rekey(net: &Net, agent: &Agent, charon: &Charon, client: IpAddr) -> Result<String> {
    both_ways(net, client)?;
    let (mut children, mut ikes) = (BTreeSet::new(), BTreeSet::new());
    let loss = under_load(net, client, || {
        wait_for(Duration::from_secs(40), "new keys", || {
            let (now, ike) = spis(agent, charon)?;
            children.extend(now);
            ikes.insert(ike);
            Ok((children.len() > TIMES && ikes.len() > TIMES).then_some(()))
        })
    })?;
    both_ways(net, client)?;
    let loss = loss.none()?;
    Ok(format!(
        "{} rekeys of the Child SA, {} of the IKE SA, {loss}",
        children.len() - 1,
        ikes.len() - 1
    ))
}

/// The replaced ones are gone at both ends.
fn settled(agent: &Agent, charon: &Charon) -> Result<()> {
    charon.wait_for(1, 1)?;
    agent.wait_for(1, 1)
}

/// Two seconds, a little apart so that both kinds happen alone and together.
fn short_lived(config: AgentConfig) -> AgentConfig {
    config
        .peer("rekey", "{ time = \"1500ms\", jitter = 0.1 }")
        .peer("ike_rekey", "{ time = \"2s\", jitter = 0.1 }")
}

#[test]
fn a_strongswan_client_rekeys_under_load() {
    scenario("strongSwan client: it rekeys under load", |net| {
        net.only(Access::Ran)?;
        let (agent, charon, client) =
            strongswan_client(net, &AgentConfig::gateway(), &Connection::client())?;
        strongswan_rekeys(net, &agent, &charon, client)
    });
}

#[test]
fn a_strongswan_gateway_rekeys_under_load() {
    scenario("strongSwan gateway: it rekeys under load", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        strongswan_rekeys(net, &agent, &charon, client)
    });
}

#[test]
fn our_gateway_rekeys_under_load() {
    scenario("strongSwan client: our gateway rekeys under load", |net| {
        net.only(Access::Ran)?;
        let ours = short_lived(AgentConfig::gateway());
        let (agent, charon, client) = strongswan_client(net, &ours, &Connection::client())?;
        we_rekey(net, &agent, &charon, client)
    });
}

#[test]
fn our_client_rekeys_under_load() {
    scenario("strongSwan gateway: our client rekeys under load", |net| {
        let ours = short_lived(AgentConfig::client(&[Access::Ran]));
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        we_rekey(net, &agent, &charon, client)
    });
}

#[test]
fn child_sas_rekeyed_with_a_key_exchange_of_their_own() {
    scenario(
        "strongSwan client: Child SA rekeyed with key exchange",
        |net| {
            net.only(Access::Ran)?;
            let ours =
                AgentConfig::gateway().peer("esp", "[\"aes128gcm16-x25519\", \"aes128gcm16\"]");
            let theirs = Connection::client().child(&["esp_proposals = aes128gcm16-x25519"]);
            let (agent, charon, client) = strongswan_client(net, &ours, &theirs)?;
            strongswan_rekeys(net, &agent, &charon, client)
        },
    );
}

#[test]
fn a_strongswan_client_reauthenticates() {
    scenario(
        "strongSwan client: reauthentication, break before make",
        |net| {
            net.only(Access::Ran)?;
            let (agent, charon, client) =
                strongswan_client(net, &AgentConfig::gateway(), &Connection::client())?;
            both_ways(net, client)?;
            let before = agent.established()?[0]["spi_i"].clone();
            charon.swanctl(&["--rekey", "--ike", "gw", "--reauth"])?;
            wait("another IKE SA", || {
                let peers = agent.established()?;
                Ok(peers.iter().any(|p| p["spi_i"] != before).then_some(()))
            })?;
            settled(&agent, &charon)?;
            both_ways(net, lease(&agent)?)?;
            Ok(String::new())
        },
    );
}

#[test]
fn a_strongswan_client_reauthenticates_make_before_break_and_keeps_its_lease() {
    scenario(
        "strongSwan client: reauthentication, make before break",
        |net| {
            net.only(Access::Ran)?;
            let agent = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
            let charon = Charon::start(net, End::Client, "make_before_break = yes")?;
            charon.load(&Connection::client())?;
            charon.initiate("net")?;
            let client = lease(&agent)?;
            both_ways(net, client)?;
            let loss = under_load(net, client, || {
                for _ in 0..2 {
                    let before = agent.established()?[0]["spi_i"].clone();
                    charon.swanctl(&["--rekey", "--ike", "gw", "--reauth"])?;
                    wait("another IKE SA", || {
                        let peers = agent.established()?;
                        let other = peers.iter().all(|p| p["spi_i"] != before);
                        Ok((other && !peers.is_empty()).then_some(()))
                    })?;
                }
                Ok(())
            })?;
            settled(&agent, &charon)?;
            ensure!(lease(&agent)? == client, "another lease than {client}");
            both_ways(net, client)?;
            // What is on its way by the old Child SA when strongSwan gives it up.
            ensure!(loss.up == 0 && loss.down < 50, "{loss:?}");
            Ok(format!("2 reauthentications, {loss}"))
        },
    );
}

#[test]
fn our_client_reauthenticates_when_strongswan_asks_for_it() {
    scenario("strongSwan gateway: AUTH_LIFETIME", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let theirs = Connection::gateway().with(&[
            "reauth_time = 4s",
            "rekey_time = 0",
            "over_time = 8s",
            "rand_time = 0",
        ]);
        let (agent, charon, client) = our_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        let mut ikes = BTreeSet::new();
        let loss = under_load(net, client, || {
            wait_for(Duration::from_secs(30), "two reauthentications", || {
                ikes.extend(agent.established()?.iter().map(|p| p["spi_i"].to_string()));
                Ok((ikes.len() > 2).then_some(()))
            })?;
            charon.wait_for(1, 1)
        })?;
        ensure!(lease(&agent)? == client, "another inner address");
        both_ways(net, client)?;
        Ok(loss.none()?.to_string())
    });
}

#[test]
fn our_client_reauthenticates_once_after_an_outage() {
    scenario("strongSwan gateway: AUTH_LIFETIME and an outage", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let theirs = Connection::gateway().with(&[
            "reauth_time = 20s",
            "rekey_time = 0",
            "over_time = 60s",
            "rand_time = 0",
        ]);
        let (agent, charon, client) = our_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        let first = ike_sa(&agent)?;
        net.topology.nft(
            "add rule ip lab forward iifname ran drop; add rule ip lab forward oifname ran drop",
        )?;
        agent.wait_log("authenticating anew")?;
        // Long enough for several attempts, had none patience.
        std::thread::sleep(Duration::from_secs(12));
        net.topology.nft("flush chain ip lab forward")?;
        wait_for(Duration::from_secs(40), "the successor alone", || {
            let there = agent.established()?;
            let alone = there.len() == 1 && ike_sa(&agent)? != first;
            Ok(alone.then_some(()))
        })?;
        // By now another attempt would have been answered.
        std::thread::sleep(Duration::from_secs(4));
        settled(&agent, &charon)?;
        let begun = agent.log().matches("IKE SA established").count();
        ensure!(begun == 2, "{begun} IKE SAs");
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_asks_at_once_when_the_successor_of_a_child_sa_is_deleted() {
    scenario(
        "strongSwan gateway: deletes what it has just rekeyed",
        |net| {
            let ours = AgentConfig::client(&[Access::Ran]);
            let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
            both_ways(net, client)?;
            charon.swanctl(&["--rekey", "--child", "net"])?;
            wait("new keys", || {
                let sas = agent.sas()?;
                let new = |sa: &Value| sa["sends"] == true && sa["generation"] == 1;
                Ok(sas.iter().any(new).then_some(()))
            })?;
            // The old one is deleted at both ends, and lingers at ours.
            std::thread::sleep(Duration::from_millis(500));
            charon.terminate_child("net")?;
            let deleted = Instant::now();
            wait("traffic", || {
                Ok(passes(net, client).unwrap_or(false).then_some(()))
            })?;
            let took = deleted.elapsed();
            ensure!(
                took < Duration::from_secs(3),
                "{took:.1?} without a Child SA"
            );
            settled(&agent, &charon)?;
            Ok(format!("{took:.1?}"))
        },
    );
}
