//! One stage's translation from its leaf entry alone, which is loaded anew. Anything out of the ordinary, a flag to be set,
//! a right that is missing, an entry that is no leaf, gives `None`: then the walk decides.

use std::sync::OnceLock;

use portcullis_pagetable::{Address, Extension, Format};
use portcullis_spec::{PhysAddr, StageRules, Translation};

use crate::descent::{Way, descend};
use crate::gate::Presence;
use crate::host::EntryPage;
use crate::pattern::{Demand, Guess, Pattern, Patterns, Says};
use crate::slots::{Leaves, REGION_SHIFT};
use crate::translate::{FormattedStage, PageTranslation, Request, stored};
use crate::word::Found;

/// A stage, laid out for translating by leaf entries.
pub(crate) struct Leaf {
    /// The inputs that are looked up without a second thought: from `first` on, so many.
    first: u64,
    reach: u64,
    /// log2 of the bytes that entries of each level span. No leaf table is of level 3.
    span: [u8; 4],
    patterns: Patterns,
    way: OnceLock<Box<Way>>,
}

/// Where a request that hits goes, and what its entry permits.
pub(crate) struct Hit<'a> {
    pub(crate) address: PhysAddr,
    pub(crate) pattern: &'a Pattern,
}

impl<'a> Hit<'a> {
    /// What is reached by who demands this.
    #[inline(always)]
    pub(crate) fn reached(&self, demand: Demand) -> Reached<'a> {
        Reached { address: self.address, says: &self.pattern.says[usize::from(demand.is_privileged())] }
    }
}

/// Where a request goes, and what else is known of its translation. Two words, so that it travels in registers.
pub(crate) struct Reached<'a> {
    pub(crate) address: PhysAddr,
    pub(crate) says: &'a Says,
}

impl Reached<'_> {
    /// All of it.
    #[inline(always)]
    pub(crate) fn translation(&self) -> Translation {
        self.says.of(self.address)
    }
}

impl Leaf {
    pub(crate) fn new<A>(stage: &FormattedStage<A>) -> Self {
        let (first, reach) = ordinary(stage);
        let span = [0, 1, 2, 3].map(|level| stage.format.span_shift(level));
        Self { first, reach, span, patterns: Patterns::default(), way: OnceLock::new() }
    }

    /// Which region of the leaf cache an input lies in, or `None` where the tables don't reach it.
    pub(crate) fn region<A>(stage: &FormattedStage<A>, input: u64) -> Option<u64> {
        let in_range = stage.stage.input_bits >= 64 || input >> stage.stage.input_bits == 0;
        Some(stage.format.offset(input).filter(|_| in_range)? >> REGION_SHIFT)
    }

    /// Where within its 4 KiB the entry of `level` lies that translates `input`.
    pub(crate) fn entry_offset(&self, input: u64, level: u8) -> u64 {
        entry_offset(input, self.span[usize::from(level & 3)])
    }

    /// log2 of the regions whose leaf entries lie in one table with what was found, by the one entry that leads there.
    pub(crate) fn width(&self, found: &Found) -> u8 {
        self.span[usize::from((found.kind.level() + 1) & 3)].saturating_sub(REGION_SHIFT)
    }

    /// The first pattern, and below which address inputs are looked up as they are, whole ranges of them.
    pub(crate) fn first_pattern(&self) -> Option<(&Pattern, u64)> {
        let is_whole = self.first == 0 && self.reach.is_multiple_of(1 << REGION_SHIFT);
        Some((self.patterns.first().filter(|_| is_whole)?, self.reach))
    }

    /// Translates `input` if its entry is cached and has the first pattern, as most have. `inside` is of the unit whose space this is of,
    /// and so are `leaves`.
    #[inline(always)]
    pub(crate) fn hit_first<'a>(
        &'a self,
        leaves: &'a Leaves,
        input: u64,
        demand: Demand,
        inside: &'a Presence<'_>,
    ) -> Option<Hit<'a>> {
        let pattern = self.patterns.first()?;
        let page = leaves.find_kind(self.ordinary_region(input)?, pattern.kind, inside)?;
        let raw = page.load(entry_offset(input, pattern.span));
        let granted = pattern.has(raw) && pattern.grants(demand);
        granted.then(|| Hit { address: pattern.output(raw, input), pattern })
    }

    /// Translates `input`, whose leaf entry is found like this, if that has a known pattern.
    #[inline(always)]
    pub(crate) fn hit_found<'a>(
        &'a self,
        Found { page, kind }: Found,
        input: u64,
        demand: Demand,
        guess: &Guess,
    ) -> Option<Hit<'a>> {
        let raw = page.load(self.entry_offset(input, kind.level()));
        let first = self.patterns.first().filter(|first| first.kind == kind && first.has(raw));
        let pattern = first.or_else(|| self.patterns.find(guess, kind, raw))?;
        pattern.grants(demand).then(|| Hit { address: pattern.output(raw, input), pattern })
    }

    /// Where the leaf entry of `input` lies, which is looked up without a second thought. `page_at` says where in this process the page
    /// of an entry lies.
    #[inline(always)]
    pub(crate) fn descend<A: Address>(
        &self,
        stage: impl FnOnce() -> Option<FormattedStage<A>>,
        input: u64,
        mut page_at: impl FnMut(u64) -> Option<EntryPage>,
    ) -> Option<Found> {
        let offset = input.wrapping_sub(self.first);
        if let Some(way) = self.way.get()
            && let Some(found) = way.follow(offset, &mut page_at)
        {
            return Some(found);
        }
        self.descend_at_length(&stage()?, input, &mut page_at)
    }

    #[cold]
    fn descend_at_length<A: Address>(
        &self,
        stage: &FormattedStage<A>,
        input: u64,
        page_at: &mut dyn FnMut(u64) -> Option<EntryPage>,
    ) -> Option<Found> {
        let found = descend(stage, input, &mut *page_at, |_, _| {})?;
        // A stage that is used for the first time may never be again, and large pages have no way of their own.
        if found.kind.level() == 0
            && self.way.get().is_none()
            && self.patterns.first().is_some()
            && let Some(way) = Way::to(stage, input, page_at)
        {
            // Whoever comes first.
            let _ = self.way.set(Box::new(way));
        }
        Some(found)
    }

    /// The region of an input that is looked up without a second thought.
    #[inline(always)]
    pub(crate) const fn ordinary_region(&self, input: u64) -> Option<u64> {
        let offset = input.wrapping_sub(self.first);
        if offset < self.reach { Some(offset >> REGION_SHIFT) } else { None }
    }

    /// Gets to know the pattern of an entry.
    pub(crate) fn learn<A>(&self, stage: &FormattedStage<A>, Found { page, kind }: Found, input: u64) {
        let raw = stored(stage.stage.rules, page.load(self.entry_offset(input, kind.level())));
        self.patterns.learn(stage, kind, raw);
    }

    /// Translates any `input`, and gets to know its entry's pattern.
    pub(crate) fn translate<A>(
        &self,
        stage: &FormattedStage<A>,
        leaves: &Leaves,
        input: u64,
        request: Request,
        inside: &Presence<'_>,
    ) -> Option<PageTranslation> {
        let Found { page, kind } = leaves.find(Self::region(stage, input)?, inside)?;
        let raw = stored(stage.stage.rules, page.load(self.entry_offset(input, kind.level())));
        let pattern = self.patterns.learn(stage, kind, raw)?;
        let granted = pattern.granted[usize::from(request.privileged)];
        let enough = granted.contains(request.access) || (request.any && !granted.is_empty());
        (enough && !(request.table && pattern.no_tables))
            .then(|| pattern.page(pattern.output(raw, input), request.privileged))
    }
}

/// Where within its 4 KiB the entry lies that translates `input`, if each spans `1 << span` bytes.
#[inline(always)]
pub(crate) fn entry_offset(input: u64, span: u8) -> u64 {
    input >> (span & 63) << 3 & 0xff8
}

/// The first input that is looked up without a second thought, and how many are: all that the tables reach, but the upper half where inputs
/// are signed, and none where entries are stored with their bytes swapped.
fn ordinary<A>(stage: &FormattedStage<A>) -> (u64, u64) {
    let format = &stage.format;
    let all = 1u64 << format.input_bits();
    let below = 1u64.checked_shl(stage.stage.input_bits.into()).unwrap_or(u64::MAX);
    if stage.stage.rules.contains(StageRules::BIG_ENDIAN) {
        return (0, 0);
    }
    match format.extension() {
        Extension::Zero => (0, all.min(below)),
        Extension::Sign => (0, (all / 2).min(below)),
        // What lies there has bits above every limit.
        Extension::Ones if below == u64::MAX => (all.wrapping_neg(), all),
        Extension::Ones => (0, 0),
    }
}
