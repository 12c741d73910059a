//! Two topologies as one: a machine may have more than one table.

use super::{AtsStatement, Devices, MessageOrigin, Platform, Topology, UnitId};

impl Topology {
    /// Adds what another source says. This topology's routes stay stronger, its platform facts stay; the other's units get
    /// numbers behind this one's.
    pub fn append(&mut self, other: Self) {
        let Self {
            platform,
            units,
            routes,
            message_routes,
            interrupt_sources,
            reserved,
            ats,
            integrated,
            findings,
        } = other;
        // There are fewer units than bytes in a table.
        let shift = u32::try_from(self.units.len()).unwrap_or(u32::MAX);
        let moved = |id: UnitId| UnitId(id.0.saturating_add(shift));
        let devices = |devices: &mut Devices| {
            if let Devices::Ids { unit, .. } = devices {
                *unit = moved(*unit);
            }
        };
        self.platform.append(platform);
        self.units.extend(units.into_iter().map(|mut unit| {
            unit.id = moved(unit.id);
            unit
        }));
        self.routes.extend(routes.into_iter().map(|mut route| {
            route.unit = route.unit.map(moved);
            devices(&mut route.devices);
            route
        }));
        self.message_routes.extend(message_routes.into_iter().map(|mut route| {
            match &mut route.origin {
                MessageOrigin::Devices(origin) => devices(origin),
                MessageOrigin::Unit(unit) | MessageOrigin::Own(unit) => *unit = moved(*unit),
            }
            route
        }));
        self.interrupt_sources.extend(interrupt_sources.into_iter().map(|mut source| {
            source.unit = moved(source.unit);
            source
        }));
        self.reserved.extend(reserved.into_iter().map(|mut region| {
            region.devices.iter_mut().for_each(|fact| devices(&mut fact.value));
            region
        }));
        self.ats.extend(ats.into_iter().map(|mut statement| {
            match &mut statement {
                AtsStatement::AllRootPorts(_) => {}
                AtsStatement::RootPorts(list) | AtsStatement::Integrated { devices: list, .. } => {
                    list.iter_mut().for_each(|fact| devices(&mut fact.value));
                }
            }
            statement
        }));
        self.integrated.extend(integrated.into_iter().map(|mut device| {
            devices(&mut device.devices);
            device
        }));
        self.findings.append(findings);
    }
}

impl Platform {
    /// Takes from `other` what this one does not say.
    fn append(&mut self, other: Self) {
        fn or<T>(own: &mut Option<T>, other: Option<T>) {
            if own.is_none() {
                *own = other;
            }
        }
        or(&mut self.interrupt_remapping, other.interrupt_remapping);
        or(&mut self.x2apic_opt_out, other.x2apic_opt_out);
        or(&mut self.dma_opt_in, other.dma_opt_in);
        or(&mut self.physical_address_bits, other.physical_address_bits);
        or(&mut self.virtual_address_bits, other.virtual_address_bits);
        or(&mut self.guest_virtual_address_bits, other.guest_virtual_address_bits);
        or(&mut self.ht_ats_reserved, other.ht_ats_reserved);
        or(&mut self.efr_supported, other.efr_supported);
    }
}
