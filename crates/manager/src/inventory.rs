//! What there is: units, devices, and the groups in which devices stand together.
//!
//! A back end reports an [`Inventory`] once at start and changes to it later; the core never guesses beyond it.

use std::ops::RangeInclusive;

use portcullis_spec::{Access, Iova, Requester};
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
    };
}

number! {
    /// A unit, by its place in the inventory.
    UnitId
}
number! {
    /// A device, by a number that is never given to another device while the manager runs.
    DeviceId
}
number! {
    /// A group of devices that can only be granted together.
    GroupId
}

/// What an IOMMU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitKind {
    /// Intel VT-d.
    Vtd,
    /// AMD-Vi.
    AmdVi,
    /// Arm SMMUv3.
    SmmuV3,
    /// Arm SMMUv1 or v2.
    SmmuV2,
    /// RISC-V IOMMU.
    Riscv,
    /// virtio-iommu.
    Virtio,
    /// Another manager, of which this one is a client.
    Upstream,
}

/// What a unit can and cannot do, as far as grants depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitCapabilities {
    /// Page sizes that it maps, as a bit mask: bit 12 for 4 KiB. The lowest set bit is the granularity of grants.
    pub page_sizes: u64,
    /// Addresses that devices may use.
    pub iova: RangeInclusive<Iova>,
    /// A page can be writable without being readable. Where not, a grant to write becomes one to read and write.
    pub write_only: bool,
    /// Execute permission is checked apart from read.
    pub execute: bool,
    /// Interrupts that devices send are remapped, so that a device can forge none.
    pub interrupts_isolated: bool,
    /// The unit sees which device sends a request. Where not, all its devices are treated as one.
    pub tells_devices_apart: bool,
    /// Spaces can be attached to a PASID of a device.
    pub pasid: bool,
}

/// An IOMMU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Name, unique among the units.
    pub name: String,
    /// Its kind.
    pub kind: UnitKind,
    /// Address of its registers, where it has any.
    pub address: Option<u64>,
    /// What it can do.
    pub capabilities: UnitCapabilities,
    /// Where the knowledge of it comes from, in words: a table and offset, a line of a file, sysfs.
    pub source: String,
}

/// What a reserved region is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReservedKind {
    /// Must stay mapped to itself for the device to work (RMRR, IVMD, RMR).
    Direct,
    /// As `Direct`, but the device works without once a driver has taken over.
    DirectRelaxable,
    /// No mapping may be there.
    Reserved,
    /// Where the device's interrupts go.
    Msi,
}

/// Addresses that a device cannot use for grants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReservedRegion {
    /// First and last byte.
    pub range: RangeInclusive<Iova>,
    /// What for.
    pub kind: ReservedKind,
    /// What a direct region permits; empty for the others.
    pub access: Access,
    /// Where the knowledge of it comes from.
    pub source: String,
}

/// How a device is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A PCI function.
    Pci,
    /// A device known by its registers.
    Mmio,
    /// A device known only by the number under which its unit sees it.
    Generic,
}

/// A device that can do DMA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Name, unique among the devices: `0000:03:00.0`, or what configuration or devicetree call it.
    pub name: String,
    /// Its kind.
    pub kind: DeviceKind,
    /// Names under which its requests reach the unit; the first is its own, others are aliases.
    pub requesters: Vec<Requester>,
    /// Registers, where they are known: base and bytes.
    pub registers: Option<(u64, u64)>,
    /// The unit that guards it; a device without one cannot be granted.
    pub unit: Option<UnitId>,
    /// The group that it belongs to.
    pub group: GroupId,
    /// Where it cannot have grants.
    pub reserved: Vec<ReservedRegion>,
    /// What it is, for people: class, vendor and model.
    pub description: String,
    /// The driver that has it while no client does.
    pub driver: Option<String>,
    /// PASIDs that it can use, 0 for none.
    pub pasid_bits: u8,
    /// Interrupt vectors that the manager can grant it. 0 where it grants none; how else the device's interrupts come to its client, the
    /// back end says.
    pub vectors: u32,
    /// Where the knowledge of it comes from.
    pub source: String,
}

/// Devices that can reach each other's memory, or that the unit cannot tell apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its number, as the kernel or the firmware's topology gives it.
    pub id: GroupId,
    /// Why its members stand together: one sentence each, none for a group of one.
    pub reasons: Vec<String>,
}

/// Everything that a back end knows of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    /// Units; a [`UnitId`] is an index here.
    pub units: Vec<Unit>,
    /// Devices with their numbers.
    pub devices: Vec<(DeviceId, Device)>,
    /// Groups. Every device's group is here.
    pub groups: Vec<Group>,
}
