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

/// Indexes of a ring of `1 << log2` entries that carry a wrap bit above the index (Arm SMMUv3 3.5.1): the ring is empty
/// where producer and consumer are equal, and full where only their wrap bits differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WrappingRing {
    /// First byte.
    pub base: PhysAddr,
    /// log2 of the entries; at most 30.
    pub log2: u8,
    /// log2 of an entry's bytes.
    pub entry_shift: u8,
}

impl WrappingRing {
    /// The bits of an index and its wrap bit.
    const fn mask(self) -> u32 {
        (2 << self.log2) - 1
    }

    /// Whether nothing lies between consumer and producer.
    #[must_use]
    pub const fn is_empty(self, producer: u32, consumer: u32) -> bool {
        (producer ^ consumer) & self.mask() == 0
    }

    /// Whether there is no room for another entry.
    #[must_use]
    pub const fn is_full(self, producer: u32, consumer: u32) -> bool {
        (producer ^ consumer) & self.mask() == 1 << self.log2
    }

    /// How many entries lie from `consumer` up to `producer`: at most the whole ring, whatever software wrote.
    #[must_use]
    pub const fn distance(self, producer: u32, consumer: u32) -> u32 {
        let distance = producer.wrapping_sub(consumer) & self.mask();
        if distance > 1 << self.log2 { 1 << self.log2 } else { distance }
    }

    /// The index after `index`, with its wrap bit.
    #[must_use]
    pub const fn next(self, index: u32) -> u32 {
        index.wrapping_add(1) & self.mask()
    }

    /// Where the entry with this index lies.
    #[must_use]
    pub const fn entry(self, index: u32) -> PhysAddr {
        let index = index & (self.mask() >> 1);
        PhysAddr(self.base.0.wrapping_add((index as u64) << self.entry_shift))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_bit_tells_full_from_empty() {
        let ring = WrappingRing { base: PhysAddr(0x1000), log2: 2, entry_shift: 5 };
        assert!(ring.is_empty(5, 5) && !ring.is_full(5, 5));
        assert!(ring.is_full(1, 5) && !ring.is_empty(1, 5));
        assert_eq!([0, 3, 4, 7].map(|index| ring.next(index)), [1, 4, 5, 0]);
        assert_eq!(ring.entry(3), ring.entry(7));
        assert_eq!(ring.entry(7), PhysAddr(0x1060));
        assert_eq!(ring.distance(1, 6), 3);
        // More than the ring holds: software wrote nonsense, and at most the ring is looked at.
        assert_eq!(ring.distance(7, 0), 4);
    }

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
