//! The service as systemd runs it, by the units that we install.

use super::{Suite, disk};
use crate::initramfs::Archive;
use crate::machine::{Iommu, Machine};
use crate::system;
use anyhow::{Context, Result};
use std::path::Path;

/// The suite `systemd`.
pub(crate) struct Systemd;

/// The units as they are installed.
const UNITS: [(&str, &str); 2] = [
    ("portcullis.service", include_str!("../../../../../dist/portcullis.service")),
    ("portcullis.socket", include_str!("../../../../../dist/portcullis.socket")),
];

impl Suite for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn about(&self) -> &'static str {
        "the service under Debian's systemd: activation, watchdog, descriptor store, confinement, journal, varlinkctl"
    }

    fn machines(&self) -> Vec<Machine> {
        let mut machine = Machine::new(Iommu::Intel { scalable: false });
        machine.kernel_options =
            "systemd.unit=portcullis-guest.target systemd.journald.forward_to_console=1".to_owned();
        vec![machine]
    }

    fn prepare(&self, machine: &mut Machine, contents: &mut Archive, folder: &Path) -> Result<()> {
        let target = folder.ancestors().nth(2).context("the folder of all runs")?;
        system::add(contents, target)?;
        for (name, text) in UNITS {
            contents.file_with(
                &format!("{}/etc/systemd/system/{name}", system::ROOT),
                0o644,
                text.as_bytes(),
            );
        }
        disk::add_devices(machine, folder)
    }
}
