//! Inner packets: what the data plane does with octets from the TUN and from
//! behind ESP.

use mifsec::dataplane::exercise;

use super::input::Input;

/// One read from the TUN; what it is cut into goes back in, together with
/// packets of the fuzzer's own.
///
/// # Panics
/// When a property does not hold.
pub fn packet(data: &[u8]) {
    let mut input = Input::new(data);
    let mtu = usize::from(input.u16());
    let tos = input.u8();
    let mut read = input.counted().to_vec();
    let cut = exercise::outbound(&mut read, mtu);
    let mut packets: Vec<(u8, &[u8])> = cut.iter().map(|packet| (tos, &packet[..])).collect();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        packets.push((input.u8(), input.counted()));
    }
    let (taken, written) = exercise::inbound(&packets, mtu);
    assert_eq!(written, taken, "merging loses and adds nothing");
}
