//! `mifsec agent`.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::agent::Agent;
use crate::config::Config;
use crate::control;

/// Runs the agent until it is told to stop.
pub(super) fn run(file: &Path, filter: &str) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("--log {filter:?} is not a filter; write one like info or mifsec=debug")
    })?;
    // The programs log through the `log` crate; the subscriber takes both.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    for warning in config.warnings() {
        tracing::warn!("{}: {warning}", file.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let path = config.agent.control.clone();
        control::claim(&path)?;
        let (agent, sources, handle) = Agent::start(config).await?;
        control::serve(&path, handle)?;
        tracing::info!(control = %path.display(), "agent runs");
        let result = agent.run(sources).await;
        let _ = std::fs::remove_file(&path);
        result
    })
}
