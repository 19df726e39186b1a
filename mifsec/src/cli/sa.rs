//! `mifsec sa`.

use std::io::{self, Write as _};

use crate::agent::views::SasView;
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
        ]);
    }
    write!(io::stdout(), "{}", table.render())?;
    Ok(())
}
