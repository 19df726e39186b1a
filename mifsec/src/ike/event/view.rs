//! What `mifsec status` shows of the engine.

use std::net::IpAddr;

use crate::ids::{ChildId, IfacePair, IkeId, IkeSpi, Spi};

use super::{Channel, Nat};

/// How far an IKE SA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IkeState {
    /// Not authenticated yet.
    Connecting,
    /// Authenticated at both ends.
    Established,
    /// Our delete is on its way.
    Closing,
}

/// One IKE SA for `mifsec status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSaView {
    /// Its handle.
    pub ike: IkeId,
    /// Name of the peer's configuration; empty on a responder before IKE_AUTH.
    pub peer: String,
    /// The identity the peer authenticated as.
    pub remote_id: String,
    /// Whether we started it.
    pub initiator: bool,
    /// How far it is.
    pub state: IkeState,
    /// SPI of the initiator.
    pub spi_i: IkeSpi,
    /// SPI of the responder; 0 while not known.
    pub spi_r: IkeSpi,
    /// Whether both ends speak MIF.
    pub mif: bool,
    /// Whether long messages go as fragments (RFC 7383).
    pub fragmentation: bool,
    /// What the peer is by its vendor ids, if we know it.
    pub vendor: Option<&'static str>,
    /// Whether both ends have MOBIKE.
    pub mobike: bool,
    /// Inner addresses, ours (initiator) or the peer's (responder).
    pub leases: Vec<IpAddr>,
    /// Where its messages go.
    pub channel: Channel,
    /// NATs found in IKE_SA_INIT.
    pub nat: Nat,
    /// Its Child SAs in order of creation.
    pub children: Vec<ChildView>,
}

/// One Child SA for `mifsec status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildView {
    /// Its handle.
    pub child: ChildId,
    /// Name of its configuration.
    pub name: String,
    /// SPI we receive on.
    pub spi_in: Spi,
    /// SPI the peer receives on.
    pub spi_out: Spi,
    /// The path it is homed on.
    pub pair: IfacePair,
}
