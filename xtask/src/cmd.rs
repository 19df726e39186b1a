//! Running other programs: cargo as the caller, a few things as root.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Cargo in the workspace root, the one that runs this program.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Says what is about to take long.
pub(crate) fn step(text: &str) {
    println!("==> {text}");
}

/// Runs to the end; an exit status other than 0 is an error that names the command.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Becomes the command, so that Ctrl-C and the exit status are between it and
/// the caller: a parent would be gone before the lab has cleaned up. Comes back
/// only with the reason why it could not.
pub(crate) fn become_it(command: &mut Command) -> anyhow::Error {
    let shown = show(command);
    anyhow::Error::new(command.exec()).context(format!("cannot start `{shown}`"))
}

/// Standard output of a command that succeeded, else `None`.
pub(crate) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program is in `PATH` or in the system directories that are often missing there.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|dir| dir.join(program).is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_some_and(|uid| uid.trim() == "0")
}

/// Ends `sudo cargo xtask` in the caller's own tree: it would leave files of root there.
pub(crate) fn refuse_sudo() -> Result<()> {
    let owner = fs::metadata(root()).map(|tree| tree.uid());
    let caller = std::env::var("SUDO_UID").ok();
    if owner.is_ok_and(|owner| sudo_in_own_tree(is_root(), caller.as_deref(), owner)) {
        bail!("run this without sudo: it asks for privileges itself, and builds as you");
    }
    Ok(())
}

fn sudo_in_own_tree(root: bool, caller: Option<&str>, owner: u32) -> bool {
    let caller = caller.and_then(|uid| uid.parse::<u32>().ok());
    root && owner != 0 && caller == Some(owner)
}

/// The words to put before a command that needs root: none for root, `sudo` otherwise.
/// `keep` names environment variables that must reach the command.
pub(crate) fn privilege(keep: &[&str]) -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if !exists("sudo") {
        bail!("this needs root, and there is no sudo: run the same command as root");
    }
    let mut words = vec!["sudo".to_string()];
    if !keep.is_empty() {
        words.push(format!("--preserve-env={}", keep.join(",")));
    }
    Ok(words)
}

/// A command that runs as root.
pub(crate) fn as_root(program: impl AsRef<OsStr>, keep: &[&str]) -> Result<Command> {
    let words = privilege(keep)?;
    let Some((first, rest)) = words.split_first() else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    Ok(command)
}

/// A command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let mut text = name.to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_refused_in_the_callers_own_tree_only() {
        assert!(sudo_in_own_tree(true, Some("1000"), 1000));
        assert!(!sudo_in_own_tree(true, Some("1000"), 0));
        assert!(!sudo_in_own_tree(true, None, 1000));
        assert!(!sudo_in_own_tree(false, Some("1000"), 1000));
    }
}
