//! The registers of one unit, and the handshakes with them (5).

use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::riscv::registers::{
    Capabilities, Cqcsr, Ddtp, Fctl, Fqcsr, Icvec, Igs, IommuMode, Ipsr, MsiAddr, MsiVecCtl, QueueBase,
    offset,
};

use crate::common::architecture::FaultSignal;
use crate::common::registers::wait;
use crate::error::UnitError;
use crate::platform::{Clock, Mmio, Platform};
use crate::turn::Turn;

/// A unit's registers.
pub(super) struct Registers<M, P: Platform> {
    mmio: M,
    timeout: Duration,
    /// One change of `ddtp` at a time.
    directory: Turn<P>,
}

/// A queue's registers.
#[derive(Clone, Copy)]
pub(super) struct QueueRegisters {
    base: u64,
    index: u64,
    csr: u64,
    name: &'static str,
}

/// The command queue: its base, the tail that software writes, and its control register.
pub(super) const COMMAND_QUEUE: QueueRegisters =
    QueueRegisters { base: offset::CQB, index: offset::CQT, csr: offset::CQCSR, name: "cqcsr" };
/// The fault queue: its base, the head that software writes, and its control register.
pub(super) const FAULT_QUEUE: QueueRegisters =
    QueueRegisters { base: offset::FQB, index: offset::FQH, csr: offset::FQCSR, name: "fqcsr" };

impl<M: Mmio, P: Platform> Registers<M, P> {
    pub(super) fn new(mmio: M, timeout: Duration) -> Self {
        Self { mmio, timeout, directory: Turn::new() }
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits until `done`.
    fn wait(
        &self,
        clock: &impl Clock,
        register: &'static str,
        done: impl Fn(&M) -> bool,
    ) -> Result<(), UnitError> {
        wait(clock, self.timeout, register, || done(&self.mmio))
    }

    /// 5.4: directories, queues and second stages little-endian, guests of 64 bits. `fctl` may be written only while nothing
    /// uses it; a unit that firmware left otherwise is refused.
    pub(super) fn set_little_endian(&self) -> Result<(), UnitError> {
        let fctl = Fctl::from_bits(self.mmio.read32(offset::FCTL));
        if !fctl.be() && !fctl.gxl() {
            return Ok(());
        }
        let wanted = fctl.with_be(false).with_gxl(false);
        self.mmio.write32(offset::FCTL, wanted.into_bits());
        let seen = Fctl::from_bits(self.mmio.read32(offset::FCTL));
        if seen.be() || seen.gxl() {
            return Err(UnitError::CommandRefused { register: "fctl", value: u64::from(wanted.into_bits()) });
        }
        Ok(())
    }

    pub(super) fn ddtp(&self) -> Ddtp {
        Ddtp::from_bits(self.mmio.read64(offset::DDTP))
    }

    /// 5.5: writes `ddtp` and waits until the unit has taken it. Whether it took the mode: depths that a unit lacks do not stick.
    pub(super) fn set_ddtp(
        &self,
        clock: &impl Clock,
        mode: IommuMode,
        root: PhysAddr,
    ) -> Result<bool, UnitError> {
        let idle = |mmio: &M| !Ddtp::from_bits(mmio.read64(offset::DDTP)).busy();
        self.directory.take(clock, || {
            self.wait(clock, "ddtp", idle)?;
            let ddtp = Ddtp::new().with_iommu_mode(mode.encode()).with_ppn(root.0 >> 12);
            self.mmio.write64(offset::DDTP, ddtp.into_bits());
            self.wait(clock, "ddtp", idle)?;
            let seen = self.ddtp();
            let root_kept = mode.levels() == 0 || seen.ppn() == root.0 >> 12;
            Ok(seen.iommu_mode() == mode.encode() && root_kept)
        })
    }

    /// 5.15, 5.16: turns a queue off and waits until it is. Errors that it held are cleared when it is turned on again.
    pub(super) fn queue_off(&self, clock: &impl Clock, queue: QueueRegisters) -> Result<(), UnitError> {
        let QueueRegisters { csr, name, .. } = queue;
        self.wait(clock, name, |mmio| !Fqcsr::from_bits(mmio.read32(csr)).busy())?;
        self.mmio.write32(csr, 0);
        self.wait(clock, name, |mmio| {
            let csr = Fqcsr::from_bits(mmio.read32(csr));
            !csr.fqon() && !csr.busy()
        })
    }

    /// 5.6, 5.9: gives a queue that is off its memory and turns it on. Head and tail are 0 then.
    pub(super) fn queue_on(
        &self,
        clock: &impl Clock,
        queue: QueueRegisters,
        base: PhysAddr,
        entries: u32,
    ) -> Result<(), UnitError> {
        let QueueRegisters { base: register, index, csr, name } = queue;
        let log2szm1 = entries.trailing_zeros() as u8 - 1;
        let value = QueueBase::new().with_log2szm1(log2szm1).with_ppn(base.0 >> 12).into_bits();
        self.mmio.write64(register, value);
        if self.mmio.read64(register) != value {
            return Err(UnitError::CommandRefused { register: name, value });
        }
        self.mmio.write32(index, 0);
        self.mmio.write32(csr, Fqcsr::new().with_fqen(true).into_bits());
        self.wait(clock, name, |mmio| {
            let csr = Fqcsr::from_bits(mmio.read32(csr));
            csr.fqon() && !csr.busy()
        })
    }

    pub(super) fn set_cqt(&self, tail: u32) {
        self.mmio.write32(offset::CQT, tail);
    }

    pub(super) fn cqh(&self) -> u32 {
        self.mmio.read32(offset::CQH)
    }

    pub(super) fn cqcsr(&self) -> Cqcsr {
        Cqcsr::from_bits(self.mmio.read32(offset::CQCSR))
    }

    pub(super) fn fqt(&self) -> u32 {
        self.mmio.read32(offset::FQT)
    }

    pub(super) fn set_fqh(&self, head: u32) {
        self.mmio.write32(offset::FQH, head);
    }

    pub(super) fn fqcsr(&self) -> Fqcsr {
        Fqcsr::from_bits(self.mmio.read32(offset::FQCSR))
    }

    /// 5.16, 5.27, 5.28: has the fault queue's interrupt sent as a message, by the vector that `icvec` names for it. A unit without MSIs
    /// raises its wire instead.
    pub(super) fn signal_faults(&self, capabilities: Capabilities, message: Option<FaultSignal>) {
        let csr = self.fqcsr();
        let keep = Fqcsr::new().with_fqen(csr.fqen());
        let Some(FaultSignal { address, data }) = message else {
            self.mmio.write32(offset::FQCSR, keep.into_bits());
            return;
        };
        if capabilities.igs() != Igs::Wsi {
            let fctl = Fctl::from_bits(self.mmio.read32(offset::FCTL));
            if fctl.wsi() {
                self.mmio.write32(offset::FCTL, fctl.with_wsi(false).into_bits());
            }
            let vector = u64::from(Icvec::from_bits(self.mmio.read64(offset::ICVEC)).fiv());
            let entry = offset::MSI_CFG_TBL + 16 * vector;
            self.mmio.write64(entry, MsiAddr::new().with_addr(address >> 2).into_bits());
            self.mmio.write32(entry + 8, data);
            self.mmio.write32(entry + 12, MsiVecCtl::new().into_bits());
        }
        self.mmio.write32(offset::FQCSR, keep.with_fie(true).into_bits());
    }

    /// 5.18: acknowledges the fault queue's interrupt, so that the next record raises it again.
    pub(super) fn acknowledge_faults(&self) {
        self.mmio.write32(offset::IPSR, Ipsr::new().with_fip(true).into_bits());
    }

    /// 5.16: clears the fault queue's errors (written 1), with the rest as it is.
    pub(super) fn clear_fault_queue_errors(&self, csr: Fqcsr) {
        let keep = Fqcsr::new().with_fqen(csr.fqen()).with_fie(csr.fie());
        let clear = keep.with_fqmf(csr.fqmf()).with_fqof(csr.fqof());
        self.mmio.write32(offset::FQCSR, clear.into_bits());
    }
}
