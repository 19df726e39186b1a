//! Pre-shared keys from files: one secret, or a table of `identity = secret`.
//!
//! A secret is text up to the end of the line, or octets as `0x` and hex digits.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::Secret;
use crate::ike::peer::{self, Identity, LocalAuth, PskTable};

use super::Peer;

/// Where the keys of a peer come from, read.
pub enum PskSource {
    /// `psk_file`: one key.
    One(Secret, PathBuf),
    /// `psk_table`: one key for each identity.
    Table(PskTable, PathBuf, FileStamp),
}

/// What tells two contents of one file apart: inode, size, and when contents and
/// inode were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp(Option<(u64, u64, [i64; 4])>);

impl FileStamp {
    /// Of the file as it is now.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let stamp = |file: std::fs::Metadata| {
            let times = [
                file.mtime(),
                file.mtime_nsec(),
                file.ctime(),
                file.ctime_nsec(),
            ];
            (file.ino(), file.size(), times)
        };
        Self(std::fs::metadata(path).ok().map(stamp))
    }
}

impl PskSource {
    /// Reads `psk_file`.
    pub(super) fn one(path: &Path) -> Result<Self, String> {
        let text = read(path)?;
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        let line = lines
            .next()
            .ok_or_else(|| format!("{} is empty", path.display()))?;
        if lines.next().is_some() {
            return Err(format!("{} has more than one line", path.display()));
        }
        Ok(Self::One(secret(line)?, path.to_owned()))
    }

    /// Reads `psk_table`.
    pub(super) fn table(path: &Path) -> Result<Self, String> {
        // Before it is read: a change in between is seen later.
        let stamp = FileStamp::of(path);
        Ok(Self::Table(Self::read_table(path)?, path.to_owned(), stamp))
    }

    /// The file of a `psk_table`, and what it looked like when it was read.
    #[must_use]
    pub fn table_file(&self) -> Option<(&Path, FileStamp)> {
        match self {
            Self::One(..) => None,
            Self::Table(_, path, stamp) => Some((path, *stamp)),
        }
    }

    /// Reads a file of `identity = secret` lines, a distinguished name in quotes.
    ///
    /// # Errors
    /// What is wrong, with the line; no secret is in it.
    pub fn read_table(path: &Path) -> Result<PskTable, String> {
        let text = read(path)?;
        let mut map = BTreeMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = format!("{}:{}", path.display(), i + 1);
            let (identity, value) =
                entry(line).ok_or_else(|| format!("{at} is not `identity = secret`"))?;
            let identity: Identity = identity.trim().parse().map_err(|e| format!("{at}: {e}"))?;
            let value = secret(value.trim()).map_err(|e| format!("{at}: {e}"))?;
            if map.contains_key(&identity) {
                return Err(format!("{at} names {identity} a second time"));
            }
            map.insert(identity, value);
        }
        if map.is_empty() {
            return Err(format!(
                "{} has no `identity = secret` line",
                path.display()
            ));
        }
        Ok(PskTable::new(map))
    }

    /// A copy for the engine.
    #[must_use]
    pub fn duplicate(&self) -> peer::PskSource {
        match self {
            Self::One(secret, _) => peer::PskSource::One(secret.duplicate()),
            Self::Table(table, ..) => peer::PskSource::Table(table.clone()),
        }
    }

    /// A line when others can read the file.
    pub(super) fn warnings(&self, peer: &str) -> Option<String> {
        let (Self::One(_, path) | Self::Table(_, path, _)) = self;
        exposed(peer, path)
    }
}

/// A line when others can read a file that holds a secret.
fn exposed(peer: &str, path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        format!(
            "[[peer]] {peer:?}: {} can be read by others; chmod 600 it",
            path.display()
        )
    })
}

/// What is odd about a peer's certificates: dates, usage, a private key others
/// can read.
pub(super) fn certificate_warnings(peer: &Peer) -> Vec<String> {
    let mut out = Vec::new();
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return out;
    };
    let now = now.as_secs();
    let name = &peer.name;
    if let (LocalAuth::Certificate(credential), Some(files)) =
        (&peer.local_auth, &peer.credential_files)
    {
        out.extend(exposed(name, &files.private_key));
        out.extend(credential.warning(now).map(|warning| {
            let file = files.certificate.display();
            format!("[[peer]] {name:?}: {file} {warning}; peers will refuse it")
        }));
    }
    for (authority, since) in peer.ca.iter().flat_map(|ca| ca.expired(now)) {
        out.push(format!(
            "[[peer]] {name:?}: authority \"{authority}\" of `ca` expired on {since}; it still counts"
        ));
    }
    out
}

/// Identity and secret of one line. In quotes the identity ends with the first
/// quote that the sign follows.
fn entry(line: &str) -> Option<(&str, &str)> {
    let Some(quoted) = line.strip_prefix('"') else {
        return line.split_once('=');
    };
    quoted.match_indices('"').find_map(|(at, quote)| {
        let rest = quoted.get(at + quote.len()..)?;
        let secret = rest.trim_start().strip_prefix('=')?;
        Some((quoted.get(..at)?, secret))
    })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read ({e})", path.display()))
}

fn secret(text: &str) -> Result<Secret, String> {
    if text.is_empty() {
        return Err("the secret is empty".into());
    }
    let Some(hex) = text.strip_prefix("0x") else {
        return Ok(Secret::new(text.as_bytes().to_vec()));
    };
    let digits: Option<Vec<u8>> = hex
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    match digits {
        Some(digits) if !digits.is_empty() && digits.len() % 2 == 0 => Ok(Secret::new(
            digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect(),
        )),
        _ => Err("the secret starts with 0x but is not an even number of hex digits".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_where_the_identity_ends() {
        for (line, identity, secret) in [
            (
                "alice@example.org = c2VjcmV0==",
                "alice@example.org",
                "c2VjcmV0==",
            ),
            ("\"C=CH, CN=moon\" = a\"b", "C=CH, CN=moon", "a\"b"),
            (
                "\"O=\"Ex, Inc\", CN=x\"=\"=\"",
                "O=\"Ex, Inc\", CN=x",
                "\"=\"",
            ),
        ] {
            let (found, value) = entry(line).unwrap();
            assert_eq!((found.trim(), value.trim()), (identity, secret));
        }
        for bad in ["alice", "\"alice = x", "\"alice\" x"] {
            assert!(entry(bad).is_none(), "{bad}");
        }
    }
}
