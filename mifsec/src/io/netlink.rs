//! Links, addresses, routes, rules and neighbours, through rtnetlink.
//!
//! [`Netlink`] asks and changes, [`Watch`] wakes the agent when something
//! changed. News is only a hint to look again: IPv4 routes vanish with their
//! link without a message, and a full socket loses messages, so the agent always
//! re-reads ([`Netlink::state`]) and reconciles ([`Netlink::apply_routes`],
//! [`Netlink::apply_rules`]) instead of replaying events. All changes are
//! idempotent. Everything follows the network namespace of the process: no /sys.
//! Never touched: devices, tables and rules that are not ours by name, number or
//! priority; the one exception is managed neighbour entries for the next hops in use.

#![forbid(unsafe_code)]

mod device;
mod route;
mod rule;
mod state;

use std::net::IpAddr;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};

/// How often a dump that was changed under the reader is read again.
const DUMP_TRIES: usize = 8;

pub use device::anchor_peer;
pub use route::{MAIN, Route, RouteKind};
pub use rule::Rule;
pub use state::{Address, Link, State};

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel said no.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The socket is gone.
    #[error("the netlink socket is closed")]
    Closed,
}

impl NetlinkError {
    /// The error number, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Closed => None,
        }
    }
}

/// Asks and changes.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

/// Wakes when links, addresses, routes or rules changed.
pub struct Watch {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
}

/// What kind of thing changed; the state is to be read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A link: it may have been given another name, so it is anybody's.
    Link,
    /// Of this interface: an address or a route over it.
    Interface(u32),
    /// This interface went down or away, or lost this address: no time to re-read.
    Lost(u32, Option<IpAddr>),
    /// A rule.
    Rule,
    /// Anything: messages were lost, or a route without interface.
    Anything,
}

impl Netlink {
    /// Opens the sockets; must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system said.
    pub fn open() -> std::io::Result<(Self, Watch)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let (watcher, _, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ])?;
        tokio::spawn(watcher);
        let messages = messages.map(|(message, _)| message).boxed();
        Ok((Self { handle }, Watch { messages }))
    }

    /// Sends a change and waits for the kernel's word.
    async fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|_| NetlinkError::Closed)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(NetlinkError::Refused {
                    what: what(),
                    source: error.to_io(),
                });
            }
        }
        Ok(())
    }

    /// Reads everything of one kind; again when the kernel says that it changed
    /// meanwhile, for then something that is there may be missing.
    async fn dump(
        &self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            if let Some(all) = self.dump_once(message.clone(), what).await? {
                return Ok(all);
            }
        }
        Err(NetlinkError::Refused {
            what: what.to_owned(),
            source: std::io::ErrorKind::Interrupted.into(),
        })
    }

    /// `None` when the answer is not of one moment.
    async fn dump_once(
        &self,
        message: RouteNetlinkMessage,
        what: &str,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = self
            .handle
            .clone()
            .request(request)
            .map_err(|_| NetlinkError::Closed)?;
        let mut out = Vec::new();
        let mut torn = false;
        while let Some(answer) = answers.next().await {
            torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(inner) => out.push(inner),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(NetlinkError::Refused {
                        what: what.to_owned(),
                        source: error.to_io(),
                    });
                }
                _ => {}
            }
        }
        Ok((!torn).then_some(out))
    }
}

impl Watch {
    /// Waits for news. `None` when the socket is gone.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let message = self.messages.next().await?;
            let news = match message.payload {
                NetlinkPayload::InnerMessage(inner) => match inner {
                    RouteNetlinkMessage::DelLink(m) => News::Lost(m.header.index, None),
                    RouteNetlinkMessage::NewLink(m) if !state::is_up(&m) => {
                        News::Lost(m.header.index, None)
                    }
                    RouteNetlinkMessage::NewLink(_) => News::Link,
                    RouteNetlinkMessage::NewAddress(m) => News::Interface(m.header.index),
                    RouteNetlinkMessage::DelAddress(m) => match state::address_of(&m) {
                        Some(ip) => News::Lost(m.header.index, Some(ip)),
                        None => News::Interface(m.header.index),
                    },
                    RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => {
                        match route::interface(&m) {
                            Some(index) => News::Interface(index),
                            None => News::Anything,
                        }
                    }
                    RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => News::Rule,
                    _ => continue,
                },
                NetlinkPayload::Overrun(_) => News::Anything,
                _ => continue,
            };
            return Some(news);
        }
    }
}

/// Creates, or makes an existing one like this.
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
