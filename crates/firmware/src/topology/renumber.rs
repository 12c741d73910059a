//! Units under other numbers, and fewer of them.

use alloc::collections::BTreeMap;

use super::{AtsStatement, Devices, MessageOrigin, Topology, UnitId};

impl MessageOrigin {
    /// The unit that it is behind, or that it is.
    #[must_use]
    pub const fn unit(&self) -> Option<UnitId> {
        match self {
            Self::Devices(_) => None,
            Self::Unit(unit) | Self::Own(unit) => Some(*unit),
        }
    }
}

impl Topology {
    /// Takes units out, with every way to them.
    pub(crate) fn remove_units(&mut self, removed: &[UnitId]) {
        if removed.is_empty() {
            return;
        }
        let mut kept = BTreeMap::new();
        self.units.retain(|unit| {
            let keep = !removed.contains(&unit.id);
            if keep {
                kept.insert(unit.id, UnitId(kept.len() as u32));
            }
            keep
        });
        self.renumber(|unit| kept.get(&unit).copied());
    }

    /// Gives units other ids; what speaks of one that gets none is dropped.
    pub(super) fn renumber(&mut self, new: impl Fn(UnitId) -> Option<UnitId>) {
        for unit in &mut self.units {
            unit.id = new(unit.id).unwrap_or(unit.id);
        }
        self.routes.retain_mut(|route| match route.unit {
            None => true,
            Some(unit) => {
                route.unit = new(unit);
                route.unit.is_some() && renumber_devices(&mut route.devices, &new)
            }
        });
        self.message_routes.retain_mut(|route| match &mut route.origin {
            MessageOrigin::Devices(devices) => renumber_devices(devices, &new),
            MessageOrigin::Unit(unit) | MessageOrigin::Own(unit) => new(*unit).map(|id| *unit = id).is_some(),
        });
        self.interrupt_sources.retain_mut(|source| new(source.unit).map(|id| source.unit = id).is_some());
        for region in &mut self.reserved {
            region.devices.retain_mut(|devices| renumber_devices(&mut devices.value, &new));
        }
        for statement in &mut self.ats {
            if let AtsStatement::RootPorts(devices) | AtsStatement::Integrated { devices, .. } = statement {
                devices.retain_mut(|devices| renumber_devices(&mut devices.value, &new));
            }
        }
        self.integrated.retain_mut(|device| renumber_devices(&mut device.devices, &new));
    }
}

fn renumber_devices(devices: &mut Devices, new: impl Fn(UnitId) -> Option<UnitId>) -> bool {
    match devices {
        Devices::Ids { unit, .. } => new(*unit).map(|id| *unit = id).is_some(),
        _ => true,
    }
}
