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
    let faults = newest(*last, NEWEST, |after, limit| {
        let which = ListFaults { after: Some(after), limit: Some(limit), ..ListFaults::default() };
        client.faults(&which).map(|answer| answer.faults)
    })?;
    if let Some(newest) = faults.last() {
        *last = newest.number;
    }
    let time = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Ok(Sample { time, status, devices, statistics, faults })
}

/// The last `keep` records with numbers above `after`, oldest first. `list` gives the oldest that fit, so the number of the last
/// is searched for: a flood costs some forty short questions and not all of its records.
fn newest<E>(
    after: u64,
    keep: u64,
    mut list: impl FnMut(u64, u64) -> Result<Vec<Fault>, E>,
) -> Result<Vec<Fault>, E> {
    let first = list(after, keep)?;
    let Some(last) = first.last().filter(|_| first.len() as u64 >= keep) else { return Ok(first) };
    // There is a record above `some`, and none above `none`.
    let mut some = last.number.saturating_sub(1);
    let mut step = keep.max(1);
    let mut none = loop {
        let at = some.saturating_add(step);
        match list(at, 1)?.last() {
            Some(_) if at == u64::MAX => return Ok(first),
            Some(_) => some = at,
            None => break at,
        }
        step = step.saturating_mul(2);
    };
    while none - some > 1 {
        let middle = some + (none - some) / 2;
        match list(middle, 1)?.is_empty() {
            true => none = middle,
            false => some = middle,
        }
    }
    list(none.saturating_sub(keep).max(after), keep)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use portcullis_client::api::Fault;

    use super::newest;

    /// What the slow way finds, and how many questions the quick one took.
    fn compare(numbers: &[u64], after: u64, keep: u64) -> u32 {
        let mut asked = 0;
        let found = newest(after, keep, |after, limit| {
            asked += 1;
            let fitting = numbers.iter().filter(|&&number| number > after).take(limit as usize);
            Ok::<_, Infallible>(fitting.map(|&number| Fault { number, ..Fault::default() }).collect())
        });
        let Ok(found) = found;
        let found: Vec<u64> = found.iter().map(|fault| fault.number).collect();
        let all: Vec<u64> = numbers.iter().copied().filter(|&number| number > after).collect();
        // Where numbers have gaps (others' records) fewer come, but always those up to the last.
        let last = all.last().copied().unwrap_or(0);
        let few = all.len() as u64 <= keep;
        let expected: Vec<u64> = all.into_iter().filter(|&n| few || n > last.saturating_sub(keep)).collect();
        assert_eq!(found, expected);
        asked
    }

    #[test]
    fn the_newest_are_found_without_reading_all() {
        assert_eq!(compare(&[], 0, 5), 1);
        assert_eq!(compare(&[1, 2, 3], 0, 5), 1);
        assert_eq!(compare(&[1, 2, 3], 2, 5), 1);
        let flood: Vec<u64> = (1..=100_000).collect();
        assert!(compare(&flood, 0, 200) < 40);
        assert!(compare(&flood, 99_000, 200) < 20);
        assert_eq!(compare(&flood, 99_900, 200), 1);
        let late: Vec<u64> = (500_000..=565_535).collect();
        assert!(compare(&late, 17, 200) < 40);
    }
}
