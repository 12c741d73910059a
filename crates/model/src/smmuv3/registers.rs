//! The register file (SMMUv3 6.2, 6.3). A quadword access is done as two doublewords, the lower first, as 6.2 permits.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use portcullis_spec::Invalidation;
use portcullis_spec::smmuv3::registers::{
    CmdqCons, Cr0, Cr1, Cr2, EventqIndex, Gbpa, Gerror, IrqCfg0, IrqCfg2, IrqCtrl, QueueBase,
    REGISTER_REGION_SIZE, StrtabBase, StrtabBaseCfg, offset,
};

use super::events::MessageRegisters;
use super::lookup::Steering;
use super::stream::StreamTable;
use super::{Smmuv3, Smmuv3Unit, gatos, queue};
use crate::registers::{Registers, half, put_half};
use crate::state::locked;

/// Registers that steer the unit.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Control {
    /// CR0, and CR0ACK: every update completes at once.
    pub(super) cr0: u32,
    /// CR1.
    pub(super) cr1: u32,
    /// CR2.
    pub(super) cr2: u32,
    /// GBPA, without Update.
    pub(super) gbpa: u32,
    /// STRTAB_BASE.
    pub(super) strtab_base: u64,
    /// STRTAB_BASE_CFG.
    pub(super) strtab_base_cfg: u32,
    /// GATOS_SID.
    pub(super) gatos_sid: u64,
    /// GATOS_ADDR.
    pub(super) gatos_addr: u64,
    /// GATOS_PAR.
    pub(super) gatos_par: u64,
}

impl Default for Control {
    /// 6.3.14: GBPA's reset value is the implementation's; this one uses incoming attributes and passes.
    fn default() -> Self {
        Self {
            cr0: 0,
            cr1: 0,
            cr2: 0,
            gbpa: Gbpa::new().with_shcfg(1).into_bits(),
            strtab_base: 0,
            strtab_base_cfg: 0,
            gatos_sid: 0,
            gatos_addr: 0,
            gatos_par: 0,
        }
    }
}

impl Control {
    /// What of this decides look-ups.
    pub(super) fn steering(&self) -> Steering {
        Steering {
            enabled: Cr0::from_bits(self.cr0).smmuen(),
            abort: Gbpa::from_bits(self.gbpa).abort(),
            e2h: Cr2::from_bits(self.cr2).e2h(),
            record_bad_streams: Cr2::from_bits(self.cr2).recinvsid(),
            table: StreamTable {
                base: StrtabBase::from_bits(self.strtab_base),
                config: StrtabBaseCfg::from_bits(self.strtab_base_cfg),
            },
            passive: false,
        }
    }
}

impl Registers for Smmuv3Unit {
    fn mmio_size(&self) -> u64 {
        REGISTER_REGION_SIZE
    }

    fn read32(&self, offset: u64) -> u32 {
        let smmu = self.model();
        let control = || locked(&smmu.control);
        let events = || locked(&smmu.events);
        let unit = &smmu.unit;
        let atos = unit.idr0.atos();
        match offset {
            offset::IDR0 => unit.idr0.into_bits(),
            offset::IDR1 => unit.idr1.into_bits(),
            offset::IDR3 => unit.idr3.into_bits(),
            offset::IDR5 => unit.idr5.into_bits(),
            offset::IIDR => unit.iidr,
            offset::AIDR => unit.aidr,
            offset::CR0 | offset::CR0ACK => control().cr0,
            offset::CR1 => control().cr1,
            offset::CR2 => control().cr2,
            offset::GBPA => control().gbpa,
            offset::IRQ_CTRL | offset::IRQ_CTRLACK => events().interrupts,
            offset::GERROR => events().errors,
            offset::GERRORN => events().acknowledged,
            offset::GERROR_IRQ_CFG0..=0x06c => half(events().error_message.address, offset),
            offset::GERROR_IRQ_CFG1 => events().error_message.data,
            offset::GERROR_IRQ_CFG2 => events().error_message.attributes,
            offset::STRTAB_BASE..=0x084 => half(control().strtab_base, offset),
            offset::STRTAB_BASE_CFG => control().strtab_base_cfg,
            offset::CMDQ_BASE..=0x094 => half(locked(&smmu.queue).base, offset),
            offset::CMDQ_PROD => locked(&smmu.queue).producer,
            offset::CMDQ_CONS => smmu.consumer.load(Ordering::Acquire),
            offset::EVENTQ_BASE..=0x0a4 => half(events().base, offset),
            offset::EVENTQ_PROD => events().producer,
            offset::EVENTQ_CONS => events().consumer,
            offset::EVENTQ_IRQ_CFG0..=0x0b4 => half(events().event_message.address, offset),
            offset::EVENTQ_IRQ_CFG1 => events().event_message.data,
            offset::EVENTQ_IRQ_CFG2 => events().event_message.attributes,
            // RUN: an operation is done when its write returns.
            offset::GATOS_SID..=0x10c if atos => half(control().gatos_sid, offset),
            offset::GATOS_ADDR..=0x114 if atos => half(control().gatos_addr, offset),
            offset::GATOS_PAR..=0x11c if atos => half(control().gatos_par, offset),
            // IDR2 and IDR4 are zero, and so is every other place: page 0's places of the event queue's indexes too.
            _ => 0,
        }
    }

    fn write32(&self, offset: u64, value: u32) {
        let smmu = self.model();
        match offset {
            offset::CR0 => self.write_cr0(Cr0::from_bits(value)),
            offset::CR1 | offset::CR2 | offset::STRTAB_BASE..=0x088 => smmu.write_guarded(offset, value),
            offset::GBPA => self.write_gbpa(Gbpa::from_bits(value)),
            offset::IRQ_CTRL => {
                let wanted = IrqCtrl::from_bits(value);
                locked(&smmu.events).interrupts = IrqCtrl::new()
                    .with_gerror_irqen(wanted.gerror_irqen())
                    .with_eventq_irqen(wanted.eventq_irqen())
                    .into_bits();
            }
            offset::GERRORN => self.write_gerrorn(value),
            offset::GERROR_IRQ_CFG0..=0x074 => smmu.write_message(offset, value),
            offset::CMDQ_BASE..=0x094 => {
                let mut queue = locked(&smmu.queue);
                // 6.3.26: guarded by CMDQEN.
                if !queue.enabled {
                    put_half(&mut queue.base, offset, value);
                    queue.base = queue_base_bits(queue.base);
                }
            }
            offset::CMDQ_PROD => queue::write_producer(self, value),
            offset::CMDQ_CONS => {
                let queue = locked(&smmu.queue);
                // 6.3.28: guarded by CMDQEN.
                if !queue.enabled {
                    let written = CmdqCons::from_bits(value);
                    let rd = written.rd() & index_mask(queue.base, smmu.unit.idr1.cmdqs());
                    let consumer = CmdqCons::new().with_rd(rd).with_err(written.err());
                    smmu.consumer.store(consumer.into_bits(), Ordering::Release);
                }
            }
            offset::EVENTQ_BASE..=0x0a4 => {
                let mut events = locked(&smmu.events);
                if !events.enabled {
                    put_half(&mut events.base, offset, value);
                    events.base = queue_base_bits(events.base);
                }
            }
            offset::EVENTQ_PROD => {
                let mut events = locked(&smmu.events);
                if !events.enabled {
                    events.producer = index_bits(value, events.base, smmu.unit.idr1.eventqs());
                }
            }
            offset::EVENTQ_CONS => {
                {
                    let mut events = locked(&smmu.events);
                    events.consumer = index_bits(value, events.base, smmu.unit.idr1.eventqs());
                }
                smmu.retry_if_writable();
            }
            offset::EVENTQ_IRQ_CFG0..=0x0bc => smmu.write_message(offset, value),
            offset::GATOS_CTRL..=0x114 if smmu.unit.idr0.atos() => gatos::write(self, offset, value),
            _ => {}
        }
    }
}

impl Smmuv3Unit {
    /// CR0 (6.3.9). Every field is updated before this returns, and CR0ACK reads the same.
    fn write_cr0(&self, wanted: Cr0) {
        let smmu = self.model();
        let mut control = locked(&smmu.control);
        let before = Cr0::from_bits(control.cr0);
        let cr0 = Cr0::new()
            .with_smmuen(wanted.smmuen())
            .with_eventqen(wanted.eventqen())
            .with_cmdqen(wanted.cmdqen());
        // Fields keep their old value until what they stand for has happened.
        if before.eventqen() != cr0.eventqen() {
            locked(&smmu.events).enabled = cr0.eventqen();
            smmu.retry_if_writable();
        }
        if before.smmuen() != cr0.smmuen() {
            control.cr0 = before.with_smmuen(cr0.smmuen()).with_eventqen(cr0.eventqen()).into_bits();
            smmu.steer(&control);
            smmu.stalls.open(cr0.smmuen());
            // Contexts are looked up by whether translation is on, so those found before must go.
            self.engine.invalidate(&Invalidation::Everything);
            self.engine.drain();
        }
        control.cr0 = cr0.into_bits();
        drop(control);
        if before.cmdqen() != cr0.cmdqen() {
            queue::enable(self, cr0.cmdqen());
        }
    }

    /// GBPA (6.3.14): nothing changes without Update, which clears itself when the new value has taken effect.
    fn write_gbpa(&self, wanted: Gbpa) {
        if !wanted.update() {
            return;
        }
        let smmu = self.model();
        let mut control = locked(&smmu.control);
        control.gbpa = Gbpa::new()
            .with_memattr(wanted.memattr())
            .with_mtcfg(wanted.mtcfg())
            .with_alloccfg(wanted.alloccfg())
            .with_shcfg(wanted.shcfg())
            .with_privcfg(wanted.privcfg())
            .with_instcfg(wanted.instcfg())
            .with_abort(wanted.abort())
            .into_bits();
        smmu.steer(&control);
        if !Cr0::from_bits(control.cr0).smmuen() {
            self.engine.invalidate(&Invalidation::Everything);
            self.engine.drain();
        }
    }

    /// GERRORN (6.3.20): where it comes to agree with GERROR, an error is no longer active.
    fn write_gerrorn(&self, value: u32) {
        let smmu = self.model();
        let resumed = {
            let mut events = locked(&smmu.events);
            let stopped = events.command_queue_stopped();
            let known = Gerror::new()
                .with_cmdq_err(true)
                .with_eventq_abt_err(true)
                .with_msi_cmdq_abt_err(true)
                .with_msi_eventq_abt_err(true)
                .with_msi_gerror_abt_err(true);
            events.acknowledged = value & known.into_bits();
            stopped && !events.command_queue_stopped()
        };
        smmu.retry_if_writable();
        if resumed {
            queue::resume(self);
        }
    }
}

/// CR1.TABLE_IC, TABLE_OC and TABLE_SH.
const CR1_TABLE: u32 = Cr1::new().with_table_ic(3).with_table_oc(3).with_table_sh(3).into_bits();
/// CR1.QUEUE_IC, QUEUE_OC and QUEUE_SH.
const CR1_QUEUE: u32 = Cr1::new().with_queue_ic(3).with_queue_oc(3).with_queue_sh(3).into_bits();

/// The bits that a queue's base has.
const fn queue_base_bits(value: u64) -> u64 {
    let base = QueueBase::from_bits(value);
    QueueBase::new()
        .with_log2size(base.log2size())
        .with_addr(base.addr())
        .with_ra_wa(base.ra_wa())
        .into_bits()
}

/// The bits of an index, with its wrap bit, into the queue with this base: higher ones read as zero (6.3.28).
pub(super) fn index_mask(base: u64, most: u8) -> u32 {
    (2 << QueueBase::from_bits(base).log2size().min(most)) - 1
}

/// The bits that an index of an output queue has.
fn index_bits(value: u32, base: u64, most: u8) -> u32 {
    let written = EventqIndex::from_bits(value);
    let index = written.index() & index_mask(base, most);
    EventqIndex::new().with_index(index).with_overflow(written.overflow()).into_bits()
}

impl Smmuv3 {
    /// Puts in force what look-ups are decided by.
    pub(super) fn steer(&self, control: &Control) {
        *self.steering.write().unwrap_or_else(PoisonError::into_inner) = control.steering();
    }

    /// Lets stalled transactions try again whose event could not be written (7.2.1).
    pub(super) fn retry_if_writable(&self) {
        if locked(&self.events).is_writable(self.unit.idr1.eventqs()) {
            self.stalls.retry_unrecorded();
        }
    }

    /// Registers that are fixed while translation is on (6.3.12, 6.3.24, 6.3.25), and CR1, whose two halves are fixed while
    /// translation or a queue is on (6.3.11).
    fn write_guarded(&self, offset: u64, value: u32) {
        let mut control = locked(&self.control);
        let cr0 = Cr0::from_bits(control.cr0);
        if offset == offset::CR1 {
            let tables = if cr0.smmuen() { 0 } else { CR1_TABLE };
            let queues = if cr0.cmdqen() || cr0.eventqen() { 0 } else { CR1_QUEUE };
            let writable = tables | queues;
            control.cr1 = control.cr1 & !writable | value & writable;
            return;
        }
        if cr0.smmuen() {
            return;
        }
        match offset {
            offset::CR2 => {
                let wanted = Cr2::from_bits(value);
                control.cr2 = Cr2::new()
                    .with_e2h(wanted.e2h() && self.unit.idr0.hyp())
                    .with_recinvsid(wanted.recinvsid())
                    .into_bits();
            }
            offset::STRTAB_BASE_CFG => {
                let wanted = StrtabBaseCfg::from_bits(value);
                let mut config = StrtabBaseCfg::new().with_log2size(wanted.log2size());
                // 6.3.25: without two levels, SPLIT and FMT are reserved.
                if self.unit.idr0.st_level() == 1 {
                    config = config.with_split(wanted.split()).with_fmt(wanted.fmt());
                }
                control.strtab_base_cfg = config.into_bits();
            }
            _ => {
                put_half(&mut control.strtab_base, offset, value);
                let base = StrtabBase::from_bits(control.strtab_base);
                control.strtab_base = StrtabBase::new().with_addr(base.addr()).with_ra(base.ra()).into_bits();
            }
        }
        self.steer(&control);
    }

    /// Message registers (6.3.21 to 6.3.23, 6.3.30 to 6.3.32): fixed while the interrupt is enabled, and absent without MSIs.
    fn write_message(&self, offset: u64, value: u32) {
        if !self.unit.idr0.msi() {
            return;
        }
        let mut events = locked(&self.events);
        let enables = IrqCtrl::from_bits(events.interrupts);
        let (fixed, base) = if offset < offset::EVENTQ_IRQ_CFG0 {
            (enables.gerror_irqen(), offset::GERROR_IRQ_CFG0)
        } else {
            (enables.eventq_irqen(), offset::EVENTQ_IRQ_CFG0)
        };
        if fixed {
            return;
        }
        let message: &mut MessageRegisters = if base == offset::GERROR_IRQ_CFG0 {
            &mut events.error_message
        } else {
            &mut events.event_message
        };
        match offset - base {
            0 | 4 => {
                put_half(&mut message.address, offset, value);
                message.address =
                    IrqCfg0::new().with_addr(IrqCfg0::from_bits(message.address).addr()).into_bits();
            }
            8 => message.data = value,
            _ => {
                let wanted = IrqCfg2::from_bits(value);
                message.attributes =
                    IrqCfg2::new().with_memattr(wanted.memattr()).with_sh(wanted.sh()).into_bits();
            }
        }
    }
}
