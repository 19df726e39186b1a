//! Which entry of the peer authorisation database a peer falls under, which
//! secret or certificate proves us to it, and whether its own proof holds.

use std::net::IpAddr;
use std::sync::Arc;

use crate::crypto::Secret;
use crate::ike::cert::{self, KeyHash, certificates};
use crate::ike::config::PeerConfig;
use crate::ike::engine::Context;
use crate::ike::error::Failure;
use crate::ike::message::{Auth, AuthMethod, Id, Payload};
use crate::ike::peer::{Identity, IdentityPattern, LocalAuth, PskSource, authorise};
use crate::ike::task::Payloads;

use super::proof::{Announced, Proof, is_signature};

/// The entry for an initiator that called `from` there. Among patterns one that accepts its way of
/// proving itself goes before others, then one whose certificate it accepts.
pub(super) fn entry(
    cx: &Context,
    identity: &Identity,
    wanted: Option<&Identity>,
    from: IpAddr,
    auth: &Auth,
    authorities: Option<&[KeyHash]>,
) -> Option<Arc<PeerConfig>> {
    let rank = |peer: &Arc<PeerConfig>| {
        let accepted = accepts(peer, auth.method);
        let ours = match (&peer.local_auth, authorities) {
            (LocalAuth::Certificate(credential), Some(asked)) => credential.is_under(asked),
            (LocalAuth::Psk, Some(_)) => false,
            (_, None) => true,
        };
        (!accepted, !ours)
    };
    authorise(&cx.peers, identity, wanted, from, rank).cloned()
}

/// Whether the configuration lets the peer prove itself so.
fn accepts(peer: &PeerConfig, method: AuthMethod) -> bool {
    if is_signature(method) {
        peer.remote_auth.certificates.is_some()
    } else {
        method == AuthMethod::SHARED_KEY && peer.remote_auth.psk.is_some()
    }
}

/// Checks the peer's AUTH in the way it chose.
pub(super) fn check(
    peer: &PeerConfig,
    identity: &Identity,
    cx: &Context,
    theirs: &Proof<'_>,
    auth: &Auth,
    payloads: &Payloads,
) -> Result<(), Failure> {
    let id = || identity.to_string();
    if !accepts(peer, auth.method) {
        return Err(Failure::AuthMethod {
            id: id(),
            method: auth.method.to_string(),
        });
    }
    if auth.method == AuthMethod::SHARED_KEY {
        let secret = remote_secret(peer, identity, cx).ok_or(Failure::NoSecret { id: id() })?;
        return if theirs.holds(secret, auth) {
            Ok(())
        } else {
            Err(Failure::WrongSecret { id: id() })
        };
    }
    let Some(anchors) = &peer.remote_auth.certificates else {
        return Err(Failure::UnknownPeer { id: id() });
    };
    let now = cx.wall_clock().ok_or(cert::CertificateError::NoClock)?;
    let key = anchors.verify(&certificates(&payloads.0), identity, now)?;
    theirs
        .verify(&key, auth)
        .map_err(|reason| Failure::WrongSignature { id: id(), reason })
}

/// Our AUTH, and the certificates that go with it.
pub(super) fn prove(
    peer: &PeerConfig,
    ours: &Proof<'_>,
    secret: Option<&Secret>,
    announced: &Announced,
    by_secret: bool,
) -> Result<(Auth, Vec<Payload>), Failure> {
    match (&peer.local_auth, secret) {
        (LocalAuth::Certificate(credential), _) if !by_secret => {
            let auth = ours.sign(credential, announced)?;
            Ok((auth, credential.payloads().collect()))
        }
        (_, Some(secret)) => Ok((ours.make(secret), Vec::new())),
        (_, None) => Err(Failure::NoSecret {
            id: peer.local_id.to_string(),
        }),
    }
}

/// Our ID payload.
pub(super) fn local_id(peer: &PeerConfig) -> Id {
    match &peer.local_auth {
        LocalAuth::Certificate(credential) => credential.id(&peer.local_id),
        LocalAuth::Psk => peer.local_id.to_id(),
    }
}

/// What we ask of the peer: certificates of the authorities we accept.
pub(in crate::ike) fn request<'a>(
    peers: impl IntoIterator<Item = &'a Arc<PeerConfig>>,
) -> Option<Payload> {
    request_within(usize::MAX, peers)
}

/// The same where the payload may have so many octets. If they are too many we ask
/// for any certificate: half a list would tell some peers that theirs is not wanted.
pub(in crate::ike) fn request_within<'a>(
    octets: usize,
    peers: impl IntoIterator<Item = &'a Arc<PeerConfig>>,
) -> Option<Payload> {
    let mut hashes: Vec<KeyHash> = Vec::new();
    let mut asks = false;
    for peer in peers {
        if let Some(anchors) = &peer.remote_auth.certificates {
            asks = true;
            for hash in anchors.key_hashes() {
                if hashes.len() < cert::MAX_AUTHORITIES && !hashes.contains(&hash) {
                    hashes.push(hash);
                }
            }
        }
    }
    // Payload header and encoding in front (RFC 7296 3.7).
    if 5 + 20 * hashes.len() > octets {
        hashes.clear();
    }
    asks.then(|| cert::request(&hashes))
}

/// The secret an initiator shares with whom it calls. Whoever has a table there
/// is looked up by its own name.
pub(super) fn initiator_secret<'a>(peer: &'a PeerConfig, cx: &'a Context) -> Option<&'a Secret> {
    match &peer.remote_id {
        IdentityPattern::Exact(identity) => remote_secret(peer, identity, cx),
        IdentityPattern::Dn(_) | IdentityPattern::Suffix(_) | IdentityPattern::Any => {
            remote_secret(peer, &peer.local_id, cx)
        }
    }
}

/// The key shared with `identity`, from the newest table.
pub(super) fn remote_secret<'a>(
    peer: &'a PeerConfig,
    identity: &Identity,
    cx: &'a Context,
) -> Option<&'a Secret> {
    match (
        peer.remote_auth.psk.as_ref()?,
        cx.psk_tables.get(&peer.name),
    ) {
        (PskSource::Table(_), Some(newer)) => newer.get(identity),
        (source, _) => source.lookup(identity),
    }
}
