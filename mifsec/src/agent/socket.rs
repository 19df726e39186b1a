//! The socket of IKE_SA_INIT (port 500): the agent's own, both families.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use crate::ids::{Arrival, Family};
use crate::io::ready::Ready;
use crate::io::udp::{RecvBatch, WildcardSocket};

/// Reads in one call.
const BATCH: usize = 4;

/// Both families of one port.
pub(super) struct IkeSocket {
    v4: One,
    v6: One,
    port: u16,
    batch: RecvBatch,
}

struct One {
    socket: WildcardSocket,
    /// The same socket once more, for the runtime to watch.
    ready: Ready,
}

impl One {
    fn open(family: Family, port: u16) -> io::Result<Self> {
        let socket = WildcardSocket::open(family, port)?;
        let ready = Ready::new(socket.as_fd())?;
        Ok(Self { socket, ready })
    }
}

impl IkeSocket {
    pub(super) fn open(port: u16) -> io::Result<Self> {
        // Ours can be shared, and so would be with a second agent of this host.
        drop(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?);
        Ok(Self {
            v4: One::open(Family::V4, port)?,
            v6: One::open(Family::V6, port)?,
            port,
            batch: RecvBatch::new(BATCH),
        })
    }

    pub(super) fn send(
        &self,
        ifindex: u32,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) -> io::Result<()> {
        let one = match Family::of(remote.ip()) {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        one.socket.send(ifindex, local.ip(), remote, bytes)
    }

    /// Waits for datagrams. Dropping the future loses none.
    pub(super) async fn receive(&mut self) -> io::Result<Vec<(Arrival, Vec<u8>)>> {
        let (socket, mut guard) = tokio::select! {
            guard = self.v4.ready.readable() => (&self.v4.socket, guard?),
            guard = self.v6.ready.readable() => (&self.v6.socket, guard?),
        };
        let mut out = Vec::new();
        let count = match socket.receive(&mut self.batch) {
            Ok(count) => count,
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock {
                    guard.clear_ready();
                } else {
                    // A queued ICMP error wakes the reader like a datagram, and
                    // there may be one behind it: still readable.
                    socket.clear_errors();
                    tracing::debug!(%error, "IKE socket");
                }
                return Ok(out);
            }
        };
        for index in 0..count {
            let Some(received) = self.batch.get(index) else {
                break;
            };
            let arrival = Arrival {
                ifindex: received.ifindex,
                local: SocketAddr::new(received.local, self.port),
                remote: received.source,
            };
            for datagram in received.bytes.chunks(received.segment.max(1)) {
                out.push((arrival, datagram.to_vec()));
            }
        }
        Ok(out)
    }
}
