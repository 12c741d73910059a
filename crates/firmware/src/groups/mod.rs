//! Which PCI functions can only be granted together, and why.
//!
//! Two functions stand in one group when a unit cannot tell their requests apart, or when they can reach each other's
//! memory without passing a unit:
//!
//! - requests of devices behind a conventional PCI bus carry the bridge's requester ID (an *alias*);
//! - some devices send requests under another function's ID;
//! - a multifunction device, or a switch or root port, without ACS (PCIe 6.12) may pass requests on directly;
//! - firmware may give several devices one StreamID.
//!
//! The rules are those by which Linux makes its groups (`drivers/iommu/iommu.c`, `drivers/pci/search.c` and the
//! devices known to `drivers/pci/quirks.c`), so that the result can be compared with the kernel's own; but each
//! membership says its [`Cause`].

mod acs;
mod function;
mod quirks;
mod union;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use portcullis_spec::{PciAddress, Requester};

pub use acs::{Acs, AcsState};
pub use function::{ConfigError, ConfigReach, Function, PciExpress, PortType, TranslationServices};

use crate::topology::{Architecture, PciBridges, Topology, UnitId};
use union::Union;

/// Buses on the way to a root bus that are followed; more than the 256 of a segment can only be a loop.
const MAX_DEPTH: usize = 256;

/// Every PCI function of a machine.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    list: BTreeMap<PciAddress, Function>,
    /// The bridge above each bus.
    above: BTreeMap<(u16, u8), PciAddress>,
}

impl Functions {
    /// Puts functions together. Of two with one address the later counts.
    #[must_use]
    pub fn new(functions: impl IntoIterator<Item = Function>) -> Self {
        let list: BTreeMap<_, _> = functions
            .into_iter()
            .map(|mut function| {
                // Only function 0 must have the bit set; a physical function beside it tells as much.
                function.multifunction |= function.address.function() > 0 && function.physical.is_none();
                (function.address, function)
            })
            .collect();
        let above = list
            .values()
            .filter_map(|function| {
                let (secondary, _) = function.buses?;
                // A bridge that is not configured has secondary bus 0.
                (secondary != function.address.bus() && secondary != 0)
                    .then_some(((function.address.segment, secondary), function.address))
            })
            .collect();
        Self { list, above }
    }

    /// The function at `address`.
    #[must_use]
    pub fn get(&self, address: PciAddress) -> Option<&Function> {
        self.list.get(&address)
    }

    /// All functions, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.list.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bridge directly above the function; `None` on a root bus. Virtual functions may lie on a bus of their own,
    /// below which the physical function's bridge stands.
    #[must_use]
    pub fn bridge_above(&self, function: &Function) -> Option<&Function> {
        let at = |address: PciAddress| self.above.get(&(address.segment, address.bus()));
        let bridge = at(function.address).or_else(|| function.physical.and_then(at))?;
        self.list.get(bridge)
    }

    /// The bridges above the function, the nearest first.
    pub fn path_to_root<'a>(&'a self, function: &'a Function) -> impl Iterator<Item = &'a Function> {
        let mut at = Some(function);
        core::iter::from_fn(move || {
            at = self.bridge_above(at?);
            at
        })
        .take(MAX_DEPTH)
    }

    /// The functions of the same device: bus and device number are the same.
    fn slot(&self, address: PciAddress) -> impl Iterator<Item = &Function> {
        let first = PciAddress::new(address.segment, address.bus(), address.device(), 0);
        let last = PciAddress::new(address.segment, address.bus(), address.device(), 7);
        self.list.range(first..=last).map(|(_, function)| function)
    }
}

impl PciBridges for Functions {
    fn buses_behind(&self, address: PciAddress) -> Option<(u8, u8)> {
        self.list.get(&address)?.buses
    }
}

/// Why a function stands in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It shares a device with the other and the two may talk directly.
    MultifunctionWithoutAcs,
    /// It lies behind this bridge to a conventional PCI bus, under whose requester ID its requests arrive.
    BehindConventionalBridge,
    /// It lies behind this bridge, and the port `at`, on the way to the root, may pass requests on directly.
    PathWithoutAcs {
        /// The port.
        at: PciAddress,
        /// What it lacks.
        lacks: AcsState,
    },
    /// It sends requests under the other's requester ID (a known defect of the device).
    DmaAlias,
    /// Firmware gives both the same number at the unit.
    SharedId {
        /// The unit.
        unit: UnitId,
        /// The number there.
        id: u32,
    },
}

/// One membership: `member` stands with `with` because of `cause`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Membership {
    /// The function.
    pub member: PciAddress,
    /// With whom it stands.
    pub with: PciAddress,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { member, with, cause } = self;
        write!(f, "{member} shares with {with}: ")?;
        match cause {
            Cause::MultifunctionWithoutAcs => f.write_str("multifunction without ACS"),
            Cause::BehindConventionalBridge => {
                f.write_str("behind a bridge to conventional PCI, whose ID its requests carry")
            }
            Cause::PathWithoutAcs { at, lacks } if at == with => {
                write!(f, "behind that port, which {lacks}")
            }
            Cause::PathWithoutAcs { at, lacks } => write!(f, "behind that port, and {at} above {lacks}"),
            Cause::DmaAlias => f.write_str("it sends requests under that function's ID"),
            Cause::SharedId { id, .. } => write!(f, "firmware gives both the number {id:#x} at their unit"),
        }
    }
}

/// Functions that can only be granted together.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Group {
    /// The members, in the order of their addresses.
    pub members: Vec<PciAddress>,
    /// Why they stand together: one fewer than there are members.
    pub memberships: Vec<Membership>,
}

/// The groups of `functions`, in the order of their first members. With a `topology`, functions that reach a unit under the same
/// number stand together too.
#[must_use]
pub fn groups(functions: &Functions, topology: Option<&Topology>) -> Vec<Group> {
    let amd = topology.is_some_and(|topology| {
        topology.units.iter().any(|unit| unit.architecture.value == Architecture::AmdVi)
    });
    let mut union = Union::new(functions.iter().map(|function| function.address));
    for function in functions.iter() {
        join(functions, function, amd, &mut union);
    }
    if let Some(topology) = topology {
        join_shared_ids(functions, topology, &mut union);
    }
    union.into_groups()
}

/// Joins one function with those that it shares a group with (Linux `pci_device_group`).
fn join(functions: &Functions, function: &Function, amd: bool, union: &mut Union) {
    // The topmost bridge to conventional PCI bounds what a unit can tell apart.
    let mut top = function;
    for bridge in functions.path_to_root(function) {
        if bridge.takes_requests_over() {
            union.join(function.address, bridge.address, Cause::BehindConventionalBridge);
            top = bridge;
        }
    }
    // From there up to where ACS holds on the whole way to the root.
    let mut bridge = functions.bridge_above(top);
    let mut depth = 0;
    while let Some(port) = bridge.filter(|_| depth < MAX_DEPTH) {
        let open = core::iter::once(port)
            .chain(functions.path_to_root(port))
            .find_map(|at| Some((at.address, acs::lacking(functions, at, amd)?)));
        let Some((at, lacks)) = open else { break };
        union.join(top.address, port.address, Cause::PathWithoutAcs { at, lacks });
        top = port;
        bridge = functions.bridge_above(port);
        depth += 1;
    }
    for (subject, alias) in quirks::dma_alias(function)
        .map(|alias| (function, alias))
        .into_iter()
        .chain(quirks::dma_alias(top).map(|alias| (top, alias)))
    {
        if functions.get(alias).is_some() {
            union.join(subject.address, alias, Cause::DmaAlias);
        }
    }
    if top.multifunction && acs::lacking(functions, top, amd).is_some() {
        for other in functions.slot(top.address) {
            if other.address != top.address && acs::lacking(functions, other, amd).is_some() {
                union.join(top.address, other.address, Cause::MultifunctionWithoutAcs);
            }
        }
    }
}

fn join_shared_ids(functions: &Functions, topology: &Topology, union: &mut Union) {
    let mut first: BTreeMap<(UnitId, u32), PciAddress> = BTreeMap::new();
    for function in functions.iter() {
        let Some(way) = topology.resolve(function.address, functions) else { continue };
        let Some(unit) = way.unit else { continue };
        let id = match way.requester {
            // Requester IDs are unique only within a segment.
            Requester::Pci(address) => u32::from(address.segment) << 16 | u32::from(address.requester_id),
            other => other.index(),
        };
        match first.entry((unit, id)) {
            alloc::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(function.address);
            }
            alloc::collections::btree_map::Entry::Occupied(entry) => {
                union.join(
                    function.address,
                    *entry.get(),
                    Cause::SharedId { unit, id: way.requester.index() },
                );
            }
        }
    }
}
