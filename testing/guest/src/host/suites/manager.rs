//! The service on a real kernel, with unprivileged clients.

use super::{Suite, disk};
use crate::initramfs::Archive;
use crate::machine::{Iommu, Machine};
use anyhow::Result;
use portcullis_guest::TOLD_AFTER;
use portcullis_guest::protocol::{Ledger, Verdict};
use std::path::Path;

/// The suite `manager`.
pub(crate) struct Manager;

impl Suite for Manager {
    fn name(&self) -> &'static str {
        "manager"
    }

    fn about(&self) -> &'static str {
        "the service as root, one unprivileged client that drives the disk and one that drives edu"
    }

    fn machines(&self) -> Vec<Machine> {
        [Iommu::Intel { scalable: false }, Iommu::Intel { scalable: true }, Iommu::Amd]
            .map(Machine::new)
            .into()
    }

    fn prepare(&self, machine: &mut Machine, _: &mut Archive, folder: &Path) -> Result<()> {
        disk::add_devices(machine, folder)
    }

    fn judge(&self, machine: &Machine, ledger: &Ledger, folder: &Path) -> Vec<Verdict> {
        let mut verdicts = vec![disk::judge_read(ledger, folder), disk::judge_written(ledger, folder)];
        // QEMU 10.0's amd-iommu tells of none.
        if machine.iommu != Iommu::Amd {
            verdicts.push(told_within_a_second(ledger));
        }
        verdicts
    }
}

/// Whether refused accesses were listed with their client's name within a second: the quickest of them, as the others may have waited
/// for the host.
fn told_within_a_second(ledger: &Ledger) -> Verdict {
    let times =
        ledger.evidence.iter().filter(|(key, _)| key == TOLD_AFTER).map(|(_, value)| value.parse::<u64>());
    let times: Vec<u64> = times.filter_map(Result::ok).collect();
    Verdict {
        name: "refused_accesses_are_told_within_a_second".to_owned(),
        passed: times.iter().min().is_some_and(|least| *least <= 1000),
        details: vec![format!("milliseconds until they were listed: {times:?}")],
    }
}
