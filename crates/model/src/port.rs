//! A device's way to memory.

use std::sync::Arc;

use portcullis_spec::{
    Access, Fault, FaultReason, Iova, Pasid, RequestType, Requester, Transaction, Translation,
};

use crate::engine::{AccessError, Admission, Architecture, Done, Engine};
use crate::refusal::Refusal;

/// One requester's access to memory through a unit, with one PASID or none. Cheap to clone: one for each queue or
/// thread that does DMA.
pub struct Port<A: Architecture> {
    engine: Arc<Engine<A>>,
    requester: Requester,
    pasid: Option<Pasid>,
    privileged: bool,
    shard: usize,
}

impl<A: Architecture> Clone for Port<A> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), shard: self.engine.assign_shard(), ..*self }
    }
}

impl<A: Architecture> Port<A> {
    /// A port of `engine` for a requester and PASID.
    pub(crate) fn new(engine: Arc<Engine<A>>, requester: Requester, pasid: Option<Pasid>) -> Self {
        let shard = engine.assign_shard();
        Self { engine, requester, pasid, privileged: false, shard }
    }

    /// The same port asking for privileged rights (the PCIe Privileged Mode Requested bit, which needs a PASID).
    #[must_use]
    pub fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }

    /// Who sends.
    #[must_use]
    pub const fn requester(&self) -> Requester {
        self.requester
    }

    /// The PASID that is sent along.
    #[must_use]
    pub const fn pasid(&self) -> Option<Pasid> {
        self.pasid
    }

    /// A transaction of this port.
    #[must_use]
    pub const fn transaction(&self, address: Iova, length: u64, access: Access) -> Transaction {
        Transaction {
            requester: self.requester,
            pasid: self.pasid,
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
        self.engine.translate(self.shard, transaction)
    }

    /// Reads `buffer.len()` bytes from `iova` on, as one request for each 4 KiB that they touch. An empty buffer is a
    /// zero-length read: it is translated, and nothing is read.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn read(&self, iova: Iova, buffer: &mut [u8]) -> Result<(), AccessError> {
        let mut rest = buffer;
        let mut at = iova;
        loop {
            let count = piece(at, rest.len());
            let (now, later) = rest.split_at_mut(count);
            let transaction = self.transaction(at, count as u64, Access::READ);
            let done =
                self.engine.access(self.shard, &transaction, |memory, address| memory.read(address, now))?;
            if done == Done::ZeroAndIgnore {
                now.fill(0);
            }
            rest = later;
            if rest.is_empty() {
                return Ok(());
            }
            at = self.advance(&transaction, count)?;
        }
    }

    /// Writes `bytes` from `iova` on, as one request for each 4 KiB that they touch. A write of 4 bytes to the
    /// architecture's interrupt range is an interrupt request.
    ///
    /// # Errors
    /// The first request that fails; those before it have been done.
    pub fn write(&self, iova: Iova, bytes: &[u8]) -> Result<(), AccessError> {
        let mut rest = bytes;
        let mut at = iova;
        while !rest.is_empty() {
            let count = piece(at, rest.len());
            let (now, later) = rest.split_at(count);
            let transaction = self.transaction(at, count as u64, Access::WRITE);
            match (self.engine.admit(&transaction), <[u8; 4]>::try_from(now)) {
                (Admission::Interrupt, Ok(data)) => {
                    self.engine.interrupt(&transaction, u32::from_le_bytes(data))?;
                }
                _ => {
                    self.engine
                        .access(self.shard, &transaction, |memory, address| memory.write(address, now))?;
                }
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
            at = self.advance(&transaction, count)?;
        }
        Ok(())
    }

    /// The address `count` bytes after a request's, which does not wrap around.
    fn advance(&self, transaction: &Transaction, count: usize) -> Result<Iova, AccessError> {
        transaction
            .address
            .checked_add(count as u64)
            .ok_or_else(|| self.engine.refuse_outright(transaction, Refusal::new(FaultReason::AddressSize)))
    }
}

/// How many of `length` bytes from `at` on lie in one 4 KiB page.
fn piece(at: Iova, length: usize) -> usize {
    let to_end = 0x1000 - (at.0 & 0xfff);
    usize::try_from(to_end).map_or(length, |to_end| length.min(to_end))
}
