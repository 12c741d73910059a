//! The fault queue (3.2): [`RecordRing`] in the RISC-V IOMMU's words.

use portcullis_spec::riscv::fault::{FAULT_RECORD_SIZE, FaultRecord as Record};

use super::registers::{FAULT_QUEUE, Registers};
use crate::common::architecture::{FaultCounts, FaultRecord};
use crate::common::records::RecordRing;
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

pub(super) struct FaultQueue {
    ring: RecordRing,
}

impl FaultQueue {
    /// A queue of `2^size` pages, not yet known to the unit.
    pub(super) fn allocate(platform: &impl Platform, size: u8) -> Option<Self> {
        Some(Self { ring: RecordRing::allocate(platform, size, FAULT_RECORD_SIZE, true)? })
    }

    pub(super) fn free(&self, platform: &impl Platform) {
        self.ring.free(platform);
    }

    pub(super) fn start<M: Mmio, P: Platform>(
        &mut self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        registers.queue_off(platform, FAULT_QUEUE)?;
        self.ring.restart();
        registers.queue_on(platform, FAULT_QUEUE, self.ring.base(), self.ring.entries())
    }

    pub(super) fn turn_off<M: Mmio, P: Platform>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        registers.queue_off(platform, FAULT_QUEUE)
    }

    /// Hands out the records that are there now; those that come meanwhile are for the next time.
    pub(super) fn read<M: Mmio, P: Platform>(
        &mut self,
        registers: &Registers<M, P>,
        platform: &P,
        sink: &mut dyn FnMut(FaultRecord),
    ) -> FaultCounts {
        let csr = registers.fqcsr();
        if csr.into_bits() == u32::MAX {
            return FaultCounts::default();
        }
        // Before the records are read: one that comes after raises the interrupt again.
        registers.acknowledge_faults();
        // 3: head and tail have no wrap bit; a ring of which they are equal is empty.
        let (head, wrapped) = self.ring.head();
        let tail = registers.fqt() & (self.ring.entries() - 1);
        let decode = |raw| Record::decode(raw).to_fault().map(|fault| FaultRecord { fault, raw });
        let mut counts = self.ring.read(platform, (tail, wrapped ^ (tail < head)), decode, sink);
        registers.set_fqh(self.ring.head().0);
        // 3.2: while either is set, further records are discarded.
        if csr.fqof() || csr.fqmf() {
            counts.overflows += 1;
            registers.clear_fault_queue_errors(csr);
        }
        counts
    }
}
