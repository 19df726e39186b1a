//! Rules about files as such.

use super::{File, Violation};

const MOST_LINES: usize = 1000;
const MOST_OCTETS: usize = 512 * 1024;

/// No file grows past what one can hold in mind.
pub(crate) fn files_are_short(files: &[File]) -> Vec<Violation> {
    rust(files)
        .filter(|file| file.text.lines().count() > MOST_LINES)
        .map(|file| file.broken(0, format!("more than {MOST_LINES} lines")))
        .collect()
}

/// `name.rs` beside `name/`.
pub(crate) fn modules_are_named_files(files: &[File]) -> Vec<Violation> {
    files
        .iter()
        .filter(|file| file.path.ends_with("/mod.rs"))
        .map(|file| file.broken(0, "a module is `name.rs` beside `name/`"))
        .collect()
}

/// Every top module of the agent but `io` and `ebpf` starts with the attribute.
pub(crate) fn unsafe_is_forbidden_outside_io_and_ebpf(files: &[File]) -> Vec<Violation> {
    rust(files)
        .filter(|file| {
            file.path.strip_prefix("mifsec/src/").is_some_and(|name| {
                !name.contains('/') && !matches!(name, "io.rs" | "ebpf.rs" | "lib.rs")
            })
        })
        .filter(|file| {
            !file
                .text
                .lines()
                .any(|line| line == "#![forbid(unsafe_code)]")
        })
        .map(|file| file.broken(1, "lacks #![forbid(unsafe_code)]"))
        .collect()
}

/// Work left open belongs into the issue, not into the tree; so does a merge.
pub(crate) fn nothing_is_left_open(files: &[File]) -> Vec<Violation> {
    // Put together here, so that this file keeps its own rule.
    let marks = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimple", "mented!("],
        ["<<<<", "<<< "],
        [">>>>", ">>> "],
    ]
    .map(|parts| parts.concat());
    find(files, &marks, "left open")
}

/// Nothing here depends on one developer's machine or on a mirror of a registry.
pub(crate) fn nothing_names_a_machine(files: &[File]) -> Vec<Violation> {
    let marks = [
        ["/home", "/"],
        ["/root", "/"],
        ["/work", "/"],
        ["[sour", "ce."],
        ["[registr", "ies"],
    ]
    .map(|parts| parts.concat());
    let mut broken = find(files, &marks, "names a machine or a mirror");
    for file in files
        .iter()
        .filter(|file| file.path.ends_with("Cargo.lock"))
    {
        for (number, line) in file.lines() {
            if let Some(source) = line.strip_prefix("source = ")
                && source != "\"registry+https://github.com/rust-lang/crates.io-index\""
            {
                broken.push(file.broken(number, "a dependency from elsewhere than crates.io"));
            }
        }
    }
    broken
}

/// Each dependency of the workspace says what it is for, on its line or above its block.
pub(crate) fn dependencies_have_a_reason(files: &[File]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for file in files.iter().filter(|file| file.path == "Cargo.toml") {
        let mut inside = false;
        let mut block_has_reason = false;
        for (number, line) in file.lines() {
            if line.starts_with('[') {
                inside = line == "[workspace.dependencies]";
            } else if line.trim().is_empty() {
                block_has_reason = false;
            } else if line.starts_with('#') {
                block_has_reason = true;
            } else if inside
                && !block_has_reason
                && !line.contains('#')
                && !line.contains("path = ")
                && line.contains('=')
            {
                broken.push(file.broken(number, "a dependency without a reason"));
            }
        }
    }
    broken
}

/// Build results, captures and logs stay out.
pub(crate) fn nothing_generated_is_tracked(files: &[File]) -> Vec<Violation> {
    let endings = [
        ".o", ".so", ".rlib", ".pcap", ".pcapng", ".log", ".profraw", ".orig", ".rej",
    ];
    files
        .iter()
        .filter(|file| {
            endings.iter().any(|ending| file.path.ends_with(ending))
                || file.path.split('/').any(|part| part == "target")
                || file.text.len() > MOST_OCTETS
        })
        .map(|file| file.broken(0, "generated, or too large to be source"))
        .collect()
}

/// What the README tells a newcomer to type is what CI runs.
pub(crate) fn readme_names_the_commands(files: &[File]) -> Vec<Violation> {
    let Some(readme) = files.iter().find(|file| file.path == "README.md") else {
        return vec![
            File {
                path: "README.md".into(),
                text: String::new(),
            }
            .broken(0, "missing"),
        ];
    };
    ["cargo xtask run", "cargo xtask test"]
        .iter()
        .filter(|command| !readme.lines().any(|(_, line)| line.trim() == **command))
        .map(|command| readme.broken(0, format!("does not show `{command}` on a line of its own")))
        .collect()
}

fn rust(files: &[File]) -> impl Iterator<Item = &File> {
    files.iter().filter(|file| file.path.ends_with(".rs"))
}

fn find(files: &[File], marks: &[String], what: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    for file in files
        .iter()
        .filter(|file| !file.path.starts_with("LICENSE"))
    {
        for (number, line) in file.lines() {
            for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
                broken.push(file.broken(number, format!("{what}: {mark}")));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(rule: fn(&[File]) -> Vec<Violation>, path: &str, text: &str) -> usize {
        rule(&[File::new(path, text)]).len()
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(broken(files_are_short, "a.rs", &"x\n".repeat(1001)), 1);
        assert_eq!(broken(files_are_short, "a.rs", &"x\n".repeat(1000)), 0);
    }

    #[test]
    fn a_mod_file_is_found() {
        assert_eq!(broken(modules_are_named_files, "a/mod.rs", ""), 1);
        assert_eq!(broken(modules_are_named_files, "a/model.rs", ""), 0);
    }

    #[test]
    fn a_top_module_without_the_attribute_is_found() {
        let rule = unsafe_is_forbidden_outside_io_and_ebpf;
        assert_eq!(broken(rule, "mifsec/src/esp.rs", "//! Doc.\n"), 1);
        assert_eq!(
            broken(
                rule,
                "mifsec/src/esp.rs",
                "//! Doc.\n#![forbid(unsafe_code)]\n"
            ),
            0
        );
        assert_eq!(broken(rule, "mifsec/src/io.rs", "//! Doc.\n"), 0);
        assert_eq!(broken(rule, "mifsec/src/esp/sa.rs", "//! Doc.\n"), 0);
    }

    #[test]
    fn open_ends_are_found() {
        let text = format!("fn a() {{ {}!() }}\n", "todo");
        assert_eq!(broken(nothing_is_left_open, "a.rs", &text), 1);
        let text = format!("# {}{}: later\n", "TO", "DO");
        assert_eq!(broken(nothing_is_left_open, "a.toml", &text), 1);
        let text = format!("{}{} other\n", "<<<<", "<<<");
        assert_eq!(broken(nothing_is_left_open, "a.md", &text), 1);
    }

    #[test]
    fn machines_and_mirrors_are_found() {
        let text = format!("path = \"{}/someone/x\"\n", "/home");
        assert_eq!(broken(nothing_names_a_machine, "a.toml", &text), 1);
        let lock = "source = \"registry+https://example.org/index\"\n";
        assert_eq!(broken(nothing_names_a_machine, "Cargo.lock", lock), 1);
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let rule = dependencies_have_a_reason;
        let text = "[workspace.dependencies]\nring = \"1\" # crypto\nlog = \"1\"\n";
        assert_eq!(broken(rule, "Cargo.toml", text), 1);
        let text =
            "[workspace.dependencies]\n# eBPF\naya = \"1\"\naya-log = \"1\"\n\nlog = \"1\"\n";
        assert_eq!(broken(rule, "Cargo.toml", text), 1);
    }

    #[test]
    fn generated_files_are_found() {
        assert_eq!(broken(nothing_generated_is_tracked, "a/target/x", ""), 1);
        assert_eq!(broken(nothing_generated_is_tracked, "a/x.pcap", ""), 1);
        assert_eq!(broken(nothing_generated_is_tracked, "a/x.rs", ""), 0);
    }

    #[test]
    fn a_readme_that_hides_the_commands_is_found() {
        assert_eq!(
            broken(readme_names_the_commands, "README.md", "cargo xtask run\n"),
            1
        );
        assert_eq!(broken(readme_names_the_commands, "a.md", ""), 1);
    }
}
