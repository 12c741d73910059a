//! The fault queue (3.2).

use portcullis_spec::PhysAddr;
use portcullis_spec::riscv::fault::{FAULT_RECORD_SIZE, FaultRecord as Record};

use super::registers::{FAULT_QUEUE, Registers};
use crate::common::architecture::{FaultCounts, FaultRecord};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

pub(super) struct FaultQueue {
    base: PhysAddr,
    bytes: u64,
    head: u32,
}

impl FaultQueue {
    /// A queue of `2^size` pages, not yet known to the unit.
    pub(super) fn allocate(platform: &impl Platform, size: u8) -> Option<Self> {
        let bytes = 4096u64 << size;
        Some(Self { base: platform.allocate(bytes, bytes)?, bytes, head: 0 })
    }

    pub(super) fn free(&self, platform: &impl Platform) {
        platform.free(self.base, self.bytes, self.bytes);
    }

    const fn entries(&self) -> u32 {
        (self.bytes / FAULT_RECORD_SIZE) as u32
    }

    pub(super) fn start<M: Mmio, P: Platform>(
        &mut self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        registers.queue_off(platform, FAULT_QUEUE)?;
        self.head = 0;
        registers.queue_on(platform, FAULT_QUEUE, self.base, self.entries())
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
        let mut counts = FaultCounts::default();
        let csr = registers.fqcsr();
        if csr.into_bits() == u32::MAX {
            return counts;
        }
        // Before the records are read: one that comes after raises the interrupt again.
        registers.acknowledge_faults();
        let mask = self.entries() - 1;
        let tail = registers.fqt() & mask;
        while self.head != tail {
            let at = self.base.0 + FAULT_RECORD_SIZE * u64::from(self.head);
            let raw: [u64; 4] = core::array::from_fn(|word| platform.load64(PhysAddr(at + 8 * word as u64)));
            counts.read += 1;
            match Record::decode(raw).to_fault() {
                Some(fault) => sink(FaultRecord { fault, raw }),
                None => counts.unknown += 1,
            }
            self.head = (self.head + 1) & mask;
        }
        registers.set_fqh(self.head);
        // 3.2: while either is set, further records are discarded.
        if csr.fqof() || csr.fqmf() {
            counts.overflows += 1;
            registers.clear_fault_queue_errors(csr);
        }
        counts
    }
}
