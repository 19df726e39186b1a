//! Test harness of mifsec.

pub mod bpf;
