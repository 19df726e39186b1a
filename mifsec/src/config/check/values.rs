//! Single values: numbers, choices, prefixes, durations, and where they stand.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::super::{ConfigError, raw};
use super::{Checker, NOT_YET, Section};
use crate::ike::proposal::Named;

impl Checker<'_> {
    pub(super) fn error(&self, section: &Section, key: &str, problem: String) -> ConfigError {
        ConfigError::file(self.file, problem)
            .key(format!("{}: {key}", section.name))
            .line(Some(self.line(section, key)))
    }

    /// The line of `key` within its table, else of the table.
    pub(super) fn line(&self, section: &Section, key: &str) -> usize {
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

    pub(super) fn required(
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

    pub(super) fn unsupported(
        &self,
        section: &Section,
        key: &str,
        given: bool,
    ) -> Result<(), ConfigError> {
        if given {
            return Err(self.error(section, key, NOT_YET.into()).mend("remove it"));
        }
        Ok(())
    }

    pub(super) fn choose<T: Copy>(
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

    pub(super) fn integer<T: TryFrom<i64>>(
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

    pub(super) fn duration(
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

    pub(super) fn parsed<T: FromStr>(
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
    pub(super) fn nets(
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

    /// Proposals in strongSwan's spelling, `default` and `legacy`; none given =
    /// the default offer.
    pub(super) fn proposals<T>(
        &self,
        section: &Section,
        key: &str,
        raw: Option<Vec<String>>,
    ) -> Result<Vec<T>, ConfigError>
    where
        T: Named,
    {
        let raw = raw.unwrap_or_default();
        if raw.is_empty() {
            return Ok(vec![T::default()]);
        }
        let mut all = Vec::new();
        for text in &raw {
            all.extend(T::entry(text).map_err(|e| {
                self.error(section, key, format!("{text:?}: {e}"))
                    .mend("write it as aes256gcm16-prfsha256-x25519 (ike) or aes256gcm16-esn (esp)")
            })?);
        }
        Ok(all)
    }

    pub(super) fn device_name(
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
    pub(super) fn beside(&self, path: PathBuf) -> PathBuf {
        match self.file.parent() {
            Some(parent) if path.is_relative() => parent.join(path),
            _ => path,
        }
    }
}

/// One or more numbers, each with its unit: "90s", "1h30m". A number without one
/// is seconds and stands alone.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()) {
        return rest.parse().ok().map(Duration::from_secs);
    }
    let mut total = None;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let number: u64 = number.parse().ok()?;
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "d" => Duration::from_secs(number.checked_mul(86_400)?),
            _ => return None,
        };
        total = Some(total.unwrap_or(Duration::ZERO).checked_add(part)?);
        rest = next.trim_start();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_of_seconds_or_a_sum_of_units() {
        assert_eq!(duration("90"), Some(Duration::from_secs(90)));
        assert_eq!(duration("10ms"), Some(Duration::from_millis(10)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1d 2h"), Some(Duration::from_secs(93_600)));
        for bad in ["", " ", "h", "1h30", "1w", "-1s", "1.5h", "1hh"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
