//! Against Debian's strongSwan 5.9.8, both roles; see `mifsec_tests::interop`.
//!
//! Needs root, strongSwan and the built agent; `cargo xtask test interop` sees to
//! all three. Nothing here is skipped.

use anyhow::{Result, ensure};
use mifsec_tests::interop::traffic::{both_ways, lease};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, End, Net, scenario};
use mifsec_tests::lab::topology::Access;

#[test]
fn a_strongswan_client_gets_a_lease_from_our_gateway() {
    scenario(
        "strongSwan client, our gateway: shared key, IPv4 lease",
        |net| {
            let agent = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
            let charon = Charon::with(net, End::Client, &Connection::client())?;
            charon.initiate("net")?;
            let client = lease(&agent)?;
            both_ways(net, client)?;
            charon.wait_for(1, 1)?;
            agent.wait_for(1, 1)?;
            Ok(String::new())
        },
    );
}

#[test]
fn our_client_gets_a_lease_from_a_strongswan_gateway() {
    scenario(
        "our client, strongSwan gateway: shared key, IPv4 lease",
        |net| {
            let charon = Charon::with(net, End::Gateway, &Connection::gateway())?;
            let agent = Agent::start(net, End::Client, &AgentConfig::client(&[Access::Ran]))?;
            let client = lease(&agent)?;
            both_ways(net, client)?;
            charon.wait_for(1, 1)?;
            agent.wait_for(1, 1)?;
            Ok(String::new())
        },
    );
}
