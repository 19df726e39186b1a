//! `mifsec path`.

use std::io::{self, Write as _};

use crate::agent::views::PathsView;
use crate::control::{self, Request};

use super::table::{Table, loss, octets, rtt};
use super::{Common, print_json};

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    let view: PathsView = control::call(&common.control, &Request::Path)?;
    if common.json {
        return print_json(&view);
    }
    let mut table = Table::new(&[
        "PATH",
        "PEER",
        "TIER",
        "ACCESS",
        "IFACES",
        "LOCAL -> REMOTE",
        "NAT",
        "STATE",
        "ROLE",
        "RTT",
        "LOSS",
        "TX",
        "RX",
        "MTU",
    ]);
    for path in &view.paths {
        let mut role: String = match (path.channel, path.home) {
            (true, true) => "ike,data",
            (true, false) => "ike",
            (false, true) => "data",
            (false, false) => "-",
        }
        .into();
        if let Some(by) = &path.carried_by {
            let index = by
                .index
                .map_or_else(|| "-".into(), |index| index.to_string());
            role += &format!(" on {index}");
        }
        table.row(vec![
            path.index.to_string(),
            path.remote_id.clone(),
            path.tier.clone(),
            path.access.clone(),
            format!("{}-{}", path.local_iface, path.remote_iface),
            format!("{} -> {}", path.local, path.remote),
            if path.nat { "N".into() } else { "-".into() },
            path.state.clone(),
            role,
            rtt(path.rtt_us),
            loss(path.loss_ppm),
            format!("{} p {}", path.tx_packets, octets(path.tx_octets)),
            format!("{} p {}", path.rx_packets, octets(path.rx_octets)),
            path.mtu.to_string(),
        ]);
    }
    write!(io::stdout(), "{}", table.render())?;
    Ok(())
}
