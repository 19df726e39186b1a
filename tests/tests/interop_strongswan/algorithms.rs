//! What RFC 8247 and RFC 8221 ask for beside the default offer.

use anyhow::{Result, ensure};
use mifsec_tests::interop::traffic::both_ways;
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, Net, scenario};
use mifsec_tests::lab::topology::Access;

use crate::connect::{our_client, strongswan_client};

/// (IKE, ESP) as both ends spell them, and what strongSwan lists then.
const SUITES: [(&str, &str, [&str; 2]); 5] = [
    (
        "aes256-sha256-modp2048",
        "aes128-sha256",
        [
            "AES_CBC-256/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256/MODP_2048",
            "AES_CBC-128/HMAC_SHA2_256_128",
        ],
    ),
    (
        "aes128-sha512-ecp256",
        "aes256-sha512",
        [
            "AES_CBC-128/HMAC_SHA2_512_256/PRF_HMAC_SHA2_512/ECP_256",
            "AES_CBC-256/HMAC_SHA2_512_256",
        ],
    ),
    (
        "aes256-sha384-ecp384",
        "aes256-sha384",
        [
            "AES_CBC-256/HMAC_SHA2_384_192/PRF_HMAC_SHA2_384/ECP_384",
            "AES_CBC-256/HMAC_SHA2_384_192",
        ],
    ),
    (
        "aes256gcm16-prfsha384-ecp384",
        "aes256gcm16",
        ["AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384", "AES_GCM_16-256"],
    ),
    (
        "aes128gcm16-prfsha256-x25519",
        "aes128gcm16",
        [
            "AES_GCM_16-128/PRF_HMAC_SHA2_256/CURVE_25519",
            "AES_GCM_16-128",
        ],
    ),
];

type Connect = for<'a> fn(
    &'a Net,
    &AgentConfig,
    &Connection,
) -> Result<(Agent<'a>, Charon<'a>, std::net::IpAddr)>;

fn each(net: &Net, ours: &AgentConfig, theirs: &Connection, connect: Connect) -> Result<String> {
    for (ike, esp, listed) in SUITES {
        let ours = ours
            .clone()
            .peer("ike", &format!("[\"{ike}\"]"))
            .peer("esp", &format!("[\"{esp}\"]"));
        let theirs = theirs
            .clone()
            .with(&[&format!("proposals = {ike}")])
            .child(&[&format!("esp_proposals = {esp}")]);
        let (agent, charon, client) = connect(net, &ours, &theirs)?;
        both_ways(net, client)?;
        let sas = charon.sas()?;
        for listed in listed {
            ensure!(sas.contains(listed), "{listed} is not in {sas}");
        }
        agent.stop()?;
        charon.stop()?;
    }
    Ok(format!("{} suites", SUITES.len()))
}

#[test]
fn a_strongswan_client_with_each_suite() {
    scenario("strongSwan client: CBC, HMAC, MODP and the rest", |net| {
        each(
            net,
            &AgentConfig::gateway(),
            &Connection::client(),
            strongswan_client,
        )
    });
}

#[test]
fn our_client_with_each_suite_at_strongswan() {
    scenario("strongSwan gateway: CBC, HMAC, MODP and the rest", |net| {
        let ours = AgentConfig::client(&[Access::Ran]);
        each(net, &ours, &Connection::gateway(), our_client)
    });
}

#[test]
fn one_word_turns_on_what_every_implementation_has() {
    scenario(
        "strongSwan client: our offer is \"default\" and \"legacy\"",
        |net| {
            let ours = AgentConfig::gateway()
                .peer("ike", "[\"default\", \"legacy\"]")
                .peer("esp", "[\"default\", \"legacy\"]");
            let theirs = Connection::client()
                .with(&["proposals = aes128-sha256-modp2048"])
                .child(&["esp_proposals = aes256-sha256"]);
            let (_agent, _charon, client) = strongswan_client(net, &ours, &theirs)?;
            both_ways(net, client)?;
            Ok(String::new())
        },
    );
}
