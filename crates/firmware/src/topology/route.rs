//! Routes: which device goes to which unit, and under which number.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portcullis_spec::{PciAddress, PhysAddr};

use super::{Fact, Source, UnitId};

/// A PCI function named by the way to it: a bus that firmware numbers, and device and function at each bridge on the
/// way down. Bus numbers below the first bridge are whatever software assigned, so the path must be walked
/// ([`PciPath::resolve`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
pub struct PciPath {
    /// Segment group.
    pub segment: u16,
    /// Bus on which the first hop lies.
    pub start_bus: u8,
    /// Device and function, one pair a hop; the last is the function meant.
    pub hops: Vec<(u8, u8)>,
}

/// What must be known of the host's PCI bridges to walk a path.
pub trait PciBridges {
    /// Secondary and subordinate bus of the bridge at `address`; `None` where there is no bridge.
    fn buses_behind(&self, address: PciAddress) -> Option<(u8, u8)>;
}

/// No bridge is known: paths of one hop still resolve.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBridges;

impl PciBridges for NoBridges {
    fn buses_behind(&self, _: PciAddress) -> Option<(u8, u8)> {
        None
    }
}

impl PciPath {
    /// A path of one hop: the function itself.
    #[must_use]
    pub fn function(address: PciAddress) -> Self {
        Self {
            segment: address.segment,
            start_bus: address.bus(),
            hops: alloc::vec![(address.device(), address.function())],
        }
    }

    /// The function at the end of the path. `None` where a hop is not a device and function number, or where a bridge
    /// on the way is not there.
    #[must_use]
    pub fn resolve(&self, bridges: &dyn PciBridges) -> Option<PciAddress> {
        let mut bus = self.start_bus;
        let (last, before) = self.hops.split_last()?;
        for &hop in before {
            bus = bridges.buses_behind(self.at(bus, hop)?)?.0;
        }
        self.at(bus, *last)
    }

    fn at(&self, bus: u8, (device, function): (u8, u8)) -> Option<PciAddress> {
        (device < 32 && function < 8).then(|| PciAddress::new(self.segment, bus, device, function))
    }
}

impl fmt::Display for PciPath {
    /// `0000:00:1c.0/00.0`: the first hop with its bus, then each further hop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:", self.segment, self.start_bus)?;
        for (index, (device, function)) in self.hops.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            write!(f, "{device:02x}.{function:x}")?;
        }
        Ok(())
    }
}

/// How firmware names a device that is not (only) a PCI function.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceName {
    /// Full path in the ACPI namespace (ANDD, IORT named component, RIMT platform device).
    AcpiPath(String),
    /// ACPI identifiers (IVHD entry 240).
    AcpiId {
        /// `_HID`.
        hid: String,
        /// `_CID`, where given.
        cid: Option<String>,
        /// `_UID`, where given; integers in decimal.
        uid: Option<String>,
    },
    /// Full path of a devicetree node.
    Node(String),
    /// First register of a platform device (VIOT).
    Mmio(PhysAddr),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AcpiPath(path) | Self::Node(path) => f.write_str(path),
            Self::AcpiId { hid, uid: Some(uid), .. } => write!(f, "{hid}:{uid}"),
            Self::AcpiId { hid, uid: None, .. } => f.write_str(hid),
            Self::Mmio(base) => write!(f, "mmio@{base}"),
        }
    }
}

/// Which devices a statement is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Devices {
    /// All PCI functions of a segment.
    Segment(u16),
    /// One PCI function.
    Function(PciPath),
    /// The PCI bridge at the end of the path and everything behind it.
    Hierarchy(PciPath),
    /// PCI functions by requester ID: those whose ID, after `mask`, lies in `first..=last`.
    Requesters {
        /// Segment.
        segment: u16,
        /// First.
        first: u16,
        /// Last.
        last: u16,
        /// Bits of the requester ID that count (devicetree `iommu-map-mask`); 0xffff where all do.
        mask: u16,
    },
    /// One device by its name. The same device may also be reached by requester ID (see [`Route::ids`]).
    Named(DeviceName),
    /// Whatever reaches a unit under these numbers (IORT RMR).
    Ids {
        /// The unit.
        unit: UnitId,
        /// First.
        first: u32,
        /// Last.
        last: u32,
    },
}

impl Devices {
    /// All requester IDs `first..=last` of a segment.
    #[must_use]
    pub const fn requesters(segment: u16, first: u16, last: u16) -> Self {
        Self::Requesters { segment, first, last, mask: 0xffff }
    }

    /// Whether the PCI function `address` is among them. `false` for [`Devices::Named`] and [`Devices::Ids`], which are
    /// not about requester IDs.
    #[must_use]
    pub fn contains(&self, address: PciAddress, bridges: &dyn PciBridges) -> bool {
        match self {
            Self::Segment(segment) => address.segment == *segment,
            Self::Function(path) => path.segment == address.segment && path.resolve(bridges) == Some(address),
            Self::Hierarchy(path) => {
                path.segment == address.segment
                    && path.resolve(bridges).is_some_and(|bridge| {
                        bridge == address
                            || bridges
                                .buses_behind(bridge)
                                .is_some_and(|(first, last)| (first..=last).contains(&address.bus()))
                    })
            }
            Self::Requesters { segment, first, last, mask } => {
                *segment == address.segment && (*first..=*last).contains(&(address.requester_id & mask))
            }
            Self::Named(_) | Self::Ids { .. } => false,
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => write!(f, "all of segment {segment:04x}"),
            Self::Function(path) => write!(f, "{path}"),
            Self::Hierarchy(path) => write!(f, "{path} and all behind it"),
            Self::Requesters { segment, first, last, mask } => {
                let at = |requester_id| PciAddress { segment: *segment, requester_id };
                match (first == last, mask) {
                    (true, 0xffff) => write!(f, "{}", at(*first)),
                    (false, 0xffff) => write!(f, "{} to {}", at(*first), at(*last)),
                    (_, mask) => write!(f, "{} to {} (mask {mask:#06x})", at(*first), at(*last)),
                }
            }
            Self::Named(name) => write!(f, "{name}"),
            Self::Ids { unit, first, last } => write!(f, "IDs {first:#x} to {last:#x} of unit {}", unit.0),
        }
    }
}

/// Under which number a device's requests reach the next node: what it is, given the number that it starts with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdMap {
    /// The same number: the requester ID itself.
    Same,
    /// All of them under one number (AMD alias, IORT single mapping, a named device's StreamID).
    One(u32),
    /// `output + (number - input)`, for the `count` numbers from `input`. For PCI the number is the requester ID after the
    /// mask of [`Devices::Requesters`]; for a named device it is the device's own numbering of
    /// its identifiers.
    Offset {
        /// First input number.
        input: u32,
        /// Output for that.
        output: u32,
        /// How many; never 0. A `u64` because 2^32 is allowed.
        count: u64,
    },
}

impl IdMap {
    /// The number that `input` becomes; `None` where the map does not speak of it.
    #[must_use]
    pub fn apply(self, number: u32) -> Option<u32> {
        match self {
            Self::Same => Some(number),
            Self::One(output) => Some(output),
            Self::Offset { input, output, count } => {
                let distance = number.checked_sub(input)?;
                (u64::from(distance) < count).then(|| output.checked_add(distance)).flatten()
            }
        }
    }
}

/// What firmware says of the devices on a route beyond their number. `None` everywhere: it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize)]
pub struct RouteAttributes {
    /// ATS may be used (IORT root complex, RIMT), or must not (IVHD extended entries).
    pub ats: Option<bool>,
    /// Page requests may be used.
    pub pri: Option<bool>,
    /// Requests with PASIDs are forwarded; how many bits, where stated.
    pub pasid_bits: Option<u8>,
    /// The device can be stalled on a fault (IORT named component).
    pub stall: Option<bool>,
    /// Address bits that the device or root complex can drive.
    pub address_bits: Option<u8>,
    /// Accesses are coherent with the processors' caches.
    pub coherent: Option<bool>,
    /// AMD DTE setting: 0 INITPass, 1 EIntPass, 2 NMIPass, 5:4 SysMgt, 6 LINT0Pass, 7 LINT1Pass.
    pub dte_setting: Option<u8>,
}

/// One statement that devices go to a unit.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Route {
    /// Which devices.
    pub devices: Devices,
    /// To which unit; `None` says: to none, their DMA is not translated.
    pub unit: Option<UnitId>,
    /// Under which number.
    pub ids: IdMap,
    /// What else is said of them.
    pub attributes: RouteAttributes,
    /// Who says so.
    pub source: Source,
}

/// Where message-signalled interrupts come from, before the GIC ITS numbers them.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageOrigin {
    /// Devices that reach the ITS without passing a unit.
    Devices(Devices),
    /// Devices behind a unit, by StreamID; the map's input is the StreamID.
    Unit(UnitId),
    /// A unit's own messages.
    Own(UnitId),
}

/// One statement that messages go to a GIC ITS group under a DeviceID (IORT).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct MessageRoute {
    /// From whom.
    pub origin: MessageOrigin,
    /// Under which DeviceID.
    pub ids: IdMap,
    /// To the ITSs with these identifiers.
    pub its: Arc<[u32]>,
    /// Who says so.
    pub source: Source,
}

/// What kind of interrupt source is no ordinary device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InterruptSourceKind {
    /// An I/O APIC; its number is the APIC ID of the MADT.
    IoApic,
    /// A timer block that sends messages; its number is the HPET number of the HPET table.
    Hpet,
}

/// An I/O APIC or HPET, and the requester ID under which its messages reach the unit.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct InterruptSource {
    /// What it is.
    pub kind: InterruptSourceKind,
    /// Its number (see [`InterruptSourceKind`]).
    pub number: u8,
    /// The unit that remaps its messages.
    pub unit: UnitId,
    /// The requester ID that its messages carry.
    pub requester: PciPath,
    /// AMD DTE setting of that requester.
    pub dte_setting: Option<u8>,
    /// Who says so.
    pub source: Source,
}

/// What firmware says about ATS on devices or root ports.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtsStatement {
    /// ATSR with `ALL_PORTS`: every root port of the segment supports ATS.
    AllRootPorts(Fact<u16>),
    /// ATSR: these root ports support ATS.
    RootPorts(Vec<Fact<Devices>>),
    /// SATC: these SoC-integrated devices have an address translation cache.
    Integrated {
        /// `ATC_REQUIRED`: they work only with ATS on.
        required: bool,
        /// Which.
        devices: Vec<Fact<Devices>>,
    },
}

/// Properties of an SoC-integrated device (DMAR SIDP).
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct IntegratedDevice {
    /// Which.
    pub devices: Devices,
    /// The scope entry's flags (VT-d 8.8): 0 `REQ_WO_PASID_NESTED_NOTALLOWED`, 1 `REQ_WO_PASID_PWSNP_NOTALLOWED`,
    /// 2 `REQ_WO_PASID_PGSNP_NOTALLOWED`, 3 `ATC_HARDENED`, 4 `ATC_REQUIRED`.
    pub flags: u8,
    /// Who says so.
    pub source: Source,
}
