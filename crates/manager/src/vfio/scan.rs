//! From sysfs to the [`Inventory`]: which functions there are, which unit guards each, and who stands together.

use std::collections::BTreeMap;
use std::io;

use portcullis_firmware::groups::{Functions, PortType, groups};
use portcullis_spec::{Iova, PciAddress, Requester};

use super::kernel::Kernel;
use super::sysfs::{self, FUNCTIONS, Function, UNITS};
use crate::inventory::{
    Device, DeviceId, DeviceKind, Group, GroupId, Inventory, Unit, UnitCapabilities, UnitId, UnitKind,
};

/// Numbers given to devices, by name. A name keeps its number as long as the device is there.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    given: BTreeMap<String, DeviceId>,
    next: u32,
}

impl Numbers {
    /// The device's number, a new one at first.
    pub(super) fn of(&mut self, name: &str) -> DeviceId {
        if let Some(&id) = self.given.get(name) {
            return id;
        }
        let id = DeviceId(self.next);
        self.next += 1;
        self.given.insert(name.to_owned(), id);
        id
    }

    /// Forgets a device that is gone: should one of that name come back, it is another.
    pub(super) fn forget(&mut self, name: &str) -> Option<DeviceId> {
        self.given.remove(name)
    }

    /// All devices that have numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, DeviceId)> {
        self.given.iter().map(|(name, &id)| (name.as_str(), id))
    }
}

/// Functions that can be granted, with their numbers, and what they are to the core.
pub(super) struct Scan {
    /// The units, groups and devices.
    pub(super) inventory: Inventory,
    /// The functions behind them.
    pub(super) functions: BTreeMap<DeviceId, Function>,
}

/// Looks at everything.
pub(super) fn scan(kernel: &dyn Kernel, numbers: &mut Numbers) -> io::Result<Scan> {
    let isolated = sysfs::interrupts_are_isolated(kernel)?;
    let names = sysfs::names(kernel, UNITS)?;
    let units = names.iter().map(|name| unit(kernel, name, isolated)).collect();
    let mut inventory = Inventory { units, ..Inventory::default() };
    let mut functions = BTreeMap::new();
    let mut lone = LONE;
    let found = sysfs::functions(kernel)?;
    let shapes = Functions::new(found.iter().filter_map(|function| function.shape.clone()));
    // A bridge to another bus does no DMA that could be granted, and no driver of VFIO takes one.
    let leads_on = |function: &Function| function.shape.as_ref().is_some_and(|shape| shape.buses.is_some());
    for function in found.into_iter().filter(|function| !leads_on(function)) {
        let id = numbers.of(&function.name);
        let unit = function.unit.as_ref().and_then(|unit| names.iter().position(|name| name == unit));
        let group = GroupId(function.group.unwrap_or_else(|| {
            lone += 1;
            lone
        }));
        let device = device(kernel, &function, &shapes, unit.map(|index| UnitId(index as u32)), group);
        inventory.devices.push((id, device));
        functions.insert(id, function);
    }
    let mut members: BTreeMap<GroupId, Vec<&Function>> = BTreeMap::new();
    for (id, device) in &inventory.devices {
        members.entry(device.group).or_default().extend(functions.get(id));
    }
    let computed = groups(&shapes, None);
    inventory.groups =
        members.iter().map(|(&id, members)| Group { id, reasons: reasons(&computed, members) }).collect();
    Ok(Scan { inventory, functions })
}

/// Numbers above this are ours, for functions that the kernel puts into no group.
const LONE: u32 = 1 << 31;

fn device(
    kernel: &dyn Kernel,
    function: &Function,
    shapes: &Functions,
    unit: Option<UnitId>,
    group: GroupId,
) -> Device {
    Device {
        name: function.name.clone(),
        kind: DeviceKind::Pci,
        requesters: requesters(function, shapes).into_iter().map(Requester::Pci).collect(),
        registers: None,
        unit,
        group,
        reserved: function.group.map(|group| sysfs::reserved(kernel, group)).unwrap_or_default(),
        description: format!("{} [{:04x}:{:04x}]", class(function.class), function.vendor, function.device),
        driver: function.driver.clone(),
        pasid_bits: 0,
        vectors: 0,
        source: format!("{FUNCTIONS}/{}", function.name),
    }
}

/// The names under which requests of a function reach its unit: its own, then those that bridges on the way put in its place
/// (PCIe to PCI/PCI-X Bridge 1.0, 2.3; the same walk as Linux's pci_for_each_dma_alias).
fn requesters(function: &Function, shapes: &Functions) -> Vec<PciAddress> {
    let mut found = vec![function.address];
    let Some(shape) = &function.shape else { return found };
    for bridge in shapes.path_to_root(shape).filter(|bridge| bridge.takes_requests_over()) {
        let express_above = bridge.express.is_some_and(|express| express.port_type == PortType::BridgeToPci);
        let alias = match bridge.buses {
            Some((secondary, _)) if express_above => PciAddress::new(bridge.address.segment, secondary, 0, 0),
            _ => bridge.address,
        };
        if !found.contains(&alias) {
            found.push(alias);
        }
    }
    found
}

/// Why these stand together: what follows from the configuration spaces of all in the group, and for whom nothing follows, that
/// the kernel says so.
fn reasons(computed: &[portcullis_firmware::groups::Group], members: &[&Function]) -> Vec<String> {
    let Some((first, others)) = members.split_first() else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let group = computed.iter().find(|group| group.members.contains(&first.address));
    let mut reasons: Vec<String> =
        group.into_iter().flat_map(|group| &group.memberships).map(ToString::to_string).collect();
    let unexplained =
        others.iter().filter(|other| group.is_none_or(|group| !group.members.contains(&other.address)));
    reasons
        .extend(unexplained.map(|other| {
            format!("{} shares with {}: the kernel puts them together", other.name, first.name)
        }));
    reasons
}

fn unit(kernel: &dyn Kernel, name: &str, interrupts_isolated: bool) -> Unit {
    let source = format!("{UNITS}/{name}");
    let register = |file: &str| {
        let text = sysfs::text(kernel, &format!("{source}/{file}")).ok()?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let mut capabilities = UnitCapabilities {
        page_sizes: 1 << 12,
        iova: Iova(0)..=Iova(u64::MAX),
        write_only: false,
        execute: false,
        interrupts_isolated,
        tells_devices_apart: true,
        pasid: false,
    };
    let kind = if name.starts_with("dmar") {
        let cap = register("intel-iommu/cap").unwrap_or(0);
        let ecap = register("intel-iommu/ecap").unwrap_or(0);
        vtd(cap, ecap, &mut capabilities);
        UnitKind::Vtd
    } else if name.starts_with("ivhd") {
        // Host tables of 6 levels (AMD I/O Virtualization 2.2.3): any address, pages from 4 KiB on.
        capabilities.page_sizes |= 1 << 21 | 1 << 30;
        capabilities.write_only = true;
        UnitKind::AmdVi
    } else if name.starts_with("smmu3") {
        capabilities.iova = Iova(0)..=Iova((1 << 48) - 1);
        UnitKind::SmmuV3
    } else if name.starts_with("smmu") {
        capabilities.iova = Iova(0)..=Iova((1 << 48) - 1);
        UnitKind::SmmuV2
    } else if name.starts_with("riscv") {
        capabilities.iova = Iova(0)..=Iova((1 << 38) - 1);
        UnitKind::Riscv
    } else {
        capabilities.iova = Iova(0)..=Iova((1 << 47) - 1);
        UnitKind::Virtio
    };
    Unit { name: name.to_owned(), kind, address: register("intel-iommu/address"), capabilities, source }
}

/// What VT-d's capability registers (VT-d 11.4.2 and 11.4.3) leave of a space for VFIO, which Linux makes with second-stage
/// tables unless a unit in scalable mode has only first-stage ones.
fn vtd(cap: u64, ecap: u64, capabilities: &mut UnitCapabilities) {
    let bit = |register: u64, bit: u32| register >> bit & 1 == 1;
    let first_stage_only = bit(ecap, 43) && bit(ecap, 47) && !bit(ecap, 46);
    let mgaw = (cap >> 16 & 0x3f) as u32 + 1;
    // SAGAW, bits 12:8: bit 1 is 39-bit, bit 2 48-bit, bit 3 57-bit.
    let widest = [39, 48, 57].into_iter().enumerate().filter(|(index, _)| bit(cap, 9 + *index as u32));
    let sagaw = widest.map(|(_, width)| width).next_back().unwrap_or(39);
    // In canonical addresses the highest bit is a sign, so half of them lie where nobody looks.
    let width = if first_stage_only { mgaw.min(48) - 1 } else { mgaw.min(sagaw) };
    capabilities.iova = Iova(0)..=Iova((1 << width) - 1);
    let (two_mib, one_gib) =
        if first_stage_only { (true, bit(cap, 56)) } else { (bit(cap, 34), bit(cap, 35)) };
    capabilities.page_sizes |= u64::from(two_mib) << 21 | u64::from(one_gib) << 30;
    capabilities.write_only = !first_stage_only;
}

/// A class in words (PCI Code and ID Assignment 1.11, chapter 1).
fn class(code: u32) -> &'static str {
    match code >> 8 {
        0x0101 => "IDE controller",
        0x0106 => "SATA controller",
        0x0107 => "SAS controller",
        0x0108 => "NVMe controller",
        0x0200 => "Ethernet controller",
        0x0280 => "network controller",
        0x0300 => "VGA controller",
        0x0302 => "3D controller",
        0x0403 => "audio device",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus controller",
        other => match other >> 8 {
            0x01 => "storage controller",
            0x02 => "network controller",
            0x03 => "display controller",
            0x04 => "multimedia device",
            0x05 => "memory controller",
            0x06 => "bridge",
            0x07 => "communication controller",
            0x08 => "system peripheral",
            0x09 => "input device",
            0x0c => "serial bus controller",
            0x0d => "wireless controller",
            0x10 => "encryption controller",
            0x12 => "accelerator",
            _ => "device",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(cap: u64, ecap: u64) -> (u64, bool) {
        let mut capabilities = UnitCapabilities {
            page_sizes: 1 << 12,
            iova: Iova(0)..=Iova(0),
            write_only: false,
            execute: false,
            interrupts_isolated: true,
            tells_devices_apart: true,
            pasid: false,
        };
        vtd(cap, ecap, &mut capabilities);
        (capabilities.iova.end().0, capabilities.write_only)
    }

    /// The registers that QEMU 10.0.2's intel-iommu shows, without and with `x-scalable-mode=on,x-flts=on`; the ends are what
    /// VFIO_IOMMU_GET_INFO answered in the guest.
    #[test]
    fn addresses_end_where_linux_ends_them() {
        assert_eq!(width(0xd2_008c_222f_0606, 0xf0_0f4a), ((1 << 48) - 1, true));
        assert_eq!(width(0x1d2_008c_222f_0606, 0x8800_00f0_0f4a), ((1 << 47) - 1, false));
    }

    #[test]
    fn device_that_comes_back_gets_another_number() {
        let mut numbers = Numbers::default();
        let first = numbers.of("0000:00:03.0");
        assert_eq!(numbers.of("0000:00:03.0"), first);
        assert_eq!(numbers.forget("0000:00:03.0"), Some(first));
        assert_ne!(numbers.of("0000:00:03.0"), first);
    }
}
