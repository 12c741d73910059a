//! Tables of real machines.
#![allow(missing_docs)]

mod common;

use portcullis_firmware::acpi::{self, Table};

#[test]
fn every_table_is_read_and_written_back_byte_by_byte() {
    for (name, bytes) in common::real_tables() {
        let (table, findings) = Table::read(&bytes);
        assert!(findings.is_empty(), "{name}: {findings:?}");
        assert!(table.unwrap().write().unwrap() == bytes, "{name}: not the same bytes");
    }
}

/// One machine's DMAR has a single unit, without registers.
#[test]
fn every_table_but_one_yields_units() {
    let without: Vec<_> = common::real_tables()
        .into_iter()
        .filter(|(_, bytes)| acpi::topology(bytes).units.is_empty())
        .map(|(name, _)| name)
        .collect();
    assert!(without.iter().all(|name| name == "DMAR-27d1e500a85c.bin"), "{without:?}");
}
