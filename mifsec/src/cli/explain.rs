//! `mifsec explain`: the rules in their order, the Child SA, the path, and why.

use std::io::{self, Write as _};

use crate::agent::explain::{ExplainPath, ExplainRule, ExplainSa, ExplainView};
use crate::control::{self, Request, Subject};

use super::table::{Table, rtt};
use super::{Common, print_json};

pub(super) fn run(common: &Common, of: Subject) -> anyhow::Result<()> {
    let view: ExplainView = control::call(&common.control, &Request::Explain { of })?;
    if common.json {
        return print_json(&view);
    }
    write!(io::stdout(), "{}", render(&view))?;
    Ok(())
}

fn render(view: &ExplainView) -> String {
    let mut out = format!("{}: {}\n", view.asked, view.verdict);
    for why in &view.why {
        out += &format!("  {why}\n");
    }
    if !view.rules.is_empty() {
        out += &format!("\n{}", rules(&view.rules));
    }
    if let Some(sa) = &view.sa {
        out += &format!("\n{}", describe(sa));
    }
    if let Some(path) = &view.path {
        out += &way(path);
    }
    out
}

fn rules(rules: &[ExplainRule]) -> String {
    let mut table = Table::new(&["", "RULE", "ORDER", "POLICY", "PEER", "CHILD", "SELECTOR"]);
    for rule in rules {
        table.row(vec![
            if rule.selects { ">" } else { "" }.into(),
            rule.place.to_string(),
            rule.order.to_string(),
            rule.policy.clone(),
            rule.peer.clone(),
            rule.child.clone(),
            rule.selector.clone(),
        ]);
    }
    table.render()
}

fn describe(sa: &ExplainSa) -> String {
    let several = match sa.members {
        0 | 1 => String::new(),
        members => format!(", one of {members}"),
    };
    format!(
        "sa    {} of {}, in {} out {}, {}{several}\n      {} <-> {}\n",
        sa.child,
        sa.peer,
        sa.spi_in,
        sa.spi_out,
        sa.layout,
        sa.local.join(" "),
        sa.remote.join(" "),
    )
}

fn way(path: &ExplainPath) -> String {
    format!(
        "path  {} {}, {} -> {}, {}, {}, rtt {}\n",
        path.index,
        path.access,
        path.local,
        path.remote,
        path.state,
        if path.home { "at home" } else { "lent" },
        rtt(path.rtt_us),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_decides_is_marked_and_the_way_is_there() {
        let view = ExplainView {
            schema: String::new(),
            asked: "udp 10.66.0.1:4000 -> 10.99.0.2:53".into(),
            verdict: "protect".into(),
            rules: vec![ExplainRule {
                place: 1,
                order: 100,
                policy: "protect".into(),
                peer: "gw".into(),
                child: "internet".into(),
                selector: "0.0.0.0/0".into(),
                selects: true,
            }],
            sa: Some(ExplainSa {
                peer: "gw".into(),
                child: "internet".into(),
                spi_in: "0x00000001".into(),
                spi_out: "0x00000002".into(),
                layout: "bundle".into(),
                local: vec!["10.66.0.1/32".into()],
                remote: vec!["0.0.0.0/0".into()],
                members: 2,
            }),
            path: Some(ExplainPath {
                index: 3,
                access: "wlan0".into(),
                local: "192.168.10.2:4500".into(),
                remote: "203.0.113.1:4500".into(),
                state: "up".into(),
                home: true,
                rtt_us: Some(1500),
            }),
            why: vec!["rule 1 selects it".into()],
        };
        let expected = "\
udp 10.66.0.1:4000 -> 10.99.0.2:53: protect
  rule 1 selects it

   RULE  ORDER  POLICY   PEER  CHILD     SELECTOR
>  1     100    protect  gw    internet  0.0.0.0/0

sa    internet of gw, in 0x00000001 out 0x00000002, bundle, one of 2
      10.66.0.1/32 <-> 0.0.0.0/0
path  3 wlan0, 192.168.10.2:4500 -> 203.0.113.1:4500, up, at home, rtt 1.5ms
";
        assert_eq!(render(&view), expected);
    }
}
