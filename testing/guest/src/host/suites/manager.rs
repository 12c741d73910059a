//! The service on a real kernel, with unprivileged clients.

use super::{Suite, disk};
use crate::initramfs::Archive;
use crate::machine::{Iommu, Machine};
use crate::programs::Program;
use anyhow::Result;
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

    fn programs(&self) -> &'static [Program] {
        &[Program { package: "portcullis", name: "portcullis" }]
    }

    fn prepare(&self, machine: &mut Machine, _: &mut Archive, folder: &Path) -> Result<()> {
        disk::add_devices(machine, folder)
    }

    fn judge(&self, _: &Machine, ledger: &Ledger, folder: &Path) -> Vec<Verdict> {
        vec![disk::judge_read(ledger, folder), disk::judge_written(ledger, folder)]
    }
}
