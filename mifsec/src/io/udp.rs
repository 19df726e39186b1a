//! UDP sockets of the data plane.
//!
//! [`WildcardSocket`]: one per worker and family on the NAT-T port; receives
//! everything in batches with arrival interface, destination, TOS and GRO size,
//! and sends what belongs to one path by the interface and source it is told.
//! [`SendSocket`]: bound to the anchor device; sends bulk ESP, many segments per
//! call. A full `SendSocket` is one access's business: nobody waits for it.

mod cmsg;
mod recv;

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use self::cmsg::Control;
use super::{check, check_len};
use crate::ids::Family;

pub use recv::{Received, RecvBatch};

/// What the kernel may queue for a wildcard socket, octets.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;
/// What an access may have in flight, octets: enough for 10 Gbit/s on a short
/// path; the queueing discipline of the access bounds delay, not this.
const SEND_BUFFER: libc::c_int = 2 << 20;

/// Errors taken from a queue at once: whoever sends them must not keep us busy.
const ERRORS: u64 = 64;

/// The most segments one send may carry (`UDP_MAX_SEGMENTS` of older kernels).
pub const MAX_SEGMENTS: usize = 64;

/// Options of `linux/in.h`, `linux/udp.h` that the libc crate spells per
/// architecture or not at all.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// The NAT-T port, all addresses of one family.
#[derive(Debug)]
pub struct WildcardSocket {
    socket: Socket,
    family: Family,
}

impl WildcardSocket {
    /// Binds `port`, shared with the other workers.
    ///
    /// # Errors
    /// The port is taken, or an option is unknown to this kernel.
    pub fn open(family: Family, port: u16) -> io::Result<Self> {
        let socket = open(family)?;
        socket.set_reuse_port(true)?;
        match family {
            Family::V4 => {
                set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
                set(&socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            }
        }
        set(&socket, libc::SOL_UDP, UDP_GRO, 1)?;
        buffer(
            &socket,
            libc::SO_RCVBUFFORCE,
            libc::SO_RCVBUF,
            RECEIVE_BUFFER,
        )?;
        socket.bind(&SockAddr::from(any(family, port)))?;
        Ok(Self { socket, family })
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The port it is bound to.
    ///
    /// # Errors
    /// What `getsockname` said.
    pub fn port(&self) -> io::Result<u16> {
        let address = self.socket.local_addr()?;
        Ok(address.as_socket().map_or(0, |a| a.port()))
    }

    /// Sends one datagram by interface `ifindex` (0: by route) from `local`.
    ///
    /// # Errors
    /// `WouldBlock` when the socket is full, else what the kernel said.
    pub fn send(
        &self,
        ifindex: u32,
        local: IpAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut control = Control::new();
        control.packet_info(ifindex, local);
        let sent = send(&self.socket, remote, bytes, &control);
        if matches!(&sent, Err(error) if may_be_earlier(error)) {
            self.clear_errors();
            return send(&self.socket, remote, bytes, &control);
        }
        sent
    }

    /// Receives as many datagrams (GRO reads) as are there and fit `batch`.
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn receive(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.receive(&self.socket)
    }

    /// Takes errors from the queue and returns how many; some may be left, but
    /// none fails the next call.
    pub fn clear_errors(&self) -> u64 {
        clear_errors(&self.socket)
    }
}

impl AsFd for WildcardSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket whose packets can only leave through one device.
#[derive(Debug)]
pub struct SendSocket {
    socket: Socket,
    family: Family,
}

impl SendSocket {
    /// A socket bound to `device`. Its port is the kernel's choice: it must not
    /// take datagrams away from the wildcard socket.
    ///
    /// # Errors
    /// The device does not exist, or we lack `CAP_NET_RAW`.
    pub fn open(family: Family, device: &str) -> io::Result<Self> {
        let socket = open(family)?;
        socket.bind_device(Some(device.as_bytes()))?;
        // DF set, and path MTU news ignored: the anchor says nothing about the path.
        match family {
            Family::V4 => set(
                &socket,
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                libc::IP_PMTUDISC_PROBE,
            )?,
            Family::V6 => {
                socket.set_only_v6(true)?;
                set(
                    &socket,
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_PROBE,
                )?;
            }
        }
        buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)?;
        socket.bind(&SockAddr::from(any(family, 0)))?;
        Ok(Self { socket, family })
    }

    /// The family of its addresses.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Sends `bytes` as datagrams of `segment` octets, the last one possibly
    /// shorter; at most [`MAX_SEGMENTS`] and less than 64 KiB in all.
    ///
    /// # Errors
    /// `WouldBlock`: the access is full. `ENOBUFS`: a program or queue dropped it.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], segment: u16, tos: u8) -> io::Result<()> {
        let mut control = Control::new();
        if bytes.len() > usize::from(segment) {
            control.segment(segment);
        }
        if tos != 0 {
            control.tos(self.family, tos);
        }
        send(&self.socket, to, bytes, &control)
    }

    /// Takes errors from the queue and returns how many; some may be left, but
    /// none fails the next call.
    pub fn clear_errors(&self) -> u64 {
        clear_errors(&self.socket)
    }
}

/// Whether `error` may report an earlier datagram: an ICMP error fails the next
/// call whatever its destination (RFC 1122 4.1.3.3). Which number it has is up to
/// the router that sent it, so all count but the two no ICMP error is turned into.
#[must_use]
pub fn may_be_earlier(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::WouldBlock && error.raw_os_error() != Some(libc::ENOBUFS)
}

fn open(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    // Without it a packet dropped behind us looks sent.
    match family {
        Family::V4 => set(&socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?,
        Family::V6 => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?,
    }
    Ok(socket)
}

fn any(family: Family, port: u16) -> SocketAddr {
    let address = match family {
        Family::V4 => IpAddr::from([0u8; 4]),
        Family::V6 => IpAddr::from([0u8; 16]),
    };
    SocketAddr::new(address, port)
}

fn set(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the option value is one `int` that lives over the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// A buffer size beyond the system's limit where we may, else up to it.
fn buffer(
    socket: &Socket,
    force: libc::c_int,
    plain: libc::c_int,
    size: libc::c_int,
) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, force, size)
        .or_else(|_| set(socket, libc::SOL_SOCKET, plain, size))
}

fn send(socket: &Socket, to: SocketAddr, bytes: &[u8], control: &Control) -> io::Result<()> {
    let name = SockAddr::from(to);
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: `msghdr` is a C struct of integers and pointers; zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len();
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    let control = control.as_slice();
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len();
    }
    // SAFETY: every pointer in `message` outlives the call, and sendmsg only
    // reads through them.
    check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) }).map(drop)
}

fn clear_errors(socket: &Socket) -> u64 {
    let mut octet = [0u8; 1];
    let mut iov = libc::iovec {
        iov_base: octet.as_mut_ptr().cast(),
        iov_len: octet.len(),
    };
    let mut cleared = 0;
    while cleared < ERRORS {
        // SAFETY: as in `send`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        // SAFETY: the only pointer leads to `iov` and from there to `octet`,
        // both live and of the stated size.
        let result = check_len(unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE)
        });
        if result.is_err() {
            break;
        }
        cleared += 1;
    }
    // The error pending on the socket itself, beside the queue.
    let _ = socket.take_error();
    cleared
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn loopback(port: u16) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
    }

    #[test]
    fn segments_arrive_with_interface_destination_and_tos() {
        let receiver = WildcardSocket::open(Family::V4, 0).unwrap();
        let sender = SendSocket::open(Family::V4, "lo").unwrap();
        let bytes: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
        let to = loopback(receiver.port().unwrap());
        sender.send(to, &bytes, 1000, 0b1011_1000).unwrap();
        let mut batch = RecvBatch::new(4);
        let mut got = Vec::new();
        while let Ok(n) = receiver.receive(&mut batch) {
            for i in 0..n {
                let received = batch.get(i).unwrap();
                assert_eq!(received.local, IpAddr::from(Ipv4Addr::LOCALHOST));
                assert_eq!(received.tos, 0b1011_1000);
                assert_ne!(received.ifindex, 0);
                assert!(received.segment == 1000 || received.segment == received.bytes.len());
                got.extend_from_slice(received.bytes);
            }
        }
        assert_eq!(got, bytes);
    }

    #[test]
    fn a_wildcard_socket_sends_from_the_address_it_is_told() {
        for family in [Family::V4, Family::V6] {
            let sender = WildcardSocket::open(family, 0).unwrap();
            let receiver = WildcardSocket::open(family, 0).unwrap();
            let local: IpAddr = match family {
                Family::V4 => "127.0.0.9".parse().unwrap(),
                Family::V6 => "::1".parse().unwrap(),
            };
            let to = match family {
                Family::V4 => loopback(receiver.port().unwrap()),
                Family::V6 => SocketAddr::new(local, receiver.port().unwrap()),
            };
            sender.send(1, local, to, b"x").unwrap();
            let mut batch = RecvBatch::new(2);
            assert_eq!(receiver.receive(&mut batch).unwrap(), 1);
            let received = batch.get(0).unwrap();
            assert_eq!(received.source.ip(), local);
            assert_eq!(received.ifindex, 1);
            assert_eq!(received.bytes, b"x");
        }
    }

    #[test]
    fn an_earlier_icmp_error_does_not_fail_the_next_send() {
        let sender = WildcardSocket::open(Family::V4, 0).unwrap();
        let receiver = WildcardSocket::open(Family::V4, 0).unwrap();
        // Nobody listens on port 1: the loopback answers at once.
        sender
            .send(0, Ipv4Addr::LOCALHOST.into(), loopback(1), b"a")
            .unwrap();
        sender
            .send(
                0,
                Ipv4Addr::LOCALHOST.into(),
                loopback(receiver.port().unwrap()),
                b"b",
            )
            .unwrap();
        assert_eq!(receiver.receive(&mut RecvBatch::new(2)).unwrap(), 1);
    }
}
