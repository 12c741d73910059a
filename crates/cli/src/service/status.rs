//! `portcullis status`.

use super::{At, at_least, size, time};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Show what the service runs on, what it holds, and what a person should know.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let status = arguments.at.connect()?.status()?;
    let findings = !status.warnings.is_empty() || status.safe_state.is_some();
    output.show(&status, |status, out| {
        if status.simulated {
            writeln!(out, "This is a simulation: it protects nothing real.")?;
        }
        if let Some(why) = &status.safe_state {
            writeln!(out, "EVERYTHING IS BLOCKED: {why}")?;
        }
        for warning in &status.warnings {
            writeln!(out, "warning: {warning}")?;
        }
        writeln!(out, "service   {} on {}, process {}", status.version, status.backend, status.pid)?;
        writeln!(out, "since     {}", time(status.started))?;
        writeln!(
            out,
            "devices   {} behind {}, {} claimed",
            status.devices,
            if status.units == 1 { "1 unit".into() } else { format!("{} units", status.units) },
            status.claimed
        )?;
        writeln!(out, "clients   {}", status.clients)?;
        writeln!(out, "grants    {}, {} bytes", status.mappings, size(status.bytes))?;
        writeln!(out, "refused   {}{}", at_least(status.at_least), status.faults)?;
        let may = if status.operator { "an operator" } else { "no operator" };
        writeln!(out, "you are   {}, {may}", status.you)
    })?;
    Ok(if findings { Exit::Findings } else { Exit::Done })
}
