//! Traffic through the tunnel, judged by the harness alone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::net::Net;
use super::{Agent, wait};
use crate::lab::load::{Load, Plan};
use crate::lab::sys::Netns;

/// Octets of one TCP transfer in each direction.
const TRANSFER: usize = 512 << 10;

/// Waits until a datagram of the client comes back from the server, then sends
/// 200 more, of every size class, which all must; then a TCP transfer each way.
///
/// # Errors
/// When something is missing.
pub fn both_ways(net: &Net, client: IpAddr) -> Result<()> {
    let server = Net::server(client);
    wait(&format!("an answer from {server} to {client}"), || {
        let one = echo(net, client, 1, Duration::from_millis(300))?;
        Ok((one == 1).then_some(()))
    })?;
    let back = echo(net, client, 200, Duration::from_secs(2))?;
    ensure!(back == 200, "{back} of 200 datagrams came back to {client}");
    tcp(&net.topology.eu, client, &net.topology.srv, server)
}

/// Whether one datagram comes back.
///
/// # Errors
/// When there are no sockets.
pub fn passes(net: &Net, client: IpAddr) -> Result<bool> {
    Ok(echo(net, client, 1, Duration::from_millis(300))? == 1)
}

/// Sends `count` datagrams from the client's address and counts what the server
/// sends back.
///
/// # Errors
/// When nobody has the address.
pub fn echo(net: &Net, client: IpAddr, count: u64, patience: Duration) -> Result<u64> {
    // Any port: a process that is just being started may still hold the last one.
    let server = SocketAddr::new(Net::server(client), 0);
    let listening = net.topology.srv.run(|| UdpSocket::bind(server))??;
    let server = listening.local_addr()?;
    let sending = net
        .topology
        .eu
        .run(|| UdpSocket::bind(SocketAddr::new(client, 0)))?;
    let sending = sending.with_context(|| format!("nobody has {client}"))?;
    listening.set_read_timeout(Some(Duration::from_millis(20)))?;
    sending.set_read_timeout(Some(Duration::from_millis(20)))?;
    let end = Instant::now() + patience;
    let mut room = [0; 2048];
    let (mut sent, mut back) = (0, 0);
    while back < count && Instant::now() < end {
        if sent < count {
            // Up to what fits the tunnel without fragments.
            let length = 8 + usize::try_from(sent * 97 % 1200)?;
            let mut bytes = vec![0x5a; length];
            bytes[..8].copy_from_slice(&sent.to_be_bytes());
            // Refused is lost, and lost is counted.
            let _ = sending.send_to(&bytes, server);
            sent += 1;
        }
        match listening.recv_from(&mut room) {
            Ok((length, from)) => {
                let _ = listening.send_to(&room[..length], from);
            }
            Err(error) if quiet(&error) => {}
            Err(error) => return Err(error.into()),
        }
        while let Ok(length) = sending.recv(&mut room) {
            back += u64::from(length >= 8);
            if sent < count {
                break;
            }
        }
    }
    Ok(back)
}

fn quiet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// One TCP connection that carries `TRANSFER` octets each way.
///
/// # Errors
/// When something else than what was sent arrives.
pub fn tcp(from: &Netns, client: IpAddr, to: &Netns, server: IpAddr) -> Result<()> {
    let listener = to.run(|| TcpListener::bind(SocketAddr::new(server, 0)))??;
    let address = listener.local_addr()?;
    let connect = || -> std::io::Result<TcpStream> {
        let domain = Domain::for_address(SocketAddr::new(client, 0));
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(client, 0).into())?;
        socket.connect_timeout(&address.into(), Duration::from_secs(5))?;
        Ok(socket.into())
    };
    let one = from.run(connect)?.context("no TCP through the tunnel")?;
    let (other, _) = listener.accept()?;
    thread::scope(|scope| {
        let ends = [one, other].map(|stream| scope.spawn(move || transfer(&stream)));
        for end in ends {
            end.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}

/// Sends and receives at the same time.
fn transfer(stream: &TcpStream) -> Result<()> {
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit)?;
    stream.set_write_timeout(limit)?;
    thread::scope(|scope| {
        let sending = scope.spawn(|| (&*stream).write_all(&vec![0xa5; TRANSFER]));
        let mut got = vec![0; TRANSFER];
        (&*stream)
            .read_exact(&mut got)
            .context("TCP does not get through")?;
        ensure!(got.iter().all(|octet| *octet == 0xa5), "TCP was damaged");
        sending
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        // Nothing of the connection may be left to be sent when the tunnel ends:
        // with this, closing waits until the other end has confirmed the last octet.
        SockRef::from(stream).set_linger(limit)?;
        stream.shutdown(Shutdown::Write)?;
        while (&*stream).read(&mut got)? > 0 {}
        Ok(())
    })
}

/// Stamped load both ways while `work` runs, and until `least` datagrams were sent.
/// What was (sent, lost, duplicated).
///
/// # Errors
/// What `work` said, or that there was no load.
pub fn under_load(net: &Net, client: IpAddr, work: impl FnOnce() -> Result<()>) -> Result<Loss> {
    let IpAddr::V4(address) = client else {
        anyhow::bail!("the load is IPv4");
    };
    // What strongSwan's user-space ESP carries with ease.
    let plan = Plan {
        up: 1500,
        down: 1500,
        ..Plan::new(address, 4)
    };
    let load = Load::start(&net.topology, plan)?;
    thread::sleep(Duration::from_millis(300));
    let worked = work();
    thread::sleep(Duration::from_millis(300));
    let outcome = load.stop();
    worked?;
    ensure!(outcome.sent() > 1000, "only {} datagrams", outcome.sent());
    Ok(Loss {
        sent: outcome.sent(),
        up: outcome.up.lost(),
        down: outcome.down.lost(),
        duplicated: outcome.duplicated(),
    })
}

/// What became of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Datagrams both ways.
    pub sent: u64,
    /// Lost from client to server.
    pub up: u64,
    /// Lost from server to client.
    pub down: u64,
    /// Arrived more than once.
    pub duplicated: u64,
}

impl Loss {
    /// Nothing may be missing.
    ///
    /// # Errors
    /// When something is.
    pub fn none(self) -> Result<Self> {
        ensure!(
            self.up == 0 && self.down == 0 && self.duplicated == 0,
            "{self:?}"
        );
        Ok(self)
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} datagrams, {} lost", self.sent, self.up + self.down)
    }
}

/// Waits for the first lease at our end.
///
/// # Errors
/// When none comes.
pub fn lease(agent: &Agent) -> Result<IpAddr> {
    wait("a lease", || Ok(agent.leases()?.first().copied()))
}
