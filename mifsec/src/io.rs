//! The system calls: devices, sockets, readiness.
//!
//! Thin and typed: each function is one kernel operation with its arguments
//! checked, and says in its error what the kernel said. Policy lives elsewhere.
//! This is one of the two modules that may contain `unsafe`.

pub mod netlink;
pub mod poll;
pub mod ready;
pub mod resolved;
pub mod tun;
pub mod udp;

use std::io;

/// The error of a libc call that returned -1, else its value.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// As [`check`], for calls that return an octet count.
fn check_len(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
