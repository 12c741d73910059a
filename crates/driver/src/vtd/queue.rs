//! The invalidation queue (VT-d 6.5.2).
//!
//! A ring of descriptors. Each submission ends in a wait descriptor that writes to a status word of its own (one per
//! ring entry), so any number of threads wait at once, none with the lock held. Entries are reused in order, once
//! every submission before has ended.
//!
//! The queue stops on the first error or time-out and takes nothing more until [`Queue::restart`]. No submission that was
//! under way then is taken for done, unless its own status word says so.

use alloc::vec::Vec;
use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::vtd::invalidation::InvalidationDescriptor;
use portcullis_spec::vtd::registers::{Fsts, Iqa, Iqt};

use super::registers::Registers;
use crate::error::UnitError;
use crate::platform::{Lock, Mmio, Platform};

/// What the status word of a wait descriptor holds until the unit writes it.
const PENDING: u32 = 0;
/// Written by the descriptors that replace others when the queue is drained after an error.
const DRAINED: u32 = 1;
/// Written by fences, which nobody waits for.
const FENCED: u32 = 2;

/// What the unit writes when a submission is done: its number, so that no word left over from another, before or after a
/// restart, is taken for it.
const fn done(number: u64) -> u32 {
    1 << 31 | number as u32
}

/// Descriptors in one submission, at most. Longer requests are cut.
const MAX_SUBMISSION: usize = 64;

/// A stretch of ring entries.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    entries: u32,
    finished: bool,
}

struct State {
    /// Where the next descriptor goes.
    tail: u32,
    /// Submissions since the oldest unfinished one, in order; together they are the used entries before `tail`.
    stretches: Vec<Stretch>,
    /// Number of the first of `stretches`, counted from the start.
    first: u64,
    used: u32,
    /// Why it stopped. Set from the start: [`Queue::start`] clears it.
    stopped: Option<UnitError>,
}

pub(super) struct Queue<P: Platform> {
    base: PhysAddr,
    bytes: u64,
    status: PhysAddr,
    status_bytes: u64,
    entries: u32,
    /// 128- or 256-bit descriptors.
    wide: bool,
    coherent: bool,
    state: P::Lock<State>,
}

/// A submission that is under way.
struct Ticket {
    number: u64,
    /// Ring entry of its last wait descriptor.
    wait: u32,
}

impl<P: Platform> Queue<P> {
    /// A queue of `2^size` pages, not yet known to the unit. `None` where the platform has no memory.
    pub(super) fn allocate(platform: &P, size: u8, wide: bool, coherent: bool) -> Option<Self> {
        let bytes = 4096u64 << size;
        let entries = (bytes / if wide { 32 } else { 16 }) as u32;
        let status_bytes = (u64::from(entries) * 4).next_power_of_two().max(4096);
        let base = platform.allocate(bytes, bytes)?;
        let Some(status) = platform.allocate(status_bytes, 4096) else {
            platform.free(base, bytes, bytes);
            return None;
        };
        let state =
            State { tail: 0, stretches: Vec::new(), first: 0, used: 0, stopped: Some(UnitError::Stopped) };
        Some(Self { base, bytes, status, status_bytes, entries, wide, coherent, state: P::Lock::new(state) })
    }

    /// Gives its memory back. The unit does not use it any more.
    pub(super) fn free(&self, platform: &P) {
        platform.free(self.base, self.bytes, self.bytes);
        platform.free(self.status, self.status_bytes, 4096);
    }

    /// Makes the unit take descriptors from here (VT-d 6.5.2: tail to zero, address, enable). The queue before must be
    /// off.
    pub(super) fn start<M: Mmio>(&self, registers: &Registers<M, P>, platform: &P) -> Result<(), UnitError> {
        registers.clear_fsts(Fsts::new().with_iqe(true).with_ite(true).with_ice(true));
        registers.set_iqt(Iqt::new());
        let size = self.bytes.trailing_zeros() - 12;
        registers.set_iqa(Iqa::new().with_iqa(self.base.0 >> 12).with_qs(size as u8).with_dw(self.wide));
        registers.set_queue(platform, true)?;
        self.state.with(|state| {
            state.first += state.stretches.len() as u64;
            state.stretches.clear();
            state.used = 0;
            state.tail = 0;
            state.stopped = None;
        });
        Ok(())
    }

    /// Stops the queue for good reason, or because the unit is to be shut down.
    pub(super) fn stop(&self, error: UnitError) {
        self.state.with(|state| {
            state.stopped.get_or_insert(error);
        });
    }

    /// Turns the queue off, whatever state the unit left it in: waits for the unit to take what is there, and where it
    /// does not, replaces the rest by wait descriptors that do nothing and clears the error that held it up (VT-d 6.5.2.10).
    pub(super) fn turn_off<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        let tail = registers.iqt();
        let step = if self.wide { 2 } else { 1 };
        let mut entry = u32::from(registers.iqh().qh()) / step;
        let end = u32::from(tail.qt()) / step;
        while entry != end && entry < self.entries && end < self.entries {
            self.write(platform, entry, &self.wait(entry, DRAINED));
            entry = (entry + 1) & (self.entries - 1);
        }
        registers.clear_fsts(Fsts::new().with_iqe(true).with_ite(true).with_ice(true));
        // A unit that reported an error goes on fetching once that is cleared; writing the tail again is harmless, and
        // starts those that look only then.
        registers.set_iqt(tail);
        registers.wait(platform, "IQH", |_| registers.iqh().qh() == tail.qt())?;
        registers.set_queue(platform, false)
    }

    /// Submits descriptors in order and waits until the unit has carried out all of them.
    pub(super) fn submit<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
        descriptors: &[InvalidationDescriptor],
    ) -> Result<(), UnitError> {
        descriptors.chunks(MAX_SUBMISSION).try_for_each(|chunk| {
            let ticket = self.enter(registers, platform, chunk)?;
            self.complete(registers, platform, &ticket)
        })
    }

    /// Waits for room and writes the descriptors with a wait descriptor behind. A wait among them gets the status word of
    /// its own entry.
    fn enter<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
        descriptors: &[InvalidationDescriptor],
    ) -> Result<Ticket, UnitError> {
        let needed = descriptors.len() as u32 + 1;
        let start = platform.now();
        loop {
            let entered = self.state.with(|state| {
                if state.stopped.is_some() {
                    return Err(UnitError::Stopped);
                }
                // A full ring would look like an empty one (VT-d 6.5.2).
                if self.entries - state.used <= needed {
                    return Ok(None);
                }
                let mut entry = state.tail;
                for descriptor in descriptors {
                    let descriptor = match descriptor {
                        InvalidationDescriptor::Wait { .. } => self.wait(entry, FENCED),
                        other => *other,
                    };
                    self.write(platform, entry, &descriptor);
                    entry = (entry + 1) & (self.entries - 1);
                }
                platform.store32(self.status_word(entry), PENDING);
                self.flush(platform, self.status_word(entry), 4);
                let number = state.first + state.stretches.len() as u64;
                self.write(platform, entry, &self.wait(entry, done(number)));
                state.tail = (entry + 1) & (self.entries - 1);
                state.used += needed;
                state.stretches.push(Stretch { entries: needed, finished: false });
                let step = if self.wide { 2 } else { 1 };
                registers.set_iqt(Iqt::new().with_qt((state.tail * step) as u16));
                Ok(Some(Ticket { number, wait: entry }))
            })?;
            match entered {
                Some(ticket) => return Ok(ticket),
                None => self.check_time(registers, platform, start)?,
            }
        }
    }

    /// Waits until the unit has carried out a submission.
    fn complete<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
        ticket: &Ticket,
    ) -> Result<(), UnitError> {
        let start = platform.now();
        loop {
            if platform.load32(self.status_word(ticket.wait)) == done(ticket.number) {
                self.leave(ticket.number);
                return Ok(());
            }
            if let Some(error) = self.error(registers) {
                self.stop(error);
            }
            let stopped = self.state.with(|state| {
                // Restarted meanwhile: what was submitted before is void.
                if ticket.number < state.first { Some(UnitError::Stopped) } else { state.stopped }
            });
            if let Some(error) = stopped {
                return Err(error);
            }
            self.check_time(registers, platform, start)?;
        }
    }

    /// The entries of a finished submission, and of finished ones before the first unfinished, can be used again.
    fn leave(&self, number: u64) {
        self.state.with(|state| {
            let Some(index) = number.checked_sub(state.first) else { return };
            if let Some(stretch) = state.stretches.get_mut(index as usize) {
                stretch.finished = true;
            }
            let finished = state.stretches.iter().take_while(|stretch| stretch.finished).count();
            for stretch in state.stretches.drain(..finished) {
                state.used -= stretch.entries;
            }
            state.first += finished as u64;
        });
    }

    /// Relaxes, or stops the queue where it has taken too long.
    fn check_time<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
        start: Duration,
    ) -> Result<(), UnitError> {
        let waited = platform.now().saturating_sub(start);
        if waited >= registers.timeout() {
            let error = UnitError::QueueTimeout { waited };
            self.stop(error);
            return Err(error);
        }
        platform.relax();
        Ok(())
    }

    /// The error that holds the unit up, if any (VT-d 6.5.2.10). A completion error (ICE) does not: some device
    /// answered what nobody had asked. It is cleared, or any device could stop the queue at will.
    fn error<M: Mmio>(&self, registers: &Registers<M, P>) -> Option<UnitError> {
        let fsts = registers.fsts();
        if fsts.into_bits() == u32::MAX {
            return Some(UnitError::Absent);
        }
        if fsts.ice() {
            registers.clear_fsts(Fsts::new().with_ice(true));
        }
        let step = if self.wide { 2 } else { 1 };
        if fsts.iqe() {
            let entry = u32::from(registers.iqh().qh()) / step;
            return Some(UnitError::QueueCommand { entry, detail: registers.iqercd().into_bits() });
        }
        fsts.ite().then(|| UnitError::DeviceTimeout { detail: registers.iqercd().into_bits() })
    }

    /// A wait descriptor that writes `stdata` to the status word of its entry; later ones wait for it.
    fn wait(&self, entry: u32, stdata: u32) -> InvalidationDescriptor {
        InvalidationDescriptor::Wait {
            interrupt: false,
            sw: true,
            fence: true,
            pd: false,
            stdata,
            staddr: self.status_word(entry).0,
        }
    }

    fn status_word(&self, entry: u32) -> PhysAddr {
        PhysAddr(self.status.0 + 4 * u64::from(entry))
    }

    fn write(&self, platform: &P, entry: u32, descriptor: &InvalidationDescriptor) {
        let bytes = if self.wide { 32 } else { 16 };
        let at = PhysAddr(self.base.0 + bytes * u64::from(entry));
        let words = descriptor.encode();
        platform.store64_run(at, bytes as usize / 8, |index| words[index]);
        self.flush(platform, at, bytes);
    }

    fn flush(&self, platform: &P, at: PhysAddr, bytes: u64) {
        if !self.coherent {
            platform.flush(at, bytes);
        }
    }
}

/// A fence in a submission: what follows begins only after what stands before is done. The queue fills in the status word.
pub(super) const FENCE: InvalidationDescriptor = InvalidationDescriptor::Wait {
    interrupt: false,
    sw: true,
    fence: true,
    pd: false,
    stdata: FENCED,
    staddr: 0,
};
