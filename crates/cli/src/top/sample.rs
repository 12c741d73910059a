//! One look at the service.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_client::{
    Client, Error,
    api::{Device, Fault, ListFaults, Statistics, Status},
};

use crate::{exit::Failure, service::At};

/// Records that one look brings: more than any screen has lines.
const NEWEST: u64 = 200;
/// How long the service may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One look at the service.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Nanoseconds since the Unix epoch.
    pub(super) time: u64,
    pub(super) status: Status,
    pub(super) devices: Vec<Device>,
    pub(super) statistics: Statistics,
    /// Refused accesses since the look before, oldest first, the newest of them.
    pub(super) faults: Vec<Fault>,
}

/// Where looks come from; connects again when the service was away.
pub(super) struct Source<'a> {
    at: &'a At,
    client: Option<Client>,
    /// The last refused access that was seen.
    last: u64,
}

impl<'a> Source<'a> {
    pub(super) fn connect(at: &'a At) -> Result<Self, Failure> {
        let mut source = Self { at, client: None, last: 0 };
        source.client = Some(source.open()?);
        Ok(source)
    }

    fn open(&self) -> Result<Client, Failure> {
        let mut client = self.at.connect()?;
        client.set_timeout(Some(PATIENCE))?;
        Ok(client)
    }

    pub(super) fn sample(&mut self) -> Result<Sample, Failure> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => {
                // Another service numbers its records from the start.
                self.last = 0;
                self.open()?
            }
        };
        let sample = look(&mut client, &mut self.last)?;
        // Only a connection that answered everything is used again.
        self.client = Some(client);
        Ok(sample)
    }
}

fn look(client: &mut Client, last: &mut u64) -> Result<Sample, Error> {
    let status = client.status()?;
    let devices = client.devices(None)?;
    let statistics = client.statistics()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let which =
        ListFaults { after: Some(*last), newest: Some(true), limit: Some(NEWEST), ..ListFaults::default() };
    let mut faults = client.faults(&which)?.faults;
    faults.reverse();
    if let Some(newest) = faults.last() {
        *last = newest.number;
    }
    let time = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { time, status, devices, statistics, faults })
}
