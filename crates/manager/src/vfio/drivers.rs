//! Taking functions from their drivers and giving them back, also after a crash.
//!
//! Before anything is changed, what was there is written to a file in the runtime folder. It goes when the driver is back, so
//! what a manager finds there at its start is what its predecessor left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::kernel::Kernel;
use super::sysfs::{self, DRIVERS, FUNCTIONS};

/// The driver that hands functions out.
pub(super) const VFIO_PCI: &str = "vfio-pci";

/// Where a function was before it was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    /// Its driver, if it had one.
    driver: Option<String>,
    /// Its `driver_override`, if it had one.
    overridden: Option<String>,
}

/// The functions that are taken, and the file that says so.
#[derive(Debug)]
pub(super) struct Drivers {
    file: PathBuf,
    taken: BTreeMap<String, Before>,
}

impl Drivers {
    /// What the file in `folder` says; nothing where there is none.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let file = folder.join("drivers.json");
        let taken = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, taken })
    }

    /// The functions that are taken.
    pub(super) fn taken(&self) -> impl Iterator<Item = &str> {
        self.taken.keys().map(String::as_str)
    }

    /// The driver that a taken function had, `Some(None)` where it had none.
    pub(super) fn before(&self, name: &str) -> Option<Option<&str>> {
        self.taken.get(name).map(|before| before.driver.as_deref())
    }

    /// Gives a function to `vfio-pci`. One that `vfio-pci` has already stays there.
    pub(super) fn take(&mut self, kernel: &dyn Kernel, name: &str) -> io::Result<()> {
        let driver = sysfs::driver(kernel, name);
        if driver.as_deref() == Some(VFIO_PCI) {
            return Ok(());
        }
        // A former record is what was there before the first manager, and counts.
        if !self.taken.contains_key(name) {
            let overridden = sysfs::text(kernel, &format!("{FUNCTIONS}/{name}/driver_override"))?;
            let overridden = (overridden != "(null)" && !overridden.is_empty()).then_some(overridden);
            self.taken.insert(name.to_owned(), Before { driver: driver.clone(), overridden });
            self.write()?;
        }
        let file = |name: &str, file: &str| PathBuf::from(format!("{FUNCTIONS}/{name}/{file}"));
        kernel.write(&file(name, "driver_override"), VFIO_PCI)?;
        if driver.is_some() {
            kernel.write(&file(name, "driver/unbind"), name)?;
        }
        kernel.write(Path::new("/sys/bus/pci/drivers_probe"), name)?;
        match sysfs::driver(kernel, name) {
            Some(driver) if driver == VFIO_PCI => Ok(()),
            Some(driver) => Err(io::Error::other(format!("{name} went to {driver} instead of {VFIO_PCI}"))),
            None => Err(io::Error::other(format!("{VFIO_PCI} did not take {name}; is it loaded?"))),
        }
    }

    /// Gives a function back to the driver that it was taken from. One that was not taken is left alone.
    pub(super) fn restore(&mut self, kernel: &dyn Kernel, name: &str) -> io::Result<()> {
        let Some(before) = self.taken.get(name).cloned() else { return Ok(()) };
        if fs::exists(kernel.locate(Path::new(&format!("{FUNCTIONS}/{name}"))))? {
            restore(kernel, name, &before)?;
        }
        self.taken.remove(name);
        self.write()
    }

    /// Replaces the file, so that a crash leaves the old or the new one whole.
    fn write(&self) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        let next = self.file.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec_pretty(&self.taken)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.file)
    }
}

fn restore(kernel: &dyn Kernel, name: &str, before: &Before) -> io::Result<()> {
    let file = |file: &str| PathBuf::from(format!("{FUNCTIONS}/{name}/{file}"));
    // An empty line takes the override away.
    kernel.write(&file("driver_override"), before.overridden.as_deref().unwrap_or("\n"))?;
    let now = sysfs::driver(kernel, name);
    if now == before.driver {
        return Ok(());
    }
    if now.is_some() {
        kernel.write(&file("driver/unbind"), name)?;
    }
    match &before.driver {
        Some(driver) => kernel.write(Path::new(&format!("{DRIVERS}/{driver}/bind")), name),
        None => Ok(()),
    }
}
