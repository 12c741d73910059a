//! Context descriptors: where they are, and when they are ILLEGAL (SMMUv3 3.3.2, 5.3, 5.4).

use portcullis_pagetable::format::ArmStage1;
use portcullis_spec::smmuv3::cd::{CD_SIZE, Cd, L1CD_SIZE, L1Cd};
use portcullis_spec::smmuv3::event::EventNumber;
use portcullis_spec::smmuv3::ste::Ste;
use portcullis_spec::{DescriptorLayout, Granule, PagingFormat, Stage, StageRules};

use super::config::Identification;
use super::note::{FaultFlags, Stop};
use super::stream::{
    byte_order_fits, flags_fit, granule, has_granule, output_bits, root, rules, size_fits, top_index_bits,
};
use crate::memory::GuestMemory;

/// The translation regime of a stream's stage 1 (5.2, STRW).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Regime {
    /// EL1&0.
    El1,
    /// EL2, without E2H.
    El2,
    /// EL2&0.
    El2And0,
}

/// One of the two halves of the input address space.
struct Half {
    size: u8,
    granule: Option<Granule>,
    table: u64,
    disabled: bool,
    no_hierarchy: bool,
}

fn lower(cd: &Cd, regime: Regime) -> Half {
    Half {
        size: cd.q0.t0sz(),
        granule: granule(cd.q0.tg0()),
        table: cd.table0(),
        // 5.4, EPD0: ignored for EL2 without E2H.
        disabled: cd.q0.epd0() && regime != Regime::El2,
        no_hierarchy: cd.q1.had0(),
    }
}

fn upper(cd: &Cd, regime: Regime) -> Half {
    Half {
        size: cd.q0.t1sz(),
        // 5.4, TG1.
        granule: match cd.q0.tg1() {
            1 => Some(Granule::Size16K),
            2 => Some(Granule::Size4K),
            3 => Some(Granule::Size64K),
            _ => None,
        },
        table: cd.table1(),
        disabled: cd.q0.epd1() || regime == Regime::El2,
        no_hierarchy: cd.q2.had1(),
    }
}

/// The context descriptor number `index` of a stream. `translate` leads the address of a descriptor through stage 2, where
/// there is one.
pub(super) fn fetch(
    memory: &dyn GuestMemory,
    unit: &Identification,
    ste: &Ste,
    index: u32,
    translate: impl Fn(u64) -> Result<u64, Stop>,
) -> Result<Cd, Stop> {
    let base = ste.context_descriptors();
    let index = u64::from(index);
    let leaf_bits = match ste.q0.layout() {
        _ if ste.q0.s1cdmax() == 0 || unit.idr1.ssidsize() == 0 => None,
        DescriptorLayout::TwoLevel4K => Some(6),
        DescriptorLayout::TwoLevel64K => Some(10),
        DescriptorLayout::Linear => None,
    };
    let at = match leaf_bits {
        None => base.wrapping_add(index * CD_SIZE),
        Some(bits) => {
            let at = translate(base.wrapping_add((index >> bits) * L1CD_SIZE))?;
            let [descriptor] = super::stream::fetch(memory, unit, at, EventNumber::FCdFetch)?;
            let descriptor = L1Cd::from_bits(descriptor);
            // 7.3.9; 3.4.3: an L2Ptr beyond the address size too.
            if !descriptor.v() || unit.is_beyond(descriptor.table()) {
                return Err(Stop::at(EventNumber::CBadSubstreamid));
            }
            descriptor.table().wrapping_add((index & ((1 << bits) - 1)) * CD_SIZE)
        }
    };
    let at = translate(at)?;
    Ok(Cd::decode(super::stream::fetch(memory, unit, at, EventNumber::FCdFetch)?))
}

/// 5.4.2, CdIllegal().
pub(super) fn is_illegal(unit: &Identification, ste: &Ste, cd: &Cd, regime: Regime) -> bool {
    let (idr0, q0) = (unit.idr0, cd.q0);
    let (lower, upper) = (lower(cd, regime), upper(cd, regime));
    let walks = !(lower.disabled && upper.disabled);
    !q0.v()
        || (ste.q1.s1stalld() && q0.s())
        || (idr0.term_model() && !q0.a())
        || (idr0.stall_model() == 1 && q0.s())
        || (idr0.stall_model() == 2 && !q0.s())
        || (walks && !byte_order_fits(unit, q0.endi()))
        // VMSAv8-64 alone.
        || !q0.aa64()
        || !flags_fit(unit, q0.ha(), q0.hd())
        || (regime != Regime::El2 && !idr0.asid16() && q0.asid() > 0xff)
        || (!lower.disabled && !fits(unit, cd, &lower))
        || (!upper.disabled && !fits(unit, cd, &upper))
}

/// Whether granule, size and table of a half that is walked are valid.
fn fits(unit: &Identification, cd: &Cd, half: &Half) -> bool {
    let Some(granule) = half.granule.filter(|granule| has_granule(unit, *granule)) else { return false };
    let least = if granule == Granule::Size64K && unit.idr5.vax() != 0 { 12 } else { 16 };
    let reach = output_bits(unit, cd.q0.ips(), granule);
    size_fits(unit, half.size, granule, least) && (half.table & 0x000f_ffff_ffff_ffff) >> reach == 0
}

/// What becomes of stage-1 faults.
pub(super) const fn fault_flags(cd: &Cd) -> FaultFlags {
    FaultFlags { abort: cd.q0.a(), record: cd.q0.r(), stall: cd.q0.s() }
}

/// Whether a half ignores the top byte of addresses.
pub(super) const fn ignores_top_byte(cd: &Cd, upper: bool) -> bool {
    if upper { cd.q0.tbi1() } else { cd.q0.tbi0() }
}

/// The stage 1 of a legal descriptor for one half; `None` where that half is not walked. `place` makes the kind of address
/// at which its tables lie.
pub(super) fn stage1<A>(
    unit: &Identification,
    cd: &Cd,
    regime: Regime,
    is_upper: bool,
    place: impl Fn(u64) -> A,
) -> Option<Stage<A>> {
    let half = if is_upper { upper(cd, regime) } else { lower(cd, regime) };
    let granule = half.granule.filter(|_| !half.disabled)?;
    let output_bits = output_bits(unit, cd.q0.ips(), granule);
    let input_bits = 64 - half.size;
    let shape = ArmStage1::new(granule, input_bits, output_bits, is_upper)?;
    let format = PagingFormat::ArmStage1 { granule, input_bits, output_bits, upper: is_upper };
    let mut rules = rules(cd.q0.ha(), cd.q0.hd(), cd.q0.affd(), cd.q0.endi());
    rules |= StageRules::FETCH_NEEDS_EXECUTE_ALONE;
    rules.set(StageRules::WRITE_IMPLIES_NO_EXECUTE, cd.q0.wxn());
    rules.set(StageRules::NO_HIERARCHICAL_PERMISSIONS, unit.idr3.had() && half.no_hierarchy);
    if regime == Regime::El2 {
        rules |= StageRules::ONE_PRIVILEGE;
    } else {
        rules |= StageRules::USER_WRITE_IMPLIES_NO_PRIVILEGED_EXECUTE;
        rules.set(StageRules::NO_PRIVILEGED_USER_ACCESS, cd.q0.pan());
    }
    let root = root(half.table, top_index_bits(&shape.into()), output_bits);
    Some(Stage { format, root: place(root), rules, input_bits: 64 })
}
