//! `portcullis events`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_client::api::{Event, Events, ListEvents};

use super::{
    At,
    faults::{moment, span},
    size, time,
};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// List what happened, or follow what happens: claims, attachments, devices that come and go.
///
/// Grants and what is revoked are followed, and not listed: there are too many to keep.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only of the device of this name.
    #[arg(long)]
    device: Option<String>,
    /// Only of this client.
    #[arg(long)]
    client: Option<String>,
    /// Only of the last so many seconds, or such as 10m, 2h or 1d.
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with_all = ["since", "follow"])]
    last: Option<Duration>,
    /// Only from this time on, such as 2026-05-31T22:13:20Z or 2026-05-31; UTC unless it says otherwise.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "follow")]
    since: Option<u64>,
    /// Only up to this time.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "follow")]
    until: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 100, conflicts_with = "follow")]
    limit: u64,
    /// Tell of those that come, until interrupted.
    #[arg(short, long)]
    follow: bool,
    /// Refused accesses too.
    #[arg(long, requires = "follow")]
    faults: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if arguments.follow {
        return follow(arguments, output);
    }
    let last = arguments.last.map(|last| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.saturating_sub(last).as_nanos()).unwrap_or(u64::MAX)
    });
    let which = ListEvents {
        device: arguments.device.clone(),
        client: arguments.client.clone(),
        since: last.or(arguments.since),
        until: arguments.until,
        newest: Some(true),
        limit: Some(arguments.limit),
        ..ListEvents::default()
    };
    let mut events = arguments.at.connect()?.events(&which)?;
    events.reverse();
    output.show(&Events { events }, |listed, out| {
        listed.events.iter().try_for_each(|event| writeln!(out, "{}", line(event)))
    })?;
    Ok(Exit::Done)
}

fn line(event: &Event) -> String {
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
    line
}

fn follow(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let of_device = |devices: &[String]| {
        arguments.device.as_ref().is_none_or(|name| devices.iter().any(|device| device == name))
    };
    let of_client =
        |client: &Option<String>| arguments.client.as_ref().is_none_or(|name| client.as_ref() == Some(name));
    for followed in arguments.at.connect()?.follow(true, arguments.faults)? {
        let followed = followed?;
        let event = followed.event.as_ref();
        let fault = followed.fault.as_ref();
        if event.is_some_and(|event| !(of_device(&event.devices) && of_client(&event.client)))
            || fault.is_some_and(|fault| !(of_device(&fault.devices) && of_client(&fault.client)))
        {
            continue;
        }
        output.show(&followed, |followed, out| {
            if let Some(event) = &followed.event {
                writeln!(out, "{}", line(event))?;
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
