//! Wire numbers as newtypes: a value we have no name for is kept, compared and
//! sent back like any other (IANA "IKEv2 Parameters").

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($repr:ty) { $($(#[$cdoc:meta])* $constant:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$cdoc])* pub const $constant: Self = Self($value);)*

            /// The registry's name, if it is one of ours.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some(stringify!($constant)),)*
                    _ => None,
                }
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}", self.0),
                }
            }
        }
    };
}

pub(crate) use numbers;

numbers! {
    /// Payload types (RFC 7296 3.2).
    PayloadType(u8) {
        /// Ends the chain.
        NONE = 0,
        /// Security association.
        SA = 33,
        /// Key exchange.
        KE = 34,
        /// Identification of the initiator.
        IDI = 35,
        /// Identification of the responder.
        IDR = 36,
        /// Certificate.
        CERT = 37,
        /// Certificate request.
        CERTREQ = 38,
        /// Authentication.
        AUTH = 39,
        /// Nonce.
        NONCE = 40,
        /// Notify.
        NOTIFY = 41,
        /// Delete.
        DELETE = 42,
        /// Vendor id.
        VENDOR_ID = 43,
        /// Traffic selectors of the initiator.
        TSI = 44,
        /// Traffic selectors of the responder.
        TSR = 45,
        /// Encrypted and authenticated.
        SK = 46,
        /// Configuration.
        CP = 47,
        /// Extensible authentication.
        EAP = 48,
        /// Encrypted fragment (RFC 7383).
        SKF = 53,
    }
}

numbers! {
    /// Exchange types (RFC 7296 3.1).
    ExchangeType(u8) {
        /// The first exchange, in clear.
        IKE_SA_INIT = 34,
        /// Authentication and the first Child SA.
        IKE_AUTH = 35,
        /// Further Child SAs, rekeying.
        CREATE_CHILD_SA = 36,
        /// Deletes, errors, liveness, interface management.
        INFORMATIONAL = 37,
    }
}

numbers! {
    /// Protocols of SAs (RFC 7296 3.3.1).
    Protocol(u8) {
        /// A notify about no SA in particular.
        NONE = 0,
        /// The IKE SA.
        IKE = 1,
        /// Authentication header.
        AH = 2,
        /// ESP.
        ESP = 3,
    }
}

numbers! {
    /// Transform types (RFC 7296 3.3.2).
    TransformType(u8) {
        /// Encryption.
        ENCR = 1,
        /// Pseudo-random function.
        PRF = 2,
        /// Integrity.
        INTEG = 3,
        /// Key exchange method.
        KE = 4,
        /// Extended sequence numbers.
        ESN = 5,
    }
}

numbers! {
    /// Authentication methods (RFC 7296 3.8).
    AuthMethod(u8) {
        /// RSA digital signature.
        RSA = 1,
        /// Shared key message integrity code.
        SHARED_KEY = 2,
        /// ECDSA with SHA-256 on P-256 (RFC 4754).
        ECDSA_256 = 9,
        /// ECDSA with SHA-384 on P-384 (RFC 4754).
        ECDSA_384 = 10,
        /// Digital signature (RFC 7427).
        SIGNATURE = 14,
    }
}

numbers! {
    /// Identification types (RFC 7296 3.5).
    IdType(u8) {
        /// Four octets.
        IPV4_ADDR = 1,
        /// A domain name.
        FQDN = 2,
        /// An e-mail address.
        RFC822_ADDR = 3,
        /// Sixteen octets.
        IPV6_ADDR = 5,
        /// DER of a distinguished name.
        DER_ASN1_DN = 9,
        /// DER of a general name.
        DER_ASN1_GN = 10,
        /// Opaque octets.
        KEY_ID = 11,
    }
}

numbers! {
    /// Configuration payload types (RFC 7296 3.15).
    ConfigType(u8) {
        /// Asks.
        REQUEST = 1,
        /// Answers.
        REPLY = 2,
        /// Imposes.
        SET = 3,
        /// Acknowledges.
        ACK = 4,
    }
}

numbers! {
    /// Configuration attribute types (RFC 7296 3.15.1).
    AttributeType(u16) {
        /// An inner IPv4 address, 0 or 4 octets.
        INTERNAL_IP4_ADDRESS = 1,
        /// Its netmask, 0 or 4 octets.
        INTERNAL_IP4_NETMASK = 2,
        /// An IPv4 resolver, 0 or 4 octets.
        INTERNAL_IP4_DNS = 3,
        /// Free text.
        APPLICATION_VERSION = 7,
        /// An inner IPv6 address with its prefix length, 0 or 17 octets.
        INTERNAL_IP6_ADDRESS = 8,
        /// An IPv6 resolver, 0 or 16 octets.
        INTERNAL_IP6_DNS = 10,
        /// Networks behind the gateway, 0 or 8 octets.
        INTERNAL_IP4_SUBNET = 13,
        /// The types the sender knows.
        SUPPORTED_ATTRIBUTES = 14,
        /// Networks behind the gateway, 17 octets.
        INTERNAL_IP6_SUBNET = 15,
        /// A domain the resolvers are for (RFC 8598).
        INTERNAL_DNS_DOMAIN = 25,
    }
}

numbers! {
    /// Notify message types (RFC 7296 3.10.1 and the RFCs named).
    NotifyType(u16) {
        /// A critical payload was not understood; data is its type.
        UNSUPPORTED_CRITICAL_PAYLOAD = 1,
        /// No such IKE SA.
        INVALID_IKE_SPI = 4,
        /// Another major version is needed.
        INVALID_MAJOR_VERSION = 5,
        /// Something was malformed.
        INVALID_SYNTAX = 7,
        /// A message id outside the window.
        INVALID_MESSAGE_ID = 9,
        /// ESP with an unknown SPI.
        INVALID_SPI = 11,
        /// Nothing in the offer was acceptable.
        NO_PROPOSAL_CHOSEN = 14,
        /// Another key exchange method is wanted; data is its number.
        INVALID_KE_PAYLOAD = 17,
        /// The peer could not be authenticated.
        AUTHENTICATION_FAILED = 24,
        /// Only one pair of addresses per SA.
        SINGLE_PAIR_REQUIRED = 34,
        /// No more Child SAs on this IKE SA.
        NO_ADDITIONAL_SAS = 35,
        /// No address to lease.
        INTERNAL_ADDRESS_FAILURE = 36,
        /// A CP payload was required.
        FAILED_CP_REQUIRED = 37,
        /// No selectors in common.
        TS_UNACCEPTABLE = 38,
        /// Selectors not acceptable as they are.
        INVALID_SELECTORS = 39,
        /// The addresses of an update are refused (RFC 4555).
        UNACCEPTABLE_ADDRESSES = 40,
        /// A NAT where there must be none (RFC 4555).
        UNEXPECTED_NAT_DETECTED = 41,
        /// Try again later (RFC 7296 2.25).
        TEMPORARY_FAILURE = 43,
        /// No such Child SA (RFC 7296 2.25).
        CHILD_SA_NOT_FOUND = 44,
        /// This is the sender's only IKE SA with us.
        INITIAL_CONTACT = 16384,
        /// How many requests may be outstanding.
        SET_WINDOW_SIZE = 16385,
        /// Selectors were narrowed.
        ADDITIONAL_TS_POSSIBLE = 16386,
        /// IPComp.
        IPCOMP_SUPPORTED = 16387,
        /// Hash of the sender's address and port.
        NAT_DETECTION_SOURCE_IP = 16388,
        /// Hash of the receiver's address and port.
        NAT_DETECTION_DESTINATION_IP = 16389,
        /// Return this to be heard.
        COOKIE = 16390,
        /// Transport mode is wanted.
        USE_TRANSPORT_MODE = 16391,
        /// HTTP certificate lookup.
        HTTP_CERT_LOOKUP_SUPPORTED = 16392,
        /// The SA that is being replaced.
        REKEY_SA = 16393,
        /// No TFC padding.
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394,
        /// Non-first fragments.
        NON_FIRST_FRAGMENTS_ALSO = 16395,
        /// MOBIKE (RFC 4555).
        MOBIKE_SUPPORTED = 16396,
        /// A further address (RFC 4555).
        ADDITIONAL_IP4_ADDRESS = 16397,
        /// A further address (RFC 4555).
        ADDITIONAL_IP6_ADDRESS = 16398,
        /// No further addresses (RFC 4555).
        NO_ADDITIONAL_ADDRESSES = 16399,
        /// Move the IKE SA and its children (RFC 4555).
        UPDATE_SA_ADDRESSES = 16400,
        /// Return routability (RFC 4555).
        COOKIE2 = 16401,
        /// NAT is forbidden (RFC 4555).
        NO_NATS_ALLOWED = 16402,
        /// How long the responder lets our authentication count (RFC 4478).
        AUTH_LIFETIME = 16403,
        /// A redirection would be followed (RFC 5685).
        REDIRECT_SUPPORTED = 16406,
        /// Another gateway (RFC 5685).
        REDIRECT = 16407,
        /// The gateway that sent us here (RFC 5685).
        REDIRECTED_FROM = 16408,
        /// Childless initiation (RFC 6023).
        CHILDLESS_IKEV2_SUPPORTED = 16418,
        /// Fragmentation (RFC 7383).
        IKEV2_FRAGMENTATION_SUPPORTED = 16430,
        /// Hash algorithms for signatures (RFC 7427).
        SIGNATURE_HASH_ALGORITHMS = 16431,
    }
}

impl NotifyType {
    /// Errors are below 16384 (RFC 7296 3.10.1).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}

/// Encryption transform numbers we name.
pub mod encr {
    /// AES-CBC (RFC 3602).
    pub const AES_CBC: u16 = 12;
    /// AES-GCM with a 16-octet ICV (RFC 5282, RFC 4106).
    pub const AES_GCM_16: u16 = 20;
    /// ChaCha20-Poly1305 (RFC 7634).
    pub const CHACHA20_POLY1305: u16 = 28;
}

/// PRF transform numbers we name.
pub mod prf {
    /// HMAC-SHA2-256 (RFC 4868).
    pub const HMAC_SHA2_256: u16 = 5;
    /// HMAC-SHA2-384 (RFC 4868).
    pub const HMAC_SHA2_384: u16 = 6;
    /// HMAC-SHA2-512 (RFC 4868).
    pub const HMAC_SHA2_512: u16 = 7;
}

/// Integrity transform numbers we name.
pub mod integ {
    /// None: beside a combined-mode cipher.
    pub const NONE: u16 = 0;
    /// HMAC-SHA2-256-128 (RFC 4868).
    pub const HMAC_SHA2_256_128: u16 = 12;
    /// HMAC-SHA2-384-192 (RFC 4868).
    pub const HMAC_SHA2_384_192: u16 = 13;
    /// HMAC-SHA2-512-256 (RFC 4868).
    pub const HMAC_SHA2_512_256: u16 = 14;
}

/// ESN transform numbers.
pub mod esn {
    /// 32-bit sequence numbers.
    pub const NONE: u16 = 0;
    /// Extended sequence numbers.
    pub const ESN: u16 = 1;
}
