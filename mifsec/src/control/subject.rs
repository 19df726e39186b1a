//! What `explain` is asked about, as people write it: a flow or an SPI.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::agent::explain::Explain;

/// A flow by its five values, or an ESP SPI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Subject {
    /// An inner packet's.
    Flow {
        /// IP protocol number.
        protocol: u8,
        /// Source; absent leaves it to the routes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        src: Option<IpAddr>,
        /// Source port, if it has one and it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sport: Option<u16>,
        /// Destination.
        dst: IpAddr,
        /// Destination port, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dport: Option<u16>,
    },
    /// Of either direction, written as the tools print it.
    #[serde(serialize_with = "write_spi", deserialize_with = "read_spi")]
    Spi(u32),
}

/// Protocols by name; the flag says whether they have ports.
const PROTOCOLS: [(&str, u8, bool); 8] = [
    ("tcp", 6, true),
    ("udp", 17, true),
    ("sctp", 132, true),
    ("dccp", 33, true),
    ("icmp", 1, false),
    ("icmpv6", 58, false),
    ("gre", 47, false),
    ("esp", 50, false),
];

const USAGE: &str = "write an SPI like 0xc0ffee01, or protocol, source and destination like `udp 10.66.0.1:4000 10.99.0.2:53`, of which the source may be missing";

impl FromStr for Subject {
    type Err = String;

    /// One line that says what is wrong and how to write it.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let word = |word: Option<&str>| word.map(str::to_owned).unwrap_or_default();
        let (first, second, third) = (word(words.next()), words.next(), words.next());
        let Some(second) = second else {
            return spi(&first)
                .map(Self::Spi)
                .ok_or_else(|| format!("{first:?} is no SPI; {USAGE}"));
        };
        if let Some(more) = words.next() {
            return Err(format!("{more:?} is too much; {USAGE}"));
        }
        let (protocol, ports) =
            protocol(&first).ok_or_else(|| format!("{first:?} is no protocol; {USAGE}"))?;
        let end = |text: &str| {
            let (ip, port) =
                endpoint(text).ok_or_else(|| format!("{text:?} is no address; {USAGE}"))?;
            match (ports, port) {
                (Some(false), Some(_)) => {
                    Err(format!("{first} has no ports; leave that of {text:?} out"))
                }
                (_, port) => Ok((ip, port)),
            }
        };
        // The source is the one that may be missing.
        let (src, dst) = match third {
            Some(third) => (Some(end(second)?), end(third)?),
            None => (None, end(second)?),
        };
        if ports == Some(true) && dst.1.is_none() {
            return Err(format!("{} lacks its port; {USAGE}", dst.0));
        }
        if let Some((src, _)) = src
            && src.is_ipv4() != dst.0.is_ipv4()
        {
            let dst = dst.0;
            return Err(format!(
                "{src} and {dst} are of two families; use addresses of one"
            ));
        }
        Ok(Self::Flow {
            protocol,
            src: src.map(|(ip, _)| ip),
            sport: src.and_then(|(_, port)| port),
            dst: dst.0,
            dport: dst.1,
        })
    }
}

impl From<Subject> for Explain {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Flow {
                protocol,
                src,
                sport,
                dst,
                dport,
            } => Self::Flow {
                src,
                dst,
                protocol,
                sport,
                dport,
            },
            Subject::Spi(spi) => Self::Spi(spi),
        }
    }
}

/// Its number, and whether it has ports as far as that is known.
fn protocol(text: &str) -> Option<(u8, Option<bool>)> {
    let known = |(name, number, _): &&(&str, u8, bool)| {
        text.eq_ignore_ascii_case(name) || text == number.to_string()
    };
    match PROTOCOLS.iter().find(known) {
        Some((_, number, ports)) => Some((*number, Some(*ports))),
        None => Some((text.parse().ok()?, None)),
    }
}

fn endpoint(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(ip) = text.parse() {
        return Some((ip, None));
    }
    let with_port: SocketAddr = text.parse().ok()?;
    Some((with_port.ip(), Some(with_port.port())))
}

fn spi(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(digits, 16).ok().filter(|_| valid)
}

fn write_spi<S: Serializer>(spi: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("0x{spi:08x}"))
}

fn read_spi<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let text = String::deserialize(from)?;
    spi(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no SPI")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: u8, src: &str, dst: &str) -> Subject {
        let src = endpoint(src);
        let (dst, dport) = endpoint(dst).unwrap();
        Subject::Flow {
            protocol,
            src: src.map(|(ip, _)| ip),
            sport: src.and_then(|(_, port)| port),
            dst,
            dport,
        }
    }

    #[test]
    fn flows_and_spis_are_read_as_people_write_them() {
        for (text, read) in [
            ("0xc0ffee01", Subject::Spi(0xc0ff_ee01)),
            ("C0FFEE01", Subject::Spi(0xc0ff_ee01)),
            (
                "udp 10.66.0.1:4000 10.99.0.2:53",
                flow(17, "10.66.0.1:4000", "10.99.0.2:53"),
            ),
            (
                "TCP [fd66::1]:4000  [2001:db8::2]:443",
                flow(6, "[fd66::1]:4000", "[2001:db8::2]:443"),
            ),
            (
                "icmp 10.66.0.1 10.99.0.2",
                flow(1, "10.66.0.1", "10.99.0.2"),
            ),
            ("tcp 10.99.0.2:443", flow(6, "", "10.99.0.2:443")),
            (
                "tcp 10.66.0.1 10.99.0.2:443",
                flow(6, "10.66.0.1", "10.99.0.2:443"),
            ),
            ("89 10.66.0.1 10.99.0.2", flow(89, "10.66.0.1", "10.99.0.2")),
        ] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject, read, "{text}");
            let line = serde_json::to_string(&subject).unwrap();
            assert_eq!(serde_json::from_str::<Subject>(&line).unwrap(), subject);
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_says_how_to_write_it() {
        for (text, says) in [
            ("", "is no SPI; write an SPI"),
            ("0x", "is no SPI; write an SPI"),
            ("0x123456789", "is no SPI; write an SPI"),
            ("+c0ffee", "is no SPI; write an SPI"),
            ("udp 10.99.0.2", "lacks its port; write"),
            ("udp 10.66.0.1:4000 10.99.0.2", "lacks its port; write"),
            ("icmp 10.66.0.1:1 10.99.0.2", "icmp has no ports; leave"),
            ("ipx 10.66.0.1:1 10.99.0.2:2", "is no protocol; write"),
            ("udp ten:1 10.99.0.2:2", "is no address; write"),
            ("udp 10.66.0.1:1 [fd66::1]:2", "two families; use"),
            ("udp 10.66.0.1:1 10.0.0.1:2 x", "is too much; write"),
        ] {
            let error = text.parse::<Subject>().unwrap_err();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
