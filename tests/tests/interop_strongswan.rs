//! Against Debian's strongSwan 5.9.8, both roles; see `mifsec_tests::interop`.
//!
//! Needs root, strongSwan and the built agent; `cargo xtask test interop` sees to
//! all three. Nothing here is skipped.

#[path = "interop_strongswan/algorithms.rs"]
mod algorithms;
#[path = "interop_strongswan/certificates.rs"]
mod certificates;
#[path = "interop_strongswan/connect.rs"]
mod connect;
#[path = "interop_strongswan/ending.rs"]
mod ending;
#[path = "interop_strongswan/load.rs"]
mod load;
#[path = "interop_strongswan/mobike.rs"]
mod mobike;
#[path = "interop_strongswan/refusals.rs"]
mod refusals;
#[path = "interop_strongswan/rekey.rs"]
mod rekey;
