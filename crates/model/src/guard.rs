//! Several requests in one go.

use std::cell::RefCell;

use portcullis_spec::{Access, Fault, FaultReason, Iova, PhysAddr, Transaction, Translation};

use crate::engine::{AccessError, Architecture, Engine, Report};
use crate::host::HostSlice;
use crate::memory::{GuestMemory, MemoryError};
use crate::pin::{Pin, TooManyPins};
use crate::port::Port;
use crate::refusal::Refusal;
use crate::visit::Visit;

/// A port's presence in its unit: translations and slices that it gives stay good until it ends, whatever software
/// invalidates meanwhile, because whoever invalidates waits for its end.
///
/// So it is to be short: a few dozen requests, no waiting for anything, no register access to the same unit. What is
/// needed for longer is pinned ([`Guard::pin`]). Refusals are recorded and signalled when the guard ends.
pub struct Guard<'a, A: Architecture> {
    port: &'a Port<A>,
    // Dropped in this order: what was written is marked inside, and refusals are settled outside.
    written: Written<'a>,
    visit: Visit<'a, A>,
    refused: Refused<'a, A>,
}

impl<'a, A: Architecture> Guard<'a, A> {
    #[inline(always)]
    pub(crate) fn new(port: &'a Port<A>) -> Self {
        let engine = port.engine();
        let visit = Visit::new(port);
        let written = Written { memory: visit.inside().memory, pieces: RefCell::default() };
        Self { port, written, visit, refused: Refused { engine, reports: RefCell::default() } }
    }

    /// Translates the first byte of a request that does not cross a 4 KiB boundary, with the port's requester, PASID and
    /// privilege.
    ///
    /// # Errors
    /// The fault. It is recorded, as the architecture does, when the guard ends.
    #[inline(always)]
    pub fn translate(&self, address: Iova, length: u64, access: Access) -> Result<Translation, Fault> {
        match self.visit.hit(address, length, access) {
            Some(reached) => Ok(reached.translation()),
            None => self.decide(address, length, access),
        }
    }

    /// Keeps what this guard gives out good after its end, until the pin is gone.
    ///
    /// # Errors
    /// Where the unit has given out as many pins as it may.
    pub fn pin(&self) -> Result<Pin<'a>, TooManyPins> {
        self.port.engine().pin(self.visit.inside())
    }

    fn refuse(&self, transaction: &Transaction, reason: FaultReason) -> Fault {
        let report = self.port.engine().architecture.fault(transaction, None, Refusal::new(reason));
        self.refused.add(report);
        report.fault
    }

    /// Decides a transaction that did not hit.
    #[cold]
    #[inline(never)]
    fn decide(&self, address: Iova, length: u64, access: Access) -> Result<Translation, Fault> {
        let engine = self.port.engine();
        let transaction = &self.port.transaction(address, length, access);
        self.visit.decide(transaction).map_err(|stop| {
            let report = engine.report(stop, transaction);
            self.refused.add(report);
            report.fault
        })
    }

    /// The memory of `length` bytes from `iova` on as it lies in this process: slices in order, cut only where pages that
    /// follow each other do not lie behind one another in memory too. Each is found when it is asked for.
    pub const fn slices(&self, iova: Iova, length: u64, access: Access) -> Slices<'_, 'a, A> {
        Slices { guard: self, at: Some(iova), left: length, access, ahead: None }
    }

    /// The memory of one piece that does not cross a 4 KiB boundary.
    fn slice(&self, at: Iova, count: u64, access: Access) -> Result<HostSlice<'_>, AccessError> {
        let engine = self.port.engine();
        let output = self.translate(at, count, access).map_err(AccessError::Refused)?.address;
        let memory = engine.memory();
        let absent = MemoryError::NotInProcess { address: output };
        let pointer = memory.host_pointer(output, count).ok_or(absent)?;
        if access.contains(Access::WRITE) && memory.tracks_writes() {
            memory.mark_written(output, count);
            self.written.add(output, count);
        }
        Ok(HostSlice::new(pointer, usize::try_from(count).map_err(|_| absent)?))
    }
}

/// What a guard gave out to be written, where somebody keeps track of that.
struct Written<'a> {
    memory: &'a dyn GuestMemory,
    pieces: RefCell<Vec<(PhysAddr, u64)>>,
}

impl Written<'_> {
    fn add(&self, address: PhysAddr, bytes: u64) {
        self.pieces.borrow_mut().push((address, bytes));
    }

    #[cold]
    fn mark(&mut self) {
        for (address, bytes) in self.pieces.take() {
            self.memory.mark_written(address, bytes);
        }
    }
}

impl Drop for Written<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.pieces.get_mut().is_empty() {
            self.mark();
        }
    }
}

/// What a guard refused.
struct Refused<'a, A: Architecture> {
    engine: &'a Engine<A>,
    reports: RefCell<Vec<Report<A::Record>>>,
}

impl<A: Architecture> Refused<'_, A> {
    fn add(&self, report: Report<A::Record>) {
        self.reports.borrow_mut().push(report);
    }

    #[cold]
    fn settle(&mut self) {
        for report in self.reports.take() {
            // What becomes of it has been said already: it failed.
            let _ = self.engine.settle(&report);
        }
    }
}

impl<A: Architecture> Drop for Refused<'_, A> {
    #[inline]
    fn drop(&mut self) {
        if !self.reports.get_mut().is_empty() {
            self.settle();
        }
    }
}

/// The slices of [`Guard::slices`]. The first error is the last item; a refusal is recorded when the guard ends.
pub struct Slices<'g, 'a, A: Architecture> {
    guard: &'g Guard<'a, A>,
    /// Where the next piece begins; `None` behind the last address.
    at: Option<Iova>,
    left: u64,
    access: Access,
    /// A piece that did not join the slice before it.
    ahead: Option<Result<HostSlice<'g>, AccessError>>,
}

impl<'g, A: Architecture> Slices<'g, '_, A> {
    fn piece(&mut self) -> Option<Result<HostSlice<'g>, AccessError>> {
        if self.left == 0 {
            return None;
        }
        let Some(at) = self.at else {
            self.left = 0;
            let beyond = self.guard.port.transaction(Iova(u64::MAX), 1, self.access);
            return Some(Err(AccessError::Refused(self.guard.refuse(&beyond, FaultReason::AddressSize))));
        };
        let count = self.left.min(0x1000 - (at.0 & 0xfff));
        let slice = self.guard.slice(at, count, self.access);
        self.left = if slice.is_ok() { self.left - count } else { 0 };
        self.at = at.checked_add(count);
        Some(slice)
    }
}

impl<'g, A: Architecture> Iterator for Slices<'g, '_, A> {
    type Item = Result<HostSlice<'g>, AccessError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut slice = match self.ahead.take().or_else(|| self.piece())? {
            Ok(slice) => slice,
            error => return Some(error),
        };
        while let Some(next) = self.piece() {
            match next.as_ref().ok().and_then(|next| slice.join(*next)) {
                Some(joined) => slice = joined,
                None => {
                    self.ahead = Some(next);
                    break;
                }
            }
        }
        Some(Ok(slice))
    }
}
