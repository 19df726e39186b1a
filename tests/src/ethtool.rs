//! What `ethtool` asks the kernel: offloads off, link detected.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// linux/ethtool.h: `ETHTOOL_GLINK`.
const LINK_DETECTED: u32 = 0x0a;
/// `ETHTOOL_STXCSUM`, `ETHTOOL_SSG`, `ETHTOOL_STSO`, `ETHTOOL_SGSO`.
const OFFLOADS: [u32; 4] = [0x17, 0x19, 0x1f, 0x24];

/// Turns segmentation and checksum offload of the device `name` off: what leaves
/// is what a wire would see. `socket` is any one of the device's namespace.
///
/// # Errors
/// There is no such device, or this is not root.
pub fn no_offload(socket: &impl AsFd, name: &str) -> io::Result<()> {
    for command in OFFLOADS {
        match call(socket, name, command, 0) {
            // Some are already off, some follow others.
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the device `name` is up and has a carrier, as of now.
///
/// # Errors
/// There is no such device.
pub fn link_detected(socket: &impl AsFd, name: &str) -> io::Result<bool> {
    call(socket, name, LINK_DETECTED, 0).map(|data| data != 0)
}

fn call(socket: &impl AsFd, name: &str, command: u32, data: u32) -> io::Result<u32> {
    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command, data };
    // SAFETY: an ifreq of zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: request and value outlive the call.
    if unsafe { libc::ioctl(fd, libc::SIOCETHTOOL, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value.data)
}
