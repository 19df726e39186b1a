//! `mif`, `mobike`, `encapsulation`, `nat` and `early_announce` of a `[[peer]]`, which depend on each
//! other.

use super::super::{ConfigError, raw};
use super::{Checker, Section};
use crate::ike::config::Mobility;

/// The keys as written.
pub(super) struct Words {
    require: Option<String>,
    mif: Option<String>,
    mobike: Option<String>,
    encapsulation: Option<String>,
    nat: Option<String>,
    early_announce: Option<bool>,
}

impl Words {
    pub(super) fn of(raw: &raw::Peer) -> Self {
        Self {
            require: raw.require.clone(),
            mif: raw.mif.clone(),
            mobike: raw.mobike.clone(),
            encapsulation: raw.encapsulation.clone(),
            nat: raw.nat.clone(),
            early_announce: raw.early_announce,
        }
    }
}

impl Checker<'_> {
    pub(super) fn mobility(
        &self,
        section: &Section,
        words: &Words,
    ) -> Result<Mobility, ConfigError> {
        let switch = [("auto", Some(true)), ("off", Some(false))];
        let mif = self.choose(section, "mif", words.mif.as_deref(), "auto", &switch)?;
        let mobike = self.choose(section, "mobike", words.mobike.as_deref(), "auto", &switch)?;
        // MIF peers put ESP in UDP anyway, so they need not be made to.
        let needless = words.require.as_deref() == Some("mif");
        let force_udp = self.choose(
            section,
            "encapsulation",
            words.encapsulation.as_deref(),
            "auto",
            &[
                ("auto", Some(!needless)),
                ("udp", Some(true)),
                ("native", None),
            ],
        )?;
        let no_nats = self.choose(
            section,
            "nat",
            words.nat.as_deref(),
            "allow",
            &[("allow", Some(false)), ("forbid", Some(true))],
        )?;
        let lacking = match words.require.as_deref() {
            Some("mif") if !mif => Some("mif"),
            Some("mobike") if !mif && !mobike => Some("mobike"),
            _ => None,
        };
        if let Some(key) = lacking {
            return Err(self
                .error(section, key, "is \"off\", but `require` asks for it".into())
                .mend("remove one of the two"));
        }
        if no_nats && !mobike {
            return Err(self
                .error(
                    section,
                    "nat",
                    "\"forbid\" is part of MOBIKE, which is off".into(),
                )
                .mend("remove mobike = \"off\", or nat"));
        }
        let early_announce = words.early_announce.unwrap_or(false);
        if early_announce && !mif {
            return Err(self
                .error(
                    section,
                    "early_announce",
                    "is part of IKEv2-MIF, which is off".into(),
                )
                .mend("remove mif = \"off\", or early_announce"));
        }
        Ok(Mobility {
            mif,
            mobike,
            force_udp,
            no_nats,
            early_announce,
        })
    }
}
