//! The suites, as the developer's machine sees them: which machines, with what in them, and what to look at after
//! power-off. What runs inside is in `inside/cases`, one file for each suite.

mod boot;
mod disk;
mod firmware;
mod inspect;
mod manager;
mod systemd;
mod vfio;

use crate::initramfs::Archive;
use crate::machine::Machine;
use anyhow::Result;
use portcullis_guest::protocol::{Ledger, Verdict};
use std::path::Path;

/// One suite.
pub(crate) trait Suite {
    /// Its name, on the command line and inside.
    fn name(&self) -> &'static str;

    /// What it shows, in one line.
    fn about(&self) -> &'static str;

    /// The machines it runs on, one boot each.
    fn machines(&self) -> Vec<Machine>;

    /// Before the boot: make disks in `folder`, add QEMU's arguments to `machine` and files to `contents`.
    ///
    /// # Errors
    ///
    /// Whatever keeps the machine from being made.
    fn prepare(&self, machine: &mut Machine, contents: &mut Archive, folder: &Path) -> Result<()> {
        let _ = (machine, contents, folder);
        Ok(())
    }

    /// After power-off: more verdicts, from what the guest left in `folder` and what it said.
    fn judge(&self, machine: &Machine, ledger: &Ledger, folder: &Path) -> Vec<Verdict> {
        let _ = (machine, ledger, folder);
        Vec::new()
    }
}

/// All suites.
pub(crate) fn all() -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(boot::Boot),
        Box::new(firmware::Firmware),
        Box::new(inspect::Inspect),
        Box::new(manager::Manager),
        Box::new(systemd::Systemd),
        Box::new(vfio::Vfio),
    ]
}
