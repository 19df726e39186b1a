//! Test harness of mifsec.

pub mod namespace;
pub mod pump;
pub mod stamped;
pub mod tunnel;
