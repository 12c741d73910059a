//! The interrupt remapping table (VT-d 5.1, 9.9), as the driver keeps it.

use portcullis_spec::vtd::interrupt::{
    IRTE_SIZE, IrteHigh, RemappableAddress, RemappableData, RemappedLow, SourceValidation,
};
use portcullis_spec::vtd::invalidation::InvalidationDescriptor;
use portcullis_spec::vtd::registers::Irta;
use portcullis_spec::{
    InterruptMessage, InterruptRoute, InterruptScope, Invalidation, Iova, PhysAddr, Requester,
};

use super::Vtd;
use crate::common::architecture::ContextError;
use crate::common::interrupts::InterruptFeatures;
use crate::common::region::Device;
use crate::error::{Error, Feature, UnitError};
use crate::platform::{Memory, Mmio, Platform};

/// Vectors of a device that can share one address, their data counting up: as many as MSI without a table has (PCI 3.0, 6.8.1).
const SHARING: u32 = 32;

/// How interrupts are to be remapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptOptions {
    /// log2 of the table's entries, 8 to 16.
    pub size: u8,
    /// Extended interrupt mode: destinations are x2APIC IDs, and requests in compatibility format never pass.
    pub x2apic: bool,
}

impl Default for InterruptOptions {
    /// A table of 65536 entries (1 MiB), with xAPIC destinations.
    fn default() -> Self {
        Self { size: 16, x2apic: false }
    }
}

/// The table of one unit. Changes of one device's entries do not overlap.
pub(super) struct Table {
    base: PhysAddr,
    size: u8,
    x2apic: bool,
    coherent: bool,
}

impl Table {
    /// A table in which every entry blocks. `None` where the platform has no memory.
    pub(super) fn allocate(memory: &impl Memory, options: InterruptOptions, coherent: bool) -> Option<Self> {
        let InterruptOptions { size, x2apic } = options;
        let size = size.clamp(8, 16);
        let bytes = IRTE_SIZE << size;
        // 11.4.10.1: aligned to its size.
        let base = memory.allocate(bytes, bytes)?;
        if !coherent {
            memory.flush(base, bytes);
        }
        Some(Self { base, size, x2apic, coherent })
    }

    /// Gives its memory back. The unit does not read it any more.
    pub(super) fn free(&self, memory: &impl Memory) {
        let bytes = IRTE_SIZE << self.size;
        memory.free(self.base, bytes, bytes);
    }

    pub(super) const fn features(&self) -> InterruptFeatures {
        InterruptFeatures { entries: 1 << self.size, per_device: false }
    }

    /// IRTA_REG for the table.
    pub(super) const fn register(&self) -> Irta {
        Irta::new().with_irta(self.base.0 >> 12).with_eime(self.x2apic).with_s(self.size - 1)
    }

    const fn at(&self, index: u32) -> PhysAddr {
        PhysAddr(self.base.0 + IRTE_SIZE * index as u64)
    }

    fn flush(&self, memory: &impl Memory, index: u32) {
        if !self.coherent {
            memory.flush(self.at(index), IRTE_SIZE);
        }
    }

    fn low(&self, memory: &impl Memory, index: u32) -> RemappedLow {
        RemappedLow::from_bits(memory.load64(self.at(index)))
    }

    fn set_low(&self, memory: &impl Memory, index: u32, low: RemappedLow) {
        memory.store64(self.at(index), low.into_bits());
        self.flush(memory, index);
    }

    /// Says who may use an entry that is not present.
    fn set_high(&self, memory: &impl Memory, index: u32, high: IrteHigh) {
        memory.store64(PhysAddr(self.at(index).0 + 8), high.into_bits());
        self.flush(memory, index);
    }
}

/// Whose requests a device's entries take (VT-d 9.9): those of its requester alone; or, where phantom functions send for it, those of
/// the fewest functions of its slot that cover them; or, behind a bridge that gives it aliases on other buses or slots, those of all these
/// buses.
fn source(device: &Device) -> IrteHigh {
    let ids = || {
        device.requesters.iter().filter_map(|requester| match requester {
            Requester::Pci(address) => Some(address.requester_id),
            _ => None,
        })
    };
    let first = ids().next().unwrap_or(0);
    let differing = ids().fold(0, |bits, id| bits | (id ^ first));
    let exact = IrteHigh::new().with_sid(first).with_svt(SourceValidation::SourceId);
    match differing {
        0 => exact,
        0b100 => exact.with_sq(0b01),
        0b010 | 0b110 => exact.with_sq(0b10),
        0b001 | 0b011 | 0b101 | 0b111 => exact.with_sq(0b11),
        _ => {
            let (low, high) = ids().map(|id| id >> 8).fold((0xff, 0), |(low, high), bus| {
                (if bus < low { bus } else { low }, if bus > high { bus } else { high })
            });
            IrteHigh::new().with_svt(SourceValidation::BusRange).with_sid(low << 8 | high)
        }
    }
}

/// What a device writes for entry `index`: the vectors of a run share an address, and their data count up from a multiple of the run's
/// size, so that it suits MSI with and without a table.
fn message(index: u32) -> InterruptMessage {
    let handle = index / SHARING * SHARING;
    InterruptMessage {
        address: Iova(RemappableAddress::of(handle as u16, true).into_bits().into()),
        data: RemappableData::new().with_subhandle((index - handle) as u16).into_bits(),
    }
}

impl<M: Mmio, P: Platform> Vtd<M, P> {
    /// Sets the table, with every entry blocked; it counts once remapping is in force.
    pub(super) fn take_over_interrupts(&self) -> Result<(), UnitError> {
        let Some(table) = &self.interrupts else { return Ok(()) };
        self.registers.set_interrupt_table(&self.platform, table.register())?;
        // 11.4.4.1, SIRTP: software invalidates unless CAP.ESIRTPS says that setting the pointer does it.
        if !self.capabilities.cap.esirtps() {
            self.send(&[InvalidationDescriptor::InterruptEntryCache { index: None }])?;
        }
        self.registers.set_compatibility_interrupts(&self.platform, false)
    }

    /// Puts interrupt remapping in force, or ends it.
    pub(super) fn set_interrupt_remapping(&self, on: bool) -> Result<(), UnitError> {
        match &self.interrupts {
            Some(_) => self.registers.set_interrupt_remapping(&self.platform, on),
            None => Ok(()),
        }
    }

    pub(super) fn write_interrupt(
        &self,
        device: &Device,
        index: u32,
        route: &InterruptRoute,
    ) -> Result<InterruptMessage, ContextError> {
        let refused = |feature| ContextError::Refused(Error::Unsupported(feature));
        let Some(table) = &self.interrupts else { return Err(refused(Feature::Interrupts)) };
        let memory = &self.platform;
        let low = match route {
            InterruptRoute::Blocked(report) => RemappedLow::new().with_fpd(report.is_none()),
            route => RemappedLow::of(route, table.x2apic).ok_or(refused(Feature::Route(*route)))?,
        };
        let former = table.low(memory, index);
        if !former.p() {
            table.set_high(memory, index, source(device));
        }
        // The source stays the same as long as the device has the entry, so that one store of the low half changes it whole.
        table.set_low(memory, index, low);
        let seen = if former.p() || self.capabilities.cap.cm() {
            self.forget_interrupts(index, index)
        } else {
            self.flush_write_buffer()
        };
        seen.map(|()| message(index)).map_err(ContextError::Uncertain)
    }

    pub(super) fn clear_interrupts(&self, first: u32, count: u32) -> Result<(), UnitError> {
        let Some(table) = &self.interrupts else { return Ok(()) };
        let entries = first..first.saturating_add(count);
        for index in entries.clone() {
            table.set_low(&self.platform, index, RemappedLow::new());
        }
        self.forget_interrupts(first, entries.end.saturating_sub(1))?;
        for index in entries {
            table.set_high(&self.platform, index, IrteHigh::new());
        }
        Ok(())
    }

    /// 6.5.2.7: the wait that follows completes when nothing is under way through the entries any more.
    fn forget_interrupts(&self, first: u32, last: u32) -> Result<(), UnitError> {
        self.send(&self.descriptors(&[Invalidation::Interrupts(InterruptScope::Range { first, last })]))
    }
}

#[cfg(test)]
mod tests {
    use super::{message, source};
    use crate::common::region::Device;
    use portcullis_spec::{PciAddress, Requester};

    fn of(ids: &[u16]) -> u64 {
        let requester = |id: &u16| Requester::Pci(PciAddress { segment: 0, requester_id: *id });
        let requesters = ids.iter().map(requester).collect();
        source(&Device { requesters, pasid_bits: 0, regions: alloc::vec::Vec::new() }).into_bits()
    }

    /// 9.9, by hand: SVT in 19:18, SQ in 17:16.
    #[test]
    fn a_source_is_as_narrow_as_its_requesters() {
        assert_eq!(of(&[0x1234]), 0x4_1234);
        assert_eq!(of(&[0x1230, 0x1234]), 0x5_1230);
        assert_eq!(of(&[0x1230, 0x1232]), 0x6_1230);
        assert_eq!(of(&[0x1230, 0x1232, 0x1234, 0x1236]), 0x6_1230);
        assert_eq!(of(&[0x1230, 0x1231]), 0x7_1230);
        // Aliases: the bridge's own, on the bus below it, or in another slot.
        assert_eq!(of(&[0x0510, 0x0400]), 0x8_0405);
        assert_eq!(of(&[0x0510, 0x0500]), 0x8_0505);
    }

    #[test]
    fn the_vectors_of_a_run_share_an_address() {
        let raw = |index| (message(index).address.0, message(index).data);
        // SHV is bit 3, the format bit 4; handle bits 14:0 stand in 19:5.
        assert_eq!(raw(0), (0xfee0_0018, 0));
        assert_eq!(raw(31), (0xfee0_0018, 31));
        assert_eq!(raw(40), (0xfee0_0018 | 32 << 5, 8));
        assert_eq!(raw(0xffff), (0xfee0_0018 | 0x7fe0 << 5 | 1 << 2, 31));
    }
}
