//! The driver over QEMU's VT-d and over our model, in lockstep. `cargo xtask oracle vtd` runs many more.

use portcullis_testing::machine::MachineError;
use portcullis_testing::machine::vtd::Mode;
use portcullis_testing::oracle::programs::{by_hand, random};
use portcullis_testing::oracle::vtd::programs::{self, VtdDriver};
use portcullis_testing::oracle::{Failure, Tally};
use portcullis_testing::qtest::QemuError;

fn unless_absent(outcome: Result<Tally, Failure>) {
    match outcome {
        Ok(_) => {}
        Err(Failure::Machine(MachineError::Qemu(QemuError::Absent { program }))) => {
            println!("skipped: {program} is not installed");
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn random_programs_do_what_they_say() {
    for mode in Mode::ALL {
        unless_absent(random::<VtdDriver>(mode, 240, 1));
    }
}

#[test]
fn programs_written_by_hand_do_what_they_say() {
    for mode in Mode::ALL {
        unless_absent(by_hand::<VtdDriver>(mode));
    }
}

#[test]
fn qemu_still_ignores_pasid_cache_invalidations() {
    unless_absent(programs::assert_departures());
}
