//! A device's way to memory.

use std::cell::Cell;
use std::sync::Arc;

use portcullis_spec::{
    Access, Fault, Iova, Pasid, PhysAddr, RequestType, Requester, Transaction, Translation,
};

use crate::contexts::{Binding, Sender};
use crate::copy;
use crate::engine::{AccessError, Architecture, Engine, Inside, Outcome, Release, Report, Stop};
use crate::guard::Guard;
use crate::interrupt::Message;
use crate::memory::{GuestMemory, MemoryError, Width, update};
use crate::micro::MicroTlb;
use crate::refusal::Refusal;
use crate::visit::Visit;

/// One requester's access to memory through a unit, with one PASID or none. Cheap to clone: one for each queue or
/// thread that does DMA. Each has a micro-TLB of its own, so threads can't share one.
pub struct Port<A: Architecture> {
    engine: Arc<Engine<A>>,
    binding: Arc<Binding<A::Note>>,
    privileged: bool,
    /// Taken away by whoever is inside for this port.
    micro: Cell<Option<Box<MicroTlb>>>,
}

impl<A: Architecture> Clone for Port<A> {
    fn clone(&self) -> Self {
        let Self { engine, binding, privileged, micro: _ } = self;
        Self {
            engine: Arc::clone(engine),
            binding: Arc::clone(binding),
            privileged: *privileged,
            micro: Cell::default(),
        }
    }
}

impl<A: Architecture> Port<A> {
    /// A port of `engine` for a requester and PASID.
    pub(crate) fn new(engine: Arc<Engine<A>>, requester: Requester, pasid: Option<Pasid>) -> Self {
        let binding = engine.binding(requester, pasid);
        Self { engine, binding, privileged: false, micro: Cell::default() }
    }

    /// The same port asking for privileged rights (the PCIe Privileged Mode Requested bit, which needs a PASID).
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self.micro = Cell::default();
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

    pub(crate) fn is_privileged(&self) -> bool {
        self.privileged
    }

    pub(crate) fn engine(&self) -> &Engine<A> {
        &self.engine
    }

    /// The micro-TLB, where nobody else has it.
    #[inline(always)]
    pub(crate) fn take_micro(&self) -> Option<Box<MicroTlb>> {
        self.micro.take()
    }

    /// Gives it back.
    #[inline(always)]
    pub(crate) fn give_micro(&self, micro: Box<MicroTlb>) {
        self.micro.set(Some(micro));
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
                Ok(translation) => return Ok(translation),
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
    #[inline(always)]
    pub fn enter(&self) -> Guard<'_, A> {
        Guard::new(self)
    }

    /// Reads `buffer.len()` bytes from `iova` on, as one request for each 4 KiB that they touch. An empty buffer is a
    /// zero-length read: it is translated, and nothing is read.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn read(&self, iova: Iova, buffer: &mut [u8]) -> Result<(), AccessError> {
        copy::copy(self, iova, &mut copy::Out(buffer))
    }

    /// Writes `bytes` from `iova` on, as one request for each 4 KiB that they touch. A write of 4 bytes to the
    /// architecture's interrupt range is an interrupt request; one that is translated to where there is no memory is a message,
    /// on architectures that know messages as ordinary writes.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), AccessError> {
        if bytes.is_empty() {
            return Ok(());
        }
        copy::copy(self, iova, &mut copy::In(bytes))
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
        let done = self.request(&transaction, |memory, address| update(memory, address, width, &change))?;
        match done {
            Done::Moved(old) => Ok(old),
            Done::ZeroAndIgnore => Ok(0),
            Done::Interrupt => Err(self.engine.refuse_interrupt(&transaction)),
        }
    }

    /// Does a transaction that an interrupt file stopped, inside the guard that it was stopped in.
    pub(crate) fn access_file(
        &self,
        transaction: &Transaction,
        refusal: Refusal,
        data: Option<&[u8]>,
        inside: &Inside<'_>,
    ) -> Result<(), Report<A::Record>> {
        self.engine.access_file(&self.binding, transaction, refusal, data, inside)
    }

    /// Offers four bytes that were to be written to where there is no memory to the interrupt controllers. Called inside the guard.
    #[cold]
    pub(crate) fn message(&self, to: PhysAddr, data: [u8; 4]) -> Option<()> {
        let message =
            Message { source: Some(self.requester()), address: to.0, data: u32::from_le_bytes(data) };
        if !to.is_aligned(4) {
            return None;
        }
        self.engine.architecture.message(message).ok()
    }

    /// Does one request that does not cross a 4 KiB boundary: `touch` moves the bytes, inside the guard. A refusal is
    /// settled outside.
    fn request<T>(
        &self,
        transaction: &Transaction,
        mut touch: impl FnMut(&dyn GuestMemory, PhysAddr) -> Result<T, MemoryError>,
    ) -> Result<Done<T>, AccessError> {
        loop {
            let mut inside = Some(Visit::new(self));
            let stop = match inside.as_ref().map(|inside| inside.pass(transaction)) {
                Some(Ok(translation)) => {
                    if cfg!(mutant = "guard_left_early") {
                        inside = None;
                    }
                    let done = touch(self.engine.memory(), translation.address)?;
                    drop(inside);
                    return Ok(Done::Moved(done));
                }
                Some(Err(stop)) => stop,
                None => continue,
            };
            drop(inside);
            match self.settle(stop)? {
                Settled::Retry => {}
                Settled::ZeroAndIgnore => return Ok(Done::ZeroAndIgnore),
                Settled::Interrupt => return Ok(Done::Interrupt),
            }
        }
    }

    /// Finds out what becomes of a transaction that was stopped. Called outside of the guard.
    ///
    /// # Errors
    /// Where it fails.
    #[cold]
    pub(crate) fn settle(&self, stop: Stop<A::Record>) -> Result<Settled, AccessError> {
        let report = match stop {
            Stop::Interrupt => return Ok(Settled::Interrupt),
            // Whoever can't read or write an interrupt file is refused.
            Stop::Refused(report) | Stop::File { report, .. } => report,
        };
        match self.engine.settle(&report) {
            Release::Retry => Ok(Settled::Retry),
            Release::End(Outcome::ZeroAndIgnore) => Ok(Settled::ZeroAndIgnore),
            Release::End(Outcome::Abort | Outcome::Hold) => Err(AccessError::Refused(report.fault)),
        }
    }
}

/// What becomes of a transaction that was stopped and does not fail.
pub(crate) enum Settled {
    /// It is tried again.
    Retry,
    /// Nothing is moved: a read gives zeros, a write is dropped.
    ZeroAndIgnore,
    /// It is an interrupt request.
    Interrupt,
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
