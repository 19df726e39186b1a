//! `mifsec move`, `drain`, `add-interface` and `delete-interface`: what was done,
//! in a line for each.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::agent::views::{ChangeView, MovePlan, MovesView, StayView};
use crate::control::{self, Request};

use super::{Common, print_json};

/// Access carries access.
pub(super) fn moves(common: &Common, request: &Request) -> anyhow::Result<ExitCode> {
    let view: MovesView = control::call(&common.control, request)?;
    if common.json {
        print_json(&view)?;
        return Ok(code(&view));
    }
    let mut out = io::stdout().lock();
    if view.moves.is_empty() && view.stays.is_empty() {
        writeln!(out, "nothing to move")?;
    }
    for plan in &view.moves {
        writeln!(out, "{}", describe(plan, view.dry_run))?;
    }
    for StayView {
        peer,
        access,
        reason,
    } in &view.stays
    {
        writeln!(io::stderr(), "mifsec: {peer} stays on {access}: {reason}")?;
    }
    Ok(code(&view))
}

/// 1 if something stayed where it was.
fn code(view: &MovesView) -> ExitCode {
    match view.stays.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// An access joins or leaves.
pub(super) fn change(common: &Common, request: &Request) -> anyhow::Result<()> {
    let view: ChangeView = control::call(&common.control, request)?;
    if common.json {
        return print_json(&view);
    }
    writeln!(io::stdout(), "{}", changed(&view))?;
    Ok(())
}

fn describe(plan: &MovePlan, dry_run: bool) -> String {
    let carries = match (plan.from == plan.to, dry_run) {
        (true, false) => "carries its own again",
        (true, true) => "would carry its own again",
        (false, false) => "is carried by",
        (false, true) => "would be carried by",
    };
    let mut line = format!("{}: {} {carries}", plan.peer, plan.from);
    if plan.from != plan.to {
        line += &format!(" {}", plan.to);
    }
    line += &format!(
        ": {} on {}, {}",
        count(plan.sas, "Child SA"),
        count(plan.paths, "path"),
        count(plan.messages, "message"),
    );
    if plan.channel {
        line += ", with the IKE channel";
    }
    line
}

fn changed(view: &ChangeView) -> String {
    let done = if view.change == "delete" {
        "left, gone:"
    } else {
        "joined, new:"
    };
    let mut line = format!(
        "{}: {} {done} {}",
        view.peer,
        view.access,
        count(view.sas, "Child SA")
    );
    if view.skipped > 0 {
        line += &format!(", {} not made (equal selectors exist)", view.skipped);
    }
    if !view.leases.is_empty() {
        line += &format!(", leased {}", view.leases.join(" "));
    }
    line + &format!(", {} ms", view.took_ms)
}

fn count(number: usize, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_told_as_it_is() {
        let mut plan = MovePlan {
            peer: "gw.example.org".into(),
            from: "wlan0".into(),
            to: "wwan0".into(),
            sas: 3,
            paths: 1,
            messages: 1,
            channel: true,
        };
        assert_eq!(
            describe(&plan, true),
            "gw.example.org: wlan0 would be carried by wwan0: 3 Child SAs on 1 path, 1 message, with the IKE channel"
        );
        plan.to = "wlan0".into();
        plan.channel = false;
        assert_eq!(
            describe(&plan, false),
            "gw.example.org: wlan0 carries its own again: 3 Child SAs on 1 path, 1 message"
        );
    }

    #[test]
    fn a_change_is_told_as_it_is() {
        let mut view = ChangeView {
            schema: String::new(),
            change: "add".into(),
            peer: "gw.example.org".into(),
            access: "eth0".into(),
            sas: 1,
            skipped: 2,
            leases: vec!["10.66.0.9".into()],
            took_ms: 3,
        };
        assert_eq!(
            changed(&view),
            "gw.example.org: eth0 joined, new: 1 Child SA, 2 not made (equal selectors exist), leased 10.66.0.9, 3 ms"
        );
        (view.change, view.skipped) = ("delete".into(), 0);
        view.leases.clear();
        assert_eq!(
            changed(&view),
            "gw.example.org: eth0 left, gone: 1 Child SA, 3 ms"
        );
    }
}
