//! Two topologies as one: a machine may have more than one table.

use super::{Platform, Topology, UnitId};

impl Topology {
    /// Adds what another source says. This topology's routes stay stronger, its platform facts stay; the other's units get
    /// numbers behind this one's.
    pub fn append(&mut self, mut other: Self) {
        // There are fewer units than bytes in a table.
        let shift = u32::try_from(self.units.len()).unwrap_or(u32::MAX);
        other.renumber(|id| Some(UnitId(id.0.saturating_add(shift))));
        self.platform.append(other.platform);
        self.units.append(&mut other.units);
        self.routes.append(&mut other.routes);
        self.message_routes.append(&mut other.message_routes);
        self.interrupt_sources.append(&mut other.interrupt_sources);
        self.reserved.append(&mut other.reserved);
        self.ats.append(&mut other.ats);
        self.integrated.append(&mut other.integrated);
        self.findings.append(other.findings);
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
