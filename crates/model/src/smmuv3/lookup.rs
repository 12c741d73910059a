//! From a stream and substream through the stream table and context descriptors to a [`Context`]. The steps come in the
//! order of priority of their events (SMMUv3 7.3.22).

use portcullis_spec::smmuv3::event::{EventClass, EventNumber};
use portcullis_spec::smmuv3::ste::{Config, Ste};
use portcullis_spec::{
    Access, Context, DomainTag, FaultReason, Ipa, MemoryAttributes, Pasid, PhysAddr, SpaceTag, Stage,
    StageNumber, StageRules, Tags, Unnumbered,
};

use super::config::Identification;
use super::descriptor::{self, Regime};
use super::fault;
use super::note::{FaultFlags, Note, Override, Stop};
use super::stream::{self, StreamTable};
use super::{Smmuv3, tables};
use crate::contexts::Resolved;
use crate::memory::GuestMemory;
use crate::translate::{FormattedStage, TABLE_READ, one_stage};

/// The tag of everything that belongs to EL2: beyond every VMID.
pub(super) const EL2: DomainTag = DomainTag(1 << 16);

const EVERYTHING: Access = Access::all();

/// What decides a look-up beside the tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Steering {
    /// CR0.SMMUEN.
    pub(super) enabled: bool,
    /// GBPA.ABORT.
    pub(super) abort: bool,
    /// CR2.E2H.
    pub(super) e2h: bool,
    /// CR2.RECINVSID.
    pub(super) record_bad_streams: bool,
    /// The stream table.
    pub(super) table: StreamTable,
    /// No flag is updated (ATOS_ADDR.HTTUI).
    pub(super) passive: bool,
}

/// A stage with its format. Where no flag is updated, those that would be set count as set, and what is writable and clean
/// counts as writable (9).
pub(super) fn formatted<A>(
    unit: &Identification,
    stage: Stage<A>,
    steering: Steering,
) -> Option<FormattedStage<A>> {
    let format = tables::format(unit, stage.format, stage.rules)?;
    let rules = if steering.passive {
        stage.rules - StageRules::SET_ACCESSED - StageRules::SET_DIRTY
    } else {
        stage.rules
    };
    Some(FormattedStage { stage: Stage { rules, ..stage }, format })
}

/// The valid entry of a stream; one that aborts is a stop without event.
pub(super) fn stream_entry(
    memory: &dyn GuestMemory,
    unit: &Identification,
    steering: Steering,
    stream: u32,
) -> Result<Ste, Stop> {
    let ste = stream::entry(memory, unit, steering.table, stream)?;
    if !ste.q0.v() {
        return Err(Stop::at(EventNumber::CBadSte));
    }
    if matches!(ste.q0.config(), Config::Abort(_)) {
        return Err(Stop::SILENT);
    }
    if stream::is_illegal(unit, &ste) { Err(Stop::at(EventNumber::CBadSte)) } else { Ok(ste) }
}

/// Which descriptor a transaction uses.
enum Choice {
    /// None: stage 1 is bypassed.
    Bypass,
    /// The one with this index.
    Descriptor(u32),
}

/// Looks up the context of a stream and substream, for one half of the input address space.
pub(super) fn lookup(
    memory: &dyn GuestMemory,
    unit: &Identification,
    steering: Steering,
    stream: u32,
    substream: Option<Pasid>,
    upper: bool,
) -> Resolved<Note> {
    if !steering.enabled {
        return disabled(unit, steering, substream);
    }
    enabled(memory, unit, steering, stream, substream, upper).unwrap_or_else(|(stop, note)| {
        let silent = stop.event.is_none();
        let reason = stop.event.map(EventNumber::reason);
        Resolved {
            context: Context::Blocked(reason),
            pasid: substream,
            // An entry that aborts is a valid entry; what is invalid is never cached.
            cacheable: silent,
            note: Note { stop: Some(stop), ..note },
        }
    })
}

/// 6.3.14: without translation, GBPA decides.
fn disabled(unit: &Identification, steering: Steering, substream: Option<Pasid>) -> Resolved<Note> {
    let (context, stop) = if steering.abort {
        (Context::Blocked(None), Some(Stop::SILENT))
    } else {
        (bypass(unit, Tags::default()), None)
    };
    Resolved {
        context,
        pasid: substream,
        cacheable: true,
        note: Note { stop, quiet: true, ..Note::default() },
    }
}

fn bypass(unit: &Identification, tags: Tags) -> Context {
    Context::Bypass {
        tags,
        access: EVERYTHING,
        output_bits: unit.output_bits(),
        attributes: MemoryAttributes::default(),
    }
}

/// The flags and overrides that an entry alone decides.
fn entry_note(unit: &Identification, ste: &Ste) -> Note {
    let (_, second) = stream::stages(ste.q0.config());
    let overrides = unit.idr1.attr_perms_ovr();
    let chosen = |bits| if overrides { Override::from_bits(bits) } else { Override::Incoming };
    Note {
        second: second.then_some(FaultFlags { abort: true, record: ste.q2.s2r(), stall: ste.q2.s2s() }),
        privilege: chosen(ste.q1.privcfg()),
        instruction: chosen(ste.q1.instcfg()),
        ..Note::default()
    }
}

fn enabled(
    memory: &dyn GuestMemory,
    unit: &Identification,
    steering: Steering,
    stream: u32,
    substream: Option<Pasid>,
    upper: bool,
) -> Result<Resolved<Note>, (Stop, Note)> {
    let early = |stop| (stop, Note::default());
    let ste = stream_entry(memory, unit, steering, stream).map_err(early)?;
    let note = entry_note(unit, &ste);
    let (_, has_second) = stream::stages(ste.q0.config());
    let second = if has_second { stream::stage2(unit, &ste) } else { None };
    let vmid = if unit.idr0.s2p() { ste.q2.s2vmid() } else { 0 };
    let domain = DomainTag(vmid.into());
    let index = match choose(unit, &ste, substream).map_err(|stop| (stop, note))? {
        Choice::Descriptor(index) => index,
        Choice::Bypass => {
            let tags = Tags { domain, space: None };
            let bits = Some(unit.output_bits());
            let (context, bypass_bits) = match second {
                Some(stage) => (Context::OneStage { tags, stage, number: StageNumber::Second }, bits),
                None => (bypass(unit, tags), None),
            };
            let note = Note { bypass_bits, ..note };
            return Ok(Resolved { context, pasid: substream, cacheable: true, note });
        }
    };
    let regime = match (stream::is_el2(unit, &ste), steering.e2h) {
        (false, _) => Regime::El1,
        (true, false) => Regime::El2,
        (true, true) => Regime::El2And0,
    };
    let formatted_second = match second {
        Some(stage) => Some(formatted(unit, stage, steering).ok_or((Stop::at(EventNumber::CBadSte), note))?),
        None => None,
    };
    let translate = |address| match &formatted_second {
        Some(second) => through_stage2(memory, second, address),
        None => Ok(address),
    };
    let cd = descriptor::fetch(memory, unit, &ste, index, translate).map_err(|stop| (stop, note))?;
    if descriptor::is_illegal(unit, &ste, &cd, regime) {
        return Err((Stop::at(EventNumber::CBadCd), note));
    }
    let note = Note {
        first: Some(descriptor::fault_flags(&cd)),
        ignores_top_byte: descriptor::ignores_top_byte(&cd, upper),
        one_privilege: regime == Regime::El2,
        ..note
    };
    let tags = match regime {
        Regime::El1 => Tags { domain, space: Some(SpaceTag(cd.q0.asid().into())) },
        // 6.3.12, E2H: EL2 without E2H has neither ASIDs nor VMIDs.
        Regime::El2 => Tags { domain: EL2, space: None },
        Regime::El2And0 => Tags { domain: EL2, space: Some(SpaceTag(cd.q0.asid().into())) },
    };
    let context =
        match second {
            Some(second) => descriptor::stage1(unit, &cd, regime, upper, Ipa)
                .map(|first| Context::TwoStages { tags, first: first.into(), second }),
            None => descriptor::stage1(unit, &cd, regime, upper, PhysAddr)
                .map(|stage: Stage<PhysAddr>| Context::OneStage { tags, stage, number: StageNumber::First }),
        };
    let pasid = Pasid::new(index);
    Ok(match context {
        Some(context) => Resolved { context, pasid, cacheable: true, note },
        // 5.4.1: a half that is not walked gives translation faults, which are faults of stage 1.
        None => {
            let stop = Stop {
                stage: Some(StageNumber::First),
                class: EventClass::In,
                ..Stop::at(EventNumber::FTranslation)
            };
            let context = Context::Blocked(Some(FaultReason::NotMapped));
            Resolved { context, pasid, cacheable: true, note: Note { stop: Some(stop), ..note } }
        }
    })
}

/// Which descriptor a substream uses (5.2 S1CDMax and S1DSS, 7.3.7, 7.3.9).
fn choose(unit: &Identification, ste: &Ste, substream: Option<Pasid>) -> Result<Choice, Stop> {
    let (first, _) = stream::stages(ste.q0.config());
    let cdmax = if unit.idr1.ssidsize() == 0 { 0 } else { ste.q0.s1cdmax() };
    let unnumbered = ste.q1.unnumbered();
    match substream.map(Pasid::value) {
        Some(_) if !first || cdmax == 0 => Err(Stop::at(EventNumber::CBadSubstreamid)),
        Some(substream) if substream >> cdmax != 0 => Err(Stop::at(EventNumber::CBadSubstreamid)),
        Some(0) if unnumbered == Unnumbered::Zero => Err(Stop::at(EventNumber::FStreamDisabled)),
        Some(substream) => Ok(Choice::Descriptor(substream)),
        None if !first => Ok(Choice::Bypass),
        None if cdmax == 0 => Ok(Choice::Descriptor(0)),
        None => match unnumbered {
            Unnumbered::Bypass => Ok(Choice::Bypass),
            Unnumbered::Zero => Ok(Choice::Descriptor(0)),
            Unnumbered::Refused => Err(Stop::at(EventNumber::FStreamDisabled)),
        },
    }
}

/// Where stage 2 leads the address of a descriptor.
fn through_stage2(
    memory: &dyn GuestMemory,
    second: &FormattedStage<PhysAddr>,
    address: u64,
) -> Result<u64, Stop> {
    match one_stage(memory, second, StageNumber::Second, Ipa(address), TABLE_READ) {
        Ok(page) => Ok(page.address(address).0),
        Err(refusal) => Err(Stop {
            event: fault::event(&refusal),
            stage: Some(StageNumber::Second),
            class: EventClass::Cd,
            ipa: Some(Ipa(address)),
            fetch: refusal.entry,
        }),
    }
}

impl Smmuv3 {
    /// What decides look-ups now.
    pub(super) fn steering(&self) -> Steering {
        *self.steering.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
