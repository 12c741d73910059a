//! What a unit says it can do (6.3.1 to 6.3.6), and what the driver makes of it.

use alloc::vec::Vec;

use portcullis_pagetable::format::{AnyFormat, ArmStage1, ArmStage2};
use portcullis_spec::smmuv3::registers::{Idr0, Idr1, Idr3, Idr5, address_bits, address_size_field, offset};
use portcullis_spec::{DescriptorLayout, DirectoryFormat, Granule, PagingFormat};

use crate::common::architecture::{Features, TableFeatures};
use crate::error::{Error, Feature, UnitError};
use crate::platform::Mmio;

/// The identification registers of a unit. IDR2 concerns pages that this driver does not use, and IDR4 is implementation defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// SMMU_IDR0.
    pub idr0: Idr0,
    /// SMMU_IDR1.
    pub idr1: Idr1,
    /// SMMU_IDR3.
    pub idr3: Idr3,
    /// SMMU_IDR5.
    pub idr5: Idr5,
}

/// Reads a unit's capabilities. Changes nothing.
///
/// # Errors
/// [`UnitError::Absent`] where all bits read as ones.
pub fn probe(mmio: &impl Mmio) -> Result<Capabilities, UnitError> {
    let [idr0, idr1, idr3, idr5] =
        [offset::IDR0, offset::IDR1, offset::IDR3, offset::IDR5].map(|at| mmio.read32(at));
    if idr0 == u32::MAX || idr1 == u32::MAX {
        return Err(UnitError::Absent);
    }
    Ok(Capabilities {
        idr0: Idr0::from_bits(idr0),
        idr1: Idr1::from_bits(idr1),
        idr3: Idr3::from_bits(idr3),
        idr5: Idr5::from_bits(idr5),
    })
}

/// What the unit does with faults (6.3.1, STALL_MODEL).
const STALL_FORCED: u8 = 2;
const STALL_NEVER: u8 = 1;
/// 6.3.1, TTF: VMSAv8-64 tables.
const TTF_AARCH64: u8 = 0b10;
/// 6.3.1, HTTU: Dirty too.
const HTTU_DIRTY: u8 = 2;
/// 6.3.1, TTENDIAN: big-endian only.
const BIG_ENDIAN: u8 = 3;
/// log2 of the commands and events of one page, the least that this driver gives a queue.
const LEAST_COMMANDS: u8 = 8;
const LEAST_EVENTS: u8 = 7;
/// PASIDs that fit a context descriptor table without a second level that is still of a sensible size: 64 KiB.
const LINEAR_PASID_BITS: u8 = 10;

impl Capabilities {
    /// The granule of all tables that the driver writes for this unit: that of the processor's usual pages where the unit has it.
    #[must_use]
    pub const fn granule(&self) -> Option<Granule> {
        match (self.idr5.gran4k(), self.idr5.gran16k(), self.idr5.gran64k()) {
            (true, ..) => Some(Granule::Size4K),
            (_, true, _) => Some(Granule::Size16K),
            (_, _, true) => Some(Granule::Size64K),
            _ => None,
        }
    }

    /// Whether the unit reads tables and queues coherently with the processors' caches.
    pub(super) const fn coherent(&self) -> bool {
        self.idr0.cohacc()
    }

    /// Whether the unit sets Dirty.
    pub(super) const fn sets_dirty(&self) -> bool {
        self.idr0.httu() >= HTTU_DIRTY
    }

    /// Whether faults can stall: where the driver's own contexts don't, a guest's may.
    pub(super) const fn may_stall(&self) -> bool {
        self.idr0.stall_model() != STALL_NEVER
    }

    /// Whether all faults stall until software resumes them.
    pub(super) const fn always_stalls(&self) -> bool {
        self.idr0.stall_model() == STALL_FORCED
    }

    /// Output address bits of tables, of those that the size fields can say: at most `host_bits` and 48, beyond which only 64 KiB
    /// granules reach.
    fn output_bits(&self, granule: Granule, host_bits: u8) -> Option<u8> {
        let most = if granule == Granule::Size64K { 52 } else { 48 };
        let bits = address_bits(self.idr5.oas()).min(host_bits).min(most);
        (32..=bits).rev().find(|bits| address_size_field(*bits).is_some())
    }

    /// What the unit can do, for tables and pages below `1 << host_address_bits`.
    pub(super) fn features(&self, host_address_bits: u8) -> Result<Features, Error> {
        let Self { idr0, idr1, idr3, .. } = *self;
        let unsupported = Error::Unsupported(Feature::AnyFormat);
        let granule = self.granule().ok_or(unsupported)?;
        let output_bits = self.output_bits(granule, host_address_bits).ok_or(unsupported)?;
        let usable = idr0.ttf() & TTF_AARCH64 != 0
            && idr0.ttendian() != BIG_ENDIAN
            && !idr1.tables_preset()
            && !idr1.queues_preset()
            && idr1.cmdqs() >= LEAST_COMMANDS
            && idr1.eventqs() >= LEAST_EVENTS;
        if !usable {
            return Err(unsupported);
        }
        let dirty = self.sets_dirty();
        // 3.21.1.1: with level 2 a page may be replaced by smaller ones without a break.
        let breaks = idr3.bbml() < 2;
        let mut formats = Vec::new();
        let first = ArmStage1::new(granule, 48, output_bits, false).filter(|_| idr0.s1p());
        if let Some(mut format) = first {
            format.shape.contiguous = false;
            format.shape.break_before_make = breaks;
            formats.push(TableFeatures {
                shape: PagingFormat::ArmStage1 { granule, input_bits: 48, output_bits, upper: false },
                format: AnyFormat::ArmStage1(format),
                input_bits: 48,
                dirty,
                first_stage: true,
                parent: false,
                caches_not_present: false,
            });
        }
        let second = second_stage(granule, output_bits).filter(|_| idr0.s2p());
        if let Some((mut format, start_level)) = second {
            format.shape.contiguous = false;
            format.shape.break_before_make = breaks;
            format.xnx = idr3.xnx();
            let input_bits = format.shape.input_bits;
            formats.push(TableFeatures {
                shape: PagingFormat::ArmStage2 { granule, input_bits, output_bits, start_level },
                format: AnyFormat::ArmStage2(format),
                input_bits,
                dirty,
                first_stage: false,
                parent: idr0.s1p(),
                caches_not_present: false,
            });
        }
        if formats.is_empty() {
            return Err(unsupported);
        }
        let pasid_bits = match (idr0.s1p(), idr0.cd2l()) {
            (false, _) => 0,
            (_, true) => idr1.ssidsize().min(20),
            _ => idr1.ssidsize().min(LINEAR_PASID_BITS),
        };
        // ASIDs and VMIDs get the same numbers: what both have. 0 is the VMID of streams without stage 2.
        let wide = (!idr0.s1p() || idr0.asid16()) && (!idr0.s2p() || idr0.vmid16());
        Ok(Features {
            formats,
            identity: true,
            nested: Vec::new(),
            directories: self.directories(),
            pasid_bits,
            output_bits,
            coherent: self.coherent(),
            silent_blocking: true,
            domain_tags: (1, if wide { 0xffff } else { 0xff }),
            reserved: Vec::new(),
            interrupts: None,
        })
    }
}

impl Capabilities {
    /// 5.2, S1CDMax and S1Fmt: what a guest may call its context descriptors, where a second stage can stand beneath.
    fn directories(&self) -> Vec<DirectoryFormat> {
        let Self { idr0, idr1, .. } = *self;
        let linear = [DescriptorLayout::Linear];
        let all = [DescriptorLayout::Linear, DescriptorLayout::TwoLevel4K, DescriptorLayout::TwoLevel64K];
        let layouts = match (idr0.s1p() && idr0.s2p(), idr0.cd2l()) {
            (false, _) => &[][..],
            (true, false) => &linear,
            (true, true) => &all,
        };
        let pasid_bits = idr1.ssidsize().min(20);
        layouts
            .iter()
            .map(|layout| DirectoryFormat::ArmContextDescriptors { pasid_bits, layout: *layout })
            .collect()
    }
}

/// 3.4.1: stage 2 reaches as far as it leads. Tables start as low as up to 16 of them side by side allow. With the start level,
/// in Arm's number.
fn second_stage(granule: Granule, output_bits: u8) -> Option<(ArmStage2, i8)> {
    let input_bits = output_bits.min(48);
    (0..=2).rev().find_map(|level| Some((ArmStage2::new(granule, input_bits, output_bits, level)?, level)))
}
