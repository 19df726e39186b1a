//! `mifsec sa`.

use std::io::{self, Write as _};

use crate::agent::views::{SaView, SasView};
use crate::control::{self, Request};

use super::table::{Table, duration, octets};
use super::{Common, print_json};

pub(super) fn run(common: &Common) -> anyhow::Result<()> {
    let view: SasView = control::call(&common.control, &Request::Sa)?;
    if common.json {
        return print_json(&view);
    }
    let mut table = Table::new(&[
        "PEER",
        "CHILD",
        "SPI IN",
        "SPI OUT",
        "KEYS",
        "PATH",
        "ALGORITHM",
        "IN",
        "OUT",
        "REPLAY",
        "AGE",
        "REKEY",
    ]);
    for sa in &view.sas {
        let index = sa.path.index.map_or_else(|| "-".into(), |i| i.to_string());
        table.row(vec![
            sa.remote_id.clone(),
            sa.child.clone(),
            sa.spi_in.clone(),
            sa.spi_out.clone(),
            format!("{}/{}", sa.key_in, sa.key_out),
            format!("{index} {}", sa.path.local),
            format!("{}{}", sa.algorithm, if sa.esn { " esn" } else { "" }),
            format!("{} p {}", sa.packets_in, octets(sa.octets_in)),
            format!("{} p {}", sa.packets_out, octets(sa.octets_out)),
            sa.replay_drops.to_string(),
            duration(sa.age_ms),
            rekey(sa),
        ]);
    }
    write!(io::stdout(), "{}", table.render())?;
    Ok(())
}

/// Which keys of its line these are, and what ends them.
fn rekey(sa: &SaView) -> String {
    let mut out = format!("#{}", sa.generation);
    if let Some(by) = &sa.replaced_by {
        return format!("{out} replaced by {by}");
    }
    if let Some(ms) = sa.rekey_ms {
        out += &format!(" in {}", duration(ms));
    }
    let share = |used: u64, limit: Option<u64>, what: &str| {
        limit.map_or_else(String::new, |limit| {
            let percent = used.saturating_mul(100) / limit.max(1);
            format!(", {percent} % of its {what}")
        })
    };
    out += &share(
        sa.packets_in.max(sa.packets_out),
        sa.rekey_packets,
        "packets",
    );
    out += &share(sa.octets_in.max(sa.octets_out), sa.rekey_octets, "octets");
    out
}
