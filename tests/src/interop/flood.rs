//! IKE_SA_INIT requests that nobody follows up, written octet by octet.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::net::Net;
use crate::lab::topology::Access;

const PAYLOAD_SA: u8 = 33;
const PAYLOAD_KE: u8 = 34;
const PAYLOAD_NONCE: u8 = 40;
const X25519: u8 = 31;

/// Makes `count` half-open IKE SAs at `gateway`; how many of the requests were
/// answered with one.
///
/// # Errors
/// When the client has no address on the RAN.
pub fn half_open(net: &Net, gateway: IpAddr, count: u8) -> Result<usize> {
    let from = Access::Ran.attachments()[0].address;
    let socket = net
        .topology
        .eu
        .run(|| UdpSocket::bind(SocketAddr::new(from.into(), 0)))??;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut answered = 0;
    for number in 1..=count {
        socket.send_to(&request(number), SocketAddr::new(gateway, 500))?;
        // Slower than what the gateway takes from one address.
        thread::sleep(Duration::from_millis(10));
        let mut answer = [0; 2048];
        if let Ok((length, _)) = socket.recv_from(&mut answer) {
            ensure!(length >= 28, "an answer of {length} octets");
            answered += usize::from(answer[16] == PAYLOAD_SA);
        }
    }
    Ok(answered)
}

/// `HDR(number, 0), SA(AES-GCM-16-128, HMAC-SHA2-256, x25519), KE, Nonce`.
fn request(number: u8) -> Vec<u8> {
    let transforms = [
        [3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 0, 128].as_slice(),
        &[3, 0, 0, 8, 2, 0, 0, 5],
        &[0, 0, 0, 8, 4, 0, 0, X25519],
    ]
    .concat();
    let mut proposal = vec![0, 0, 0, 8 + length(&transforms), 1, 1, 0, 3];
    proposal.extend(transforms);
    // Any 32 octets are a public value of x25519.
    let mut public = vec![0, X25519, 0, 0];
    public.extend([number.max(9); 32]);
    let payloads = [
        payload(PAYLOAD_KE, &proposal),
        payload(PAYLOAD_NONCE, &public),
        payload(0, &[number; 32]),
    ]
    .concat();
    let mut message = vec![0x6d, 0x69, 0x66, 0x73, 0x65, 0x63, 0, number];
    message.extend([0; 8]);
    message.extend([PAYLOAD_SA, 0x20, 34, 0x08]);
    message.extend([0; 4]);
    message.extend([0, 0, 0, 28 + length(&payloads)]);
    message.extend(payloads);
    message
}

fn payload(next: u8, body: &[u8]) -> Vec<u8> {
    let mut payload = vec![next, 0, 0, 4 + length(body)];
    payload.extend(body);
    payload
}

/// Everything here is shorter than 200 octets.
fn length(octets: &[u8]) -> u8 {
    u8::try_from(octets.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_one_that_can_be_read() {
        let bytes = request(7);
        let message = mifsec::ike::message::decode(&bytes);
        assert!(message.is_ok());
        assert_eq!(usize::from(bytes[27]), bytes.len());
    }
}
