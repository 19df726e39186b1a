//! `alternates` of a `[[peer.child]]`: `"default"`, `"none"`, or a table of accesses
//! with those that stand in for each, by interface. Alternates are of interfaces, so
//! all children of a peer have the same.

use std::collections::BTreeMap;

use super::super::{Access, Alternates, Child, ConfigError};
use super::{Checker, Section};

const KEY: &str = "alternates";

impl Checker<'_> {
    /// What one child says.
    pub(super) fn alternates(
        &self,
        section: &Section,
        given: Option<&toml::Value>,
        accesses: &[Access],
    ) -> Result<Alternates, ConfigError> {
        let table = match given {
            None => return Ok(Alternates::new()),
            Some(toml::Value::Table(table)) => table,
            Some(toml::Value::String(word)) if word == "default" => return Ok(Alternates::new()),
            Some(toml::Value::String(word)) if word == "none" => {
                return Ok((0..accesses.len()).map(|i| (i, Vec::new())).collect());
            }
            Some(other) => {
                return Err(self
                    .error(section, KEY, format!("is {other}"))
                    .mend("write \"default\", \"none\", or { wlan0 = [\"wwan0\"] }"));
            }
        };
        let mut out = BTreeMap::new();
        for (name, list) in table {
            let access = self.alternate(section, name, accesses)?;
            let names = list
                .as_array()
                .map(|list| list.iter().map(toml::Value::as_str));
            let Some(names) = names.and_then(Iterator::collect::<Option<Vec<_>>>) else {
                return Err(self
                    .error(
                        section,
                        KEY,
                        format!("of {name:?} is no list of interfaces"),
                    )
                    .mend("write { wlan0 = [\"wwan0\", \"eth0\"] }"));
            };
            let mut others = Vec::new();
            for other in names {
                let index = self.alternate(section, other, accesses)?;
                if index == access || others.contains(&index) {
                    return Err(self
                        .error(
                            section,
                            KEY,
                            format!("of {name:?} has {other:?} for no use"),
                        )
                        .mend("name each other access once"));
                }
                others.push(index);
            }
            out.insert(access, others);
        }
        Ok(out)
    }

    /// What all children of a peer say.
    pub(super) fn agreed_alternates(
        &self,
        section: &Section,
        children: &[Child],
        accesses: &[Access],
    ) -> Result<Alternates, ConfigError> {
        let mut out = Alternates::new();
        for (access, list) in children.iter().flat_map(|child| &child.alternates) {
            let before = out.insert(*access, list.clone());
            if before.is_some_and(|before| before != *list) {
                let name = accesses.get(*access).map_or("", |access| &access.interface);
                return Err(self
                    .error(
                        section,
                        KEY,
                        format!("of {name:?} differ between the children"),
                    )
                    .mend("say it once, or the same everywhere: alternates are of an interface"));
            }
        }
        Ok(out)
    }

    fn alternate(
        &self,
        section: &Section,
        name: &str,
        accesses: &[Access],
    ) -> Result<usize, ConfigError> {
        accesses
            .iter()
            .position(|access| access.interface == name)
            .ok_or_else(|| {
                self.error(
                    section,
                    KEY,
                    format!("{name:?} is not the interface of any [[access]]"),
                )
                .mend("add the [[access]], or correct the name")
            })
    }
}
