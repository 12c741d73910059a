//! The registers of one unit, and the handshakes with them (6.3).

use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::smmuv3::registers::{
    CmdqCons, Cr0, Cr1, Cr2, EventqIndex, Gbpa, Gerror, IrqCfg0, IrqCtrl, QueueBase, StrtabBase,
    StrtabBaseCfg, offset,
};

use crate::common::architecture::FaultSignal;
use crate::common::registers::wait;
use crate::error::UnitError;
use crate::platform::{Clock, Mmio, Platform};
use crate::turn::Turn;

/// Queue and table attributes (6.3.11): write-back.
const WRITE_BACK: u8 = 1;
/// Inner shareable.
const INNER: u8 = 3;
/// MSI attributes (6.3.22): Device-nGnRE.
const DEVICE: u32 = 1;

/// A unit's registers.
pub(super) struct Registers<M, P: Platform> {
    mmio: M,
    timeout: Duration,
    /// One change of CR0 or GBPA at a time (6.3.9: not before the last is acknowledged).
    control: Turn<P>,
    /// One change of IRQ_CTRL at a time.
    interrupts: Turn<P>,
}

impl<M: Mmio, P: Platform> Registers<M, P> {
    pub(super) fn new(mmio: M, timeout: Duration) -> Self {
        Self { mmio, timeout, control: Turn::new(), interrupts: Turn::new() }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn cr0(&self) -> Cr0 {
        Cr0::from_bits(self.mmio.read32(offset::CR0))
    }

    /// 6.3.9, 6.3.10: changes CR0 and waits until it has taken effect.
    pub(super) fn set_cr0(
        &self,
        clock: &impl Clock,
        change: impl FnOnce(Cr0) -> Cr0,
    ) -> Result<(), UnitError> {
        self.control.take(clock, || {
            let wanted = change(self.cr0()).into_bits();
            self.mmio.write32(offset::CR0, wanted);
            wait(clock, self.timeout, "CR0ACK", || self.mmio.read32(offset::CR0ACK) == wanted)
        })
    }

    /// 6.3.14: what becomes of transactions while nothing is translated: all are aborted, or all pass as they came.
    pub(super) fn set_abort(&self, clock: &impl Clock, abort: bool) -> Result<(), UnitError> {
        let read = || Gbpa::from_bits(self.mmio.read32(offset::GBPA));
        self.control.take(clock, || {
            wait(clock, self.timeout, "GBPA", || !read().update())?;
            self.mmio.write32(offset::GBPA, read().with_abort(abort).with_update(true).into_bits());
            wait(clock, self.timeout, "GBPA", || !read().update())
        })
    }

    /// 6.3.11, 6.3.12: how tables and queues are accessed; C_BAD_STREAMID is recorded, and broadcast TLB maintenance, which is about
    /// the processors' address spaces, ignored. Nothing is enabled.
    pub(super) fn set_access(&self, coherent: bool) {
        let cached = if coherent { WRITE_BACK } else { 0 };
        let shared = if coherent { INNER } else { 0 };
        let cr1 = Cr1::new().with_queue_ic(cached).with_queue_oc(cached).with_queue_sh(shared);
        let cr1 = cr1.with_table_ic(cached).with_table_oc(cached).with_table_sh(shared);
        self.mmio.write32(offset::CR1, cr1.into_bits());
        self.mmio.write32(offset::CR2, Cr2::new().with_recinvsid(true).with_ptm(true).into_bits());
    }

    /// 6.3.23, 6.3.24: the stream table, of `1 << log2size` streams; with `split`, of two levels.
    pub(super) fn set_stream_table(&self, base: PhysAddr, log2size: u8, split: Option<u8>) {
        let at = StrtabBase::new().with_addr(base.0 >> 6).with_ra(true);
        self.mmio.write64(offset::STRTAB_BASE, at.into_bits());
        let cfg = StrtabBaseCfg::new().with_log2size(log2size);
        let cfg = split.map_or(cfg, |split| cfg.with_fmt(1).with_split(split));
        self.mmio.write32(offset::STRTAB_BASE_CFG, cfg.into_bits());
    }

    fn queue_base(base: PhysAddr, entries: u32) -> u64 {
        let log2size = entries.trailing_zeros() as u8;
        QueueBase::new().with_addr(base.0 >> 5).with_log2size(log2size).with_ra_wa(true).into_bits()
    }

    /// 6.3.25 to 6.3.27: gives the command queue, which is off, its memory; the unit begins at entry 0.
    pub(super) fn set_command_queue(&self, base: PhysAddr, entries: u32) {
        self.mmio.write64(offset::CMDQ_BASE, Self::queue_base(base, entries));
        self.mmio.write32(offset::CMDQ_PROD, 0);
        self.mmio.write32(offset::CMDQ_CONS, 0);
    }

    /// Commands before this index, of which the bit above the entry's number is the wrap bit, are to be carried out.
    pub(super) fn set_cmdq_prod(&self, index: u32) {
        self.mmio.write32(offset::CMDQ_PROD, index);
    }

    pub(super) fn cmdq_cons(&self) -> CmdqCons {
        CmdqCons::from_bits(self.mmio.read32(offset::CMDQ_CONS))
    }

    /// 6.3.28 to 6.3.31: gives the event queue, which is off, its memory; the unit begins at entry 0.
    pub(super) fn set_event_queue(&self, base: PhysAddr, entries: u32) {
        self.mmio.write64(offset::EVENTQ_BASE, Self::queue_base(base, entries));
        self.mmio.write32(offset::EVENTQ_PROD, 0);
        self.mmio.write32(offset::EVENTQ_CONS, 0);
    }

    pub(super) fn eventq_prod(&self) -> EventqIndex {
        EventqIndex::from_bits(self.mmio.read32(offset::EVENTQ_PROD))
    }

    pub(super) fn eventq_cons(&self) -> EventqIndex {
        EventqIndex::from_bits(self.mmio.read32(offset::EVENTQ_CONS))
    }

    pub(super) fn set_eventq_cons(&self, cons: EventqIndex) {
        self.mmio.write32(offset::EVENTQ_CONS, cons.into_bits());
    }

    /// 6.3.18: errors that are active: those of which GERROR and GERRORN differ. `None` where the unit is gone.
    pub(super) fn errors(&self) -> Option<Gerror> {
        let gerror = self.mmio.read32(offset::GERROR);
        (gerror != u32::MAX).then(|| Gerror::from_bits(gerror ^ self.mmio.read32(offset::GERRORN)))
    }

    /// 6.3.19: acknowledges errors that are active.
    pub(super) fn acknowledge(&self, errors: Gerror) {
        let acknowledged = self.mmio.read32(offset::GERRORN) ^ errors.into_bits();
        self.mmio.write32(offset::GERRORN, acknowledged);
    }

    /// 3.18, 6.3.16 to 6.3.22: has event queue and global error interrupts sent as this message, where the unit sends messages; where it
    /// doesn't, enables its wires. The addresses may change only while the interrupts are off.
    pub(super) fn signal_faults(
        &self,
        clock: &impl Clock,
        msi: bool,
        message: Option<FaultSignal>,
    ) -> Result<(), UnitError> {
        self.interrupts.take(clock, || {
            self.set_irq_ctrl(clock, IrqCtrl::new())?;
            let Some(FaultSignal { address, data }) = message else { return Ok(()) };
            if msi {
                let address = IrqCfg0::new().with_addr(address >> 2 & ((1 << 54) - 1)).into_bits();
                for at in [offset::GERROR_IRQ_CFG0, offset::EVENTQ_IRQ_CFG0] {
                    self.mmio.write64(at, address);
                    self.mmio.write32(at + 8, data);
                    self.mmio.write32(at + 12, DEVICE);
                }
            }
            self.set_irq_ctrl(clock, IrqCtrl::new().with_gerror_irqen(true).with_eventq_irqen(true))
        })
    }

    fn set_irq_ctrl(&self, clock: &impl Clock, wanted: IrqCtrl) -> Result<(), UnitError> {
        let wanted = wanted.into_bits();
        self.mmio.write32(offset::IRQ_CTRL, wanted);
        wait(clock, self.timeout, "IRQ_CTRLACK", || self.mmio.read32(offset::IRQ_CTRLACK) == wanted)
    }
}
