//! The file as written: every key of the format, all optional, none unknown.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) agent: Option<Spanned<Agent>>,
    #[serde(default)]
    pub(super) access: Vec<Spanned<Access>>,
    #[serde(default)]
    pub(super) pool: Vec<Spanned<Pool>>,
    #[serde(default)]
    pub(super) peer: Vec<Spanned<Peer>>,
    #[serde(default)]
    pub(super) limits: Option<Spanned<Limits>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Agent {
    pub(super) name: Option<String>,
    pub(super) control: Option<PathBuf>,
    pub(super) metrics: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) datapath: Option<String>,
    pub(super) xdp: Option<String>,
    pub(super) workers: Option<i64>,
    pub(super) routing: Option<String>,
    pub(super) lockdown: Option<bool>,
    pub(super) on_stop: Option<String>,
    pub(super) port: Option<i64>,
    pub(super) ike_port: Option<i64>,
    pub(super) device: Option<String>,
    pub(super) anchor_device: Option<String>,
    pub(super) anchor: Option<Vec<String>>,
    pub(super) table: Option<i64>,
    pub(super) instance: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub(super) interface: Option<String>,
    pub(super) class: Option<String>,
    pub(super) priority: Option<i64>,
    pub(super) weight: Option<i64>,
    pub(super) metered: Option<bool>,
    pub(super) trusted: Option<bool>,
    pub(super) addresses: Option<Vec<String>>,
    pub(super) mtu: Option<i64>,
    pub(super) max_rate: Option<toml::Value>,
    pub(super) data_cap: Option<toml::Value>,
    pub(super) ike: Option<bool>,
    pub(super) probe: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) name: Option<String>,
    pub(super) cidr: Option<Vec<String>>,
    pub(super) dns: Option<Vec<String>>,
    pub(super) domains: Option<Vec<String>>,
    pub(super) exclude: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    pub(super) name: Option<String>,
    pub(super) remote: Option<Vec<String>>,
    pub(super) local_id: Option<String>,
    pub(super) remote_id: Option<String>,
    pub(super) psk_file: Option<PathBuf>,
    pub(super) psk_table: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) private_key: Option<PathBuf>,
    pub(super) ca: Option<OneOrMany>,
    pub(super) addresses: Option<Vec<String>>,
    pub(super) pool: Option<String>,
    pub(super) require: Option<String>,
    pub(super) start: Option<String>,
    pub(super) ike: Option<Vec<String>>,
    pub(super) esp: Option<Vec<String>>,
    pub(super) rekey: Option<toml::Value>,
    pub(super) ike_rekey: Option<toml::Value>,
    pub(super) dpd: Option<toml::Value>,
    pub(super) encapsulation: Option<String>,
    pub(super) mif: Option<String>,
    pub(super) mobike: Option<String>,
    pub(super) nat: Option<String>,
    pub(super) early_announce: Option<bool>,
    pub(super) childless: Option<bool>,
    #[serde(default)]
    pub(super) child: Vec<Spanned<Child>>,
}

/// One path, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl OneOrMany {
    pub(super) fn paths(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Child {
    pub(super) name: Option<String>,
    pub(super) mode: Option<String>,
    pub(super) local_ts: Option<Vec<String>>,
    pub(super) remote_ts: Option<Vec<String>>,
    pub(super) steering: Option<String>,
    pub(super) layout: Option<String>,
    pub(super) policy: Option<String>,
    pub(super) order: Option<i64>,
    pub(super) dscp: Option<toml::Value>,
    pub(super) replay_window: Option<i64>,
    pub(super) alternates: Option<toml::Value>,
    pub(super) accesses: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) sas: Option<i64>,
    pub(super) paths: Option<i64>,
    pub(super) half_open: Option<i64>,
    pub(super) derived: Option<i64>,
}

/// Reads the form; syntax, types and unknown keys are settled here.
pub(super) fn parse(file: &Path, text: &str) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        let message = error.message();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field")
            && let Some((unknown, known)) = quoted.split_first()
        {
            let mend = match closest(unknown, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it, or use one of {}", known.join(", ")),
            };
            return ConfigError::file(file, "unknown key")
                .key(*unknown)
                .line(line)
                .mend(mend);
        }
        let source = line.and_then(|n| text.lines().nth(n - 1)).unwrap_or("");
        let mut out = ConfigError::file(file, message).line(line);
        if let Some((key, _)) = source.split_once('=') {
            out = out.key(key.trim());
        }
        out.mend("see the configuration reference in README.md")
    })
}

/// The line `offset` lies on, counted from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|&&b| b == b'\n')
        .count()
}

/// The candidate a typing mistake away from `word`.
pub(super) fn closest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|c| (distance(word, c), *c))
        .filter(|(d, c)| *d <= 1 + c.len() / 4)
        .min()
        .map(|(_, c)| c)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
