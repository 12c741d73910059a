//! Whole translations, kept until they are invalidated: what hardware may do, and the fast path never does.
//!
//! For simulators and tests that want to see what software forgot to invalidate: see
//! [`retain_translations`](crate::engine::Engine::retain_translations). The leaf cache reads entries anew and so hides it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_spec::{Access, Iova};

use crate::budget::Budget;
use crate::translate::{PageTranslation, Request};

/// What a kept translation costs, in slots of leaf caches.
const COST: usize = 16;

struct Kept {
    page: PageTranslation,
    privileged: bool,
    /// Whether it was found for a write: Dirty has then been set where that is kept.
    written: bool,
}

impl Kept {
    fn permits(&self, request: Request) -> bool {
        let access = self.page.access;
        let granted = access.contains(request.access) || (request.any && !access.is_empty());
        granted
            && self.privileged == request.privileged
            && (self.written || !request.access.contains(Access::WRITE))
    }
}

/// The kept translations of one space, by page size and page.
pub(crate) struct Retained {
    pages: Mutex<HashMap<u8, HashMap<u64, Kept>>>,
    /// Counts invalidations: what was found before one is not kept after it.
    generation: AtomicU64,
    budget: Arc<Budget>,
}

impl Retained {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { pages: Mutex::default(), generation: AtomicU64::new(0), budget: Arc::clone(budget) }
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<u8, HashMap<u64, Kept>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present generation, to be read before tables are.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A kept page that permits the request. One that does not is looked up in the tables again: rights may have been
    /// added since, for which no architecture demands an invalidation of all caches.
    pub(crate) fn find(&self, input: u64, request: Request) -> Option<PageTranslation> {
        let pages = self.pages();
        let kept = pages.iter().find_map(|(shift, pages)| pages.get(&(input >> shift)))?;
        kept.permits(request).then_some(kept.page)
    }

    /// Keeps a translation of `generation`, unless something was invalidated since.
    pub(crate) fn fill(&self, input: u64, request: Request, page: PageTranslation, generation: u64) {
        let mut pages = self.pages();
        // Whoever invalidates starts a generation first and then takes this lock, so either this sees the new
        // generation, or the translation goes in before it is removed.
        if self.generation() != generation || !self.budget.take(COST) {
            return;
        }
        let written = request.access.contains(Access::WRITE);
        let kept = Kept { page, privileged: request.privileged, written };
        if pages.entry(page.shift).or_default().insert(input >> page.shift, kept).is_some() {
            self.budget.give_back(COST);
        }
    }

    /// Forgets everything that touches `first` to `last`.
    pub(crate) fn remove(&self, first: Iova, last: Iova) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut pages = self.pages();
        let count = |pages: &HashMap<u8, HashMap<u64, Kept>>| pages.values().map(HashMap::len).sum::<usize>();
        let before = count(&pages);
        pages.retain(|shift, pages| {
            let (first, last) = (first.0 >> shift, last.0 >> shift);
            pages.retain(|page, _| *page < first || *page > last);
            !pages.is_empty()
        });
        self.budget.give_back((before - count(&pages)) * COST);
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        self.remove(Iova(0), Iova(u64::MAX));
    }
}
