//! Domain names as peers write them (RFC 8598, RFC 5685): presentation format,
//! letters, digits, `-` and `_` only, so that what is printed or handed to a
//! resolver's configuration is a name and nothing else.

#![forbid(unsafe_code)]

/// Longest name in presentation format (RFC 1035 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// The name in lower case and without a dot at its end; `None` for what is none.
#[must_use]
pub fn domain(octets: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(octets).ok()?;
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=MAX_LABEL).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= MAX_NAME && text.split('.').all(is_label)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_labels_of_letters_digits_and_hyphens() {
        for (text, name) in [
            ("example.org", "example.org"),
            ("Corp.Example.ORG.", "corp.example.org"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_tcp.local", "_tcp.local"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(domain(text.as_bytes()).as_deref(), Some(name));
        }
    }

    #[test]
    fn what_could_be_taken_for_something_else_is_no_name() {
        let long = format!("{}.org", "a".repeat(64));
        let many = "a.".repeat(127) + "a";
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a b",
            "a\n",
            "a;b",
            "-a.org",
            "a-.org",
            "bücher.example",
            "~.",
            "a/b",
            &long,
            &many,
        ] {
            assert_eq!(domain(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(domain(&[0xff, 0xfe]), None);
        assert_eq!(domain(b"a\0b"), None);
    }
}
