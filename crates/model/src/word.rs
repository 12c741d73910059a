//! What the leaf cache knows of 2 MiB, in one word, so that it is read and replaced at once.
//!
//! | bits | are |
//! | --- | --- |
//! | 1:0 | the level of the leaf entries, or 3: empty |
//! | 6:2 | the rights that the tables above leave |
//! | 42:7 | bits 47:12 of the host address of the page of entries |
//! | 63:43 | the tag: which 2 MiB of those that share the slot |
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
const TAG_SHIFT: u32 = 64 - TAG_BITS;
const PAGE_BITS: u64 = 0x0000_ffff_ffff_f000;

/// A word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// Where the leaf entries of 2 MiB lie.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// The page of entries.
    pub(crate) page: EntryPage,
    /// Their level.
    pub(crate) level: u8,
    /// What the tables above permit.
    pub(crate) rights: Rights,
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
        let Found { page, level, rights } = found;
        let number = page.number();
        if tag >> TAG_BITS != 0 || level > MAX_LEVEL || number & !PAGE_BITS != 0 {
            return None;
        }
        Some(Self(tag << TAG_SHIFT | number >> 5 | u64::from(rights.bits()) << 2 | u64::from(level)))
    }

    /// Whether it is of this tag; an empty word may seem to be.
    #[inline(always)]
    pub(crate) const fn has_tag(self, tag: u64) -> bool {
        self.0 >> TAG_SHIFT == tag
    }

    /// What it says, unless it is empty.
    #[inline(always)]
    pub(crate) const fn found(self) -> Option<Found> {
        if self.is_empty() {
            return None;
        }
        Some(Found {
            // SAFETY: only `new` makes words that are not empty, and it takes the number from a page. The memory lives as long
            // as the unit whose caches keep the word.
            page: unsafe { EntryPage::from_number((self.0 << 5) & PAGE_BITS) },
            level: (self.0 & 3) as u8,
            rights: Rights::from_bits_truncate((self.0 >> 2) as u8 & 0x1f),
        })
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
            let word = Word::new(tag, Found { page, level, rights }).unwrap();
            let found = word.found().unwrap();
            assert!(word.has_tag(tag) && !word.is_empty());
            assert_eq!(
                (found.page.number(), found.level, found.rights.bits()),
                (page.number(), level, rights.bits())
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_no_word() {
        let page = |number: usize| {
            EntryPage::new(NonNull::new(std::ptr::without_provenance_mut(number)).unwrap()).unwrap()
        };
        let found = |page, level| Found { page, level, rights: Rights::READ };
        assert!(Word::new(1 << 21, found(page(0x1000), 0)).is_none());
        assert!(Word::new(0, found(page(0x1000), 3)).is_none());
        assert!(Word::new(0, found(page(0x1_0000_0000_0000), 0)).is_none());
    }
}
