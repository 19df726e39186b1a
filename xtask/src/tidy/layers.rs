//! Which module of the agent may know which, and which crates.

use super::{File, Violation};

/// (module, modules of the same crate it may import)
const LAYERS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("wire", &["ids"]),
    ("crypto", &["ids", "wire"]),
    ("esp", BASE),
    ("ike", BASE),
    ("path", BASE),
    (
        "dataplane",
        &["ids", "wire", "crypto", "esp", "ike", "path", "io"],
    ),
    (
        "ebpf",
        &["ids", "wire", "crypto", "esp", "ike", "path", "io"],
    ),
    ("io", &["ids", "wire", "crypto", "esp", "ike", "path"]),
    ("config", &["ids", "wire", "crypto", "ike", "esp", "path"]),
    (
        "agent",
        &[
            "ids",
            "wire",
            "crypto",
            "esp",
            "ike",
            "path",
            "dataplane",
            "ebpf",
            "io",
            "config",
        ],
    ),
    (
        "control",
        &["ids", "wire", "agent", "config", "path", "esp", "ike", "io"],
    ),
    ("cli", &["ids", "control", "config", "agent", "io"]),
];

const BASE: &[&str] = &["ids", "wire", "crypto"];
const ENGINES: &[&str] = &["esp", "ike", "path"];

/// (crate, modules of the agent that may name it)
const CRATES: &[(&str, &[&str])] = &[
    ("aya", &["ebpf"]),
    ("aya_log", &["ebpf"]),
    ("libc", &["io", "ebpf", "dataplane"]),
    ("ring", &["crypto"]),
    ("rtnetlink", &["io"]),
    ("toml", &["config"]),
    ("webpki", &["ike"]),
    (
        "tokio",
        &["agent", "control", "cli", "dataplane", "io", "ebpf", "main"],
    ),
];

/// What a sans-IO engine must be given instead of taking it.
const TAKEN: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::env",
    "UdpSocket",
    "TcpStream",
    "async fn",
    "SystemRandom",
];

/// The top module of the agent a file belongs to.
fn module(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("mifsec/src/")?;
    let first = rest.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first))
}

/// Imports point one way; the three engines never see each other.
pub(crate) fn imports_point_one_way(files: &[File]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for file in files {
        let Some(own) = module(&file.path) else {
            continue;
        };
        if matches!(own, "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == own) else {
            broken.push(file.broken(
                0,
                format!("module {own} has no place in the layers of xtask/src/tidy/layers.rs"),
            ));
            continue;
        };
        for (number, line) in file.code() {
            for used in imported(line) {
                let known = LAYERS.iter().any(|(name, _)| *name == used);
                if known && used != own && !allowed.contains(&used) {
                    broken.push(file.broken(number, format!("{own} must not import {used}")));
                }
            }
        }
    }
    broken
}

/// The top modules a line names through `crate::`, a brace list included.
fn imported(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, found) in line.match_indices("crate::") {
        let rest = &line[at + found.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let list = list.split('}').next().unwrap_or(list);
            names.extend(list.split(',').map(|part| word(part.trim())));
        } else {
            names.push(word(rest));
        }
    }
    names
}

fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// Engines are driven: no clock, thread, file, socket or randomness of their own.
pub(crate) fn engines_have_no_clock_or_runtime(files: &[File]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for file in files {
        let Some(own) = module(&file.path).filter(|own| ENGINES.contains(own)) else {
            continue;
        };
        for (number, line) in file.code() {
            for taken in TAKEN.iter().filter(|taken| line.contains(**taken)) {
                broken.push(file.broken(number, format!("{own} must be given, not take: {taken}")));
            }
        }
    }
    broken
}

/// A crate that may have to be replaced is known to one module only.
pub(crate) fn crates_stay_in_their_module(files: &[File]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for file in files {
        let Some(own) = module(&file.path) else {
            continue;
        };
        for (number, line) in file.code() {
            for (name, modules) in CRATES {
                let path = format!("{name}::");
                let named = line.match_indices(&path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                if named && !modules.contains(&own) {
                    broken
                        .push(file.broken(number, format!("{own} must not know the crate {name}")));
                }
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_imports_another_is_found() {
        let files = [
            File::new(
                "mifsec/src/esp/sa.rs",
                "use crate::wire::Reader;\nuse crate::ike::Engine;\n",
            ),
            File::new("mifsec/src/path.rs", "use crate::{ids::Spi, esp::Sa};\n"),
        ];
        let broken = imports_point_one_way(&files);
        let places: Vec<_> = broken.iter().map(|b| (b.path.as_str(), b.line)).collect();
        assert_eq!(
            places,
            [("mifsec/src/esp/sa.rs", 2), ("mifsec/src/path.rs", 1)]
        );
    }

    #[test]
    fn a_module_without_a_layer_is_found() {
        let files = [File::new("mifsec/src/misc.rs", "")];
        assert_eq!(imports_point_one_way(&files).len(), 1);
    }

    #[test]
    fn imports_downwards_and_within_tests_and_comments_pass() {
        let files = [File::new(
            "mifsec/src/esp.rs",
            "// crate::ike does this\nuse crate::crypto::Secret;\n#[cfg(test)]\nmod tests { use crate::ike::X; }\n",
        )];
        assert_eq!(imports_point_one_way(&files), []);
    }

    #[test]
    fn an_engine_that_reads_the_clock_is_found() {
        let files = [
            File::new("mifsec/src/path/probe.rs", "let now = Instant::now();\n"),
            File::new("mifsec/src/agent.rs", "let now = Instant::now();\n"),
        ];
        let broken = engines_have_no_clock_or_runtime(&files);
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].path, "mifsec/src/path/probe.rs");
    }

    #[test]
    fn a_crate_outside_its_module_is_found() {
        let files = [
            File::new(
                "mifsec/src/agent.rs",
                "use aya::Ebpf;\nlet stayaya::x = 1;\n",
            ),
            File::new("mifsec/src/ebpf.rs", "use aya::Ebpf;\n"),
        ];
        let broken = crates_stay_in_their_module(&files);
        assert_eq!(broken.len(), 1);
        assert_eq!(
            (broken[0].path.as_str(), broken[0].line),
            ("mifsec/src/agent.rs", 1)
        );
    }
}
