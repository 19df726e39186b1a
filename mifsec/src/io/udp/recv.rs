//! Receiving in batches: several GRO reads per system call, each into its own
//! 64 KiB buffer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use socket2::Socket;

use super::cmsg::{self, Buffer, ROOM};
use crate::io::check;

/// The most one read can return: a GRO super-packet stays below 64 KiB.
const BUFFER_LEN: usize = 65536;

/// Reusable room for one batch.
pub struct RecvBatch {
    slots: Vec<Slot>,
    messages: Vec<Message>,
}

struct Slot {
    bytes: Box<[u8]>,
    control: Buffer,
    name: Name,
    iov: libc::iovec,
    len: usize,
    info: cmsg::Info,
    source: SocketAddr,
}

/// Octets of a `sockaddr_in6`, the longer of the two.
const NAME_LEN: usize = 28;

/// A socket address as the kernel writes it.
#[repr(C, align(8))]
struct Name([u8; NAME_LEN]);

/// A `mmsghdr` whose pointers are written anew before every call.
#[repr(transparent)]
struct Message(libc::mmsghdr);

// SAFETY: the pointers inside lead into the same `RecvBatch` and are only
// followed during `receive`, which has it borrowed mutably.
unsafe impl Send for RecvBatch {}

/// One read of a batch.
pub struct Received<'a> {
    /// One datagram, or several of `segment` octets, the last possibly shorter.
    pub bytes: &'a mut [u8],
    /// Octets per datagram; the whole length when there is one.
    pub segment: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// The address it was sent to.
    pub local: IpAddr,
    /// Where it came in.
    pub ifindex: u32,
    /// TOS or traffic class of the outer header.
    pub tos: u8,
}

impl RecvBatch {
    /// Room for `n` reads.
    #[must_use]
    pub fn new(n: usize) -> Self {
        let slot = || Slot {
            bytes: vec![0; BUFFER_LEN].into_boxed_slice(),
            control: Buffer([0; ROOM]),
            name: Name([0; NAME_LEN]),
            iov: libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
            len: 0,
            info: cmsg::parse(&[]),
            source: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        };
        Self {
            slots: (0..n.max(1)).map(|_| slot()).collect(),
            messages: Vec::with_capacity(n.max(1)),
        }
    }

    /// Room for nothing, to stand in for a batch that is lent elsewhere.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            slots: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// How many reads it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The `index`th read of the last batch.
    pub fn get(&mut self, index: usize) -> Option<Received<'_>> {
        let slot = self.slots.get_mut(index)?;
        let len = slot.len;
        Some(Received {
            segment: slot.info.segment.filter(|s| *s > 0).unwrap_or(len),
            bytes: slot.bytes.get_mut(..len)?,
            source: slot.source,
            local: slot.info.local.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            ifindex: slot.info.ifindex,
            tos: slot.info.tos,
        })
    }

    pub(super) fn receive(&mut self, socket: &Socket) -> io::Result<usize> {
        self.messages.clear();
        for slot in &mut self.slots {
            slot.iov = libc::iovec {
                iov_base: slot.bytes.as_mut_ptr().cast(),
                iov_len: slot.bytes.len(),
            };
            // SAFETY: a C struct of integers and pointers; zeros are a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut slot.name).cast();
            message.msg_hdr.msg_namelen = NAME_LEN as libc::socklen_t;
            message.msg_hdr.msg_iov = &raw mut slot.iov;
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = ROOM;
            self.messages.push(Message(message));
        }
        // SAFETY: `Message` is a transparent `mmsghdr`; every pointer in it was
        // just set to memory of the stated size that this batch owns, and
        // nothing else touches it during the call.
        let n = check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr().cast(),
                self.messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        })?;
        let n = usize::try_from(n).unwrap_or(0);
        for (slot, message) in self.slots.iter_mut().zip(&self.messages).take(n) {
            let header = &message.0.msg_hdr;
            slot.len = (message.0.msg_len as usize).min(slot.bytes.len());
            let control = slot.control.0.get(..header.msg_controllen);
            slot.info = cmsg::parse(control.unwrap_or_default());
            slot.source = source(&slot.name);
        }
        Ok(n)
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`. The scope of a link-local address is
/// left out: the arrival's interface says it.
fn source(name: &Name) -> SocketAddr {
    let &[f0, f1, p0, p1, a, b, c, d, ref rest @ ..] = &name.0;
    let port = u16::from_be_bytes([p0, p1]);
    match (
        libc::c_int::from(u16::from_ne_bytes([f0, f1])),
        rest.first_chunk::<16>(),
    ) {
        (libc::AF_INET, _) => SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port),
        // The four octets before the address are the flow label.
        (libc::AF_INET6, Some(octets)) => SocketAddr::new(Ipv6Addr::from(*octets).into(), port),
        _ => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
    }
}
