//! Builds the eBPF object with a nested cargo and leaves it in `OUT_DIR`.
//!
//! The nested build needs `-Z build-std` on a stable compiler;
//! `RUSTC_BOOTSTRAP` is set for it here and nowhere else.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

/// Name of the object: the binary target of mifsec-ebpf.
const OBJECT: &str = "mifsec-programs";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../mifsec-common/src");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join(OBJECT);

    if env::var_os("AYA_BUILD_SKIP").is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true")) {
        println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
        // An empty object keeps include_bytes_aligned! happy; loading it fails.
        std::fs::write(&out, []).with_context(|| format!("write {}", out.display()))?;
        return Ok(());
    }

    check_tools()?;
    let toolchain = toolchain();
    // SAFETY: a build script has one thread here.
    unsafe {
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // The nested cargo's progress would become one warning per line.
        env::set_var("CARGO_TERM_QUIET", "true");
    }
    let root =
        Path::new(&env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?)
            .join("../mifsec-ebpf");
    let root = root
        .to_str()
        .context("the path of the workspace is not UTF-8")?;
    aya_build::build_ebpf(
        [Package {
            name: "mifsec-ebpf",
            root_dir: root,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("the eBPF programs do not build; `cargo xtask setup` puts the tools in place")?;
    if !out.exists() {
        bail!("the nested build left no {OBJECT}");
    }
    Ok(())
}

/// Says what is missing before cargo does it in its own words.
fn check_tools() -> Result<()> {
    println!("cargo::rerun-if-env-changed=PATH");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    if let Some(home) = env::var_os("CARGO_HOME") {
        places.push(Path::new(&home).join("bin"));
    }
    if !places.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        bail!(
            "bpf-linker is missing: run `cargo xtask setup`, which installs it with the LLVM of this compiler"
        );
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = Command::new(rustc)
        .args(["--print", "sysroot"])
        .output()
        .context("ask rustc for its sysroot")?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !library.is_dir() {
        bail!("the rust-src component is missing: run `cargo xtask setup`");
    }
    Ok(())
}

/// The toolchain that builds this crate; the nested cargo must use the same.
fn toolchain() -> String {
    env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into())
}
