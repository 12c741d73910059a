//! What a cache knows of a block of inputs, in one word, so that it is read and replaced at once.
//!
//! | bits, for leaf entries | for final translations | are |
//! | --- | --- | --- |
//! | 6:0 | 2:0 | the kind; 11b in bits 1:0: empty |
//! | 27:7 | 27:3 | the tag: which block of those that share the slot |
//! | 63:28 | 63:28 | bits 47:12 of the address of a page |
//!
//! An empty word holds in its bits above the lowest two a version that no word of the same table had before.
#![allow(unsafe_code)]

use core::marker::PhantomData;

use portcullis_pagetable::Rights;
use portcullis_spec::PhysAddr;

use crate::host::EntryPage;
use crate::sync::{AtomicU64, Ordering};

/// The highest level whose leaves are kept.
const MAX_LEVEL: u8 = 2;

const EMPTY: u64 = 3;
const PAGE_SHIFT: u32 = 28;
const PAGE_BITS: u64 = 0x0000_ffff_ffff_f000;

/// What words of a cache lead to.
pub(crate) trait Kept: Copy {
    /// log2 of the bytes of input addresses that share a word.
    const SHIFT: u8;
    /// Bits of the kind. Those above it up to bit 27 are the tag.
    const KIND_BITS: u32;
    /// log2 of the slots that a cache begins with.
    const FIRST_BITS: u32;
    /// log2 of the slots that a cache has at most.
    const LAST_BITS: u32;

    /// The page's address.
    fn number(self) -> u64;

    /// The page with an address that a word kept.
    ///
    /// # Safety
    /// The address was given by [`number`](Self::number) in the same unit.
    unsafe fn from_number(number: u64) -> Self;
}

impl Kept for EntryPage {
    const SHIFT: u8 = 21;
    const KIND_BITS: u32 = 7;
    // With the tag, enough for 48 address bits.
    const FIRST_BITS: u32 = if cfg!(all(loom, test)) { 0 } else { 6 };
    // 8 GiB without conflict.
    const LAST_BITS: u32 = if cfg!(all(loom, test)) { 1 } else { 12 };

    fn number(self) -> u64 {
        Self::number(self)
    }

    unsafe fn from_number(number: u64) -> Self {
        // SAFETY: as the caller says; the memory lives as long as the unit whose caches keep the word.
        unsafe { Self::from_number(number) }
    }
}

/// A page of memory, by its physical address.
#[derive(Clone, Copy)]
pub(crate) struct Frame(u64);

impl Frame {
    /// The page that an address lies in.
    pub(crate) const fn of(address: PhysAddr) -> Self {
        Self(address.0 & !0xfff)
    }
}

impl Kept for Frame {
    const SHIFT: u8 = 12;
    const KIND_BITS: u32 = 3;
    // With the tag, enough for 47 address bits.
    const FIRST_BITS: u32 = if cfg!(all(loom, test)) { 0 } else { 10 };
    // 64 MiB without conflict.
    const LAST_BITS: u32 = if cfg!(all(loom, test)) { 1 } else { 14 };

    fn number(self) -> u64 {
        self.0
    }

    unsafe fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// A word.
pub(crate) struct Word<K>(u64, PhantomData<K>);

impl<K> Clone for Word<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Word<K> {}

/// Of which kind what is kept is. Of leaf entries: their level, and what the tables above permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind(u8);

impl Kind {
    /// `None` where leaves of the level are not kept.
    pub(crate) const fn new(level: u8, rights: Rights) -> Option<Self> {
        if level <= MAX_LEVEL { Some(Self(rights.bits() << 2 | level)) } else { None }
    }

    /// The kind with a number below [`NUMBERED`](Self::NUMBERED): no kind ends in 11b.
    pub(crate) const fn numbered(number: u8) -> Self {
        Self(number % Self::NUMBERED / 3 * 4 + number % 3)
    }

    /// How many kinds three bits can tell.
    pub(crate) const NUMBERED: u8 = 6;

    /// The number of a kind that has one.
    pub(crate) const fn number(self) -> u8 {
        self.0 / 4 * 3 + self.0 % 4
    }

    pub(crate) const fn level(self) -> u8 {
        self.0 & 3
    }

    pub(crate) const fn rights(self) -> Rights {
        Rights::from_bits_truncate(self.0 >> 2)
    }
}

/// Where the leaf entries of 2 MiB lie, or where a page leads.
#[derive(Clone, Copy)]
pub(crate) struct Found<K = EntryPage> {
    /// The page of entries, or the page.
    pub(crate) page: K,
    /// What they are.
    pub(crate) kind: Kind,
}

impl<K: Kept> Word<K> {
    const TAG_BITS: u32 = PAGE_SHIFT - K::KIND_BITS;
    const KIND: u64 = (1 << K::KIND_BITS) - 1;

    /// An empty word. Versions have 62 bits.
    pub(crate) const fn empty(version: u64) -> Self {
        Self(version << 2 | EMPTY, PhantomData)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 & 3 == EMPTY
    }

    /// `None` where something does not fit.
    pub(crate) fn new(tag: u64, found: Found<K>) -> Option<Self> {
        let (number, kind) = (found.page.number(), u64::from(found.kind.0));
        if tag >> Self::TAG_BITS != 0 || number & !PAGE_BITS != 0 || kind > Self::KIND {
            return None;
        }
        Some(Self(number >> 12 << PAGE_SHIFT | tag << K::KIND_BITS | kind, PhantomData))
    }

    /// Whether it is of this tag; an empty word may seem to be.
    const fn has_tag(self, tag: u64) -> bool {
        (self.0 & ((1 << PAGE_SHIFT) - 1)) >> K::KIND_BITS == tag
    }

    /// Where it leads, if it is of this tag and kind.
    #[inline(always)]
    pub(crate) fn page_of(self, tag: u64, kind: Kind) -> Option<K> {
        if self.0 & ((1 << PAGE_SHIFT) - 1) != tag << K::KIND_BITS | kind.0 as u64 {
            return None;
        }
        // SAFETY: no kind ends as empty words do (`Kind::new`, `Kind::numbered`). Only `new` makes others, and it takes the address
        // from a page.
        Some(unsafe { K::from_number(self.0 >> PAGE_SHIFT << 12) })
    }

    /// What it says, unless it is empty or of another tag.
    #[inline(always)]
    pub(crate) fn found(self, tag: u64) -> Option<Found<K>> {
        if self.is_empty() {
            return None;
        }
        let kind = Kind((self.0 & Self::KIND) as u8);
        Some(Found { page: self.page_of(tag, kind)?, kind })
    }

    /// Whether what it says, if anything, is of another tag.
    pub(crate) fn is_of_another(self, tag: u64) -> bool {
        !self.is_empty() && !self.has_tag(tag)
    }
}

/// A word that threads share.
pub(crate) struct AtomicWord<K>(AtomicU64, PhantomData<K>);

impl<K: Kept> AtomicWord<K> {
    pub(crate) fn new(word: Word<K>) -> Self {
        Self(AtomicU64::new(word.0), PhantomData)
    }

    #[inline(always)]
    pub(crate) fn load(&self) -> Word<K> {
        Word(self.0.load(Ordering::Acquire), PhantomData)
    }

    pub(crate) fn store(&self, word: Word<K>) {
        // The model checker lets a plain store come between an exchange and what that replaced, which no machine does.
        if cfg!(all(loom, test)) {
            self.0.swap(word.0, Ordering::AcqRel);
        } else {
            self.0.store(word.0, Ordering::Release);
        }
    }

    /// Replaces `current` by `new`; whether it was there.
    pub(crate) fn replace(&self, current: Word<K>, new: Word<K>) -> bool {
        self.0.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    fn page(number: usize) -> EntryPage {
        EntryPage::new(NonNull::new(std::ptr::without_provenance_mut(number)).unwrap()).unwrap()
    }

    #[test]
    fn a_word_gives_back_what_it_was_made_of() {
        for (tag, number, level, rights) in [
            (0, 0x1000usize, 0, Rights::READ),
            (0x1f_ffff, 0xffff_ffff_f000, 2, Rights::all()),
            (0x15_5555, 0x7f12_3456_7000, 1, Rights::empty()),
        ] {
            let kind = Kind::new(level, rights).unwrap();
            let word = Word::new(tag, Found { page: page(number), kind }).unwrap();
            let found = word.found(tag).unwrap();
            assert!(!word.is_empty() && word.found(tag ^ 1).is_none());
            assert!(word.page_of(tag, kind).is_some() && word.page_of(tag | 1 << 21, kind).is_none());
            assert_eq!(
                (found.page.number(), found.kind.level(), found.kind.rights()),
                (number as u64, level, rights)
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_no_word() {
        let kind = Kind::new(0, Rights::READ).unwrap();
        let found = |page| Found { page, kind };
        assert!(Word::new(1 << 21, found(page(0x1000))).is_none());
        assert!(Kind::new(3, Rights::READ).is_none());
        assert!(Word::new(0, found(page(0x1_0000_0000_0000))).is_none());
    }

    #[test]
    fn numbered_kinds_fit_into_three_bits_and_look_like_no_empty_word() {
        for number in 0..Kind::NUMBERED {
            let kind = Kind::numbered(number);
            assert!(kind.0 < 8 && kind.0 & 3 != 3 && kind.number() == number);
        }
    }
}
