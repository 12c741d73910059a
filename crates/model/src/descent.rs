//! The way down to a leaf entry through tables that are as usual: each leads to the next level's, lies in this process, and has the
//! flags that it should. Anything out of the ordinary gives `None`, and then the walk decides (`translate`).
//!
//! A miss costs this and little more: the walk remembers every step, for it may have to set flags or say what is wrong. Entries that lead
//! to tables are compared with one that was decoded before ([`Alike`]); most stages have one kind of them at each level.

use portcullis_pagetable::{Address, AnyFormat, Entry, Format, Rights};
use portcullis_spec::{Stage, StageRules};

use crate::alike::Alike;
use crate::host::{ENTRY_PAGE, EntryPage};
use crate::translate::{FormattedStage, stored};
use crate::word::{Found, Kind};

/// Where an entry leads and what it permits, if it leads to a table of the next level and has the flags that it should.
fn next_table(format: &AnyFormat, rules: StageRules, level: u8, raw: u64) -> Option<(u64, Rights)> {
    let flags = rules.intersects(StageRules::SET_ACCESSED | StageRules::ACCESSED_REQUIRED);
    match format.decode(level, raw) {
        Entry::Table(next)
            if next.level + 1 == level && !(flags && format.with_accessed(level, raw) != raw) =>
        {
            Some((next.address, next.rights))
        }
        _ => None,
    }
}

/// Entries of one level that lead to tables of the next.
struct Step {
    entries: Alike,
    /// What they permit.
    rights: Rights,
}

impl Step {
    fn of(format: &AnyFormat, rules: StageRules, level: u8, raw: u64) -> Option<Self> {
        let next = |raw| next_table(format, rules, level, raw);
        let (leads, rights) = next(raw)?;
        let same = |raw| next(raw).filter(|(_, other)| *other == rights).map(|(leads, _)| leads);
        Some(Self { entries: Alike::one(raw, leads).all(same), rights })
    }
}

/// The usual way through the tables of one stage.
pub(crate) struct Way {
    root: u64,
    /// log2 of the bytes that an entry of the root spans, and by how much less those of each level below do.
    span: u8,
    less: u8,
    /// From the root down, without the level of the last tables.
    steps: Box<[Step]>,
}

impl Way {
    /// The way by which the leaf entry of level 0 is found for `input`, which is not stored with its bytes swapped. `None` where there is
    /// none, or it is out of the ordinary.
    pub(crate) fn to<A: Address>(
        stage: &FormattedStage<A>,
        input: u64,
        page_at: impl FnMut(u64) -> Option<EntryPage>,
    ) -> Option<Self> {
        let FormattedStage { stage: Stage { root, rules, .. }, format } = stage;
        let (root, top) = (root.value(), format.top());
        let mut steps = Vec::new();
        let found =
            descend(stage, input, page_at, |level, raw| steps.extend(Step::of(format, *rules, level, raw)))?;
        let is_whole = steps.len() == usize::from(top) && found.kind.level() == 0;
        is_whole.then(|| Self {
            root,
            span: format.span_shift(top),
            less: format.table_bits(),
            steps: steps.into(),
        })
    }

    /// Where the leaf entry of level 0 lies for an input this far behind the first.
    #[inline(always)]
    pub(crate) fn follow(
        &self,
        offset: u64,
        mut page_at: impl FnMut(u64) -> Option<EntryPage>,
    ) -> Option<Found> {
        let (mut table, mut rights) = (self.root, Rights::all());
        let mut shift = self.span;
        // An offset has no bits above those that index the root.
        let mut within = u64::MAX;
        for step in &self.steps {
            let index = offset >> (shift & 63) & within;
            let raw = page_at(table.wrapping_add(index * 8))?.load(index * 8);
            if !step.entries.has(raw) {
                return None;
            }
            table = step.entries.leads(raw);
            rights &= step.rights;
            shift = shift.wrapping_sub(self.less);
            within = (1 << (self.less & 63)) - 1;
        }
        let index = offset >> (shift & 63) & within;
        Some(Found { page: page_at(table.wrapping_add(index * 8))?, kind: Kind::new(0, rights)? })
    }
}

/// Where the leaf entry for `input` lies. `page_at` says where in this process the page of an entry lies; `passed` is told of the entries
/// that lead there, and their levels.
pub(crate) fn descend<A: Address>(
    stage: &FormattedStage<A>,
    input: u64,
    mut page_at: impl FnMut(u64) -> Option<EntryPage>,
    mut passed: impl FnMut(u8, u64),
) -> Option<Found> {
    let FormattedStage { stage, format } = stage;
    let (root, rules) = (stage.root.value(), stage.rules);
    let is_outside = stage.input_bits < 64 && input >> stage.input_bits != 0;
    if is_outside || rules.contains(StageRules::SET_EXTENDED_ACCESSED) {
        return None;
    }
    let offset = format.offset(input)?;
    let mut level = format.top();
    let mut shift = format.span_shift(level);
    let mut within = u64::MAX;
    let (mut table, mut rights) = (root, Rights::all());
    loop {
        // An entry's place within its page must follow from the input alone.
        if table & (ENTRY_PAGE - 1) != 0 {
            return None;
        }
        let index = (offset >> shift) & within;
        let page = page_at(table.wrapping_add(index * 8))?;
        if level == 0 {
            return Some(Found { page, kind: Kind::new(level, rights)? });
        }
        let raw = stored(rules, page.load(index * 8));
        let Some((next, permits)) = next_table(format, rules, level, raw) else {
            let is_leaf = matches!(format.decode(level, raw), Entry::Leaf(_));
            return Some(Found { page, kind: Kind::new(level, rights).filter(|_| is_leaf)? });
        };
        passed(level, raw);
        rights &= permits;
        table = next;
        level -= 1;
        shift -= format.table_bits();
        within = (1 << format.table_bits()) - 1;
    }
}
