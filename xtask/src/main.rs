//! The developer's and newcomer's one entry: `cargo xtask run` on a fresh
//! machine installs what is missing, builds, and shows the main job.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool talks to its user"
)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod cmd;
mod cover;
mod fuzz;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what building and testing need; does nothing twice
    Setup(setup::Args),
    /// Run the lab (no arguments), or `run -- agent --config FILE` on this host
    Run(run::Args),
    /// Run the tests: all of them, one kind, or those whose name matches
    Test(test::Args),
    /// Run tests in a virtual machine, on a kernel of its own: vm_*, or those named
    Vm(vm::Args),
    /// Everything a change must pass, in order
    Ci,
    /// The repository's own rules
    Tidy,
    /// Fuzz all targets, or one, for some minutes each
    Fuzz(fuzz::Args),
    /// Print benchmark tables (release build)
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    if let Err(error) = cmd::refuse_sudo() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let result = match task {
        Task::Setup(args) => setup::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
