//! One stage's translation from its leaf entry alone, which is loaded anew. Anything out of the ordinary, a flag to be set,
//! a right that is missing, an entry that is no leaf, gives `None`: then the walk decides.

use portcullis_pagetable::{Extension, Format};
use portcullis_spec::{PhysAddr, StageRules, Translation};

use crate::gate::Presence;
use crate::leaves::{Leaves, REGION_SHIFT};
use crate::pattern::{Demand, Guess, Pattern, Patterns};
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
}

/// Where a request that hits goes, and what its entry permits.
pub(crate) struct Hit<'a> {
    pub(crate) address: PhysAddr,
    pub(crate) pattern: &'a Pattern,
    /// The pattern of the first stage's entry, where this one is the second's.
    pub(crate) before: Option<&'a Pattern>,
    pub(crate) demand: Demand,
}

impl Hit<'_> {
    /// All that is known of it.
    #[inline(always)]
    pub(crate) fn translation(&self) -> Translation {
        let translation = self.pattern.translation(self.address, self.demand.is_privileged());
        match self.before {
            None => translation,
            Some(first) => first.then(translation, self.demand.is_privileged()),
        }
    }
}

impl Leaf {
    pub(crate) fn new<A>(stage: &FormattedStage<A>) -> Self {
        let (first, reach) = ordinary(stage);
        let span = [0, 1, 2, 3].map(|level| stage.format.span_shift(level));
        Self { first, reach, span, patterns: Patterns::default() }
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

    /// Translates `input` if its entry has a known pattern. `inside` is of the unit whose space this is of, and so are `leaves`.
    #[inline(always)]
    pub(crate) fn hit<'a>(
        &'a self,
        leaves: &'a Leaves,
        input: u64,
        demand: Demand,
        guess: &Guess,
        inside: &'a Presence<'_>,
    ) -> Option<Hit<'a>> {
        let offset = input.wrapping_sub(self.first);
        if offset >= self.reach {
            return None;
        }
        // Most stages have one pattern.
        if let Some(pattern) = self.patterns.first()
            && let Some(page) = leaves.find_kind(offset >> REGION_SHIFT, pattern.kind, inside)
        {
            let raw = page.load(entry_offset(input, pattern.span));
            if pattern.has(raw) {
                let address = pattern.output(raw, input);
                return pattern.grants(demand).then_some(Hit { address, pattern, before: None, demand });
            }
        }
        self.hit_another(leaves, input, demand, guess, inside)
    }

    /// The same for an entry that has not the first pattern.
    #[inline(never)]
    fn hit_another<'a>(
        &'a self,
        leaves: &'a Leaves,
        input: u64,
        demand: Demand,
        guess: &Guess,
        inside: &'a Presence<'_>,
    ) -> Option<Hit<'a>> {
        let region = input.wrapping_sub(self.first) >> REGION_SHIFT;
        let Found { page, kind } = leaves.find(region, inside)?;
        let raw = page.load(self.entry_offset(input, kind.level()));
        let pattern = self.patterns.find(guess, kind, raw)?;
        let address = pattern.output(raw, input);
        pattern.grants(demand).then_some(Hit { address, pattern, before: None, demand })
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
        self.judge(stage, leaves.find(Self::region(stage, input)?, inside)?, input, request)
    }

    /// The same where the leaf entry is found like this.
    #[inline(always)]
    pub(crate) fn judge<A>(
        &self,
        stage: &FormattedStage<A>,
        Found { page, kind }: Found,
        input: u64,
        request: Request,
    ) -> Option<PageTranslation> {
        let raw = stored(stage.stage.rules, page.load(self.entry_offset(input, kind.level())));
        let pattern = self.patterns.learn(stage, kind, raw)?;
        let granted = pattern.granted[usize::from(request.privileged)];
        let enough = granted.contains(request.access) || (request.any && !granted.is_empty());
        (enough && !(request.table && pattern.no_tables))
            .then(|| pattern.page(pattern.output(raw, input), request.privileged))
    }
}

#[inline(always)]
fn entry_offset(input: u64, span: u8) -> u64 {
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
