//! What the headers of a frame say beside what it is: whom it is for, and which
//! exchange an IKE message belongs to (RFC 7296 3.1: these are in the clear).

use std::net::Ipv4Addr;

use super::Way;

/// `CREATE_CHILD_SA`.
pub const CREATE_CHILD_SA: u8 = 36;
/// `INFORMATIONAL`.
pub const INFORMATIONAL: u8 = 37;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const NON_ESP_MARKER: [u8; 4] = [0; 4];
const NEXT_PAYLOAD: usize = 16;
const EXCHANGE: usize = 18;
const RESPONSE: u8 = 0x20;
/// Encrypted and authenticated fragment; its number follows header and generic header.
const SKF: u8 = 53;
const FRAGMENT: usize = 28 + 4;

/// The gateway's outer address in a frame on its leg.
pub(super) fn gateway_address(frame: &[u8], way: Way) -> Option<Ipv4Addr> {
    let at = match way {
        Way::Up => ETHERNET + 16,
        Way::Down => ETHERNET + 12,
    };
    let octets: [u8; 4] = frame.get(at..at + 4)?.try_into().ok()?;
    (frame.get(ETHERNET)? >> 4 == 4).then(|| octets.into())
}

/// The exchange type of an IKE message over IPv4 if it is a request. A message in
/// fragments counts once, by its first.
pub(super) fn request(frame: &[u8]) -> Option<u8> {
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(*ip.first()? & 15) * 4;
    let message = ip.get(header + UDP..)?;
    let message = message.strip_prefix(&NON_ESP_MARKER).unwrap_or(message);
    let later = *message.get(NEXT_PAYLOAD)? == SKF
        && message
            .get(FRAGMENT..FRAGMENT + 2)
            .is_some_and(|number| number != [0, 1]);
    let (exchange, flags) = (*message.get(EXCHANGE)?, *message.get(EXCHANGE + 1)?);
    (flags & RESPONSE == 0 && !later).then_some(exchange)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(marker: bool, next: u8, flags: u8, number: [u8; 2]) -> Vec<u8> {
        let mut bytes = vec![0u8; ETHERNET];
        bytes.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend([198, 51, 100, 2, 203, 0, 113, 1]);
        bytes.extend([0; UDP]);
        if marker {
            bytes.extend(NON_ESP_MARKER);
        }
        bytes.extend([7; 16]);
        bytes.extend([next, 0x20, CREATE_CHILD_SA, flags]);
        bytes.extend([0; 12]);
        bytes.extend([number[0], number[1], 0, 2]);
        bytes
    }

    #[test]
    fn requests_are_told_by_their_exchange_and_answers_are_none() {
        for marker in [false, true] {
            let asked = frame(marker, 46, 0x08, [0, 0]);
            assert_eq!(request(&asked), Some(CREATE_CHILD_SA));
            assert_eq!(request(&frame(marker, 46, RESPONSE, [0, 0])), None);
        }
    }

    #[test]
    fn a_message_in_fragments_counts_once() {
        assert!(request(&frame(true, SKF, 0x08, [0, 1])).is_some());
        assert!(request(&frame(true, SKF, 0x08, [0, 2])).is_none());
    }

    #[test]
    fn the_gateway_is_where_packets_go_to_or_come_from() {
        let frame = frame(true, 46, 0, [0, 0]);
        let address = |way| gateway_address(&frame, way).map(|a| a.octets());
        assert_eq!(address(Way::Up), Some([203, 0, 113, 1]));
        assert_eq!(address(Way::Down), Some([198, 51, 100, 2]));
        for length in 0..frame.len() {
            let part = &frame[..length];
            let _ = (request(part), gateway_address(part, Way::Up));
        }
    }
}
