//! The asking side: blocking, for the command line.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{Refusal, Request};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no agent answers on {} ({cause}); start one with `mifsec agent --config FILE`, or name its socket with --control", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The agent answered with an error.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The agent answered with something else.
    #[error("the agent on {} speaks another version: {problem}; use the mifsec binary it was started from", path.display())]
    Version {
        /// The socket.
        path: PathBuf,
        /// What did not parse.
        problem: serde_json::Error,
    },
}

/// Asks once.
///
/// # Errors
/// See [`ControlError`].
pub fn call<T: DeserializeOwned>(path: &Path, request: &Request) -> Result<T, ControlError> {
    let mut line = String::new();
    ask(path, request)?
        .read_line(&mut line)
        .map_err(|cause| unreachable(path, cause))?;
    if line.is_empty() {
        return Err(unreachable(path, io::ErrorKind::UnexpectedEof.into()));
    }
    if let Ok(Refusal { error }) = serde_json::from_str(&line) {
        return Err(ControlError::Refused(error));
    }
    serde_json::from_str(&line).map_err(|problem| ControlError::Version {
        path: path.to_owned(),
        problem,
    })
}

/// Calls `each` with every event line until it says stop or the agent goes.
///
/// # Errors
/// See [`ControlError`].
pub fn monitor(
    path: &Path,
    mut each: impl FnMut(&str) -> io::Result<()>,
) -> Result<(), ControlError> {
    for line in ask(path, &Request::Monitor)?.lines() {
        let line = line.map_err(|cause| unreachable(path, cause))?;
        if each(&line).is_err() {
            break;
        }
    }
    Ok(())
}

fn ask(path: &Path, request: &Request) -> Result<BufReader<UnixStream>, ControlError> {
    let send = || -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(path)?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(stream)
    };
    send()
        .map(BufReader::new)
        .map_err(|cause| unreachable(path, cause))
}

fn unreachable(path: &Path, cause: io::Error) -> ControlError {
    ControlError::Unreachable {
        path: path.to_owned(),
        cause,
    }
}
