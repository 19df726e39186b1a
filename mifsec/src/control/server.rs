//! The answering side: a task that accepts, a task for each client; all they
//! hold is the way to ask the agent.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;

use crate::agent::{Handle, Question};

use super::{LONGEST_REQUEST, Refusal, Request};

/// Makes sure `path` can be bound: its directory exists, and no agent has it.
/// Called before anything is changed on the host.
///
/// # Errors
/// When another agent answers there, or the directory cannot be made.
pub fn claim(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .with_context(|| format!("creating {} for the control socket", parent.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        anyhow::bail!(
            "another agent answers on {}; stop it, or give this one its own `control`",
            path.display()
        );
    }
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            fs::remove_file(path).with_context(|| format!("replacing {}", path.display()))
        }
        Ok(_) => anyhow::bail!(
            "{} exists and is no socket; move it away, or give another path as `control`",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("looking at {}", path.display())),
    }
}

/// Binds `path`, after [`claim`], and serves it until the runtime ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: &Path, agent: Handle) -> anyhow::Result<()> {
    let listener =
        bind(path).with_context(|| format!("binding the control socket {}", path.display()))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(client(stream, agent.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

/// Binds inside a directory of our own and moves the socket out when its mode is
/// right: at no time can anybody else connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let private = path.with_file_name(format!(".mifsec{}", std::process::id()));
    // Left by one that was killed right here and had our process number.
    let _ = fs::remove_file(private.join("s"));
    let _ = fs::remove_dir(&private);
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let inside = private.join("s");
    let bound = UnixListener::bind(&inside).and_then(|listener| {
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        fs::rename(&inside, path)?;
        Ok(listener)
    });
    if bound.is_err() {
        let _ = fs::remove_file(&inside);
    }
    fs::remove_dir(&private)?;
    bound
}

async fn client(stream: UnixStream, agent: Handle) {
    if let Err(error) = converse(stream, agent).await {
        tracing::debug!(%error, "control client");
    }
}

async fn converse(stream: UnixStream, agent: Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        let mut limited = (&mut read).take(LONGEST_REQUEST as u64);
        if limited.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let question = match serde_json::from_str(&line) {
            Ok(Request::Status) => Question::Status,
            Ok(Request::Path) => Question::Paths,
            Ok(Request::Sa) => Question::Sas,
            Ok(Request::Monitor) => return stream_events(write, agent).await,
            Ok(Request::Move {
                peer,
                from,
                to,
                dry_run,
            }) => Question::Move {
                peer,
                from,
                to,
                dry_run,
            },
            Ok(Request::AddInterface { peer, access }) => Question::AddInterface { peer, access },
            Ok(Request::DeleteInterface {
                peer,
                access,
                move_first,
            }) => Question::DeleteInterface {
                peer,
                access,
                move_first,
            },
            Ok(Request::Drain { access, undo }) => Question::Drain { access, undo },
            Ok(Request::Explain { of }) => Question::Explain(of.into()),
            Err(error) => {
                refuse(&mut write, format!("not a request: {error}")).await?;
                return Ok(());
            }
        };
        match agent.ask(question).await {
            Some(answer) => {
                write.write_all(answer.as_bytes()).await?;
                write.write_all(b"\n").await?;
            }
            None => refuse(&mut write, "the agent is stopping".into()).await?,
        }
    }
}

async fn refuse(write: &mut OwnedWriteHalf, error: String) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Refusal { error }).map_err(io::Error::other)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn stream_events(mut write: OwnedWriteHalf, agent: Handle) -> io::Result<()> {
    let mut events = agent.events();
    loop {
        match events.recv().await {
            Ok(line) => {
                write.write_all(line.as_bytes()).await?;
                write.write_all(b"\n").await?;
            }
            // A slow reader misses events, the agent does not wait.
            Err(RecvError::Lagged(missed)) => {
                tracing::debug!(missed, "monitor is slow");
            }
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
