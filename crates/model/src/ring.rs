//! Arithmetic of a ring of commands or events in memory.

use portcullis_spec::PhysAddr;

/// A ring of `1 << size_shift` bytes of entries of `1 << entry_shift` bytes. Head and tail are byte offsets from its
/// start. A ring is empty where they are equal, and full one entry earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ring {
    /// First byte.
    pub base: PhysAddr,
    /// log2 of its bytes; at most 63.
    pub size_shift: u8,
    /// log2 of an entry's bytes; not above `size_shift`.
    pub entry_shift: u8,
}

/// Why an offset is not one of a ring's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum BadOffset {
    /// It lies beyond the ring.
    #[error("the offset lies beyond the ring")]
    BeyondRing,
    /// It is not a multiple of the entry's size.
    #[error("the offset is not a multiple of the entry's size")]
    Misaligned,
}

/// An offset that has been checked against its ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offset(u64);

impl Offset {
    /// The start of any ring.
    pub const START: Self = Self(0);

    /// The number of bytes from the ring's start.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Ring {
    /// Bytes of the ring.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.size_shift
    }

    /// Checks an offset that a guest wrote.
    ///
    /// # Errors
    /// Where no entry begins there.
    pub const fn offset(self, bytes: u64) -> Result<Offset, BadOffset> {
        if bytes & ((1 << self.entry_shift) - 1) != 0 {
            Err(BadOffset::Misaligned)
        } else if bytes >= self.bytes() {
            Err(BadOffset::BeyondRing)
        } else {
            Ok(Offset(bytes))
        }
    }

    /// The offset of entry number `index`, which a guest wrote.
    ///
    /// # Errors
    /// Where the ring has fewer entries.
    pub const fn index(self, index: u32) -> Result<Offset, BadOffset> {
        self.offset((index as u64) << self.entry_shift)
    }

    /// The number of the entry at `offset`.
    #[must_use]
    pub const fn number(self, offset: Offset) -> u32 {
        (offset.0 >> self.entry_shift) as u32
    }

    /// Where the entry at `offset` lies.
    #[must_use]
    pub const fn entry(self, offset: Offset) -> PhysAddr {
        PhysAddr(self.base.0.wrapping_add(offset.0))
    }

    /// The offset after `offset`.
    #[must_use]
    pub const fn next(self, offset: Offset) -> Offset {
        Offset((offset.0 + (1 << self.entry_shift)) & (self.bytes() - 1))
    }

    /// How many entries lie from `head` up to `tail`.
    #[must_use]
    pub const fn distance(self, head: Offset, tail: Offset) -> u64 {
        (tail.0.wrapping_sub(head.0) & (self.bytes() - 1)) >> self.entry_shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: Ring = Ring { base: PhysAddr(0x1000), size_shift: 12, entry_shift: 4 };

    #[test]
    fn offsets_are_checked_before_use() {
        assert_eq!(RING.offset(0x1000), Err(BadOffset::BeyondRing));
        assert_eq!(RING.offset(!0xf), Err(BadOffset::BeyondRing));
        assert_eq!(RING.offset(8), Err(BadOffset::Misaligned));
        assert_eq!(RING.offset(0xff0).map(Offset::bytes), Ok(0xff0));
    }

    #[test]
    fn the_last_entry_is_followed_by_the_first() {
        let last = RING.offset(0xff0).unwrap();
        assert_eq!(RING.next(last), Offset::START);
        assert_eq!(RING.entry(last), PhysAddr(0x1ff0));
        assert_eq!(RING.distance(last, RING.offset(0x20).unwrap()), 3);
        assert_eq!(RING.distance(last, last), 0);
    }
}
