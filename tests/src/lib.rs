//! Test harness of mifsec.
