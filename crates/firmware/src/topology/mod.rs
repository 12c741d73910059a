//! The one picture of a machine's IOMMUs that every source yields.
//!
//! - a *unit* is one IOMMU;
//! - a *route* says which devices go to which unit, and under which number;
//! - a *reserved region* is memory that some devices must keep reaching, or can never have translated;
//! - a *source* is where a statement came from;
//! - a *finding* is something wrong or remarkable with a source.

mod append;
mod finding;
mod renumber;
mod reserved;
mod route;
mod source;
mod unit;

use alloc::vec::Vec;

use portcullis_spec::{PciAddress, Requester};

pub use finding::{Finding, FindingKind, Findings, Severity};
pub use reserved::{AddressRange, ReservedKind, ReservedRegion};
pub use route::{
    AtsStatement, DeviceName, Devices, IdMap, IntegratedDevice, InterruptSource, InterruptSourceKind,
    MessageOrigin, MessageRoute, NoBridges, PciBridges, PciPath, Route, RouteAttributes,
};
pub use source::{Fact, Signature, Source};
pub use unit::{Architecture, Declared, RegisterWindow, Unit, UnitId, Wire, WirePurpose};

/// What is said of the platform as a whole. `None`: nobody says.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Platform {
    /// Interrupt remapping is supported (DMAR flag 0 `INTR_REMAP`).
    pub interrupt_remapping: Option<Fact<bool>>,
    /// Firmware asks software not to enable x2APIC (DMAR flag 1 `X2APIC_OPT_OUT`).
    pub x2apic_opt_out: Option<Fact<bool>>,
    /// Firmware has protected memory from DMA before boot, or asks software to use the IOMMU for protection (DMAR flag 2
    /// `DMA_CTRL_PLATFORM_OPT_IN_FLAG`, IVinfo bit 1 "DMA remap support").
    pub dma_opt_in: Option<Fact<bool>>,
    /// Physical address bits for DMA (DMAR Host Address Width + 1, IVinfo PASize).
    pub physical_address_bits: Option<Fact<u8>>,
    /// Virtual address bits (IVinfo VASize).
    pub virtual_address_bits: Option<Fact<u8>>,
    /// Guest virtual address bits (IVinfo GVASize).
    pub guest_virtual_address_bits: Option<Fact<u8>>,
    /// The address range for HyperTransport ATS responses is reserved (IVinfo HtAtsResv).
    pub ht_ats_reserved: Option<Fact<bool>>,
    /// The EFR images of the IVHDs are valid (IVinfo EFRSup).
    pub efr_supported: Option<Fact<bool>>,
}

/// A device's way, resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolved<'a> {
    /// The unit; `None` where its DMA is not translated.
    pub unit: Option<UnitId>,
    /// The number under which it reaches the unit.
    pub requester: Requester,
    /// The route that says so.
    pub route: &'a Route,
}

/// The one picture of a machine's IOMMUs.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Topology {
    /// The platform as a whole.
    pub platform: Platform,
    /// Units; a [`UnitId`] is an index into this list.
    pub units: Vec<Unit>,
    /// Routes, strongest first: the first that contains a device decides.
    pub routes: Vec<Route>,
    /// Ways of message-signalled interrupts to a GIC ITS, strongest first.
    pub message_routes: Vec<MessageRoute>,
    /// I/O APICs and HPETs.
    pub interrupt_sources: Vec<InterruptSource>,
    /// Reserved regions.
    pub reserved: Vec<ReservedRegion>,
    /// What is said about ATS.
    pub ats: Vec<AtsStatement>,
    /// SoC-integrated devices with properties.
    pub integrated: Vec<IntegratedDevice>,
    /// What is wrong or remarkable with the sources.
    pub findings: Findings,
}

impl Topology {
    /// The unit with this id.
    #[must_use]
    pub fn unit(&self, id: UnitId) -> Option<&Unit> {
        self.units.get(usize::try_from(id.0).ok()?)
    }

    /// Which unit guards the PCI function `address`, and under which number. `None` where nothing is said of it: its
    /// DMA is not translated.
    #[must_use]
    pub fn resolve(&self, address: PciAddress, bridges: &dyn PciBridges) -> Option<Resolved<'_>> {
        self.routes.iter().find_map(|route| {
            if !route.devices.contains(address, bridges) {
                return None;
            }
            let number = match route.devices {
                Devices::Requesters { mask, .. } => address.requester_id & mask,
                _ => address.requester_id,
            };
            let number = route.ids.apply(number.into())?;
            Some(Resolved { unit: route.unit, requester: self.requester(route.unit, address, number), route })
        })
    }

    /// All ways of the device called `name`: one for each number that it has.
    pub fn resolve_named<'a>(&'a self, name: &'a DeviceName) -> impl Iterator<Item = &'a Route> {
        self.routes
            .iter()
            .filter(move |route| matches!(&route.devices, Devices::Named(given) if given == name))
    }

    fn requester(&self, unit: Option<UnitId>, address: PciAddress, number: u32) -> Requester {
        match unit.and_then(|id| self.unit(id)).map(|unit| unit.architecture.value) {
            Some(Architecture::SmmuV1 | Architecture::SmmuV2 | Architecture::SmmuV3) => {
                Requester::Stream(number)
            }
            Some(Architecture::Riscv) => Requester::Device(number),
            Some(Architecture::Virtio) => Requester::Endpoint(number),
            // Requester IDs have 16 bits; an alias is one too.
            Some(Architecture::Vtd | Architecture::AmdVi) | None => {
                Requester::Pci(PciAddress { segment: address.segment, requester_id: number as u16 })
            }
        }
    }

    /// The reserved regions of the PCI function `address`.
    pub fn reserved_for<'a>(
        &'a self,
        address: PciAddress,
        bridges: &'a dyn PciBridges,
    ) -> impl Iterator<Item = &'a ReservedRegion> {
        let resolved = self.resolve(address, bridges);
        self.reserved.iter().filter(move |region| {
            region.devices.iter().any(|devices| match &devices.value {
                Devices::Ids { unit, first, last } => resolved.is_some_and(|way| {
                    way.unit == Some(*unit) && (*first..=*last).contains(&way.requester.index())
                }),
                devices => devices.contains(address, bridges),
            })
        })
    }
}
