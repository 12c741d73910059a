//! Address spaces: what the unit's tags and table roots make one. Requesters whose contexts agree in all of that share it,
//! and with it its leaf cache. A nested space has a leaf cache for its first stage and goes on in the space of its second, which
//! everyone shares who is translated by that.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_pagetable::Format;
use portcullis_spec::{FaultReason, Iova, Ipa, PhysAddr, StageNumber, Tags, TranslationScope};

use crate::descent::descend;
use crate::engine::Inside;
use crate::fast::{Hit, Leaf};
use crate::host::{ENTRY_PAGE, EntryPage, HostStretch};
use crate::leaves::{Leaves, Place, REGION_SHIFT};
use crate::memory::GuestMemory;
use crate::pattern::Demand;
use crate::plain::Block;
use crate::refusal::Refusal;
use crate::retained::Retained;
use crate::translate::{
    FormattedStage, LeafEntry, PageTranslation, Redirected, Request, Stages, TABLE_READ, not_redirected,
    walk_one_stage, walk_two_stages,
};
use crate::word::{Found, Kind};

/// How many slots of leaf caches all spaces of a unit may have together. Where they are used up, spaces keep what they have, and
/// new ones are walked for every request.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

/// What a cached refusal costs, in slots.
const REFUSAL_COST: usize = 16;

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

/// What identifies a space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpaceKey {
    /// Tags for invalidation.
    pub tags: Tags,
    /// The tables.
    pub stages: Stages,
}

impl SpaceKey {
    /// What identifies the space in which a nested one goes on.
    pub(crate) fn second(&self) -> Option<Self> {
        match self.stages {
            Stages::One { .. } => None,
            Stages::Two { second, .. } => Some(Self {
                tags: Tags { domain: self.tags.domain, space: None },
                stages: Stages::One { only: second, number: StageNumber::Second },
            }),
        }
    }
}

/// One address space.
pub struct Space {
    /// What identifies it.
    pub key: SpaceKey,
    leaf: Leaf,
    leaves: Leaves,
    /// Inputs that are always decided at length.
    special: Block,
    /// Where a nested space goes on.
    second: Option<Arc<Space>>,
    refusals: Refusals,
    retained: Option<Box<Retained>>,
    /// Memory around the tables of the only or the second stage. The memory lives as long as the unit whose space this is.
    home: Option<HostStretch>,
}

impl Space {
    /// A space of which nothing is cached. `second` is the space of `SpaceKey::second`; `retaining` says whether whole
    /// translations are kept. Of `special` inputs nothing is kept.
    #[must_use]
    pub fn new(
        key: SpaceKey,
        second: Option<Arc<Self>>,
        memory: &dyn GuestMemory,
        budget: &Arc<Budget>,
        special: Block,
        retaining: bool,
    ) -> Self {
        let leaf = match &key.stages {
            Stages::One { only, .. } => Leaf::new(only),
            Stages::Two { first, .. } => Leaf::new(first),
        };
        let retained = retaining.then(|| Box::new(Retained::new(budget)));
        let leaves = Leaves::new(second.is_some(), Arc::clone(budget));
        let home = match &key.stages {
            Stages::One { only: stage, .. } | Stages::Two { second: stage, .. } => {
                memory.host_stretch(stage.stage.root)
            }
        };
        let refusals = Refusals::new(budget);
        Self { key, leaf, leaves, special, second, refusals, retained, home }
    }

    /// Where a nested space goes on.
    pub(crate) fn second(&self) -> Option<&Arc<Self>> {
        self.second.as_ref()
    }

    /// What is known of `input`'s translation without a walk. Refusals are kept where `caching` says that the unit may; what
    /// `redirect` says never is.
    pub(crate) fn find(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
        caching: bool,
        redirect: impl Fn(Ipa) -> Redirected,
    ) -> Option<Result<PageTranslation, Refusal>> {
        if caching && let Some(refusal) = self.refusals.find(input) {
            return Some(Err(refusal));
        }
        if let Some(retained) = &self.retained {
            return retained.find(input, request).map(Ok);
        }
        self.translate(input, request, inside, redirect)
    }

    /// Whether this space's own stage is the first, so that there are addresses behind it that no stage has translated yet.
    pub(crate) const fn is_first(&self) -> bool {
        !matches!(self.key.stages, Stages::One { number: StageNumber::Second, .. })
    }

    /// Whether it goes on in the space of a second stage.
    pub(crate) fn is_nested(&self) -> bool {
        self.second.is_some()
    }

    /// Whether nothing but where leaf entries lie is kept at present: no whole translations, and no refusals.
    pub(crate) fn keeps_entries_only(&self) -> bool {
        self.retained.is_none() && self.refusals.are_none()
    }

    /// Translates `input` by this stage's leaf entries alone, where nothing about them is out of the ordinary.
    #[inline(always)]
    pub(crate) fn hit<'i>(&'i self, input: u64, demand: Demand, inside: &'i Inside<'_>) -> Option<Hit<'i>> {
        self.leaf.hit(&self.leaves, input, demand, &inside.guesses[0], &inside.presence)
    }

    /// Translates `input` by both stages' leaf entries alone, unless an address between them is `redirected`. Of a space that is not
    /// nested, none does.
    #[inline(always)]
    pub(crate) fn hit_both<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        redirected: Block,
        inside: &'i Inside<'_>,
    ) -> Option<Hit<'i>> {
        let second = self.second.as_ref()?;
        let Hit { address: PhysAddr(ipa), pattern, .. } = self.hit(input, demand, inside)?;
        if redirected.contains(ipa) {
            return None;
        }
        let last = second.leaf.hit(&second.leaves, ipa, demand, &inside.guesses[1], &inside.presence)?;
        Some(Hit { before: Some(pattern), ..last })
    }

    /// The same for any request that leaf entries decide.
    fn translate(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
        redirect: impl Fn(Ipa) -> Redirected,
    ) -> Option<Result<PageTranslation, Refusal>> {
        let presence = &inside.presence;
        if !self.is_first()
            && let Some(redirected) = redirect(Ipa(input))
        {
            return Some(redirected);
        }
        let page = match &self.key.stages {
            Stages::One { only, .. } => self.leaf.translate(only, &self.leaves, input, request, presence)?,
            Stages::Two { first, .. } => {
                self.leaf.translate(first, &self.leaves, input, request, presence)?
            }
        };
        let behind = page.address(input).0;
        if self.is_first()
            && let Some(redirected) = redirect(Ipa(behind))
        {
            return Some(redirected.map(|output| page.then(input, output)));
        }
        match (&self.key.stages, &self.second) {
            (Stages::One { .. }, _) => Some(Ok(page)),
            (Stages::Two { second: stage, .. }, Some(second)) => {
                let output = second.leaf.translate(stage, &second.leaves, behind, request, presence)?;
                Some(Ok(page.then(input, output)))
            }
            (Stages::Two { .. }, None) => None,
        }
    }

    /// Translates `input` by its tables, and keeps what may be kept.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    #[cold]
    pub(crate) fn walk_and_keep(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
        caching: bool,
        redirect: &dyn Fn(Ipa) -> Redirected,
    ) -> Result<PageTranslation, Refusal> {
        let generation = self.refusals.generation();
        let retained = self.retained.as_ref().map(|retained| (retained, retained.generation()));
        let region = match &self.key.stages {
            Stages::One { only, .. } => Leaf::region(only, input),
            Stages::Two { first, .. } => Leaf::region(first, input),
        };
        let region = region.filter(|region| !self.special.touches(region << REGION_SHIFT, REGION_SHIFT));
        // Before the first table entry is read.
        let place = region.and_then(|region| self.leaves.observe(region, &inside.presence, inside.gate));
        if retained.is_none()
            && let Some((page, found)) = self.descend(input, request, inside, place.as_ref(), redirect)
        {
            if let Some(place) = &place {
                place.fill(found);
            }
            return Ok(page);
        }
        let was_redirected = Cell::new(false);
        let answer = self.walk(input, request, inside, place.as_ref(), &|ipa| {
            let redirected = redirect(ipa);
            was_redirected.set(redirected.is_some());
            redirected
        });
        if let (Ok((page, _)), Some((retained, generation)), false) =
            (&answer, retained, was_redirected.get())
        {
            retained.fill(input, request, *page, generation);
        }
        match (&answer, place) {
            (Ok((_, Some(entry))), Some(place)) => self.keep(&place, input, entry, inside),
            (Err(refusal), _) if caching && self.may_keep(refusal) => {
                self.refusals.fill(input, *refusal, generation);
            }
            _ => {}
        }
        answer.map(|(page, _)| page)
    }

    /// Translates `input` by its tables where nothing about it is out of the ordinary, and says where its leaf entry lies.
    #[inline]
    fn descend(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
        place: Option<&Place<'_>>,
        redirect: &dyn Fn(Ipa) -> Redirected,
    ) -> Option<(PageTranslation, Found)> {
        match (&self.key.stages, &self.second) {
            (Stages::One { only, .. }, _) => {
                let (page, found) = self.descend_here(only, input, request)?;
                let behind = if self.is_first() { page.address(input).0 } else { input };
                redirect(Ipa(behind)).is_none().then_some((page, found))
            }
            (Stages::Two { first, .. }, Some(second)) => {
                let found = descend(first, input, |table| {
                    if let Some(place) = place {
                        place.note(table);
                    }
                    let page = second.near(table, TABLE_READ, inside)?;
                    second.entry_page(page.address(table))
                })?;
                let page = self.leaf.judge(first, found, input, request)?;
                let behind = page.address(input).0;
                if redirect(Ipa(behind)).is_some() {
                    return None;
                }
                Some((page.then(input, second.near(behind, request, inside)?), found))
            }
            (Stages::Two { .. }, None) => None,
        }
    }

    fn descend_here(
        &self,
        only: &FormattedStage<PhysAddr>,
        input: u64,
        request: Request,
    ) -> Option<(PageTranslation, Found)> {
        let found = descend(only, input, |table| self.entry_page(PhysAddr(table)))?;
        Some((self.leaf.judge(only, found, input, request)?, found))
    }

    /// The answer of a second stage by what is cached or by its tables, where nothing about it is out of the ordinary.
    #[inline]
    fn near(&self, ipa: u64, request: Request, inside: &Inside<'_>) -> Option<PageTranslation> {
        let Stages::One { only, .. } = &self.key.stages else { return None };
        let region = Leaf::region(only, ipa)?;
        if let Some(found) = self.leaves.find(region, &inside.presence) {
            return self.leaf.judge(only, found, ipa, request);
        }
        let place = self.leaves.observe(region, &inside.presence, inside.gate);
        let (page, found) = self.descend_here(only, ipa, request)?;
        if let Some(place) = place {
            place.fill(found);
        }
        Some(page)
    }

    /// A page of entries in this process.
    #[inline(always)]
    fn entry_page(&self, at: PhysAddr) -> Option<EntryPage> {
        EntryPage::new(self.home?.pointer(at, ENTRY_PAGE)?)
    }

    fn walk(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
        place: Option<&Place<'_>>,
        redirect: &dyn Fn(Ipa) -> Redirected,
    ) -> Result<(PageTranslation, Option<LeafEntry>), Refusal> {
        match (&self.key.stages, &self.second) {
            (Stages::One { only, number }, _) => {
                if !self.is_first()
                    && let Some(redirected) = redirect(Ipa(input))
                {
                    return redirected.map(|page| (page, None));
                }
                let (page, entry) = walk_one_stage(inside.memory, only, *number, Iova(input), request)?;
                let redirected = self.is_first().then(|| redirect(Ipa(page.address(input).0))).flatten();
                let page = match redirected {
                    Some(output) => page.then(input, output?),
                    None => page,
                };
                Ok((page, Some(entry)))
            }
            (Stages::Two { first, .. }, Some(second)) => {
                let second = |ipa: Ipa, request: Request| {
                    if let Some(place) = place.filter(|_| request.table) {
                        place.note(ipa.0);
                    }
                    // The unit's own accesses to tables are no messages.
                    if !request.table
                        && let Some(redirected) = redirect(ipa)
                    {
                        return redirected;
                    }
                    match second.translate(ipa.0, request, inside, not_redirected) {
                        Some(answer) => answer,
                        None => second.walk_and_keep(ipa.0, request, inside, false, &not_redirected),
                    }
                };
                let (page, entry) = walk_two_stages(inside.memory, first, second, Iova(input), request)?;
                Ok((page, Some(entry)))
            }
            (Stages::Two { .. }, None) => Err(Refusal::new(FaultReason::Internal)),
        }
    }

    /// Keeps where the leaf entry lies, if its page is this process's memory.
    fn keep(&self, place: &Place<'_>, input: u64, entry: &LeafEntry, inside: &Inside<'_>) {
        let page = entry.at.align_down(ENTRY_PAGE);
        // The entry's place within its page must follow from the input alone.
        if entry.at.0 & (ENTRY_PAGE - 1) != self.leaf.entry_offset(input, entry.level) {
            return;
        }
        let Some(kind) = Kind::new(entry.level, entry.rights) else { return };
        if let Some(page) = inside.memory.host_pointer(page, ENTRY_PAGE).and_then(EntryPage::new) {
            place.fill(Found { page, kind });
        }
    }

    /// In caching mode, what a second stage alone does not map may be kept; what a first stage refuses may not.
    fn may_keep(&self, refusal: &Refusal) -> bool {
        matches!(self.key.stages, Stages::One { number: StageNumber::Second, .. })
            && refusal.reason == FaultReason::NotMapped
    }

    /// Forgets what `scope` covers of this space.
    pub(crate) fn invalidate(&self, scope: &TranslationScope, inside: &Inside<'_>) {
        if !self.concerns(scope) {
            return;
        }
        if let Some(retained) = &self.retained {
            let all = self.second.is_some() && scope.stage == Some(StageNumber::Second);
            let (first, last) = scope.range.filter(|_| !all).unwrap_or((Iova(0), Iova(u64::MAX)));
            retained.remove(first, last);
        }
        match scope.range {
            // The pages of a second-stage range are addresses between the stages, where the first stage's tables lie. Leaf entries that
            // lead to them count as well.
            Some((first, last)) if self.second.is_some() && scope.stage == Some(StageNumber::Second) => {
                self.leaves.clear_through(first.0, last.0, &inside.presence);
            }
            Some((first, last)) => {
                // Leaf entries themselves are never kept.
                if !scope.leaf_only {
                    let (first, last) = self.regions(first, last);
                    self.leaves.clear(first, last, &inside.presence);
                }
                self.refusals.remove(first, last);
            }
            _ => {
                self.leaves.clear(0, u64::MAX, &inside.presence);
                self.refusals.remove(Iova(0), Iova(u64::MAX));
            }
        }
    }

    /// The regions that inputs from `first` to `last` lie in.
    fn regions(&self, first: Iova, last: Iova) -> (u64, u64) {
        let stage = match &self.key.stages {
            Stages::One { only, .. } => only.format,
            Stages::Two { first, .. } => first.format,
        };
        let mask = u64::MAX >> (64 - u32::from(stage.input_bits()).clamp(1, 64));
        if last.0.saturating_sub(first.0) >= mask || first.0 & mask > last.0 & mask {
            return (0, u64::MAX);
        }
        ((first.0 & mask) >> REGION_SHIFT, (last.0 & mask) >> REGION_SHIFT)
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

/// Refusals of 4 KiB pages, kept in caching mode alone.
struct Refusals {
    pages: Mutex<BTreeMap<u64, Refusal>>,
    count: AtomicUsize,
    /// Counts invalidations: a refusal found before one is not kept after it.
    generation: AtomicU64,
    budget: Arc<Budget>,
}

impl Refusals {
    fn new(budget: &Arc<Budget>) -> Self {
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

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    #[inline(always)]
    fn are_none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn find(&self, input: u64) -> Option<Refusal> {
        if self.are_none() {
            return None;
        }
        self.pages().get(&(input >> 12)).copied()
    }

    fn fill(&self, input: u64, refusal: Refusal, generation: u64) {
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

    fn remove(&self, first: Iova, last: Iova) {
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
