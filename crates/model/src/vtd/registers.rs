//! The register file (VT-d 11.4). Software accesses 32-bit registers by aligned doublewords and 64-bit registers by aligned
//! quadwords or doublewords (VT-d 11.2); a quadword access is done as two doublewords, the lower first. Every other
//! access reads zeros and writes nothing.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use portcullis_spec::vtd::registers::{
    Ccmd, CcmdGranularity, Gcmd, Gsts, Iotlb, IotlbGranularity, Iva, Pmen, Rtaddr, Ttm, offset,
};
use portcullis_spec::{InterruptScope, Invalidation, PhysAddr};

use super::{Vtd, VtdUnit, queue};
use crate::registers::{Registers, half, put_half};
use crate::state::locked;

/// Bits of a protected region's base and limit that can't be set: regions are multiples of 2 MiB.
const PROTECTED_ALIGNMENT: u64 = 0x1f_ffff;

/// Registers that steer the unit (VT-d 11.4.4 to 11.4.6, 11.4.8).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Control {
    /// GSTS_REG.
    pub(super) status: u32,
    /// RTADDR_REG as software wrote it.
    pub(super) rtaddr: u64,
    /// RTADDR_REG as it stood when it was set last.
    pub(super) rtaddr_set: u64,
    /// IRTA_REG as software wrote it.
    pub(super) irta: u64,
    /// IRTA_REG as it stood when it was set last.
    pub(super) irta_set: u64,
    /// CCMD_REG.
    pub(super) ccmd: u64,
    /// IVA_REG.
    pub(super) iva: u64,
    /// IOTLB_REG.
    pub(super) iotlb: u64,
    /// PMEN_REG.
    pub(super) pmen: u32,
    /// PLMBASE_REG.
    pub(super) plmbase: u32,
    /// PLMLIMIT_REG.
    pub(super) plmlimit: u32,
    /// PHMBASE_REG.
    pub(super) phmbase: u64,
    /// PHMLIMIT_REG.
    pub(super) phmlimit: u64,
}

/// The memory that protected regions protect.
#[derive(Clone, Debug, Default)]
pub(super) struct Protection {
    /// First and last byte of each region in force.
    pub(super) regions: Vec<(u64, u64)>,
}

impl Registers for VtdUnit {
    fn mmio_size(&self) -> u64 {
        let config = self.config();
        let records = u64::from(config.fault_record_offset) + 16 * u64::from(config.fault_records);
        let iotlb = u64::from(config.iotlb_offset) + 16;
        records.max(iotlb).next_multiple_of(0x1000)
    }

    fn read32(&self, offset: u64) -> u32 {
        let vtd = self.model();
        let control = || locked(&vtd.control);
        let events = || locked(&vtd.events);
        match offset {
            offset::VER => vtd.ver.into_bits(),
            offset::CAP..=0x0c => half(vtd.cap().into_bits(), offset),
            offset::ECAP..=0x14 => half(vtd.ecap().into_bits(), offset),
            offset::GSTS => control().status,
            offset::RTADDR..=0x24 => half(control().rtaddr, offset),
            offset::CCMD..=0x2c => half(control().ccmd, offset),
            offset::FSTS => events().status().into_bits(),
            offset::FECTL => events().fault.control,
            offset::FEDATA => events().fault.data,
            offset::FEADDR => events().fault.address,
            offset::FEUADDR => events().fault.upper,
            offset::PMEN => control().pmen,
            offset::PLMBASE => control().plmbase,
            offset::PLMLIMIT => control().plmlimit,
            offset::PHMBASE..=0x74 => half(control().phmbase, offset),
            offset::PHMLIMIT..=0x7c => half(control().phmlimit, offset),
            offset::IQH..=0x84 => half(vtd.queue_head.load(Ordering::Acquire), offset),
            offset::IQT..=0x8c => half(locked(&vtd.queue).tail, offset),
            offset::IQA..=0x94 => half(locked(&vtd.queue).address, offset),
            offset::ICS => events().completion_status(),
            offset::IECTL => events().completion.control,
            offset::IEDATA => events().completion.data,
            offset::IEADDR => events().completion.address,
            offset::IEUADDR => events().completion.upper,
            offset::IQERCD..=0xb4 => half(events().error_record(), offset),
            offset::IRTA..=0xbc => half(control().irta, offset),
            _ => self.read_placed(offset),
        }
    }

    fn write32(&self, offset: u64, value: u32) {
        let vtd = self.model();
        let control = || locked(&vtd.control);
        let events = || locked(&vtd.events);
        let queued = vtd.ecap().qi();
        match offset {
            offset::GCMD => self.command(Gcmd::from_bits(value)),
            offset::RTADDR..=0x24 => {
                let mut control = control();
                put_half(&mut control.rtaddr, offset, value);
                control.rtaddr &= !0x3ff;
            }
            offset::CCMD..=0x2c => self.write_context_command(offset, value),
            offset::FSTS => self.write_fault_status(value),
            offset::FECTL => {
                let message = events().fault.write_control(value);
                vtd.send(message);
            }
            offset::FEDATA => events().fault.data = value & 0xffff,
            offset::FEADDR => events().fault.address = value & !3,
            offset::PMEN => self.write_protection(value),
            offset::PLMBASE | offset::PLMLIMIT | offset::PHMBASE..=0x7c => {
                vtd.write_region(&mut control(), offset, value);
            }
            offset::IQT..=0x8c if queued => queue::write_tail(self, offset, value),
            offset::IQA..=0x94 if queued => queue::write_address(self, offset, value),
            offset::ICS if queued => events().write_completion_status(value),
            offset::IECTL if queued => {
                let message = events().completion.write_control(value);
                vtd.send(message);
            }
            offset::IEDATA if queued => events().completion.data = value & 0xffff,
            offset::IEADDR if queued => events().completion.address = value & !3,
            offset::IRTA..=0xbc if vtd.ecap().ir() => {
                let mut control = control();
                put_half(&mut control.irta, offset, value);
                control.irta &= if vtd.ecap().eim() { !0x7f0 } else { !0xff0 };
            }
            _ => self.write_placed(offset, value),
        }
    }
}

impl VtdUnit {
    /// Registers whose place the configuration chooses.
    fn read_placed(&self, offset: u64) -> u32 {
        let vtd = self.model();
        let iotlb = vtd.ecap().iotlb_offset();
        if offset & !7 == iotlb + offset::IVA_FROM_IRO {
            // VT-d 11.4.6.3: write-only.
            return 0;
        }
        if offset & !7 == iotlb + offset::IOTLB_FROM_IRO {
            return half(locked(&vtd.control).iotlb, offset);
        }
        match vtd.record_place(offset) {
            Some((index, word)) => locked(&vtd.events).record_word(index, word),
            None => 0,
        }
    }

    fn write_placed(&self, offset: u64, value: u32) {
        let vtd = self.model();
        let iotlb = vtd.ecap().iotlb_offset();
        if offset & !7 == iotlb + offset::IVA_FROM_IRO {
            let mut control = locked(&vtd.control);
            put_half(&mut control.iva, offset, value);
        } else if offset & !7 == iotlb + offset::IOTLB_FROM_IRO {
            self.write_iotlb(offset, value);
        } else if let Some((index, 3)) = vtd.record_place(offset) {
            locked(&vtd.events).write_record(index, value);
        }
    }

    /// GCMD_REG (VT-d 11.4.4.1). Software changes one thing at a time; where it changes more, tables and queue are set up
    /// before translation goes on, and translation goes off first.
    fn command(&self, command: Gcmd) {
        let vtd = self.model();
        let mut control = locked(&vtd.control);
        let status = Gsts::from_bits(control.status);
        if !command.te() && status.tes() {
            self.enable_translation(&mut control, false);
        }
        if command.srtp() {
            control.rtaddr_set = control.rtaddr;
            vtd.rtaddr.store(control.rtaddr, Ordering::SeqCst);
            if vtd.cap().esrtps() {
                self.engine.invalidate(&Invalidation::Everything);
            }
            self.engine.drain();
            control.status = Gsts::from_bits(control.status).with_rtps(true).into_bits();
        }
        if vtd.ecap().qi() && command.qie() != status.qies() {
            control.status = Gsts::from_bits(control.status).with_qies(command.qie()).into_bits();
            queue::enable(self, &control, command.qie());
        }
        if vtd.ecap().ir() {
            self.command_interrupts(&mut control, command);
        }
        if command.te() && !status.tes() {
            self.enable_translation(&mut control, true);
        }
    }

    /// The part of GCMD_REG that concerns interrupts. Requests that were let pass before are delivered when it is done.
    fn command_interrupts(&self, control: &mut Control, command: Gcmd) {
        let vtd = self.model();
        let former = Gsts::from_bits(control.status);
        if command.sirtp() {
            control.irta_set = control.irta;
        }
        let status = former
            .with_irtps(former.irtps() || command.sirtp())
            .with_ires(command.ire())
            .with_cfis(command.cfi());
        if status == former && !command.sirtp() {
            return;
        }
        vtd.interrupts.set(status, control.irta_set);
        if command.sirtp() && vtd.cap().esirtps() {
            self.engine.invalidate(&Invalidation::Interrupts(InterruptScope::All));
        }
        self.engine.drain();
        control.status = status.into_bits();
    }

    /// Contexts are looked up by whether translation is on, so those found before must go.
    fn enable_translation(&self, control: &mut Control, enable: bool) {
        self.model().enabled.store(enable, Ordering::SeqCst);
        self.engine.invalidate(&Invalidation::Everything);
        self.engine.drain();
        control.status = Gsts::from_bits(control.status).with_tes(enable).into_bits();
    }

    /// Whether register-based invalidation works now: not while the queue does, and not from version 6 on (VT-d 6.5.1).
    fn registers_invalidate(&self, control: &Control) -> bool {
        self.model().ver.max() < 6 && !Gsts::from_bits(control.status).qies()
    }

    /// CCMD_REG (VT-d 11.4.6.1).
    fn write_context_command(&self, offset: u64, value: u32) {
        let vtd = self.model();
        let mut control = locked(&vtd.control);
        let granularity = Ccmd::from_bits(control.ccmd).caig();
        put_half(&mut control.ccmd, offset, value);
        let ccmd = Ccmd::from_bits(control.ccmd).with_caig(granularity);
        control.ccmd = ccmd.into_bits();
        if offset != offset::CCMD + 4 || !ccmd.icc() {
            return;
        }
        let legacy = Rtaddr::from_bits(control.rtaddr_set).ttm() == Ttm::Legacy;
        let scope = if self.registers_invalidate(&control) && legacy {
            queue::context_command(vtd.config.segment, ccmd)
        } else {
            None
        };
        let actual = match scope {
            Some(scope) => {
                self.engine.invalidate(&Invalidation::Contexts(scope));
                self.engine.drain();
                ccmd.cirg()
            }
            None => CcmdGranularity::Reserved,
        };
        control.ccmd = ccmd.with_caig(actual).with_icc(false).into_bits();
    }

    /// IOTLB_REG (VT-d 11.4.6.2).
    fn write_iotlb(&self, offset: u64, value: u32) {
        let vtd = self.model();
        let mut control = locked(&vtd.control);
        let granularity = Iotlb::from_bits(control.iotlb).iaig();
        put_half(&mut control.iotlb, offset, value);
        let iotlb = Iotlb::from_bits(control.iotlb).with_iaig(granularity);
        control.iotlb = iotlb.into_bits();
        if offset & 4 == 0 || !iotlb.ivt() {
            return;
        }
        let iva = Iva::from_bits(control.iva);
        let legacy = Rtaddr::from_bits(control.rtaddr_set).ttm() == Ttm::Legacy;
        let scope = if self.registers_invalidate(&control) && legacy {
            queue::iotlb_command(vtd.cap(), iotlb, iva)
        } else {
            None
        };
        let actual = match scope {
            Some((scope, actual)) => {
                self.engine.invalidate(&Invalidation::Translations(scope));
                self.engine.drain();
                actual
            }
            None => IotlbGranularity::Reserved,
        };
        control.iotlb = iotlb.with_iaig(actual).with_ivt(false).into_bits();
    }

    /// FSTS_REG: clearing IQE lets the queue go on.
    fn write_fault_status(&self, value: u32) {
        let vtd = self.model();
        let resumed = locked(&vtd.events).write_status(value);
        if resumed {
            queue::resume(self);
        }
    }

    /// PMEN_REG (VT-d 11.4.8.1).
    fn write_protection(&self, value: u32) {
        let vtd = self.model();
        if !vtd.cap().plmr() && !vtd.cap().phmr() {
            return;
        }
        let mut control = locked(&vtd.control);
        let enable = Pmen::from_bits(value).epm();
        control.pmen = Pmen::new().with_epm(enable).into_bits();
        vtd.protect(&control);
        self.engine.drain();
        control.pmen = Pmen::new().with_epm(enable).with_prs(enable).into_bits();
    }
}

impl Vtd {
    /// Which fault recording register, and which of its doublewords, lies at `offset`.
    fn record_place(&self, offset: u64) -> Option<(usize, usize)> {
        let from_first = offset.checked_sub(self.cap().fault_recording_offset())?;
        let index = from_first / offset::FRCD_SIZE;
        (index < u64::from(self.cap().fault_recording_registers()))
            .then_some((index as usize, (from_first / 4 % 4) as usize))
    }

    /// A base or limit of a protected region; fixed while protection is on (VT-d 11.4.8.2).
    fn write_region(&self, control: &mut Control, offset: u64, value: u32) {
        if Pmen::from_bits(control.pmen).prs() {
            return;
        }
        let low = value & !(PROTECTED_ALIGNMENT as u32);
        match offset {
            offset::PLMBASE if self.cap().plmr() => control.plmbase = low,
            offset::PLMLIMIT if self.cap().plmr() => control.plmlimit = low,
            offset::PHMBASE..=0x74 if self.cap().phmr() => {
                put_half(&mut control.phmbase, offset, value);
                control.phmbase &= self.high_bits();
            }
            offset::PHMLIMIT..=0x7c if self.cap().phmr() => {
                put_half(&mut control.phmlimit, offset, value);
                control.phmlimit &= self.high_bits();
            }
            _ => {}
        }
    }

    /// The bits that the high region's registers have: from the alignment to the host address width.
    const fn high_bits(&self) -> u64 {
        !PROTECTED_ALIGNMENT & ((1 << self.unit.haw) - 1)
    }

    /// Puts the regions in force that the registers describe. A region whose limit is below its base is none.
    pub(super) fn protect(&self, control: &Control) {
        let mut regions = Vec::new();
        if Pmen::from_bits(control.pmen).epm() {
            if self.cap().plmr() {
                regions.push((control.plmbase.into(), u64::from(control.plmlimit) | PROTECTED_ALIGNMENT));
            }
            if self.cap().phmr() {
                regions.push((control.phmbase, control.phmlimit | PROTECTED_ALIGNMENT));
            }
        }
        regions.retain(|(first, last)| first <= last);
        self.protection.write().unwrap_or_else(PoisonError::into_inner).regions = regions;
    }

    /// Whether a protected region holds any of `bytes` bytes from `address` on.
    pub(super) fn protects(&self, address: PhysAddr, bytes: u64) -> bool {
        let last = address.0.saturating_add(bytes.max(1) - 1);
        let protection = self.protection.read().unwrap_or_else(PoisonError::into_inner);
        protection.regions.iter().any(|(first, end)| address.0 <= *end && last >= *first)
    }
}
