//! `[[peer]]` and `[[peer.child]]`.

use std::net::IpAddr;
use std::time::Duration;

use toml::Spanned;

use super::super::{Access, Child, ConfigError, Layout, Peer, Policy, Pool, Require, Start, raw};
use super::rekey::What;
use super::{Checker, Section, mobility};
use crate::ike::peer::{Identity, IdentityError, IdentityPattern};

/// How long all may be quiet before the peer is asked whether it is there.
const DPD: Duration = Duration::from_secs(30);

impl Checker<'_> {
    pub(super) fn peers(
        &self,
        raw: Vec<Spanned<raw::Peer>>,
        accesses: &[Access],
        pools: &[Pool],
    ) -> Result<Vec<Peer>, ConfigError> {
        let mut out: Vec<Peer> = Vec::new();
        for spanned in raw {
            let mut section = Section::of(&spanned, "[[peer]]".into());
            let raw = spanned.into_inner();
            let name = self.required(
                &section,
                "name",
                raw.name.clone(),
                "it is how commands call this peer",
            )?;
            section.name = format!("[[peer]] {name:?}");
            if out.iter().any(|p| p.name == name) {
                return Err(self
                    .error(&section, "name", "is used twice".into())
                    .mend("rename one"));
            }
            out.push(self.peer(&section, name, raw, accesses, pools)?);
        }
        if out.is_empty() {
            return Err(ConfigError::file(self.file, "there is no peer")
                .key("[[peer]]")
                .mend("add `[[peer]]` with remote_id and psk_file"));
        }
        Ok(out)
    }

    pub(super) fn peer(
        &self,
        section: &Section,
        name: String,
        raw: raw::Peer,
        accesses: &[Access],
        pools: &[Pool],
    ) -> Result<Peer, ConfigError> {
        let mobility = mobility::Words::of(&raw);
        let local_id = self.required(
            section,
            "local_id",
            raw.local_id.clone(),
            "say who we are, as laptop@example.org",
        )?;
        let remote_id = self.required(
            section,
            "remote_id",
            raw.remote_id.clone(),
            "say who the peer must be",
        )?;
        let local_id: Identity = local_id.parse().map_err(|e: IdentityError| {
            self.error(section, "local_id", e.to_string())
                .mend("write laptop@example.org or gw.example.org")
        })?;
        let proofs = self.proofs(section, &raw, &local_id)?;
        let pattern: IdentityPattern = remote_id.parse().map_err(|e: IdentityError| {
            self.error(section, "remote_id", e.to_string())
                .mend("write an exact identity, or `*@example.org` or `O=Example, CN=*` for many")
        })?;
        let remote: Vec<IpAddr> = self.parsed(
            section,
            "remote",
            &raw.remote.unwrap_or_default(),
            "an IP address (names are not resolved yet)",
        )?;
        if let Some(odd) = remote
            .iter()
            .find(|r| r.is_unspecified() || r.is_multicast())
        {
            return Err(self
                .error(
                    section,
                    "remote",
                    format!("{odd} is not the address of a host"),
                )
                .mend("give the peer's address, or leave it out to accept"));
        }
        if !pattern.is_exact() && !remote.is_empty() {
            return Err(self
                .error(
                    section,
                    "remote_id",
                    format!("{remote_id:?} is a pattern, but `remote` names one peer"),
                )
                .mend("give the peer's exact identity, or leave `remote` out to accept many"));
        }
        let (mut request_v4, mut request_v6) = (false, false);
        for family in raw.addresses.iter().flatten() {
            match family.as_str() {
                "ipv4" => request_v4 = true,
                "ipv6" => request_v6 = true,
                other => {
                    return Err(self
                        .error(
                            section,
                            "addresses",
                            format!("{other:?} is not an address family"),
                        )
                        .mend("write \"ipv4\", \"ipv6\" or both"));
                }
            }
        }
        if let Some(pool) = &raw.pool
            && !pools.iter().any(|p| p.name == *pool)
        {
            return Err(self
                .error(
                    section,
                    "pool",
                    format!("there is no [[pool]] named {pool:?}"),
                )
                .mend("add it, or correct the name"));
        }
        let mut children: Vec<Child> = Vec::new();
        for spanned in raw.child {
            let child = self.child(section, spanned, accesses, &children)?;
            children.push(child);
        }
        if !children.iter().any(|c| c.policy == Policy::Protect) {
            return Err(self
                .error(
                    section,
                    "child",
                    "there is none to protect, so nothing would be".into(),
                )
                .mend("add `[[peer.child]]` with name, local_ts and remote_ts"));
        }
        let dynamic = |c: &&Child| {
            c.policy == Policy::Protect && c.local_ts.iter().any(|ts| ts.net.is_none())
        };
        if let Some(child) = children.iter().find(dynamic)
            && !remote.is_empty()
            && !(request_v4 || request_v6)
        {
            return Err(self
                .error(
                    section,
                    "addresses",
                    format!(
                        "is missing, but local_ts of child {:?} is the leased address",
                        child.name
                    ),
                )
                .mend("add addresses = [\"ipv4\"], or list prefixes in local_ts"));
        }
        if let Some(child) = children.iter().find(|c| c.layout == Layout::Pinned)
            && remote.is_empty()
        {
            return Err(self
                .error(
                    section,
                    "child",
                    format!(
                        "{:?} has layout = \"pinned\", but there is no `remote`",
                        child.name
                    ),
                )
                .mend("remove layout: a gateway leases as many addresses as it is asked for"));
        }
        if let Some(start @ ("auto" | "trap")) = raw.start.as_deref()
            && remote.is_empty()
        {
            return Err(self
                .error(
                    section,
                    "start",
                    format!("{start:?} needs an address to connect to"),
                )
                .mend("add `remote`, or leave start out to accept"));
        }
        let nowhere = |c: &Child| c.remote_ts.iter().all(|ts| ts.net.is_none());
        if raw.start.as_deref() == Some("trap") && children.iter().all(nowhere) {
            return Err(self
                .error(
                    section,
                    "start",
                    "\"trap\" waits for packets, but no child has a prefix in remote_ts".into(),
                )
                .mend("list the prefixes behind the peer in remote_ts"));
        }
        if raw.childless == Some(true) && remote.is_empty() {
            return Err(self
                .error(
                    section,
                    "childless",
                    "is for who connects, but there is no `remote`".into(),
                )
                .mend("remove it: a peer that connects so is accepted anyway"));
        }
        Ok(Peer {
            childless: raw.childless.unwrap_or(false),
            mobility: self.mobility(section, &mobility)?,
            require: self.choose(
                section,
                "require",
                raw.require.as_deref(),
                "any",
                &[
                    ("any", Some(Require::Any)),
                    ("mif", Some(Require::Mif)),
                    ("mobike", Some(Require::Mobike)),
                ],
            )?,
            start: self.choose(
                section,
                "start",
                raw.start.as_deref(),
                if remote.is_empty() { "manual" } else { "auto" },
                &[
                    ("auto", Some(Start::Auto)),
                    ("trap", Some(Start::Trap)),
                    ("manual", Some(Start::Manual)),
                ],
            )?,
            dpd: match raw.dpd {
                None => Some(DPD),
                given => self.duration(section, "dpd", given)?,
            },
            rekey: self.rekey(section, What::Child, raw.rekey)?,
            ike_rekey: self.rekey(section, What::Ike, raw.ike_rekey)?,
            ike: self.proposals(section, "ike", raw.ike)?,
            esp: self.proposals(section, "esp", raw.esp)?,
            pool: raw.pool,
            name,
            remote,
            local_id,
            remote_id: pattern,
            psk: proofs.psk,
            local_auth: proofs.local_auth,
            ca: proofs.ca,
            credential_files: proofs.files,
            request_v4,
            request_v6,
            alternates: self.agreed_alternates(section, &children, accesses)?,
            children,
        })
    }

    pub(super) fn child(
        &self,
        peer: &Section,
        spanned: Spanned<raw::Child>,
        accesses: &[Access],
        others: &[Child],
    ) -> Result<Child, ConfigError> {
        let mut section = Section::of(&spanned, format!("{} [[peer.child]]", peer.name));
        let raw = spanned.into_inner();
        let name = self.required(
            &section,
            "name",
            raw.name.clone(),
            "it shows up in `mifsec sa`",
        )?;
        section.name = format!("{} child {name:?}", peer.name);
        if others.iter().any(|c| c.name == name) {
            return Err(self
                .error(&section, "name", "is used twice in this peer".into())
                .mend("rename one"));
        }
        let later = [("dscp", raw.dscp.is_some())];
        for (key, given) in later {
            self.unsupported(&section, key, given)?;
        }
        self.choose(
            &section,
            "mode",
            raw.mode.as_deref(),
            "tunnel",
            &[("tunnel", Some(())), ("transport", None)],
        )?;
        self.choose(
            &section,
            "steering",
            raw.steering.as_deref(),
            "load-balancing",
            &[
                ("load-balancing", Some(())),
                ("active-standby", None),
                ("smallest-delay", None),
                ("priority-based", None),
                ("redundant", None),
            ],
        )?;
        let service = self.service(&section, &raw)?;
        let listed = match raw.accesses {
            None => (0..accesses.len()).collect(),
            Some(names) => {
                let mut listed = Vec::new();
                for wanted in &names {
                    let Some(index) = accesses.iter().position(|a| a.interface == *wanted) else {
                        return Err(self
                            .error(
                                &section,
                                "accesses",
                                format!("{wanted:?} is not the interface of any [[access]]"),
                            )
                            .mend("add the [[access]], or correct the name"));
                    };
                    listed.push(index);
                }
                listed
            }
        };
        if listed.is_empty() {
            return Err(self
                .error(&section, "accesses", "is empty".into())
                .mend("name at least one, or leave it out for all"));
        }
        Ok(Child {
            local_ts: service.local_ts,
            remote_ts: service.remote_ts,
            layout: service.layout,
            policy: service.policy,
            order: service.order,
            replay_window: self.integer(
                &section,
                "replay_window",
                raw.replay_window,
                8192,
                64..=65536,
            )?,
            accesses: listed,
            alternates: self.alternates(&section, raw.alternates.as_ref(), accesses)?,
            name,
        })
    }
}
