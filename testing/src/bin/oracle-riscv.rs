//! Compares the RISC-V IOMMU with QEMU's. `cargo xtask oracle riscv` builds and runs this.
#![forbid(unsafe_code)]

use portcullis_testing::machine::riscv::{Stages, board};
use portcullis_testing::oracle::report::main_of;
use portcullis_testing::oracle::riscv::judge::Riscv;
use portcullis_testing::oracle::riscv::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    main_of::<Riscv>("riscv", board(Stages::Both).program, run)
}
