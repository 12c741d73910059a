//! What the leaf cache knows of 2 MiB, in one word, so that it is read and replaced at once.
//!
//! | bits | are |
//! | --- | --- |
//! | 1:0 | the level of the leaf entries, or 3: empty |
//! | 6:2 | the rights that the tables above leave |
//! | 27:7 | the tag: which 2 MiB of those that share the slot |
//! | 63:28 | bits 47:12 of the host address of the page of entries |
//!
//! An empty word holds in its bits above the level a version that no word of the same table had before.
#![allow(unsafe_code)]

use portcullis_pagetable::Rights;

use crate::host::EntryPage;
use crate::sync::{AtomicU64, Ordering};

/// Bits of the tag.
const TAG_BITS: u32 = 21;
/// The highest level whose leaves are kept.
const MAX_LEVEL: u8 = 2;

const EMPTY: u64 = 3;
const TAG_SHIFT: u32 = 7;
const PAGE_SHIFT: u32 = TAG_SHIFT + TAG_BITS;
const PAGE_BITS: u64 = 0x0000_ffff_ffff_f000;

/// A word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// Of which level leaf entries are, and what the tables above permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind(u8);

impl Kind {
    /// `None` where leaves of the level are not kept.
    pub(crate) const fn new(level: u8, rights: Rights) -> Option<Self> {
        if level <= MAX_LEVEL { Some(Self(rights.bits() << 2 | level)) } else { None }
    }

    /// What a word says, unless it is empty.
    const fn of(word: Word) -> Option<Self> {
        if word.is_empty() { None } else { Some(Self(word.0 as u8 & 0x7f)) }
    }

    pub(crate) const fn level(self) -> u8 {
        self.0 & 3
    }

    pub(crate) const fn rights(self) -> Rights {
        Rights::from_bits_truncate(self.0 >> 2)
    }
}

/// Where the leaf entries of 2 MiB lie.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// The page of entries.
    pub(crate) page: EntryPage,
    /// What they are.
    pub(crate) kind: Kind,
}

impl Word {
    /// An empty word. Versions have 62 bits.
    pub(crate) const fn empty(version: u64) -> Self {
        Self(version << 2 | EMPTY)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 & 3 == EMPTY
    }

    /// `None` where something does not fit.
    pub(crate) fn new(tag: u64, found: Found) -> Option<Self> {
        let Found { page, kind } = found;
        let number = page.number();
        if tag >> TAG_BITS != 0 || number & !PAGE_BITS != 0 {
            return None;
        }
        Some(Self(number >> 12 << PAGE_SHIFT | tag << TAG_SHIFT | u64::from(kind.0)))
    }

    /// Whether it is of this tag; an empty word may seem to be.
    const fn has_tag(self, tag: u64) -> bool {
        (self.0 & ((1 << PAGE_SHIFT) - 1)) >> TAG_SHIFT == tag
    }

    /// Where the leaf entries lie, if it is of this tag and they are of this kind.
    #[inline(always)]
    pub(crate) const fn page_of(self, tag: u64, kind: Kind) -> Option<EntryPage> {
        if self.0 & ((1 << PAGE_SHIFT) - 1) != tag << TAG_SHIFT | kind.0 as u64 {
            return None;
        }
        // SAFETY: no kind has the level of empty words (`Kind::new`). Only `new` makes others, and it takes the number from a page.
        // The memory lives as long as the unit whose caches keep the word.
        Some(unsafe { EntryPage::from_number(self.0 >> PAGE_SHIFT << 12) })
    }

    /// What it says, unless it is empty or of another tag.
    #[inline(always)]
    pub(crate) fn found(self, tag: u64) -> Option<Found> {
        let kind = Kind::of(self)?;
        Some(Found { page: self.page_of(tag, kind)?, kind })
    }

    /// Whether what it says, if anything, is of another tag.
    pub(crate) fn is_of_another(self, tag: u64) -> bool {
        !self.is_empty() && !self.has_tag(tag)
    }
}

/// A word that threads share.
pub(crate) struct AtomicWord(AtomicU64);

impl AtomicWord {
    pub(crate) fn new(word: Word) -> Self {
        Self(AtomicU64::new(word.0))
    }

    #[inline(always)]
    pub(crate) fn load(&self) -> Word {
        Word(self.0.load(Ordering::Acquire))
    }

    pub(crate) fn store(&self, word: Word) {
        // The model checker lets a plain store come between an exchange and what that replaced, which no machine does.
        if cfg!(all(loom, test)) {
            self.0.swap(word.0, Ordering::AcqRel);
        } else {
            self.0.store(word.0, Ordering::Release);
        }
    }

    /// Replaces `current` by `new`; whether it was there.
    pub(crate) fn replace(&self, current: Word, new: Word) -> bool {
        self.0.compare_exchange(current.0, new.0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr::NonNull;

    use super::*;

    #[test]
    fn a_word_gives_back_what_it_was_made_of() {
        for (tag, page, level, rights) in [
            (0, 0x1000usize, 0, Rights::READ),
            (0x1f_ffff, 0xffff_ffff_f000, 2, Rights::all()),
            (0x15_5555, 0x7f12_3456_7000, 1, Rights::empty()),
        ] {
            let page = EntryPage::new(NonNull::new(std::ptr::without_provenance_mut(page)).unwrap()).unwrap();
            let kind = Kind::new(level, rights).unwrap();
            let word = Word::new(tag, Found { page, kind }).unwrap();
            let found = word.found(tag).unwrap();
            assert!(!word.is_empty() && word.found(tag ^ 1).is_none());
            assert!(word.page_of(tag, kind).is_some() && word.page_of(tag | 1 << 21, kind).is_none());
            assert_eq!(
                (found.page.number(), found.kind.level(), found.kind.rights()),
                (page.number(), level, rights)
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_no_word() {
        let page = |number: usize| {
            EntryPage::new(NonNull::new(std::ptr::without_provenance_mut(number)).unwrap()).unwrap()
        };
        let kind = Kind::new(0, Rights::READ).unwrap();
        let found = |page| Found { page, kind };
        assert!(Word::new(1 << 21, found(page(0x1000))).is_none());
        assert!(Kind::new(3, Rights::READ).is_none());
        assert!(Word::new(0, found(page(0x1_0000_0000_0000))).is_none());
    }
}
