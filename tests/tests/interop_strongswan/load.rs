//! Cookies, and Child SAs that come later.

use anyhow::ensure;
use mifsec_tests::interop::flood::half_open;
use mifsec_tests::interop::traffic::{both_ways, lease};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, End, Net, scenario};
use mifsec_tests::lab::topology::Access;

use crate::connect::{our_client, strongswan_client};

#[test]
fn our_client_returns_the_cookie_of_a_strongswan_gateway() {
    scenario("strongSwan gateway: asks for a cookie", |net| {
        let charon = Charon::start(
            net,
            End::Gateway,
            "cookie_threshold = 1\nblock_threshold = 0\nfilelog {\nstderr {\nnet = 2\n}\n}",
        )?;
        charon.load(&Connection::gateway())?;
        let open = half_open(net, Net::gateway().into(), 3)?;
        ensure!(open >= 1, "no half-open IKE SA at strongSwan");
        let agent = Agent::start(net, End::Client, &AgentConfig::client(&[Access::Ran]))?;
        both_ways(net, lease(&agent)?)?;
        charon.wait_log("COOKIE")?;
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_client_returns_the_cookie_of_our_gateway() {
    scenario("strongSwan client: our gateway asks for a cookie", |net| {
        net.only(Access::Ran)?;
        let agent = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
        let charon = Charon::with(net, End::Client, &Connection::client())?;
        let open = half_open(net, Net::gateway().into(), 100)?;
        ensure!((10..100).contains(&open), "{open} half-open IKE SAs");
        let said = charon.initiate("net")?;
        ensure!(said.contains("N(COOKIE)"), "{said}");
        both_ways(net, lease(&agent)?)?;
        Ok(format!("{open} half-open"))
    });
}

#[test]
fn a_strongswan_client_connects_without_a_child_and_makes_it_later() {
    scenario("strongSwan client: childless initiation", |net| {
        let theirs = Connection::client().with(&["childless = force"]);
        let (agent, charon, client) = strongswan_client(net, &AgentConfig::gateway(), &theirs)?;
        both_ways(net, client)?;
        ensure!(
            charon.log().contains("CREATE_CHILD_SA request"),
            "the Child SA came with IKE_AUTH"
        );
        agent.wait_for(1, 1)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_connects_to_strongswan_without_a_child_and_makes_it_later() {
    scenario("strongSwan gateway: childless initiation", |net| {
        for childless in ["allow", "force"] {
            let theirs = Connection::gateway().with(&[&format!("childless = {childless}")]);
            let ours = AgentConfig::client(&[Access::Ran]).peer("childless", "true");
            let (agent, charon, client) = our_client(net, &ours, &theirs)?;
            both_ways(net, client)?;
            charon.wait_for(1, 1)?;
            agent.wait_for(1, 1)?;
            ensure!(
                charon.log().contains("parsed CREATE_CHILD_SA request"),
                "the Child SA came with IKE_AUTH"
            );
            // Its host forwards in clear what the tunnel is gone for.
            net.expect_clear(End::Gateway);
            agent.stop()?;
            charon.stop()?;
        }
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_gateway_that_never_takes_a_childless_initiation_is_told_apart() {
    scenario("strongSwan gateway: no childless initiation", |net| {
        let theirs = Connection::gateway().with(&["childless = never"]);
        let ours = AgentConfig::client(&[Access::Ran]).peer("childless", "true");
        let _charon = Charon::with(net, End::Gateway, &theirs)?;
        let agent = Agent::start(net, End::Client, &ours)?;
        agent.wait_reason("childless")
    });
}
