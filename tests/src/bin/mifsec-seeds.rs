//! Writes the seeds of the fuzz corpora into a directory, one directory per
//! target: `cargo run -p mifsec-tests --bin mifsec-seeds tests/corpus`.

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let to: PathBuf = std::env::args_os()
        .nth(1)
        .context("which directory?")?
        .into();
    for (target, name, bytes) in mifsec_tests::fuzz::seeds::all() {
        let dir = to.join(target);
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let file = dir.join(format!("seed-{name}"));
        std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
