//! The commands that run the service or talk to it, one file a command.

pub(crate) mod claim;
pub(crate) mod clients;
pub(crate) mod configured;
pub(crate) mod devices;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod grant;
pub(crate) mod grants;
pub(crate) mod groups;
pub(crate) mod release;
pub(crate) mod revoke;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod units;

use std::path::PathBuf;

use portcullis_client::{Client, Error};

use crate::exit::{Exit, Failure};

/// Where the service is.
#[derive(clap::Args)]
pub(crate) struct At {
    /// Socket of the service; else that of $PORTCULLIS_SOCKET, else the usual one.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl At {
    /// A connection; [`Exit::NoService`] where nobody listens.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Client::connect(self.socket.as_deref()).map_err(|error| match error {
            Error::NotRunning { .. } => Failure { exit: Exit::NoService, error: Box::new(error) },
            other => other.into(),
        })
    }
}

/// Bytes: decimal, hexadecimal after `0x`, with K, M, G or T for powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
        None => digits.parse(),
    };
    let number =
        number.map_err(|_| format!("`{text}` is not a number of bytes such as 4096, 0x1000 or 4K"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than 64 bits"))
}

/// A time as people write it, in UTC.
pub(crate) fn time(nanoseconds: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    time.map_or_else(|_| nanoseconds.to_string(), |time| format!("{time:.6}"))
}

/// What stands before a count that may be too low.
pub(crate) fn at_least(it_is: bool) -> &'static str {
    if it_is { "at least " } else { "" }
}

/// Bytes as people write them: whole units where nothing is lost.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let fitting =
        units.into_iter().find(|(shift, _)| bytes >> shift != 0 && bytes.is_multiple_of(1 << shift));
    fitting.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::{bytes, size, time};

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, value) in
            [("0", 0), ("4096", 4096), ("0x1000", 4096), ("4K", 4096), ("3G", 3 << 30), ("0x10M", 16 << 20)]
        {
            assert_eq!(bytes(text), Ok(value));
            assert_eq!(bytes(&size(value)), Ok(value));
        }
        for text in ["", "K", "4KB", "-1", "0x", "99999999T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(size(1 << 20), "1M");
        assert_eq!(size(5000), "5000");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456Z");
    }
}
