//! Address spaces: what the unit's tags and table roots make one. Requesters whose contexts agree in all of that share it,
//! and with it its leaf cache. A nested space has a leaf cache for its first stage and goes on in the space of its second, which
//! everyone shares who is translated by that.

use std::cell::Cell;
use std::sync::Arc;

use portcullis_pagetable::Format;
use portcullis_spec::{FaultReason, Iova, Ipa, PhysAddr, StageNumber, Tags, TranslationScope};

use crate::budget::Budget;
use crate::engine::Inside;
use crate::fast::{Hit, Leaf, Reached};
use crate::finals::Finals;
use crate::gate::Presence;
use crate::host::{ENTRY_PAGE, EntryPage, EntryStretch};
use crate::memory::GuestMemory;
use crate::noted::Noted;
use crate::pattern::{Demand, Guess, Pattern};
use crate::plain::Block;
use crate::refusal::Refusal;
use crate::refusals::Refusals;
use crate::retained::Retained;
use crate::slots::{Leaves, Place, Probe, REGION_SHIFT};
use crate::translate::{
    LeafEntry, PageTranslation, Redirected, Request, Stages, not_redirected, walk_one_stage, walk_two_stages,
};
use crate::word::{Found, Frame, Kept, Kind};

/// Words of bits for the pages of the second stage in which tables of the first lie: a page is rarely taken for another as long as there
/// are a few thousand.
const TABLE_PAGE_WORDS: usize = 256;

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
    /// The pages of the second stage through which the first stage's tables were reached.
    table_pages: Option<Box<Noted<TABLE_PAGE_WORDS>>>,
    /// Where pages of a nested space lead in the end.
    finals: Option<Box<Finals>>,
    refusals: Refusals,
    retained: Option<Box<Retained>>,
    /// Memory around the tables of the only or the second stage. The memory lives as long as the unit whose space this is.
    home: Option<EntryStretch>,
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
        let leaves = Leaves::new(false, Arc::clone(budget));
        let table_pages = second.is_some().then(Box::default);
        let finals = second.is_some().then(|| Box::new(Finals::new(Arc::clone(budget))));
        let home = match &key.stages {
            Stages::One { only: stage, .. } | Stages::Two { second: stage, .. } => {
                memory.host_stretch(stage.stage.root).and_then(EntryStretch::new)
            }
        };
        let refusals = Refusals::new(budget);
        Self { key, leaf, leaves, special, second, table_pages, finals, refusals, retained, home }
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

    /// Translates `input` by this stage alone, its leaf entry found in the cache or by its tables, where nothing about it is out of
    /// the ordinary.
    #[inline(never)]
    pub(crate) fn hit<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        inside: &'i Inside<'_>,
    ) -> Option<Reached<'i>> {
        Some(self.hit_stage(input, demand, &inside.guesses[0], inside)?.reached(demand))
    }

    /// The same where this stage is the second of two, or the only one.
    #[inline(always)]
    fn hit_stage<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        guess: &Guess,
        inside: &'i Inside<'_>,
    ) -> Option<Hit<'i>> {
        let found = self.leaf_entry(input, inside, |_| {
            let stage = || match self.key.stages {
                Stages::One { only, .. } => Some(only),
                Stages::Two { .. } => None,
            };
            let home = self.home?;
            self.leaf.descend(stage, input, move |entry| home.page_around(PhysAddr(entry)))
        })?;
        self.leaf.hit_found(found, input, demand, guess)
    }

    /// Where the leaf entry of this stage lies: in the cache, or as `descend` says, which is told whether that is to be kept.
    #[inline(always)]
    fn leaf_entry(
        &self,
        input: u64,
        inside: &Inside<'_>,
        descend: impl FnOnce(bool) -> Option<Found>,
    ) -> Option<Found> {
        let region = self.leaf.ordinary_region(input)?;
        // Before the first table entry is read.
        let probe = match self.leaves.probe(region, &inside.presence, inside.gate) {
            Probe::Found(found) => return Some(found),
            _ if self.is_special(region) => return None,
            probe => probe,
        };
        let found = descend(matches!(probe, Probe::Fill(_)))?;
        if let Probe::Fill(place) = probe {
            place.fill_from(self.leaf.width(&found), found);
        }
        Some(found)
    }

    /// Whether inputs of a region may be special.
    const fn is_special(&self, region: u64) -> bool {
        self.special.touches(region << REGION_SHIFT, REGION_SHIFT)
    }

    /// Where its leaf entries lie.
    #[inline(always)]
    pub(crate) const fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    /// Their first pattern, and below which address inputs are looked up as they are.
    pub(crate) fn first_pattern(&self) -> Option<(&Pattern, u64)> {
        self.leaf.first_pattern()
    }

    /// Translates `input` by this stage's leaf entries and those of the one behind, which none but a nested space has.
    #[inline(always)]
    pub(crate) fn hit_both<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        inside: &'i Inside<'_>,
    ) -> Option<Reached<'i>> {
        match self.finals.as_ref()?.find(input, demand, &inside.presence) {
            Some(reached) => Some(reached),
            None => self.hit_one_by_one(input, demand, inside),
        }
    }

    /// The same by the entries, which is kept where the page is asked for again.
    #[inline(never)]
    fn hit_one_by_one<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        inside: &'i Inside<'_>,
    ) -> Option<Reached<'i>> {
        // Before the first entry is read.
        let end = self.finals.as_ref()?.observe(input, &inside.presence, inside.gate);
        self.hit_through(input, demand, Block::NONE, inside, end.as_ref())
    }

    /// The same, unless an address between the stages is `redirected`. It is kept in the slot `end`.
    pub(crate) fn hit_through<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        redirected: Block,
        inside: &'i Inside<'_>,
        end: Option<&Place<'_, Frame>>,
    ) -> Option<Reached<'i>> {
        let descend = |kept| self.descend_first(input, inside, kept || end.is_some());
        let found = self.leaf_entry(input, inside, descend)?;
        let first = self.leaf.hit_found(found, input, demand, &inside.guesses[0])?;
        let ipa = first.address.0;
        if redirected.contains(ipa) {
            return None;
        }
        if let Some(end) = end.filter(|_| !cfg!(mutant = "no_data_page")) {
            end.note(ipa);
        }
        let last = self.second.as_ref()?.hit_second(ipa, demand, inside)?;
        self.finals.as_ref()?.reach(last.address, (first.pattern, last.pattern), demand, end)
    }

    /// Finds the leaf entry of the first of two stages by its tables, of which the second says where they lie. `noting` says that it,
    /// or where it leads, is to be kept.
    fn descend_first(&self, input: u64, inside: &Inside<'_>, noting: bool) -> Option<Found> {
        let second = self.second.as_ref()?;
        let stage = || match self.key.stages {
            Stages::One { .. } => None,
            Stages::Two { first, .. } => Some(first),
        };
        self.leaf.descend(stage, input, |entry| {
            if noting {
                self.note_table(entry);
            }
            second.entry_page(second.hit_second(entry, Demand::TABLE_READ, inside)?.address)
        })
    }

    /// The second stage is about to be asked for the page in which a table of the first lies.
    fn note_table(&self, table: u64) {
        if let Some(noted) = &self.table_pages {
            noted.note(table);
        }
    }

    /// Translates an address between the stages by this, the second.
    #[inline(always)]
    fn hit_second<'i>(&'i self, ipa: u64, demand: Demand, inside: &'i Inside<'_>) -> Option<Hit<'i>> {
        let hit = match self.leaf.hit_first(&self.leaves, ipa, demand, &inside.presence) {
            Some(hit) => hit,
            None => self.hit_second_at_length(ipa, demand, inside)?,
        };
        (demand != Demand::TABLE_READ || !hit.pattern.no_tables).then_some(hit)
    }

    #[inline(never)]
    fn hit_second_at_length<'i>(
        &'i self,
        ipa: u64,
        demand: Demand,
        inside: &'i Inside<'_>,
    ) -> Option<Hit<'i>> {
        self.hit_stage(ipa, demand, &inside.guesses[1], inside)
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
        // Before the first table entry is read.
        let region = region.filter(|region| !self.is_special(*region));
        let place = region.and_then(|region| self.leaves.observe(region, &inside.presence, inside.gate));
        let was_redirected = Cell::new(false);
        let answer = self.walk(input, request, inside, &|ipa| {
            let redirected = redirect(ipa);
            was_redirected.set(redirected.is_some());
            redirected
        });
        if let (Ok((page, _)), Some((retained, generation)), false) =
            (&answer, retained, was_redirected.get())
        {
            retained.fill(input, request, *page, generation);
        }
        match &answer {
            Ok((_, Some(entry))) => self.keep(place.as_ref(), input, entry, inside),
            Err(refusal) if caching && self.may_keep(refusal) => {
                self.refusals.fill(input, *refusal, generation);
            }
            _ => {}
        }
        answer.map(|(page, _)| page)
    }

    /// The page of an entry, in this process.
    #[inline(always)]
    fn entry_page(&self, entry: PhysAddr) -> Option<EntryPage> {
        self.home?.page_around(entry)
    }

    fn walk(
        &self,
        input: u64,
        request: Request,
        inside: &Inside<'_>,
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
                    if request.table {
                        self.note_table(ipa.0);
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

    /// Gets to know the leaf entry, and keeps where it lies, if its page is this process's memory.
    fn keep(&self, place: Option<&Place<'_>>, input: u64, entry: &LeafEntry, inside: &Inside<'_>) {
        let page = entry.at.align_down(ENTRY_PAGE);
        // The entry's place within its page must follow from the input alone.
        if entry.at.0 & (ENTRY_PAGE - 1) != self.leaf.entry_offset(input, entry.level) {
            return;
        }
        let page = inside.memory.host_pointer(page, ENTRY_PAGE).and_then(EntryPage::new);
        let (Some(kind), Some(page)) = (Kind::new(entry.level, entry.rights), page) else { return };
        let found = Found { page, kind };
        match &self.key.stages {
            Stages::One { only, .. } => self.leaf.learn(only, found, input),
            Stages::Two { first, .. } => self.leaf.learn(first, found, input),
        }
        if let Some(place) = place {
            place.fill_from(self.leaf.width(&found), found);
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
        let presence = &inside.presence;
        match scope.range {
            // The pages of a second-stage range are addresses between the stages, where the first stage's tables lie. Leaf entries that
            // lead to them count as well.
            Some((first, last)) if self.second.is_some() && scope.stage == Some(StageNumber::Second) => {
                if self.table_pages.as_ref().is_none_or(|noted| noted.may_have(first.0, last.0)) {
                    self.forget_all(presence);
                } else if let Some(finals) = &self.finals {
                    finals.clear_through(first.0, last.0, presence);
                }
            }
            Some((first, last)) => {
                // Leaf entries themselves are never kept.
                if !scope.leaf_only {
                    let (first, last) = self.blocks(first, last, REGION_SHIFT);
                    self.leaves.clear(first, last, presence);
                }
                if let Some(finals) =
                    self.finals.as_ref().filter(|_| !(cfg!(mutant = "finals_kept") && scope.leaf_only))
                {
                    let (first, last) = self.blocks(first, last, Frame::SHIFT);
                    finals.clear(first, last, presence);
                }
                self.refusals.remove(first, last);
            }
            _ => {
                self.forget_all(presence);
                self.refusals.remove(Iova(0), Iova(u64::MAX));
            }
        }
    }

    /// Forgets everything that is cached of this stage, and then what was found through that.
    fn forget_all(&self, presence: &Presence<'_>) {
        if let Some(noted) = &self.table_pages {
            noted.reset();
        }
        if cfg!(mutant = "finals_before_leaves") {
            self.forget_finals(presence);
        }
        self.leaves.clear(0, u64::MAX, presence);
        if !cfg!(mutant = "finals_before_leaves") {
            self.forget_finals(presence);
        }
    }

    fn forget_finals(&self, presence: &Presence<'_>) {
        if let Some(finals) = &self.finals {
            finals.clear(0, u64::MAX, presence);
        }
    }

    /// The blocks of `1 << shift` bytes that inputs from `first` to `last` lie in.
    fn blocks(&self, first: Iova, last: Iova, shift: u8) -> (u64, u64) {
        let stage = match &self.key.stages {
            Stages::One { only, .. } => only.format,
            Stages::Two { first, .. } => first.format,
        };
        let mask = u64::MAX >> (64 - u32::from(stage.input_bits()).clamp(1, 64));
        if last.0.saturating_sub(first.0) >= mask || first.0 & mask > last.0 & mask {
            return (0, u64::MAX);
        }
        ((first.0 & mask) >> shift, (last.0 & mask) >> shift)
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
