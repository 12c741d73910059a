//! Hand-made tables before QEMU and the reference: they agree, and QEMU departs exactly where it is said to.

use portcullis_testing::machine::MachineError;
use portcullis_testing::machine::vtd::Mode;
use portcullis_testing::oracle::tables::departures::Departure;
use portcullis_testing::oracle::vtd::departures::DEPARTURES;
use portcullis_testing::oracle::vtd::programs::STICKY_IDENTITY;
use portcullis_testing::oracle::vtd::{interrupts, model_tables, qemu_tables};
use portcullis_testing::oracle::{Failure, Tally};
use portcullis_testing::qtest::QemuError;

fn unless_absent(outcome: Result<Tally, Failure>) -> Option<Tally> {
    match outcome {
        Ok(tally) => Some(tally),
        Err(Failure::Machine(MachineError::Qemu(QemuError::Absent { program }))) => {
            println!("skipped: {program} is not installed");
            None
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn reference_and_qemu_agree_on_broken_tables() {
    for mode in Mode::ALL {
        unless_absent(qemu_tables::run(mode, 300, 7));
    }
}

#[test]
fn qemu_shows_every_departure_that_is_listed() {
    unless_absent(qemu_tables::assert_departures());
}

#[test]
fn interrupt_requests_come_to_what_the_reference_says() {
    if let Some(tally) = unless_absent(interrupts::run(1500, 3)) {
        println!("{:?}", tally.departures);
        assert_eq!(tally.checks, 4500);
    }
}

#[test]
fn model_does_what_the_reference_says_of_broken_tables() {
    unless_absent(model_tables::run(5_000, 7));
}

#[test]
fn documentation_lists_every_departure() {
    let text = include_str!("../../docs/oracles.md");
    for Departure { what, section, .. } in DEPARTURES {
        assert!(text.contains(&format!("| {what} | {section} |")), "not in docs/oracles.md: {what}");
    }
    assert!(text.contains(&format!("| {STICKY_IDENTITY} | 6.5.2.4 |")));
}
