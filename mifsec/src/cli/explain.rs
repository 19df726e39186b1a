//! `mifsec explain`: which rule, which Child SA, which path, and why.

use std::io::{self, Write as _};

use serde_json::Value;

use crate::control::{self, Request, Subject};

use super::{Common, print_json};

pub(super) fn run(common: &Common, of: Subject) -> anyhow::Result<()> {
    let view: Value = control::call(&common.control, &Request::Explain { of })?;
    if common.json {
        return print_json(&view);
    }
    writeln!(io::stdout(), "{view:#}")?;
    Ok(())
}
