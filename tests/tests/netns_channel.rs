//! The access of the IKE channel dies without a word and without data on it: the
//! channel goes to another one by itself (R81), between real agents.
//!
//! Needs root and the built `mifsec` binary; says so and passes otherwise.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mifsec_tests::interop::agent::{Agent, AgentConfig};
use mifsec_tests::interop::net::{End, Net};
use mifsec_tests::lab::topology::Access;
use mifsec_tests::session;

/// The access the channel of the only IKE SA is on.
fn channel(agent: &Agent<'_>) -> Result<String> {
    let peers = agent.established()?;
    let peer = peers.first().context("no IKE SA")?;
    Ok(peer["channel"].as_str().unwrap_or_default().to_owned())
}

fn fails_over(net: &Net) -> Result<String> {
    let mut client = AgentConfig::client(&[Access::Wlan, Access::Ran]).peer("dpd", "\"2s\"");
    client.accesses[0].insert("priority", "1".into());
    let gw = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
    let eu = Agent::start(net, End::Client, &client)?;
    eu.wait_for(1, 2)?;
    gw.wait_for(1, 2)?;
    let before = channel(&eu)?;
    ensure!(before == Access::Ran.link(), "the channel is on {before}");
    net.topology.nft(
        "add chain ip lab dead { type filter hook forward priority -4; }; \
         add rule ip lab dead iifname ran drop; add rule ip lab dead oifname ran drop",
    )?;
    let begun = Instant::now();
    while channel(&eu)? != Access::Wlan.link() {
        let waited = begun.elapsed();
        ensure!(
            waited < Duration::from_secs(15),
            "still on the RAN after {waited:?}"
        );
        sleep(Duration::from_millis(50));
    }
    let took = begun.elapsed();
    // Signs of life go on, in the same IKE SA.
    sleep(Duration::from_secs(6));
    ensure!(eu.established()?.len() == 1 && gw.established()?.len() == 1);
    ensure!(eu.sas()?.len() == 2, "{:?}", eu.sas()?);
    for (agent, name) in [(&eu, "the end user"), (&gw, "the gateway")] {
        let log = agent.log();
        ensure!(!log.contains("IKE SA closed"), "{name} lost the IKE SA");
    }
    Ok(format!(
        "dead without data at 0 ms, channel on the WLAN after {} ms",
        took.as_millis()
    ))
}

#[test]
fn the_channel_leaves_an_access_that_died_without_a_word() {
    mifsec_tests::covers!("R81");
    if let Some(why) = session::missing() {
        println!("skipped: {why}");
        return;
    }
    let net = Net::new().unwrap();
    match fails_over(&net) {
        Ok(said) => println!("{said}"),
        Err(error) => panic!("{error:#}\n{}", net.logs()),
    }
}
