//! What a context is in bits (2.1.3, 2.2.4), and what must be invalidated where an entry changes.

use alloc::vec::Vec;

use portcullis_spec::riscv::command::AddressRange;
use portcullis_spec::riscv::device::{Fsc, Iohgatp, IohgatpMode, IosatpMode, PdtpMode, Ta, Tc};
use portcullis_spec::riscv::process::ProcessTa;
use portcullis_spec::riscv::registers::Capabilities;
use portcullis_spec::riscv::{Command, DeviceContext, ProcessContext};
use portcullis_spec::{
    Context, ContextScope, DirectoryFormat, DomainTag, FirstStage, GuestDirectory, Invalidation,
    PagingFormat, Pasid, PhysAddr, Stage, StageNumber, StageRules, Tags, TranslationScope, Unnumbered,
};

use crate::error::{Error, Feature};

/// The domain of first stages without a second: commands name those by PSCID alone.
pub(super) const HOST: DomainTag = DomainTag(0);

/// Forgets all that a unit may cache, but for first stages beneath a second ([`first_stages_of`]): directories first, so that
/// nothing is translated through old entries after.
pub(super) const EVERYTHING: [Command; 3] = [
    Command::IodirInvalDdt { did: None },
    Command::IotinvalVma { gscid: None, pscid: None, range: None, non_leaf: false },
    Command::IotinvalGvma { gscid: None, range: None, non_leaf: false },
];

/// 3.1.1: without GV, `IOTINVAL.VMA` is about the host's spaces only.
pub(super) const fn first_stages_of(gscid: u16) -> Command {
    Command::IotinvalVma { gscid: Some(gscid), pscid: None, range: None, non_leaf: false }
}

fn unsupported<A>(stage: &Stage<A>) -> Error {
    Error::Unsupported(Feature::Format(stage.format))
}

/// The page that a root lies in, where it has one: the host's always does.
const fn page(root: u64) -> Option<u64> {
    if root.trailing_zeros() >= 12 && root >> 56 == 0 { Some(root >> 12) } else { None }
}

fn iosatp<A>(stage: &Stage<A>, root: u64) -> Result<Fsc, Error> {
    let ppn = page(root).ok_or(unsupported(stage))?;
    let mode = match stage.format {
        PagingFormat::RiscvSv { levels: 3 } => IosatpMode::Sv39,
        PagingFormat::RiscvSv { levels: 4 } => IosatpMode::Sv48,
        PagingFormat::RiscvSv { levels: 5 } => IosatpMode::Sv57,
        _ => return Err(unsupported(stage)),
    };
    Ok(Fsc::new().with_mode(mode.encode()).with_ppn(ppn))
}

fn iohgatp(stage: &Stage<PhysAddr>, tags: Tags) -> Result<Iohgatp, Error> {
    let mode = match stage.format {
        PagingFormat::RiscvSvX4 { levels: 3 } => IohgatpMode::Sv39x4,
        PagingFormat::RiscvSvX4 { levels: 4 } => IohgatpMode::Sv48x4,
        PagingFormat::RiscvSvX4 { levels: 5 } => IohgatpMode::Sv57x4,
        _ => return Err(unsupported(stage)),
    };
    let iohgatp = Iohgatp::new().with_mode(mode.encode()).with_ppn(stage.root.0 >> 12);
    Ok(iohgatp.with_gscid(tags.domain.0 as u16))
}

/// 2.1.3.1, 2.1.3.4: how a device's entry leads to a process directory of the guest's.
fn directory(directory: &GuestDirectory, capabilities: Capabilities, tc: Tc) -> Result<(Tc, Fsc), Error> {
    let unsupported = Error::Unsupported(Feature::Directory(directory.format));
    let DirectoryFormat::RiscvProcessDirectory { levels } = directory.format else { return Err(unsupported) };
    let mode = PdtpMode::of_levels(levels).ok_or(unsupported)?;
    let ppn = page(directory.root.0).ok_or(unsupported)?;
    let big_endian = directory.rules.contains(StageRules::BIG_ENDIAN);
    let sade = updates(directory.rules);
    let refused = directory.unnumbered == Unnumbered::Refused;
    if refused || (sade && !capabilities.amo_hwad()) || (big_endian && !capabilities.end()) {
        return Err(unsupported);
    }
    let tc = tc.with_pdtv(true).with_dpe(directory.unnumbered == Unnumbered::Zero);
    Ok((tc.with_sade(sade).with_sbe(big_endian), Fsc::new().with_mode(mode.encode()).with_ppn(ppn)))
}

/// Whether the unit is to set Accessed and Dirty in a stage's tables.
const fn updates(rules: StageRules) -> bool {
    rules.contains(StageRules::SET_DIRTY)
}

/// The device context for a context of a device without PASIDs. `nowhere` is the root of a table in which nothing is mapped, and
/// its format: blocking without a record needs an entry that is valid (3.2: DTF does not silence those that are not).
pub(super) fn device(
    context: &Context,
    capabilities: Capabilities,
    nowhere: Option<(PagingFormat, PhysAddr)>,
) -> Result<DeviceContext, Error> {
    let tc = Tc::new().with_v(true);
    let plain = DeviceContext { tc, ..DeviceContext::default() };
    Ok(match context {
        Context::Blocked(Some(_)) => DeviceContext::default(),
        Context::Blocked(None) => {
            let (format, root) = nowhere.ok_or(Error::Unsupported(Feature::SilentBlocking))?;
            let tc = tc.with_dtf(true);
            let stage = Stage { format, root, rules: StageRules::empty(), input_bits: 64 };
            match format {
                PagingFormat::RiscvSvX4 { .. } => {
                    DeviceContext { tc, iohgatp: iohgatp(&stage, Tags::default())?, ..plain }
                }
                _ => DeviceContext { tc, fsc: iosatp(&stage, root.0)?, ..plain },
            }
        }
        Context::Bypass { .. } => plain,
        Context::OneStage { tags, stage, number: StageNumber::First } => DeviceContext {
            tc: tc.with_sade(updates(stage.rules)),
            ta: Ta::new().with_pscid(pscid(*tags)),
            fsc: iosatp(stage, stage.root.0)?,
            ..plain
        },
        Context::OneStage { tags, stage, number: StageNumber::Second } => {
            DeviceContext { tc: tc.with_gade(updates(stage.rules)), iohgatp: iohgatp(stage, *tags)?, ..plain }
        }
        Context::TwoStages { tags, first, second } => {
            let tc = tc.with_gade(updates(second.rules));
            let (tc, fsc) = match first {
                FirstStage::Tables(first) => {
                    (tc.with_sade(updates(first.rules)), iosatp(first, first.root.0)?)
                }
                FirstStage::Directory(guests) => directory(guests, capabilities, tc)?,
            };
            let ta = Ta::new().with_pscid(tags.space.map_or(0, |_| pscid(*tags)));
            DeviceContext { tc, iohgatp: iohgatp(second, *tags)?, ta, fsc, ..plain }
        }
    })
}

/// The process context for a context of one PASID. Second stages are the device's own affair, and so is SADE, which is set wherever the
/// unit has it.
pub(super) fn process(context: &Context) -> Result<ProcessContext, Error> {
    let ta = ProcessTa::new().with_v(true);
    Ok(match context {
        Context::Blocked(Some(_)) => ProcessContext::default(),
        Context::Blocked(None) => return Err(Error::Unsupported(Feature::SilentBlocking)),
        Context::Bypass { .. } => ProcessContext { ta, fsc: Fsc::new() },
        Context::OneStage { tags, stage, number: StageNumber::First } => {
            let privileged = stage.rules.contains(StageRules::PRIVILEGED_ALLOWED);
            let sum = privileged && !stage.rules.contains(StageRules::NO_PRIVILEGED_USER_ACCESS);
            ProcessContext {
                ta: ta.with_ens(privileged).with_sum(sum).with_pscid(pscid(*tags)),
                fsc: iosatp(stage, stage.root.0)?,
            }
        }
        Context::OneStage { stage, .. } => return Err(unsupported(stage)),
        Context::TwoStages { .. } => return Err(Error::Unsupported(Feature::Nested)),
    })
}

fn pscid(tags: Tags) -> u32 {
    tags.space.map_or(tags.domain.0, |space| space.0) & 0xf_ffff
}

/// What must be forgotten after an entry was changed: its cached copy, and what was translated through it. `process` is there where
/// it is one of a process directory. Entries that were not valid are not cached (2.8), but the command also orders the stores before it.
pub(super) fn forget(device_id: u32, process: Option<Option<Pasid>>, former: &Context) -> Vec<Command> {
    let entry = match process {
        Some(pasid) => Command::IodirInvalPdt { did: device_id, pid: pasid.map_or(0, Pasid::value) },
        None => Command::IodirInvalDdt { did: Some(device_id) },
    };
    let mut list = alloc::vec![entry];
    let gscid = |tags: &Tags| Some(tags.domain.0 as u16);
    let all_of = |gscid, tags: &Tags| Command::IotinvalVma {
        gscid,
        pscid: tags.space.map(|space| space.0),
        range: None,
        non_leaf: false,
    };
    match former {
        Context::Blocked(_) | Context::Bypass { .. } => {}
        Context::OneStage { tags, number: StageNumber::First, .. } => list.push(all_of(None, tags)),
        Context::OneStage { tags, number: StageNumber::Second, .. } => {
            list.push(Command::IotinvalGvma { gscid: gscid(tags), range: None, non_leaf: false });
        }
        Context::TwoStages { tags, .. } => {
            list.push(all_of(gscid(tags), tags));
            list.push(Command::IotinvalGvma { gscid: gscid(tags), range: None, non_leaf: false });
        }
    }
    list
}

/// The commands that forget at least this. Where the architecture has no way to name it, they forget more.
pub(super) fn commands(what: &[Invalidation], ranges: bool) -> Vec<Command> {
    let mut list = Vec::with_capacity(what.len());
    for invalidation in what {
        match invalidation {
            Invalidation::Everything => list.extend(EVERYTHING),
            Invalidation::Contexts(ContextScope::Requester { requester, mask: 0 }) => {
                list.push(Command::IodirInvalDdt { did: Some(requester.index()) });
            }
            Invalidation::Contexts(ContextScope::Pasid(requester, pasid)) => {
                list.push(Command::IodirInvalPdt { did: requester.index(), pid: pasid.value() });
            }
            Invalidation::Contexts(_) => list.push(Command::IodirInvalDdt { did: None }),
            Invalidation::Translations(scope) => translations(scope, ranges, &mut list),
            // MSI page tables are cached as second-stage entries are (2.8, table of tags).
            Invalidation::Interrupts(_) => {
                list.push(Command::IotinvalGvma { gscid: None, range: None, non_leaf: false });
            }
        }
    }
    list
}

/// Pages that are named one by one, at most; more are forgotten by the whole domain.
const MOST_PAGES: u64 = 64;

fn translations(scope: &TranslationScope, ranges: bool, list: &mut Vec<Command>) {
    let domain = scope.domain.map(|domain| domain.0 as u16);
    let space = scope.space.map(|space| space.0);
    // 3.1.1: without GSCID the command is about the host's spaces.
    let gscid = domain.filter(|domain| u32::from(*domain) != HOST.0);
    let command = |range| match scope.stage {
        Some(StageNumber::First) => Command::IotinvalVma { gscid, pscid: space, range, non_leaf: false },
        _ => Command::IotinvalGvma { gscid: domain, range, non_leaf: false },
    };
    let mut push = |range| list.push(command(range));
    // 3.1.1: with an address only leaf entries are forgotten; freed tables need all.
    let range = if scope.leaf_only { scope.range } else { None };
    let Some((first, last)) = range else { return push(None) };
    let pages = (last.0 >> 12) - (first.0 >> 12) + 1;
    if pages <= 2 || (!ranges && pages <= MOST_PAGES) {
        for page in 0..pages {
            push(Some(AddressRange { first: (first.0 & !0xfff) + (page << 12), size_log2: 12 }));
        }
    } else if ranges {
        let size_log2 = (64 - (first.0 ^ last.0).leading_zeros()) as u8;
        let whole = size_log2 >= 63;
        push((!whole).then(|| AddressRange { first: first.0 >> size_log2 << size_log2, size_log2 }));
    } else {
        push(None);
    }
}

#[cfg(test)]
mod tests {
    use portcullis_spec::{Iova, SpaceTag};

    use super::*;

    fn scope(stage: StageNumber, domain: DomainTag, range: Option<(Iova, Iova)>) -> Invalidation {
        Invalidation::Translations(TranslationScope {
            stage: Some(stage),
            domain: Some(domain),
            space: (stage == StageNumber::First).then_some(SpaceTag(7)),
            range,
            leaf_only: range.is_some(),
            keep_global: false,
        })
    }

    fn vma(gscid: Option<u16>, range: Option<AddressRange>) -> Command {
        Command::IotinvalVma { gscid, pscid: Some(7), range, non_leaf: false }
    }

    #[test]
    fn first_stages_of_the_host_and_of_guests_are_told_apart() {
        assert_eq!(commands(&[scope(StageNumber::First, HOST, None)], false), [vma(None, None)]);
        assert_eq!(commands(&[scope(StageNumber::First, DomainTag(9), None)], false), [vma(Some(9), None)]);
    }

    #[test]
    fn ranges_are_covered_by_pages_or_one_block() {
        let range = Some((Iova(0x5000), Iova(0x8fff)));
        let by_page: Vec<_> = commands(&[scope(StageNumber::Second, DomainTag(7), range)], false);
        assert_eq!(by_page.len(), 4);
        let block = Some(AddressRange { first: 0, size_log2: 16 });
        let one = Command::IotinvalGvma { gscid: Some(7), range: block, non_leaf: false };
        assert_eq!(commands(&[scope(StageNumber::Second, DomainTag(7), range)], true), [one]);
    }
}
