//! A network namespace of one thread, with an anchor and two accesses.
//!
//! The other ends of the accesses lie in the same namespace and are read with
//! packet sockets. The namespace goes with the thread, and all in it.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::ethtool;

/// Runs `test` in a new namespace on a thread of its own.
///
/// # Panics
/// As `test` does.
pub fn in_namespace<R: Send>(test: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let joined = scope
            .spawn(|| {
                // SAFETY: affects this thread alone.
                let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) };
                assert_eq!(failed, 0, "unshare: {}", io::Error::last_os_error());
                test()
            })
            .join();
        match joined {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs `ip` with each line of `commands`.
///
/// # Errors
/// The first command that fails, with what it said.
pub fn ip(commands: &str) -> Result<()> {
    for line in commands.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let output = Command::new("ip")
            .args(line.split_whitespace())
            .output()
            .context("run ip")?;
        ensure!(
            output.status.success(),
            "ip {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// The anchor device as the agent makes it, and accesses `acc0` and `acc1` whose
/// other ends are `far0` and `far1`. Nothing is offloaded on the accesses.
///
/// # Errors
/// A command fails.
pub fn topology() -> Result<()> {
    ip("link set lo up
        link add anchor type veth peer name anchorp
        link set anchor addrgenmode none
        link set anchorp addrgenmode none
        link set anchor up
        link set anchorp up
        addr add 240.0.0.1/32 dev anchor
        -6 addr add fd6d:6966::1/128 dev anchor nodad
        neigh add 240.0.0.2 lladdr 02:00:00:00:00:99 dev anchor nud permanent
        -6 neigh add fd6d:6966::2 lladdr 02:00:00:00:00:99 dev anchor nud permanent
        route add 240.0.0.0/8 via 240.0.0.2 dev anchor onlink table 4501
        -6 route add fd6d:6966::/64 via fd6d:6966::2 dev anchor onlink table 4501
        rule add oif anchor lookup 4501
        -6 rule add oif anchor lookup 4501")?;
    let control = UdpSocket::bind("0.0.0.0:0")?;
    for i in 0..2 {
        ip(&format!(
            "link add acc{i} type veth peer name far{i}
             link set acc{i} addrgenmode none
             link set far{i} addrgenmode none
             link set acc{i} up
             link set far{i} up
             addr add 192.0.{i}.10/24 dev acc{i}
             -6 addr add 2001:db8:{i}::10/64 dev acc{i} nodad
             neigh add 192.0.{i}.1 lladdr 02:00:00:00:01:0{i} dev acc{i} nud permanent
             -6 neigh add 2001:db8:{i}::1 lladdr 02:00:00:00:01:0{i} dev acc{i} nud permanent"
        ))?;
        ethtool::no_offload(&control, &format!("acc{i}"))?;
    }
    Ok(())
}

/// Index of a device in this thread's namespace.
///
/// # Errors
/// There is none of that name.
pub fn ifindex(name: &str) -> Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).context("if_nametoindex"),
        index => Ok(index),
    }
}

/// Ethernet address of a device in this thread's namespace.
///
/// # Errors
/// There is none of that name.
pub fn mac(name: &str) -> Result<[u8; 6]> {
    // SAFETY: an ifreq of zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: the request outlives the call, which fills the member read after it.
    let octets = unsafe {
        let failed = libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request);
        ensure!(failed == 0, "{name}: {}", io::Error::last_os_error());
        request.ifr_ifru.ifru_hwaddr.sa_data
    };
    Ok(std::array::from_fn(|i| octets[i].cast_unsigned()))
}

/// Reads (and writes) whole frames of one device.
pub struct Tap {
    socket: Socket,
}

impl Tap {
    /// Everything that arrives at `device`.
    ///
    /// # Errors
    /// No such device, or not root.
    pub fn open(device: &str) -> Result<Self> {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)))?;
        // SAFETY: a sockaddr_ll of zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex(device)?.cast_signed();
        // SAFETY: an address of the size given, and a buffer for the option.
        unsafe {
            let bound = libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                u32::try_from(size_of::<libc::sockaddr_ll>())?,
            );
            ensure!(
                bound == 0,
                "bind to {device}: {}",
                io::Error::last_os_error()
            );
            let size: i32 = 64 << 20;
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                4,
            );
        }
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(Self { socket })
    }

    /// The next arriving frame with UDP in it (not the kernel's multicast
    /// reports), or `None` when nothing came for a while.
    ///
    /// # Errors
    /// The socket's.
    pub fn next(&self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut frame = vec![0u8; 70_000];
            // SAFETY: zeroed address; buffer and lengths are those given.
            let (len, from) = unsafe {
                let mut from: libc::sockaddr_ll = zeroed();
                let mut from_len = u32::try_from(size_of::<libc::sockaddr_ll>())?;
                let len = libc::recvfrom(
                    self.socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                );
                (len, from)
            };
            if len < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    // A wait with a time-out is not taken up again by the kernel.
                    io::ErrorKind::Interrupted => continue,
                    _ => return Err(error.into()),
                }
            }
            frame.truncate(usize::try_from(len)?);
            if from.sll_pkttype != libc::PACKET_OUTGOING && is_udp(&frame) {
                return Ok(Some(frame));
            }
        }
    }

    /// Sends a frame out of the device: it arrives at the other end of a veth.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send(frame)?;
        Ok(())
    }
}

fn is_udp(frame: &[u8]) -> bool {
    let protocol_at = match frame.get(12..14) {
        Some([8, 0]) => 14 + 9,
        Some([0x86, 0xdd]) => 14 + 6,
        _ => return false,
    };
    frame.get(protocol_at) == Some(&super::frame::UDP)
}

/// A socket that sends GSO datagrams by one device, as the data plane does.
pub struct Sender {
    socket: Socket,
}

impl Sender {
    /// Bound to `local` and `device`; `segment` payload octets make a datagram.
    ///
    /// # Errors
    /// The socket's.
    pub fn open(device: &str, local: SocketAddr, segment: u16) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
        socket.bind_device(Some(device.as_bytes()))?;
        socket.bind(&local.into())?;
        socket.set_send_buffer_size(16 << 20)?;
        let value = i32::from(segment);
        let (level, option) = if local.is_ipv4() {
            (libc::SOL_IP, libc::IP_RECVERR)
        } else {
            (libc::SOL_IPV6, libc::IPV6_RECVERR)
        };
        let on = 1i32;
        // SAFETY: integers of the size given.
        unsafe {
            let fd = socket.as_raw_fd();
            let set = libc::setsockopt(
                fd,
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const value).cast(),
                4,
            );
            ensure!(set == 0, "UDP_SEGMENT: {}", io::Error::last_os_error());
            // A drop by the program shows as ENOBUFS then.
            libc::setsockopt(fd, level, option, (&raw const on).cast(), 4);
        }
        Ok(Self { socket })
    }

    /// Sends `octets` as datagrams of the segment size.
    ///
    /// # Errors
    /// The socket's, `ENOBUFS` for a drop included.
    pub fn send(&self, octets: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(octets, &to.into()).map(drop)
    }
}

/// Attaches to the TCX egress of a device a program that ends the chain with
/// `TC_ACT_OK`; it goes with the descriptor.
///
/// # Errors
/// The kernel refuses it.
pub fn chain_end(ifindex: u32) -> Result<OwnedFd> {
    const PROG_LOAD: i64 = 5;
    const LINK_CREATE: i64 = 28;
    const SCHED_CLS: u32 = 3;
    const TCX_EGRESS: u32 = 47;
    // linux/bpf.h: the first members of `union bpf_attr` for each command.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 16],
    }
    #[repr(C)]
    struct Link {
        program: u32,
        ifindex: u32,
        hook: u32,
        flags: u32,
        rest: [u64; 4],
    }
    // r0 = 0; exit.
    let instructions = [0xb7u64, 0x95];
    let load = Load {
        kind: SCHED_CLS,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        rest: [0; 16],
    };
    let program = bpf(PROG_LOAD, &load).context("BPF_PROG_LOAD")?;
    let link = Link {
        program: u32::try_from(program.as_raw_fd())?,
        ifindex,
        hook: TCX_EGRESS,
        flags: 0,
        rest: [0; 4],
    };
    bpf(LINK_CREATE, &link).context("BPF_LINK_CREATE")
}

/// A command of `bpf(2)` that makes a descriptor.
fn bpf<A>(command: i64, attributes: &A) -> io::Result<OwnedFd> {
    // SAFETY: attributes of the size given, and what they point to, outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<A>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A layer-3 device and the descriptor that reads it.
///
/// # Errors
/// No `/dev/net/tun`, or not root.
pub fn tun(name: &str) -> Result<OwnedFd> {
    // SAFETY: a constant path; the descriptor is new.
    let fd = unsafe {
        let fd = libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        ensure!(fd >= 0, "/dev/net/tun: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: an ifreq of zeros is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
    // SAFETY: the request outlives the call.
    let failed = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    ensure!(failed == 0, "TUNSETIFF: {}", io::Error::last_os_error());
    Ok(fd)
}
