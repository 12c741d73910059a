//! The formats of stages, with what the unit's capabilities decide.

use portcullis_pagetable::AnyFormat;
use portcullis_pagetable::format::{ArmShape, ArmStage1, ArmStage2};
use portcullis_spec::{Granule, PagingFormat, StageRules};

use super::config::Identification;

/// The format of a stage with these rules; `None` where there are no such tables.
pub(super) fn format(unit: &Identification, format: PagingFormat, rules: StageRules) -> Option<AnyFormat> {
    // FEAT_LPA follows from the unit's output size, whatever size the tables' own is.
    let wide = unit.output_bits() == 52;
    let shape = |shape: ArmShape| ArmShape { lpa: wide && shape.granule == Granule::Size64K, ..shape };
    let dirty = rules.contains(StageRules::SET_DIRTY);
    Some(match format {
        PagingFormat::ArmStage1 { granule, input_bits, output_bits, upper } => {
            let format = ArmStage1::new(granule, input_bits, output_bits, upper)?;
            let no_hierarchy = rules.contains(StageRules::NO_HIERARCHICAL_PERMISSIONS);
            ArmStage1 { shape: shape(format.shape), dirty, no_hierarchy, ..format }.into()
        }
        PagingFormat::ArmStage2 { granule, input_bits, output_bits, start_level } => {
            let format = ArmStage2::new(granule, input_bits, output_bits, start_level)?;
            ArmStage2 { shape: shape(format.shape), dirty, xnx: unit.idr3.xnx() }.into()
        }
        _ => return None,
    })
}
