//! Stream table entries: where they are, and when they are ILLEGAL (SMMUv3 3.3.1, 5.1, 5.2).

use portcullis_pagetable::AnyFormat;
use portcullis_pagetable::format::ArmStage2;
use portcullis_spec::smmuv3::event::EventNumber;
use portcullis_spec::smmuv3::registers::{StrtabBase, StrtabBaseCfg, address_bits};
use portcullis_spec::smmuv3::ste::{Config, L1STD_SIZE, L1Std, STE_SIZE, Ste};
use portcullis_spec::{DescriptorLayout, Granule, PagingFormat, PhysAddr, Stage, StageRules};

use super::config::Identification;
use super::note::Stop;
use crate::memory::{GuestMemory, load_words};

/// The stream table's registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamTable {
    /// STRTAB_BASE.
    pub(super) base: StrtabBase,
    /// STRTAB_BASE_CFG.
    pub(super) config: StrtabBaseCfg,
}

/// Reads words at a physical address, or says why they can't be.
pub(super) fn fetch<const N: usize>(
    memory: &dyn GuestMemory,
    unit: &Identification,
    at: u64,
    otherwise: EventNumber,
) -> Result<[u64; N], Stop> {
    let stop = Stop::fetch(otherwise, PhysAddr(at));
    if unit.is_beyond(at) {
        return Err(stop);
    }
    load_words(memory, PhysAddr(at)).map_err(|_| stop)
}

/// `address` with the bits below `1 << shift` cleared.
const fn aligned(address: u64, shift: u32) -> u64 {
    if shift >= 64 { 0 } else { address >> shift << shift }
}

/// The stream table entry of a stream (3.3.1).
pub(super) fn entry(
    memory: &dyn GuestMemory,
    unit: &Identification,
    table: StreamTable,
    stream: u32,
) -> Result<Ste, Stop> {
    let out_of_range = Stop::at(EventNumber::CBadStreamid);
    let log2size = u32::from(table.config.log2size());
    let stream = u64::from(stream);
    // 6.3.25: the effective LOG2SIZE is at most SIDSIZE. 6.3.24: tables are aligned by its literal value.
    if stream >> log2size.min(unit.idr1.sidsize().into()) != 0 {
        return Err(out_of_range);
    }
    let base = table.base.addr() << 6;
    let at = if table.config.fmt() == 1 && unit.idr0.st_level() == 1 {
        // 6.3.25: other values of SPLIT are reserved and behave as 6.
        let split = match table.config.split() {
            split @ (8 | 10) => u32::from(split),
            _ => 6,
        };
        // 6.3.24: aligned to the larger of 64 bytes and the level-1 table.
        let base = aligned(base, (log2size.saturating_sub(split) + 3).max(6));
        let first = base.wrapping_add((stream >> split) * L1STD_SIZE);
        let [descriptor] = fetch(memory, unit, first, EventNumber::FSteFetch)?;
        let descriptor = L1Std::from_bits(descriptor);
        let index = stream & ((1 << split) - 1);
        if u32::from(descriptor.span()) > split + 1 || index >= u64::from(descriptor.entries()) {
            return Err(out_of_range);
        }
        // 5.1: aligned to the level-2 table.
        aligned(descriptor.table(), u32::from(descriptor.span()) + 5).wrapping_add(index * STE_SIZE)
    } else {
        // 6.3.24: aligned to the table.
        aligned(base, log2size + 6).wrapping_add(stream * STE_SIZE)
    };
    Ok(Ste::decode(fetch(memory, unit, at, EventNumber::FSteFetch)?))
}

/// Which stages an entry's Config enables.
pub(super) const fn stages(config: Config) -> (bool, bool) {
    match config {
        Config::Abort(_) | Config::Bypass => (false, false),
        Config::Stage1 => (true, false),
        Config::Stage2 => (false, true),
        Config::Nested => (true, true),
    }
}

/// Whether STRW is not used (5.2.2).
const fn strw_unused(unit: &Identification, config: Config) -> bool {
    let (first, second) = stages(config);
    !unit.idr0.s1p() || !unit.idr0.hyp() || second || !first
}

/// Whether the stream's stage 1 is EL2's (5.2, STRW).
pub(super) const fn is_el2(unit: &Identification, ste: &Ste) -> bool {
    !strw_unused(unit, ste.q0.config()) && ste.q1.strw() == 0b10
}

/// 5.2.2, SteIllegal(), for a valid entry that does not abort.
pub(super) fn is_illegal(unit: &Identification, ste: &Ste) -> bool {
    let config = ste.q0.config();
    let (first, second) = stages(config);
    let (idr0, idr1) = (unit.idr0, unit.idr1);
    let unsupported = (first && !idr0.s1p()) || (second && !idr0.s2p());
    let strw = !strw_unused(unit, config) && ste.q1.strw() & 1 != 0;
    let stage1 = first
        && ((ste.q1.s1stalld() && idr0.stall_model() != 0)
            || (idr1.ssidsize() != 0 && ste.q0.s1cdmax() > idr1.ssidsize())
            || (idr1.ssidsize() != 0
                && ste.q0.s1cdmax() != 0
                && !idr0.cd2l()
                && ste.q0.layout() != DescriptorLayout::Linear)
            || unit.is_beyond(ste.context_descriptors()));
    let el1 = strw_unused(unit, config) || ste.q1.strw() == 0;
    let vmid = idr0.s2p() && (first || second) && el1 && !idr0.vmid16() && ste.q2.s2vmid() > 0xff;
    unsupported || strw || stage1 || (second && stage2(unit, ste).is_none()) || vmid
}

/// The granule of a STE.S2TG or CD.TG0 field.
pub(super) const fn granule(field: u8) -> Option<Granule> {
    match field & 3 {
        0 => Some(Granule::Size4K),
        1 => Some(Granule::Size64K),
        2 => Some(Granule::Size16K),
        _ => None,
    }
}

/// Whether the unit has a granule (IDR5).
pub(super) const fn has_granule(unit: &Identification, granule: Granule) -> bool {
    match granule {
        Granule::Size4K => unit.idr5.gran4k(),
        Granule::Size16K => unit.idr5.gran16k(),
        Granule::Size64K => unit.idr5.gran64k(),
    }
}

/// Whether TxSZ is in range, `least` being what the stage's sizes allow (CDTxSZInvalid(), STES2T0SZInvalid()).
pub(super) const fn size_fits(unit: &Identification, field: u8, granule: Granule, least: u8) -> bool {
    let most = match (unit.idr3.stt(), granule) {
        (true, Granule::Size64K) => 47,
        (true, _) => 48,
        (false, _) => 39,
    };
    least <= field && field <= most
}

/// Whether a stage's flags are ones that the unit updates (IDR0.HTTU).
pub(super) const fn flags_fit(unit: &Identification, accessed: bool, dirty: bool) -> bool {
    match unit.idr0.httu() {
        0 => !accessed && !dirty,
        1 => !dirty,
        _ => true,
    }
}

/// Whether a byte order is one that the unit has (IDR0.TTENDIAN).
pub(super) const fn byte_order_fits(unit: &Identification, big: bool) -> bool {
    match unit.idr0.ttendian() {
        2 => !big,
        3 => big,
        _ => true,
    }
}

/// Output bits of a stage: at most the unit's, and 48 but for 64 KiB granules, whose descriptors alone hold more.
pub(super) fn output_bits(unit: &Identification, field: u8, granule: Granule) -> u8 {
    let bits = address_bits(field).min(unit.output_bits());
    if granule == Granule::Size64K { bits } else { bits.min(48) }
}

/// The root of a stage's tables, aligned to their size (5.2 S2TTB, 5.4 TTB0): at least 16 bytes, and 64 with 52-bit outputs.
pub(super) fn root(table: u64, index_bits: u8, output_bits: u8) -> u64 {
    let least = if output_bits == 52 { 6 } else { 4 };
    aligned(table & 0x000f_ffff_ffff_fff0, u32::from((index_bits + 3).max(least)))
}

/// STE.S2SL0 as Arm numbers levels, or `None` where it is reserved.
fn start_level(unit: &Identification, ste: &Ste, granule: Granule) -> Option<i8> {
    let oas = unit.output_bits();
    Some(match (granule, ste.q2.s2sl0()) {
        (Granule::Size4K, 0) => 2,
        (Granule::Size4K, 1) => 1,
        (Granule::Size4K, 2) if oas >= 44 => 0,
        (Granule::Size4K, 3) if unit.idr3.stt() => 3,
        (Granule::Size16K | Granule::Size64K, 0) => 3,
        (Granule::Size16K | Granule::Size64K, 1) => 2,
        (Granule::Size16K, 2) if oas >= 42 => 1,
        (Granule::Size64K, 2) if oas >= 44 => 1,
        _ => return None,
    })
}

/// The second stage of an entry that enables it, or `None` where its fields make the entry ILLEGAL.
pub(super) fn stage2(unit: &Identification, ste: &Ste) -> Option<Stage<PhysAddr>> {
    let (idr0, q2) = (unit.idr0, ste.q2);
    let stalls = q2.s2s();
    if (idr0.stall_model() == 1 && stalls) || (idr0.stall_model() == 2 && !stalls) {
        return None;
    }
    // VMSAv8-64 alone.
    if !q2.s2aa64() || !flags_fit(unit, q2.s2ha(), q2.s2hd()) || !byte_order_fits(unit, q2.s2endi()) {
        return None;
    }
    let granule = granule(q2.s2tg()).filter(|granule| has_granule(unit, *granule))?;
    let oas = unit.output_bits();
    let output_bits = output_bits(unit, q2.s2ps(), granule);
    let table = ste.stage2_table() & 0x000f_ffff_ffff_ffff;
    if table >> output_bits != 0 {
        return None;
    }
    let least = if granule == Granule::Size64K { 12 } else { 16 }.max(64 - oas);
    if !size_fits(unit, q2.s2t0sz(), granule, least) {
        return None;
    }
    let input_bits = 64 - q2.s2t0sz();
    let start_level = start_level(unit, ste, granule)?;
    let shape = ArmStage2::new(granule, input_bits, output_bits, start_level)?;
    let format = PagingFormat::ArmStage2 { granule, input_bits, output_bits, start_level };
    let mut rules = rules(q2.s2ha(), q2.s2hd(), q2.s2affd(), q2.s2endi());
    rules.set(StageRules::PROTECTED_TABLE_WALK, q2.s2ptw());
    let root = PhysAddr(root(table, top_index_bits(&shape.into()), output_bits));
    Some(Stage { format, root, rules, input_bits })
}

/// log2 of the entries of a format's root.
pub(super) fn top_index_bits(format: &AnyFormat) -> u8 {
    use portcullis_pagetable::Format;
    format.index_bits(format.top())
}

/// The rules that both stages have: privileged writes obey read-only entries, fetches need the right to execute, and a
/// missing Access flag is found before missing rights.
pub(super) fn rules(accessed: bool, dirty: bool, ignore_accessed: bool, big_endian: bool) -> StageRules {
    let mut rules =
        StageRules::WRITE_PROTECT | StageRules::EXECUTE_CHECKED | StageRules::ACCESSED_BEFORE_RIGHTS;
    rules.set(StageRules::SET_ACCESSED, accessed);
    // 5.4, HD: ignored without HA.
    rules.set(StageRules::SET_DIRTY, accessed && dirty);
    rules.set(StageRules::ACCESSED_REQUIRED, !accessed && !ignore_accessed);
    rules.set(StageRules::BIG_ENDIAN, big_endian);
    rules
}
