//! `portcullis faults`.

use std::time::Duration;

use portcullis_client::api::{Fault, ListFaults};

use super::{At, at_least, time};
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List refused accesses: when, which device, whose, where, what and why.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only of this device: name, pattern, or mmio:BASE.
    #[arg(long)]
    device: Option<String>,
    /// Only of this client.
    #[arg(long)]
    client: Option<String>,
    /// Only of the last so many seconds.
    #[arg(long, value_name = "SECONDS")]
    last: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Go on with those that come.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if arguments.follow {
        return follow(arguments, output);
    }
    let since = arguments.last.map(|seconds| {
        let before = std::time::SystemTime::now() - Duration::from_secs(seconds);
        before.duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    });
    let mut client = arguments.at.connect()?;
    let mut which = ListFaults {
        device: arguments.device.clone(),
        client: arguments.client.clone(),
        since,
        newest: Some(true),
        limit: Some(arguments.limit),
        ..ListFaults::default()
    };
    let mut newest = client.faults(&which)?;
    // One answer has so many at most.
    while (newest.faults.len() as u64) < arguments.limit
        && let Some(oldest) = newest.faults.last()
    {
        which.before = Some(oldest.number);
        which.limit = Some(arguments.limit - newest.faults.len() as u64);
        let older = client.faults(&which)?.faults;
        if older.is_empty() {
            break;
        }
        newest.faults.extend(older);
    }
    newest.faults.reverse();
    output.show(&newest, |newest, out| {
        let mut rows = table(["TIME", "DEVICE", "CLIENT", "PASID", "ADDRESS", "ACCESS", "WHY", "TIMES"]);
        for fault in &newest.faults {
            rows.add_row(cells(fault));
        }
        writeln!(out, "{rows}")?;
        let at_least = at_least(newest.at_least);
        writeln!(
            out,
            "{at_least}{} refused in all, {at_least}{} of them without a record",
            newest.total, newest.lost
        )
    })?;
    Ok(Exit::Done)
}

fn cells(fault: &Fault) -> [String; 8] {
    let mut why = fault.reason.clone();
    if let Some(grant) = fault.grant {
        why.push_str(&format!(" (grant {grant})"));
    }
    let devices = if fault.devices.is_empty() { fault.requester.clone() } else { fault.devices.join(" or ") };
    [
        time(fault.time),
        devices,
        fault.client.clone().unwrap_or_else(|| "nobody".into()),
        fault.pasid.map_or_else(String::new, |pasid| format!("{pasid:#x}")),
        format!("{:#x}", fault.address),
        fault.access.to_string(),
        why,
        fault.count.to_string(),
    ]
}

fn follow(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let devices = match &arguments.device {
        Some(words) => {
            let found = arguments.at.connect()?.devices(Some(words))?;
            Some(found.into_iter().map(|device| device.name).collect::<Vec<_>>())
        }
        None => None,
    };
    for followed in arguments.at.connect()?.follow(false, true)? {
        let followed = followed?;
        let wanted = followed.fault.as_ref().is_none_or(|fault| {
            devices.as_ref().is_none_or(|names| fault.devices.iter().any(|device| names.contains(device)))
                && arguments.client.as_ref().is_none_or(|client| fault.client.as_ref() == Some(client))
        });
        if !wanted {
            continue;
        }
        output.show(&followed, |followed, out| match (&followed.fault, followed.missed) {
            (Some(fault), _) => {
                let [time, device, client, pasid, address, access, why, times] = cells(fault);
                let pasid = if pasid.is_empty() { pasid } else { format!(" PASID {pasid}") };
                let times = if times == "1" { String::new() } else { format!(", {times} times") };
                writeln!(out, "{time} {device}{pasid} of {client}: {access} {address}: {why}{times}")
            }
            (None, Some(missed)) => writeln!(out, "… and {missed} more"),
            _ => Ok(()),
        })?;
    }
    Ok(Exit::Done)
}
