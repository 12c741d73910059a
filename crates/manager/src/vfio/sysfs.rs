//! What sysfs says of PCI functions, their groups and the units that guard them (Linux Documentation/ABI/testing/sysfs-bus-pci,
//! sysfs-kernel-iommu_groups, sysfs-class-iommu).

use std::fs;
use std::io;
use std::path::Path;

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
    /// Whether its header is a bridge's (type 1): no driver for endpoints takes it.
    pub(super) bridge: bool,
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
    let header = configuration(kernel, name).get(HEADER_TYPE).copied().unwrap_or(0);
    Some(Function {
        name: name.to_owned(),
        address: name.parse().ok()?,
        vendor: hexadecimal("vendor")? as u16,
        device: hexadecimal("device")? as u16,
        class: hexadecimal("class")?,
        bridge: header & 0x7f == 1,
        driver: driver(kernel, name),
        group: link(kernel, &format!("{FUNCTIONS}/{name}/iommu_group")).and_then(|group| group.parse().ok()),
        unit: link(kernel, &format!("{FUNCTIONS}/{name}/iommu")),
    })
}

/// Offset of the header type (PCI 3.0 6.2.1).
const HEADER_TYPE: usize = 0x0e;
/// Offset of the secondary bus number of a bridge (PCI-to-PCI Bridge 1.2, 3.2).
const SECONDARY_BUS: usize = 0x19;
/// Offset of the pointer to the first capability.
const CAPABILITIES: usize = 0x34;
/// The PCI Express capability's ID (PCIe 7.5.3.1).
const PCI_EXPRESS: u8 = 0x10;
/// Device/port type of a bridge from PCI Express to PCI (PCIe 7.5.3.2).
const EXPRESS_TO_PCI: u8 = 7;
/// Device/port type of a bridge from PCI to PCI Express.
const PCI_TO_EXPRESS: u8 = 8;

/// As much of a function's configuration space as we may read; empty where that is nothing.
fn configuration(kernel: &dyn Kernel, name: &str) -> Vec<u8> {
    fs::read(kernel.locate(Path::new(&format!("{FUNCTIONS}/{name}/config")))).unwrap_or_default()
}

/// The names under which requests of a function reach its unit: its own, then those that bridges on the way put in its place
/// (PCIe to PCI/PCI-X Bridge 1.0, 2.3; the same walk as Linux's pci_for_each_dma_alias).
pub(super) fn requesters(kernel: &dyn Kernel, function: &Function) -> Vec<PciAddress> {
    let mut found = vec![function.address];
    let path = kernel.locate(Path::new(&format!("{FUNCTIONS}/{}", function.name)));
    let Ok(path) = fs::canonicalize(path) else { return found };
    for folder in path.ancestors().skip(1) {
        let Some(name) = folder.file_name().map(|name| name.to_string_lossy()) else { break };
        let Ok(bridge) = name.parse::<PciAddress>() else { break };
        let space = configuration(kernel, &name);
        let alias = match port_type(&space) {
            Some(EXPRESS_TO_PCI) => {
                let bus = space.get(SECONDARY_BUS).copied().unwrap_or(0);
                PciAddress::new(bridge.segment, bus, 0, 0)
            }
            // Conventional bridges, and those from PCI to PCI Express, send in their own name.
            None | Some(PCI_TO_EXPRESS) => bridge,
            Some(_) => continue,
        };
        if !found.contains(&alias) {
            found.push(alias);
        }
    }
    found
}

/// The device/port type of a PCI Express function; `None` for a conventional one.
fn port_type(space: &[u8]) -> Option<u8> {
    let mut at = usize::from(*space.get(CAPABILITIES)? & !3);
    // 48 capabilities of 4 bytes fill the space behind the header: more is a loop.
    for _ in 0..48 {
        if at < 0x40 {
            return None;
        }
        if *space.get(at)? == PCI_EXPRESS {
            return Some(space.get(at + 2)? >> 4);
        }
        at = usize::from(*space.get(at + 1)? & !3);
    }
    None
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

    #[test]
    fn capability_list_that_loops_ends() {
        let mut space = vec![0u8; 256];
        space[CAPABILITIES] = 0x40;
        space[0x40] = 1;
        space[0x41] = 0x40;
        assert_eq!(port_type(&space), None);
        space[0x41] = 0x50;
        space[0x50] = PCI_EXPRESS;
        space[0x52] = 0x72;
        assert_eq!(port_type(&space), Some(EXPRESS_TO_PCI));
    }
}
