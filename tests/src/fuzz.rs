//! What the fuzz targets do with one input, as functions: `fuzz/` gives them to
//! libFuzzer, `tests/tests/sim_fuzz_replay.rs` replays the committed corpora.
//!
//! A target panics when decoding panics or a property does not hold: what was
//! decoded encodes to octets that decode to the same, nothing is read outside
//! the input, and what came out is not larger than what went in.

pub mod certificate;
pub mod esp;
pub mod ike;
pub mod inner;
pub mod input;
pub mod seeds;
pub mod session;
pub mod text;

/// A target: its name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("certificate", certificate::certificate),
    ("config_file", text::config_file),
    ("control_request", text::control_request),
    ("esp_packet", esp::packet),
    ("ike_message", ike::message),
    ("ike_payloads", ike::payloads),
    ("ike_session", session::session),
    ("inner_packet", inner::packet),
    ("mif_notifies", ike::mif_notifies),
    ("skf_reassembly", session::fragments),
];
