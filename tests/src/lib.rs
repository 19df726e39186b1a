//! Test harness of mifsec: everything that is not a unit test.
//!
//! [`lab`] builds the four-namespace network of `cargo xtask run`, loads it,
//! watches it from the router and judges what it saw. [`bpf`] has the packets
//! the loaded programs are checked and timed with.

pub mod bpf;
pub mod lab;
