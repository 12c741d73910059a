//! Why an operation was refused.

use crate::{Inexpressible, Invalid};
use portcullis_spec::{Iova, PhysAddr};

/// Why an operation was refused. `E` is the error of the memory in which the tables lie.
///
/// After [`map`](crate::PageTable::map) failed with any of these, nothing of the range is mapped that was not before. After
/// another operation failed for anything but [`Memory`](Self::Memory) or [`Corrupt`](Self::Corrupt), every
/// address translates as before; large pages may have been split.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error<E> {
    /// The range has no bytes.
    #[error("the range is empty")]
    EmptyRange,
    /// The input address, the output address or the size is not a multiple of the smallest page that is allowed.
    #[error("the range is not a multiple of {:#x} bytes", 1u64 << shift)]
    Misaligned {
        /// log2 of the bytes of which all three must be multiples.
        shift: u8,
    },
    /// The range is not within the input size, or crosses the gap between canonical halves.
    #[error("the range from {iova} on is out of the tables' range")]
    OutOfRange {
        /// Start of the range.
        iova: Iova,
    },
    /// The output range has bits above the output size.
    #[error("the output range from {address} on is beyond the output size")]
    OutputOutOfRange {
        /// Start of the output range.
        address: PhysAddr,
    },
    /// None of the page sizes that the caller allows exists in the format.
    #[error("the format has none of the allowed page sizes {allowed:#x}")]
    UnsupportedSize {
        /// What the caller allowed: bit *n* stands for 2^*n* bytes.
        allowed: u64,
    },
    /// The format cannot express the attributes.
    #[error(transparent)]
    Inexpressible(#[from] Inexpressible),
    /// Something is mapped already.
    #[error("{iova} is mapped already")]
    Overlap {
        /// The lowest address of the range that is mapped.
        iova: Iova,
    },
    /// The allocator has no table left.
    #[error("no memory is left for tables")]
    AllocatorEmpty,
    /// The range ends within a page, and the caller refuses to split it or the format has no smaller size to split it to.
    #[error("the range cuts the page of {:#x} bytes at {iova}", 1u64 << shift)]
    PartOfPage {
        /// Start of the page.
        iova: Iova,
        /// log2 of its bytes.
        shift: u8,
    },
    /// The page must be broken before it is made anew, and the caller gave no way to invalidate.
    #[error("the page of {:#x} bytes at {iova} can only be changed with break-before-make", 1u64 << shift)]
    BreakNeeded {
        /// Start of the page.
        iova: Iova,
        /// log2 of its bytes.
        shift: u8,
    },
    /// The tables hold an entry that this engine did not write and cannot work on.
    #[error("the entry of level {level} for {iova} is corrupt: {rule}")]
    Corrupt {
        /// An address that it covers.
        iova: Iova,
        /// Its level.
        level: u8,
        /// The rule that it breaks.
        rule: Invalid,
    },
    /// The memory in which the tables lie could not be reached.
    #[error("the tables could not be reached: {0}")]
    Memory(E),
}
