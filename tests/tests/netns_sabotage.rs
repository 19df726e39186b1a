//! Inbound packets are found by their SPI, whatever their outer addresses: shown
//! with real packets, and with the fault that looks at the addresses.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something unexpected happens"
)]

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use mifsec::dataplane::Input;
use mifsec::ids::{Arrival, PathIndex};
use mifsec_tests::tunnel::{End, Options, PATH, Tunnel};

const PACKETS: u8 = 50;
/// The path the packets come in on; that of their SA is [`PATH`].
const OTHER: PathIndex = PathIndex(PATH.0 + 1);

fn say(from: &UdpSocket, to: SocketAddr, byte: u8) {
    from.send_to(&[byte], to).unwrap();
}

/// The arrival of the first packet, which nobody knows yet.
fn arrival(end: &mut End) -> Arrival {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if let Ok(Input::NewSource { arrival, .. }) = end.inputs.try_recv() {
            return arrival;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("nothing came");
}

/// How many of the packets get through that come in on another path than their SA's.
fn through(match_outer: bool) -> u8 {
    let mut tunnel = Tunnel::start(Options {
        workers: 1,
        ..Options::default()
    })
    .unwrap();
    let [a, b] = &mut tunnel.ends;
    let inner = SocketAddr::new(Tunnel::inner(1, false), 0);
    let socket = b.namespace.run(|| Ok(UdpSocket::bind(inner)?)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let to = socket.local_addr().unwrap();
    let from = a.namespace.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?));
    let from = from.unwrap();
    say(&from, to, 0);
    let known = arrival(b);
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);

    b.snapshot.arrivals.insert(known, OTHER);
    b.snapshot.match_outer = match_outer;
    b.install();
    std::thread::sleep(Duration::from_millis(100));
    for n in 0..PACKETS {
        say(&from, to, n);
    }
    let mut heard = 0;
    loop {
        match socket.recv(&mut [0; 8]) {
            Ok(_) => heard += 1,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return heard,
        }
        if heard == PACKETS {
            return heard;
        }
    }
}

#[test]
fn packets_on_another_path_than_their_sas_arrive_and_would_not_if_addresses_had_to_match() {
    mifsec_tests::covers!("R37");
    assert_eq!(through(false), PACKETS, "0 discarded");
    assert_eq!(through(true), 0, "the fault discards them");
}
