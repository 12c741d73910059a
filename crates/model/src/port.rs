//! A device's way to memory.

use std::sync::Arc;

use portcullis_spec::{
    Access, Fault, FaultReason, Iova, Pasid, PhysAddr, RequestType, Requester, Transaction, Translation,
};

use crate::contexts::{Binding, Sender};
use crate::engine::{AccessError, Architecture, Engine, Inside, Outcome, Release, Stop};
use crate::guard::Guard;
use crate::memory::{GuestMemory, MemoryError, Width, update};
use crate::refusal::Refusal;

/// How many pieces of a copy are done in one guard, so that whoever drains waits a microsecond and not for all of it.
const PIECES: usize = 4;

/// One requester's access to memory through a unit, with one PASID or none. Cheap to clone: one for each queue or
/// thread that does DMA.
pub struct Port<A: Architecture> {
    engine: Arc<Engine<A>>,
    binding: Arc<Binding<A::Note>>,
    privileged: bool,
}

impl<A: Architecture> Clone for Port<A> {
    fn clone(&self) -> Self {
        let Self { engine, binding, privileged } = self;
        Self { engine: Arc::clone(engine), binding: Arc::clone(binding), privileged: *privileged }
    }
}

impl<A: Architecture> Port<A> {
    /// A port of `engine` for a requester and PASID.
    pub(crate) fn new(engine: Arc<Engine<A>>, requester: Requester, pasid: Option<Pasid>) -> Self {
        let binding = engine.binding(requester, pasid);
        Self { engine, binding, privileged: false }
    }

    /// The same port asking for privileged rights (the PCIe Privileged Mode Requested bit, which needs a PASID).
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// Who sends.
    #[must_use]
    pub fn requester(&self) -> Requester {
        self.binding.sender.requester
    }

    /// The PASID that is sent along.
    #[must_use]
    pub fn pasid(&self) -> Option<Pasid> {
        self.binding.sender.pasid
    }

    pub(crate) fn engine(&self) -> &Engine<A> {
        &self.engine
    }

    pub(crate) fn binding(&self) -> &Binding<A::Note> {
        &self.binding
    }

    /// A transaction of this port.
    #[must_use]
    pub fn transaction(&self, address: Iova, length: u64, access: Access) -> Transaction {
        Transaction {
            requester: self.binding.sender.requester,
            pasid: self.binding.sender.pasid,
            address,
            length,
            access,
            privileged: self.privileged,
            request_type: RequestType::Untranslated,
        }
    }

    /// Translates the first byte of `transaction`, whoever sends it. Nothing but table flags is touched, and a fault is
    /// recorded as for an access. The answer holds until the next invalidation of what it came from.
    ///
    /// # Errors
    /// The fault. Its code is 0 where the architecture refuses without one.
    pub fn translate(&self, transaction: &Transaction) -> Result<Translation, Fault> {
        let Transaction { requester, pasid, .. } = *transaction;
        let other;
        let binding = if self.binding.sender == (Sender { requester, pasid }) {
            &self.binding
        } else {
            other = self.engine.binding(requester, pasid);
            &other
        };
        loop {
            let passed = {
                let inside = self.engine.enter();
                self.engine.pass(binding, transaction, 1, &inside)
            };
            let report = match passed {
                Ok(passed) => return Ok(passed.translation()),
                Err(stop) => self.engine.report(stop, transaction),
            };
            if let Release::End(_) = self.engine.settle(&report) {
                return Err(report.fault);
            }
        }
    }

    /// Enters the unit for several requests in one go. Nothing that was found inside is taken away before the guard ends, so
    /// hold it for short and bounded work.
    #[must_use]
    pub fn enter(&self) -> Guard<'_, A> {
        Guard::new(self)
    }

    /// Reads `buffer.len()` bytes from `iova` on, as one request for each 4 KiB that they touch. An empty buffer is a
    /// zero-length read: it is translated, and nothing is read.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn read(&self, iova: Iova, buffer: &mut [u8]) -> Result<(), AccessError> {
        let mut inside = None;
        let mut done = 0;
        for number in 1.. {
            let (transaction, count) =
                self.piece(iova, done, buffer.len() - done, Access::READ, &mut inside)?;
            let now = &mut buffer[done..done + count];
            match self.request(&mut inside, &transaction, |memory, from| memory.read(from, now))? {
                Done::Moved(()) => {}
                Done::ZeroAndIgnore => buffer[done..done + count].fill(0),
                Done::Interrupt => return Err(self.engine.refuse_interrupt(&transaction)),
            }
            done += count;
            if done == buffer.len() {
                break;
            }
            if number % PIECES == 0 {
                inside = None;
            }
        }
        Ok(())
    }

    /// Writes `bytes` from `iova` on, as one request for each 4 KiB that they touch. A write of 4 bytes to the
    /// architecture's interrupt range is an interrupt request.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), AccessError> {
        let mut inside = None;
        let mut done = 0;
        for number in 1.. {
            if done == bytes.len() {
                break;
            }
            let (transaction, count) =
                self.piece(iova, done, bytes.len() - done, Access::WRITE, &mut inside)?;
            let now = &bytes[done..done + count];
            match self.request(&mut inside, &transaction, |memory, to| memory.write(to, now))? {
                Done::Moved(()) | Done::ZeroAndIgnore => {}
                Done::Interrupt => match <[u8; 4]>::try_from(now) {
                    Ok(data) => self.engine.interrupt(&transaction, u32::from_le_bytes(data))?,
                    Err(_) => return Err(self.engine.refuse_interrupt(&transaction)),
                },
            }
            done += count;
            if number % PIECES == 0 {
                inside = None;
            }
        }
        Ok(())
    }

    /// Stores `new` where `current` stands, at once with respect to every processor and device. Returns what stood there:
    /// `current` if and only if `new` was stored. Values are little-endian; of a narrow one the upper bits are zero.
    ///
    /// # Errors
    /// Where the address is not a multiple of the width, may not be both read and written, or is no memory.
    pub fn compare_exchange(
        &self,
        iova: Iova,
        width: Width,
        current: u64,
        new: u64,
    ) -> Result<u64, AccessError> {
        let current = current & width.mask();
        self.update(iova, width, |old| (old == current).then_some(new))
    }

    /// Adds `value`, wrapping around, at once. Returns what stood there before.
    ///
    /// # Errors
    /// As for [`compare_exchange`](Self::compare_exchange).
    pub fn fetch_add(&self, iova: Iova, width: Width, value: u64) -> Result<u64, AccessError> {
        self.update(iova, width, |old| Some(old.wrapping_add(value)))
    }

    /// Stores `value` at once. Returns what stood there before.
    ///
    /// # Errors
    /// As for [`compare_exchange`](Self::compare_exchange).
    pub fn swap(&self, iova: Iova, width: Width, value: u64) -> Result<u64, AccessError> {
        self.update(iova, width, |_| Some(value))
    }

    fn update(
        &self,
        iova: Iova,
        width: Width,
        change: impl Fn(u64) -> Option<u64>,
    ) -> Result<u64, AccessError> {
        let access = Access::READ_WRITE | Access::ATOMIC;
        let transaction = self.transaction(iova, width.bytes(), access);
        if !iova.is_aligned(width.bytes()) {
            return Err(AccessError::Misaligned { address: iova });
        }
        let done =
            self.request(&mut None, &transaction, |memory, address| update(memory, address, width, &change))?;
        match done {
            Done::Moved(old) => Ok(old),
            Done::ZeroAndIgnore => Ok(0),
            Done::Interrupt => Err(self.engine.refuse_interrupt(&transaction)),
        }
    }

    /// The request for what lies in one 4 KiB of `length` bytes that begin `done` bytes after `iova`, and how many bytes those
    /// are. An address that wraps around is refused, outside of the guard.
    fn piece(
        &self,
        iova: Iova,
        done: usize,
        length: usize,
        access: Access,
        inside: &mut Option<Inside<'_>>,
    ) -> Result<(Transaction, usize), AccessError> {
        let Some(at) = iova.checked_add(done as u64) else {
            *inside = None;
            let last = self.transaction(Iova(u64::MAX), length as u64, access);
            return Err(self.engine.refuse_outright(&last, Refusal::new(FaultReason::AddressSize)));
        };
        let to_end = 0x1000 - (at.0 & 0xfff);
        let count = usize::try_from(to_end).map_or(length, |to_end| length.min(to_end));
        Ok((self.transaction(at, count as u64, access), count))
    }

    /// Does one request that does not cross a 4 KiB boundary: `touch` moves the bytes, inside the guard. A refusal is
    /// settled outside.
    fn request<'a, T>(
        &'a self,
        inside: &mut Option<Inside<'a>>,
        transaction: &Transaction,
        mut touch: impl FnMut(&dyn GuestMemory, PhysAddr) -> Result<T, MemoryError>,
    ) -> Result<Done<T>, AccessError> {
        loop {
            let here = inside.get_or_insert_with(|| self.engine.enter());
            let stop = match self.engine.pass(&self.binding, transaction, transaction.length, here) {
                Ok(passed) => {
                    if cfg!(mutant = "guard_left_early") {
                        *inside = None;
                    }
                    return Ok(Done::Moved(touch(self.engine.memory(), passed.output)?));
                }
                Err(stop) => stop,
            };
            *inside = None;
            let report = match stop {
                Stop::Interrupt => return Ok(Done::Interrupt),
                Stop::Refused(report) => report,
            };
            match self.engine.settle(&report) {
                Release::Retry => {}
                Release::End(Outcome::ZeroAndIgnore) => return Ok(Done::ZeroAndIgnore),
                Release::End(Outcome::Abort | Outcome::Hold) => {
                    return Err(AccessError::Refused(report.fault));
                }
            }
        }
    }
}

/// What became of a request that did not fail.
enum Done<T> {
    /// Its bytes were moved.
    Moved(T),
    /// Nothing was moved: a read gives zeros, a write is dropped.
    ZeroAndIgnore,
    /// It is an interrupt request.
    Interrupt,
}
