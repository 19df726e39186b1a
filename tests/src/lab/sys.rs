//! The system calls of the lab: namespaces, signals, packet sockets.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A network namespace by name (`/run/netns/NAME`).
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Opens a namespace that exists.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn open(name: &str) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self {
            name: name.to_string(),
            file,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a short-lived thread inside the namespace; sockets it creates stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `f` does.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                enter(self.file.as_raw_fd())
                    .with_context(|| format!("cannot enter namespace {}", self.name))?;
                Ok(f())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run inside the namespace. Unlike `ip netns exec` it
    /// leaves the mounts alone, so the BPF file system stays visible. The child
    /// is a process group of its own: Ctrl-C reaches the lab alone, which then
    /// ends the child in order.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let fd = self.file.as_raw_fd();
        let mut command = Command::new(program);
        command.process_group(0);
        // SAFETY: between fork and exec only system calls are made, nothing allocates.
        unsafe {
            command.pre_exec(move || enter(fd));
        }
        command
    }
}

/// Makes a command's process end when the thread that starts it does, so that
/// a lab that is killed leaves no agent behind.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: as in `Netns::command`; prctl is a system call.
    unsafe {
        command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop));
    }
}

fn enter(fd: RawFd) -> io::Result<()> {
    // SAFETY: setns changes the calling thread only and takes no pointer.
    let result = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
    check(result).map(drop)
}

/// Nanoseconds of one clock shared by all threads of this process.
#[must_use]
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether this process is root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whether a process of this id exists.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Sends a signal to one process by its id.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

const STOPPING: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Where the signal handler writes.
static STOP_PIPE: AtomicI32 = AtomicI32::new(-1);

/// Calls `f` on a thread of its own when the process is asked to stop; only the
/// first call of a process has an effect. A handler rather than a blocked
/// signal: threads that run already, as those of a test binary, have their own masks.
///
/// # Errors
/// When the process has no descriptors left.
pub fn on_stop_signal(f: impl FnOnce(i32) + Send + 'static) -> io::Result<()> {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let (mut caught, wake) = io::pipe()?;
    STOP_PIPE.store(wake.into_raw_fd(), Ordering::Relaxed);
    std::thread::spawn(move || {
        let mut signal = [0];
        if caught.read_exact(&mut signal).is_ok() {
            f(signal[0].into());
        }
    });
    // SAFETY: all-zero is a valid sigaction without flags and with an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = stop_handler;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    for signal in STOPPING {
        // SAFETY: the pointer is to a live value; the handler only writes to a pipe.
        check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    Ok(())
}

extern "C" fn stop_handler(signal: libc::c_int) {
    let octet = u8::try_from(signal).unwrap_or(0);
    // SAFETY: write is allowed in a handler and the pointer is to one live octet.
    unsafe {
        libc::write(
            STOP_PIPE.load(Ordering::Relaxed),
            (&raw const octet).cast(),
            1,
        )
    };
}

/// Waits until one of the descriptors is readable; their indexes, none after the timeout.
pub fn readable(fds: &[RawFd], timeout: Duration) -> Vec<usize> {
    let mut polls: Vec<_> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let count = libc::nfds_t::try_from(polls.len()).unwrap_or(0);
    // SAFETY: the pointer and the count describe `polls`.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, millis) };
    if ready <= 0 {
        return Vec::new();
    }
    (0..)
        .zip(&polls)
        .filter(|(_, poll)| poll.revents != 0)
        .map(|(index, _)| index)
        .collect()
}

/// Makes a receive buffer larger than `net.core.rmem_max` allows, as root.
///
/// # Errors
/// Without the privilege.
pub fn force_receive_buffer(fd: RawFd, octets: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &octets)
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: pointer and length describe `value`.
    check(unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(value).cast(), length) })
        .map(drop)
}

/// A packet socket that sees every frame of one interface, both directions.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

/// What came with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Octets in the buffer, from the Ethernet header.
    pub length: usize,
    /// Sent by the host that watches, not received by it.
    pub outgoing: bool,
    /// Payload octets of each segment of a super-packet; 0 for a single packet.
    pub segment: usize,
}

/// `struct virtio_net_hdr`, which says where the segments of a super-packet are.
pub(crate) const VNET_HEADER: usize = 10;
const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_IGNORE_OUTGOING: i32 = 23;

impl PacketSocket {
    /// Opens one on `interface` of the calling thread's namespace.
    ///
    /// # Errors
    /// Without the privilege or the interface.
    pub fn open(interface: &str) -> io::Result<Self> {
        let name = CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing arrives before the socket is bound to its interface.
        // SAFETY: takes no pointer.
        let fd = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: just created, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let raw = fd.as_raw_fd();
        force_receive_buffer(raw, 64 << 20)?;
        set_option(raw, libc::SOL_PACKET, PACKET_VNET_HDR, &1i32)?;
        let wait = libc::timeval {
            tv_sec: 0,
            tv_usec: 50_000,
        };
        set_option(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &wait)?;
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = u16::try_from(libc::ETH_P_ALL)
            .map_err(io::Error::other)?
            .to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        let length =
            libc::socklen_t::try_from(mem::size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: pointer and length describe `address`.
        check(unsafe { libc::bind(raw, std::ptr::from_ref(&address).cast(), length) })?;
        Ok(Self { fd })
    }

    /// Sees what the interface receives from here on, not what is sent on it.
    ///
    /// # Errors
    /// What `setsockopt` said.
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        set_option(
            self.fd.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            &1i32,
        )
    }

    /// The next frame; `None` after 50 ms without one.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive(&self, frame: &mut Vec<u8>) -> io::Result<Option<FrameInfo>> {
        frame.resize(VNET_HEADER + 65_536 + 64, 0);
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut length =
            libc::socklen_t::try_from(mem::size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: both buffers are live and described by their lengths.
        let received = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_mut(&mut address).cast(),
                &mut length,
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                // The interface went down and may come back.
                _ if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
                _ => Err(error),
            };
        };
        if received < VNET_HEADER {
            return Ok(None);
        }
        let segmented = frame[1] != 0;
        let segment = usize::from(u16::from_ne_bytes([frame[4], frame[5]]));
        frame.truncate(received);
        frame.drain(..VNET_HEADER);
        Ok(Some(FrameInfo {
            length: frame.len(),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            segment: if segmented { segment } else { 0 },
        }))
    }

    /// Frames the kernel could not queue since the last call.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn dropped(&self) -> io::Result<u32> {
        let mut stats = [0u32; 2];
        let mut length =
            libc::socklen_t::try_from(mem::size_of_val(&stats)).map_err(io::Error::other)?;
        // SAFETY: pointer and length describe `stats` (struct tpacket_stats).
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &mut length,
            )
        })?;
        Ok(stats[1])
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
