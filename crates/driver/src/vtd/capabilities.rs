//! What a unit says it can do (VT-d 11.4.1 to 11.4.3), and what the driver makes of it.

use alloc::vec::Vec;

use portcullis_pagetable::format::{AnyFormat, VtdSecondStage, X86};
use portcullis_spec::vtd::registers::{Cap, Ecap, Ver, offset};
use portcullis_spec::vtd::{INTERRUPT_ADDRESS_FIRST, INTERRUPT_ADDRESS_LAST};
use portcullis_spec::{Iova, PagingFormat};

use crate::common::architecture::{Features, TableFeatures};
use crate::common::region::{Region, RegionKind};
use crate::error::{Error, Feature, UnitError};
use crate::platform::Mmio;

/// Translation table mode: how root and context entries look (VT-d 11.4.5, TTM).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Context entries lead to second-stage tables.
    Legacy,
    /// Context entries lead to PASID tables.
    Scalable,
}

/// The capability registers of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// VER_REG.
    pub ver: Ver,
    /// CAP_REG.
    pub cap: Cap,
    /// ECAP_REG.
    pub ecap: Ecap,
}

/// Reads a unit's capabilities. Changes nothing.
///
/// # Errors
/// [`UnitError::Absent`] where all bits read as ones.
pub fn probe(mmio: &impl Mmio) -> Result<Capabilities, UnitError> {
    let ver = mmio.read32(offset::VER);
    let cap = mmio.read64(offset::CAP);
    let ecap = mmio.read64(offset::ECAP);
    if ver == u32::MAX || cap == u64::MAX || ecap == u64::MAX {
        return Err(UnitError::Absent);
    }
    Ok(Capabilities { ver: Ver::from_bits(ver), cap: Cap::from_bits(cap), ecap: Ecap::from_bits(ecap) })
}

impl Capabilities {
    /// The best mode that the unit has: scalable where it translates in it, legacy otherwise.
    #[must_use]
    pub const fn best_mode(&self) -> Mode {
        if self.supports(Mode::Scalable) { Mode::Scalable } else { Mode::Legacy }
    }

    /// Whether the unit translates in this mode. Scalable mode needs the queue too (VT-d 6.5: registers can't invalidate
    /// the PASID cache).
    #[must_use]
    pub const fn supports(&self, mode: Mode) -> bool {
        match mode {
            Mode::Legacy => self.cap.sagaw() & 0b1110 != 0,
            Mode::Scalable => {
                let stages = self.ecap.fsts() || (self.ecap.ssts() && self.cap.sagaw() & 0b1110 != 0);
                self.ecap.smts() && self.ecap.qi() && stages
            }
        }
    }

    /// Whether the unit snoops when it reads page tables: ECAP.C in legacy mode, ECAP.SMPWCS (switched on by PWSNP) in
    /// scalable mode.
    pub(super) const fn tables_coherent(&self, mode: Mode) -> bool {
        match mode {
            Mode::Legacy => self.ecap.c(),
            Mode::Scalable => self.ecap.smpwcs(),
        }
    }

    /// What the unit can do in a mode, for tables and pages below `1 << host_address_bits`.
    pub(super) fn features(&self, mode: Mode, host_address_bits: u8) -> Result<Features, Error> {
        if !self.supports(mode) {
            return Err(Error::Unsupported(Feature::AnyFormat));
        }
        let Self { cap, ecap, .. } = *self;
        let scalable = mode == Mode::Scalable;
        let mut formats = Vec::new();
        if !scalable || ecap.ssts() {
            for levels in [4, 5, 3] {
                if cap.supports_levels(levels) {
                    formats.push(self.second_stage(levels, scalable, host_address_bits));
                }
            }
        }
        let mut nested = Vec::new();
        if scalable && ecap.fsts() {
            for levels in if cap.fs5lp() { &[4, 5][..] } else { &[4] } {
                formats.push(self.first_stage(*levels, host_address_bits));
                if ecap.nest() && ecap.ssts() {
                    nested.push(PagingFormat::X86 { levels: *levels });
                }
            }
        }
        // VT-d 6.2.2: with caching mode, domain ID 0 tags what is cached of entries that are not present.
        let first_tag = u32::from(cap.cm());
        Ok(Features {
            formats,
            identity: ecap.pt(),
            nested,
            directories: Vec::new(),
            pasid_bits: if scalable { ecap.pasid_bits().min(20) } else { 0 },
            output_bits: host_address_bits,
            coherent: self.tables_coherent(mode),
            silent_blocking: true,
            domain_tags: (first_tag, cap.domains() - 1),
            reserved: alloc::vec![Region {
                first: Iova(INTERRUPT_ADDRESS_FIRST),
                last: Iova(INTERRUPT_ADDRESS_LAST),
                kind: RegionKind::Interrupts,
            }],
            interrupts: None,
        })
    }

    fn second_stage(&self, levels: u8, scalable: bool, host_bits: u8) -> TableFeatures {
        let Self { cap, ecap, .. } = *self;
        let format = VtdSecondStage {
            pages_2m: cap.sslps() & 1 != 0,
            pages_1g: cap.sslps() & 2 != 0,
            snoop: ecap.sc(),
            // 7.1.3, SSS.5: marks are set only by walks that snoop.
            accessed_dirty: scalable && ecap.ssads() && ecap.smpwcs(),
            host_bits,
            ..VtdSecondStage::new(levels)
        };
        TableFeatures {
            shape: PagingFormat::VtdSecondStage { levels },
            format: AnyFormat::VtdSecondStage(format),
            input_bits: (12 + 9 * levels).min(cap.guest_address_bits()),
            dirty: scalable && ecap.ssads() && ecap.smpwcs(),
            first_stage: false,
            parent: scalable && ecap.nest() && ecap.fsts(),
            caches_not_present: cap.cm(),
        }
    }

    /// First-stage addresses are canonical (VT-d 3.6); the driver uses their lower half only. VT-d 6.1: not even caching mode
    /// caches first-stage entries that are not present.
    fn first_stage(&self, levels: u8, host_bits: u8) -> TableFeatures {
        let format = X86 { pages_1g: self.cap.fs1gp(), host_bits, ..X86::new(levels) };
        TableFeatures {
            shape: PagingFormat::X86 { levels },
            format: AnyFormat::X86(format),
            input_bits: 12 + 9 * levels - 1,
            dirty: self.ecap.smpwcs(),
            first_stage: true,
            parent: false,
            caches_not_present: false,
        }
    }
}
