//! Several requests in one go.

use std::cell::RefCell;

use portcullis_spec::{Access, Fault, FaultReason, Iova, PhysAddr, Transaction, Translation};

use crate::engine::{AccessError, Architecture, Inside, Passed, Report, Stop};
use crate::host::HostSlice;
use crate::memory::MemoryError;
use crate::pin::{Pin, TooManyPins};
use crate::port::Port;
use crate::refusal::Refusal;

/// A port's presence in its unit: translations and slices that it gives stay good until it ends, whatever software
/// invalidates meanwhile, because whoever invalidates waits for its end.
///
/// So it is to be short: a few dozen requests, no waiting for anything, no register access to the same unit. What is
/// needed for longer is pinned ([`Guard::pin`]). Refusals are recorded and signalled when the guard ends.
pub struct Guard<'a, A: Architecture> {
    port: &'a Port<A>,
    /// Present until the guard is dropped.
    inside: Option<Inside<'a>>,
    refused: RefCell<Vec<Report<A::Record>>>,
    /// What was given out to be written, where somebody keeps track of that.
    written: RefCell<Vec<(PhysAddr, u64)>>,
}

impl<'a, A: Architecture> Guard<'a, A> {
    #[inline]
    pub(crate) fn new(port: &'a Port<A>) -> Self {
        let (refused, written) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        Self { port, inside: Some(port.engine().enter()), refused, written }
    }

    /// Translates the first byte of a request that does not cross a 4 KiB boundary, with the port's requester, PASID and
    /// privilege.
    ///
    /// # Errors
    /// The fault. It is recorded, as the architecture does, when the guard ends.
    #[inline(always)]
    pub fn translate(&self, address: Iova, length: u64, access: Access) -> Result<Translation, Fault> {
        let transaction = self.port.transaction(address, length, access);
        self.pass(&transaction).map(|passed| passed.translation())
    }

    /// Keeps what this guard gives out good after its end, until the pin is gone.
    ///
    /// # Errors
    /// Where the unit has given out as many pins as it may.
    pub fn pin(&self) -> Result<Pin<'a>, TooManyPins> {
        self.port.engine().pin(self.inside())
    }

    fn inside(&self) -> &Inside<'a> {
        let Some(inside) = &self.inside else { unreachable!("a guard is inside until it is dropped") };
        inside
    }

    fn refuse(&self, transaction: &Transaction, reason: FaultReason) -> Fault {
        let report = self.port.engine().architecture.fault(transaction, None, Refusal::new(reason));
        self.refused.borrow_mut().push(report);
        report.fault
    }

    #[inline(always)]
    fn pass(&self, transaction: &Transaction) -> Result<Passed, Fault> {
        let engine = self.port.engine();
        engine
            .pass(self.port.binding(), transaction, transaction.length, self.inside())
            .map_err(|stop| self.refused(stop, transaction))
    }

    #[cold]
    fn refused(&self, stop: Stop<A::Record>, transaction: &Transaction) -> Fault {
        let report = self.port.engine().report(stop, transaction);
        self.refused.borrow_mut().push(report);
        report.fault
    }

    /// The memory of `length` bytes from `iova` on as it lies in this process: slices in order, cut only where pages that
    /// follow each other do not lie behind one another in memory too. Each is found when it is asked for.
    pub const fn slices(&self, iova: Iova, length: u64, access: Access) -> Slices<'_, 'a, A> {
        Slices { guard: self, at: Some(iova), left: length, access, ahead: None }
    }

    /// The memory of one piece that does not cross a 4 KiB boundary.
    fn slice(&self, at: Iova, count: u64, access: Access) -> Result<HostSlice<'_>, AccessError> {
        let engine = self.port.engine();
        let output =
            self.pass(&self.port.transaction(at, count, access)).map_err(AccessError::Refused)?.output;
        let memory = engine.memory();
        let absent = MemoryError::NotInProcess { address: output };
        let pointer = memory.host_pointer(output, count).ok_or(absent)?;
        if access.contains(Access::WRITE) && memory.tracks_writes() {
            memory.mark_written(output, count);
            self.written.borrow_mut().push((output, count));
        }
        Ok(HostSlice::new(pointer, usize::try_from(count).map_err(|_| absent)?))
    }
}

impl<A: Architecture> Drop for Guard<'_, A> {
    #[inline]
    fn drop(&mut self) {
        for (address, bytes) in self.written.take() {
            self.port.engine().memory().mark_written(address, bytes);
        }
        self.inside = None;
        for report in self.refused.take() {
            // What becomes of it has been said already: it failed.
            let _ = self.port.engine().settle(&report);
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
