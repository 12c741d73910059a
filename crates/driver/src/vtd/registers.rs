//! The registers of one unit, and the handshakes with them.

use core::time::Duration;

use portcullis_spec::vtd::invalidation::{ContextCacheScope, IotlbScope};
use portcullis_spec::vtd::registers::{
    Cap, Ccmd, CcmdGranularity, Ecap, EventControl, Fsts, Gcmd, Gsts, Iotlb, IotlbGranularity, Iqa, Iqercd,
    Iqh, Iqt, Irta, Iva, Pmen, Rtaddr, offset,
};

use crate::common::architecture::FaultSignal;
use crate::common::registers::wait;
use crate::error::UnitError;
use crate::platform::Platform;
use crate::platform::{Clock, Mmio};
use crate::turn::Turn;

/// A unit's registers. Only one handshake of a kind may be under way at a time (VT-d 11.4.4, 11.4.6): each has its turn.
pub(super) struct Registers<M, P: Platform> {
    mmio: M,
    timeout: Duration,
    iotlb_offset: u64,
    command: Turn<P>,
    invalidation: Turn<P>,
}

impl<M: Mmio, P: Platform> Registers<M, P> {
    pub(super) fn new(mmio: M, ecap: Ecap, timeout: Duration) -> Self {
        Self {
            mmio,
            timeout,
            iotlb_offset: ecap.iotlb_offset(),
            command: Turn::new(),
            invalidation: Turn::new(),
        }
    }

    pub(super) fn fsts(&self) -> Fsts {
        Fsts::from_bits(self.mmio.read32(offset::FSTS))
    }

    pub(super) fn clear_fsts(&self, bits: Fsts) {
        self.mmio.write32(offset::FSTS, bits.into_bits() & Fsts::WRITE_1_CLEAR);
    }

    pub(super) fn gsts(&self) -> Gsts {
        Gsts::from_bits(self.mmio.read32(offset::GSTS))
    }

    pub(super) fn rtaddr(&self) -> Rtaddr {
        Rtaddr::from_bits(self.mmio.read64(offset::RTADDR))
    }

    pub(super) fn iqh(&self) -> Iqh {
        Iqh::from_bits(self.mmio.read64(offset::IQH))
    }

    pub(super) fn iqt(&self) -> Iqt {
        Iqt::from_bits(self.mmio.read64(offset::IQT))
    }

    pub(super) fn set_iqt(&self, iqt: Iqt) {
        self.mmio.write64(offset::IQT, iqt.into_bits());
    }

    pub(super) fn set_iqa(&self, iqa: Iqa) {
        self.mmio.write64(offset::IQA, iqa.into_bits());
    }

    pub(super) fn iqercd(&self) -> Iqercd {
        Iqercd::from_bits(self.mmio.read64(offset::IQERCD))
    }

    /// The two halves of fault recording register `index`, low first.
    pub(super) fn fault_record(&self, cap: Cap, index: u16) -> [u64; 2] {
        let at = cap.fault_recording_offset() + u64::from(index) * offset::FRCD_SIZE;
        [self.mmio.read64(at), self.mmio.read64(at + 8)]
    }

    /// Frees fault recording register `index`: F is bit 127, write 1 to clear, and the only writable bit.
    pub(super) fn clear_fault_record(&self, cap: Cap, index: u16) {
        let at = cap.fault_recording_offset() + u64::from(index) * offset::FRCD_SIZE;
        self.mmio.write32(at + 12, 1 << 31);
    }

    /// VT-d 11.4.7.2 to 11.4.7.5: masked while address and data change.
    pub(super) fn signal_faults(&self, message: Option<FaultSignal>) {
        self.mmio.write32(offset::FECTL, EventControl::new().with_im(true).into_bits());
        if let Some(FaultSignal { address, data }) = message {
            self.mmio.write32(offset::FEDATA, data);
            self.mmio.write32(offset::FEADDR, address as u32);
            self.mmio.write32(offset::FEUADDR, (address >> 32) as u32);
            self.mmio.write32(offset::FECTL, EventControl::new().into_bits());
        }
    }

    /// Waits until `done`.
    pub(super) fn wait(
        &self,
        clock: &impl Clock,
        register: &'static str,
        done: impl Fn(&M) -> bool,
    ) -> Result<(), UnitError> {
        wait(clock, self.timeout, register, || done(&self.mmio))
    }

    /// Changes one thing in GCMD and waits until GSTS says so (VT-d 11.4.4.1: read GSTS, mask the one-shot bits, change
    /// one, write GCMD, and wait before the next).
    fn command(
        &self,
        clock: &impl Clock,
        change: impl FnOnce(Gcmd) -> Gcmd,
        done: impl Fn(Gsts) -> bool,
    ) -> Result<(), UnitError> {
        self.command.take(clock, || {
            let status = self.gsts().into_bits();
            if status == u32::MAX {
                return Err(UnitError::Absent);
            }
            let lasting = Gcmd::from_bits(status & Gsts::LASTING);
            self.mmio.write32(offset::GCMD, change(lasting).into_bits());
            self.wait(clock, "GSTS", |mmio| done(Gsts::from_bits(mmio.read32(offset::GSTS))))
        })
    }

    pub(super) fn set_root_table(&self, clock: &impl Clock, root: Rtaddr) -> Result<(), UnitError> {
        self.mmio.write64(offset::RTADDR, root.into_bits());
        self.command(clock, |gcmd| gcmd.with_srtp(true), |gsts| gsts.rtps())
    }

    pub(super) fn set_translation(&self, clock: &impl Clock, on: bool) -> Result<(), UnitError> {
        self.command(clock, |gcmd| gcmd.with_te(on), |gsts| gsts.tes() == on)
    }

    pub(super) fn set_interrupt_table(&self, clock: &impl Clock, table: Irta) -> Result<(), UnitError> {
        self.mmio.write64(offset::IRTA, table.into_bits());
        self.command(clock, |gcmd| gcmd.with_sirtp(true), |gsts| gsts.irtps())
    }

    pub(super) fn set_interrupt_remapping(&self, clock: &impl Clock, on: bool) -> Result<(), UnitError> {
        self.command(clock, |gcmd| gcmd.with_ire(on), |gsts| gsts.ires() == on)
    }

    pub(super) fn set_compatibility_interrupts(&self, clock: &impl Clock, on: bool) -> Result<(), UnitError> {
        self.command(clock, |gcmd| gcmd.with_cfi(on), |gsts| gsts.cfis() == on)
    }

    pub(super) fn set_queue(&self, clock: &impl Clock, on: bool) -> Result<(), UnitError> {
        self.command(clock, |gcmd| gcmd.with_qie(on), |gsts| gsts.qies() == on)
    }

    /// Turns off a queue that someone else set up, after what is in it is done (VT-d 11.4.4.2, QIES).
    pub(super) fn drain_foreign_queue(&self, clock: &impl Clock) -> Result<(), UnitError> {
        // Where it stands still, its owner is gone and so is what it waited for.
        let _drained = self.wait(clock, "IQH", |_| self.iqh().qh() == self.iqt().qt());
        self.set_queue(clock, false)
    }

    /// VT-d 6.8: makes earlier stores to tables visible on units that report CAP.RWBF.
    pub(super) fn flush_write_buffer(&self, clock: &impl Clock) -> Result<(), UnitError> {
        self.command(clock, |gcmd| gcmd.with_wbf(true), |gsts| !gsts.wbfs())
    }

    /// Ends the protection of the protected memory ranges (VT-d 11.4.8.1).
    pub(super) fn disable_protected_memory(&self, clock: &impl Clock) -> Result<(), UnitError> {
        self.command.take(clock, || {
            let pmen = Pmen::from_bits(self.mmio.read32(offset::PMEN));
            self.mmio.write32(offset::PMEN, pmen.with_epm(false).into_bits());
            self.wait(clock, "PMEN", |mmio| !Pmen::from_bits(mmio.read32(offset::PMEN)).prs())
        })
    }

    /// Register-based context-cache invalidation (VT-d 11.4.6.1).
    pub(super) fn invalidate_contexts(
        &self,
        clock: &impl Clock,
        scope: ContextCacheScope,
    ) -> Result<(), UnitError> {
        let command = match scope {
            ContextCacheScope::Global => Ccmd::new().with_cirg(CcmdGranularity::Global),
            ContextCacheScope::Domain { did } => Ccmd::new().with_cirg(CcmdGranularity::Domain).with_did(did),
            ContextCacheScope::Device { did, sid, fm } => {
                Ccmd::new().with_cirg(CcmdGranularity::Device).with_did(did).with_sid(sid).with_fm(fm)
            }
        };
        self.invalidation.take(clock, || {
            self.mmio.write64(offset::CCMD, command.with_icc(true).into_bits());
            let read = |mmio: &M| Ccmd::from_bits(mmio.read64(offset::CCMD));
            self.wait(clock, "CCMD", |mmio| !read(mmio).icc())?;
            match read(&self.mmio).caig() {
                CcmdGranularity::Reserved => {
                    Err(UnitError::CommandRefused { register: "CCMD", value: command.into_bits() })
                }
                _ => Ok(()),
            }
        })
    }

    /// Register-based IOTLB invalidation (VT-d 11.4.6.2).
    pub(super) fn invalidate_translations(
        &self,
        clock: &impl Clock,
        scope: IotlbScope,
        drain: (bool, bool),
    ) -> Result<(), UnitError> {
        let command = Iotlb::new().with_dw(drain.0).with_dr(drain.1);
        let (command, address) = match scope {
            IotlbScope::Global => (command.with_iirg(IotlbGranularity::Global), None),
            IotlbScope::Domain { did } => (command.with_iirg(IotlbGranularity::Domain).with_did(did), None),
            IotlbScope::Pages { did, pages } => (
                command.with_iirg(IotlbGranularity::Page).with_did(did),
                Some(Iva::new().with_addr(pages.addr >> 12).with_am(pages.am).with_ih(pages.ih)),
            ),
        };
        let at = self.iotlb_offset;
        self.invalidation.take(clock, || {
            if let Some(address) = address {
                self.mmio.write64(at + offset::IVA_FROM_IRO, address.into_bits());
            }
            self.mmio.write64(at + offset::IOTLB_FROM_IRO, command.with_ivt(true).into_bits());
            let read = |mmio: &M| Iotlb::from_bits(mmio.read64(at + offset::IOTLB_FROM_IRO));
            self.wait(clock, "IOTLB", |mmio| !read(mmio).ivt())?;
            match read(&self.mmio).iaig() {
                IotlbGranularity::Reserved => {
                    Err(UnitError::CommandRefused { register: "IOTLB", value: command.into_bits() })
                }
                _ => Ok(()),
            }
        })
    }

    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }
}
