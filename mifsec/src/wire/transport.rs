//! UDP and TCP headers over octets, in the manner of [`ip`](super::ip).

use super::ip::{IpError, set, u16_at, u32_at};

/// Octets of a UDP header.
pub const UDP_HEADER_LEN: usize = 8;
/// Octets of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;

/// A UDP datagram (RFC 768).
#[derive(Debug, Clone, Copy)]
pub struct Udp<T>(T);

impl<T: AsRef<[u8]>> Udp<T> {
    /// Checks the header is there; the length field is compared by
    /// [`payload`](Self::payload).
    ///
    /// # Errors
    /// [`IpError::Truncated`].
    pub fn new_checked(bytes: T) -> Result<Self, IpError> {
        if bytes.as_ref().len() < UDP_HEADER_LEN {
            return Err(IpError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// Source port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16_at(self.0.as_ref(), 0)
    }

    /// Destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0.as_ref(), 2)
    }

    /// Octets of header and payload, as said.
    #[must_use]
    pub fn length(&self) -> u16 {
        u16_at(self.0.as_ref(), 4)
    }

    /// The checksum; 0 = none.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at(self.0.as_ref(), 6)
    }

    /// What follows the header, as far as the length says and octets are there.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        let data = self.0.as_ref();
        let end = usize::from(self.length()).clamp(UDP_HEADER_LEN, data.len());
        &data[UDP_HEADER_LEN..end]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the octets of header and payload.
    pub fn set_length(&mut self, length: u16) {
        set(self.0.as_mut(), 4, &length.to_be_bytes());
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        set(self.0.as_mut(), 6, &checksum.to_be_bytes());
    }
}

/// A TCP segment (RFC 9293).
#[derive(Debug, Clone, Copy)]
pub struct Tcp<T>(T);

impl<T: AsRef<[u8]>> Tcp<T> {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;
    /// ECE.
    pub const ECE: u8 = 0x40;
    /// CWR.
    pub const CWR: u8 = 0x80;

    /// Checks the header with its options is there.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn new_checked(bytes: T) -> Result<Self, IpError> {
        let data = bytes.as_ref();
        if data.len() < TCP_HEADER_LEN {
            return Err(IpError::Truncated);
        }
        let header = usize::from(data[12] >> 4) * 4;
        if header < TCP_HEADER_LEN {
            return Err(IpError::Length);
        }
        if data.len() < header {
            return Err(IpError::Truncated);
        }
        Ok(Self(bytes))
    }

    /// Source port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16_at(self.0.as_ref(), 0)
    }

    /// Destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0.as_ref(), 2)
    }

    /// Sequence number.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32_at(self.0.as_ref(), 4)
    }

    /// Acknowledgement number.
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        u32_at(self.0.as_ref(), 8)
    }

    /// Octets of the header with options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[12] >> 4) * 4
    }

    /// The control bits.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.0.as_ref()[13]
    }

    /// Window, unscaled.
    #[must_use]
    pub fn window(&self) -> u16 {
        u16_at(self.0.as_ref(), 14)
    }

    /// The checksum.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at(self.0.as_ref(), 16)
    }

    /// The options, undecoded.
    #[must_use]
    pub fn options(&self) -> &[u8] {
        &self.0.as_ref()[TCP_HEADER_LEN..self.header_len()]
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0.as_ref()[self.header_len()..]
    }

    /// Where the value of the maximum segment size option lies, from the start
    /// of the header.
    #[must_use]
    pub fn mss_offset(&self) -> Option<usize> {
        let mut rest = self.options();
        loop {
            rest = match *rest {
                [1, ref rest @ ..] => rest,
                [2, 4, _, _, ..] => return Some(self.header_len() - rest.len() + 2),
                [kind, length, ..] if kind != 0 && length >= 2 => {
                    rest.get(usize::from(length)..)?
                }
                _ => return None,
            };
        }
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    /// Sets the sequence number.
    pub fn set_sequence(&mut self, sequence: u32) {
        set(self.0.as_mut(), 4, &sequence.to_be_bytes());
    }

    /// Sets the control bits.
    pub fn set_flags(&mut self, flags: u8) {
        self.0.as_mut()[13] = flags;
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        set(self.0.as_mut(), 16, &checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mss_option_among_others() {
        let mut segment = vec![0; 20];
        segment[12] = 0x80;
        segment.extend([1, 1, 4, 2, 2, 4, 5, 0xb4, 3, 3, 7, 0]);
        let tcp = Tcp::new_checked(&segment[..]).unwrap();
        assert_eq!(tcp.mss_offset(), Some(26));
        segment[24] = 0;
        assert_eq!(Tcp::new_checked(&segment[..]).unwrap().mss_offset(), None);
    }
}
