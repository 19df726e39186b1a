//! A multi-queue TUN device with segmentation offload.
//!
//! Every read and write carries one IP packet behind a [`VnetHeader`]; with the
//! offloads on, that packet may be a TCP or UDP super-packet of up to 64 KiB.
//! Descriptors are non-blocking.

mod vnet;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;

pub use vnet::{Gso, VNET_LEN, VnetHeader};

use super::check;

/// Packets (super-packets count once) the kernel queues for each of our queues.
const QUEUE_LEN: libc::c_int = 1000;

/// One queue of a TUN device.
#[derive(Debug)]
pub struct Tun {
    file: File,
    uso: bool,
}

impl Tun {
    /// Creates or opens the device `name`, brings it up with `mtu` octets and
    /// returns its `queues`. With `persist` it outlives this process.
    ///
    /// # Errors
    /// The name is too long or taken by another kind of device, or we lack
    /// `CAP_NET_ADMIN`.
    pub fn open(name: &str, queues: usize, mtu: u16, persist: bool) -> io::Result<Vec<Self>> {
        let mut tuns: Vec<Self> = Vec::new();
        for _ in 0..queues.max(1) {
            let tun = Self::queue(name)?;
            if tuns.is_empty() {
                tun.ioctl_value(libc::TUNSETPERSIST, libc::c_ulong::from(persist))?;
                // Before the other queues exist: each takes its length from the device.
                bring_up(name, mtu)?;
            }
            tuns.push(tun);
        }
        Ok(tuns)
    }

    /// Lets the socket-filter program `fd` choose the queue of each packet the
    /// kernel sends into the device; valid for all queues.
    ///
    /// # Errors
    /// `fd` is not such a program.
    pub fn set_steering(&self, fd: RawFd) -> io::Result<()> {
        self.ioctl_pointer(libc::TUNSETSTEERINGEBPF, fd)
    }

    /// Whether UDP super-packets can be read and written (kernel 6.2 and later).
    #[must_use]
    pub fn uso(&self) -> bool {
        self.uso
    }

    /// Reads one packet behind its [`VnetHeader`].
    ///
    /// # Errors
    /// `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet; the first octets of `parts` are its [`VnetHeader`].
    ///
    /// # Errors
    /// `WouldBlock` when the device is full; `EIO` when it is down.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }

    fn queue(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        let mut tun = Self { file, uso: false };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let mut request = Request::new(name)?;
        request.0.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is.
        check(unsafe {
            libc::ioctl(
                tun.file.as_raw_fd(),
                libc::TUNSETIFF as libc::Ioctl,
                &raw mut request.0,
            )
        })?;
        tun.ioctl_pointer(libc::TUNSETVNETHDRSZ, VNET_LEN as libc::c_int)?;
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        let uso = tso | libc::TUN_F_USO4 | libc::TUN_F_USO6;
        tun.uso = tun
            .ioctl_value(libc::TUNSETOFFLOAD, libc::c_ulong::from(uso))
            .is_ok();
        if !tun.uso {
            tun.ioctl_value(libc::TUNSETOFFLOAD, libc::c_ulong::from(tso))?;
        }
        Ok(tun)
    }

    /// An ioctl whose argument is the value itself.
    fn ioctl_value(&self, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
        // SAFETY: the requests used with this function take no pointer.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, value) }).map(drop)
    }

    /// An ioctl whose argument points to an `int`.
    fn ioctl_pointer(&self, request: libc::Ioctl, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the requests used with this function read one `int`, which
        // lives over the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, &raw const value) }).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// An `ifreq` that names a device.
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        let name = CString::new(name)?;
        let bytes = name.as_bytes_with_nul();
        // SAFETY: `ifreq` is a C struct of integers, arrays and unions of these,
        // for which all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if bytes.len() > request.ifr_name.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "device name is longer than 15 octets",
            ));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        Ok(Self(request))
    }
}

fn bring_up(name: &str, mtu: u16) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let socket = OwnedFd::from(socket);
    let mut request = Request::new(name)?;
    let call = |kind: libc::c_ulong, request: &mut Request| {
        // SAFETY: the SIOC requests below read and write one `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), kind as libc::Ioctl, &raw mut request.0) })
    };
    request.0.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
    call(libc::SIOCSIFMTU, &mut request)?;
    request.0.ifr_ifru.ifru_metric = QUEUE_LEN;
    call(libc::SIOCSIFTXQLEN, &mut request)?;
    call(libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just written the flags member.
    let flags = unsafe { request.0.ifr_ifru.ifru_flags };
    request.0.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    call(libc::SIOCSIFFLAGS, &mut request).map(drop)
}
