//! mifsec: IPsec over all of a host's accesses at once.
//!
//! Imports point one way:
//! `ids, wire, crypto` ← `esp, ike, path` ← `dataplane, ebpf, io` ← `agent` ← `control` ← `cli`.
//! The three engines (`esp`, `ike`, `path`) never import each other and hold no
//! socket, clock, lock or runtime: time and randomness are passed in. `io` and
//! `ebpf` are the only modules with system calls, `agent` and `dataplane` the
//! only ones that know tokio or threads. `cargo xtask tidy` checks this.

/// At the start of a test: the requirements it shows, see `docs/testing.md`.
#[cfg(test)]
macro_rules! covers {
    ($($row:literal),+ $(,)?) => {
        ::std::println!("covers: {} in {}", [$($row),+].join(" "), ::std::file!())
    };
}

pub mod agent;
pub mod cli;
pub mod config;
pub mod control;
pub mod crypto;
pub mod dataplane;
pub mod ebpf;
pub mod esp;
pub mod ids;
pub mod ike;
pub mod io;
pub mod path;
pub mod wire;
