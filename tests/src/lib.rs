//! Test harness of mifsec: everything that is not a unit test.
//!
//! [`lab`] builds the four-namespace network of `cargo xtask run`, loads it,
//! watches it from the router and judges what it saw. [`sim`] runs two IKE
//! engines against each other in virtual time, [`session`] two agents, [`bpf`] the
//! loaded programs over fixtures and on veth devices; [`pki`] issues certificates; [`tunnel`], [`pump`]
//! and [`stamped`] measure the data plane between two [`namespace`]s; [`emul`] is the
//! link between them that delays, loses and limits; [`interop`] runs against
//! strongSwan, [`vm`] is for tests on a kernel of their own; [`fuzz`] is what the
//! fuzz targets do. [`covers!`] says
//! which requirements a test shows.

pub mod bpf;
pub mod cover;
pub mod daemon;
pub mod emul;
pub mod ethtool;
pub mod fuzz;
pub mod interop;
pub mod lab;
pub mod namespace;
pub mod pki;
pub mod pump;
pub mod session;
pub mod sim;
pub mod stamped;
pub mod tunnel;
pub mod vm;
