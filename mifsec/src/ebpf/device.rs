//! What the kernel says about a device, by ioctl: right in whatever network
//! namespace the thread is in, unlike `/sys/class/net`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};

/// A device as the attachment needs it.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) name: String,
    /// Packets begin with IP: modems, tunnels.
    pub(super) layer3: bool,
    /// There is hardware behind it.
    pub(super) physical: bool,
}

/// Looks a device up.
pub(super) fn device(ifindex: u32) -> Result<Device> {
    let name = name(ifindex).with_context(|| format!("interface {ifindex}"))?;
    let socket = socket()?;
    let mut request = request(&name)?;
    // SAFETY: `request` is an ifreq that outlives the call.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    if failed != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("SIOCGIFHWADDR {name}"));
    }
    // SAFETY: SIOCGIFHWADDR filled this member.
    let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    let ethernet = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&kind);
    let physical = is_physical(&socket, &name);
    Ok(Device {
        name,
        layer3: !ethernet,
        physical,
    })
}

fn name(ifindex: u32) -> Result<String> {
    let mut buffer = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size the call wants.
    let found = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(io::Error::last_os_error()).context("if_indextoname");
    }
    let name = CStr::from_bytes_until_nul(&buffer).context("interface name")?;
    Ok(name.to_str().context("interface name")?.to_owned())
}

/// Whether the driver names a bus: virtual devices have none.
fn is_physical(socket: &OwnedFd, name: &str) -> bool {
    // linux/ethtool.h: struct ethtool_drvinfo, command ETHTOOL_GDRVINFO.
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        version: [u8; 32],
        firmware: [u8; 32],
        bus: [u8; 32],
        erom: [u8; 32],
        reserved: [u8; 12],
        counts: [u32; 5],
    }
    const GET_DRIVER_INFO: u32 = 3;
    // SAFETY: integers and octets; zero is a value.
    let mut info: DriverInfo = unsafe { std::mem::zeroed() };
    info.command = GET_DRIVER_INFO;
    let Ok(mut request) = request(name) else {
        return false;
    };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: request and info outlive the call, and info has the kernel's layout.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    failed == 0
        && info.bus[0] != 0
        && !info.bus.starts_with(b"N/A")
        && !info.bus.starts_with(b"tap")
}

fn socket() -> Result<OwnedFd> {
    // SAFETY: plain arguments.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("socket");
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn request(name: &str) -> Result<libc::ifreq> {
    // SAFETY: an ifreq of zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    anyhow::ensure!(name.len() < request.ifr_name.len(), "interface name {name}");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_virtual_and_has_an_ethernet_header() {
        let lo = device(1).unwrap();
        assert_eq!(lo.name, "lo");
        assert!(!lo.layer3);
        assert!(!lo.physical);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(device(0x7fff_fff0).is_err());
    }
}
