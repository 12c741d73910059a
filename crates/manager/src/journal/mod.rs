//! The journal of violations: every refused access is counted for ever and recorded for a while.
//!
//! Records go oldest first when there is no room; that a record is gone, or never came, is itself counted. Nothing here
//! allocates per record but the ring that was made at start.

mod attribution;
mod disk;
mod events;
mod reader;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use portcullis_spec::FaultReason;

use crate::{inventory::DeviceId, violation::Violation};

pub use attribution::{Attribution, Attributions};
pub use disk::{Disk, DiskError, EventsOnDisk, Former};
pub use events::{Events, WantedEvents};
pub use reader::{Reader, Seen};

/// One refused access, with whose it was.
#[derive(Clone, Debug)]
pub struct Record {
    /// Number, ascending; without gaps since the start.
    pub number: u64,
    /// What was refused.
    pub violation: Violation,
    /// Whose it was, where the device is known.
    pub attribution: Option<Arc<Attribution>>,
    /// The grant that holds the address but does not permit the access.
    pub grant: Option<u64>,
}

/// Which records are wanted; every field narrows.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Of these devices.
    pub devices: Option<&'a [DeviceId]>,
    /// Of this client.
    pub client: Option<&'a str>,
    /// Not before, in nanoseconds since the Unix epoch.
    pub since: u64,
    /// Not after; 0 for no end.
    pub until: u64,
    /// With a higher number.
    pub after: u64,
    /// With a lower number.
    pub before: u64,
}

impl Default for Wanted<'_> {
    /// All of them.
    fn default() -> Self {
        Self { devices: None, client: None, since: 0, until: 0, after: 0, before: u64::MAX }
    }
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    ring: VecDeque<Record>,
    capacity: usize,
    next: u64,
    /// Records of earlier processes that are in the ring, before all others.
    former: u64,
    total: u64,
    lost: u64,
    by_device: HashMap<DeviceId, u64>,
    by_client: HashMap<Arc<str>, u64>,
    by_reason: Vec<(FaultReason, u64)>,
}

impl Journal {
    /// A journal that keeps the last `capacity` records.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            ring: VecDeque::with_capacity(capacity),
            capacity,
            next: 1,
            former: 0,
            total: 0,
            lost: 0,
            by_device: HashMap::new(),
            by_client: HashMap::new(),
            by_reason: Vec::new(),
        }
    }

    /// Takes up the records of earlier processes, oldest first, before any of its own; numbers go on after `last`, the highest. They are listed,
    /// and not counted: counts are since the start.
    pub fn take_up(&mut self, former: impl Iterator<Item = Record>, last: u64) {
        for record in former {
            if self.ring.len() == self.capacity {
                self.ring.pop_front();
            }
            self.former += 1;
            self.ring.push_back(record);
        }
        self.former = self.former.min(self.ring.len() as u64);
        self.next = self.next.max(last.saturating_add(1));
    }

    /// Counts and records a violation. Returns its number.
    pub fn push(
        &mut self,
        violation: Violation,
        attribution: Option<Arc<Attribution>>,
        grant: Option<u64>,
    ) -> u64 {
        let count = u64::from(violation.count.max(1));
        self.total += count;
        // A record that stands for several refusals is one record.
        self.lost += count - 1;
        if let Some(attribution) = &attribution {
            *self.by_device.entry(attribution.device).or_default() += count;
            if let Some(client) = &attribution.client {
                match self.by_client.get_mut(client) {
                    Some(known) => *known += count,
                    None => _ = self.by_client.insert(client.clone(), count),
                }
            }
        }
        match self.by_reason.iter_mut().find(|(reason, _)| *reason == violation.fault.reason) {
            Some((_, known)) => *known += count,
            None => self.by_reason.push((violation.fault.reason, count)),
        }
        if self.ring.len() == self.capacity {
            self.ring.pop_front();
            // Those of before were never counted here.
            match self.former {
                0 => self.lost += 1,
                _ => self.former -= 1,
            }
        }
        let number = self.next;
        self.next += 1;
        self.ring.push_back(Record { number, violation, attribution, grant });
        number
    }

    /// Counts refusals of which the hardware or the kernel kept no record.
    pub fn push_lost(&mut self, count: u64) {
        self.total += count;
        self.lost += count;
    }

    /// Records that are wanted, oldest first.
    pub fn records<'a>(&'a self, wanted: &'a Wanted<'a>) -> impl DoubleEndedIterator<Item = &'a Record> {
        // Numbers ascend.
        let skip = self.ring.partition_point(|record| record.number <= wanted.after);
        let end = self.ring.partition_point(|record| record.number < wanted.before);
        self.ring.range(skip.min(end)..end).filter(move |record| {
            let time = record.violation.time;
            let attribution = record.attribution.as_deref();
            time >= wanted.since
                && (wanted.until == 0 || time <= wanted.until)
                && wanted.devices.is_none_or(|d| attribution.is_some_and(|a| d.contains(&a.device)))
                && wanted.client.is_none_or(|c| attribution.is_some_and(|a| a.client.as_deref() == Some(c)))
        })
    }

    /// Refused accesses, all of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Of those, how many have no record any more, or never had one of their own.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Records that were made, those that are gone included.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.next - 1
    }

    /// Refused accesses of a device.
    #[must_use]
    pub fn of_device(&self, device: DeviceId) -> u64 {
        self.by_device.get(&device).copied().unwrap_or(0)
    }

    /// Refused accesses of a client's devices, over all its connections.
    #[must_use]
    pub fn of_client(&self, client: &str) -> u64 {
        self.by_client.get(client).copied().unwrap_or(0)
    }

    /// Refused accesses by reason.
    #[must_use]
    pub fn by_reason(&self) -> &[(FaultReason, u64)] {
        &self.by_reason
    }
}

#[cfg(test)]
mod tests {
    use portcullis_spec::{Access, Fault, FaultReason, Iova, PciAddress, RequestType, Requester};
    use proptest::prelude::*;

    use super::{Attribution, Journal, Wanted};
    use crate::{DeviceId, RawRecord, Violation};

    fn violation(time: u64, count: u32, reason: FaultReason) -> Violation {
        Violation {
            unit: None,
            device: None,
            fault: Fault {
                requester: Requester::Pci(PciAddress::new(0, 0, 3, 0)),
                pasid: None,
                address: Iova(0x1000),
                ipa: None,
                access: Access::READ,
                privileged: false,
                request_type: RequestType::Untranslated,
                reason,
                stage: None,
                code: 5,
            },
            time,
            raw: RawRecord::default(),
            count,
        }
    }

    proptest! {
        /// Whatever comes: counts add up, records go oldest first, and those gone are counted.
        #[test]
        fn counts_are_never_lost(capacity in 1usize..8, events in prop::collection::vec((0u32..4, 0u32..3, 0u64..5), 0..60)) {
            let mut journal = Journal::new(capacity);
            let (mut total, mut records, mut per_device) = (0u64, 0u64, [0u64; 3]);
            for (time, (count, device, lost)) in events.into_iter().enumerate() {
                let attribution = Attribution { device: DeviceId(device), client: Some("vm".into()), ..Attribution::default() };
                journal.push(violation(time as u64, count, FaultReason::NotMapped), Some(attribution.into()), None);
                journal.push_lost(lost);
                let count = u64::from(count.max(1));
                total += count + lost;
                per_device[device as usize] += count;
                records += 1;
            }
            prop_assert_eq!(journal.total(), total);
            for device in 0..3 {
                prop_assert_eq!(journal.of_device(DeviceId(device)), per_device[device as usize]);
            }
            prop_assert_eq!(journal.of_client("vm"), per_device.iter().sum::<u64>());
            let wanted = Wanted::default();
            let kept: Vec<u64> = journal.records(&wanted).map(|r| r.number).collect();
            let expected: Vec<u64> = (records.saturating_sub(capacity as u64) + 1..=records).collect();
            prop_assert_eq!(&kept, &expected);
            prop_assert_eq!(journal.lost(), total - kept.len() as u64);
            for after in 0..records + 2 {
                let wanted = Wanted { after, ..Wanted::default() };
                let numbers: Vec<u64> = journal.records(&wanted).map(|r| r.number).collect();
                let fitting: Vec<u64> = expected.iter().copied().filter(|n| *n > after).collect();
                prop_assert_eq!(numbers, fitting);
                let wanted = Wanted { before: after, ..Wanted::default() };
                let numbers: Vec<u64> = journal.records(&wanted).rev().map(|r| r.number).collect();
                let fitting: Vec<u64> = expected.iter().rev().copied().filter(|n| *n < after).collect();
                prop_assert_eq!(numbers, fitting);
            }
        }
    }

    #[test]
    fn records_are_found_by_time_device_and_client() {
        let mut journal = Journal::new(10);
        for (time, device, client) in [(10, 1, "a"), (20, 2, "b"), (30, 1, "b")] {
            let attribution = Attribution {
                device: DeviceId(device),
                client: Some(client.into()),
                ..Attribution::default()
            };
            journal.push(violation(time, 1, FaultReason::NotMapped), Some(attribution.into()), None);
        }
        journal.push(violation(40, 1, FaultReason::PermissionDenied), None, None);
        let find = |wanted: Wanted<'_>| journal.records(&wanted).map(|r| r.number).collect::<Vec<_>>();
        assert_eq!(find(Wanted { since: 20, until: 30, ..Wanted::default() }), [2, 3]);
        assert_eq!(find(Wanted { devices: Some(&[DeviceId(1)]), ..Wanted::default() }), [1, 3]);
        assert_eq!(find(Wanted { client: Some("b"), after: 2, ..Wanted::default() }), [3]);
        assert_eq!(find(Wanted { since: 31, ..Wanted::default() }), [4]);
        assert_eq!(journal.by_reason(), [(FaultReason::NotMapped, 3), (FaultReason::PermissionDenied, 1)]);
    }
}
