//! What must be forgotten, as commands (4.3, 4.4).

use alloc::vec::Vec;

use portcullis_spec::smmuv3::command::{Command, TlbiRange};
use portcullis_spec::{
    Context, ContextScope, DomainTag, Granule, Invalidation, Iova, StageNumber, Tags, TranslationScope,
};

use super::capabilities::Capabilities;
use super::entries::asid;

/// Streams without stage 2 are tagged with this VMID, which their entries say.
pub(super) const NO_VMID: DomainTag = DomainTag(0);
/// 4.3.6: CMD_CFGI_ALL.
const ALL_STREAMS: Command = Command::CfgiSteRange { streamid: 0, range: 31 };
/// Pages that are named one by one, at most; more are forgotten with their whole domain.
const MOST_PAGES: u64 = 64;

const fn vmid(tags: Tags) -> u16 {
    tags.domain.0 as u16
}

/// 4.3.6: configuration first, so that nothing is translated through old entries after.
pub(super) fn everything(capabilities: Capabilities) -> Vec<Command> {
    let mut list = alloc::vec![ALL_STREAMS, Command::TlbiNsnhAll];
    if capabilities.idr0.hyp() {
        list.push(Command::TlbiEl2All);
    }
    list
}

/// What was translated under a context's tags.
pub(super) fn translations_of(context: &Context) -> Vec<Command> {
    match context {
        Context::Blocked(_) | Context::Bypass { .. } => Vec::new(),
        Context::OneStage { tags, number: StageNumber::First, .. } => {
            alloc::vec![Command::TlbiNhAsid { vmid: vmid(*tags), asid: asid(*tags) }]
        }
        Context::OneStage { tags, .. } | Context::TwoStages { tags, .. } => {
            alloc::vec![Command::TlbiS12Vmall { vmid: vmid(*tags) }]
        }
    }
}

/// The commands that forget at least this. Where the architecture has no way to name it, they forget more.
pub(super) fn commands(what: &[Invalidation], capabilities: Capabilities) -> Vec<Command> {
    let mut list = Vec::with_capacity(what.len());
    for invalidation in what {
        match invalidation {
            Invalidation::Everything => list.extend(everything(capabilities)),
            // 4.3.1: with the entry go the context descriptors found through it.
            Invalidation::Contexts(ContextScope::Requester { requester, mask: 0 }) => {
                list.push(Command::CfgiSte { streamid: requester.index(), leaf: false });
            }
            Invalidation::Contexts(ContextScope::Pasid(requester, pasid)) => {
                let (streamid, substreamid) = (requester.index(), pasid.value());
                list.push(Command::CfgiCd { streamid, substreamid, leaf: false });
            }
            Invalidation::Contexts(_) => list.push(ALL_STREAMS),
            Invalidation::Translations(scope) => translations(scope, capabilities, &mut list),
            // Messages are translated as any other write is.
            Invalidation::Interrupts(_) => {}
        }
    }
    list
}

fn translations(scope: &TranslationScope, capabilities: Capabilities, list: &mut Vec<Command>) {
    let Some(vmid) = scope.domain.map(|domain| domain.0 as u16) else {
        return list.extend(everything(capabilities));
    };
    let space = scope.space.map(|space| space.0 as u16);
    let whole = match (scope.stage, space) {
        (Some(StageNumber::First), Some(asid)) => Command::TlbiNhAsid { vmid, asid },
        (Some(StageNumber::First), None) => Command::TlbiNhAll { vmid },
        _ => Command::TlbiS12Vmall { vmid },
    };
    let part = |range: TlbiRange| match (scope.stage, space) {
        (Some(StageNumber::First), Some(asid)) => Command::TlbiNhVa { vmid, asid, range },
        (Some(StageNumber::First), None) => Command::TlbiNhVaa { vmid, range },
        _ => Command::TlbiS2Ipa { vmid, range },
    };
    match scope.range.and_then(|range| ranges(range, scope.leaf_only, capabilities)) {
        Some(ranges) => list.extend(ranges.into_iter().map(part)),
        None => list.push(whole),
    }
}

/// The operands that cover a range; `None` where there would be too many.
fn ranges((first, last): (Iova, Iova), leaf: bool, capabilities: Capabilities) -> Option<Vec<TlbiRange>> {
    let granule = capabilities.granule()?;
    let shift = granule.shift();
    let pages = (last.0 >> shift) - (first.0 >> shift) + 1;
    let start = first.0 >> shift << shift;
    if pages == 1 {
        return Some(alloc::vec![TlbiRange { address: start, length: None, leaf }]);
    }
    // 4.4.1.1: the range's granule is the tables'. The encoder knows 4 KiB.
    if capabilities.idr3.ril() && granule == Granule::Size4K {
        return Some(ranged(start, pages, leaf));
    }
    (pages <= MOST_PAGES).then(|| {
        let at = |page: u64| TlbiRange { address: start + (page << shift), length: None, leaf };
        (0..pages).map(at).collect()
    })
}

/// 4.4.1.1: a range is up to 32 times a power of two of pages. Without an alignment of its own any address will do.
fn ranged(start: u64, pages: u64, leaf: bool) -> Vec<TlbiRange> {
    let mut list = Vec::new();
    let (mut address, mut left) = (start, pages);
    while left > 0 {
        let scale = (left / 32).checked_ilog2().map_or(0, |scale| scale + u32::from(left >> scale >= 64));
        let here = (left >> scale).min(32) << scale;
        // One page: the range form with all operands zero is reserved.
        let length = (here > 1).then_some(here << 12);
        list.push(TlbiRange { address, length, leaf });
        address = address.wrapping_add(here << 12);
        left -= here;
    }
    list
}

#[cfg(test)]
mod tests {
    use portcullis_spec::SpaceTag;
    use portcullis_spec::smmuv3::registers::{Idr0, Idr1, Idr3, Idr5};

    use super::*;

    fn capabilities(ril: bool) -> Capabilities {
        Capabilities {
            idr0: Idr0::new(),
            idr1: Idr1::new(),
            idr3: Idr3::new().with_ril(ril),
            idr5: Idr5::new().with_gran4k(true),
        }
    }

    fn first(range: Option<(u64, u64)>) -> Invalidation {
        Invalidation::Translations(TranslationScope {
            stage: Some(StageNumber::First),
            domain: Some(NO_VMID),
            space: Some(SpaceTag(7)),
            range: range.map(|(first, last)| (Iova(first), Iova(last))),
            leaf_only: true,
            keep_global: false,
        })
    }

    #[test]
    fn a_range_is_named_by_pages_or_by_ranges() {
        let pages = commands(&[first(Some((0x5000, 0x8fff)))], capabilities(false));
        assert_eq!(pages.len(), 4);
        let range = TlbiRange { address: 0x8000, length: None, leaf: true };
        assert_eq!(pages[3], Command::TlbiNhVa { vmid: 0, asid: 7, range });
        let many = commands(&[first(Some((0, 0xff_ffff)))], capabilities(false));
        assert_eq!(many, [Command::TlbiNhAsid { vmid: 0, asid: 7 }]);
    }

    /// Every page of the range is covered, and no other, by what the commands' bits say (4.4.1.1, written out).
    #[test]
    fn ranges_cover_exactly_what_is_asked_for() {
        for pages in (1..200).chain([0x1_0001, 0x12_3456, 1 << 36]) {
            let last = 0x5000 + (pages << 12) - 1;
            let mut next = 0x5000u64;
            let list = commands(&[first(Some((0x5000, last)))], capabilities(true));
            assert!(list.len() <= 9, "{pages} pages take {} commands", list.len());
            for command in list {
                let [low, high] = command.encode();
                let (num, scale, tg) = (low >> 12 & 0x1f, low >> 20 & 0x3f, high >> 10 & 3);
                assert_eq!(high & !0xfff, next);
                assert!(tg == 0 || (num, scale) != (0, 0), "reserved");
                let granules = if tg == 0 { 1 } else { (num + 1) << scale };
                next += granules << 12;
            }
            assert_eq!(next, last + 1);
        }
    }
}
