//! The register file (RISC-V IOMMU 5). Software accesses it by aligned doublewords and quadwords; a quadword access is done as two
//! doublewords, the higher first. What a capability would bring reads 0 without it and can't be written.

use std::sync::atomic::Ordering;

use portcullis_spec::Invalidation;
use portcullis_spec::riscv::registers::{Cqcsr, Ddtp, Fctl, Fqcsr, IommuMode, REGISTER_REGION_SIZE, offset};

use super::{RiscvUnit, debug, queue};
use crate::registers::{Registers, half, put_half};
use crate::state::locked;

const DDTP_END: u64 = offset::DDTP + 4;
const FQB_END: u64 = offset::FQB + 4;

impl Registers for RiscvUnit {
    fn mmio_size(&self) -> u64 {
        REGISTER_REGION_SIZE
    }

    fn read64(&self, offset: u64) -> u64 {
        let high = self.read32(offset.wrapping_add(4));
        u64::from(high) << 32 | u64::from(self.read32(offset))
    }

    fn write64(&self, offset: u64, value: u64) {
        self.write32(offset.wrapping_add(4), (value >> 32) as u32);
        self.write32(offset, value as u32);
    }

    fn read32(&self, offset: u64) -> u32 {
        self.poll();
        let riscv = self.model();
        match offset {
            offset::CAPABILITIES..offset::FCTL => half(riscv.capabilities.into_bits(), offset),
            offset::FCTL => riscv.fctl().into_bits(),
            offset::DDTP..=DDTP_END => half(riscv.ddtp().into_bits(), offset),
            offset::CQH => riscv.command_head.load(Ordering::Acquire),
            offset::CQT => locked(&riscv.queue).tail,
            _ if queue::is_ours(offset) => half(locked(&riscv.queue).base, offset),
            offset::CQCSR => locked(&riscv.events).cqcsr().into_bits(),
            offset::FQB..offset::PQB | offset::FQCSR | offset::IPSR => locked(&riscv.events).read32(offset),
            offset::ICVEC..offset::MSI_CFG_TBL_END => locked(&riscv.events).read32(offset),
            offset::IOCOUNTOVF..offset::TR_REQ_IOVA => riscv.counters.read32(offset),
            offset::TR_REQ_IOVA..offset::IOMMU_QOSID if riscv.capabilities.dbg() => {
                locked(&riscv.debug).read32(offset)
            }
            _ => 0,
        }
    }

    fn write32(&self, offset: u64, value: u32) {
        self.poll();
        let riscv = self.model();
        let entries = riscv.config.queue_entries_log2;
        match offset {
            offset::FCTL => self.write_features(Fctl::from_bits(value)),
            offset::DDTP..=DDTP_END => self.write_directory(offset, value),
            offset::CQT => queue::write_tail(self, value),
            offset::CQB..offset::CQH => queue::write_base(self, offset, value),
            offset::FQB..=FQB_END => {
                riscv.change(|events| events.write_fqb(offset, value, entries));
            }
            offset::FQH => riscv.change(|events| events.write_fqh(value)),
            offset::CQCSR => queue::write_control(self, Cqcsr::from_bits(value)),
            offset::FQCSR => {
                riscv.change(|events| events.write_fqcsr(Fqcsr::from_bits(value)));
            }
            offset::IPSR => riscv.change(|events| events.write_ipsr(value)),
            offset::IOCOUNTOVF..offset::TR_REQ_IOVA => riscv.counters.write32(offset, value),
            offset::TR_REQ_IOVA..offset::IOMMU_QOSID if riscv.capabilities.dbg() => {
                debug::write32(self, offset, value);
            }
            offset::ICVEC..offset::MSI_CFG_TBL => {
                riscv.change(|events| events.write_icvec(offset, value));
            }
            offset::MSI_CFG_TBL..offset::MSI_CFG_TBL_END => {
                riscv.change(|events| events.write_entry(offset, value));
            }
            _ => {}
        }
    }
}

impl RiscvUnit {
    /// `fctl` (5.4): what is fixed stays. Changing the byte order while anything is in use is unspecified; here it holds for all
    /// reads from then on.
    fn write_features(&self, value: Fctl) {
        let riscv = self.model();
        let _turn = locked(&riscv.directory);
        let fctl = riscv.config.legal_features(value);
        riscv.fctl.store(fctl.into_bits(), Ordering::SeqCst);
        riscv.change(|events| {
            events.wired = fctl.wsi();
            events.big_endian = fctl.be();
        });
        self.engine.invalidate(&Invalidation::Everything);
        self.engine.drain();
    }

    /// `ddtp` (5.5): a mode that is not supported leaves the register as it is. What devices still do under the former mode is over
    /// when the write is; everything cached is forgotten, which software need not count on.
    fn write_directory(&self, offset: u64, value: u32) {
        let riscv = self.model();
        let mut pending = locked(&riscv.directory);
        put_half(&mut pending, offset, value);
        // The mode is in the lower half, which software writes last.
        if offset != offset::DDTP {
            return;
        }
        let written = Ddtp::from_bits(*pending);
        let mode = IommuMode::decode(written.iommu_mode()).filter(|mode| riscv.config.has_mode(*mode));
        if let Some(mode) = mode {
            let ddtp = Ddtp::new().with_iommu_mode(mode.encode()).with_ppn(written.ppn());
            riscv.ddtp.store(ddtp.into_bits(), Ordering::SeqCst);
            self.engine.invalidate(&Invalidation::Everything);
            self.engine.drain();
        }
        *pending = riscv.ddtp().into_bits();
    }

    /// Lets the cycle counter's overflow be noticed (5.21), which is otherwise seen when software accesses a register: a machine that wants
    /// the interrupt in time calls this now and then.
    pub fn poll(&self) {
        let riscv = self.model();
        if riscv.counters.poll() {
            riscv.change(super::events::Events::counter_overflow);
        }
    }
}
