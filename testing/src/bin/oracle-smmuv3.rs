//! Compares Arm SMMUv3 with QEMU's. `cargo xtask oracle smmuv3` builds and runs this.
#![forbid(unsafe_code)]

use portcullis_testing::machine::smmuv3::{Stages, board};
use portcullis_testing::oracle::report::main_of;
use portcullis_testing::oracle::smmuv3::judge::Smmuv3;
use portcullis_testing::oracle::smmuv3::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    main_of::<Smmuv3>("smmuv3", board(Stages::One).program, run)
}
