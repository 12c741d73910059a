//! What a unit says it can do (5.3), and what the driver makes of it.

use alloc::vec::Vec;

use portcullis_pagetable::format::{AnyFormat, Riscv as RiscvFormat};
use portcullis_spec::riscv::registers::{Capabilities, offset};
use portcullis_spec::{DirectoryFormat, PagingFormat};

use super::messages::InterruptOptions;
use crate::common::architecture::{Features, TableFeatures};
use crate::error::{Error, Feature, UnitError};
use crate::platform::Mmio;

/// Reads a unit's capabilities. Changes nothing.
///
/// # Errors
/// [`UnitError::Absent`] where all bits read as ones.
pub fn probe(mmio: &impl Mmio) -> Result<Capabilities, UnitError> {
    let capabilities = mmio.read64(offset::CAPABILITIES);
    if capabilities == u64::MAX {
        return Err(UnitError::Absent);
    }
    Ok(Capabilities::from_bits(capabilities))
}

/// What the unit can do, for tables and pages below `1 << host_address_bits`.
pub(super) fn features(
    capabilities: Capabilities,
    host_address_bits: u8,
    interrupts: Option<InterruptOptions>,
) -> Result<Features, Error> {
    let host_bits = host_address_bits.min(capabilities.pas()).min(56);
    let first = [(4, capabilities.sv48()), (3, capabilities.sv39()), (5, capabilities.sv57())];
    let second = [(4, capabilities.sv48x4()), (3, capabilities.sv39x4()), (5, capabilities.sv57x4())];
    let any_first = first.iter().any(|(_, supported)| *supported);
    let any_second = second.iter().any(|(_, supported)| *supported);
    let format = |levels: u8, x4: bool| RiscvFormat {
        svpbmt: capabilities.svpbmt(),
        host_bits,
        ..if x4 { RiscvFormat::new_x4(levels) } else { RiscvFormat::new(levels) }
    };
    let mut formats = Vec::new();
    for (levels, _) in first.into_iter().filter(|(_, supported)| *supported) {
        formats.push(TableFeatures {
            shape: PagingFormat::RiscvSv { levels },
            format: AnyFormat::Riscv(format(levels, false)),
            // First-stage addresses are sign-extended; the driver uses their lower half only.
            input_bits: 12 + 9 * levels - 1,
            dirty: capabilities.amo_hwad(),
            first_stage: true,
            parent: false,
            // 2.8: entries that are not valid are never cached.
            caches_not_present: false,
        });
    }
    for (levels, _) in second.into_iter().filter(|(_, supported)| *supported) {
        formats.push(TableFeatures {
            shape: PagingFormat::RiscvSvX4 { levels },
            format: AnyFormat::Riscv(format(levels, true)),
            input_bits: 14 + 9 * levels,
            dirty: capabilities.amo_hwad(),
            first_stage: false,
            parent: any_first,
            caches_not_present: false,
        });
    }
    if interrupts.is_some() {
        // 2.3.3: messages are found behind a first stage, in which nothing leads there.
        formats.sort_by_key(|format| format.first_stage);
    }
    if formats.is_empty() {
        return Err(Error::Unsupported(Feature::AnyFormat));
    }
    let nested = first.into_iter().filter(|(_, supported)| *supported && any_second);
    let pasid_bits = match (any_first, capabilities.pd20(), capabilities.pd17(), capabilities.pd8()) {
        (false, ..) => 0,
        (_, true, ..) => 20,
        (_, _, true, _) => 17,
        (_, _, _, true) => 8,
        _ => 0,
    };
    let directories = [(1, capabilities.pd8()), (2, capabilities.pd17()), (3, capabilities.pd20())];
    let directories = directories.into_iter().filter(|(_, supported)| *supported && any_first && any_second);
    Ok(Features {
        formats,
        identity: true,
        nested: nested.map(|(levels, _)| PagingFormat::RiscvSv { levels }).collect(),
        directories: directories
            .map(|(levels, _)| DirectoryFormat::RiscvProcessDirectory { levels })
            .collect(),
        pasid_bits,
        output_bits: host_bits,
        coherent: true,
        silent_blocking: any_first || any_second,
        // GSCID has 16 bits, PSCID 20, and both get the same number. 0 is what entries of other owners may have.
        domain_tags: (1, 0xffff),
        reserved: interrupts.map(InterruptOptions::region).into_iter().collect(),
        interrupts: interrupts.map(|_| InterruptOptions::features()),
    })
}
