//! Compares Intel VT-d with QEMU's intel-iommu. `cargo xtask oracle vtd` builds and runs this.
#![forbid(unsafe_code)]

use clap::Parser as _;
use portcullis_testing::machine::vtd;
use portcullis_testing::oracle::report::{Extent, report};
use portcullis_testing::oracle::vtd::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    report("vtd", vtd::board(vtd::Mode::Legacy48).program, run(Extent::parse()))
}
