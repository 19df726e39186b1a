//! MADDR: an outer address with what its owner knows of it.
//!
//! ```text
//!  AF (1: 1 IPv4, 2 IPv6) | flags (1) | UDP port (2) | address (4 or 16)
//! ```

use std::fmt;
use std::net::IpAddr;

use crate::wire::{Reader, Writer};

use super::{DEFAULT_RECORDS, MAX_ADDRESSES, MifError};

const AF_IPV4: u8 = 1;
const AF_IPV6: u8 = 2;

/// An address in a MIF notify, 8 or 20 octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Maddr {
    /// What the owner says of it.
    pub flags: MaddrFlags,
    /// UDP port; 0 means native ESP is possible, or the port of the IKE channel.
    pub port: u16,
    /// The address. Behind a NAT it is a label, not a destination.
    pub ip: IpAddr,
}

/// Flags of a [`Maddr`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MaddrFlags(pub u8);

impl MaddrFlags {
    /// The owner knows or suspects a NAT in front of it.
    pub const BEHIND_NAT: Self = Self(1);
    /// Traffic costs by volume.
    pub const METERED: Self = Self(1 << 1);
    /// First choice among the addresses of its interface.
    pub const PREFERRED: Self = Self(1 << 2);
    /// The access is not trusted.
    pub const UNTRUSTED_ACCESS: Self = Self(1 << 3);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// Why an address cannot be a peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 0.0.0.0 or ::.
    Unspecified,
    /// Multicast, or the IPv4 broadcast address.
    Multicast,
    /// Loopback, outside of tests.
    Loopback,
    /// Link-local, from a peer that is on no link of ours.
    LinkLocal,
    /// IPv4 in IPv6 clothes.
    Mapped,
    /// One of our own.
    Ours,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Multicast => "multicast",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Mapped => "IPv4-mapped",
            Self::Ours => "our own",
        })
    }
}

/// Which addresses we accept from a peer, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Accept loopback: simulations only.
    pub loopback: bool,
    /// Accept link-local: only where the peer is on one of our links.
    pub link_local: bool,
    /// Our own outer addresses: never a peer's, unless behind a NAT.
    pub own: Vec<IpAddr>,
    /// Most interfaces in one table.
    pub max_ifaces: u8,
    /// Most addresses of one interface.
    pub max_addresses: u8,
}

impl Default for AddressPolicy {
    fn default() -> Self {
        Self {
            loopback: false,
            link_local: false,
            own: Vec::new(),
            max_ifaces: DEFAULT_RECORDS,
            max_addresses: MAX_ADDRESSES,
        }
    }
}

impl AddressPolicy {
    /// Checks an announced address.
    ///
    /// Two private networks may use the same numbers, so an address behind a
    /// NAT may well look like one of ours; it is never sent to.
    ///
    /// # Errors
    /// [`MifError::Address`] with the ground.
    pub fn check(&self, address: &Maddr) -> Result<(), MifError> {
        self.check_ip(address.ip)?;
        if !address.behind_nat() && self.own.contains(&address.ip) {
            return Err(MifError::Address(address.ip, Refusal::Ours));
        }
        Ok(())
    }

    /// Checks that an address could be anyone's, ours included.
    ///
    /// # Errors
    /// [`MifError::Address`] with the ground.
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), MifError> {
        let refusal = if ip.is_unspecified() {
            Refusal::Unspecified
        } else if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
            Refusal::Multicast
        } else if ip.is_loopback() && !self.loopback {
            Refusal::Loopback
        } else if is_link_local(ip) && !self.link_local {
            Refusal::LinkLocal
        } else if is_mapped(ip) {
            Refusal::Mapped
        } else {
            return Ok(());
        };
        Err(MifError::Address(ip, refusal))
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    }
}

impl Maddr {
    /// An address without flags.
    #[must_use]
    pub const fn new(ip: IpAddr, port: u16) -> Self {
        Self {
            flags: MaddrFlags(0),
            port,
            ip,
        }
    }

    /// Whether the owner put it behind a NAT.
    #[must_use]
    pub const fn behind_nat(&self) -> bool {
        self.flags.has(MaddrFlags::BEHIND_NAT)
    }

    /// Reads one, without judging the address.
    ///
    /// # Errors
    /// [`MifError::Truncated`], [`MifError::Family`].
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, MifError> {
        let family = reader.u8()?;
        let flags = MaddrFlags(reader.u8()?);
        let port = reader.u16()?;
        let ip = match family {
            AF_IPV4 => IpAddr::from(reader.array::<4>()?),
            AF_IPV6 => IpAddr::from(reader.array::<16>()?),
            other => return Err(MifError::Family(other)),
        };
        Ok(Self { flags, port, ip })
    }

    /// Octets on the wire.
    pub(super) const fn len(&self) -> usize {
        match self.ip {
            IpAddr::V4(_) => 8,
            IpAddr::V6(_) => 20,
        }
    }

    pub(super) fn encode(&self, out: &mut Writer) {
        match self.ip {
            IpAddr::V4(ip) => {
                out.u8(AF_IPV4).u8(self.flags.0).u16(self.port);
                out.bytes(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.u8(AF_IPV6).u8(self.flags.0).u16(self.port);
                out.bytes(&ip.octets());
            }
        }
    }
}
