//! Refused DMA, as the kernel's log tells it: the only place where VT-d's and AMD-Vi's drivers do.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_spec::Requester;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::backend::{BackendError, ViolationSource};
use crate::inventory::{DeviceId, Inventory, UnitId};
use crate::kernel_log::{KernelFault, KernelRecord, LogReader};
use crate::violation::{RawRecord, Violation};

/// The longest record that `/dev/kmsg` gives (Linux kernel/printk/internal.h, PRINTKRB_RECORD_MAX with its prefix).
const LONGEST: usize = 8192;
/// A report of which the second line does not come for so long is taken as it is.
const SECOND_LINE: Duration = Duration::from_millis(100);
/// Records that one call reads before it returns to its caller.
const BATCH: usize = 1024;

/// Who is who, for those who only know names and requesters.
#[derive(Debug, Default)]
pub(super) struct Directory {
    names: HashMap<String, DeviceId>,
    requesters: HashMap<Requester, DeviceId>,
    units: HashMap<DeviceId, UnitId>,
    unit_names: HashMap<String, UnitId>,
}

impl Directory {
    /// As an inventory says. Where several devices send under one requester, the first stands for all: they are one group.
    pub(super) fn new(inventory: &Inventory) -> Self {
        let mut directory = Self::default();
        for (index, unit) in inventory.units.iter().enumerate() {
            directory.unit_names.insert(unit.name.clone(), UnitId(index as u32));
        }
        for (id, device) in &inventory.devices {
            directory.names.insert(device.name.clone(), *id);
            directory.units.extend(device.unit.map(|unit| (*id, unit)));
            for requester in &device.requesters {
                directory.requesters.entry(*requester).or_insert(*id);
            }
        }
        directory
    }

    /// The record in the core's words; `now` is the Unix time at which the machine was up for `up`.
    fn violation(&self, fault: &KernelFault, now: Duration, up: Duration) -> Violation {
        let named = fault.device.as_ref().and_then(|name| self.names.get(name));
        let device = named.or_else(|| self.requesters.get(&fault.fault.requester)).copied();
        let unit = fault.unit.as_ref().and_then(|name| self.unit_names.get(name)).copied();
        let ago = fault.since_boot.map_or(Duration::ZERO, |at| up.saturating_sub(at));
        Violation {
            unit: unit.or_else(|| self.units.get(&device?).copied()),
            device,
            fault: fault.fault,
            time: u64::try_from(now.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX),
            raw: RawRecord::default(),
            count: 1,
        }
    }
}

/// The kernel's log, from the moment it was opened.
pub(super) struct KernelLog {
    file: File,
    reader: LogReader,
    directory: Arc<Mutex<Directory>>,
    waiting: bool,
}

impl KernelLog {
    /// Opens `/dev/kmsg` behind its last record.
    pub(super) fn open(directory: Arc<Mutex<Directory>>) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
        seek(&file, SeekFrom::End(0))?;
        Ok(Self { file, reader: LogReader::new(), directory, waiting: false })
    }

    fn record(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, BackendError> {
        loop {
            match self.file.read(buffer) {
                Ok(length) => return Ok((length != 0).then_some(length)),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => return Ok(None),
                    // EPIPE: the log was overwritten before we came; the next read goes on with the oldest there is. EINVAL: a
                    // record longer than the buffer, which this kernel would not write.
                    Some(Errno::INTR | Errno::PIPE | Errno::INVAL) => {}
                    _ => {
                        return Err(BackendError::System { what: "reading /dev/kmsg".into(), source: error });
                    }
                },
            }
        }
    }
}

impl ViolationSource for KernelLog {
    fn read(&mut self, timeout: Duration, sink: &mut dyn FnMut(Violation)) -> Result<u64, BackendError> {
        let timeout = if self.waiting { timeout.min(SECOND_LINE) } else { timeout };
        let limit = Timespec::try_from(timeout).ok();
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                return Err(BackendError::System {
                    what: "waiting for /dev/kmsg".into(),
                    source: error.into(),
                });
            }
        }
        let mut buffer = vec![0; LONGEST];
        let (mut lost, mut read) = (0u64, 0);
        while read < BATCH {
            let Some(length) = self.record(&mut buffer)? else { break };
            read += 1;
            let text = String::from_utf8_lossy(&buffer[..length]);
            for record in self.reader.push(&text) {
                lost = lost.saturating_add(tell(&self.directory, &record, sink));
            }
            self.waiting = true;
        }
        if read == 0 && self.waiting {
            self.waiting = false;
            if let Some(record) = self.reader.flush() {
                lost = lost.saturating_add(tell(&self.directory, &record, sink));
            }
        }
        Ok(lost)
    }
}

/// Hands a record on; returns how many violations it says were kept back.
fn tell(directory: &Mutex<Directory>, record: &KernelRecord, sink: &mut dyn FnMut(Violation)) -> u64 {
    match record {
        KernelRecord::Fault(fault) => {
            let up = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let directory = directory.lock().unwrap_or_else(PoisonError::into_inner);
            sink(directory.violation(fault, now, up));
            0
        }
        KernelRecord::Unit { lost, .. } => u64::from(*lost),
        KernelRecord::Suppressed { count, .. } => *count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Device, DeviceKind, GroupId};
    use portcullis_spec::PciAddress;

    fn directory() -> Directory {
        let device = |name: &str, requesters: Vec<PciAddress>| Device {
            name: name.into(),
            kind: DeviceKind::Pci,
            requesters: requesters.into_iter().map(Requester::Pci).collect(),
            registers: None,
            unit: Some(UnitId(0)),
            group: GroupId(1),
            reserved: Vec::new(),
            description: String::new(),
            driver: None,
            pasid_bits: 0,
            vectors: 0,
            source: String::new(),
        };
        let bridge = PciAddress::new(0, 2, 0, 0);
        let devices = vec![
            (DeviceId(4), device("0000:00:03.0", vec![PciAddress::new(0, 0, 3, 0)])),
            (DeviceId(5), device("0000:02:01.0", vec![PciAddress::new(0, 2, 1, 0), bridge])),
            (DeviceId(6), device("0000:02:02.0", vec![PciAddress::new(0, 2, 2, 0), bridge])),
        ];
        Directory::new(&Inventory { units: Vec::new(), devices, groups: Vec::new() })
    }

    fn violation(line: &str) -> Violation {
        let mut reader = LogReader::new();
        let mut records = reader.push(line);
        records.extend(reader.flush());
        let [KernelRecord::Fault(fault)] = records.as_slice() else { panic!("{records:?}") };
        directory().violation(fault, Duration::from_secs(1000), Duration::from_secs(10))
    }

    /// Lines as Linux 6.12 wrote them in the guest.
    #[test]
    fn fault_is_given_to_its_device_and_time() {
        let line = "3,812,9000000,-;DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x12345000 \
                    [fault reason 0x05] PTE Write access is not set";
        let violation = violation(line);
        assert_eq!((violation.device, violation.unit), (Some(DeviceId(4)), Some(UnitId(0))));
        assert_eq!(violation.time, 999_000_000_000);
    }

    #[test]
    fn fault_in_a_bridges_name_is_given_to_the_first_behind_it() {
        let line = "3,812,9000000,-;DMAR: [DMA Read NO_PASID] Request device [02:00.0] fault addr 0x0 \
                    [fault reason 0x06] PTE Read access is not set";
        assert_eq!(violation(line).device, Some(DeviceId(5)));
    }

    #[test]
    fn fault_of_an_unknown_device_is_given_to_nobody() {
        let line = "3,812,9000000,-;DMAR: [DMA Read NO_PASID] Request device [05:00.0] fault addr 0x0 \
                    [fault reason 0x06] PTE Read access is not set";
        assert_eq!(violation(line).device, None);
    }
}
