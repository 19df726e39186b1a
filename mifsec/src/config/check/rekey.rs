//! `rekey` and `ike_rekey`: when keys are replaced.
//!
//! Three forms: a time (`"1h"`), a table (`{ time, octets, packets, jitter }`) and
//! `"never"`. What is not given in a table has no limit, so `{ packets = 1000000 }`
//! alone does not rekey by time.

use std::time::Duration;

use super::super::{ConfigError, Rekey};
use super::{Checker, Section, values};

/// Child SAs, and how much of a lifetime is taken off at random at most.
const CHILD: Duration = Duration::from_secs(3600);
const IKE: Duration = Duration::from_secs(4 * 3600);
const JITTER: f64 = 0.1;
/// Less would only be rekeying.
const LEAST_TIME: Duration = Duration::from_secs(1);
const LEAST_OCTETS: u64 = 64 << 10;
const LEAST_PACKETS: u64 = 100;
const MOST_JITTER: f64 = 0.5;

/// Which of the two keys it is.
#[derive(Clone, Copy)]
pub(super) enum What {
    Child,
    Ike,
}

impl Checker<'_> {
    pub(super) fn rekey(
        &self,
        section: &Section,
        what: What,
        value: Option<toml::Value>,
    ) -> Result<Rekey, ConfigError> {
        let (key, default) = match what {
            What::Child => ("rekey", CHILD),
            What::Ike => ("ike_rekey", IKE),
        };
        let mut rekey = Rekey {
            time: Some(default),
            octets: None,
            packets: None,
            jitter: JITTER,
        };
        match value {
            None => {}
            Some(toml::Value::String(text)) if text == "never" => rekey.time = None,
            Some(toml::Value::Table(table)) => {
                rekey.time = None;
                for (name, value) in table {
                    self.rekey_part(section, (key, what), &name, &value, &mut rekey)?;
                }
            }
            Some(value) => rekey.time = Some(self.rekey_time(section, key, &value)?),
        }
        Ok(rekey)
    }

    fn rekey_part(
        &self,
        section: &Section,
        (key, what): (&str, What),
        name: &str,
        value: &toml::Value,
        rekey: &mut Rekey,
    ) -> Result<(), ConfigError> {
        let least = |limit: u64, what: &str| {
            self.error(
                section,
                key,
                format!("{name} = {value} would be nothing but rekeying"),
            )
            .mend(format!("give at least {limit} {what}"))
        };
        match (name, what) {
            ("time", _) => rekey.time = Some(self.rekey_time(section, key, value)?),
            ("octets", What::Child) => {
                let octets = octets(value).ok_or_else(|| {
                    self.error(section, key, format!("octets = {value} is not an amount"))
                        .mend("write octets as a number, or \"16GiB\", \"500MB\"")
                })?;
                if octets < LEAST_OCTETS {
                    return Err(least(LEAST_OCTETS, "octets"));
                }
                rekey.octets = Some(octets);
            }
            ("packets", What::Child) => {
                let packets = value.as_integer().and_then(|n| u64::try_from(n).ok());
                let packets = packets.ok_or_else(|| {
                    self.error(section, key, format!("packets = {value} is not a number"))
                        .mend("write packets = 1000000000")
                })?;
                if packets < LEAST_PACKETS {
                    return Err(least(LEAST_PACKETS, "packets"));
                }
                rekey.packets = Some(packets);
            }
            ("jitter", _) => {
                #[expect(clippy::cast_precision_loss, reason = "0 and nothing else is valid")]
                let jitter = value
                    .as_float()
                    .or_else(|| value.as_integer().map(|n| n as f64));
                match jitter {
                    Some(jitter) if (0.0..=MOST_JITTER).contains(&jitter) => rekey.jitter = jitter,
                    _ => {
                        return Err(self
                            .error(section, key, format!("jitter = {value} is out of range"))
                            .mend("give the share of the lifetime taken off at random, 0 to 0.5"));
                    }
                }
            }
            ("octets" | "packets", What::Ike) => {
                return Err(self
                    .error(section, key, format!("an IKE SA has no limit of {name}"))
                    .mend("give time and jitter alone"));
            }
            _ => {
                return Err(self
                    .error(section, key, format!("{name:?} is no part of it"))
                    .mend(match what {
                        What::Child => "use time, octets, packets, jitter",
                        What::Ike => "use time, jitter",
                    }));
            }
        }
        Ok(())
    }

    fn rekey_time(
        &self,
        section: &Section,
        key: &str,
        value: &toml::Value,
    ) -> Result<Duration, ConfigError> {
        let parsed = match value {
            toml::Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            toml::Value::String(text) => values::duration(text),
            _ => None,
        };
        match parsed {
            Some(time) if time >= LEAST_TIME => Ok(time),
            Some(_) => Err(self
                .error(section, key, format!("{value} would be nothing but rekeying"))
                .mend("give at least \"1s\", or \"never\"")),
            None => Err(self
                .error(section, key, format!("{value} is not a lifetime"))
                .mend("write \"1h\", \"1h30m\", \"never\" or { time = \"1h\", octets = \"16GiB\", packets = 1000000000, jitter = 0.1 }")),
        }
    }
}

/// A number, or one with a unit: powers of 1000 or, with an `i`, of 1024.
fn octets(value: &toml::Value) -> Option<u64> {
    let text = match value {
        toml::Value::Integer(octets) => return u64::try_from(*octets).ok(),
        toml::Value::String(text) => text,
        _ => return None,
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_decimal_and_binary_units() {
        let octets = |text: &str| octets(&toml::Value::String(text.into()));
        assert_eq!(octets("16GiB"), Some(16 << 30));
        assert_eq!(octets("500 MB"), Some(500_000_000));
        assert_eq!(octets("7"), Some(7));
        for bad in ["", "GiB", "1.5GiB", "-1", "99999999999TiB", "1Gib"] {
            assert_eq!(octets(bad), None, "{bad}");
        }
    }
}
