//! MIF_SUPPORTED: what the sender can do and its inbound probe SPI.
//!
//! ```text
//!  0 version | 1 flags | 2 max interfaces | 3 max alternates
//!  4 max derived per request (2) | 6 max path SAs (2)
//!  8 features (4) | 12 inbound probe SPI (4)
//! ```

use crate::ids::Spi;
use crate::ike::message::Notify;
use crate::wire::{Reader, Writer};

use super::{DEFAULT_RECORDS, MAX_ALTERNATES, MifError, notify, status};

/// The version this describes.
const VERSION: u8 = 1;

/// What one side of an IKE SA can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supported {
    /// Most interfaces of the peer the sender keeps.
    pub max_ifaces: u8,
    /// Most alternates per interface.
    pub max_alternates: u8,
    /// Most derived SAs per request.
    pub max_derived: u16,
    /// Most Child SAs of the IKE SA: one more is refused with NO_ADDITIONAL_SAS, or
    /// MIF_LIMIT_EXCEEDED in MIF_ADD_INTERFACE.
    pub max_path_sas: u16,
    /// Optional parts the sender has.
    pub features: Features,
    /// The sender's inbound SPI of the probe SA.
    pub probe_spi: Spi,
}

/// Feature bits; what both sides set is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Features(pub u32);

impl Features {
    /// Tunnel mode.
    pub const TUNNEL: Self = Self(1);
    /// Transport mode.
    pub const TRANSPORT: Self = Self(1 << 1);
    /// MIF_OUTER_ADDRS.
    pub const OUTER_NEG: Self = Self(1 << 2);
    /// MIF_UPDATE_ADDRS.
    pub const UPDATE: Self = Self(1 << 3);
    /// MIF_ALTERNATES.
    pub const ALTERNATES: Self = Self(1 << 4);
    /// Alternates by the default rule.
    pub const DEFAULT_MULTIHOMING: Self = Self(1 << 5);
    /// MIF_ADD_INTERFACE.
    pub const ADD_IF: Self = Self(1 << 6);
    /// MIF_DERIVED_SAS.
    pub const DERIVE: Self = Self(1 << 7);
    /// MIF_DELETE_INTERFACE.
    pub const DELETE_IF: Self = Self(1 << 8);
    /// Further Child SAs by CREATE_CHILD_SA.
    pub const CREATE_CHILD: Self = Self(1 << 9);
    /// The probe SA.
    pub const ESP_PROBE: Self = Self(1 << 10);
    /// Derived SPIs computed from nonces.
    pub const SPI_FROM_NONCE: Self = Self(1 << 11);
    /// Key exchange for derived SAs.
    pub const PFS_DERIVE: Self = Self(1 << 12);
    /// Equal selectors on several paths.
    pub const BUNDLE: Self = Self(1 << 13);
    /// MIF_STEERING.
    pub const STEERING: Self = Self(1 << 14);
    /// The same ciphertext on two paths.
    pub const REDUNDANT: Self = Self(1 << 15);
    /// NATs are not tolerated.
    pub const NATS_PROHIBITED: Self = Self(1 << 16);

    /// What this implementation has.
    pub const IMPLEMENTED: Self = Self(
        Self::TUNNEL.0
            | Self::OUTER_NEG.0
            | Self::UPDATE.0
            | Self::ALTERNATES.0
            | Self::DEFAULT_MULTIHOMING.0
            | Self::ADD_IF.0
            | Self::DERIVE.0
            | Self::DELETE_IF.0
            | Self::CREATE_CHILD.0
            | Self::ESP_PROBE.0
            | Self::PFS_DERIVE.0
            | Self::BUNDLE.0,
    );

    /// Whether all of `features` are set.
    #[must_use]
    pub const fn has(self, features: Self) -> bool {
        self.0 & features.0 == features.0
    }

    /// What both sides have.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Supported {
    /// What this implementation announces.
    #[must_use]
    pub const fn ours(probe_spi: Spi) -> Self {
        Self {
            max_ifaces: DEFAULT_RECORDS,
            max_alternates: MAX_ALTERNATES,
            max_derived: 256,
            max_path_sas: 1024,
            features: Features::IMPLEMENTED,
            probe_spi,
        }
    }

    /// Reads the notify's data. A longer, newer form is read as far as it is
    /// known; version 0 does not exist.
    ///
    /// # Errors
    /// [`MifError::Truncated`], [`MifError::Version`], [`MifError::Spi`].
    pub fn decode(data: &[u8]) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let version = reader.u8()?;
        if version < VERSION {
            return Err(MifError::Version(version));
        }
        let _flags = reader.u8()?;
        let supported = Self {
            max_ifaces: reader.u8()?,
            max_alternates: reader.u8()?,
            max_derived: reader.u16()?,
            max_path_sas: reader.u16()?,
            features: Features(reader.u32()?),
            probe_spi: Spi(reader.u32()?),
        };
        if supported.features.has(Features::ESP_PROBE) && supported.probe_spi.0 <= 255 {
            return Err(MifError::Spi(supported.probe_spi));
        }
        Ok(supported)
    }

    /// The notify to send.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let mut out = Writer::new();
        out.u8(VERSION)
            .u8(0)
            .u8(self.max_ifaces)
            .u8(self.max_alternates)
            .u16(self.max_derived)
            .u16(self.max_path_sas)
            .u32(self.features.0)
            .u32(self.probe_spi.0);
        notify(status::MIF_SUPPORTED, out.finish())
    }
}
