//! Refusals that a second stage may keep (caching mode).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_spec::Iova;

use crate::budget::Budget;
use crate::refusal::Refusal;

/// What a cached refusal costs, in slots.
const REFUSAL_COST: usize = 16;

/// Refusals of 4 KiB pages, kept in caching mode alone.
pub(crate) struct Refusals {
    pages: Mutex<BTreeMap<u64, Refusal>>,
    count: AtomicUsize,
    /// Counts invalidations: a refusal found before one is not kept after it.
    generation: AtomicU64,
    budget: Arc<Budget>,
}

impl Refusals {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            pages: Mutex::default(),
            count: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            budget: Arc::clone(budget),
        }
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, Refusal>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    #[inline(always)]
    pub(crate) fn are_none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(crate) fn find(&self, input: u64) -> Option<Refusal> {
        if self.are_none() {
            return None;
        }
        self.pages().get(&(input >> 12)).copied()
    }

    pub(crate) fn fill(&self, input: u64, refusal: Refusal, generation: u64) {
        let mut pages = self.pages();
        // Whoever invalidates starts a generation and then looks at the count, so either this sees the generation, or he sees
        // the count, takes the lock and removes what goes in here.
        self.count.store(pages.len() + 1, Ordering::SeqCst);
        if self.generation() == generation
            && self.budget.take(REFUSAL_COST)
            && pages.insert(input >> 12, refusal).is_some()
        {
            self.budget.give_back(REFUSAL_COST);
        }
        self.count.store(pages.len(), Ordering::SeqCst);
    }

    pub(crate) fn remove(&self, first: Iova, last: Iova) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut pages = self.pages();
        let before = pages.len();
        let (first, last) = (first.0 >> 12, last.0 >> 12);
        if last.saturating_sub(first) < before as u64 {
            for page in first..=last {
                pages.remove(&page);
            }
        } else {
            pages.retain(|page, _| *page < first || *page > last);
        }
        self.budget.give_back((before - pages.len()) * REFUSAL_COST);
        self.count.store(pages.len(), Ordering::Release);
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        let count = self.pages().len();
        self.budget.give_back(count * REFUSAL_COST);
    }
}
