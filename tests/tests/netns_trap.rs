//! `start = "trap"`: two agents of ours, of which the client connects when there is
//! a packet for the gateway's network, and the router as witness.
#![expect(clippy::print_stdout, reason = "a skipped test says why")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mifsec_tests::interop::traffic::{both_ways, lease};
use mifsec_tests::interop::{Agent, AgentConfig, End, Net, agent, scenario, wait};
use mifsec_tests::lab::capture::Capture;
use mifsec_tests::lab::sys;
use mifsec_tests::lab::topology::Access;

/// How long nobody may say anything.
const QUIET: Duration = Duration::from_secs(2);

fn run(name: &str, work: impl FnOnce(&Net) -> Result<String>) {
    if sys::is_root() && agent::binary().is_ok() {
        scenario(name, work);
    } else {
        println!("skipped: needs root and the built agent");
    }
}

fn client() -> AgentConfig {
    AgentConfig::client(&[Access::Wlan, Access::Ran]).peer("start", "\"trap\"")
}

fn state(agent: &Agent) -> Result<String> {
    let peers = agent.peers()?;
    let state = peers.first().and_then(|peer| peer["state"].as_str());
    Ok(state.context("no peer")?.to_owned())
}

fn wait_waiting(agent: &Agent) -> Result<()> {
    wait("a client that waits", || {
        Ok((state(agent)? == "waiting").then_some(()))
    })
}

fn trapped(agent: &Agent) -> Result<u64> {
    let status = agent.json("status")?;
    Ok(status["counters"]["trapped"].as_u64().unwrap_or(0))
}

/// For a while there is no IKE and the peer is not being connected.
fn quiet(agent: &Agent, capture: &Capture) -> Result<()> {
    let before = capture.seen();
    sleep(QUIET);
    let seen = capture.seen().since(&before);
    let ike: BTreeMap<_, _> = seen.ike.into_iter().filter(|(_, n)| *n > 0).collect();
    ensure!(ike.is_empty(), "IKE without a packet: {ike:?}");
    ensure!(state(agent)? == "waiting", "{}", state(agent)?);
    Ok(())
}

/// One connection that leaves the source address to the kernel, repeated as
/// applications do, until the server has answered. What it was sent from.
fn any_connection(net: &Net, server: IpAddr) -> Result<IpAddr> {
    let listener = net
        .topology
        .srv
        .run(|| TcpListener::bind(SocketAddr::new(server, 0)))??;
    let address = listener.local_addr()?;
    wait("a connection to the server", || {
        let limit = Duration::from_millis(500);
        let connect = || TcpStream::connect_timeout(&address, limit);
        let Ok(mut one) = net.topology.eu.run(connect)? else {
            return Ok(None);
        };
        let (mut other, _) = listener.accept()?;
        one.write_all(b"hello")?;
        let mut got = [0; 5];
        other.read_exact(&mut got)?;
        Ok(Some(one.local_addr()?.ip()))
    })
}

#[test]
fn the_first_packet_connects_and_after_the_end_the_next_one_does() {
    run("mifsec, start = \"trap\": a lease", |net| {
        let mut gateway = Agent::prepare(net, End::Gateway)?;
        gateway.run(&AgentConfig::gateway())?;
        let capture = Capture::start(&net.topology, true)?;
        let eu = Agent::start(net, End::Client, &client())?;
        wait_waiting(&eu)?;
        let routes = net.show(&net.topology.eu, "route show table 4500")?;
        let caught = routes.contains("10.99.0.0/24 dev mif0") && routes.contains("src 192.0.0.8");
        ensure!(caught, "{routes}");
        quiet(&eu, &capture)?;
        ensure!(trapped(&eu)? == 0, "nothing was sent yet");

        let server = Net::server(IpAddr::from([0, 0, 0, 0]));
        let source = any_connection(net, server)?;
        let inner = lease(&eu)?;
        ensure!(source == inner, "sent from {source}, leased {inner}");
        ensure!(trapped(&eu)? > 0, "what came first is counted");
        both_ways(net, inner)?;
        let routes = net.show(&net.topology.eu, "address show dev mif0")?;
        ensure!(!routes.contains("192.0.0.8"), "{routes}");

        // The gateway's host forwards in clear what the tunnel is gone for.
        net.expect_clear(End::Gateway);
        gateway.stop()?;
        wait_waiting(&eu)?;
        quiet(&eu, &capture)?;
        gateway.run(&AgentConfig::gateway())?;
        quiet(&eu, &capture)?;
        any_connection(net, server)?;
        both_ways(net, lease(&eu)?)?;
        Ok(format!("lease {inner}, {} packets dropped", trapped(&eu)?))
    });
}

#[test]
fn attempts_that_fail_wait_for_another_packet() {
    run("mifsec, start = \"trap\": no gateway", |net| {
        let capture = Capture::start(&net.topology, true)?;
        let ours = client().peer("remote_id", "\"somebody-else@example.org\"");
        let _gateway = Agent::start(net, End::Gateway, &AgentConfig::gateway())?;
        let eu = Agent::start(net, End::Client, &ours)?;
        wait_waiting(&eu)?;
        let server = SocketAddr::new(Net::server(IpAddr::from([0, 0, 0, 0])), 9);
        let limit = Duration::from_millis(100);
        let connect = || TcpStream::connect_timeout(&server, limit);
        ensure!(net.topology.eu.run(connect)?.is_err(), "nobody is there");
        let reason = eu.wait_reason("refused our authentication")?;
        wait_waiting(&eu)?;
        quiet(&eu, &capture)?;
        Ok(reason)
    });
}

#[test]
fn a_connection_between_networks_goes_on_when_its_first_packet_has_connected() {
    run("mifsec, start = \"trap\": networks", |net| {
        let ours = "[\"10.98.0.0/24\"]";
        let mut config = client().child("local_ts", ours);
        config.peer.remove("addresses");
        let mut theirs = AgentConfig::gateway().child("remote_ts", ours);
        theirs.peer.remove("pool");
        theirs.pools.clear();
        let [eu, gw] = [&net.topology.eu, &net.topology.gw];
        net.ip(eu, "address add 10.98.0.1/32 dev lo")?;
        let _gateway = Agent::start(net, End::Gateway, &theirs)?;
        net.ip(gw, "route add 10.98.0.0/24 dev mif0")?;
        let capture = Capture::start(&net.topology, true)?;
        let agent = Agent::start(net, End::Client, &config)?;
        wait_waiting(&agent)?;
        quiet(&agent, &capture)?;
        let inner = IpAddr::from([10, 98, 0, 1]);
        both_ways(net, inner)?;
        ensure!(trapped(&agent)? > 0, "what came first is counted");
        Ok(String::new())
    });
}
