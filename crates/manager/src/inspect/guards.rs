//! Which of the kernel's units is which of firmware's.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_firmware::topology::{Declared, Unit, UnitId};

use crate::host::{Host, KernelUnit, UnitRegisters};

/// Which unit guards which device, by name.
pub(super) struct Guards {
    /// The kernel's unit of each device.
    pub(super) kernel: BTreeMap<String, usize>,
    /// The kernel's unit of each of firmware's.
    pub(super) driven: BTreeMap<UnitId, usize>,
}

impl Guards {
    pub(super) fn of(host: &Host) -> Self {
        let kernel = host
            .units
            .iter()
            .enumerate()
            .flat_map(|(place, unit)| unit.devices.iter().map(move |device| (device.clone(), place)))
            .collect();
        let mut taken = BTreeSet::new();
        let mut driven = BTreeMap::new();
        for unit in &host.firmware.topology.units {
            let found = host
                .units
                .iter()
                .enumerate()
                .position(|(place, kernel)| !taken.contains(&place) && same_unit(host, unit, kernel));
            if let Some(place) = found {
                taken.insert(place);
                driven.insert(unit.id, place);
            }
        }
        Self { kernel, driven }
    }
}

/// Whether firmware and kernel speak of one unit: its registers are in one place, or (AMD-Vi, whose driver does not tell) it is the
/// next of its kind.
fn same_unit(host: &Host, unit: &Unit, kernel: &KernelUnit) -> bool {
    let base = unit.registers.as_ref().map(|window| window.base.0);
    match kernel.registers {
        UnitRegisters::Vtd { address, .. } => Some(address) == base,
        UnitRegisters::AmdVi { .. } => matches!(unit.declared.value, Declared::AmdVi { .. }),
        UnitRegisters::Unknown => {
            let named = kernel.name.rsplit_once("0x").and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok());
            named.is_some() && named == base
                || host.firmware.topology.units.len() == 1 && host.units.len() == 1
        }
    }
}
