//! Which pages of a second stage something was found through, so that an invalidation of others leaves it alone.

use crate::sync::{AtomicU64, Ordering, fence, fence_after_exchange};

/// Pages, of which some may be here that are not: each has one of `64 * WORDS` bits, where `WORDS` is a power of two.
pub(crate) struct Noted<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Default for Noted<WORDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const WORDS: usize> Noted<WORDS> {
    const fn bit(&self, page: u64) -> (&AtomicU64, u64) {
        let mixed = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        (&self.0[(mixed >> 6) as usize % WORDS], 1 << (mixed & 63))
    }

    /// The second stage is about to be asked for the page of an address. Either it is then asked after software's change, or whoever
    /// invalidates that sees the page here, whoever noted it: the accesses of both are in one order.
    pub(crate) fn note(&self, address: u64) {
        if cfg!(mutant = "no_table_pages") {
            return;
        }
        let (word, bit) = self.bit(address >> 12);
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
        // Where the bit stood already, what was loaded keeps its order on x86 without a fence, too.
        fence_after_exchange();
    }

    /// Whether some of the pages from the address `first` to `last` may be here.
    pub(crate) fn may_have(&self, first: u64, last: u64) -> bool {
        let (first, last) = (first >> 12, last >> 12);
        if last - first >= 64 * WORDS as u64 {
            return self.0.iter().any(|word| word.load(Ordering::SeqCst) != 0);
        }
        (first..=last).any(|page| {
            let (word, bit) = self.bit(page);
            word.load(Ordering::SeqCst) & bit != 0
        })
    }

    /// Before what was found is forgotten: who then finds nothing notes his pages anew.
    pub(crate) fn reset(&self) {
        for word in &self.0 {
            word.store(0, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }
}
