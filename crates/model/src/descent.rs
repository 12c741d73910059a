//! The way down to a leaf entry through tables that are as usual: each leads to the next level's, lies in this process, and has the
//! flags that it should. Anything out of the ordinary gives `None`, and then the walk decides (`translate`).
//!
//! A miss costs this and little more: the walk remembers every step, for it may have to set flags or say what is wrong.

use portcullis_pagetable::{AnyFormat, Entry, Format, Rights};
use portcullis_spec::StageRules;

use crate::host::{ENTRY_PAGE, EntryPage};
use crate::translate::{FormattedStage, stored};
use crate::word::{Found, Kind};

/// Where the leaf entry for `input` lies. `page_at` says where in this process a page of entries lies.
#[inline(always)]
pub(crate) fn descend<A: portcullis_pagetable::Address>(
    stage: &FormattedStage<A>,
    input: u64,
    page_at: impl FnMut(u64) -> Option<EntryPage>,
) -> Option<Found> {
    let (root, rules) = (stage.stage.root.value(), stage.stage.rules);
    if stage.stage.input_bits < 64 && input >> stage.stage.input_bits != 0 {
        return None;
    }
    // Each format by itself, so that its decoder is compiled into the way of its own.
    match &stage.format {
        AnyFormat::VtdSecondStage(format) => through(format, rules, root, input, page_at),
        AnyFormat::X86(format) => through(format, rules, root, input, page_at),
        AnyFormat::AmdV1(format) => through(format, rules, root, input, page_at),
        AnyFormat::ArmStage1(format) => through(format, rules, root, input, page_at),
        AnyFormat::ArmStage2(format) => through(format, rules, root, input, page_at),
        AnyFormat::Riscv(format) => through(format, rules, root, input, page_at),
    }
}

#[inline(always)]
fn through<F: Format>(
    format: &F,
    rules: StageRules,
    root: u64,
    input: u64,
    mut page_at: impl FnMut(u64) -> Option<EntryPage>,
) -> Option<Found> {
    if rules.contains(StageRules::SET_EXTENDED_ACCESSED) {
        return None;
    }
    let offset = format.offset(input)?;
    let flags = rules.intersects(StageRules::SET_ACCESSED | StageRules::ACCESSED_REQUIRED);
    let mut level = format.top();
    let mut shift = format.span_shift(level);
    // An offset has no bits above those that index the root.
    let mut within = u64::MAX;
    let (mut table, mut rights) = (root, Rights::all());
    loop {
        // An entry's place within its page must follow from the input alone.
        if table & (ENTRY_PAGE - 1) != 0 {
            return None;
        }
        let index = (offset >> shift) & within;
        let page = page_at(table.wrapping_add(index * 8) & !(ENTRY_PAGE - 1))?;
        if level == 0 {
            return Some(Found { page, kind: Kind::new(level, rights)? });
        }
        let raw = stored(rules, page.load(index * 8));
        match format.decode(level, raw) {
            Entry::Table(next) if next.level + 1 == level => {
                if flags && format.with_accessed(level, raw) != raw {
                    return None;
                }
                rights &= next.rights;
                table = next.address;
            }
            Entry::Leaf(_) => return Some(Found { page, kind: Kind::new(level, rights)? }),
            _ => return None,
        }
        level -= 1;
        shift -= format.table_bits();
        within = (1 << format.table_bits()) - 1;
    }
}
