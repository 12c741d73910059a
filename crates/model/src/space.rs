//! Address spaces and the translations cached of them.
//!
//! A space is what the unit's tags and table roots make one: requesters whose contexts agree in all of that share it. Its
//! cache holds translations by page. An entry that was filled while something was being invalidated is not kept: see
//! [`Generation`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use portcullis_spec::{Iova, StageNumber, Tags, TranslationScope};

use crate::refusal::Refusal;
use crate::translate::{PageTranslation, Request, Stages};

/// Counts invalidations. A fill reads it before its first table read, and is dropped unless it still stands when the
/// entry would go in: a walk that races an invalidation inserts nothing.
#[derive(Default)]
pub struct Generation(AtomicU64);

impl Generation {
    /// The present generation, to be read before tables are.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Starts a new generation, before entries are removed.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// How many translations all spaces of a unit may hold together; when they are more, a space is emptied.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// Room for `limit` translations.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    fn take(&self) -> bool {
        self.used.fetch_add(1, Ordering::Relaxed) < self.limit
    }

    fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What identifies a space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpaceKey {
    /// Tags for invalidation.
    pub tags: Tags,
    /// The tables.
    pub stages: Stages,
}

/// The cached translations of one page size.
struct SizeClass {
    shift: u8,
    pages: HashMap<u64, PageTranslation>,
}

#[derive(Default)]
struct Cache {
    classes: Vec<SizeClass>,
    /// Refusals of 4 KiB pages, kept only in caching mode.
    refused: HashMap<u64, Refusal>,
}

impl Cache {
    fn len(&self) -> usize {
        self.classes.iter().map(|class| class.pages.len()).sum::<usize>() + self.refused.len()
    }

    fn clear(&mut self) {
        self.classes.clear();
        self.refused.clear();
    }

    /// Forgets everything that touches `first` to `last`.
    fn remove(&mut self, first: u64, last: u64) {
        for class in &mut self.classes {
            remove_range(&mut class.pages, first >> class.shift, last >> class.shift);
        }
        remove_range(&mut self.refused, first >> 12, last >> 12);
        self.classes.retain(|class| !class.pages.is_empty());
    }
}

fn remove_range<V>(pages: &mut HashMap<u64, V>, first: u64, last: u64) {
    if last - first < pages.len() as u64 {
        for page in first..=last {
            pages.remove(&page);
        }
    } else {
        pages.retain(|page, _| *page < first || *page > last);
    }
}

/// One address space.
pub struct Space {
    /// What identifies it.
    pub key: SpaceKey,
    cache: RwLock<Cache>,
}

impl Space {
    /// A space of which nothing is cached.
    #[must_use]
    pub fn new(key: SpaceKey) -> Self {
        Self { key, cache: RwLock::default() }
    }

    fn shared(&self) -> RwLockReadGuard<'_, Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Cache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cached answer for `input`: a page that permits the request, or a cached refusal.
    pub fn find(&self, input: Iova, request: Request) -> Option<Result<PageTranslation, Refusal>> {
        let cache = self.shared();
        let page = cache.classes.iter().find_map(|class| class.pages.get(&(input.0 >> class.shift)));
        if let Some(page) = page {
            // A page that does not permit is looked up in the tables again: rights may have been added since, for which
            // no architecture demands an invalidation of all caches.
            return page.permits(request).then_some(Ok(*page));
        }
        cache.refused.get(&(input.0 >> 12)).map(|refusal| Err(*refusal))
    }

    /// Keeps an answer of `generation`, unless something was invalidated since.
    pub fn fill(
        &self,
        input: Iova,
        answer: Result<PageTranslation, Refusal>,
        generation: u64,
        current: &Generation,
        budget: &Budget,
    ) {
        let mut cache = self.exclusive();
        // Whoever invalidates advances the generation first and then takes this lock, so either this sees the new
        // generation, or the entry goes in before it is removed.
        if current.read() != generation {
            return;
        }
        if !budget.take() {
            budget.give_back(cache.len() + 1);
            cache.clear();
            return;
        }
        let replaced = match answer {
            Ok(page) => {
                let key = input.0 >> page.shift;
                match cache.classes.iter_mut().find(|class| class.shift == page.shift) {
                    Some(class) => class.pages.insert(key, page).is_some(),
                    None => {
                        let pages = HashMap::from([(key, page)]);
                        cache.classes.push(SizeClass { shift: page.shift, pages });
                        false
                    }
                }
            }
            Err(refusal) => cache.refused.insert(input.0 >> 12, refusal).is_some(),
        };
        if replaced {
            budget.give_back(1);
        }
    }

    /// Forgets what `scope` covers of this space.
    pub fn invalidate(&self, scope: &TranslationScope, budget: &Budget) {
        if !self.concerns(scope) {
            return;
        }
        let mut cache = self.exclusive();
        let before = cache.len();
        match scope.range {
            // The pages of a second-stage range are addresses between the stages, of which a nested entry keeps nothing.
            Some((first, last)) if !(self.is_nested() && scope.stage == Some(StageNumber::Second)) => {
                cache.remove(first.0, last.0);
            }
            _ => cache.clear(),
        }
        budget.give_back(before - cache.len());
    }

    const fn is_nested(&self) -> bool {
        matches!(self.key.stages, Stages::Two { .. })
    }

    /// Whether a scope may cover some of this space's translations. A space without a space tag is covered by scopes of
    /// every space: too much is forgotten rather than too little.
    fn concerns(&self, scope: &TranslationScope) -> bool {
        let Tags { domain, space } = self.key.tags;
        let stage = match (scope.stage, &self.key.stages) {
            (None, _) | (_, Stages::Two { .. }) => true,
            (Some(wanted), Stages::One { number, .. }) => wanted == *number,
        };
        stage
            && scope.domain.is_none_or(|wanted| wanted == domain)
            && scope.space.is_none_or(|wanted| space.is_none_or(|own| own == wanted))
    }
}

#[cfg(test)]
mod tests {
    use portcullis_pagetable::AnyFormat;
    use portcullis_pagetable::format::VtdSecondStage;
    use portcullis_spec::{
        Access, DomainTag, MemoryAttributes, PagingFormat, PhysAddr, SpaceTag, Stage, StageRules,
    };

    use super::*;
    use crate::translate::FormattedStage;

    const READ: Request = Request { access: Access::READ, privileged: false, any: false, table: false };

    fn space(domain: u32, tag: Option<u32>) -> Space {
        let stage = Stage {
            format: PagingFormat::VtdSecondStage { levels: 4 },
            root: PhysAddr(0),
            rules: StageRules::empty(),
            input_bits: 48,
        };
        let only = FormattedStage { stage, format: AnyFormat::VtdSecondStage(VtdSecondStage::new(4)) };
        let tags = Tags { domain: DomainTag(domain), space: tag.map(SpaceTag) };
        Space::new(SpaceKey { tags, stages: Stages::One { only, number: StageNumber::Second } })
    }

    fn page(shift: u8) -> Result<PageTranslation, Refusal> {
        Ok(PageTranslation {
            base: PhysAddr(0),
            shift,
            user: Access::READ_WRITE,
            privileged: Access::READ_WRITE,
            dirty: true,
            attributes: MemoryAttributes::default(),
        })
    }

    fn fill(space: &Space, budget: &Budget, iova: u64, shift: u8) {
        let current = Generation::default();
        space.fill(Iova(iova), page(shift), current.read(), &current, budget);
    }

    fn scope(domain: u32, range: Option<(u64, u64)>) -> TranslationScope {
        TranslationScope {
            domain: Some(DomainTag(domain)),
            range: range.map(|(first, last)| (Iova(first), Iova(last))),
            ..TranslationScope::default()
        }
    }

    #[test]
    fn an_invalidation_costs_what_it_names() {
        let budget = Budget::new(100);
        let (mine, others) = (space(1, None), space(2, None));
        for space in [&mine, &others] {
            fill(space, &budget, 0x1000, 12);
            fill(space, &budget, 0x2000, 12);
            fill(space, &budget, 0x20_0000, 21);
        }
        let found =
            |space: &Space| [0x1000, 0x2000, 0x3f_ffff].map(|at| space.find(Iova(at), READ).is_some());
        for space in [&mine, &others] {
            space.invalidate(&scope(1, Some((0x1000, 0x1fff))), &budget);
        }
        assert_eq!((found(&mine), found(&others)), ([false, true, true], [true; 3]));
        mine.invalidate(&scope(1, Some((0x3f_f000, 0x3f_ffff))), &budget);
        assert_eq!(found(&mine), [false, true, false]);
        mine.invalidate(&scope(1, None), &budget);
        assert_eq!((found(&mine), found(&others)), ([false; 3], [true; 3]));
        assert_eq!(budget.used.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_tagged_scope_covers_untagged_spaces() {
        let budget = Budget::new(100);
        let scope = TranslationScope { space: Some(SpaceTag(5)), ..scope(1, None) };
        for (tag, covered) in [(None, true), (Some(5), true), (Some(6), false)] {
            let space = space(1, tag);
            fill(&space, &budget, 0, 12);
            space.invalidate(&scope, &budget);
            assert_eq!(space.find(Iova(0), READ).is_none(), covered, "{tag:?}");
        }
    }

    #[test]
    fn memory_for_translations_is_bounded() {
        let budget = Budget::new(10);
        let space = space(1, None);
        for page in 0..1000 {
            fill(&space, &budget, page << 12, 12);
            assert!(budget.used.load(Ordering::Relaxed) <= 10);
        }
        // The same page again takes no room.
        space.invalidate(&TranslationScope::default(), &budget);
        for _ in 0..20 {
            fill(&space, &budget, 0, 12);
        }
        assert_eq!(budget.used.load(Ordering::Relaxed), 1);
    }
}
