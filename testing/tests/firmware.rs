//! Firmware tables: the rules that hold for any bytes, tried on fewer inputs than `cargo xtask oracle firmware` does.
#![allow(missing_docs)]

use portcullis_testing::firmware::generate::{Generator, Range};
use portcullis_testing::firmware::rules;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[test]
fn tables_are_read_as_they_were_written() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for number in 0..1000 {
        let table = Generator::new(&mut random, Range::Everything).table();
        let written = table.write().unwrap();
        rules::read_back(&table, &written).unwrap_or_else(|error| panic!("table {number}: {error}"));
    }
}

#[test]
fn every_beginning_of_a_table_is_read() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..40 {
        let bytes = Generator::new(&mut random, Range::Everything).table().write().unwrap();
        for cut in rules::truncations(&bytes) {
            rules::hold(&cut).unwrap_or_else(|error| panic!("{cut:02x?}: {error}"));
        }
    }
}

#[test]
fn changed_tables_are_read() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for number in 0..5000 {
        let bytes = rules::mutation(&mut random, &[]);
        rules::hold(&bytes).unwrap_or_else(|error| panic!("mutation {number}: {bytes:02x?}: {error}"));
    }
}
