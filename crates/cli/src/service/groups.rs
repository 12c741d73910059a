//! `portcullis groups`.

use super::At;
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List which devices can only be claimed together, and why.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let groups = arguments.at.connect()?.groups()?;
    output.show(&groups, |groups, out| {
        let mut rows = table(["GROUP", "DEVICES", "HOLDER", "WHY"]);
        for group in groups {
            rows.add_row([
                group.id.to_string(),
                group.devices.join(" "),
                group.holder.clone().unwrap_or_else(|| "nobody".into()),
                group.reasons.join("; "),
            ]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    })?;
    Ok(Exit::Done)
}
