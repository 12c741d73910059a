//! docs/oracles.md lists where QEMU departs from the specifications.

use portcullis_testing::oracle::tables::Subject;
use portcullis_testing::oracle::tables::departures::Departure;
use portcullis_testing::oracle::{riscv, smmuv3};

fn assert_documented<S: Subject>(departures: &[Departure<S>]) {
    let text = include_str!("../../docs/oracles.md");
    for departure in departures {
        let row = format!("| {} | {} |", departure.what, departure.section);
        assert!(text.contains(&row), "not in docs/oracles.md: {row}");
    }
}

#[test]
fn documentation_lists_every_departure_in_smmuv3() {
    assert_documented(smmuv3::departures::DEPARTURES);
}

#[test]
fn documentation_lists_every_departure_in_riscv() {
    assert_documented(riscv::departures::DEPARTURES);
}
