//! What configuration says of units, devices and reserved regions, put in force over what runs.
//!
//! The running machine is the authority: the kernel, or the simulation, has set its units up, and a configuration cannot move a device
//! to another. What it says is therefore one of three things: the same that the machine says, which it confirms; less (a device
//! without a unit, one more reserved region), which is put in force; or something else, which is refused with its place.

use std::collections::BTreeMap;

use portcullis_firmware::{
    topology::{
        Architecture, Declared, Devices, Fact, IdMap, PciBridges, RegisterWindow, ReservedKind as Kind,
        Route, RouteAttributes, Source, Topology, Unit as FirmwareUnit, UnitId as FirmwareUnitId,
    },
    user::{How, MergeError, Mode, UserInput, merge},
};
use portcullis_spec::{Iova, PciAddress, PhysAddr, Requester};

use super::Configuration;
use crate::inventory::{Device, Inventory, ReservedKind, ReservedRegion, UnitId, UnitKind};

/// Why what configuration says of the machine cannot be put in force.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TopologyError {
    /// It contradicts itself, or what it is to be merged with.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// A unit that the running machine does not have.
    #[error("{at}: the running machine has no unit `{name}`; it has {has}")]
    NoSuchUnit {
        /// The unit.
        name: String,
        /// Those that are there.
        has: String,
        /// Where it is said.
        at: Source,
    },
    /// A unit that is another kind than said.
    #[error("{at}: unit `{name}` is {is}")]
    OtherKind {
        /// The unit.
        name: String,
        /// What it is.
        is: String,
        /// Where it is said.
        at: Source,
    },
    /// A device that the running machine has behind another unit, or under another number.
    #[error("{at}: the running machine has {device} {is}, and a configuration cannot move it")]
    Elsewhere {
        /// The device.
        device: String,
        /// Where it is.
        is: String,
        /// Where it is said.
        at: Source,
    },
    /// A region that the running machine keeps whatever is said.
    #[error("{at}: the running machine keeps its reserved regions, and a configuration cannot remove one")]
    RegionStays {
        /// Where it is said.
        at: Source,
    },
}

/// What a simulated machine's firmware would say of it.
#[must_use]
pub fn describe(inventory: &Inventory) -> Topology {
    let source = |path: &str| Source::Sysfs { path: path.to_owned() };
    let mut topology = Topology::default();
    for (id, unit) in (0u32..).zip(&inventory.units) {
        let Some(architecture) = architecture(unit.kind) else { continue };
        let source = source(&unit.source);
        topology.units.push(FirmwareUnit {
            id: FirmwareUnitId(id),
            name: Fact::new(unit.name.clone(), source.clone()),
            architecture: Fact::new(architecture, source.clone()),
            registers: unit
                .address
                .map(|base| Fact::new(RegisterWindow { base: PhysAddr(base), size: None }, source.clone())),
            segment: None,
            function: None,
            proximity: None,
            wires: Vec::new(),
            declared: Fact::new(Declared::Nothing, source.clone()),
            source,
        });
    }
    for (_, device) in &inventory.devices {
        let Some(address) = address(device) else { continue };
        topology.routes.push(Route {
            devices: Devices::requesters(address.segment, address.requester_id, address.requester_id),
            unit: device.unit.map(|unit| FirmwareUnitId(unit.0)),
            ids: IdMap::Same,
            attributes: RouteAttributes::default(),
            source: source(&device.source),
        });
    }
    topology
}

/// Puts in force what configuration says. `firmware` is what firmware says of the machine, `bridges` what is needed to follow its
/// paths.
///
/// # Errors
///
/// The first thing that it says and that is not so.
pub fn put_in_force(
    user: &UserInput,
    firmware: Topology,
    bridges: &dyn PciBridges,
    mut inventory: Inventory,
) -> Result<Inventory, TopologyError> {
    if let Some(region) = user.reserved.iter().find(|region| region.how == Some(How::Remove)) {
        return Err(TopologyError::RegionStays { at: region.source.clone() });
    }
    let before = firmware.clone();
    let merged = merge(firmware, user)?;
    let units = confirm_units(&merged, &mut inventory)?;
    let names: Vec<String> = inventory.units.iter().map(|unit| unit.name.clone()).collect();
    for (_, device) in &mut inventory.devices {
        let Some(address) = address(device) else { continue };
        match merged.resolve(address, bridges) {
            Some(way) if way.route.source.is_user() => {
                let at = &way.route.source;
                let unit = match way.unit {
                    None => None,
                    Some(unit) => units.get(&unit).copied().or(Some(UnitId(u32::MAX))),
                };
                confirm_device(device, unit, way.requester, &names, at)?;
                device.unit = unit;
                device.source = format!("{}, {at}", device.source);
            }
            Some(_) => {}
            None => {
                let dropped = user.mode == Mode::Ignore || before.resolve(address, bridges).is_some();
                if dropped && device.unit.is_some() {
                    device.unit = None;
                    device.source = format!("{}, without a unit by configuration", device.source);
                }
            }
        }
        let regions = merged.reserved.iter().filter(|region| region.source.is_user());
        let regions = regions.filter(|region| {
            let meant = |devices: &Fact<Devices>| devices.value.contains(address, bridges);
            region.devices.is_empty() || region.devices.iter().any(meant)
        });
        device.reserved.extend(regions.map(|region| ReservedRegion {
            range: Iova(region.range.value.first)..=Iova(region.range.value.last),
            kind: reserved_kind(region.kind.value),
            access: region.access,
            source: region.source.to_string(),
        }));
    }
    Ok(inventory)
}

/// Whether what configuration says of the machine can be put in force on any machine: firmware is ignored, so that all of it stands here.
///
/// # Errors
///
/// Why not.
pub fn check(configuration: &Configuration) -> Result<(), TopologyError> {
    let user = &configuration.firmware;
    if user.mode == Mode::Ignore {
        merge(Topology::default(), user)?;
    }
    Ok(())
}

/// The units that configuration speaks of, as the running machine has them; they get the names that it gives.
fn confirm_units(
    merged: &Topology,
    inventory: &mut Inventory,
) -> Result<BTreeMap<FirmwareUnitId, UnitId>, TopologyError> {
    let has = || inventory.units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>().join(", ");
    let has = if inventory.units.is_empty() { "none".to_owned() } else { has() };
    let mut known = BTreeMap::new();
    for unit in &merged.units {
        let base = unit.registers.as_ref().map(|window| window.value.base.0);
        let by_place = || inventory.units.iter().position(|u| base.is_some() && u.address == base);
        let by_name = || {
            inventory.units.iter().position(|running| {
                running.name == unit.name.value
                    && (base.is_none() || running.address.is_none_or(|at| Some(at) == base))
            })
        };
        let by_user = unit.source.is_user() || unit.name.source.is_user();
        let Some(at) = by_place().or_else(by_name) else {
            if by_user {
                let (name, at) = (unit.name.value.clone(), unit.name.source.clone());
                return Err(TopologyError::NoSuchUnit { name, has, at });
            }
            continue;
        };
        let Some(running) = inventory.units.get_mut(at) else { continue };
        if unit.architecture.source.is_user() && architecture(running.kind) != Some(unit.architecture.value) {
            return Err(TopologyError::OtherKind {
                name: unit.name.value.clone(),
                is: architecture(running.kind).map_or("no unit of its own".into(), |kind| kind.to_string()),
                at: unit.architecture.source.clone(),
            });
        }
        if by_user {
            running.name.clone_from(&unit.name.value);
            running.source = format!("{}, {}", running.source, unit.name.source);
        }
        known.insert(unit.id, UnitId(at as u32));
    }
    Ok(known)
}

/// Whether the running machine has the device where configuration says, or configuration leaves it without a unit.
fn confirm_device(
    device: &Device,
    unit: Option<UnitId>,
    requester: Requester,
    names: &[String],
    at: &Source,
) -> Result<(), TopologyError> {
    let Some(unit) = unit else { return Ok(()) };
    let elsewhere = |is: String| TopologyError::Elsewhere { device: device.name.clone(), is, at: at.clone() };
    if device.unit != Some(unit) {
        let name = device.unit.and_then(|unit| names.get(unit.0 as usize));
        return Err(elsewhere(name.map_or("behind no unit".into(), |name| format!("behind {name}"))));
    }
    if !device.requesters.iter().any(|known| known.index() == requester.index()) {
        let known: Vec<String> = device.requesters.iter().map(ToString::to_string).collect();
        return Err(elsewhere(format!("under the number {}", known.join(", "))));
    }
    Ok(())
}

/// The function that the device is, or would be on a PCI bus: simulated devices have their numbers from there.
fn address(device: &Device) -> Option<PciAddress> {
    match device.requesters.first()? {
        Requester::Pci(address) => Some(*address),
        other => Some(PciAddress { segment: 0, requester_id: u16::try_from(other.index()).ok()? }),
    }
}

fn architecture(kind: UnitKind) -> Option<Architecture> {
    Some(match kind {
        UnitKind::Vtd => Architecture::Vtd,
        UnitKind::AmdVi => Architecture::AmdVi,
        UnitKind::SmmuV3 => Architecture::SmmuV3,
        UnitKind::SmmuV2 => Architecture::SmmuV2,
        UnitKind::Riscv => Architecture::Riscv,
        UnitKind::Virtio => Architecture::Virtio,
        UnitKind::Upstream => return None,
    })
}

fn reserved_kind(kind: Kind) -> ReservedKind {
    match kind {
        Kind::Rmr { remapping_permitted: true, .. } => ReservedKind::DirectRelaxable,
        Kind::Rmrr | Kind::Unity | Kind::Exclusion | Kind::Rmr { .. } => ReservedKind::Direct,
        Kind::Unmapped | Kind::NoMap => ReservedKind::Reserved,
        Kind::Msi => ReservedKind::Msi,
    }
}
