//! MIF_INTERFACES: the sender's interfaces, always the whole table.
//!
//! ```text
//!  0 epoch (4) | 4 count | 5 flags | 6 reserved (2), then per interface
//!    0 id (2) | 2 link class | 3 state | 4 priority | 5 weight | 6 MTU (2)
//!    8 addresses | 9 reserved (3), then that many MADDR
//! ```

use crate::ids::IfaceId;
use crate::ike::message::{Notify, numbers};
use crate::wire::{Reader, Writer};

use super::{AddressPolicy, Maddr, MifError, notify, status};

/// Most interfaces, whatever the policy says.
pub const MAX_RECORDS: usize = 64;

/// Most interfaces kept of a peer unless configured, and announced as such.
pub const DEFAULT_RECORDS: u8 = 16;

/// Most addresses of one interface.
pub const MAX_ADDRESSES: u8 = 8;

/// Octets of a table's notify data that leave room for the rest of an IKE_AUTH
/// response in a packet of 1280.
const ROOM: usize = 640;

numbers! {
    /// What kind of access an interface is.
    LinkClass(u8) {
        /// Not said.
        UNSPECIFIED = 0,
        /// A wire.
        ETHERNET = 1,
        /// Wi-Fi.
        WLAN = 2,
        /// A mobile network.
        RAN = 3,
        /// WiMAX.
        WIMAX = 4,
        /// A satellite link.
        SATELLITE = 5,
        /// No hardware.
        VIRTUAL = 6,
    }
}

numbers! {
    /// Whether an interface can carry traffic.
    IfaceState(u8) {
        /// No.
        DOWN = 0,
        /// It has no address yet.
        NO_ADDRESS = 1,
        /// Yes.
        UP = 2,
        /// Only when others cannot.
        BACKUP = 3,
    }
}

impl IfaceState {
    /// Whether traffic may use it at all.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self == Self::UP || self == Self::BACKUP
    }
}

/// One interface as its owner announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRecord {
    /// Its name; never 0, never used again within the IKE SA.
    pub id: IfaceId,
    /// Kind of access; may be withheld.
    pub class: LinkClass,
    /// Whether it can carry traffic.
    pub state: IfaceState,
    /// 0 is best.
    pub priority: u8,
    /// Share of traffic among interfaces in use.
    pub weight: u8,
    /// Octets of the largest packet it is known to pass; 0 unknown.
    pub mtu: u16,
    /// Best first.
    pub addresses: Vec<Maddr>,
}

/// A whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// Number of this table; see [`is_newer_than`](Self::is_newer_than).
    pub epoch: u32,
    /// In the owner's order.
    pub records: Vec<InterfaceRecord>,
}

impl Interfaces {
    /// Whether this table replaces one of `epoch` (serial number arithmetic,
    /// RFC 1982).
    #[must_use]
    pub const fn is_newer_than(&self, epoch: u32) -> bool {
        let ahead = self.epoch.wrapping_sub(epoch);
        ahead != 0 && ahead < 1 << 31
    }

    /// Reads the notify's data, and how many addresses were left out because they
    /// cannot be the peer's: one bad address does not cost the good ones.
    ///
    /// # Errors
    /// Any [`MifError`] but [`MifError::Address`]; then no part of the table may be
    /// used.
    pub fn decode(data: &[u8], policy: &AddressPolicy) -> Result<(Self, usize), MifError> {
        let mut reader = Reader::new(data);
        let epoch = reader.u32()?;
        let count = reader.u8()?;
        let _flags = reader.u8()?;
        let _reserved = reader.u16()?;
        if count > policy.max_ifaces || usize::from(count) > MAX_RECORDS {
            return Err(MifError::TooMany("interfaces"));
        }
        let mut records: Vec<InterfaceRecord> = Vec::with_capacity(usize::from(count));
        let mut left_out = 0;
        for _ in 0..count {
            let record = decode_record(&mut reader, policy, &mut left_out)?;
            let taken = records.iter().any(|other| other.id == record.id);
            if taken || record.id == IfaceId::CHANNEL {
                return Err(MifError::Interface(record.id));
            }
            records.push(record);
        }
        if !reader.is_empty() {
            return Err(MifError::TooLong);
        }
        Ok((Self { epoch, records }, left_out))
    }

    /// Leaves out what a peer that keeps `most` interfaces would refuse, and as many
    /// of the worst addresses as it takes to fit one packet: of the interfaces with
    /// most of them first, so that each keeps its best. Whether anything was.
    pub fn fit(&mut self, most: u8) -> bool {
        let limited = self.limit(most);
        let before = self.addresses();
        while self.len() > ROOM
            && let Some(longest) = self
                .records
                .iter_mut()
                .rev()
                .max_by_key(|record| record.addresses.len())
            && longest.addresses.pop().is_some()
        {}
        limited || before != self.addresses()
    }

    /// Leaves out what a peer that keeps `most` interfaces would refuse. Whether
    /// anything was.
    pub fn limit(&mut self, most: u8) -> bool {
        let before = (self.records.len(), self.addresses());
        self.records.truncate(usize::from(most));
        for record in &mut self.records {
            record.addresses.truncate(usize::from(MAX_ADDRESSES));
        }
        before != (self.records.len(), self.addresses())
    }

    fn addresses(&self) -> usize {
        self.records.iter().map(|r| r.addresses.len()).sum()
    }

    /// Octets of the notify's data.
    fn len(&self) -> usize {
        let record = |r: &InterfaceRecord| 12 + r.addresses.iter().map(Maddr::len).sum::<usize>();
        8 + self.records.iter().map(record).sum::<usize>()
    }

    /// The notify to send.
    ///
    /// # Panics
    /// When there are more than 255 interfaces or addresses of one: the
    /// configuration allows far fewer.
    #[must_use]
    pub fn notify(&self) -> Notify {
        let octet = |len: usize| u8::try_from(len).expect("our own table is small");
        let mut out = Writer::new();
        out.u32(self.epoch)
            .u8(octet(self.records.len()))
            .u8(0)
            .u16(0);
        for record in &self.records {
            out.u16(record.id.0)
                .u8(record.class.0)
                .u8(record.state.0)
                .u8(record.priority)
                .u8(record.weight)
                .u16(record.mtu)
                .u8(octet(record.addresses.len()))
                .bytes(&[0; 3]);
            for address in &record.addresses {
                address.encode(&mut out);
            }
        }
        notify(status::MIF_INTERFACES, out.finish())
    }
}

fn decode_record(
    reader: &mut Reader<'_>,
    policy: &AddressPolicy,
    left_out: &mut usize,
) -> Result<InterfaceRecord, MifError> {
    let id = IfaceId(reader.u16()?);
    let class = LinkClass(reader.u8()?);
    let state = IfaceState(reader.u8()?);
    let priority = reader.u8()?;
    let weight = reader.u8()?;
    let mtu = reader.u16()?;
    let count = reader.u8()?;
    reader.bytes(3)?;
    if count > policy.max_addresses {
        return Err(MifError::TooMany("addresses of an interface"));
    }
    let mut addresses = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let address = Maddr::decode(reader)?;
        match policy.check(&address) {
            Ok(()) => addresses.push(address),
            Err(_) => *left_out += 1,
        }
    }
    Ok(InterfaceRecord {
        id,
        class,
        state,
        priority,
        weight,
        mtu,
        addresses,
    })
}
