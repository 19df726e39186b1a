//! `[[access]]` and `[[pool]]`.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;

use super::super::{Access, Class, ConfigError, Pool, ProbeStyle, raw};
use super::{Checker, Section};
use crate::ike::{dns, lease};

impl Checker<'_> {
    pub(super) fn accesses(
        &self,
        raw: Vec<Spanned<raw::Access>>,
    ) -> Result<Vec<Access>, ConfigError> {
        if raw.is_empty() {
            return Err(
                ConfigError::file(self.file, "there is no access; nothing can be reached")
                    .key("[[access]]")
                    .mend("add `[[access]]` with `interface = \"...\"` for each network to use"),
            );
        }
        let mut out: Vec<Access> = Vec::new();
        for spanned in raw {
            let mut section = Section::of(&spanned, "[[access]]".into());
            let raw = spanned.into_inner();
            let interface = self.required(
                &section,
                "interface",
                raw.interface,
                "name the network interface",
            )?;
            section.name = format!("[[access]] {interface:?}");
            self.device_name(&section, "interface", &interface, 15)?;
            if out.iter().any(|a| a.interface == interface) {
                return Err(self
                    .error(&section, "interface", "is listed twice".into())
                    .mend("merge the two tables; several addresses go into `addresses`"));
            }
            for (key, value) in [("max_rate", &raw.max_rate), ("data_cap", &raw.data_cap)] {
                self.unsupported(&section, key, value.is_some())?;
            }
            let addresses: Vec<IpAddr> = self.parsed(
                &section,
                "addresses",
                &raw.addresses.unwrap_or_default(),
                "an IP address",
            )?;
            if let Some(bad) = addresses
                .iter()
                .find(|a| a.is_unspecified() || a.is_multicast() || a.is_loopback())
            {
                return Err(self
                    .error(
                        &section,
                        "addresses",
                        format!("{bad} cannot be an outer address"),
                    )
                    .mend("list addresses of this interface that the peer can reach"));
            }
            out.push(Access {
                class: self.choose(&section, "class", raw.class.as_deref(), "unspecified", &[
                    ("unspecified", Some(Class::Unspecified)),
                    ("ethernet", Some(Class::Ethernet)),
                    ("wlan", Some(Class::Wlan)),
                    ("ran", Some(Class::Ran)),
                    ("wimax", Some(Class::Wimax)),
                    ("satellite", Some(Class::Satellite)),
                    ("virtual", Some(Class::Virtual)),
                ])?,
                priority: self.integer(&section, "priority", raw.priority, 0, 0..=255)?,
                weight: self.integer(&section, "weight", raw.weight, 1, 1..=255).map_err(|e| {
                    e.mend("give 1 to 255; to keep data off an access leave it out of the child's `accesses`")
                })?,
                metered: raw.metered.unwrap_or(false),
                trusted: raw.trusted.unwrap_or(false),
                addresses,
                mtu: raw.mtu.map(|m| self.integer(&section, "mtu", Some(m), 0, 576..=65535)).transpose()?,
                ike: raw.ike.unwrap_or(true),
                probe: self.choose(&section, "probe", raw.probe.as_deref(), "default", &[
                    ("default", Some(ProbeStyle::Default)),
                    ("fast", Some(ProbeStyle::Fast)),
                    ("idle", Some(ProbeStyle::Idle)),
                ])?,
                interface,
            });
        }
        if !out.iter().any(|a| a.ike) {
            return Err(
                ConfigError::file(self.file, "no access may carry the IKE channel")
                    .key("[[access]] ike")
                    .mend("take `ike = false` away from at least one access"),
            );
        }
        Ok(out)
    }

    pub(super) fn pools(&self, raw: Vec<Spanned<raw::Pool>>) -> Result<Vec<Pool>, ConfigError> {
        let mut out: Vec<Pool> = Vec::new();
        for spanned in raw {
            let mut section = Section::of(&spanned, "[[pool]]".into());
            let raw = spanned.into_inner();
            let name = self.required(&section, "name", raw.name, "peers refer to it in `pool`")?;
            section.name = format!("[[pool]] {name:?}");
            if out.iter().any(|p| p.name == name) {
                return Err(self
                    .error(&section, "name", "is used twice".into())
                    .mend("rename one"));
            }
            let cidr: Vec<IpNet> = self.parsed(
                &section,
                "cidr",
                &raw.cidr.unwrap_or_default(),
                "a prefix like 10.66.0.0/16",
            )?;
            if cidr.is_empty() {
                return Err(self
                    .error(&section, "cidr", "is missing".into())
                    .mend("give the prefixes to lease from"));
            }
            for net in &cidr {
                if *net != net.trunc() {
                    return Err(self
                        .error(&section, "cidr", format!("{net} has host bits set"))
                        .mend(format!("write {}", net.trunc())));
                }
                let overlap = |other: &IpNet| other.contains(net) || net.contains(other);
                if let Some(other) = out.iter().find(|p| p.cidr.iter().any(overlap)) {
                    return Err(self
                        .error(
                            &section,
                            "cidr",
                            format!("{net} overlaps pool {:?}", other.name),
                        )
                        .mend("give every pool prefixes of its own"));
                }
            }
            let pool = Pool {
                dns: self.parsed(
                    &section,
                    "dns",
                    &raw.dns.unwrap_or_default(),
                    "an IP address",
                )?,
                domains: self.domains(&section, &raw.domains.unwrap_or_default())?,
                exclude: self.nets(&section, "exclude", &raw.exclude.unwrap_or_default())?,
                name,
                cidr,
            };
            // What the engine would refuse at start is refused here.
            lease::Pool::new(pool.leases()).map_err(|e| {
                self.error(&section, "cidr", e.to_string())
                    .mend("correct the prefixes")
            })?;
            out.push(pool);
        }
        Ok(out)
    }

    /// Domains for the pool's name servers.
    fn domains(&self, section: &Section, names: &[String]) -> Result<Vec<String>, ConfigError> {
        if names.len() > MAX_DOMAINS {
            return Err(self
                .error(section, "domains", format!("{} are too many", names.len()))
                .mend(format!("give at most {MAX_DOMAINS}")));
        }
        names
            .iter()
            .map(|name| {
                dns::domain(name.as_bytes()).ok_or_else(|| {
                    self.error(section, "domains", format!("{name:?} is no domain name"))
                        .mend("write it like corp.example.org")
                })
            })
            .collect()
    }
}

/// What a peer takes.
const MAX_DOMAINS: usize = 32;
