//! `mifsec explain`: what happens to a flow or an SPI, and why.
//!
//! The answer is read from the same things the data plane and the kernel were given:
//! the SPD's order, Child SAs, paths. Nothing is sent and nothing changes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Agent;

/// Schema of [`ExplainView`].
pub const EXPLAIN_SCHEMA: &str = "mifsec.explain/1";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Explain {
    /// A flow as an application of this host begins it.
    Flow {
        /// Inner source; `None` leaves it to the routes.
        src: Option<IpAddr>,
        /// Inner destination.
        dst: IpAddr,
        /// IP protocol.
        protocol: u8,
        /// Source port, if it has one and it is known.
        sport: Option<u16>,
        /// Destination port, if it has one.
        dport: Option<u16>,
    },
    /// An SPI of either direction.
    Spi(u32),
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainView {
    /// [`EXPLAIN_SCHEMA`].
    pub schema: String,
    /// What was asked, as `tcp 10.66.0.7 -> 198.51.100.1:80` or `0xc0ffee01`.
    pub asked: String,
    /// `protect`, `bypass`, `discard`, `refused` (protected, but nothing can carry
    /// it now), or `clear` (no rule selects it).
    pub verdict: String,
    /// The SPD in order, down to the rule that decides; all of it for an SPI.
    pub rules: Vec<ExplainRule>,
    /// The Child SA that carries it.
    pub sa: Option<ExplainSa>,
    /// The path that Child SA is on.
    pub path: Option<ExplainPath>,
    /// Why, a sentence each, in the order of the decisions.
    pub why: Vec<String>,
}

/// A rule of the SPD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainRule {
    /// Place in the SPD, from 1.
    pub place: usize,
    /// `[[peer.child]] order`.
    pub order: i32,
    /// `protect`, `bypass` or `discard`.
    pub policy: String,
    /// `[[peer]] name`.
    pub peer: String,
    /// `[[peer.child]] name`.
    pub child: String,
    /// Remote prefix, with protocol and ports if it has any.
    pub selector: String,
    /// Whether it selects the flow.
    pub selects: bool,
}

/// A Child SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainSa {
    /// `[[peer]] name`.
    pub peer: String,
    /// `[[peer.child]] name`.
    pub child: String,
    /// Inbound SPI.
    pub spi_in: String,
    /// Outbound SPI.
    pub spi_out: String,
    /// `bundle` or `pinned`.
    pub layout: String,
    /// Our selectors.
    pub local: Vec<String>,
    /// The peer's.
    pub remote: Vec<String>,
    /// Child SAs with equal selectors, itself included.
    pub members: usize,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainPath {
    /// In the maps.
    pub index: u32,
    /// Our access.
    pub access: String,
    /// Our outer address and port.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// `up`, `down` or `validating`.
    pub state: String,
    /// Whether the Child SA is at home on it; else it is lent to it.
    pub home: bool,
    /// Smoothed round trip time.
    pub rtt_us: Option<u64>,
}

impl Agent {
    /// What happens to a flow or an SPI.
    ///
    /// # Errors
    /// One line when the SPI is nobody's.
    pub fn explain(&self, what: &Explain) -> Result<ExplainView, String> {
        let _ = what;
        Err("not known yet".into())
    }
}
