//! MOBIKE both ways: our client moves at a strongSwan gateway, a strongSwan client
//! moves at ours. strongSwan is not told to use UDP: our side makes it.
//!
//! Its user-space ESP cannot change addresses of an SA (`kernel-libipsec`), so after
//! a move strongSwan rekeys the Child SA; the IKE SA stays the same one.

use anyhow::{Result, ensure};
use mifsec_tests::interop::moves::{
    bounded, ike_sa, leave, on_both, remote, return_to, silence, tier, wait_on, wait_remote_changed,
};
use mifsec_tests::interop::traffic::{both_ways, lease, under_load};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, End, scenario};
use mifsec_tests::lab::topology::Access;

use super::connect::our_client;

fn unforced(connection: Connection) -> Connection {
    connection.with(&["encap = no"])
}

#[test]
fn our_client_moves_from_wlan_to_ran_and_back_at_strongswan() {
    scenario("strongSwan gateway: our client moves by MOBIKE", |net| {
        let theirs = unforced(Connection::gateway());
        let ours = on_both().peer("require", "\"mobike\"");
        let (agent, charon, client) = our_client(net, &ours, &theirs)?;
        wait_on(&agent, Access::Wlan)?;
        ensure!(tier(&agent)? == "mobike", "{}", tier(&agent)?);
        both_ways(net, client)?;
        let before = ike_sa(&agent)?;
        let loss = under_load(net, client, || {
            leave(net, Access::Wlan)?;
            wait_on(&agent, Access::Ran)?;
            std::thread::sleep(std::time::Duration::from_secs(1));
            return_to(net, Access::Wlan)?;
            wait_on(&agent, Access::Wlan)
        })?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        ensure!(before == ike_sa(&agent)?, "another IKE SA");
        Ok(bounded(loss, 3)?.to_string())
    });
}

#[test]
fn a_strongswan_client_moves_from_wlan_to_ran_and_back_at_our_gateway() {
    scenario("strongSwan client: moves by MOBIKE", |net| {
        let agent = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
        let charon = Charon::start(net, End::Client, "prefer_best_path = yes\n")?;
        charon.load(&unforced(Connection::client()))?;
        charon.initiate("net")?;
        let client = lease(&agent)?;
        ensure!(tier(&agent)? == "mobike", "{}", tier(&agent)?);
        both_ways(net, client)?;
        let before = ike_sa(&agent)?;
        let mut places = vec![remote(&agent)?];
        let loss = under_load(net, client, || {
            leave(net, Access::Wlan)?;
            places.push(wait_remote_changed(&agent, &places[0])?);
            std::thread::sleep(std::time::Duration::from_secs(1));
            return_to(net, Access::Wlan)?;
            places.push(wait_remote_changed(&agent, &places[1])?);
            Ok(())
        })?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        ensure!(before == ike_sa(&agent)?, "another IKE SA");
        // strongSwan waits before it reacts to what the kernel says.
        Ok(format!("{}, {}", bounded(loss, 10)?, places.join(" then ")))
    });
}

#[test]
fn our_client_leaves_an_access_that_fell_silent_at_strongswan() {
    scenario("strongSwan gateway: our WLAN falls silent", |net| {
        let theirs = unforced(Connection::gateway());
        let (agent, charon, client) = our_client(net, &on_both(), &theirs)?;
        wait_on(&agent, Access::Wlan)?;
        both_ways(net, client)?;
        let before = ike_sa(&agent)?;
        let loss = under_load(net, client, || {
            silence(net, Access::Wlan)?;
            wait_on(&agent, Access::Ran)
        })?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        ensure!(before == ike_sa(&agent)?, "another IKE SA");
        Ok(bounded(loss, 15)?.to_string())
    });
}

#[test]
fn our_client_gets_another_address_at_strongswan() {
    scenario(
        "strongSwan gateway: our only access gets another address",
        |net| {
            net.only(Access::Ran)?;
            let ours = AgentConfig::client(&[Access::Ran]);
            let (agent, charon, client) = our_client(net, &ours, &unforced(Connection::gateway()))?;
            both_ways(net, client)?;
            let before = ike_sa(&agent)?;
            let loss = under_load(net, client, || -> Result<()> {
                let [old, _, new] = Access::Ran.attachments();
                net.topology.remove_address(Access::Ran, old)?;
                net.topology.add_address(Access::Ran, new)?;
                net.topology.add_route(Access::Ran, new)?;
                wait_on(&agent, Access::Ran)
            })?;
            both_ways(net, client)?;
            charon.wait_for(1, 1)?;
            agent.wait_for(1, 1)?;
            ensure!(before == ike_sa(&agent)?, "another IKE SA");
            Ok(bounded(loss, 3)?.to_string())
        },
    );
}
