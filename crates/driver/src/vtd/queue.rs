//! The invalidation queue (VT-d 6.5.2): [`CommandQueue`] in VT-d's words.

use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::vtd::invalidation::InvalidationDescriptor;
use portcullis_spec::vtd::registers::{Fsts, Iqa, Iqt};

use super::registers::Registers;
use crate::common::queue::{CommandQueue, Commands, Words};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

/// A unit, spoken to by its registers.
pub(super) struct Descriptors<'a, M, P: Platform> {
    pub(super) registers: &'a Registers<M, P>,
    /// 128- or 256-bit descriptors.
    pub(super) wide: bool,
}

impl<M, P: Platform> Descriptors<'_, M, P> {
    /// What a descriptor counts for in IQH and IQT.
    const fn step(&self) -> u32 {
        if self.wide { 2 } else { 1 }
    }
}

impl<M: Mmio, P: Platform> Commands<P> for Descriptors<'_, M, P> {
    type Command = InvalidationDescriptor;

    /// Waits for the unit to take what is there; and where an error holds it up, replaces the rest by wait descriptors that do
    /// nothing, and clears the error (VT-d 6.5.2.10). Only then: a unit that is still fetching could see half of a replaced
    /// descriptor.
    fn turn_off(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError> {
        let registers = self.registers;
        let tail = registers.iqt();
        let is_empty = || registers.iqh().qh() == tail.qt();
        let is_held_up = || registers.fsts().iqe() || registers.fsts().ite();
        // Writing the tail again is harmless, and starts units that look only then.
        registers.set_iqt(tail);
        registers.wait(platform, "IQH", |_| is_empty() || is_held_up())?;
        if is_held_up() {
            let entries = queue.entries();
            let mut entry = u32::from(registers.iqh().qh()) / self.step();
            let end = u32::from(tail.qt()) / self.step();
            while entry != end && entry < entries && end < entries {
                queue.neutralize(platform, self, entry);
                entry = (entry + 1) & (entries - 1);
            }
            registers.clear_fsts(Fsts::new().with_iqe(true).with_ite(true).with_ice(true));
            registers.set_iqt(tail);
            registers.wait(platform, "IQH", |_| is_empty())?;
        }
        registers.set_queue(platform, false)
    }

    /// VT-d 6.5.2: tail to zero, address, enable.
    fn turn_on(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError> {
        let registers = self.registers;
        registers.clear_fsts(Fsts::new().with_iqe(true).with_ite(true).with_ice(true));
        registers.set_iqt(Iqt::new());
        let size = queue.bytes().trailing_zeros() - 12;
        registers.set_iqa(Iqa::new().with_iqa(queue.base().0 >> 12).with_qs(size as u8).with_dw(self.wide));
        registers.set_queue(platform, true)
    }

    fn encode(&self, descriptor: &InvalidationDescriptor) -> Option<Words> {
        match descriptor {
            InvalidationDescriptor::Wait { .. } => None,
            descriptor => Some(descriptor.encode()),
        }
    }

    fn completion(&self, status: PhysAddr, value: u32) -> Words {
        let wait = InvalidationDescriptor::Wait {
            interrupt: false,
            sw: true,
            fence: true,
            pd: false,
            stdata: value,
            staddr: status.0,
        };
        wait.encode()
    }

    fn ring(&self, tail: u32, _wrapped: bool) {
        self.registers.set_iqt(Iqt::new().with_qt((tail * self.step()) as u16));
    }

    /// The error that holds the unit up, if any (VT-d 6.5.2.10). A completion error (ICE) does not: some device
    /// answered what nobody had asked. It is cleared, or any device could stop the queue at will.
    fn error(&self) -> Option<UnitError> {
        let registers = self.registers;
        let fsts = registers.fsts();
        if fsts.into_bits() == u32::MAX {
            return Some(UnitError::Absent);
        }
        if fsts.ice() {
            registers.clear_fsts(Fsts::new().with_ice(true));
        }
        if fsts.iqe() {
            let entry = u32::from(registers.iqh().qh()) / self.step();
            return Some(UnitError::QueueCommand { entry, detail: registers.iqercd().into_bits() });
        }
        fsts.ite().then(|| UnitError::DeviceTimeout { detail: registers.iqercd().into_bits() })
    }

    fn timeout(&self) -> Duration {
        self.registers.timeout()
    }
}

/// A fence in a submission: what follows begins only after what stands before is done. The queue writes it.
pub(super) const FENCE: InvalidationDescriptor =
    InvalidationDescriptor::Wait { interrupt: false, sw: true, fence: true, pd: false, stdata: 0, staddr: 0 };
