//! Waiting for a descriptor in the agent's runtime.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Watches a descriptor somebody else reads.
pub struct Ready(AsyncFd<OwnedFd>);

impl Ready {
    /// Watches a duplicate of `fd`; must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let own = fd.try_clone_to_owned()?;
        // SAFETY: the descriptor is ours, and `AsyncFd` deregisters it before it
        // drops, and so closes, it.
        let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Waits until there may be something to read. The caller clears the guard
    /// when there turned out to be nothing.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }
}
