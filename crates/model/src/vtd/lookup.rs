//! From a requester and PASID through root, context and PASID tables to a [`Context`] (VT-d 3.4, 9.1 to 9.6). The steps
//! come in the specification's order: access, present, reserved, valid.

use portcullis_spec::vtd::VtdFaultReason as Reason;
use portcullis_spec::vtd::context::{
    CONTEXT_ENTRY_SIZE, ContextEntry, SCALABLE_CONTEXT_ENTRY_SIZE, ScalableContextEntry, TranslationType,
};
use portcullis_spec::vtd::pasid::{
    PASID_DIRECTORY_ENTRY_SIZE, PASID_TABLE_ENTRY_SIZE, PasidDirectoryEntry, PasidEntry, Pgtt,
};
use portcullis_spec::vtd::registers::{Cap, Ecap, Rtaddr, Ttm};
use portcullis_spec::vtd::root::{ROOT_ENTRY_SIZE, RootEntry, RootEntryHalf};
use portcullis_spec::{
    Access, Context, DomainTag, Ipa, MemoryAttributes, PagingFormat, Pasid, PhysAddr, SpaceTag, Stage,
    StageNumber, StageRules, Tags,
};

use crate::contexts::Resolved;
use crate::memory::{GuestMemory, load_words};

/// How the unit handled the request's requester.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Translation is not enabled.
    Disabled,
    /// Legacy mode.
    Legacy,
    /// Scalable mode.
    Scalable,
    /// Abort-DMA mode.
    Abort,
}

/// What a look-up remembers beside its context.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// How requests are handled.
    pub mode: Mode,
    /// The OR of the FPD bits on the way: qualified faults are not recorded.
    pub fpd: bool,
    /// Why everything is blocked, where it is.
    pub code: Option<Reason>,
    /// Whether addresses pass unchanged, and the protected regions count.
    pub passes: bool,
    /// Whether a first stage takes part, whose SRE decides on privileged requests.
    pub first_stage: bool,
    /// SRE of the PASID entry.
    pub sre: bool,
    /// RID_PRIV of the context entry.
    pub rid_priv: bool,
}

impl Note {
    const fn new(mode: Mode) -> Self {
        Self { mode, fpd: false, code: None, passes: false, first_stage: false, sre: false, rid_priv: false }
    }
}

/// What decides a look-up beside the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    /// GSTS.TES.
    pub(super) enabled: bool,
    /// The root table address as it was set last.
    pub(super) rtaddr: Rtaddr,
}

/// The unit's capabilities, as far as entries are judged by them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    /// Host address width.
    pub(super) haw: u8,
    /// CAP_REG.
    pub(super) cap: Cap,
    /// ECAP_REG.
    pub(super) ecap: Ecap,
}

/// A refused look-up: why, and the FPD bits seen so far.
struct Stop {
    reason: Reason,
    fpd: bool,
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self { reason, fpd: false }
    }
}

const EVERYTHING: Access = Access::all();

/// Looks up the context of the requester with ID `source`.
pub(super) fn lookup(
    memory: &dyn GuestMemory,
    unit: &Capabilities,
    root: Root,
    source: u16,
    pasid: Option<Pasid>,
) -> Resolved<Note> {
    if !root.enabled {
        return disabled(pasid);
    }
    let (mode, found) = match root.rtaddr.ttm() {
        Ttm::Legacy => (Mode::Legacy, legacy(memory, unit, root.rtaddr, source, pasid)),
        Ttm::Scalable if unit.ecap.smts() => {
            (Mode::Scalable, scalable(memory, unit, root.rtaddr, source, pasid))
        }
        Ttm::AbortDma if unit.ecap.adms() => {
            return Resolved {
                context: Context::Blocked(None),
                pasid,
                cacheable: true,
                note: Note::new(Mode::Abort),
            };
        }
        _ => (Mode::Scalable, Err(Reason::RootTableAddress.into())),
    };
    found.unwrap_or_else(|Stop { reason, fpd }| Resolved {
        context: Context::Blocked(Some(reason.neutral())),
        pasid,
        cacheable: unit.cap.cm(),
        note: Note { fpd, code: Some(reason), ..Note::new(mode) },
    })
}

/// Without translation, requests without PASID pass (VT-d 11.4.4.1, TE).
fn disabled(pasid: Option<Pasid>) -> Resolved<Note> {
    let context = match pasid {
        None => Context::Bypass {
            tags: Tags::default(),
            access: EVERYTHING,
            output_bits: 64,
            attributes: MemoryAttributes::default(),
        },
        Some(_) => Context::Blocked(None),
    };
    Resolved { context, pasid, cacheable: true, note: Note { passes: true, ..Note::new(Mode::Disabled) } }
}

/// The address of entry `index` of a table, or `None` where it lies beyond the host address width.
fn entry(unit: &Capabilities, table: u64, index: u64, size: u64) -> Option<PhysAddr> {
    let address = table.checked_add(index * size)?;
    (address >> unit.haw == 0).then_some(PhysAddr(address))
}

fn load<const N: usize>(
    memory: &dyn GuestMemory,
    address: Option<PhysAddr>,
    otherwise: Reason,
) -> Result<[u64; N], Reason> {
    address.and_then(|address| load_words(memory, address).ok()).ok_or(otherwise)
}

/// VT-d 3.4.2: legacy mode.
fn legacy(
    memory: &dyn GuestMemory,
    unit: &Capabilities,
    rtaddr: Rtaddr,
    source: u16,
    pasid: Option<Pasid>,
) -> Result<Resolved<Note>, Stop> {
    if pasid.is_some() {
        return Err(Reason::LegacyModePasid.into());
    }
    let [bus, devfn] = source.to_be_bytes();
    let at = entry(unit, rtaddr.root_table(), bus.into(), ROOT_ENTRY_SIZE);
    let root = RootEntry::decode(load(memory, at, Reason::RootAccess)?);
    if !root.low.p() {
        return Err(Reason::RootNotPresent.into());
    }
    if root.has_reserved_bits(unit.haw) {
        return Err(Reason::RootReserved.into());
    }
    let at = entry(unit, root.low.context_table(), devfn.into(), CONTEXT_ENTRY_SIZE);
    let context = ContextEntry::decode(load(memory, at, Reason::ContextAccess)?);
    let fpd = context.low.fpd();
    let stop = |reason| Stop { reason, fpd };
    if !context.low.p() {
        return Err(stop(Reason::ContextNotPresent));
    }
    if context.has_reserved_bits(unit.haw, unit.cap) {
        return Err(stop(Reason::ContextReserved));
    }
    let levels = context
        .levels()
        .filter(|levels| unit.cap.supports_levels(*levels))
        .ok_or(stop(Reason::ContextInvalid))?;
    let tags = Tags { domain: DomainTag(context.high.did().into()), space: None };
    let (context, passes) = match context.low.tt() {
        TranslationType::Untranslated => {
            let root = PhysAddr(context.second_stage_table());
            let stage = second_stage(unit, levels, root, StageRules::empty());
            (Context::OneStage { tags, stage, number: StageNumber::Second }, false)
        }
        TranslationType::PassThrough if unit.ecap.pt() => (pass_through(unit, tags), true),
        _ => return Err(stop(Reason::ContextInvalid)),
    };
    let note = Note { fpd, passes, ..Note::new(Mode::Legacy) };
    Ok(Resolved { context, pasid: None, cacheable: true, note })
}

/// VT-d 3.4.3: scalable mode.
fn scalable(
    memory: &dyn GuestMemory,
    unit: &Capabilities,
    rtaddr: Rtaddr,
    source: u16,
    pasid: Option<Pasid>,
) -> Result<Resolved<Note>, Stop> {
    let [bus, devfn] = source.to_be_bytes();
    let halves = u64::from(bus) * 2 + u64::from(devfn >> 7);
    let at = entry(unit, rtaddr.root_table(), halves, ROOT_ENTRY_SIZE / 2);
    let [half] = load(memory, at, Reason::ScalableRootAccess)?;
    let half = RootEntryHalf::from_bits(half);
    if !half.p() {
        return Err(Reason::ScalableRootNotPresent.into());
    }
    if half.reserved_bits(unit.haw) != 0 {
        return Err(Reason::ScalableRootReserved.into());
    }
    let at = entry(unit, half.context_table(), (devfn & 0x7f).into(), SCALABLE_CONTEXT_ENTRY_SIZE);
    let context = ScalableContextEntry::decode(load(memory, at, Reason::ScalableContextAccess)?);
    let fpd = context.low.fpd();
    let stop = |reason| Stop { reason, fpd };
    if !context.low.p() {
        return Err(stop(Reason::ScalableContextNotPresent));
    }
    if context.has_reserved_bits(unit.haw, unit.ecap) {
        return Err(stop(Reason::ScalableContextReserved));
    }
    let index = match pasid {
        Some(_) if !context.low.paside() => return Err(stop(Reason::PasidDisabled)),
        Some(pasid) if pasid.value() >= context.pasids() || pasid.value() >> unit.ecap.pasid_bits() != 0 => {
            return Err(stop(Reason::PasidBeyondDirectory));
        }
        Some(pasid) => pasid.value(),
        None if context.high.rid_pasid() >= context.pasids() => return Err(stop(Reason::RidPasid)),
        None => context.high.rid_pasid(),
    };
    let (entry, fpd) = pasid_entry(memory, unit, &context, index, fpd)?;
    let rid_priv = context.high.rid_priv();
    let (context, note) = pasid_context(unit, &entry, index).map_err(|reason| Stop { reason, fpd })?;
    let note = Note { fpd, rid_priv, ..note };
    Ok(Resolved { context, pasid: Pasid::new(index), cacheable: true, note })
}

/// The PASID table entry with number `index`, and the FPD bits up to it.
fn pasid_entry(
    memory: &dyn GuestMemory,
    unit: &Capabilities,
    context: &ScalableContextEntry,
    index: u32,
    fpd: bool,
) -> Result<(PasidEntry, bool), Stop> {
    let stop = |fpd| move |reason| Stop { reason, fpd };
    let at = entry(unit, context.pasid_directory(), (index >> 6).into(), PASID_DIRECTORY_ENTRY_SIZE);
    let [directory] = load(memory, at, Reason::PasidDirectoryAccess).map_err(stop(fpd))?;
    let directory = PasidDirectoryEntry::from_bits(directory);
    let fpd = fpd || directory.fpd();
    if !directory.p() {
        return Err(stop(fpd)(Reason::PasidDirectoryNotPresent));
    }
    if directory.has_reserved_bits(unit.haw) {
        return Err(stop(fpd)(Reason::PasidDirectoryReserved));
    }
    let at = entry(unit, directory.pasid_table(), (index & 0x3f).into(), PASID_TABLE_ENTRY_SIZE);
    let words = load(memory, at, Reason::PasidAccess).map_err(stop(fpd))?;
    let entry = PasidEntry::decode(words);
    let fpd = fpd || entry.word0.fpd();
    if !entry.word0.p() {
        return Err(stop(fpd)(Reason::PasidNotPresent));
    }
    if entry.has_reserved_bits(unit.haw, unit.cap, unit.ecap) {
        return Err(stop(fpd)(Reason::PasidReserved));
    }
    Ok((entry, fpd))
}

/// What a valid PASID table entry comes to (VT-d 9.6).
fn pasid_context(unit: &Capabilities, entry: &PasidEntry, index: u32) -> Result<(Context, Note), Reason> {
    let Capabilities { cap, ecap, .. } = unit;
    let domain = DomainTag(entry.word1.did().into());
    let own = Tags { domain, space: Some(SpaceTag(index)) };
    let shared = Tags { domain, space: None };
    let note = Note { sre: entry.word2.sre(), ..Note::new(Mode::Scalable) };
    let with_first = Note { first_stage: true, ..note };
    let first_levels = entry.first_stage_levels().filter(|levels| *levels == 4 || cap.fs5lp());
    let second_levels = entry.second_stage_levels().filter(|levels| cap.supports_levels(*levels));
    let snoops = entry.word1.pwsnp();
    let second = |levels| {
        let root = PhysAddr(entry.second_stage_table());
        let rules = if entry.word0.ssade() { flag_rules(snoops) } else { StageRules::empty() };
        second_stage(unit, levels, root, rules)
    };
    Ok(match entry.word0.pgtt() {
        Pgtt::FirstStage if ecap.fsts() => {
            let levels = first_levels.ok_or(Reason::PasidInvalid)?;
            let root = PhysAddr(entry.first_stage_table());
            let stage = first_stage(entry, levels, root);
            (Context::OneStage { tags: own, stage, number: StageNumber::First }, with_first)
        }
        Pgtt::SecondStage if ecap.ssts() => {
            let stage = second(second_levels.ok_or(Reason::PasidInvalid)?);
            (Context::OneStage { tags: shared, stage, number: StageNumber::Second }, note)
        }
        Pgtt::Nested if ecap.nest() => {
            let levels = first_levels.ok_or(Reason::PasidInvalid)?;
            let first = first_stage(entry, levels, Ipa(entry.first_stage_table()));
            let second = second(second_levels.ok_or(Reason::PasidInvalid)?);
            (Context::TwoStages { tags: own, first: first.into(), second }, with_first)
        }
        Pgtt::PassThrough if ecap.pt() => (pass_through(unit, shared), Note { passes: true, ..note }),
        _ => return Err(Reason::PasidInvalid),
    })
}

fn pass_through(unit: &Capabilities, tags: Tags) -> Context {
    Context::Bypass {
        tags,
        access: EVERYTHING,
        output_bits: unit.haw,
        attributes: MemoryAttributes::default(),
    }
}

/// Flags are set by atomic accesses that snoop; without page-walk snoop they can't be (VT-d 7.1.3, SFS.9 and SSS.5).
fn flag_rules(snoops: bool) -> StageRules {
    if snoops {
        StageRules::SET_ACCESSED | StageRules::SET_DIRTY
    } else {
        StageRules::ACCESSED_REQUIRED | StageRules::DIRTY_REQUIRED
    }
}

/// A second stage obeys no privilege: privileged writes need W as all do. An entry with neither R nor W is not present.
fn second_stage(unit: &Capabilities, levels: u8, root: PhysAddr, rules: StageRules) -> Stage<PhysAddr> {
    Stage {
        format: PagingFormat::VtdSecondStage { levels },
        root,
        rules: rules | StageRules::WRITE_PROTECT | StageRules::UNMAPPED_WITHOUT_RIGHTS,
        input_bits: unit.cap.guest_address_bits().min(12 + 9 * levels),
    }
}

/// The first stage always keeps accessed and dirty flags (VT-d 3.6.2).
fn first_stage<A>(entry: &PasidEntry, levels: u8, root: A) -> Stage<A> {
    let snoops = entry.word1.pwsnp();
    let mut rules = flag_rules(snoops);
    rules.set(StageRules::WRITE_PROTECT, entry.word2.wpe());
    rules.set(StageRules::PRIVILEGED_ALLOWED, entry.word2.sre());
    rules.set(StageRules::SET_EXTENDED_ACCESSED, entry.word2.eafe() && snoops);
    Stage { format: PagingFormat::X86 { levels }, root, rules, input_bits: 64 }
}
