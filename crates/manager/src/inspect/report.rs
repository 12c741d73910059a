//! The report on a host: what there is, put together.

use std::collections::BTreeMap;

use portcullis_firmware::{
    groups::{Function, TranslationServices},
    topology::{Declared, Topology, Unit},
};
use portcullis_spec::{PciAddress, Requester};
use serde::Serialize;

use super::{
    capability::{self, Capability},
    findings::{self, Finding},
    grouping::groups,
    guards::Guards,
    names::{PciNames, class_name},
};
use crate::host::{
    DomainType, Holder, Host, Kernel, KernelReserved, KernelUnit, ThunderboltDomain, UnitRegisters, Unread,
};

/// How well devices are kept from memory, in one word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// Every group is translated, and what was unmapped is out of reach at once.
    Strict,
    /// Every group is translated; what was unmapped stays reachable for a little while.
    Lazy,
    /// Some groups are translated, in others devices reach all memory.
    Partial,
    /// Units are there, but devices reach all memory.
    PassThrough,
    /// Nothing stands between devices and memory.
    None,
}

/// A unit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UnitReport {
    /// The kernel's name, or that of firmware's statement where the kernel does not drive it.
    pub name: String,
    /// Architecture, where it is known.
    pub architecture: Option<String>,
    /// Whether the kernel drives it.
    pub active: bool,
    /// Where its registers are.
    pub registers: Option<u64>,
    /// Version that it implements, where it says so.
    pub version: Option<String>,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// How many devices it guards.
    pub devices: usize,
    /// It takes all devices of its segment that no other unit names.
    pub takes_the_rest: bool,
    /// Where firmware speaks of it.
    pub firmware: Option<String>,
}

/// A PCI function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DeviceReport {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code.
    pub class: u32,
    /// What it is, for people.
    pub description: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The bridge directly above it.
    pub above: Option<PciAddress>,
    /// It is a bridge itself.
    pub bridge: bool,
    /// The unit that guards it.
    pub unit: Option<String>,
    /// The name under which its requests reach the unit.
    pub requester: Option<Requester>,
    /// ATS, PRI and PASID.
    pub services: TranslationServices,
    /// A user can pull it out.
    pub removable: bool,
    /// Its node for VFIO.
    pub vfio: Option<String>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GroupReport {
    /// The kernel's number; `None` where the kernel has no groups and these follow from configuration spaces.
    pub number: Option<u32>,
    /// How the kernel runs it.
    pub domain: Option<DomainType>,
    /// PCI functions.
    pub functions: Vec<PciAddress>,
    /// Other devices.
    pub others: Vec<String>,
    /// Why its members stand together.
    pub reasons: Vec<String>,
    /// Whether configuration spaces and firmware lead to the same group; `None` where that cannot be said.
    pub as_computed: Option<bool>,
    /// Reserved ranges.
    pub reserved: Vec<KernelReserved>,
    /// Processes that hold it through VFIO.
    pub holders: Vec<u32>,
}

/// A reserved region, as firmware states it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ReservedReport {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
    /// Why.
    pub kind: String,
    /// For whom.
    pub devices: Vec<String>,
    /// Where firmware says so.
    pub source: String,
}

/// How interrupts of devices go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct InterruptReport {
    /// They are remapped; `None` where that is not known.
    pub remapped: Option<bool>,
    /// Interrupt controllers in use.
    pub controllers: Vec<String>,
    /// Firmware says that units can remap.
    pub firmware: Option<bool>,
    /// Processors know x2APIC.
    pub x2apic_processors: bool,
    /// Every unit that tells its capabilities can send to x2APIC; `None` where none tells.
    pub x2apic_units: Option<bool>,
    /// Firmware asks not to use x2APIC.
    pub x2apic_opt_out: Option<bool>,
}

/// What firmware left.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FirmwareReport {
    /// Tables that were found.
    pub tables: Vec<String>,
    /// Reserved regions.
    pub reserved: Vec<ReservedReport>,
    /// Firmware asks that protection is kept on for external devices.
    pub dma_opt_in: Option<bool>,
    /// What is wrong with the tables.
    pub findings: Vec<String>,
}

/// The report on a host.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In one word.
    pub protection: Protection,
    /// The kernel and the machine.
    pub kernel: Kernel,
    /// Units.
    pub units: Vec<UnitReport>,
    /// PCI functions.
    pub devices: Vec<DeviceReport>,
    /// Groups.
    pub groups: Vec<GroupReport>,
    /// Interrupts.
    pub interrupts: InterruptReport,
    /// Firmware.
    pub firmware: FirmwareReport,
    /// Thunderbolt domains.
    pub thunderbolt: Vec<ThunderboltDomain>,
    /// Who holds what through VFIO.
    pub holders: Vec<Holder>,
    /// What should be changed or decided.
    pub findings: Vec<Finding>,
    /// What is worth knowing.
    pub notes: Vec<Finding>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Report {
    /// The report on `host`.
    #[must_use]
    pub fn of(host: &Host, names: &PciNames) -> Self {
        let topology = &host.firmware.topology;
        let guards = Guards::of(host);
        let devices = host.functions.iter().map(|function| device(host, names, &guards, function)).collect();
        let mut report = Self {
            protection: protection(host),
            kernel: host.kernel.clone(),
            units: units(host, &guards),
            devices,
            groups: groups(host),
            interrupts: interrupts(host),
            firmware: FirmwareReport {
                tables: host.firmware.tables.clone(),
                reserved: reserved(topology),
                dma_opt_in: topology.platform.dma_opt_in.as_ref().map(|fact| fact.value),
                findings: topology.findings.iter().map(ToString::to_string).collect(),
            },
            thunderbolt: host.thunderbolt.clone(),
            holders: host.vfio.holders.clone(),
            findings: Vec::new(),
            notes: Vec::new(),
            unread: host.unread.clone(),
        };
        let (findings, notes) = findings::all(host, &report);
        report.findings = findings;
        report.notes = notes;
        report
    }
}

impl Report {
    /// The device at `address`.
    #[must_use]
    pub fn device(&self, address: PciAddress) -> Option<&DeviceReport> {
        let place = self.devices.binary_search_by_key(&address, |device| device.address).ok()?;
        self.devices.get(place)
    }

    /// The PCI functions of a group.
    #[must_use]
    pub fn members(&self, group: &GroupReport) -> Vec<&DeviceReport> {
        group.functions.iter().filter_map(|address| self.device(*address)).collect()
    }
}

fn protection(host: &Host) -> Protection {
    if host.units.is_empty() && host.groups.is_empty() {
        return Protection::None;
    }
    let of = |domain| host.groups.iter().any(|group| group.domain == Some(domain));
    let (strict, lazy, identity) = (of(DomainType::Strict), of(DomainType::Lazy), of(DomainType::Identity));
    match (strict || lazy, identity) {
        (true, true) => Protection::Partial,
        (false, true) => Protection::PassThrough,
        (true, false) if lazy => Protection::Lazy,
        (true, false) => Protection::Strict,
        // Groups without a translated domain: noiommu, or a kernel that does not tell.
        (false, false) => Protection::None,
    }
}

fn units(host: &Host, guards: &Guards) -> Vec<UnitReport> {
    let by_kernel: BTreeMap<usize, &Unit> = host
        .firmware
        .topology
        .units
        .iter()
        .filter_map(|unit| Some((*guards.driven.get(&unit.id)?, unit)))
        .collect();
    let mut reports: Vec<UnitReport> = host
        .units
        .iter()
        .enumerate()
        .map(|(place, kernel)| {
            let stated = by_kernel.get(&place).copied();
            UnitReport {
                name: kernel.name.clone(),
                architecture: stated
                    .map(|unit| unit.architecture.value.to_string())
                    .or_else(|| architecture(kernel).map(str::to_owned)),
                active: true,
                registers: match kernel.registers {
                    UnitRegisters::Vtd { address, .. } => Some(address),
                    _ => stated.and_then(|unit| Some(unit.registers.as_ref()?.base.0)),
                },
                version: match kernel.registers {
                    UnitRegisters::Vtd { version, .. } if version != 0 => {
                        Some(format!("{}.{}", version >> 4, version & 0xf))
                    }
                    _ => None,
                },
                capabilities: capability::decode(kernel.registers),
                devices: kernel.devices.len(),
                takes_the_rest: stated.is_some_and(takes_the_rest),
                firmware: stated.map(|unit| unit.source.to_string()),
            }
        })
        .collect();
    reports.extend(
        host.firmware.topology.units.iter().filter(|unit| !guards.driven.contains_key(&unit.id)).map(
            |unit| UnitReport {
                name: unit.name.value.clone(),
                architecture: Some(unit.architecture.value.to_string()),
                active: false,
                registers: unit.registers.as_ref().map(|window| window.base.0),
                version: None,
                capabilities: Vec::new(),
                devices: 0,
                takes_the_rest: takes_the_rest(unit),
                firmware: Some(unit.source.to_string()),
            },
        ),
    );
    reports
}

fn takes_the_rest(unit: &Unit) -> bool {
    matches!(unit.declared.value, Declared::Vtd { include_pci_all: true })
}

fn architecture(unit: &KernelUnit) -> Option<&'static str> {
    match unit.registers {
        UnitRegisters::Vtd { .. } => Some("Intel VT-d"),
        UnitRegisters::AmdVi { .. } => Some("AMD-Vi"),
        UnitRegisters::Unknown if unit.name.starts_with("smmu3") => Some("Arm SMMUv3"),
        UnitRegisters::Unknown if unit.name.starts_with("smmu") => Some("Arm SMMU"),
        UnitRegisters::Unknown if unit.name.starts_with("virtio") => Some("virtio-iommu"),
        UnitRegisters::Unknown if unit.name.contains("riscv") => Some("RISC-V IOMMU"),
        UnitRegisters::Unknown => None,
    }
}

fn device(host: &Host, names: &PciNames, guards: &Guards, function: &Function) -> DeviceReport {
    let kernel = host.device(function.address);
    let way = host.firmware.topology.resolve(function.address, &host.functions);
    let unit = match guards.kernel.get(&function.address.to_string()) {
        Some(place) => host.units.get(*place).map(|unit| unit.name.clone()),
        // Without an entry in the kernel's list it is guarded by nobody, whatever firmware says, where units run.
        None if !host.units.is_empty() => None,
        None => {
            way.and_then(|way| host.firmware.topology.unit(way.unit?)).map(|unit| unit.name.value.clone())
        }
    };
    let class = class_name(function.class);
    DeviceReport {
        address: function.address,
        vendor: function.vendor,
        device: function.device,
        class: function.class,
        description: match names.describe(function.vendor, function.device) {
            Some(name) => format!("{class}: {name}"),
            None => format!("{class} {:04x}:{:04x}", function.vendor, function.device),
        },
        driver: kernel.and_then(|device| device.driver.clone()),
        above: host.functions.bridge_above(function).map(|bridge| bridge.address),
        bridge: function.is_bridge(),
        requester: way.map(|way| way.requester),
        unit,
        services: function.services,
        removable: kernel.is_some_and(|device| device.removable == Some(true)),
        vfio: kernel.and_then(|device| device.vfio.clone()),
    }
}

fn interrupts(host: &Host) -> InterruptReport {
    let platform = &host.firmware.topology.platform;
    let mut x2apic_units = None;
    for unit in &host.units {
        let capable = match unit.registers {
            UnitRegisters::Vtd { ecap, .. } => {
                Some(portcullis_spec::vtd::registers::Ecap::from_bits(ecap).eim())
            }
            UnitRegisters::AmdVi { features, .. } => {
                Some(portcullis_spec::amdvi::feature::ExtendedFeature::from_bits(features).xtsup())
            }
            UnitRegisters::Unknown => None,
        };
        if let Some(capable) = capable {
            x2apic_units = Some(x2apic_units.unwrap_or(true) && capable);
        }
    }
    InterruptReport {
        remapped: host.kernel.interrupts_remapped(),
        controllers: host.kernel.interrupt_chips.clone(),
        firmware: platform.interrupt_remapping.as_ref().map(|fact| fact.value),
        x2apic_processors: host.kernel.processor.x2apic,
        x2apic_units,
        x2apic_opt_out: platform.x2apic_opt_out.as_ref().map(|fact| fact.value),
    }
}

fn reserved(topology: &Topology) -> Vec<ReservedReport> {
    topology
        .reserved
        .iter()
        .map(|region| ReservedReport {
            first: region.range.first,
            last: region.range.last,
            kind: region.kind.value.to_string(),
            devices: region.devices.iter().map(|devices| devices.value.to_string()).collect(),
            source: region.source.to_string(),
        })
        .collect()
}
