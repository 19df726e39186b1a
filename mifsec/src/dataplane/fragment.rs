//! Fragmenting an IPv4 packet that may be fragmented, before it is sealed
//! (RFC 791 3.2, RFC 4301 8.1).

use crate::wire::Checksum;

use super::packet::Inner;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
/// The bit of an option's type that says every fragment has it.
const COPIED: u8 = 0x80;

/// An IPv4 packet being fragmented.
pub(super) struct Fragments<'a> {
    packet: &'a [u8],
    header: usize,
    /// Octets of payload per fragment, a multiple of 8.
    size: usize,
    done: usize,
}

impl<'a> Fragments<'a> {
    /// Fragments of at most `mtu` octets; `None` when that leaves no room for
    /// payload.
    pub(super) fn new(packet: &'a [u8], inner: &Inner, mtu: usize) -> Option<Self> {
        let packet = packet.get(..inner.total)?;
        let size = mtu.checked_sub(inner.transport)? / 8 * 8;
        (size > 0 && inner.next_header() == 4).then_some(Self {
            packet,
            header: inner.transport,
            size,
            done: 0,
        })
    }

    /// How many fragments are left.
    pub(super) fn count(&self) -> usize {
        (self.packet.len() - self.header - self.done).div_ceil(self.size)
    }

    /// Octets of the next fragment; `None` after the last.
    pub(super) fn next_len(&self) -> Option<usize> {
        let left = self.packet.len() - self.header - self.done;
        (left > 0).then(|| self.header + left.min(self.size))
    }

    /// Writes the next fragment into `out`, which has
    /// [`next_len`](Self::next_len) octets.
    pub(super) fn write(&mut self, out: &mut [u8]) {
        let Some(payload) = out.len().checked_sub(self.header) else {
            return;
        };
        let total = (out.len() & 0xffff) as u16;
        let (header, body) = out.split_at_mut(self.header);
        header.copy_from_slice(&self.packet[..self.header]);
        body.copy_from_slice(&self.packet[self.header + self.done..][..payload]);
        let last = self.header + self.done + payload >= self.packet.len();
        let field = u16::from_be_bytes([header[6], header[7]]);
        // Units of 8 octets; a 64 KiB packet has fewer than fit 13 bits.
        let offset = (field & OFFSET) + (self.done / 8) as u16;
        let more = if last {
            field & MORE_FRAGMENTS
        } else {
            MORE_FRAGMENTS
        };
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&(more | offset & OFFSET).to_be_bytes());
        if self.done > 0 {
            blank_options(&mut header[20..]);
        }
        header[10..12].fill(0);
        let sum = Checksum::new().with(header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        self.done += payload;
    }
}

/// Overwrites options that belong only to the first fragment.
fn blank_options(mut options: &mut [u8]) {
    loop {
        let len = match *options {
            [] | [OPTION_END, ..] => return,
            [OPTION_NOP, ..] => 1,
            [kind, len, ..] => {
                let len = usize::from(len).max(2).min(options.len());
                if kind & COPIED == 0 {
                    options[..len].fill(OPTION_NOP);
                }
                len
            }
            [_] => return,
        };
        options = &mut options[len..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::packet::Fragment;
    use super::super::packet::tests::{assert_checksums, build};
    use super::*;

    fn fragments(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let inner = Inner::parse(packet).unwrap();
        let mut fragments = Fragments::new(packet, &inner, mtu).unwrap();
        let count = fragments.count();
        let mut out = Vec::new();
        while let Some(len) = fragments.next_len() {
            let mut fragment = vec![0xaa; len];
            fragments.write(&mut fragment);
            out.push(fragment);
        }
        assert_eq!(out.len(), count);
        out
    }

    proptest! {
        #[test]
        fn fragments_of_fragments_put_together_are_the_packet(
            mtu in 40usize..600,
            again in 40usize..600,
            payload in prop::collection::vec(any::<u8>(), 1..2000),
        ) {
            let mut packet = build(false, 99, 0, &payload);
            packet[6] = 0;
            let mut joined = vec![0; payload.len()];
            let mut ends = 0;
            for fragment in fragments(&packet, mtu).iter().flat_map(|f| fragments(f, again)) {
                assert_checksums(&fragment);
                prop_assert!(fragment.len() <= mtu.max(again));
                let field = u16::from_be_bytes([fragment[6], fragment[7]]);
                let at = usize::from(field & OFFSET) * 8;
                joined[at..at + fragment.len() - 20].copy_from_slice(&fragment[20..]);
                if field & MORE_FRAGMENTS == 0 {
                    ends += 1;
                    prop_assert_eq!(at + fragment.len() - 20, payload.len());
                }
            }
            prop_assert_eq!(ends, 1);
            prop_assert_eq!(joined, payload);
        }
    }

    #[test]
    fn only_copied_options_are_repeated() {
        let mut packet = build(false, 99, 0, &[1; 100]);
        // Record route (not copied), then stream id (copied).
        packet.splice(20..20, [7, 3, 4, 0x88, 4, 1, 2, 0]);
        packet[0] = 0x47;
        packet[3] += 8;
        packet[6] = 0;
        let out = fragments(&packet, 80);
        assert_eq!(out[0][20..28], [7, 3, 4, 0x88, 4, 1, 2, 0]);
        assert_eq!(out[1][20..28], [1, 1, 1, 0x88, 4, 1, 2, 0]);
        assert_eq!(Inner::parse(&out[1]).unwrap().fragment, Fragment::Later);
    }
}
