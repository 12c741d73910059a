//! What leaf entries come to that differ in nothing but where they lead.
//!
//! Weighing an entry's rights against the rules of its stage gives the same for all that are [alike](Alike), so that is done once too. A
//! pattern follows from a stage's format and rules alone, and from nothing in memory: it is never stale, and is kept as long as its space.

use std::cell::Cell;
use std::sync::OnceLock;

use portcullis_pagetable::{AnyFormat, Entry, Format, Rights};
use portcullis_spec::{Access, MemoryAttributes, PhysAddr, Stage, StageRules, Translation};

use crate::alike::Alike;
use crate::translate::{FormattedStage, PageTranslation, attributes, combined, permitted};
use crate::word::Kind;

/// How many patterns a stage keeps beside its first: entries of others are decoded each time.
const OTHERS: usize = 8;

/// What is asked of an entry: an access, with or without privilege.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Demand(u8);

impl Demand {
    const PRIVILEGED: u8 = 0x10;
    /// What no entry grants.
    pub(crate) const IMPOSSIBLE: Self = Self(0x3f);

    /// The read of an entry of the first stage's tables, as the second stage sees it.
    pub(crate) const TABLE_READ: Self = Self::new(Access::READ, true);

    pub(crate) const fn new(access: Access, privileged: bool) -> Self {
        Self(access.bits() & 0xf | if privileged { Self::PRIVILEGED } else { 0 })
    }

    #[inline(always)]
    pub(crate) const fn is_privileged(self) -> bool {
        self.0 & Self::PRIVILEGED != 0
    }
}

/// Entries that are alike, and what they come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pattern {
    pub(crate) kind: Kind,
    /// log2 of the bytes that an entry spans.
    pub(crate) span: u8,
    entries: Alike,
    /// The demands that are met without setting a flag, by their numbers.
    met: u64,
    /// The bits of an input that lie within the page.
    within: u64,
    /// What unprivileged and privileged requests may do before a flag is set.
    pub(crate) granted: [Access; 2],
    /// What a translation by such entries says, for both.
    pub(crate) says: [Says; 2],
    /// Whether the page is one in which tables of another stage must not lie.
    pub(crate) no_tables: bool,
}

/// What a translation says beside where it leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Says {
    /// log2 of the page's bytes.
    shift: u8,
    /// What requests of one privilege may do, where need be after a flag is set.
    access: Access,
    attributes: MemoryAttributes,
}

impl Says {
    /// A translation that leads to `address`.
    #[inline(always)]
    pub(crate) const fn of(&self, address: PhysAddr) -> Translation {
        let Self { shift: page_shift, access, attributes } = *self;
        Translation { address, page_shift, access, attributes }
    }

    /// What a first stage's and then a second stage's say together.
    pub(crate) fn then(&self, second: &Self) -> Self {
        Self {
            shift: self.shift.min(second.shift),
            access: self.access & second.access,
            attributes: combined(self.attributes, second.attributes),
        }
    }
}

impl Pattern {
    /// The entry `raw` alone, as it stands. `None` where it is no leaf that may be used without a walk.
    pub(crate) fn of_one<A>(stage: &FormattedStage<A>, kind: Kind, raw: u64) -> Option<Self> {
        let FormattedStage { stage: Stage { rules, .. }, format } = stage;
        let level = kind.level();
        let Entry::Leaf(leaf) = format.decode(level, raw) else { return None };
        let needs_accessed = rules.intersects(StageRules::SET_ACCESSED | StageRules::ACCESSED_REQUIRED)
            && format.with_accessed(level, raw) != raw;
        let needs_extended = rules.contains(StageRules::SET_EXTENDED_ACCESSED)
            && matches!(format, AnyFormat::X86(format) if format.with_extended_accessed(raw) != raw);
        let needs_dirty = rules.intersects(StageRules::SET_DIRTY | StageRules::DIRTY_REQUIRED)
            && format.with_dirty(level, raw) != raw;
        let ignored = cfg!(mutant = "no_flags");
        if (needs_accessed || needs_extended) && !ignored {
            return None;
        }
        let rights: Rights = leaf.attributes.rights & kind.rights();
        let access = [false, true].map(|privileged| permitted(rights, *rules, privileged));
        let withheld = if needs_dirty && !ignored { Access::WRITE } else { Access::empty() };
        let granted = access.map(|access| access - withheld);
        let met = (0..u64::BITS).filter(|number| {
            let demand = Demand(*number as u8);
            let wanted = Access::from_bits_truncate(demand.0);
            demand == Demand::new(wanted, demand.is_privileged())
                && granted[usize::from(demand.is_privileged())].contains(wanted)
        });
        Some(Self {
            kind,
            span: format.span_shift(level),
            met: met.fold(0, |met, number| met | 1 << number),
            entries: Alike::one(raw, leaf.address),
            within: !(u64::MAX.checked_shl(leaf.shift.into()).unwrap_or(0)),
            granted,
            says: access.map(|access| Says {
                shift: leaf.shift,
                access,
                attributes: attributes(format, &leaf.attributes),
            }),
            no_tables: rules.contains(StageRules::PROTECTED_TABLE_WALK) && format.is_device(&leaf.attributes),
        })
    }

    /// The entries that differ from this one in where they lead, and are the same in all else.
    fn of_all_alike<A>(self, stage: &FormattedStage<A>) -> Self {
        let entries = self.entries.all(|raw| {
            let other = Self::of_one(stage, self.kind, raw)?;
            let same = Self { entries: other.entries, ..self.clone() };
            (other == same).then_some(other.entries.leads(raw))
        });
        Self { entries, ..self }
    }

    /// Whether an entry of its kind has this pattern.
    #[inline(always)]
    pub(crate) const fn has(&self, raw: u64) -> bool {
        self.entries.has(raw)
    }

    /// Whether it is the pattern of the same entries, given that both are of one stage.
    #[inline(always)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.entries.is_same(&other.entries)
    }

    /// Whether such entries meet a demand as they stand.
    #[inline(always)]
    pub(crate) const fn grants(&self, demand: Demand) -> bool {
        self.met >> (demand.0 & 63) & 1 != 0
    }

    /// Where an entry of this pattern leads, for `input`.
    #[inline(always)]
    pub(crate) const fn output(&self, raw: u64, input: u64) -> PhysAddr {
        PhysAddr(self.entries.leads(raw) | (input & self.within))
    }

    /// The page around `address`, for requests of a privilege.
    pub(crate) fn page(&self, address: PhysAddr, privileged: bool) -> PageTranslation {
        let Says { shift, access, attributes } = self.says[usize::from(privileged)];
        PageTranslation { base: PhysAddr(address.0 & !self.within), shift, access, attributes }
    }
}

/// The patterns of one stage, in the order in which they came.
#[derive(Default)]
pub(crate) struct Patterns {
    first: OnceLock<Pattern>,
    others: OnceLock<Box<[OnceLock<Pattern>; OTHERS]>>,
}

/// Which of the other patterns the next entry probably has: the one that the last of them had. It is a guess, and may be of another
/// stage.
#[derive(Default)]
pub(crate) struct Guess(Cell<u8>);

impl Patterns {
    /// The first pattern.
    #[inline(always)]
    pub(crate) fn first(&self) -> Option<&Pattern> {
        self.first.get()
    }

    fn others(&self) -> &[OnceLock<Pattern>] {
        self.others.get().map_or(&[], |others| &others[..])
    }

    fn known(&self) -> impl Iterator<Item = &Pattern> {
        self.first.get().into_iter().chain(self.others().iter().map_while(OnceLock::get))
    }

    /// The pattern that an entry has, if it is known.
    pub(crate) fn find(&self, guess: &Guess, kind: Kind, raw: u64) -> Option<&Pattern> {
        let fits = |pattern: &&Pattern| pattern.kind == kind && pattern.has(raw);
        let guessed = self.others().get(usize::from(guess.0.get()));
        if let Some(pattern) = guessed.and_then(OnceLock::get).filter(fits) {
            return Some(pattern);
        }
        let (index, pattern) = (0u8..).zip(self.known()).find(|(_, pattern)| fits(pattern))?;
        guess.0.set(index.saturating_sub(1));
        Some(pattern)
    }

    /// The pattern of an entry, kept from now on if there is room. `None` where the entry is no leaf that may be used without a walk.
    pub(crate) fn learn<A>(&self, stage: &FormattedStage<A>, kind: Kind, raw: u64) -> Option<Pattern> {
        if let Some(known) = self.known().find(|pattern| pattern.kind == kind && pattern.has(raw)) {
            return Some(known.clone());
        }
        let one = Pattern::of_one(stage, kind, raw)?;
        // Whoever comes first keeps a place.
        if self.first.get().is_none() {
            let _ = self.first.set(one.clone().of_all_alike(stage));
        } else if let Some(free) =
            self.others.get_or_init(Box::default).iter().find(|other| other.get().is_none())
        {
            let _ = free.set(one.clone().of_all_alike(stage));
        }
        Some(one)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use portcullis_pagetable::Attributes;
    use portcullis_spec::{Granule, PagingFormat};

    use super::*;

    const SHAPES: [PagingFormat; 9] = [
        PagingFormat::VtdSecondStage { levels: 4 },
        PagingFormat::VtdSecondStage { levels: 5 },
        PagingFormat::X86 { levels: 4 },
        PagingFormat::AmdV1 { mode: 4 },
        PagingFormat::ArmStage1 { granule: Granule::Size4K, input_bits: 48, output_bits: 48, upper: false },
        PagingFormat::ArmStage1 { granule: Granule::Size4K, input_bits: 48, output_bits: 52, upper: true },
        PagingFormat::ArmStage2 {
            granule: Granule::Size64K,
            input_bits: 42,
            output_bits: 42,
            start_level: 2,
        },
        PagingFormat::RiscvSv { levels: 4 },
        PagingFormat::RiscvSvX4 { levels: 3 },
    ];

    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Leaf entries as software writes them, with some bits changed.
    fn entry(format: &AnyFormat, level: u8, state: &mut u64) -> u64 {
        let shift = format.span_shift(level);
        let rights = Rights::from_bits_truncate(next(state) as u8);
        let address = next(state) & next(state) & u64::MAX << shift & ((1 << format.output_bits()) - 1);
        let mut raw = format.encode_leaf(level, shift, address, &Attributes::new(rights));
        for _ in 0..next(state) % 4 {
            raw ^= 1 << (next(state) % 64);
        }
        raw
    }

    /// What a pattern says of an entry is what decoding that entry says.
    #[test]
    fn entries_of_one_pattern_come_to_the_same() {
        let mut state = 0x1234_5678_9abc_def1;
        let mut compared = 0;
        for shape in SHAPES {
            let format = AnyFormat::try_from(shape).unwrap();
            for _ in 0..2000 {
                let rules = StageRules::from_bits_truncate(next(&mut state) as u32 & next(&mut state) as u32);
                let stage = Stage { format: shape, root: PhysAddr(0), rules, input_bits: 64 };
                let stage = FormattedStage { stage, format };
                let level = (next(&mut state) % 3) as u8;
                let raw = entry(&format, level, &mut state);
                let Some(kind) = Kind::new(level, Rights::from_bits_truncate(next(&mut state) as u8)) else {
                    panic!("level {level} is kept");
                };
                let Some(one) = Pattern::of_one(&stage, kind, raw) else { continue };
                let all = one.clone().of_all_alike(&stage);
                assert!(all.has(raw));
                for _ in 0..8 {
                    let other = raw ^ next(&mut state) & next(&mut state) & all.entries.address();
                    let expected = Pattern::of_one(&stage, kind, other).expect("a leaf, as its like is");
                    let input = next(&mut state);
                    assert!(all.has(other));
                    assert_eq!(
                        all.output(other, input),
                        expected.output(other, input),
                        "{shape:?} {other:x}"
                    );
                    let same = Pattern { entries: one.entries, ..expected };
                    assert_eq!(same, one, "{shape:?} {raw:x} {other:x}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 10_000, "{compared}");
    }

    /// Pages of every place have one pattern, so that the first entry that is decoded is the last.
    #[test]
    fn pages_anywhere_have_one_pattern() {
        for shape in SHAPES {
            let format = AnyFormat::try_from(shape).unwrap();
            let stage =
                Stage { format: shape, root: PhysAddr(0), rules: StageRules::empty(), input_bits: 64 };
            let stage = FormattedStage { stage, format };
            let attributes = Attributes::new(Rights::all());
            let (kind, shift) = (Kind::new(0, Rights::all()).unwrap(), format.span_shift(0));
            let leaf = |address| format.encode_leaf(0, shift, address, &attributes);
            let patterns = Patterns::default();
            assert!(patterns.learn(&stage, kind, leaf(0)).is_some());
            let first = patterns.first().unwrap();
            // Arm keeps the bits above 47 elsewhere.
            for bit in shift..format.output_bits().min(48) {
                assert!(first.has(leaf(1 << bit)), "{shape:?}, bit {bit}");
                assert_eq!(
                    first.output(leaf(1 << bit), 0x7ff),
                    PhysAddr(1 << bit | 0x7ff),
                    "{shape:?}, bit {bit}"
                );
            }
            assert!(!first.has(0));
        }
    }

    #[test]
    fn no_more_patterns_are_kept_than_there_is_room_for() {
        let shape = PagingFormat::VtdSecondStage { levels: 4 };
        let format = AnyFormat::try_from(shape).unwrap();
        let stage = Stage { format: shape, root: PhysAddr(0), rules: StageRules::empty(), input_bits: 64 };
        let (stage, guess) = (FormattedStage { stage, format }, Guess::default());
        let (kind, patterns) = (Kind::new(0, Rights::all()).unwrap(), Patterns::default());
        // Bits 61:52 are ignored, and make other patterns all the same.
        let raws: Vec<u64> = (0..32).map(|number| number << 52 | 0x1003).collect();
        for raw in &raws {
            let page = patterns.learn(&stage, kind, *raw).map(|pattern| pattern.output(*raw, 0x234));
            assert_eq!(page, Some(PhysAddr(0x1234)));
        }
        let known = raws.iter().filter(|raw| patterns.find(&guess, kind, **raw).is_some()).count();
        assert_eq!(known, 1 + OTHERS);
        assert!(raws.iter().all(|raw| patterns.learn(&stage, kind, *raw).is_some()));
    }
}
