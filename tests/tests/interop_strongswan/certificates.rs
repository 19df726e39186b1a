//! Certificates instead of shared keys: every kind of key, chains, fragments.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use mifsec_tests::interop::traffic::{both_ways, lease, passes};
use mifsec_tests::interop::{
    Agent, AgentConfig, CLIENT_ID, Charon, Connection, End, GATEWAY_ID, Net, scenario, wait,
};
use mifsec_tests::lab::topology::Access;
use mifsec_tests::pki::{Authority, Issued, Key, Request};

/// Where each end's identity is its certificate's.
fn by_certificate(mut config: AgentConfig) -> AgentConfig {
    config.peer.remove("psk_file");
    config
        .peer("certificate", "\"cert.pem\"")
        .peer("private_key", "\"key.pem\"")
        .peer("ca", "\"ca.pem\"")
}

fn their_certificate(mut connection: Connection, auth: &str) -> Connection {
    connection.local.push(format!("auth = {auth}"));
    connection.local.push("certs = cert.pem".into());
    connection.remote.push("auth = pubkey".into());
    connection.secrets.clear();
    connection
}

/// Each certificate of a chain in a file of its own, as swanctl wants them.
fn give_strongswan(charon: &Charon, issued: &Issued, root: &Authority) -> Result<()> {
    let dir = charon.dir.join("swanctl");
    let mut chain = issued.chain.split_inclusive("-----END CERTIFICATE-----\n");
    let own = chain.next().context("no certificate")?;
    fs::write(dir.join("x509/cert.pem"), own)?;
    for (number, above) in chain.filter(|pem| pem.contains("BEGIN")).enumerate() {
        fs::write(dir.join(format!("x509ca/above{number}.pem")), above)?;
    }
    fs::write(dir.join("x509ca/root.pem"), root.pem())?;
    fs::write(dir.join("private/key.pem"), &issued.key)?;
    Ok(())
}

fn give_us(agent: &Agent, issued: &Issued, root: &Authority) -> Result<()> {
    agent.write("cert.pem", &issued.chain)?;
    agent.write("key.pem", &issued.key)?;
    agent.write("ca.pem", &root.pem())
}

/// Both ends up with these certificates, at the roles given.
fn connected<'a>(
    net: &'a Net,
    ours: (End, &Issued),
    theirs: (&Issued, &str),
    root: &Authority,
) -> Result<(Agent<'a>, Charon<'a>)> {
    let mut agent = Agent::prepare(net, ours.0)?;
    give_us(&agent, ours.1, root)?;
    match ours.0 {
        End::Gateway => {
            agent.run(&by_certificate(AgentConfig::gateway()))?;
            let charon = Charon::start(net, End::Client, "")?;
            give_strongswan(&charon, theirs.0, root)?;
            charon.load(&their_certificate(Connection::client(), theirs.1))?;
            charon.initiate("net")?;
            Ok((agent, charon))
        }
        End::Client => {
            let charon = Charon::start(net, End::Gateway, "")?;
            give_strongswan(&charon, theirs.0, root)?;
            charon.load(&their_certificate(Connection::gateway(), theirs.1))?;
            agent.run(&by_certificate(AgentConfig::client(&[Access::Ran])))?;
            Ok((agent, charon))
        }
    }
}

/// (our key, strongSwan's key, strongSwan's `auth`, what it logs of both).
const KEYS: [(Key, Key, &str, [&str; 2]); 5] = [
    (
        Key::P256,
        Key::P384,
        "pubkey",
        ["ECDSA_WITH_SHA256_DER", "ECDSA_WITH_SHA384_DER"],
    ),
    (
        Key::P384,
        Key::P256,
        "pubkey",
        ["ECDSA_WITH_SHA384_DER", "ECDSA_WITH_SHA256_DER"],
    ),
    (Key::Ed25519, Key::Ed25519, "pubkey", ["ED25519", "ED25519"]),
    (
        Key::Rsa,
        Key::Rsa,
        "rsa/pss-sha256",
        ["RSA_EMSA_PSS", "RSA_EMSA_PSS"],
    ),
    (
        Key::Rsa,
        Key::Rsa,
        "rsa-sha384",
        ["RSA_EMSA", "RSA_EMSA_PKCS1_SHA2_384"],
    ),
];

fn every_key(net: &Net, end: End) -> Result<String> {
    let root = Authority::root("Interop Root", Key::P256);
    let (we, they) = match end {
        End::Client => (CLIENT_ID, GATEWAY_ID),
        End::Gateway => (GATEWAY_ID, CLIENT_ID),
    };
    let mut seen = Vec::new();
    for (our_key, their_key, auth, logged) in KEYS {
        let ours = root.issue(&Request::new(our_key, we));
        let theirs = root.issue(&Request::new(their_key, they));
        let (agent, charon) = connected(net, (end, &ours), (&theirs, auth), &root)?;
        both_ways(net, lease(&agent)?)?;
        let log = charon.log();
        let line = |of: &str| {
            let found = log
                .lines()
                .find(|l| l.contains(&format!("authentication of '{of}'")) && l.contains("with "));
            found.unwrap_or_default().to_string()
        };
        for (who, expected) in [we, they].into_iter().zip(logged) {
            let line = line(who);
            ensure!(line.contains(expected), "{expected} is not in {line:?}");
            seen.extend(
                line.split("with ")
                    .nth(1)
                    .map(|w| w.split(' ').next().unwrap_or_default().to_string()),
            );
        }
        agent.stop()?;
        charon.stop()?;
    }
    seen.sort();
    seen.dedup();
    Ok(seen.join(", "))
}

#[test]
fn a_strongswan_client_and_our_gateway_prove_themselves_by_certificates() {
    scenario("strongSwan client: certificates of every kind", |net| {
        every_key(net, End::Gateway)
    });
}

#[test]
fn our_client_and_a_strongswan_gateway_prove_themselves_by_certificates() {
    scenario("strongSwan gateway: certificates of every kind", |net| {
        every_key(net, End::Client)
    });
}

/// Fragments of IP packets are lost, as on many real paths.
fn narrow(net: &Net) -> Result<()> {
    net.mtu(Access::Ran, 1280)?;
    net.topology.nft(
        "add chain ip lab raw { type filter hook prerouting priority -450; }; \
         add rule ip lab raw ip frag-off & 0x3fff != 0 drop;",
    )
}

fn long_chains(net: &Net, end: End) -> Result<String> {
    net.only(Access::Ran)?;
    narrow(net)?;
    let root = Authority::root("Interop Root", Key::P256);
    let deep = root
        .intermediate("Interop Region", Key::Rsa)
        .intermediate("Interop City", Key::Rsa)
        .intermediate("Interop House", Key::Rsa);
    let (we, they) = match end {
        End::Client => (CLIENT_ID, GATEWAY_ID),
        End::Gateway => (GATEWAY_ID, CLIENT_ID),
    };
    let ours = deep.issue(&Request::new(Key::Rsa, we));
    let theirs = deep.issue(&Request::new(Key::Rsa, they));
    let (agent, charon) = connected(net, (end, &ours), (&theirs, "pubkey"), &root)?;
    let client = lease(&agent)?;
    // Small ones: strongSwan's TUN knows nothing of the path.
    wait("an answer", || Ok(passes(net, client)?.then_some(())))?;
    let log = charon.log();
    for words in [
        "splitting IKE message",
        "reassembled fragmented IKE message",
    ] {
        ensure!(log.contains(words), "strongSwan did not say {words:?}");
    }
    let fragments = log
        .lines()
        .filter(|l| l.contains("received fragment #"))
        .count();
    Ok(format!("{fragments} fragments of ours"))
}

#[test]
fn a_strongswan_client_sends_a_long_chain_over_a_narrow_path() {
    scenario("strongSwan client: long chains in fragments", |net| {
        long_chains(net, End::Gateway)
    });
}

#[test]
fn our_client_sends_a_long_chain_over_a_narrow_path() {
    scenario("strongSwan gateway: long chains in fragments", |net| {
        long_chains(net, End::Client)
    });
}

#[test]
fn a_strongswan_client_of_an_unknown_authority_is_refused() {
    scenario(
        "strongSwan client: certificate of an unknown authority",
        |net| {
            let root = Authority::root("Interop Root", Key::P256);
            let other = Authority::root("Other Root", Key::P256);
            let mut agent = Agent::prepare(net, End::Gateway)?;
            give_us(
                &agent,
                &root.issue(&Request::new(Key::P256, GATEWAY_ID)),
                &root,
            )?;
            agent.run(&by_certificate(AgentConfig::gateway()))?;
            let charon = Charon::start(net, End::Client, "")?;
            give_strongswan(
                &charon,
                &other.issue(&Request::new(Key::P256, CLIENT_ID)),
                &other,
            )?;
            charon.load(&their_certificate(Connection::client(), "pubkey"))?;
            let Err(error) = charon.initiate("net") else {
                bail!("strongSwan connected");
            };
            let said = format!("{error:#}");
            ensure!(said.contains("AUTHENTICATION_FAILED"), "{said}");
            agent.wait_log("IKE SA failed")?;
            let log = agent.log();
            let line = log.lines().find(|l| l.contains("IKE SA failed"));
            Ok(line
                .and_then(|l| l.split("reason=").nth(1))
                .unwrap_or_default()
                .to_string())
        },
    );
}
