//! Who may be at the other end: identities, shared keys and the lookup in the
//! peer authorisation database (RFC 4301 4.4.3). The entries themselves are the
//! engine's configuration.

#![forbid(unsafe_code)]

mod dn;
mod identity;

pub use dn::{DistinguishedName, DnPattern};
pub use identity::{Identity, IdentityError, IdentityPattern};

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::crypto::{Secret, constant_time_eq};

use super::cert::{Credential, TrustAnchors};

/// How we prove who we are.
#[derive(Clone)]
pub enum LocalAuth {
    /// By the key shared with the peer.
    Psk,
    /// By a signature; by the shared key, if there is one, to a peer that
    /// used it itself and asked for no certificate.
    Certificate(Arc<Credential>),
}

/// What we accept as the peer's proof: whichever of these is there.
pub struct RemoteAuth {
    /// Keys shared with it.
    pub psk: Option<PskSource>,
    /// Authorities that vouch for its certificate.
    pub certificates: Option<Arc<TrustAnchors>>,
}

impl RemoteAuth {
    /// Shared keys alone.
    #[must_use]
    pub const fn psk(source: PskSource) -> Self {
        Self {
            psk: Some(source),
            certificates: None,
        }
    }

    /// Certificates alone.
    #[must_use]
    pub const fn certificates(anchors: Arc<TrustAnchors>) -> Self {
        Self {
            psk: None,
            certificates: Some(anchors),
        }
    }
}

/// Shared keys by identity. Copies share the keys.
#[derive(Clone)]
pub struct PskTable(Arc<BTreeMap<Identity, Secret>>);

impl PskTable {
    /// Takes ownership of the keys.
    #[must_use]
    pub fn new(table: BTreeMap<Identity, Secret>) -> Self {
        Self(Arc::new(table))
    }

    /// The key shared with `identity`.
    #[must_use]
    pub fn get(&self, identity: &Identity) -> Option<&Secret> {
        self.0.get(identity)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for PskTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PskTable({} identities)", self.len())
    }
}

impl PartialEq for PskTable {
    fn eq(&self, other: &Self) -> bool {
        let same = |((id, key), (other, theirs)): ((&Identity, &Secret), (&Identity, &Secret))| {
            id == other && constant_time_eq(key.expose(), theirs.expose())
        };
        self.len() == other.len() && self.0.iter().zip(other.0.iter()).all(same)
    }
}

impl Eq for PskTable {}

/// Shared keys of a peer.
pub enum PskSource {
    /// The same for whoever matches.
    One(Secret),
    /// By identity; may be replaced while the engine runs.
    Table(PskTable),
}

impl PskSource {
    /// The key shared with `identity`.
    #[must_use]
    pub fn lookup(&self, identity: &Identity) -> Option<&Secret> {
        match self {
            Self::One(secret) => Some(secret),
            Self::Table(table) => table.get(identity),
        }
    }
}

/// An entry of the peer authorisation database: who we are to whom.
pub trait PadEntry {
    /// Our identity towards the peer.
    fn local_id(&self) -> &Identity;
    /// The identities the peer may have.
    fn remote_id(&self) -> &IdentityPattern;
    /// Whether the peer may call from this address.
    fn takes_from(&self, address: IpAddr) -> bool;
}

/// The entry for the peer an initiator claims to be, before it has proved it. Who
/// has an entry of its own falls under no pattern, whatever else. Of the entries
/// left those count that take calls `from` its address, and with IDr only where we
/// are who it asks for (RFC 7296 3.5); of these the one of least `rank`, then the
/// first.
#[must_use]
pub fn authorise<'a, E: PadEntry, R: Ord>(
    entries: &'a [E],
    idi: &Identity,
    idr: Option<&Identity>,
    from: IpAddr,
    rank: impl Fn(&E) -> R,
) -> Option<&'a E> {
    let of_idi = || {
        entries
            .iter()
            .filter(|entry| entry.remote_id().matches(idi))
    };
    let named = of_idi().any(|entry| entry.remote_id().is_exact());
    of_idi()
        .filter(|entry| entry.remote_id().is_exact() == named)
        .filter(|entry| entry.takes_from(from))
        .filter(|entry| idr.is_none_or(|idr| idr == entry.local_id()))
        .min_by_key(|entry| rank(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(&'static str, Identity, IdentityPattern);

    impl PadEntry for Entry {
        fn local_id(&self) -> &Identity {
            &self.1
        }

        fn remote_id(&self) -> &IdentityPattern {
            &self.2
        }

        /// The one called "here" is for a single address.
        fn takes_from(&self, address: IpAddr) -> bool {
            self.0 != "here" || address == IpAddr::from(HERE)
        }
    }

    const HERE: [u8; 4] = [192, 0, 2, 1];

    fn entry(name: &'static str, local: &str, remote: &str) -> Entry {
        Entry(name, local.parse().unwrap(), remote.parse().unwrap())
    }

    fn find_preferring(
        preferred: &str,
        entries: &[Entry],
        idi: &str,
        idr: Option<&str>,
    ) -> Option<&'static str> {
        let idr = idr.map(|idr| idr.parse().unwrap());
        let rank = |entry: &Entry| entry.0 != preferred;
        let from = [198, 51, 100, 7].into();
        authorise(entries, &idi.parse().unwrap(), idr.as_ref(), from, rank).map(|entry| entry.0)
    }

    fn find(entries: &[Entry], idi: &str, idr: Option<&str>) -> Option<&'static str> {
        find_preferring("", entries, idi, idr)
    }

    #[test]
    fn an_exact_identity_goes_before_a_pattern_and_order_decides_the_rest() {
        let entries = [
            entry("all", "gw.example.org", "*@example.org"),
            entry("alice", "gw.example.org", "alice@example.org"),
            entry("later", "gw.example.org", "*@example.org"),
        ];
        assert_eq!(find(&entries, "alice@example.org", None), Some("alice"));
        assert_eq!(find(&entries, "bob@example.org", None), Some("all"));
        assert_eq!(find(&entries, "bob@example.net", None), None);
    }

    #[test]
    fn preference_decides_among_patterns_and_never_over_an_exact_entry() {
        let entries = [
            entry("all", "gw.example.org", "*@example.org"),
            entry("later", "gw.example.org", "*"),
            entry("alice", "gw.example.org", "alice@example.org"),
        ];
        let find = |idi| find_preferring("later", &entries, idi, None);
        assert_eq!(find("bob@example.org"), Some("later"));
        assert_eq!(find("alice@example.org"), Some("alice"));
    }

    #[test]
    fn idr_picks_among_our_identities() {
        let entries = [
            entry("old", "old.example.org", "*@example.org"),
            entry("new", "new.example.org", "*@example.org"),
        ];
        assert_eq!(
            find(&entries, "bob@example.org", Some("new.example.org")),
            Some("new")
        );
        assert_eq!(find(&entries, "bob@example.org", None), Some("old"));
        assert_eq!(
            find(&entries, "bob@example.org", Some("gw.example.org")),
            None
        );
    }

    #[test]
    fn who_has_an_entry_of_its_own_reaches_no_pattern_by_asking_for_another_of_our_names() {
        let entries = [
            entry("alice", "gw.example.org", "alice@example.org"),
            entry("guests", "guests.example.org", "*"),
        ];
        let find = |idi, idr| find(&entries, idi, Some(idr));
        assert_eq!(find("alice@example.org", "guests.example.org"), None);
        assert_eq!(find("alice@example.org", "gw.example.org"), Some("alice"));
        assert_eq!(
            find("bob@example.org", "guests.example.org"),
            Some("guests")
        );
    }

    #[test]
    fn an_entry_with_addresses_takes_nobody_from_elsewhere_and_opens_no_pattern() {
        let entries = [
            entry("here", "gw.example.org", "alice@example.org"),
            entry("all", "gw.example.org", "*@example.org"),
        ];
        let alice = "alice@example.org".parse().unwrap();
        let from = |from: [u8; 4]| {
            let found = authorise(&entries, &alice, None, from.into(), |_| 0);
            found.map(|entry| entry.0)
        };
        assert_eq!(from(HERE), Some("here"));
        assert_eq!(from([192, 0, 2, 2]), None);
        let entries = [
            entry("here", "gw.example.org", "alice@example.org"),
            entry("anywhere", "gw.example.org", "alice@example.org"),
        ];
        assert_eq!(find(&entries, "alice@example.org", None), Some("anywhere"));
    }

    #[test]
    fn a_table_of_secrets_is_keyed_by_identity() {
        let alice = "alice@example.org".parse().unwrap();
        let table = [(alice, Secret::new(b"a".to_vec()))];
        let source = PskSource::Table(PskTable::new(table.into()));
        let lookup = |text: &str| source.lookup(&text.parse().unwrap()).map(Secret::expose);
        assert_eq!(lookup("Alice@example.org"), Some(&b"a"[..]));
        assert_eq!(lookup("bob@example.org"), None);
        let source = PskSource::One(Secret::new(b"o".to_vec()));
        assert!(source.lookup(&"anyone".parse().unwrap()).is_some());
    }
}
