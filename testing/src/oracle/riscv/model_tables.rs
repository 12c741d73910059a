//! Tables of the RISC-V IOMMU before our model, judged by the reference: every shape that there is.

use super::judge::{self, Riscv};
use super::shapes::Limits;
use crate::machine::MachineError;
use crate::machine::riscv::{RiscvMachine, model};
use crate::oracle::tables::bench::{Bench, ask};
use crate::oracle::tables::run::on_model;
use crate::oracle::{Failure, Tally};
use portcullis_model::riscv::config::RiscvConfig;

/// A model with everything, with its queues.
///
/// # Errors
/// Where it can't be built.
pub fn bench(config: RiscvConfig, big_endian: bool) -> Result<Bench<Riscv, RiscvMachine>, MachineError> {
    let machine = model(config)?;
    let unit = judge::enable(&machine, big_endian);
    Ok(Bench::new(machine, unit, ask::<Riscv, _>))
}

/// What the model with everything has.
#[must_use]
pub const fn limits(big_endian: bool, extended: bool) -> Limits {
    Limits {
        devices: &[1, 0x3f, 0x40, 0x7f, 0xa8, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0xff_ffff],
        first: &[0, 3, 3, 4, 5],
        second: &[0, 3, 4, 5],
        processes: &[0, 0, 0, 1, 2, 3],
        with_process: true,
        flags: true,
        big_endian,
        both_endians: true,
        extended,
    }
}

/// Judge `cases` random cases on models with everything, and on models without MSI page tables.
///
/// # Errors
/// The simplest case in which the model does not what the specification says.
pub fn run(big_endian: bool, cases: u64, seed: u64) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for extended in [false, true] {
        let config = RiscvConfig {
            msi_tables: extended,
            interrupt_files: extended,
            atomic_interrupt_files: extended,
            ..RiscvConfig::full()
        };
        let draw = &mut |random: &mut _| limits(big_endian, extended).shape(random);
        tally.add(&on_model(|_| bench(config.clone(), big_endian), draw, (cases.div_ceil(2), seed))?);
    }
    Ok(tally)
}
