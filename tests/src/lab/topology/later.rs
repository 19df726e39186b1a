//! What the network does not have at first: the end user's third access and the
//! gateway's second address.

use anyhow::Result;

use super::{Access, ETHERNET_RATE, SECOND_GATEWAY, Topology};
use crate::lab::cleanup::{ip, tool};
use crate::lab::sys::Netns;

/// The end user's end of the third access while it is not plugged in.
const DOCK: &str = "dock";

impl Topology {
    /// The third access waits in the router, so that its leg can be watched from
    /// the start and can be plugged in again.
    pub(super) fn dock(&self) -> Result<()> {
        let (rt, link) = (self.rt.name(), Access::Ethernet.router_link());
        ip(&[
            "-n", rt, "link", "add", DOCK, "type", "veth", "peer", "name", link,
        ])
        .map(drop)
    }

    /// Plugs the third access in: link, address and route appear.
    ///
    /// # Errors
    /// When it is plugged in already.
    pub fn plug(&self) -> Result<()> {
        let (access, eu) = (Access::Ethernet, self.eu.name());
        let attachment = access.attachments()[0];
        // The cable last, so that it is one piece of news.
        self.carrier(access, false)?;
        Self::hand_over(&self.rt, DOCK, &self.eu, access.link())?;
        ip(&["-n", eu, "link", "set", access.link(), "up"])?;
        self.shape(access, ETHERNET_RATE)?;
        self.add_address(access, attachment)?;
        self.add_route(access, attachment)?;
        self.carrier(access, true)
    }

    /// Pulls the third access out.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn unplug(&self) -> Result<()> {
        let (link, eu) = (Access::Ethernet.link(), self.eu.name());
        tool("tc", &["-n", eu, "qdisc", "del", "dev", link, "root"])?;
        Self::hand_over(&self.eu, link, &self.rt, DOCK)
    }

    /// Whether the third access is plugged in.
    #[must_use]
    pub fn plugged(&self) -> bool {
        let link = Access::Ethernet.link();
        ip(&["-n", self.eu.name(), "link", "show", "dev", link]).is_ok()
    }

    fn hand_over(from: &Netns, link: &str, to: &Netns, name: &str) -> Result<()> {
        let (from, to) = (from.name(), to.name());
        ip(&["-n", from, "link", "set", link, "netns", to, "name", name]).map(drop)
    }

    /// The gateway gets its second address, or loses it.
    ///
    /// # Errors
    /// When it has it already, or not.
    pub fn second_gateway(&self, there: bool) -> Result<()> {
        let address = format!("{SECOND_GATEWAY}/24");
        let verb = if there { "add" } else { "del" };
        let gw = self.gw.name();
        ip(&["-n", gw, "address", verb, &address, "dev", "eth0"]).map(drop)
    }
}
