//! A format chosen at run time, for models and decoders. Software that knows its format uses the format's own type,
//! for which the engine is compiled by itself.

use super::{
    AmdV1, ArmStage1, ArmStage2, Attributes, Entry, Extension, Format, Inexpressible, Riscv, VtdSecondStage,
    X86,
};
use portcullis_spec::PagingFormat;

/// No table has this shape: the number of levels, the input size or the start level is not one of the format's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("no table has this shape: {0:?}")]
pub struct BadShape(pub PagingFormat);

macro_rules! any {
    ($($(#[$doc:meta])* $variant:ident($format:ty),)*) => {
        /// Any of the formats.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum AnyFormat {
            $($(#[$doc])* $variant($format),)*
        }

        $(impl From<$format> for AnyFormat {
            fn from(format: $format) -> Self {
                Self::$variant(format)
            }
        })*

        macro_rules! each {
            ($any:expr, $it:ident => $body:expr) => {
                match $any {
                    $(AnyFormat::$variant($it) => $body,)*
                }
            };
        }
    };
}

any! {
    /// VT-d second stage.
    VtdSecondStage(VtdSecondStage),
    /// x86-64.
    X86(X86),
    /// AMD-Vi host tables.
    AmdV1(AmdV1),
    /// Arm stage 1.
    ArmStage1(ArmStage1),
    /// Arm stage 2.
    ArmStage2(ArmStage2),
    /// RISC-V.
    Riscv(Riscv),
}

impl TryFrom<PagingFormat> for AnyFormat {
    type Error = BadShape;

    /// The format of this shape with the values that its `new` gives: every page size, and what else capabilities
    /// decide as each type says. A model that has less builds the format's own type.
    fn try_from(shape: PagingFormat) -> Result<Self, BadShape> {
        let format = match shape {
            PagingFormat::VtdSecondStage { levels: levels @ 3..=5 } => {
                Some(VtdSecondStage::new(levels).into())
            }
            PagingFormat::X86 { levels: levels @ 4..=5 } => Some(X86::new(levels).into()),
            PagingFormat::AmdV1 { mode: mode @ 1..=6 } => Some(AmdV1::new(mode).into()),
            PagingFormat::ArmStage1 { granule, input_bits, output_bits, upper } => {
                ArmStage1::new(granule, input_bits, output_bits, upper).map(Self::from)
            }
            PagingFormat::ArmStage2 { granule, input_bits, output_bits, start_level } => {
                ArmStage2::new(granule, input_bits, output_bits, start_level).map(Self::from)
            }
            PagingFormat::RiscvSv { levels: levels @ 3..=5 } => Some(Riscv::new(levels).into()),
            PagingFormat::RiscvSvX4 { levels: levels @ 3..=5 } => Some(Riscv::new_x4(levels).into()),
            _ => None,
        };
        format.ok_or(BadShape(shape))
    }
}

impl Format for AnyFormat {
    fn levels(&self) -> u8 {
        each!(self, it => it.levels())
    }

    fn granule_shift(&self) -> u8 {
        each!(self, it => it.granule_shift())
    }

    fn input_bits(&self) -> u8 {
        each!(self, it => it.input_bits())
    }

    fn extension(&self) -> Extension {
        each!(self, it => it.extension())
    }

    fn output_bits(&self) -> u8 {
        each!(self, it => it.output_bits())
    }

    fn page_sizes(&self) -> u64 {
        each!(self, it => it.page_sizes())
    }

    fn decode(&self, level: u8, raw: u64) -> Entry {
        each!(self, it => it.decode(level, raw))
    }

    fn encode_table(&self, level: u8, address: u64) -> u64 {
        each!(self, it => it.encode_table(level, address))
    }

    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64 {
        each!(self, it => it.encode_leaf(level, shift, address, attributes))
    }

    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible> {
        each!(self, it => it.expressible(attributes))
    }

    fn with_accessed(&self, level: u8, raw: u64) -> u64 {
        each!(self, it => it.with_accessed(level, raw))
    }

    fn with_dirty(&self, level: u8, raw: u64) -> u64 {
        each!(self, it => it.with_dirty(level, raw))
    }

    fn without_dirty(&self, level: u8, raw: u64) -> u64 {
        each!(self, it => it.without_dirty(level, raw))
    }

    fn break_before_make(&self) -> bool {
        each!(self, it => it.break_before_make())
    }

    fn is_device(&self, attributes: &Attributes) -> bool {
        each!(self, it => it.is_device(attributes))
    }

    fn index_bits(&self, level: u8) -> u8 {
        each!(self, it => it.index_bits(level))
    }
}
