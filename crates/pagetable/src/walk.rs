//! The walk: from an input address through the tables to its page.

use crate::{Address, Attributes, Entry, Format, Invalid, Leaf, Rights};

/// The most levels that any format has.
pub const MAX_LEVELS: usize = 6;

/// One entry that a walk read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Step<A> {
    /// The level of the table it lies in.
    pub level: u8,
    /// Where it lies.
    pub at: A,
    /// What was read.
    pub raw: u64,
}

/// Where a walk led.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapping<A> {
    /// What the input address translates to, byte for byte.
    pub address: A,
    /// log2 of the bytes around `address` that the leaf translates.
    pub shift: u8,
    /// Level of the leaf.
    pub level: u8,
    /// The leaf's own attributes. Its rights are not yet limited by the tables above: [`Walk::rights`] are.
    pub attributes: Attributes,
}

/// Why a walk ended without a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Cause<E> {
    /// The input has bits above the format's input size, or is not canonical. Nothing was read.
    #[error("the address is out of the tables' range")]
    OutOfRange,
    /// The entry is not present.
    #[error("the entry is not present")]
    NotPresent,
    /// The entry skips levels, and the input bits of those are not zero (AMD v1).
    #[error("the entry skips levels that the address needs")]
    SkippedBits,
    /// The entry is present and breaks a rule.
    #[error("the entry is invalid: {0}")]
    Invalid(Invalid),
    /// The entry could not be read; it is not among the steps.
    #[error("the entry could not be read")]
    Load(E),
}

/// A walk that ended without a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("level {level}: {cause}")]
pub struct WalkError<A, E> {
    /// Where the entry lies that ended it, also if it could not be read; the root where the input is out of range.
    pub at: A,
    /// Level of the entry that ended it; the root's where the input is out of range.
    pub level: u8,
    /// Why.
    pub cause: Cause<E>,
}

/// A walk: every entry that it read, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Walk<A, E> {
    steps: [Step<A>; MAX_LEVELS],
    count: u8,
    /// The intersection of the rights of all entries read, the leaf's included. For an entry that is not present or
    /// invalid nothing is counted.
    pub rights: Rights,
    /// The intersection of the rights of the table entries alone.
    pub table_rights: Rights,
    /// Where it led, or why nowhere.
    pub end: Result<Mapping<A>, WalkError<A, E>>,
}

impl<A, E> Walk<A, E> {
    /// The entries read, from the root's on. The last is the leaf, or the one that ended the walk unless it could not be
    /// read. A model sets Accessed and Dirty by compare-exchange on exactly these.
    #[must_use]
    #[inline]
    pub fn steps(&self) -> &[Step<A>] {
        &self.steps[..usize::from(self.count).min(MAX_LEVELS)]
    }
}

/// Walks the tables below `root` for `input`. `load` reads the entry at an address; it is called once a level at most,
/// from the root down, and its first error ends the walk.
///
/// Always inlined: what a caller doesn't look at, the steps above all, is then never written.
///
/// `load` may itself translate the address: for the first of two stages the tables lie at [`Ipa`](portcullis_spec::Ipa)s.
#[inline(always)]
pub fn walk<F: Format, I: Address, A: Address, E>(
    format: &F,
    root: A,
    input: I,
    load: impl FnMut(A) -> Result<u64, E>,
) -> Walk<A, E> {
    // Almost all tables have four levels. Said as a constant, the compiler lays the levels out one behind the other.
    match format.top() {
        3 => walk_from(format, 3, root, input, load),
        top => walk_from(format, top, root, input, load),
    }
}

#[inline(always)]
fn walk_from<F: Format, I: Address, A: Address, E>(
    format: &F,
    top: u8,
    root: A,
    input: I,
    mut load: impl FnMut(A) -> Result<u64, E>,
) -> Walk<A, E> {
    let mut steps = [Step { level: 0, at: root, raw: 0 }; MAX_LEVELS];
    let mut count = 0;
    let mut rights = Rights::all();
    let mut level = top;
    let mut table = root.value();
    let offset = format.offset(input.value());
    let mut at = root;
    // An offset has no bits above those that index the root.
    let mut within = u64::MAX;
    let mut shift = format.span_shift(level);
    // The leaf and its level by themselves: as parts of a `Result` they would go through memory byte by byte.
    let mut leaf = NO_LEAF;
    let mut read =
        |level: u8, table: u64, index: u64, steps: &mut [Step<A>; MAX_LEVELS], count: &mut usize| {
            at = A::new(table.wrapping_add(index * 8));
            let raw = load(at)?;
            steps[*count] = Step { level, at, raw };
            *count += 1;
            Ok(raw)
        };
    let cause = 'walk: {
        let Some(offset) = offset else {
            break 'walk Some(Cause::OutOfRange);
        };
        // The usual tables, as many as there are above the last: each level's leads to the next. A constant number of them is
        // laid out one behind the other.
        let mut raw = match read(level, table, (offset >> shift) & within, &mut steps, &mut count) {
            Ok(raw) => raw,
            Err(error) => break 'walk Some(Cause::Load(error)),
        };
        for _ in 0..top.min(MAX_LEVELS as u8 - 1) {
            let Entry::Table(next) = format.decode(level, raw) else { break };
            if next.level + 1 != level {
                break;
            }
            rights &= next.rights;
            level -= 1;
            shift -= format.table_bits();
            within = (1 << format.table_bits()) - 1;
            table = next.address;
            raw = match read(level, table, (offset >> shift) & within, &mut steps, &mut count) {
                Ok(raw) => raw,
                Err(error) => break 'walk Some(Cause::Load(error)),
            };
        }
        // What is left: a leaf, an entry that ends the walk, or tables that skip levels.
        loop {
            match format.decode(level, raw) {
                Entry::Leaf(found) => {
                    leaf = found;
                    break 'walk None;
                }
                Entry::Table(next) if next.level < level && count < MAX_LEVELS => {
                    rights &= next.rights;
                    if skips(format, level, next.level, offset) {
                        break 'walk Some(Cause::SkippedBits);
                    }
                    level = next.level;
                    shift = format.span_shift(level);
                    within = (1 << format.table_bits()) - 1;
                    table = next.address;
                }
                Entry::Empty => break 'walk Some(Cause::NotPresent),
                // Upwards, or of more levels than any format has.
                Entry::Table(_) => break 'walk Some(Cause::Invalid(Invalid::NextLevel)),
                Entry::Invalid(rule) => break 'walk Some(Cause::Invalid(rule)),
            }
            raw = match read(level, table, (offset >> shift) & within, &mut steps, &mut count) {
                Ok(raw) => raw,
                Err(error) => break 'walk Some(Cause::Load(error)),
            };
        }
    };
    let table_rights = rights;
    let end = match cause {
        None => {
            rights &= leaf.attributes.rights;
            Ok(mapping(&leaf, level, offset.unwrap_or_default()))
        }
        Some(cause) => Err(WalkError { at, level, cause }),
    };
    Walk { steps, count: count as u8, rights, table_rights, end }
}

const NO_LEAF: Leaf =
    Leaf { address: 0, shift: 0, run_shift: 0, attributes: Attributes::new(Rights::empty()) };

/// The index of `offset`'s entry in a table of `level`. An offset has no bits above those that index the root.
#[inline]
pub(crate) fn index<F: Format>(format: &F, level: u8, offset: u64) -> u64 {
    let index = offset >> format.span_shift(level);
    if level == format.top() { index } else { index & ((1 << format.table_bits()) - 1) }
}

/// Whether `offset` has bits set that an entry of `level` skips by leading to a table of `next`.
#[inline]
pub(crate) fn skips<F: Format>(format: &F, level: u8, next: u8, offset: u64) -> bool {
    let covered = format.span_shift(next + 1);
    next + 1 < level && (offset & ((1 << format.span_shift(level)) - 1)) >> covered != 0
}

/// The page that `leaf` gives `offset`.
#[inline]
fn mapping<A: Address>(leaf: &Leaf, level: u8, offset: u64) -> Mapping<A> {
    let within = (1 << leaf.shift) - 1;
    Mapping {
        address: A::new(leaf.address | (offset & within)),
        shift: leaf.shift,
        level,
        attributes: leaf.attributes,
    }
}
