//! What sysfs says of PCI functions, their groups and the units that guard them (Linux Documentation/ABI/testing/sysfs-bus-pci,
//! sysfs-kernel-iommu_groups, sysfs-class-iommu).

use std::fs;
use std::io;
use std::path::Path;

use portcullis_firmware::groups as firmware;
use portcullis_spec::{Access, Iova, PciAddress};

use super::kernel::Kernel;
use crate::inventory::{ReservedKind, ReservedRegion};

/// Where PCI functions are listed.
pub(super) const FUNCTIONS: &str = "/sys/bus/pci/devices";
/// Where PCI drivers are listed.
pub(super) const DRIVERS: &str = "/sys/bus/pci/drivers";
/// Where groups are listed.
pub(super) const GROUPS: &str = "/sys/kernel/iommu_groups";
/// Where units are listed.
pub(super) const UNITS: &str = "/sys/class/iommu";

/// A PCI function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Function {
    /// As sysfs spells it.
    pub(super) name: String,
    /// Where it is.
    pub(super) address: PciAddress,
    /// Vendor ID.
    pub(super) vendor: u16,
    /// Device ID.
    pub(super) device: u16,
    /// Base class, subclass and interface, 24 bits.
    pub(super) class: u32,
    /// What its configuration space says of it, where we may read that.
    pub(super) shape: Option<firmware::Function>,
    /// The driver that has it.
    pub(super) driver: Option<String>,
    /// The group that it is in.
    pub(super) group: Option<u32>,
    /// The unit that guards it.
    pub(super) unit: Option<String>,
}

/// The text of a file, without the white space at its ends.
pub(super) fn text(kernel: &dyn Kernel, path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(kernel.locate(Path::new(path)))?.trim().to_owned())
}

/// The names in a folder, sorted; none where there is no such folder.
pub(super) fn names(kernel: &dyn Kernel, path: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(kernel.locate(Path::new(path))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The last part of where a link leads; `None` where there is no link.
pub(super) fn link(kernel: &dyn Kernel, path: &str) -> Option<String> {
    let target = fs::read_link(kernel.locate(Path::new(path))).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The driver that has a function now.
pub(super) fn driver(kernel: &dyn Kernel, name: &str) -> Option<String> {
    link(kernel, &format!("{FUNCTIONS}/{name}/driver"))
}

/// All functions, sorted by name. One that vanishes meanwhile is left out.
pub(super) fn functions(kernel: &dyn Kernel) -> io::Result<Vec<Function>> {
    Ok(names(kernel, FUNCTIONS)?.iter().filter_map(|name| function(kernel, name)).collect())
}

fn function(kernel: &dyn Kernel, name: &str) -> Option<Function> {
    let hexadecimal = |file: &str| {
        let text = text(kernel, &format!("{FUNCTIONS}/{name}/{file}")).ok()?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let address = name.parse().ok()?;
    let shape = firmware::Function::from_config(address, &configuration(kernel, name)).ok();
    Some(Function {
        name: name.to_owned(),
        address,
        vendor: hexadecimal("vendor")? as u16,
        device: hexadecimal("device")? as u16,
        class: hexadecimal("class")?,
        shape,
        driver: driver(kernel, name),
        group: link(kernel, &format!("{FUNCTIONS}/{name}/iommu_group")).and_then(|group| group.parse().ok()),
        unit: link(kernel, &format!("{FUNCTIONS}/{name}/iommu")),
    })
}

/// As much of a function's configuration space as we may read; empty where that is nothing.
fn configuration(kernel: &dyn Kernel, name: &str) -> Vec<u8> {
    fs::read(kernel.locate(Path::new(&format!("{FUNCTIONS}/{name}/config")))).unwrap_or_default()
}

/// Where a group's devices cannot have grants.
pub(super) fn reserved(kernel: &dyn Kernel, group: u32) -> Vec<ReservedRegion> {
    let source = format!("{GROUPS}/{group}/reserved_regions");
    let text = text(kernel, &source).unwrap_or_default();
    text.lines().filter_map(|line| reserved_line(line, &source)).collect()
}

/// `0x00000000fee00000 0x00000000feefffff msi`. A kind that nobody has heard of is no place for a grant either.
fn reserved_line(line: &str, source: &str) -> Option<ReservedRegion> {
    let mut words = line.split_whitespace();
    let mut number = || u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok();
    let (first, last) = (number()?, number()?);
    let (kind, access) = match words.next()? {
        "direct" => (ReservedKind::Direct, Access::READ_WRITE),
        "direct-relaxable" => (ReservedKind::DirectRelaxable, Access::READ_WRITE),
        "msi" => (ReservedKind::Msi, Access::empty()),
        _ => (ReservedKind::Reserved, Access::empty()),
    };
    (first <= last).then(|| ReservedRegion {
        range: Iova(first)..=Iova(last),
        kind,
        access,
        source: source.to_owned(),
    })
}

/// Whether interrupts go through remapping: the names of the chips that deliver them begin with `IR-` on x86, and with `ITS-`
/// where Arm's translation service tells devices apart.
pub(super) fn interrupts_are_isolated(kernel: &dyn Kernel) -> io::Result<bool> {
    for number in names(kernel, "/sys/kernel/irq")? {
        let chip = text(kernel, &format!("/sys/kernel/irq/{number}/chip_name")).unwrap_or_default();
        if chip.starts_with("IR-") || chip.starts_with("ITS-") {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_regions_are_read_as_the_kernel_writes_them() {
        let read = |line: &str| reserved_line(line, "").map(|region| (region.range, region.kind));
        assert_eq!(
            read("0x00000000fee00000 0x00000000feefffff msi"),
            Some((Iova(0xfee0_0000)..=Iova(0xfeef_ffff), ReservedKind::Msi))
        );
        assert_eq!(read("0x0 0xfff direct-relaxable").map(|r| r.1), Some(ReservedKind::DirectRelaxable));
        assert_eq!(read("0x0 0xfff something-new").map(|r| r.1), Some(ReservedKind::Reserved));
        assert_eq!(read("0x1000 0xfff reserved"), None);
        assert_eq!(read("0x1000"), None);
    }
}
