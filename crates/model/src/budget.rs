//! How much the caches of a unit's spaces may take together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many slots of leaf caches all spaces of a unit may have together. Where they are used up, spaces keep what they have, and
/// new ones are walked for every request.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Room for `limit` slots.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn take(&self, count: usize) -> bool {
        let fits = self.used.fetch_add(count, Ordering::Relaxed).saturating_add(count) <= self.limit;
        if !fits {
            self.give_back(count);
        }
        fits
    }

    pub(crate) fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}
