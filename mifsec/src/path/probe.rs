//! The message of the probe SA, next header 253.
//!
//! ```text
//!  0      type      1 challenge, 2 reply
//!  1      version   1
//!  2-3    length    octets of the message with any padding after it
//!  4-7    path id   initiator's interface << 16 | responder's interface
//!  8-15   token     drawn by the challenger, returned in the reply
//! 16-23   sent      the sender's clock, microseconds
//! 24-31   echo      reply: the challenge's `sent`; challenge: 0
//! 32-51   observed  challenge: the sender's own address as it knows it;
//!                   reply: the source the challenge came from
//! 52-55   reserved
//! ```
//! `observed` is family (1 IPv4, 2 IPv6), flags (bit 0: behind a NAT), port,
//! and 4 or 16 octets of address, zero padded to 20.

use std::net::{IpAddr, SocketAddr};

use crate::ids::IfaceId;
use crate::wire::{Reader, Truncated, Writer};

/// Octets of a message without padding, either way.
pub const PROBE_LEN: usize = 56;
/// The next header that marks a probe (RFC 3692, for experiments).
pub const NEXT_HEADER: u8 = 253;

const VERSION: u8 = 1;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;
const FLAG_BEHIND_NAT: u8 = 1;

/// Which way a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Asks.
    Challenge,
    /// Answers.
    Reply,
}

/// The interfaces of a path, in the order both peers agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId {
    /// The original initiator's interface.
    pub initiator: IfaceId,
    /// The original responder's.
    pub responder: IfaceId,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Challenge or reply.
    pub kind: ProbeKind,
    /// The path it is for.
    pub path: PathId,
    /// What must come back.
    pub token: u64,
    /// The sender's clock, microseconds from an origin of its own.
    pub sent_us: u64,
    /// In a reply, `sent_us` of the challenge.
    pub echo_us: u64,
    /// See the module.
    pub observed: SocketAddr,
    /// The sender knows of a NAT before `observed`.
    pub behind_nat: bool,
}

/// Why octets are not a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Shorter than a probe, or than it says.
    #[error("probe is too short")]
    Truncated,
    /// Another version than ours.
    #[error("probe of an unknown version")]
    Version,
    /// Neither challenge nor reply.
    #[error("probe of an unknown type")]
    Kind,
    /// An address of an unknown family.
    #[error("probe with an address of an unknown family")]
    Family,
}

impl From<Truncated> for ProbeError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Probe {
    /// The message, [`PROBE_LEN`] octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(match self.kind {
            ProbeKind::Challenge => 1,
            ProbeKind::Reply => 2,
        });
        out.u8(VERSION);
        out.u16(PROBE_LEN as u16);
        out.u16(self.path.initiator.0);
        out.u16(self.path.responder.0);
        out.u64(self.token).u64(self.sent_us).u64(self.echo_us);
        let flags = if self.behind_nat { FLAG_BEHIND_NAT } else { 0 };
        match self.observed.ip() {
            IpAddr::V4(v4) => {
                out.u8(FAMILY_V4).u8(flags).u16(self.observed.port());
                out.bytes(&v4.octets()).bytes(&[0; 12]);
            }
            IpAddr::V6(v6) => {
                out.u8(FAMILY_V6).u8(flags).u16(self.observed.port());
                out.bytes(&v6.octets());
            }
        }
        out.u32(0);
        out.finish()
    }

    /// Reads a message; padding after it is ignored.
    ///
    /// # Errors
    /// [`ProbeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProbeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        if reader.u8()? != VERSION {
            return Err(ProbeError::Version);
        }
        let kind = match kind {
            1 => ProbeKind::Challenge,
            2 => ProbeKind::Reply,
            _ => return Err(ProbeError::Kind),
        };
        let length = usize::from(reader.u16()?);
        if !(PROBE_LEN..=bytes.len()).contains(&length) {
            return Err(ProbeError::Truncated);
        }
        let path = PathId {
            initiator: IfaceId(reader.u16()?),
            responder: IfaceId(reader.u16()?),
        };
        let (token, sent_us, echo_us) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (family, flags, port) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let octets: [u8; 16] = reader.array()?;
        let [a, b, c, d, ..] = octets;
        let ip: IpAddr = match family {
            FAMILY_V4 => [a, b, c, d].into(),
            FAMILY_V6 => octets.into(),
            _ => return Err(ProbeError::Family),
        };
        let _reserved = reader.u32()?;
        Ok(Self {
            kind,
            path,
            token,
            sent_us,
            echo_us,
            observed: SocketAddr::new(ip, port),
            behind_nat: flags & FLAG_BEHIND_NAT != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probe(observed: &str) -> Probe {
        Probe {
            kind: ProbeKind::Challenge,
            path: PathId {
                initiator: IfaceId(3),
                responder: IfaceId(1),
            },
            token: 0x1122_3344_5566_7788,
            sent_us: 7,
            echo_us: 0,
            observed: observed.parse().unwrap(),
            behind_nat: true,
        }
    }

    /// Written out by hand from the layout above.
    #[test]
    fn has_the_documented_octets() {
        let mut expected = vec![1, 1, 0, 56, 0, 3, 0, 1];
        expected.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
        expected.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([1, 1, 0x11, 0x94, 192, 0, 2, 3]);
        expected.extend([0; 16]);
        assert_eq!(probe("192.0.2.3:4500").encode(), expected);
        assert_eq!(expected.len(), PROBE_LEN);

        let v6 = probe("[2001:db8::3]:500").encode();
        assert_eq!(v6[32..36], [2, 1, 0x01, 0xf4]);
        assert_eq!(v6[36..40], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!((v6[51], v6.len()), (3, PROBE_LEN));
    }

    #[test]
    fn no_truncation_is_a_probe() {
        let whole = probe("192.0.2.3:4500").encode();
        for len in 0..whole.len() {
            assert_eq!(
                Probe::decode(&whole[..len]),
                Err(ProbeError::Truncated),
                "length {len}"
            );
        }
    }

    #[test]
    fn padding_is_ignored_and_lying_lengths_are_not() {
        let mut padded = probe("192.0.2.3:4500").encode();
        padded.extend([0xaa; 100]);
        assert_eq!(Probe::decode(&padded), Ok(probe("192.0.2.3:4500")));
        padded[2..4].copy_from_slice(&156u16.to_be_bytes());
        assert_eq!(Probe::decode(&padded), Ok(probe("192.0.2.3:4500")));
        for lie in [0u16, 55, 157] {
            padded[2..4].copy_from_slice(&lie.to_be_bytes());
            assert_eq!(Probe::decode(&padded), Err(ProbeError::Truncated));
        }
    }

    #[test]
    fn unknown_versions_types_and_families_are_refused() {
        let change = |at: usize, value| {
            let mut bytes = probe("192.0.2.3:4500").encode();
            bytes[at] = value;
            Probe::decode(&bytes)
        };
        assert_eq!(change(0, 0), Err(ProbeError::Kind));
        assert_eq!(change(0, 3), Err(ProbeError::Kind));
        assert_eq!(change(1, 2), Err(ProbeError::Version));
        assert_eq!(change(32, 0), Err(ProbeError::Family));
        assert_eq!(change(32, 3), Err(ProbeError::Family));
    }

    proptest! {
        #[test]
        fn survives_the_wire(
            reply: bool, initiator: u16, responder: u16,
            token: u64, sent_us: u64, echo_us: u64,
            ip: IpAddr, port: u16, behind_nat: bool,
        ) {
            let probe = Probe {
                kind: if reply { ProbeKind::Reply } else { ProbeKind::Challenge },
                path: PathId { initiator: IfaceId(initiator), responder: IfaceId(responder) },
                token, sent_us, echo_us,
                observed: SocketAddr::new(ip, port),
                behind_nat,
            };
            prop_assert_eq!(Probe::decode(&probe.encode()), Ok(probe));
        }

        #[test]
        fn no_octets_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Probe::decode(&bytes);
        }
    }
}
