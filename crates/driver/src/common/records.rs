//! A ring of fault records that a unit writes and the driver reads, the same for every architecture that has one: the unit owns the
//! tail, the driver the head.

use portcullis_spec::PhysAddr;

use super::architecture::{FaultCounts, FaultRecord};
use crate::platform::Memory;

/// A record, as many words as it has, low word first.
type Words = [u64; 4];

pub(crate) struct RecordRing {
    base: PhysAddr,
    bytes: u64,
    record_bytes: u64,
    coherent: bool,
    head: u32,
    wrapped: bool,
}

impl RecordRing {
    /// A ring of `2^size` pages, not yet known to the unit. `None` where the platform has no memory.
    pub(crate) fn allocate(
        memory: &impl Memory,
        size: u8,
        record_bytes: u64,
        coherent: bool,
    ) -> Option<Self> {
        let bytes = 4096u64 << size;
        let base = memory.allocate(bytes, bytes)?;
        Some(Self { base, bytes, record_bytes, coherent, head: 0, wrapped: false })
    }

    /// Gives its memory back. The unit does not use it any more.
    pub(crate) fn free(&self, memory: &impl Memory) {
        memory.free(self.base, self.bytes, self.bytes);
    }

    /// First byte of the ring.
    pub(crate) const fn base(&self) -> PhysAddr {
        self.base
    }

    /// Records that it holds, a power of two.
    pub(crate) const fn entries(&self) -> u32 {
        (self.bytes / self.record_bytes) as u32
    }

    /// The unit begins at record 0 again.
    pub(crate) fn restart(&mut self) {
        self.head = 0;
        self.wrapped = false;
    }

    /// The record that the driver reads next, and a bit that changes each time that the head passes the end of the ring.
    pub(crate) const fn head(&self) -> (u32, bool) {
        (self.head, self.wrapped)
    }

    /// Hands out the records before `tail`, whose wrap bit is `wrapped`: those that come meanwhile are for the next time. A tail that no ring of this size
    /// can have counts as none. `decode` says what a record reports, or nothing where it makes no sense.
    pub(crate) fn read(
        &mut self,
        memory: &impl Memory,
        (tail, wrapped): (u32, bool),
        mut decode: impl FnMut(Words) -> Option<FaultRecord>,
        sink: &mut dyn FnMut(FaultRecord),
    ) -> FaultCounts {
        let mut counts = FaultCounts::default();
        let entries = self.entries();
        if tail >= entries {
            return counts;
        }
        // With the same wrap bit the tail is ahead, with the other a round further on.
        let waiting = match wrapped == self.wrapped {
            true => tail.saturating_sub(self.head),
            false => (entries + tail).saturating_sub(self.head).min(entries),
        };
        for _ in 0..waiting {
            let at = PhysAddr(self.base.0 + self.record_bytes * u64::from(self.head));
            if !self.coherent {
                memory.flush(at, self.record_bytes);
            }
            let words = self.record_bytes as usize / 8;
            let raw = core::array::from_fn(|word| match word < words {
                true => memory.load64(PhysAddr(at.0 + 8 * word as u64)),
                false => 0,
            });
            counts.read += 1;
            match decode(raw) {
                Some(record) => sink(record),
                None => counts.unknown += 1,
            }
            self.head = (self.head + 1) & (entries - 1);
            self.wrapped ^= self.head == 0;
        }
        counts
    }
}
