//! The lab: end user, router, gateway and server, each in a network namespace.
//!
//! ```text
//!            wlan0 --- NAT ---+
//!  end user                   router --- eth0 gateway lan0 --- srv0 server
//!            wwan0 ----------+
//! ```
//!
//! Two real agents run in end user and gateway from real config files. The
//! harness counts for itself: sequence-stamped datagrams at the sockets
//! ([`load`]), ESP headers on the router ([`capture`]), key fingerprints from
//! both agents ([`agents`]). Whatever is created is registered in [`cleanup`]
//! first and removed on every way out.

pub mod agents;
pub mod capture;
pub mod cleanup;
pub mod load;
pub mod report;
pub mod steps;
pub mod sys;
pub mod tcp;
pub mod topology;
