//! `portcullis decode register`.

use std::fmt::Debug;

use clap::ValueEnum;
use portcullis_spec::{amdvi, riscv, smmuv3, vtd};

use super::{fields::Decoded, hexadecimal};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Say what a register of a unit holds.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Which kind of unit.
    unit: Unit,
    /// Where the register is, in bytes from the unit's registers, hexadecimal.
    #[arg(value_parser = hexadecimal)]
    offset: u64,
    /// Its value, hexadecimal.
    #[arg(value_parser = hexadecimal)]
    value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Unit {
    /// Intel VT-d.
    Vtd,
    /// AMD-Vi: the Extended Feature register (0x30).
    Amdvi,
    /// Arm SMMUv3.
    Smmuv3,
    /// RISC-V IOMMU.
    Riscv,
}

/// A register's name, and its fields.
type Register = (&'static str, Box<dyn Debug>);

pub(super) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let Args { unit, offset, value } = *arguments;
    let (architecture, found) = match unit {
        Unit::Vtd => ("vtd", vtd_register(offset, value)),
        Unit::Amdvi => ("amdvi", amd_register(offset, value)),
        Unit::Smmuv3 => ("smmuv3", smmuv3_register(offset, value)),
        Unit::Riscv => ("riscv", riscv_register(offset, value)),
    };
    let Some((name, fields)) = found else {
        return Err(Failure::usage(format!("no register with fields is known at {offset:#x} of this unit")));
    };
    let decoded = Decoded::new(format!("{name} at {offset:#x}: {value:#x}")).word(architecture, &*fields);
    output.show(&decoded, |decoded, out| decoded.write(out))?;
    Ok(Exit::Done)
}

/// `offset => Type, width` for each register.
macro_rules! registers {
    ($offset:expr, $value:expr; $($at:expr => $name:literal $type:ty [$word:ty]),* $(,)?) => {
        $(if $offset == $at {
            return Some(($name, Box::new(<$type>::from_bits($value as $word))));
        })*
    };
}

fn vtd_register(offset: u64, value: u64) -> Option<Register> {
    use vtd::registers::{self as r, offset as at};
    registers!(offset, value;
        at::VER => "VER_REG" r::Ver[u32],
        at::CAP => "CAP_REG" r::Cap[u64],
        at::ECAP => "ECAP_REG" r::Ecap[u64],
        at::GCMD => "GCMD_REG" r::Gcmd[u32],
        at::GSTS => "GSTS_REG" r::Gsts[u32],
        at::RTADDR => "RTADDR_REG" r::Rtaddr[u64],
        at::CCMD => "CCMD_REG" r::Ccmd[u64],
        at::FSTS => "FSTS_REG" r::Fsts[u32],
        at::FECTL => "FECTL_REG" r::EventControl[u32],
        at::FEDATA => "FEDATA_REG" r::EventData[u32],
        at::FEADDR => "FEADDR_REG" r::EventAddress[u32],
        at::AFLOG => "AFLOG_REG" r::Aflog[u64],
        at::PMEN => "PMEN_REG" r::Pmen[u32],
        at::IQH => "IQH_REG" r::Iqh[u64],
        at::IQT => "IQT_REG" r::Iqt[u64],
        at::IQA => "IQA_REG" r::Iqa[u64],
        at::ICS => "ICS_REG" r::Ics[u32],
        at::IECTL => "IECTL_REG" r::EventControl[u32],
        at::IEDATA => "IEDATA_REG" r::EventData[u32],
        at::IEADDR => "IEADDR_REG" r::EventAddress[u32],
        at::IQERCD => "IQERCD_REG" r::Iqercd[u64],
        at::IRTA => "IRTA_REG" r::Irta[u64],
        at::PQH => "PQH_REG" r::Pqh[u64],
        at::PQT => "PQT_REG" r::Pqt[u64],
        at::PQA => "PQA_REG" r::Pqa[u64],
        at::PRS => "PRS_REG" r::Prs[u32],
        at::PECTL => "PECTL_REG" r::EventControl[u32],
        at::PEDATA => "PEDATA_REG" r::EventData[u32],
        at::PEADDR => "PEADDR_REG" r::EventAddress[u32],
    );
    None
}

fn amd_register(offset: u64, value: u64) -> Option<Register> {
    registers!(offset, value;
        0x30 => "Extended Feature" amdvi::feature::ExtendedFeature[u64],
    );
    None
}

fn smmuv3_register(offset: u64, value: u64) -> Option<Register> {
    use smmuv3::registers::{self as r, offset as at};
    registers!(offset, value;
        at::IDR0 => "SMMU_IDR0" r::Idr0[u32],
        at::IDR1 => "SMMU_IDR1" r::Idr1[u32],
        at::IDR3 => "SMMU_IDR3" r::Idr3[u32],
        at::IDR5 => "SMMU_IDR5" r::Idr5[u32],
        at::CR0 => "SMMU_CR0" r::Cr0[u32],
        at::CR0ACK => "SMMU_CR0ACK" r::Cr0[u32],
        at::CR1 => "SMMU_CR1" r::Cr1[u32],
        at::CR2 => "SMMU_CR2" r::Cr2[u32],
        at::GBPA => "SMMU_GBPA" r::Gbpa[u32],
        at::IRQ_CTRL => "SMMU_IRQ_CTRL" r::IrqCtrl[u32],
        at::IRQ_CTRLACK => "SMMU_IRQ_CTRLACK" r::IrqCtrl[u32],
        at::GERROR => "SMMU_GERROR" r::Gerror[u32],
        at::GERRORN => "SMMU_GERRORN" r::Gerror[u32],
        at::GERROR_IRQ_CFG0 => "SMMU_GERROR_IRQ_CFG0" r::IrqCfg0[u64],
        at::GERROR_IRQ_CFG2 => "SMMU_GERROR_IRQ_CFG2" r::IrqCfg2[u32],
        at::STRTAB_BASE => "SMMU_STRTAB_BASE" r::StrtabBase[u64],
        at::STRTAB_BASE_CFG => "SMMU_STRTAB_BASE_CFG" r::StrtabBaseCfg[u32],
        at::CMDQ_BASE => "SMMU_CMDQ_BASE" r::QueueBase[u64],
        at::CMDQ_CONS => "SMMU_CMDQ_CONS" r::CmdqCons[u32],
        at::EVENTQ_BASE => "SMMU_EVENTQ_BASE" r::QueueBase[u64],
        at::EVENTQ_PROD => "SMMU_EVENTQ_PROD" r::EventqIndex[u32],
        at::EVENTQ_CONS => "SMMU_EVENTQ_CONS" r::EventqIndex[u32],
        at::PRIQ_BASE => "SMMU_PRIQ_BASE" r::QueueBase[u64],
    );
    None
}

fn riscv_register(offset: u64, value: u64) -> Option<Register> {
    use riscv::registers::{self as r, offset as at};
    registers!(offset, value;
        at::CAPABILITIES => "capabilities" r::Capabilities[u64],
        at::FCTL => "fctl" r::Fctl[u32],
        at::DDTP => "ddtp" r::Ddtp[u64],
        at::CQB => "cqb" r::QueueBase[u64],
        at::FQB => "fqb" r::QueueBase[u64],
        at::PQB => "pqb" r::QueueBase[u64],
        at::CQCSR => "cqcsr" r::Cqcsr[u32],
        at::FQCSR => "fqcsr" r::Fqcsr[u32],
        at::IPSR => "ipsr" r::Ipsr[u32],
        at::TR_REQ_CTL => "tr_req_ctl" r::TrReqCtl[u64],
        at::TR_RESPONSE => "tr_response" r::TrResponse[u64],
        at::ICVEC => "icvec" r::Icvec[u64],
    );
    None
}
