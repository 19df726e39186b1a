//! The system calls: sockets, devices, netlink.

pub mod netlink;
