//! Compares the RISC-V IOMMU with QEMU's. `cargo xtask oracle riscv` builds and runs this.
#![forbid(unsafe_code)]

use clap::Parser as _;
use portcullis_testing::machine::riscv::{Stages, board};
use portcullis_testing::oracle::report::{Extent, report};
use portcullis_testing::oracle::riscv::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    report("riscv", board(Stages::Both).program, run(Extent::parse()))
}
