//! The command line: one binary, talks only to the control socket, except for
//! `agent`, which is the daemon, and `config check`.

#![forbid(unsafe_code)]

mod action;
mod daemon;
mod explain;
mod path;
mod sa;
mod status;
mod table;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::Config;
use crate::control::{self, Request, Subject};

/// IPsec over all of a host's accesses at once.
#[derive(Parser)]
#[command(name = "mifsec", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent in the foreground.
    Agent {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What to log: error, warn, info, debug, trace, or target=level,...
        #[arg(
            long,
            value_name = "FILTER",
            env = "MIFSEC_LOG",
            default_value = "info"
        )]
        log: String,
    },
    /// Peers and paths on one screen.
    Status {
        #[command(flatten)]
        common: Common,
        /// Report health as exit code: 0 healthy, 1 degraded, 2 down, 3 agent unreachable.
        #[arg(long)]
        exit_code: bool,
        /// Drops and other counters too.
        #[arg(short = 's', long)]
        counters: bool,
    },
    /// Every path: addresses, state, round trip time, traffic.
    Path {
        #[command(flatten)]
        common: Common,
    },
    /// Every Child SA: SPIs, key fingerprints, path, traffic. Never keys.
    Sa {
        #[command(flatten)]
        common: Common,
    },
    /// A line for every event, until interrupted.
    Monitor {
        #[command(flatten)]
        common: Common,
    },
    /// Let one access carry what is at home on another; no SA is touched.
    Move {
        /// The peer: its name in the configuration, or its identity.
        peer: String,
        /// The access that is carried.
        #[arg(long, value_name = "ACCESS")]
        from: String,
        /// The access that carries it; the same again: it carries its own.
        #[arg(long, value_name = "ACCESS")]
        to: String,
        /// Only print what would move.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Let the alternates of an access carry it, for every peer.
    Drain {
        /// The access.
        access: String,
        /// Let it carry its own again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Take an access into the session with a peer: its SAs are derived.
    AddInterface {
        /// The peer: its name in the configuration, or its identity.
        peer: String,
        /// The access.
        access: String,
        #[command(flatten)]
        common: Common,
    },
    /// Take an access out of the session with a peer: its SAs go at both ends.
    DeleteInterface {
        /// The peer: its name in the configuration, or its identity.
        peer: String,
        /// The access.
        access: String,
        /// Keep its SAs: its alternate carries them.
        #[arg(long)]
        move_first: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Which rule, SA and path a flow takes and why, or whose an SPI is.
    #[command(after_help = "Examples:\n  \
        mifsec explain udp 10.66.0.1:4000 10.99.0.2:53\n  \
        mifsec explain icmp 10.66.0.1 10.99.0.2\n  \
        mifsec explain 0xc0ffee01")]
    Explain {
        /// A flow or an SPI.
        // Brackets in a documentation comment are links.
        #[arg(help = "PROTOCOL SOURCE[:PORT] DESTINATION[:PORT], or an SPI")]
        #[arg(required = true, num_args = 1..=3, value_name = "FLOW|SPI")]
        of: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// The configuration file.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Validate a file; says what is wrong, where, and the mend.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
}

/// What every command to a running agent takes.
#[derive(Args)]
struct Common {
    /// Print JSON with a versioned schema.
    #[arg(long)]
    json: bool,
    /// The agent's control socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "MIFSEC_CONTROL",
        default_value = "/run/mifsec/control.sock"
    )]
    control: PathBuf,
}

/// Parses the command line, does it, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        // A pager that was quit is no error.
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "mifsec: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Agent { config, log } => daemon::run(&config, &log)?,
        Command::Status {
            common,
            exit_code,
            counters,
        } => {
            return status::run(&common, exit_code, counters);
        }
        Command::Path { common } => path::run(&common)?,
        Command::Sa { common } => sa::run(&common)?,
        Command::Monitor { common } => monitor(&common)?,
        Command::Move {
            peer,
            from,
            to,
            dry_run,
            common,
        } => {
            let request = Request::Move {
                peer,
                from,
                to,
                dry_run,
            };
            return action::moves(&common, &request);
        }
        Command::Drain {
            access,
            undo,
            common,
        } => return action::moves(&common, &Request::Drain { access, undo }),
        Command::AddInterface {
            peer,
            access,
            common,
        } => action::change(&common, &Request::AddInterface { peer, access })?,
        Command::DeleteInterface {
            peer,
            access,
            move_first,
            common,
        } => {
            let request = Request::DeleteInterface {
                peer,
                access,
                move_first,
            };
            action::change(&common, &request)?;
        }
        Command::Explain { of, common } => {
            let of: Subject = of.join(" ").parse().map_err(anyhow::Error::msg)?;
            explain::run(&common, of)?;
        }
        Command::Config {
            command: ConfigCommand::Check { file },
        } => {
            let config = Config::load(&file)?;
            for warning in config.warnings() {
                writeln!(io::stderr(), "{}: {warning}", file.display())?;
            }
            writeln!(
                io::stdout(),
                "{}: ok, {} accesses, {} peers",
                file.display(),
                config.accesses.len(),
                config.peers.len()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn monitor(common: &Common) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    control::monitor(&common.control, |line| {
        if common.json {
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}", table::event(line))?;
        }
        out.flush()
    })?;
    Ok(())
}

/// Prints a view as one line of JSON.
fn print_json(view: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(view)?;
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
