//! How other tasks reach the agent: questions with one answer, and the stream
//! of events. The agent itself never waits for any of them.

use tokio::sync::{broadcast, mpsc, oneshot};

use super::explain::Explain;

/// Questions that may wait.
const QUESTIONS: usize = 32;
/// Events a slow listener may be behind.
const EVENTS: usize = 256;

/// What can be asked of the agent; the answer is one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// A `StatusView`.
    Status,
    /// A `PathsView`.
    Paths,
    /// A `SasView`.
    Sas,
    /// A `MovesView`, or why not.
    Move {
        /// `[[peer]] name` or the authenticated identity.
        peer: String,
        /// The access that is carried from now.
        from: String,
        /// The access that carries it; equal to `from` = it carries its own again.
        to: String,
        /// Only say what would move.
        dry_run: bool,
    },
    /// A `ChangeView`, or why not.
    AddInterface {
        /// As in `Move`.
        peer: String,
        /// `[[access]] interface`.
        access: String,
    },
    /// A `ChangeView`, or why not.
    DeleteInterface {
        /// As in `Move`.
        peer: String,
        /// `[[access]] interface`.
        access: String,
        /// Its Child SAs move to its alternate instead of being deleted.
        move_first: bool,
    },
    /// A `MovesView`, or why not.
    Drain {
        /// `[[access]] interface`.
        access: String,
        /// Give it back what was drained from it.
        undo: bool,
    },
    /// What becomes of a flow or belongs to an SPI, or why that is unknown.
    Explain(Explain),
}

/// A question and where the answer goes.
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) reply: oneshot::Sender<String>,
}

/// Reaches the running agent. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    questions: mpsc::Sender<Asked>,
    events: broadcast::Sender<String>,
}

impl Handle {
    /// The handle, and the agent's ends.
    pub(super) fn pair() -> (Self, mpsc::Receiver<Asked>, broadcast::Sender<String>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (events, _) = broadcast::channel(EVENTS);
        let handle = Self {
            questions,
            events: events.clone(),
        };
        (handle, asked, events)
    }

    /// Asks; `None` when the agent is gone.
    pub async fn ask(&self, question: Question) -> Option<String> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(Asked { question, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Event lines from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<String> {
        self.events.subscribe()
    }
}
