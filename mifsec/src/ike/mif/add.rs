//! MIF_ADD_INTERFACE: the sender has a further interface, and SAs for it are to be
//! derived from those there are. The response is of the same form, with the
//! responder's nonce and public value.
//!
//! ```text
//!  0 txn (4) | 4 flags (2) | 6 interface (2) | 8 mode | 9 listed interfaces
//!  10 nonce length (2) | 12 inner addresses | 13 reserved (3)
//!  then MADDR inner each | MADDR outer | [MADDR destination]
//!  interfaces (2) each, to a multiple of 4 | nonce | [group (2) length (2) value]
//! ```

use crate::ids::IfaceId;
use crate::ike::message::{Ke, Notify, numbers};
use crate::wire::{Reader, Writer};

use super::{AddressPolicy, MAX_ADDRESSES, MAX_RECORDS, Maddr, MifError, notify, status};

/// Octets of the nonce in version 1.
pub const NONCE_LEN: usize = 32;

numbers! {
    /// SAs of which mode are derived.
    AddMode(u8) {
        /// Tunnel mode.
        TUNNEL = 1,
        /// Transport mode.
        TRANSPORT = 2,
        /// Both.
        BOTH = 3,
    }
}

/// One operation; all but the destination and the listed peer's is the sender's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddInterface {
    /// Counts up per sender; a repeated one is answered, not done again.
    pub txn: u32,
    /// C, S and BUNDLE; D, L and K follow from what is there.
    pub flags: AddFlags,
    /// The new interface.
    pub iface: IfaceId,
    /// Which SAs it is about.
    pub mode: AddMode,
    /// Inner addresses that stand in the new selectors for those of the templates;
    /// none leaves the selectors as they are.
    pub inner: Vec<Maddr>,
    /// Where the new interface is.
    pub outer: Maddr,
    /// The receiver's address the new SAs go to; without it that of the IKE channel.
    pub destination: Option<Maddr>,
    /// The sender's interfaces whose SAs are templates, in this order; `None` for all.
    pub from: Option<Vec<IfaceId>>,
    /// [`NONCE_LEN`] octets.
    pub nonce: Vec<u8>,
    /// A key exchange for the derived SAs.
    pub ke: Option<Ke>,
}

/// Flags of [`AddInterface`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddFlags(pub u16);

impl AddFlags {
    /// D: a destination is given.
    pub const DESTINATION: Self = Self(1);
    /// L: templates are those of the listed interfaces.
    pub const LIST: Self = Self(1 << 1);
    /// C: the inner address is asked for by CP in the same message.
    pub const CONFIG: Self = Self(1 << 2);
    /// S: SPIs are computed from the nonces.
    pub const SPI_FROM_NONCE: Self = Self(1 << 3);
    /// K: a key exchange goes with it.
    pub const KEY_EXCHANGE: Self = Self(1 << 4);
    /// Equal selectors on several paths are meant.
    pub const BUNDLE: Self = Self(1 << 5);

    /// Those that follow from the other fields.
    const IMPLIED: u16 = Self::DESTINATION.0 | Self::LIST.0 | Self::KEY_EXCHANGE.0;

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

impl AddInterface {
    /// Reads the notify's data. Of a request the outer address is judged by `policy`
    /// and the inner ones must be somebody's; of a response (`None`), which repeats
    /// what we sent, nothing is.
    ///
    /// # Errors
    /// Any [`MifError`].
    pub fn decode(data: &[u8], policy: Option<&AddressPolicy>) -> Result<Self, MifError> {
        let mut reader = Reader::new(data);
        let txn = reader.u32()?;
        let flags = AddFlags(reader.u16()?);
        let iface = IfaceId(reader.u16()?);
        let mode = AddMode(reader.u8()?);
        let listed = reader.u8()?;
        let nonce_len = usize::from(reader.u16()?);
        let inner_len = reader.u8()?;
        reader.bytes(3)?;
        if iface == IfaceId::CHANNEL {
            return Err(MifError::Interface(iface));
        }
        if !matches!(mode, AddMode::TUNNEL | AddMode::TRANSPORT | AddMode::BOTH) {
            return Err(MifError::Mode(mode.0));
        }
        if inner_len > MAX_ADDRESSES {
            return Err(MifError::TooMany("inner addresses"));
        }
        if usize::from(listed) > MAX_RECORDS {
            return Err(MifError::TooMany("interfaces"));
        }
        let has_list = flags.has(AddFlags::LIST);
        if nonce_len != NONCE_LEN || !has_list && listed > 0 {
            return Err(MifError::Fields);
        }
        let inner = (0..inner_len)
            .map(|_| Maddr::decode(&mut reader))
            .collect::<Result<Vec<_>, _>>()?;
        let outer = Maddr::decode(&mut reader)?;
        if let Some(policy) = policy {
            policy.check(&outer)?;
            inner.iter().try_for_each(|m| policy.check_ip(m.ip))?;
        }
        let destination = match flags.has(AddFlags::DESTINATION) {
            true => Some(Maddr::decode(&mut reader)?),
            false => None,
        };
        let mut from: Vec<IfaceId> = Vec::with_capacity(usize::from(listed));
        for _ in 0..listed {
            let id = IfaceId(reader.u16()?);
            if from.contains(&id) {
                return Err(MifError::Interface(id));
            }
            from.push(id);
        }
        if listed % 2 == 1 {
            reader.u16()?;
        }
        let nonce = reader.bytes(nonce_len)?.to_vec();
        let ke = match flags.has(AddFlags::KEY_EXCHANGE) {
            true => {
                let group = reader.u16()?;
                let len = usize::from(reader.u16()?);
                let data = reader.bytes(len)?.to_vec();
                Some(Ke { group, data })
            }
            false => None,
        };
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        Ok(Self {
            txn,
            flags: AddFlags(flags.0 & !AddFlags::IMPLIED),
            iface,
            mode,
            inner,
            outer,
            destination,
            from: has_list.then_some(from),
            nonce,
            ke,
        })
    }

    /// The notify to send.
    ///
    /// # Panics
    /// When there are more than 255 addresses or interfaces, or 65535 octets of a
    /// nonce or public value: we have far fewer.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let octet = |len: usize| u8::try_from(len).expect("a few of our own");
        let word = |len: usize| u16::try_from(len).expect("our own values are short");
        let implied = [
            (self.destination.is_some(), AddFlags::DESTINATION),
            (self.from.is_some(), AddFlags::LIST),
            (self.ke.is_some(), AddFlags::KEY_EXCHANGE),
        ];
        let flags = implied.into_iter().filter(|(there, _)| *there);
        let flags = flags.fold(self.flags, |all, (_, flag)| all.with(flag));
        let from = self.from.as_deref().unwrap_or_default();
        let mut out = Writer::new();
        out.u32(self.txn)
            .u16(flags.0)
            .u16(self.iface.0)
            .u8(self.mode.0)
            .u8(octet(from.len()))
            .u16(word(self.nonce.len()))
            .u8(octet(self.inner.len()))
            .bytes(&[0; 3]);
        let addresses = self.inner.iter().chain([&self.outer]);
        for address in addresses.chain(&self.destination) {
            address.encode(&mut out);
        }
        for id in from {
            out.u16(id.0);
        }
        if from.len() % 2 == 1 {
            out.u16(0);
        }
        out.bytes(&self.nonce);
        if let Some(ke) = &self.ke {
            out.u16(ke.group).u16(word(ke.data.len())).bytes(&ke.data);
        }
        notify(status::MIF_ADD_INTERFACE, out.finish())
    }
}
