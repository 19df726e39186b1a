//! `[agent]` and `[limits]`.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::super::{Agent, ConfigError, Limits, OnStop, Peer, Routing, Xdp, raw};
use super::{Checker, NOT_YET, Section};

impl Checker<'_> {
    pub(super) fn agent(
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
            table: self.integer(&section, "table", raw.table, 4500, 1000..=32_000)?,
            instance,
        })
    }

    pub(super) fn anchor(
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

    pub(super) fn limits(&self, raw: Option<Spanned<raw::Limits>>) -> Result<Limits, ConfigError> {
        let section = Section {
            name: "[limits]".into(),
            start: raw.as_ref().map_or(0, |r| r.span().start),
        };
        let raw = raw.map(Spanned::into_inner).unwrap_or_default();
        Ok(Limits {
            sas: self.integer(&section, "sas", raw.sas, 4096, 16..=4_000_000)?,
            paths: self.integer(&section, "paths", raw.paths, 4096, 16..=1_000_000)?,
            half_open: self.integer(&section, "half_open", raw.half_open, 256, 1..=1_000_000)?,
            derived: self.integer(&section, "derived", raw.derived, 256, 0..=65_535)?,
        })
    }
}
