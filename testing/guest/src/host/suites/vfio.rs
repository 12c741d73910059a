//! The manager's VFIO back end by itself, on every machine with an IOMMU.

use std::path::Path;

use super::{Suite, disk};
use crate::initramfs::Archive;
use crate::machine::{Iommu, Machine};
use anyhow::Result;
use portcullis_guest::protocol::{Ledger, Verdict};

/// The suite `vfio`.
pub(crate) struct Vfio;

impl Suite for Vfio {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn about(&self) -> &'static str {
        "the manager's VFIO back end: claims, grants, violations, crashes"
    }

    fn machines(&self) -> Vec<Machine> {
        [Iommu::Intel { scalable: false }, Iommu::Intel { scalable: true }, Iommu::Amd]
            .map(Machine::new)
            .into()
    }

    fn prepare(&self, machine: &mut Machine, _: &mut Archive, folder: &Path) -> Result<()> {
        disk::add_devices(machine, folder)
    }

    fn judge(&self, _: &Machine, ledger: &Ledger, folder: &Path) -> Vec<Verdict> {
        vec![disk::judge_read(ledger, folder), disk::judge_written(ledger, folder)]
    }
}
