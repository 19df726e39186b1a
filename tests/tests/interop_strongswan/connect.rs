//! Connections that come up: leases, families, NAT, several children.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use mifsec_tests::interop::net::{LAN_V4, LAN_V6, POOL_V4, POOL_V6};
use mifsec_tests::interop::traffic::{both_ways, lease};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, End, Net, scenario, wait};
use mifsec_tests::lab::topology::Access;

/// A strongSwan client that is connected to our gateway.
pub(crate) fn strongswan_client<'a>(
    net: &'a Net,
    ours: &AgentConfig,
    theirs: &Connection,
) -> Result<(Agent<'a>, Charon<'a>, IpAddr)> {
    let agent = Agent::start(net, End::Gateway, ours)?;
    let charon = Charon::with(net, End::Client, theirs)?;
    charon.initiate("net")?;
    let client = lease(&agent)?;
    Ok((agent, charon, client))
}

/// Our client, connected to a strongSwan gateway.
pub(crate) fn our_client<'a>(
    net: &'a Net,
    ours: &AgentConfig,
    theirs: &Connection,
) -> Result<(Agent<'a>, Charon<'a>, IpAddr)> {
    let charon = Charon::with(net, End::Gateway, theirs)?;
    let agent = Agent::start(net, End::Client, ours)?;
    let client = lease(&agent)?;
    Ok((agent, charon, client))
}

/// Both families at our gateway.
fn gateway_of_both() -> AgentConfig {
    AgentConfig::gateway()
        .pool("cidr", &format!("[\"{POOL_V4}\", \"{POOL_V6}\"]"))
        .child("local_ts", &format!("[\"{LAN_V4}\", \"{LAN_V6}\"]"))
}

/// Both families at a strongSwan gateway.
fn strongswan_of_both() -> Connection {
    let mut gateway = Connection::gateway()
        .with(&["pools = v4, v6"])
        .child(&[&format!("local_ts = {LAN_V4}, {LAN_V6}")]);
    gateway
        .pools
        .push(format!("v6 {{\n addrs = {POOL_V6}\n }}"));
    gateway
}

/// The address of each family, once there is one of each.
fn one_of_each(agent: &Agent) -> Result<[IpAddr; 2]> {
    wait("a lease of each family", || {
        let leases = agent.leases()?;
        let v4 = leases.iter().copied().find(IpAddr::is_ipv4);
        let v6 = leases.iter().copied().find(IpAddr::is_ipv6);
        Ok(v4.zip(v6).map(|(v4, v6)| [v4, v6]))
    })
}

#[test]
fn a_strongswan_client_gets_an_ipv4_lease() {
    scenario("strongSwan client: shared key, IPv4 lease", |net| {
        net.only(Access::Ran)?;
        let (agent, charon, client) =
            strongswan_client(net, &AgentConfig::gateway(), &Connection::client())?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        Ok(format!("lease {client}"))
    });
}

#[test]
fn our_client_gets_an_ipv4_lease_from_strongswan() {
    scenario("strongSwan gateway: shared key, IPv4 lease", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        Ok(format!("lease {client}"))
    });
}

#[test]
fn a_strongswan_client_gets_an_ipv6_lease() {
    scenario("strongSwan client: IPv6 lease", |net| {
        let ours = AgentConfig::gateway()
            .pool("cidr", &format!("[\"{POOL_V6}\"]"))
            .child("local_ts", &format!("[\"{LAN_V6}\"]"));
        let theirs = Connection::client()
            .with(&["vips = ::"])
            .child(&[&format!("remote_ts = {LAN_V6}")]);
        let (_agent, _charon, client) = strongswan_client(net, &ours, &theirs)?;
        ensure!(client.is_ipv6(), "{client}");
        both_ways(net, client)?;
        Ok(format!("lease {client}"))
    });
}

#[test]
fn our_client_gets_an_ipv6_lease_from_strongswan() {
    scenario("strongSwan gateway: IPv6 lease", |net| {
        let ours = AgentConfig::client(&[Access::Ran])
            .peer("addresses", "[\"ipv6\"]")
            .child("remote_ts", &format!("[\"{LAN_V6}\"]"));
        let mut theirs = Connection::gateway()
            .with(&["pools = v6"])
            .child(&[&format!("local_ts = {LAN_V6}")]);
        theirs.pools = vec![format!("v6 {{\n addrs = {POOL_V6}\n }}")];
        let (_agent, _charon, client) = our_client(net, &ours, &theirs)?;
        ensure!(client.is_ipv6(), "{client}");
        both_ways(net, client)?;
        Ok(format!("lease {client}"))
    });
}

#[test]
fn a_strongswan_client_gets_leases_of_both_families() {
    scenario("strongSwan client: leases of both families", |net| {
        let theirs = Connection::client()
            .with(&["vips = 0.0.0.0, ::"])
            .child(&[&format!("remote_ts = {LAN_V4}, {LAN_V6}")]);
        let (agent, _charon, _) = strongswan_client(net, &gateway_of_both(), &theirs)?;
        let leases = one_of_each(&agent)?;
        for client in leases {
            both_ways(net, client)?;
        }
        Ok(format!("leases {leases:?}"))
    });
}

#[test]
fn our_client_gets_leases_of_both_families_from_strongswan() {
    scenario("strongSwan gateway: leases of both families", |net| {
        let ours = AgentConfig::client(&[Access::Ran])
            .peer("addresses", "[\"ipv4\", \"ipv6\"]")
            .child("remote_ts", &format!("[\"{LAN_V4}\", \"{LAN_V6}\"]"));
        let (agent, _charon, _) = our_client(net, &ours, &strongswan_of_both())?;
        let leases = one_of_each(&agent)?;
        for client in leases {
            both_ways(net, client)?;
        }
        Ok(format!("leases {leases:?}"))
    });
}

#[test]
fn a_strongswan_client_connects_over_ipv6() {
    scenario("strongSwan client: outer IPv6", |net| {
        net.outer_v6()?;
        let gateway = mifsec_tests::interop::net::GATEWAY_V6;
        let mut ours = AgentConfig::gateway();
        ours.accesses[0].insert(
            "addresses",
            format!("[\"{}\", \"{gateway}\"]", Net::gateway()),
        );
        let theirs = Connection::client().with(&[&format!("remote_addrs = {gateway}")]);
        let (_agent, _charon, client) = strongswan_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_connects_to_strongswan_over_ipv6() {
    scenario("strongSwan gateway: outer IPv6", |net| {
        net.outer_v6()?;
        let gateway = mifsec_tests::interop::net::GATEWAY_V6;
        let ours = AgentConfig::client(&[Access::Ran]).peer("remote", &format!("[\"{gateway}\"]"));
        let theirs = Connection::gateway().with(&[&format!("local_addrs = {gateway}")]);
        let (_agent, _charon, client) = our_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_client_behind_nat_connects() {
    scenario("strongSwan client: behind NAT", |net| {
        net.only(Access::Wlan)?;
        // Nothing but the NAT itself makes it use UDP.
        let theirs = Connection::client().with(&["encap = no"]);
        let (_agent, _charon, client) = strongswan_client(net, &AgentConfig::gateway(), &theirs)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_behind_nat_connects_to_strongswan() {
    scenario("strongSwan gateway: our client behind NAT", |net| {
        let ours = AgentConfig::client(&[Access::Wlan]);
        let theirs = Connection::gateway().with(&["encap = no"]);
        let (_agent, _charon, client) = our_client(net, &ours, &theirs)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

/// What routers do when they restart: everybody gets another port.
fn nat_restarts(net: &Net) -> Result<()> {
    let rt = &net.topology.rt;
    net.ip(rt, "link set gw down")?;
    net.ip(rt, "link set gw up")
}

#[test]
fn our_gateway_follows_a_strongswan_client_whose_nat_restarts() {
    scenario("strongSwan client: its NAT restarts", |net| {
        net.only(Access::Wlan)?;
        let theirs = Connection::client().with(&["dpd_delay = 1s"]);
        let (agent, charon, client) = strongswan_client(net, &AgentConfig::gateway(), &theirs)?;
        both_ways(net, client)?;
        // A MOBIKE initiator tells a new mapping by comparing two answers.
        charon.wait_log("parsed INFORMATIONAL response 2")?;
        let before = agent.json("path")?["paths"][0]["remote"].clone();
        nat_restarts(net)?;
        both_ways(net, client)?;
        let after = agent.json("path")?["paths"][0]["remote"].clone();
        ensure!(before != after, "the NAT kept {before}");
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        Ok(format!("{before} became {after}"))
    });
}

#[test]
fn a_strongswan_gateway_follows_our_client_whose_nat_restarts() {
    scenario("strongSwan gateway: our NAT restarts", |net| {
        let ours = AgentConfig::client(&[Access::Wlan]).peer("dpd", "\"1s\"");
        let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
        both_ways(net, client)?;
        nat_restarts(net)?;
        both_ways(net, client)?;
        charon.wait_for(1, 1)?;
        agent.wait_for(1, 1)?;
        Ok(String::new())
    });
}

/// Halves of the server's network, for a child each.
const HALVES: [&str; 2] = ["10.99.0.0/25", "10.99.0.128/25"];

#[test]
fn a_strongswan_client_has_two_children() {
    scenario("strongSwan client: two children", |net| {
        let mut ours = AgentConfig::gateway();
        let mut theirs = Connection::client();
        ours.children = HALVES
            .iter()
            .zip(["\"net\"", "\"other\""])
            .map(|(half, name)| {
                [
                    ("name", name.to_string()),
                    ("local_ts", format!("[\"{half}\"]")),
                    ("remote_ts", "[\"dynamic\"]".into()),
                ]
                .into()
            })
            .collect();
        let child = |half| {
            vec![
                format!("remote_ts = {half}"),
                "esp_proposals = aes128gcm16".to_string(),
            ]
        };
        theirs.children = vec![
            ("net".into(), child(HALVES[0])),
            ("other".into(), child(HALVES[1])),
        ];
        net.ip(&net.topology.srv, "address add 10.99.0.200/24 dev srv0")?;
        let (agent, charon, client) = strongswan_client(net, &ours, &theirs)?;
        charon.initiate("other")?;
        charon.wait_for(1, 2)?;
        agent.wait_for(1, 2)?;
        both_ways(net, client)?;
        charon.terminate_child("other")?;
        agent.wait_for(1, 1)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn our_client_has_two_children_at_strongswan() {
    scenario("strongSwan gateway: two children", |net| {
        let mut ours = AgentConfig::client(&[Access::Ran]);
        let mut theirs = Connection::gateway();
        ours.children = HALVES
            .iter()
            .zip(["\"net\"", "\"other\""])
            .map(|(half, name)| {
                [
                    ("name", name.to_string()),
                    ("local_ts", "[\"dynamic\"]".into()),
                    ("remote_ts", format!("[\"{half}\"]")),
                ]
                .into()
            })
            .collect();
        let child = |half| {
            vec![
                format!("local_ts = {half}"),
                "esp_proposals = aes128gcm16".to_string(),
            ]
        };
        theirs.children = vec![
            ("net".into(), child(HALVES[0])),
            ("other".into(), child(HALVES[1])),
        ];
        let (agent, charon, client) = our_client(net, &ours, &theirs)?;
        charon.wait_for(1, 2)?;
        agent.wait_for(1, 2)?;
        both_ways(net, client)?;
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_client_learns_the_name_server() {
    scenario("strongSwan client: name server by CP", |net| {
        let ours = AgentConfig::gateway().pool("dns", "[\"10.99.0.53\"]");
        let (_agent, charon, _) = strongswan_client(net, &ours, &Connection::client())?;
        let written = fs::read_to_string(charon.dir.join("resolv.conf"))
            .context("strongSwan wrote no resolv.conf")?;
        ensure!(written.contains("nameserver 10.99.0.53"), "{written}");
        Ok(String::new())
    });
}

#[test]
fn a_strongswan_client_is_taken_when_anything_or_mobike_is_asked_for() {
    scenario("strongSwan client: require = any, mobike", |net| {
        for require in ["\"any\"", "\"mobike\""] {
            let ours = AgentConfig::gateway().peer("require", require);
            let (agent, charon, client) = strongswan_client(net, &ours, &Connection::client())?;
            both_ways(net, client)?;
            charon.stop()?;
            agent.stop()?;
        }
        Ok(String::new())
    });
}

#[test]
fn our_client_takes_a_strongswan_gateway_when_anything_or_mobike_is_asked_for() {
    scenario("strongSwan gateway: require = any, mobike", |net| {
        for require in ["\"any\"", "\"mobike\""] {
            let ours = AgentConfig::client(&[Access::Ran]).peer("require", require);
            let (agent, charon, client) = our_client(net, &ours, &Connection::gateway())?;
            both_ways(net, client)?;
            // Its host forwards in clear what the tunnel is gone for.
            net.expect_clear(End::Gateway);
            agent.stop()?;
            charon.stop()?;
        }
        Ok(String::new())
    });
}

#[test]
fn strongswan_gateways_tell_our_client_their_name_server() {
    scenario("strongSwan gateway: name server by CP", |net| {
        let mut theirs = Connection::gateway();
        theirs.pools = vec![format!("v4 {{\n addrs = {POOL_V4}\n dns = 10.99.0.53\n }}")];
        let ours = AgentConfig::client(&[Access::Ran]);
        let (agent, _charon, _) = our_client(net, &ours, &theirs)?;
        // Namespaces have no systemd-resolved: the agent says so and goes on.
        agent.wait_log("10.99.0.53")?;
        Ok(String::new())
    });
}
