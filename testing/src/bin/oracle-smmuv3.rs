//! Compares Arm SMMUv3 with QEMU's. `cargo xtask oracle smmuv3` builds and runs this.
#![forbid(unsafe_code)]

use clap::Parser as _;
use portcullis_testing::machine::smmuv3::{Stages, board};
use portcullis_testing::oracle::report::{Extent, report};
use portcullis_testing::oracle::smmuv3::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    report("smmuv3", board(Stages::One).program, run(Extent::parse()))
}
