//! Connections that must not come up: a clear error at both ends.

use anyhow::{Result, bail, ensure};
use mifsec_tests::interop::{Agent, AgentConfig, Charon, Connection, End, Net, scenario};
use mifsec_tests::lab::topology::Access;

/// A strongSwan client that is refused: strongSwan's words, and what our log says.
fn client_refused(
    net: &Net,
    ours: &AgentConfig,
    theirs: &Connection,
    their_words: &str,
    our_words: &str,
) -> Result<String> {
    let agent = Agent::start(net, End::Gateway, ours)?;
    let charon = Charon::with(net, End::Client, theirs)?;
    let Err(error) = charon.initiate("net") else {
        bail!("strongSwan connected: {}", charon.sas()?);
    };
    let said = format!("{error:#}");
    ensure!(said.contains(their_words), "strongSwan says {said}");
    agent.wait_log(our_words)?;
    Ok(format!("{their_words:?} there, {our_words:?} here"))
}

/// Our client that is refused: what strongSwan logs, and our reason.
fn gateway_refuses(
    net: &Net,
    ours: &AgentConfig,
    theirs: &Connection,
    their_words: &str,
    our_words: &str,
) -> Result<String> {
    let charon = Charon::with(net, End::Gateway, theirs)?;
    let agent = Agent::start(net, End::Client, ours)?;
    agent.wait_log(our_words)?;
    charon.wait_log(their_words)?;
    Ok(format!("{their_words:?} there, {our_words:?} here"))
}

fn our_end() -> AgentConfig {
    AgentConfig::client(&[Access::Ran])
}

#[test]
fn a_strongswan_client_with_a_wrong_secret_is_refused() {
    scenario("strongSwan client: wrong secret", |net| {
        let mut theirs = Connection::client();
        theirs.secrets = Connection::shared("something else");
        client_refused(
            net,
            &AgentConfig::gateway(),
            &theirs,
            "AUTHENTICATION_FAILED",
            "the secret of \"carol@example.org\" differs at the two ends",
        )
    });
}

#[test]
fn our_client_with_a_wrong_secret_is_refused() {
    scenario("strongSwan gateway: wrong secret", |net| {
        let mut ours = our_end();
        ours.secret = "something else".into();
        gateway_refuses(
            net,
            &ours,
            &Connection::gateway(),
            "but MAC mismatched",
            "the peer refused our authentication",
        )
    });
}

#[test]
fn a_strongswan_client_nobody_knows_is_refused() {
    scenario("strongSwan client: unknown identity", |net| {
        let mut theirs = Connection::client();
        theirs.local.push("id = carol@elsewhere.org".into());
        theirs.secrets = vec!["ike-1 {\n secret = interop-secret\n }".into()];
        client_refused(
            net,
            &AgentConfig::gateway(),
            &theirs,
            "AUTHENTICATION_FAILED",
            "unknown peer \"carol@elsewhere.org\"",
        )
    });
}

#[test]
fn a_strongswan_gateway_that_is_somebody_else_is_refused() {
    scenario("strongSwan gateway: another identity", |net| {
        let mut theirs = Connection::gateway();
        theirs.local.push("id = other.example.org".into());
        theirs.secrets = vec!["ike-1 {\n secret = interop-secret\n }".into()];
        gateway_refuses(
            net,
            &our_end(),
            &theirs,
            "no matching peer config found",
            "the peer refused our authentication",
        )
    });
}

#[test]
fn a_strongswan_client_without_common_ike_algorithms_is_refused() {
    scenario("strongSwan client: no common IKE algorithms", |net| {
        let theirs = Connection::client().with(&["proposals = aes192-sha384-modp3072"]);
        client_refused(
            net,
            &AgentConfig::gateway(),
            &theirs,
            "NO_PROPOSAL_CHOSEN",
            "no common IKE algorithms",
        )
    });
}

#[test]
fn our_client_without_common_ike_algorithms_is_refused() {
    scenario("strongSwan gateway: no common IKE algorithms", |net| {
        let theirs = Connection::gateway().with(&["proposals = aes192-sha384-modp3072"]);
        gateway_refuses(
            net,
            &our_end(),
            &theirs,
            "received proposals unacceptable",
            "no common IKE algorithms",
        )
    });
}

#[test]
fn a_strongswan_client_without_common_esp_algorithms_is_refused() {
    scenario("strongSwan client: no common ESP algorithms", |net| {
        let theirs = Connection::client().child(&["esp_proposals = aes192gcm16"]);
        client_refused(
            net,
            &AgentConfig::gateway(),
            &theirs,
            "NO_PROPOSAL_CHOSEN",
            "no common ESP algorithms",
        )
    });
}

#[test]
fn our_client_without_common_esp_algorithms_is_refused() {
    scenario("strongSwan gateway: no common ESP algorithms", |net| {
        let theirs = Connection::gateway().child(&["esp_proposals = aes192gcm16"]);
        gateway_refuses(
            net,
            &our_end(),
            &theirs,
            "no acceptable proposal found",
            "no common ESP algorithms",
        )
    });
}

#[test]
fn a_strongswan_client_that_asks_for_another_network_is_refused() {
    scenario("strongSwan client: traffic selectors unacceptable", |net| {
        let theirs = Connection::client().child(&["remote_ts = 172.16.0.0/16"]);
        client_refused(
            net,
            &AgentConfig::gateway(),
            &theirs,
            "TS_UNACCEPT",
            "no common traffic selectors",
        )
    });
}

#[test]
fn our_client_that_asks_for_another_network_is_refused() {
    scenario(
        "strongSwan gateway: traffic selectors unacceptable",
        |net| {
            let ours = our_end().child("remote_ts", "[\"172.16.0.0/16\"]");
            gateway_refuses(
                net,
                &ours,
                &Connection::gateway(),
                "traffic selectors",
                "no common traffic selectors",
            )
        },
    );
}

#[test]
fn a_strongswan_client_is_refused_where_interfaces_must_be_spoken_of() {
    scenario("strongSwan client: require = mif", |net| {
        let ours = AgentConfig::gateway().peer("require", "\"mif\"");
        client_refused(
            net,
            &ours,
            &Connection::client(),
            "AUTHENTICATION_FAILED",
            "the peer does not speak IKEv2-MIF",
        )
    });
}

#[test]
fn our_client_refuses_a_strongswan_gateway_where_interfaces_must_be_spoken_of() {
    scenario("strongSwan gateway: require = mif", |net| {
        let ours = our_end().peer("require", "\"mif\"");
        gateway_refuses(
            net,
            &ours,
            &Connection::gateway(),
            "received DELETE for IKE_SA",
            "the peer does not speak IKEv2-MIF",
        )
    });
}

#[test]
fn a_strongswan_client_without_mobike_is_refused_where_it_must_move() {
    scenario(
        "strongSwan client: require = mobike, but it has none",
        |net| {
            let ours = AgentConfig::gateway().peer("require", "\"mobike\"");
            let theirs = Connection::client().with(&["mobike = no"]);
            client_refused(
                net,
                &ours,
                &theirs,
                "AUTHENTICATION_FAILED",
                "speaks neither IKEv2-MIF nor MOBIKE",
            )
        },
    );
}

#[test]
fn our_client_refuses_a_strongswan_gateway_without_mobike_where_it_must_move() {
    scenario(
        "strongSwan gateway: require = mobike, but it has none",
        |net| {
            let ours = our_end().peer("require", "\"mobike\"");
            let theirs = Connection::gateway().with(&["mobike = no"]);
            gateway_refuses(
                net,
                &ours,
                &theirs,
                "received DELETE for IKE_SA",
                "speaks neither IKEv2-MIF nor MOBIKE",
            )
        },
    );
}
