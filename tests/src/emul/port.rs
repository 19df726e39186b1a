//! One end of a wire: a packet socket that receives and sends in batches.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ethtool;
use crate::lab::sys::{PacketSocket, VNET_HEADER};

/// Frames per system call.
const BATCH: usize = 64;
const ETHERNET_HEADER: usize = 14;
/// The longest a veth device carries.
const LONGEST: usize = VNET_HEADER + ETHERNET_HEADER + 65_535;

/// A frame behind what the kernel says of it (`struct virtio_net_hdr`). The
/// packet is what the frame carries.
#[derive(Debug, Clone)]
pub(super) struct Frame(Vec<u8>);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.0
            .get(VNET_HEADER + ETHERNET_HEADER..)
            .unwrap_or_default()
    }
}

/// A device of the emulator's namespace.
pub(super) struct Port {
    socket: PacketSocket,
    name: String,
    /// Dropped before they could be read, so far.
    overrun: AtomicU64,
}

impl Port {
    /// The device `name` of the calling thread's namespace.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let socket = PacketSocket::open(name)?;
        socket.ignore_outgoing()?;
        Ok(Self {
            socket,
            name: name.into(),
            overrun: AtomicU64::new(0),
        })
    }

    /// Frames the kernel could not queue for us.
    pub(super) fn overrun(&self) -> io::Result<u64> {
        // The kernel's count starts again whenever it is read.
        let more = u64::from(self.socket.dropped()?);
        Ok(self.overrun.fetch_add(more, Ordering::Relaxed) + more)
    }

    /// Sends all of `frames`, in order; how many the kernel did not take though
    /// the other end was up.
    pub(super) fn send(&self, frames: &[Frame]) -> u64 {
        let mut refused = 0;
        let mut rest = frames;
        while !rest.is_empty() {
            match send(self.socket.as_fd(), rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    // The first one was not taken, the others were not tried.
                    let up = ethtool::link_detected(&self.socket, &self.name);
                    refused += u64::from(up.unwrap_or(false));
                    rest = rest.get(1..).unwrap_or_default();
                }
            }
        }
        refused
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for one batch of frames.
pub(super) struct Inbox(Vec<Box<[u8]>>);

impl Inbox {
    pub(super) fn new() -> Self {
        Self((0..BATCH).map(|_| vec![0; LONGEST].into()).collect())
    }

    /// Gives `take` the frames that wait at `port`, at most a batch; whether
    /// there may be more. Super-packets, which are no frames of a wire, are
    /// not taken but counted into `oversized`.
    pub(super) fn receive(
        &mut self,
        port: &Port,
        oversized: &mut u64,
        mut take: impl FnMut(Frame),
    ) -> io::Result<bool> {
        let mut parts: Vec<_> = self.0.iter_mut().map(|slot| part(slot)).collect();
        let mut messages: Vec<_> = parts.iter_mut().map(message).collect();
        // SAFETY: the messages lead to `parts`, these to the slots, with their
        // lengths; nothing else touches them during the call.
        let received = unsafe {
            libc::recvmmsg(
                port.as_fd().as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // Nothing there, or the device went down and may come back.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(false),
                _ => Err(error),
            };
        };
        let lengths = messages.iter().map(|message| message.msg_len as usize);
        let lengths: Vec<_> = lengths.take(received).collect();
        for (slot, length) in self.0.iter().zip(lengths) {
            let frame = slot.get(..length).unwrap_or_default();
            // The kind of segmentation, none being 0.
            if frame.get(1) == Some(&0) {
                take(Frame(frame.to_vec()));
            } else {
                *oversized += 1;
            }
        }
        Ok(received == BATCH)
    }
}

fn send(socket: BorrowedFd<'_>, frames: &[Frame]) -> io::Result<usize> {
    let frames = frames.iter().take(BATCH);
    let mut parts: Vec<_> = frames
        .map(|frame| libc::iovec {
            // Only read through, whatever its type says.
            iov_base: frame.0.as_ptr().cast_mut().cast(),
            iov_len: frame.0.len(),
        })
        .collect();
    let mut messages: Vec<_> = parts.iter_mut().map(message).collect();
    // SAFETY: the messages lead to `parts`, these to the frames, with their
    // lengths, and all outlive the call, which reads them.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            messages.len() as libc::c_uint,
            0,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn part(slot: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: slot.as_mut_ptr().cast(),
        iov_len: slot.len(),
    }
}

/// A message of one part; it must not outlive it.
fn message(part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: a C struct of integers and pointers; zeros are a value.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}
