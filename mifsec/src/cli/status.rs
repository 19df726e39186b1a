//! `mifsec status`: one screen, no flags needed.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::agent::views::{PathsView, StatusView};
use crate::control::{self, ControlError, Request};

use super::table::{Table, duration, loss, octets, rtt};
use super::{Common, print_json};

/// Exit codes of `--exit-code`.
const DEGRADED: u8 = 1;
const DOWN: u8 = 2;
const UNREACHABLE: u8 = 3;

pub(super) fn run(common: &Common, exit_code: bool, counters: bool) -> anyhow::Result<ExitCode> {
    let status: StatusView = match control::call(&common.control, &Request::Status) {
        Ok(status) => status,
        Err(error @ ControlError::Unreachable { .. }) if exit_code => {
            writeln!(io::stderr(), "mifsec: {error}")?;
            return Ok(UNREACHABLE.into());
        }
        Err(error) => return Err(error.into()),
    };
    let paths: PathsView = control::call(&common.control, &Request::Path)?;
    if common.json {
        print_json(&status)?;
    } else {
        write!(io::stdout(), "{}", render(&status, &paths, counters))?;
    }
    Ok(if exit_code {
        health(&status, &paths).into()
    } else {
        ExitCode::SUCCESS
    })
}

/// 0 healthy; degraded when a peer, a path or an access is not as configured;
/// down when no peer that should stand does.
fn health(status: &StatusView, paths: &PathsView) -> u8 {
    let wanted: Vec<_> = status
        .peers
        .iter()
        .filter(|p| p.state != "listening")
        .collect();
    let up = wanted.iter().filter(|p| p.state == "established").count();
    if up == 0 && !wanted.is_empty() {
        return DOWN;
    }
    let whole = up == wanted.len()
        && paths
            .paths
            .iter()
            .filter(|p| p.home)
            .all(|p| p.state == "up")
        && status
            .accesses
            .iter()
            .all(|a| ["up", "drained"].contains(&a.state.as_str()));
    if whole { 0 } else { DEGRADED }
}

fn render(status: &StatusView, paths: &PathsView, counters: bool) -> String {
    let up = paths.paths.iter().filter(|p| p.state == "up").count();
    let children: usize = status.peers.iter().map(|p| p.children).sum();
    let established = status
        .peers
        .iter()
        .filter(|p| p.state == "established")
        .count();
    let ingress: Vec<String> = status
        .accesses
        .iter()
        .map(|a| {
            format!(
                "{}({})",
                a.ingress.as_deref().unwrap_or(&a.state),
                a.interface
            )
        })
        .collect();
    let event = status
        .last_event_ms
        .map_or_else(|| "none".into(), |ms| format!("{} ago", duration(ms)));
    let mut out = format!(
        "mifsec {}  {}  up {}  ingress: {}\n\
         peers {}   ike {established} up   child {children} up   paths {} ({up} up)   moves {}   last event {event}\n\n",
        status.version,
        status.name,
        duration(status.uptime_ms),
        ingress.join(" "),
        status.peers.len(),
        paths.paths.len(),
        status.totals.moves,
    );
    let mut table = Table::new(&[
        "PEER",
        "TIER",
        "PATH",
        "LOCAL -> REMOTE",
        "NAT",
        "STATE",
        "RTT",
        "LOSS",
        "TX",
        "RX",
        "MTU",
    ]);
    for peer in &status.peers {
        let of_peer = |p: &&_| same_peer(p, peer);
        let mut any = false;
        for path in paths.paths.iter().filter(of_peer) {
            any = true;
            table.row(vec![
                peer.remote_id.clone(),
                peer.tier.clone(),
                format!("{}{}", path.access, if path.channel { " *" } else { "" }),
                format!("{} -> {}", path.local, path.remote),
                if path.nat { "N".into() } else { "-".into() },
                path.state.clone(),
                rtt(path.rtt_us),
                loss(path.loss_ppm),
                octets(path.tx_octets),
                octets(path.rx_octets),
                path.mtu.to_string(),
            ]);
        }
        if !any {
            let reason = peer
                .reason
                .as_deref()
                .map_or_else(String::new, |r| format!("  {r}"));
            table.row(vec![
                peer.remote_id.clone(),
                "-".into(),
                "-".into(),
                format!("{}{reason}", peer.state),
            ]);
        }
    }
    out.push_str(&table.render());
    if counters && !status.counters.is_empty() {
        let mut table = Table::new(&["REASON", "COUNT"]);
        for (reason, count) in &status.counters {
            table.row(vec![reason.clone(), count.to_string()]);
        }
        out.push('\n');
        out.push_str(&table.render());
    }
    out
}

fn same_peer(path: &crate::agent::views::PathView, peer: &crate::agent::views::PeerView) -> bool {
    path.peer == peer.peer && path.remote_id == peer.remote_id
}
