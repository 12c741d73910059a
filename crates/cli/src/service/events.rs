//! `portcullis events`.

use super::{At, size, time};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Follow what happens: claims, grants, devices that come and go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Go on until interrupted; as events are not kept, it does so without being told.
    #[arg(short, long)]
    follow: bool,
    /// Refused accesses too.
    #[arg(long)]
    faults: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    for followed in arguments.at.connect()?.follow(true, arguments.faults)? {
        output.show(&followed?, |followed, out| {
            if let Some(event) = &followed.event {
                let mut line = format!("{} {}", time(event.time), event.kind);
                let mut add = |word: &str, value: Option<String>| {
                    if let Some(value) = value.filter(|value| !value.is_empty()) {
                        line.push_str(&format!(" {word}{value}"));
                    }
                };
                add("", Some(event.devices.join(" ")));
                add("client ", event.client.clone());
                add("space ", event.space.map(|space| space.to_string()));
                add("grants ", event.mappings.map(|mappings| mappings.to_string()));
                add("bytes ", event.bytes.map(size));
                add("", event.text.clone());
                writeln!(out, "{line}")?;
            }
            if let Some(fault) = &followed.fault {
                let device = fault.devices.first().unwrap_or(&fault.requester);
                writeln!(
                    out,
                    "{} refused {device} {} {:#x}: {}",
                    time(fault.time),
                    fault.access,
                    fault.address,
                    fault.reason
                )?;
            }
            match followed.missed {
                Some(missed) => writeln!(out, "… and {missed} more"),
                None => Ok(()),
            }
        })?;
    }
    Ok(Exit::Done)
}
