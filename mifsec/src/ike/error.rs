//! Why things fail: [`Failure`] towards the operator, [`DropReason`] towards the counters.

use super::cert::CertificateError;
use super::message::NotifyType;
use super::mif::error as mif_error;
use crate::crypto::SignatureError;

/// Why an IKE SA or a Child SA could not be set up, or ended. `Display` gives
/// one line with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No `[[peer]]` of that name.
    #[error("no peer \"{name}\" is configured: check the [[peer]] names")]
    UnknownPeerName {
        /// The name asked for.
        name: String,
    },
    /// No `[[peer.child]]` of that name.
    #[error("peer \"{peer}\" has no child \"{name}\": check its [[peer.child]] names")]
    UnknownChildName {
        /// The peer's configuration.
        peer: String,
        /// The name asked for.
        name: String,
    },
    /// The peer's AUTH did not verify: the secrets differ.
    #[error("the secret of \"{id}\" differs at the two ends: compare the psk files")]
    WrongSecret {
        /// Whose secret.
        id: String,
    },
    /// The peer's signature is no proof.
    #[error(
        "the signature of \"{id}\" {reason}: its private key must be that of its certificate, and sign with SHA-2"
    )]
    WrongSignature {
        /// Whose signature.
        id: String,
        /// What is wrong with it.
        reason: SignatureError,
    },
    /// The peer's certificate is not accepted.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The peer proves itself in another way than configured.
    #[error(
        "\"{id}\" authenticates by {method}, which its [[peer]] does not accept: add psk_file or psk_table for secrets, ca for certificates"
    )]
    AuthMethod {
        /// Who.
        id: String,
        /// How it did.
        method: String,
    },
    /// No way to sign that the peer can verify.
    #[error(
        "the peer cannot verify signatures of our key: use a certificate with an ECDSA or RSA key"
    )]
    NoSignatureAlgorithm,
    /// Nobody of that identity may connect.
    #[error(
        "unknown peer \"{id}\": add a [[peer]] whose remote_id matches it, with its secret and its address in `remote` if that is there"
    )]
    UnknownPeer {
        /// The identity claimed.
        id: String,
    },
    /// The responder authenticated as somebody else than configured.
    #[error("the peer is \"{found}\", not \"{wanted}\": correct remote_id or the address")]
    WrongIdentity {
        /// What the peer claimed.
        found: String,
        /// What the configuration wants.
        wanted: String,
    },
    /// The peer answered AUTHENTICATION_FAILED.
    #[error(
        "the peer refused our authentication: check local_id, and that the peer knows it with the same psk or trusts our certificate"
    )]
    Refused,
    /// NO_PROPOSAL_CHOSEN for the IKE SA.
    #[error("no common IKE algorithms: compare `ike` of both ends")]
    NoIkeProposal,
    /// What was chosen before we knew who calls is not for that peer.
    #[error(
        "\"{id}\" calls with IKE algorithms its [[peer]] does not have: give it the same `ike` as the other peers that may call from there, or set them apart by `remote`"
    )]
    SuiteNotAllowed {
        /// Who.
        id: String,
    },
    /// NO_PROPOSAL_CHOSEN for a Child SA.
    #[error("no common ESP algorithms: compare `esp` of both ends")]
    NoEspProposal,
    /// TS_UNACCEPTABLE.
    #[error(
        "no common traffic selectors: compare local_ts here with remote_ts there, and the other way round"
    )]
    TrafficSelectors,
    /// INTERNAL_ADDRESS_FAILURE.
    #[error("no inner address: the gateway's pool is missing, of another family, or used up")]
    Address,
    /// NO_ADDITIONAL_SAS.
    #[error("the peer takes no more Child SAs: raise its limits.children")]
    NoAdditionalSas,
    /// Equal selectors outside of a bundle (protocol 0.2, R49).
    #[error("a Child SA with equal selectors exists: make it a bundle at both ends")]
    SelectorsExist,
    /// MIF_UNKNOWN_INTERFACE.
    #[error("the interface is not in the announced table: announce it first")]
    UnknownInterface,
    /// MIF_ADDRESS_REJECTED.
    #[error("the address is not usable as an outer address: check the interface's addresses")]
    AddressRejected,
    /// MIF_STALE_TXN.
    #[error("an older address change arrived after a newer one: nothing to do")]
    StaleTransaction,
    /// MIF_UNSUPPORTED, or a feature the peer did not announce.
    #[error("the peer does not have this part of IKEv2-MIF: upgrade it")]
    Unsupported,
    /// Nothing to derive SAs from (protocol 3.9).
    #[error("no Child SA is there to derive from: see why there is none")]
    NoTemplate,
    /// MIF_DERIVATION_MISMATCH.
    #[error("the two ends would derive different Child SAs: see what each of them has")]
    DerivationMismatch,
    /// MIF_SPI_COLLISION.
    #[error("the SPIs named cannot be used: nothing to do, it is asked again")]
    SpiCollision,
    /// MIF_MODE_MISMATCH.
    #[error("tunnel and transport mode do not fit together: compare `mode` of both ends")]
    ModeMismatch,
    /// MIF_PATH_UNVALIDATED.
    #[error("no other path is known to work: wait for one, or bring one up")]
    PathUnvalidated,
    /// `require` is not met.
    #[error("the peer does not speak IKEv2-MIF: set require = \"any\" or upgrade it")]
    MifRequired,
    /// A gateway sent us to another one (RFC 5685).
    #[error("redirected to {gateway}")]
    Redirected {
        /// Where to.
        gateway: String,
    },
    /// Gateways keep sending us on (RFC 5685 8).
    #[error("the gateways send us on and on: see their logs, or set `remote` to another one")]
    RedirectLoop,
    /// The peer takes no IKE SA without a Child SA (RFC 6023).
    #[error(
        "the peer needs a Child SA from the start: take `childless` away and have a [[peer.child]]"
    )]
    ChildRequired,
    /// `require = "mobike"` is not met.
    #[error("the peer speaks neither IKEv2-MIF nor MOBIKE: set require = \"any\" or upgrade it")]
    MobikeRequired,
    /// UNACCEPTABLE_ADDRESSES (RFC 4555 3.5).
    #[error("the peer does not accept this pair of addresses: see its log")]
    UnacceptableAddresses,
    /// UNEXPECTED_NAT_DETECTED (RFC 4555 3.9).
    #[error("a NAT sits between, and nat = \"forbid\": remove it, or set nat = \"allow\"")]
    UnexpectedNat,
    /// The answer to COOKIE2 was another (RFC 4555 3.7).
    #[error(
        "the answer to a return routability check was wrong: somebody between answers for the peer"
    )]
    WrongCookie,
    /// A bound of `[limits]` is reached.
    #[error("too many {what}: raise [limits]")]
    Limit {
        /// What there is too much of.
        what: &'static str,
    },
    /// No response to a request, however often sent.
    #[error("no answer from {remote}: check that it runs and that UDP 500 and 4500 pass")]
    Timeout {
        /// Where it was sent last.
        remote: std::net::SocketAddr,
    },
    /// The peer kept answering TEMPORARY_FAILURE.
    #[error("the peer stayed busy: it answers TEMPORARY_FAILURE, see its log")]
    Busy,
    /// The peer deleted it.
    #[error("deleted by the peer: see its log")]
    DeletedByPeer,
    /// We deleted it.
    #[error("deleted by command")]
    Deleted,
    /// A later command says otherwise.
    #[error("called off by a later command")]
    CalledOff,
    /// The peer refused to rekey it until its lifetime was over.
    #[error("too old, and the peer did not rekey it: see its log")]
    Lifetime,
    /// No secret is configured for this identity.
    #[error("no secret for \"{id}\": set psk_file, or add a line to psk_table")]
    NoSecret {
        /// Whose secret.
        id: String,
    },
    /// The system gave no randomness for a key.
    #[error("the system gives no randomness: check /dev/urandom")]
    Entropy,
    /// The same identity connected anew (INITIAL_CONTACT).
    #[error("replaced by a new connection of the same identity")]
    Replaced,
    /// An authenticated message broke the protocol.
    #[error("the peer sent an invalid {what}: it is of an incompatible version")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// The peer answered with an error notify we have no better word for.
    #[error("the peer answered error {0}: see its log")]
    Notify(u16),
}

impl Failure {
    /// Whether the peer did not prove who it is.
    pub(super) const fn is_authentication(&self) -> bool {
        matches!(
            self,
            Self::WrongSecret { .. }
                | Self::NoSecret { .. }
                | Self::WrongSignature { .. }
                | Self::Certificate(_)
                | Self::AuthMethod { .. }
                | Self::WrongIdentity { .. }
        )
    }

    /// The failure an error notify of a response stands for.
    pub(super) fn from_notify(notify: NotifyType, of_child: bool) -> Self {
        match notify {
            NotifyType::AUTHENTICATION_FAILED => Self::Refused,
            NotifyType::NO_PROPOSAL_CHOSEN if of_child => Self::NoEspProposal,
            NotifyType::NO_PROPOSAL_CHOSEN => Self::NoIkeProposal,
            NotifyType::TS_UNACCEPTABLE => Self::TrafficSelectors,
            NotifyType::INTERNAL_ADDRESS_FAILURE | NotifyType::FAILED_CP_REQUIRED => Self::Address,
            NotifyType::NO_ADDITIONAL_SAS => Self::NoAdditionalSas,
            NotifyType::TEMPORARY_FAILURE => Self::Busy,
            NotifyType::UNACCEPTABLE_ADDRESSES => Self::UnacceptableAddresses,
            NotifyType::UNEXPECTED_NAT_DETECTED => Self::UnexpectedNat,
            NotifyType::INVALID_SYNTAX => Self::Protocol {
                what: "message by its own account",
            },
            mif_error::MIF_UNKNOWN_INTERFACE => Self::UnknownInterface,
            mif_error::MIF_ADDRESS_REJECTED => Self::AddressRejected,
            mif_error::MIF_STALE_TXN => Self::StaleTransaction,
            mif_error::MIF_SELECTOR_EXISTS => Self::SelectorsExist,
            mif_error::MIF_UNSUPPORTED => Self::Unsupported,
            mif_error::MIF_DERIVATION_MISMATCH => Self::DerivationMismatch,
            mif_error::MIF_SPI_COLLISION => Self::SpiCollision,
            mif_error::MIF_MODE_MISMATCH => Self::ModeMismatch,
            mif_error::MIF_PATH_UNVALIDATED => Self::PathUnvalidated,
            mif_error::MIF_LIMIT_EXCEEDED => Self::Limit {
                what: "interfaces for the peer",
            },
            NotifyType(other) => Self::Notify(other),
        }
    }
}

/// Why a received message had no effect. Each is counted; none is logged per packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DropReason {
    /// Shorter than its fields, or a payload chain that does not fit.
    Malformed,
    /// Above `limits.message`.
    Oversized,
    /// No IKE SA of this SPI.
    UnknownSpi,
    /// Not valid in the state it arrived in.
    Unexpected,
    /// A first message while the half-open table is full.
    HalfOpenFull,
    /// A first message without or with a wrong cookie under load.
    Cookie,
    /// The integrity check failed.
    Integrity,
    /// A request outside the window.
    RequestOutsideWindow,
    /// A response nobody waits for.
    ResponseUnexpected,
    /// A request seen before, whose response is no longer kept.
    OldRequest,
    /// A fragment that does not fit the others of its message, or the bounds.
    Fragment,
    /// Fragments whose message never became whole.
    FragmentsExpired,
    /// A duplicate, answered from the cache.
    Duplicate,
    /// An IKE_SA_INIT request that was answered often enough.
    Repeats,
    /// An IKE_SA_INIT request no configured peer can accept.
    NoProposal,
    /// An authentication that failed.
    Authentication,
    /// An unauthenticated error or notify, not acted upon (RFC 7296 2.21).
    Unauthenticated,
}

impl DropReason {
    /// The counter's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "ike_malformed",
            Self::Oversized => "ike_oversized",
            Self::UnknownSpi => "ike_unknown_spi",
            Self::Unexpected => "ike_unexpected",
            Self::HalfOpenFull => "ike_half_open_full",
            Self::Cookie => "ike_cookie",
            Self::Integrity => "ike_integrity",
            Self::RequestOutsideWindow => "ike_request_outside_window",
            Self::ResponseUnexpected => "ike_response_unexpected",
            Self::OldRequest => "ike_old_request",
            Self::Fragment => "ike_fragment",
            Self::FragmentsExpired => "ike_fragments_expired",
            Self::Duplicate => "ike_duplicate",
            Self::Repeats => "ike_init_repeats",
            Self::NoProposal => "ike_no_proposal",
            Self::Authentication => "ike_authentication",
            Self::Unauthenticated => "ike_unauthenticated",
        }
    }
}
