//! Compares Intel VT-d with QEMU's intel-iommu. `cargo xtask oracle vtd` builds and runs this.
#![forbid(unsafe_code)]

use portcullis_testing::machine::vtd;
use portcullis_testing::oracle::report::main_of;
use portcullis_testing::oracle::vtd::judge::Vtd;
use portcullis_testing::oracle::vtd::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    main_of::<Vtd>("vtd", vtd::board(vtd::Mode::Legacy48).program, run)
}
