//! `portcullis faults`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use portcullis_client::{
    Client,
    api::{Fault, Faults, Followed, ListFaults},
};

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
    /// Only of the last so many seconds, or such as 10m, 2h or 1d.
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "since")]
    last: Option<Duration>,
    /// Only from this time on, such as 2026-05-31T22:13:20Z or 2026-05-31; UTC unless it says otherwise.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Only up to this time.
    #[arg(long, value_name = "TIME", value_parser = moment, conflicts_with = "follow")]
    until: Option<u64>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Go on with those that come, after those that --last or --since ask for.
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if arguments.follow {
        return follow(arguments, output);
    }
    let newest = list(arguments, &mut arguments.at.connect()?)?;
    output.show(&newest, |newest, out| {
        let mut rows = table(["TIME", "DEVICE", "CLIENT", "PASID", "ADDRESS", "ACCESS", "WHY", "TIMES"]);
        for fault in &newest.faults {
            rows.add_row(cells(fault));
        }
        writeln!(out, "{}", rows.trim_fmt())?;
        let at_least = at_least(newest.at_least);
        writeln!(
            out,
            "{at_least}{} refused in all, {at_least}{} of them without a record",
            newest.total, newest.lost
        )
    })?;
    Ok(Exit::Done)
}

/// Those that are wanted, the newest of them, oldest first.
fn list(arguments: &Args, client: &mut Client) -> Result<Faults, Failure> {
    let mut which = ListFaults {
        device: arguments.device.clone(),
        client: arguments.client.clone(),
        since: arguments.since(),
        until: arguments.until,
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
    Ok(newest)
}

impl Args {
    /// From when on, in nanoseconds since the Unix epoch.
    fn since(&self) -> Option<u64> {
        let ago = |span: Duration| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(now.saturating_sub(span).as_nanos()).unwrap_or(u64::MAX)
        };
        self.since.or_else(|| self.last.map(ago))
    }
}

/// A stretch of time: seconds, or a number with `s`, `m`, `h` or `d`.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no stretch of time such as 90, 10m, 2h or 1d");
    let (digits, seconds) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 60 * 60),
        Some((at, 'd')) => (&text[..at], 24 * 60 * 60),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// A time as tables show it, or with another zone's difference; or a day.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let time: Result<Timestamp, _> = text.parse();
    let time = time.or_else(|_| text.parse().and_then(|utc: DateTime| TimeZone::UTC.to_timestamp(utc)));
    let since = time.ok().and_then(|time| u64::try_from(time.as_nanosecond()).ok());
    since.ok_or_else(|| format!("`{text}` is no time such as 2026-05-31T22:13:20Z"))
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
    // Begun before what was is asked for, so that nothing falls between the two.
    let coming = arguments.at.connect()?.follow(false, true)?;
    let mut last = 0;
    if arguments.since().is_some() {
        for fault in list(arguments, &mut arguments.at.connect()?)?.faults {
            last = fault.number;
            line(output, &Followed { fault: Some(fault), ..Followed::default() })?;
        }
    }
    for followed in coming {
        let followed = followed?;
        let wanted = followed.fault.as_ref().is_none_or(|fault| {
            fault.number > last
                && devices.as_ref().is_none_or(|names| fault.devices.iter().any(|it| names.contains(it)))
                && arguments.client.as_ref().is_none_or(|client| fault.client.as_ref() == Some(client))
        });
        if wanted {
            line(output, &followed)?;
        }
    }
    Ok(Exit::Done)
}

fn line(output: &mut Output, followed: &Followed) -> Result<(), Failure> {
    output.show(followed, |followed, out| match (&followed.fault, followed.missed) {
        (Some(fault), _) => {
            let [time, device, client, pasid, address, access, why, times] = cells(fault);
            let pasid = if pasid.is_empty() { pasid } else { format!(" PASID {pasid}") };
            let times = if times == "1" { String::new() } else { format!(", {times} times") };
            writeln!(out, "{time} {device}{pasid} of {client}: {access} {address}: {why}{times}")
        }
        (None, Some(missed)) => writeln!(out, "… and {missed} more"),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{moment, span};

    #[test]
    fn times_are_read_as_they_are_shown() {
        let second = 1_000_000_000;
        for (text, nanoseconds) in [
            ("2023-11-14T22:13:20Z", 1_700_000_000 * second),
            ("2023-11-14T22:13:20.123456Z", 1_700_000_000_123_456_000),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000 * second),
            ("2023-11-14 22:13:20", 1_700_000_000 * second),
            ("2023-11-14", 1_699_920_000 * second),
        ] {
            assert_eq!(moment(text), Ok(nanoseconds), "{text}");
        }
        for text in ["", "now", "1969-12-31", "22:13"] {
            assert!(moment(text).is_err(), "{text}");
        }
        for (text, seconds) in [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "m", "-1", "1w", "99999999999999999d"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
