//! The control socket: one JSON object per line over a Unix socket of mode 0600.
//!
//! A request is [`Request`]; the answer is one line, either a view of
//! [`crate::agent::views`] or `{"error": "..."}`. `monitor` answers with a
//! line for each event until the client goes. The command line uses the same types.

#![forbid(unsafe_code)]

mod client;
mod server;
mod subject;

use serde::{Deserialize, Serialize};

pub use client::{ControlError, call, monitor};
pub use server::{claim, serve};
pub use subject::Subject;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// A `StatusView`.
    Status,
    /// A `PathsView`.
    Path,
    /// A `SasView`.
    Sa,
    /// `EventView`s until the client goes.
    Monitor,
    /// One access carries another's: a `MovesView`.
    Move {
        /// `[[peer]] name` or the authenticated identity.
        peer: String,
        /// The access that is carried from now.
        from: String,
        /// The access that carries it.
        to: String,
        /// Only say what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// An access joins the session with a peer: a `ChangeView`.
    AddInterface {
        /// As in `Move`.
        peer: String,
        /// `[[access]] interface`.
        access: String,
    },
    /// An access leaves the session with a peer: a `ChangeView`.
    DeleteInterface {
        /// As in `Move`.
        peer: String,
        /// `[[access]] interface`.
        access: String,
        /// Its Child SAs move to its alternate first.
        #[serde(default)]
        move_first: bool,
    },
    /// Nothing new goes over an access: a `MovesView`.
    Drain {
        /// `[[access]] interface`.
        access: String,
        /// Give it back what was drained from it.
        #[serde(default)]
        undo: bool,
    },
    /// What becomes of a flow, or whose an SPI is: an `ExplainView`.
    Explain {
        /// The flow or the SPI.
        of: Subject,
    },
}

/// The answer to what could not be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    /// One line.
    pub error: String,
}

/// Longest request line, octets.
const LONGEST_REQUEST: usize = 4096;
