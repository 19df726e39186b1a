//! From the raw form to the validated one.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use crate::ike::lease;
use crate::ike::peer::{Identity, IdentityError, IdentityPattern};
use crate::ike::proposal::ParseError;

use super::{
    Access, Agent, Child, Class, Config, ConfigError, Limits, OnStop, Peer, Pool, ProbeStyle,
    PskSource, Require, Routing, Start, Ts, Xdp, raw,
};

const NOT_YET: &str = "not supported yet";

/// Knows the file, so that every complaint can say where.
pub(super) struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

/// One table of the file: its name for messages and where it starts.
struct Section {
    name: String,
    start: usize,
}

impl Section {
    fn of<T>(spanned: &Spanned<T>, name: String) -> Self {
        Self {
            name,
            start: spanned.span().start,
        }
    }
}

impl<'a> Checker<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    pub(super) fn config(&self, raw: raw::File) -> Result<Config, ConfigError> {
        let accesses = self.accesses(raw.access)?;
        let pools = self.pools(raw.pool)?;
        let peers = self.peers(raw.peer, &accesses, &pools)?;
        let agent = self.agent(raw.agent, &peers)?;
        let limits = self.limits(raw.limits)?;
        Ok(Config {
            agent,
            accesses,
            pools,
            peers,
            limits,
        })
    }

    // ---- [agent] ----

    fn agent(
        &self,
        raw: Option<Spanned<raw::Agent>>,
        peers: &[Peer],
    ) -> Result<Agent, ConfigError> {
        let section = Section {
            name: "[agent]".into(),
            start: raw.as_ref().map_or(0, |r| r.span().start),
        };
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        let at = |key: &str, problem: String| self.error(&section, key, problem);
        if raw.metrics.is_some() {
            return Err(at("metrics", NOT_YET.into())
                .mend("remove it; `mifsec status --json` has the figures"));
        }
        self.choose(
            &section,
            "datapath",
            raw.datapath.as_deref(),
            "userspace",
            &[("userspace", Some(())), ("auto", Some(())), ("xfrm", None)],
        )?;
        let initiator = peers.iter().any(|p| !p.remote.is_empty());
        let routing = self.choose(
            &section,
            "routing",
            raw.routing.as_deref(),
            if initiator { "managed" } else { "manual" },
            &[
                ("managed", Some(Routing::Managed)),
                ("manual", Some(Routing::Manual)),
            ],
        )?;
        let name = raw.name.unwrap_or_else(|| "mifsec".into());
        let instance = raw.instance.unwrap_or_else(|| "default".into());
        if instance.is_empty()
            || !instance
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Err(at(
                "instance",
                format!("{instance:?} cannot be a directory name"),
            )
            .mend("use letters, digits, `-` and `_`"));
        }
        let port = self.integer(&section, "port", raw.port, 4500, 1..=65535)?;
        let ike_port = self.integer(&section, "ike_port", raw.ike_port, 500, 1..=65535)?;
        if port == ike_port {
            return Err(at("port", format!("is the same as ike_port ({port})"))
                .mend("give them two ports, as 4500 and 500"));
        }
        let device = raw.device.unwrap_or_else(|| "mif0".into());
        self.device_name(&section, "device", &device, 15)?;
        let anchor_device = raw.anchor_device.unwrap_or_else(|| "mifanchor0".into());
        self.device_name(&section, "anchor_device", &anchor_device, 14)?;
        if device == anchor_device {
            return Err(at("anchor_device", "is the same as device".into())
                .mend("give it a name of its own"));
        }
        Ok(Agent {
            name,
            control: raw
                .control
                .unwrap_or_else(|| "/run/mifsec/control.sock".into()),
            state_dir: raw.state_dir.unwrap_or_else(|| "/run/mifsec".into()),
            xdp: self.choose(
                &section,
                "xdp",
                raw.xdp.as_deref(),
                "auto",
                &[
                    ("auto", Some(Xdp::Auto)),
                    ("native", Some(Xdp::Native)),
                    ("generic", Some(Xdp::Generic)),
                    ("tc", Some(Xdp::Tc)),
                    ("off", Some(Xdp::Off)),
                ],
            )?,
            workers: self.integer(&section, "workers", raw.workers, 0, 0..=256)?,
            routing,
            lockdown: raw.lockdown.unwrap_or(true),
            on_stop: self.choose(
                &section,
                "on_stop",
                raw.on_stop.as_deref(),
                "delete",
                &[
                    ("delete", Some(OnStop::Delete)),
                    ("keep", Some(OnStop::Keep)),
                ],
            )?,
            port,
            ike_port,
            device,
            anchor_device,
            anchor: self.anchor(&section, raw.anchor)?,
            table: self.integer(&section, "table", raw.table, 4500, 1000..=4_000_000_000)?,
            instance,
        })
    }

    fn anchor(
        &self,
        section: &Section,
        raw: Option<Vec<String>>,
    ) -> Result<(Ipv4Net, Ipv6Net), ConfigError> {
        let default = || vec!["240.0.0.0/8".to_owned(), "fd6d:6966::/64".to_owned()];
        let nets: Vec<IpNet> = self.parsed(
            section,
            "anchor",
            &raw.unwrap_or_else(default),
            "a prefix like 240.0.0.0/8",
        )?;
        match nets.as_slice() {
            [IpNet::V4(v4), IpNet::V6(v6)] | [IpNet::V6(v6), IpNet::V4(v4)]
                if v4.prefix_len() <= 24 && v6.prefix_len() <= 112 =>
            {
                Ok((v4.trunc(), v6.trunc()))
            }
            _ => Err(self
                .error(
                    section,
                    "anchor",
                    "needs one IPv4 prefix (/24 or shorter) and one IPv6 prefix (/112 or shorter)"
                        .into(),
                )
                .mend("leave it out for 240.0.0.0/8 and fd6d:6966::/64")),
        }
    }

    // ---- [[access]] ----

    fn accesses(&self, raw: Vec<Spanned<raw::Access>>) -> Result<Vec<Access>, ConfigError> {
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

    // ---- [[pool]] ----

    fn pools(&self, raw: Vec<Spanned<raw::Pool>>) -> Result<Vec<Pool>, ConfigError> {
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

    // ---- [[peer]] ----

    fn peers(
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

    fn peer(
        &self,
        section: &Section,
        name: String,
        raw: raw::Peer,
        accesses: &[Access],
        pools: &[Pool],
    ) -> Result<Peer, ConfigError> {
        for (key, value) in [
            ("certificate", &raw.certificate),
            ("private_key", &raw.private_key),
            ("ca", &raw.ca),
        ] {
            if value.is_some() {
                return Err(self
                    .error(section, key, NOT_YET.into())
                    .mend("use psk_file"));
            }
        }
        self.unsupported(section, "rekey", raw.rekey.is_some())?;
        self.unsupported(section, "ike_rekey", raw.ike_rekey.is_some())?;
        self.choose(
            section,
            "encapsulation",
            raw.encapsulation.as_deref(),
            "auto",
            &[("auto", Some(())), ("udp", Some(())), ("native", None)],
        )?;
        let local_id = self.required(
            section,
            "local_id",
            raw.local_id,
            "say who we are, as laptop@example.org",
        )?;
        let remote_id = self.required(
            section,
            "remote_id",
            raw.remote_id,
            "say who the peer must be",
        )?;
        let local_id: Identity = local_id.parse().map_err(|e: IdentityError| {
            self.error(section, "local_id", e.to_string())
                .mend("write laptop@example.org or gw.example.org")
        })?;
        let pattern: IdentityPattern = remote_id.parse().map_err(|e: IdentityError| {
            self.error(section, "remote_id", e.to_string())
                .mend("write an exact identity, or `*@example.org` for many")
        })?;
        let remote: Vec<IpAddr> = self.parsed(
            section,
            "remote",
            &raw.remote.unwrap_or_default(),
            "an IP address (names are not resolved yet)",
        )?;
        if !pattern.is_exact() && !remote.is_empty() {
            return Err(self
                .error(
                    section,
                    "remote_id",
                    format!("{remote_id:?} is a pattern, but `remote` names one peer"),
                )
                .mend("give the peer's exact identity, or leave `remote` out to accept many"));
        }
        let psk = match (raw.psk_file, raw.psk_table) {
            (Some(path), None) => PskSource::one(&self.beside(path)).map_err(|e| {
                self.error(section, "psk_file", e)
                    .mend("put the shared secret there, readable by the agent")
            })?,
            (None, Some(path)) => PskSource::table(&self.beside(path)).map_err(|e| {
                self.error(section, "psk_table", e)
                    .mend("one `identity = secret` a line, readable by the agent")
            })?,
            (Some(_), Some(_)) => {
                return Err(self
                    .error(section, "psk_table", "given beside psk_file".into())
                    .mend("keep one of the two"));
            }
            (None, None) => {
                return Err(self
                    .error(section, "psk_file", "is missing".into())
                    .mend("name a file that holds the shared secret"));
            }
        };
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
        if children.is_empty() {
            return Err(self
                .error(
                    section,
                    "child",
                    "there is none, so nothing would be protected".into(),
                )
                .mend("add `[[peer.child]]` with name, local_ts and remote_ts"));
        }
        Ok(Peer {
            require: self.choose(
                section,
                "require",
                raw.require.as_deref(),
                "any",
                &[
                    ("any", Some(Require::Any)),
                    ("mif", Some(Require::Mif)),
                    ("mobike", None),
                ],
            )?,
            start: self.choose(
                section,
                "start",
                raw.start.as_deref(),
                if remote.is_empty() { "manual" } else { "auto" },
                &[
                    ("auto", Some(Start::Auto)),
                    ("manual", Some(Start::Manual)),
                    ("trap", None),
                ],
            )?,
            dpd: self.duration(section, "dpd", raw.dpd)?,
            ike: self.proposals(section, "ike", raw.ike)?,
            esp: self.proposals(section, "esp", raw.esp)?,
            pool: raw.pool,
            name,
            remote,
            local_id,
            remote_id: pattern,
            psk,
            request_v4,
            request_v6,
            children,
        })
    }

    fn child(
        &self,
        peer: &Section,
        spanned: Spanned<raw::Child>,
        accesses: &[Access],
        others: &[Child],
    ) -> Result<Child, ConfigError> {
        let mut section = Section::of(&spanned, format!("{} [[peer.child]]", peer.name));
        let raw = spanned.into_inner();
        let name = self.required(&section, "name", raw.name, "it shows up in `mifsec sa`")?;
        section.name = format!("{} child {name:?}", peer.name);
        if others.iter().any(|c| c.name == name) {
            return Err(self
                .error(&section, "name", "is used twice in this peer".into())
                .mend("rename one"));
        }
        let later = [
            ("dscp", raw.dscp.is_some()),
            ("alternates", raw.alternates.is_some()),
            ("order", raw.order.is_some_and(|o| o != 0)),
        ];
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
        self.choose(
            &section,
            "layout",
            raw.layout.as_deref(),
            "bundle",
            &[("bundle", Some(())), ("pinned", None)],
        )?;
        self.choose(
            &section,
            "policy",
            raw.policy.as_deref(),
            "protect",
            &[("protect", Some(())), ("bypass", None), ("discard", None)],
        )?;
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
            local_ts: self.selectors(&section, "local_ts", raw.local_ts)?,
            remote_ts: self.selectors(&section, "remote_ts", raw.remote_ts)?,
            replay_window: self.integer(
                &section,
                "replay_window",
                raw.replay_window,
                8192,
                64..=65536,
            )?,
            accesses: listed,
            name,
        })
    }

    fn selectors(
        &self,
        section: &Section,
        key: &str,
        raw: Option<Vec<String>>,
    ) -> Result<Vec<Ts>, ConfigError> {
        let raw = raw.unwrap_or_else(|| vec!["dynamic".into()]);
        if raw.is_empty() {
            return Err(self
                .error(section, key, "is empty".into())
                .mend("list prefixes, or \"dynamic\" for the lease"));
        }
        let mut out = Vec::new();
        for text in &raw {
            if text == "dynamic" {
                out.push(Ts::Dynamic);
                continue;
            }
            let nets = self.nets(section, key, std::slice::from_ref(text))?;
            out.extend(nets.into_iter().map(Ts::Net));
        }
        Ok(out)
    }

    // ---- [limits] ----

    fn limits(&self, raw: Option<Spanned<raw::Limits>>) -> Result<Limits, ConfigError> {
        let section = Section {
            name: "[limits]".into(),
            start: raw.as_ref().map_or(0, |r| r.span().start),
        };
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        self.integer::<u32>(&section, "derived", raw.derived, 256, 0..=65535)?;
        Ok(Limits {
            sas: self.integer(&section, "sas", raw.sas, 4096, 16..=4_000_000)?,
            paths: self.integer(&section, "paths", raw.paths, 4096, 16..=1_000_000)?,
            half_open: self.integer(&section, "half_open", raw.half_open, 256, 1..=1_000_000)?,
        })
    }

    // ---- the small things ----

    fn error(&self, section: &Section, key: &str, problem: String) -> ConfigError {
        ConfigError::file(self.file, problem)
            .key(format!("{}: {key}", section.name))
            .line(Some(self.line(section, key)))
    }

    /// The line of `key` within its table, else of the table.
    fn line(&self, section: &Section, key: &str) -> usize {
        let first = raw::line_of(self.text, section.start);
        let lines = self.text.lines().enumerate().skip(first - 1);
        for (i, line) in lines {
            let line = line.trim_start();
            if i >= first && line.starts_with('[') {
                break;
            }
            if let Some((left, _)) = line.split_once('=')
                && left.trim() == key
            {
                return i + 1;
            }
        }
        first
    }

    fn required(
        &self,
        section: &Section,
        key: &str,
        value: Option<String>,
        mend: &str,
    ) -> Result<String, ConfigError> {
        match value {
            Some(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(self.error(section, key, "is missing".into()).mend(mend)),
        }
    }

    fn unsupported(&self, section: &Section, key: &str, given: bool) -> Result<(), ConfigError> {
        if given {
            return Err(self.error(section, key, NOT_YET.into()).mend("remove it"));
        }
        Ok(())
    }

    fn choose<T: Copy>(
        &self,
        section: &Section,
        key: &str,
        value: Option<&str>,
        default: &str,
        choices: &[(&str, Option<T>)],
    ) -> Result<T, ConfigError> {
        let value = value.unwrap_or(default);
        let supported = || {
            let names: Vec<_> = choices
                .iter()
                .filter(|(_, c)| c.is_some())
                .map(|(n, _)| *n)
                .collect();
            names.join(", ")
        };
        match choices.iter().find(|(name, _)| *name == value) {
            Some((_, Some(choice))) => Ok(*choice),
            Some((_, None)) => Err(self
                .error(section, key, format!("{value:?} is {NOT_YET}"))
                .mend(format!("use {}", supported()))),
            None => Err(self
                .error(section, key, format!("{value:?} is not a value of it"))
                .mend(format!("use {}", supported()))),
        }
    }

    fn integer<T: TryFrom<i64>>(
        &self,
        section: &Section,
        key: &str,
        value: Option<i64>,
        default: i64,
        range: RangeInclusive<i64>,
    ) -> Result<T, ConfigError> {
        let value = value.unwrap_or(default);
        match T::try_from(value) {
            Ok(converted) if range.contains(&value) => Ok(converted),
            _ => Err(self
                .error(section, key, format!("{value} is out of range"))
                .mend(format!("give {} to {}", range.start(), range.end()))),
        }
    }

    fn duration(
        &self,
        section: &Section,
        key: &str,
        value: Option<toml::Value>,
    ) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let bad = || {
            self.error(section, key, format!("{value} is not a duration"))
                .mend("write seconds as a number, or \"30s\", \"500ms\", \"2m\"")
        };
        let parsed = match &value {
            toml::Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            toml::Value::String(text) => duration(text),
            _ => None,
        };
        let parsed = parsed.ok_or_else(bad)?;
        Ok((!parsed.is_zero()).then_some(parsed))
    }

    fn parsed<T: FromStr>(
        &self,
        section: &Section,
        key: &str,
        raw: &[String],
        what: &str,
    ) -> Result<Vec<T>, ConfigError> {
        raw.iter()
            .map(|text| {
                text.parse().map_err(|_| {
                    self.error(section, key, format!("{text:?} is not valid"))
                        .mend(format!("write {what}"))
                })
            })
            .collect()
    }

    /// Prefixes; a bare address is a host.
    fn nets(
        &self,
        section: &Section,
        key: &str,
        raw: &[String],
    ) -> Result<Vec<IpNet>, ConfigError> {
        raw.iter()
            .map(|text| {
                let net = text
                    .parse::<IpNet>()
                    .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| {
                        self.error(section, key, format!("{text:?} is not a prefix"))
                            .mend("write one like 10.0.0.0/8 or fd00::/64")
                    })?;
                if net != net.trunc() {
                    return Err(self
                        .error(section, key, format!("{net} has host bits set"))
                        .mend(format!("write {}", net.trunc())));
                }
                Ok(net)
            })
            .collect()
    }

    /// Proposals in strongSwan's spelling; none given = the default offer.
    fn proposals<T>(
        &self,
        section: &Section,
        key: &str,
        raw: Option<Vec<String>>,
    ) -> Result<Vec<T>, ConfigError>
    where
        T: FromStr<Err = ParseError> + Default,
    {
        let raw = raw.unwrap_or_default();
        if raw.is_empty() {
            return Ok(vec![T::default()]);
        }
        raw.iter()
            .map(|text| {
                text.parse().map_err(|e: ParseError| {
                    self.error(section, key, format!("{text:?}: {e}")).mend(
                        "write it as aes256gcm16-prfsha256-x25519 (ike) or aes256gcm16-esn (esp)",
                    )
                })
            })
            .collect()
    }

    fn device_name(
        &self,
        section: &Section,
        key: &str,
        name: &str,
        longest: usize,
    ) -> Result<(), ConfigError> {
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if name.is_empty()
            || name.len() > longest
            || name == "."
            || name == ".."
            || name.contains(odd)
        {
            return Err(self
                .error(
                    section,
                    key,
                    format!("{name:?} cannot be the name of an interface"),
                )
                .mend(format!(
                    "use 1 to {longest} characters without space or `/`"
                )));
        }
        Ok(())
    }

    /// Relative paths are relative to the configuration file.
    fn beside(&self, path: PathBuf) -> PathBuf {
        match self.file.parent() {
            Some(parent) if path.is_relative() => parent.join(path),
            _ => path,
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}
