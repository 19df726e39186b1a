//! What two ends said to each other, in words: printed when a test fails.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mifsec::ike::Engine;
use mifsec::ike::message::{Delete, ExchangeType, Header, NotifyType, Payload, PayloadType};
use mifsec::ike::mif::{error, status};

/// Lines kept: the last ones matter.
const LINES: usize = 400;

/// The exchange so far. Prints itself with its seed when dropped by a panic.
pub struct Trace {
    seed: u64,
    start: Instant,
    lines: VecDeque<(Duration, String)>,
    before: usize,
}

impl Trace {
    /// Nothing said yet.
    #[must_use]
    pub fn new(seed: u64, start: Instant) -> Self {
        Self {
            seed,
            start,
            lines: VecDeque::new(),
            before: 0,
        }
    }

    /// Something that happened.
    pub fn note(&mut self, now: Instant, line: String) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
            self.before += 1;
        }
        let at = now.saturating_duration_since(self.start);
        self.lines.push_back((at, line));
    }

    /// Seed and exchange, one line for each message.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = format!("seed {}, the exchange:\n", self.seed);
        if self.before > 0 {
            let _ = writeln!(out, "  ({} lines before)", self.before);
        }
        for (at, line) in &self.lines {
            let _ = writeln!(out, "  {:>10.3} s  {line}", at.as_secs_f64());
        }
        out
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Where the test's captured output goes.
            #[expect(clippy::print_stderr, reason = "what a failed simulation has to say")]
            {
                eprintln!("{}", self.render());
            }
        }
    }
}

/// A message in words: exchange type, id, request or response, payloads; those
/// behind the keys too where one of `engines` has these.
#[must_use]
pub fn describe(engines: [&Engine; 2], bytes: &[u8]) -> String {
    let Ok((header, first, _)) = Header::decode(bytes) else {
        return format!("{} octets that are no message", bytes.len());
    };
    let what = if header.response {
        "response"
    } else {
        "request"
    };
    let mut text = format!(
        "{} {what} {} [{:08x}]",
        exchange(header.exchange),
        header.message_id,
        header.spi_i.0 >> 32
    );
    let revealed = engines.iter().find_map(|engine| engine.reveal(bytes));
    match revealed {
        Some((_, payloads)) => {
            let names: Vec<_> = payloads.iter().map(name).collect();
            let _ = write!(text, " {{{}}}", names.join(", "));
        }
        None if first == PayloadType::SKF => {
            let number = bytes.get(32..36).unwrap_or_default();
            let _ = write!(text, " fragment {number:?}");
        }
        None => {
            let _ = write!(text, " {{{first}}}");
        }
    }
    text
}

fn exchange(kind: ExchangeType) -> String {
    kind.to_string()
}

fn name(payload: &Payload) -> String {
    match payload {
        Payload::Notify(notify) => match notify.esp_spi() {
            Some(spi) => format!("N({} {spi})", notify.kind),
            None => format!("N({})", mif(notify.kind)),
        },
        Payload::Delete(Delete::Esp(spis)) => {
            let spis: Vec<_> = spis.iter().map(ToString::to_string).collect();
            format!("D({})", spis.join(" "))
        }
        Payload::Delete(Delete::Ike) => "D(IKE)".into(),
        other => other.kind().to_string(),
    }
}

/// The extension's notifies by name.
fn mif(kind: NotifyType) -> String {
    let named = MIF.iter().find(|(known, _)| *known == kind);
    named.map_or_else(|| kind.to_string(), |(_, name)| (*name).into())
}

const MIF: &[(NotifyType, &str)] = &[
    (status::MIF_SUPPORTED, "MIF_SUPPORTED"),
    (status::MIF_INTERFACES, "MIF_INTERFACES"),
    (status::MIF_OUTER_ADDRS, "MIF_OUTER_ADDRS"),
    (status::MIF_UPDATE_ADDRS, "MIF_UPDATE_ADDRS"),
    (status::MIF_ALTERNATES, "MIF_ALTERNATES"),
    (status::MIF_ADD_INTERFACE, "MIF_ADD_INTERFACE"),
    (status::MIF_DERIVED_SAS, "MIF_DERIVED_SAS"),
    (status::MIF_DELETE_INTERFACE, "MIF_DELETE_INTERFACE"),
    (error::MIF_UNSUPPORTED, "MIF_UNSUPPORTED"),
    (error::MIF_UNKNOWN_INTERFACE, "MIF_UNKNOWN_INTERFACE"),
    (error::MIF_ADDRESS_REJECTED, "MIF_ADDRESS_REJECTED"),
    (error::MIF_SELECTOR_EXISTS, "MIF_SELECTOR_EXISTS"),
    (error::MIF_DERIVATION_MISMATCH, "MIF_DERIVATION_MISMATCH"),
    (error::MIF_SPI_COLLISION, "MIF_SPI_COLLISION"),
    (error::MIF_LIMIT_EXCEEDED, "MIF_LIMIT_EXCEEDED"),
    (error::MIF_STALE_TXN, "MIF_STALE_TXN"),
    (error::MIF_PATH_UNVALIDATED, "MIF_PATH_UNVALIDATED"),
    (error::MIF_MODE_MISMATCH, "MIF_MODE_MISMATCH"),
];
