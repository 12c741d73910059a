//! Primary fault logging: records, overflow, collapse, interrupts (VT-d 7.2.1, 11.4.7).

mod common;

use common::*;
use portcullis_model::Registers;
use portcullis_model::vtd::config::VtdConfig;

const PFO: u32 = 1;
const PPF: u32 = 2;
const FECTL: u64 = 0x38;

fn with_records(fault_records: u16) -> Machine {
    let machine = Machine::legacy_with(VtdConfig { fault_records, ..VtdConfig::default() });
    machine.unit.write32(0x3c, 0x42);
    machine.unit.write32(0x40, 0xfee0_2000);
    machine.unit.write32(FECTL, 0);
    machine
}

fn messages(machine: &Machine) -> usize {
    machine.sink.0.lock().unwrap().len()
}

#[test]
fn a_record_says_who_what_where_and_why() {
    // VT-d 11.4.7.6, by hand: F 127, T1 126, FR 103:96, SID 79:64, FI 63:12.
    let machine = with_records(2);
    machine.read(DEVICE, 0x1234_5678).unwrap_err();
    machine.write(OTHER_DEVICE, 0x8765_4321, 0).unwrap_err();
    assert_eq!(machine.record(0), [0x1234_5000, 3 << 62 | 1 << 32 | u64::from(DEVICE)]);
    assert_eq!(machine.record(1), [0x8765_4000, 1 << 63 | 1 << 32 | u64::from(OTHER_DEVICE)]);
}

#[test]
fn faults_fill_the_records_in_a_ring_and_then_overflow() {
    let machine = with_records(2);
    assert_eq!(machine.unit.read32(FSTS), 0);
    machine.read(DEVICE, 0x1000).unwrap_err();
    assert_eq!(machine.unit.read32(FSTS), PPF);
    machine.read(DEVICE, 0x2000).unwrap_err();
    machine.read(DEVICE, 0x3000).unwrap_err();
    assert_eq!(machine.unit.read32(FSTS), PPF | PFO);
    assert_eq!((machine.record(0)[0], machine.record(1)[0]), (0x1000, 0x2000));
    // While PFO is set nothing is recorded, even if there is room.
    machine.clear_record(0);
    machine.read(DEVICE, 0x4000).unwrap_err();
    assert_eq!(machine.record(0)[1] >> 63, 0);
    machine.unit.write32(FSTS, PFO);
    machine.read(DEVICE, 0x5000).unwrap_err();
    assert_eq!(machine.record(0)[0], 0x5000);
    assert_eq!(machine.unit.read32(FSTS), PPF);
}

#[test]
fn the_fault_record_index_names_the_first_pending_record() {
    // VT-d 11.4.7.1, FRI.
    let machine = with_records(4);
    machine.read(DEVICE, 0x1000).unwrap_err();
    machine.read(DEVICE, 0x2000).unwrap_err();
    assert_eq!(machine.unit.read32(FSTS), PPF);
    machine.take_faults();
    assert_eq!(machine.unit.read32(FSTS) & PPF, 0);
    machine.read(DEVICE, 0x3000).unwrap_err();
    machine.read(DEVICE, 0x4000).unwrap_err();
    assert_eq!(machine.unit.read32(FSTS), 2 << 8 | PPF);
    assert_eq!(machine.record(2)[0], 0x3000);
}

#[test]
fn only_the_first_condition_interrupts() {
    // VT-d 11.4.7.2, IP: a condition is new where no status bit was set before.
    let machine = with_records(4);
    machine.read(DEVICE, 0x1000).unwrap_err();
    assert_eq!(messages(&machine), 1);
    let message = machine.sink.0.lock().unwrap()[0];
    assert_eq!((message.source, message.address, message.data), (None, 0xfee0_2000, 0x42));
    machine.read(DEVICE, 0x2000).unwrap_err();
    machine.unit.write64(0x88, 0x1000);
    assert_eq!(messages(&machine), 1, "a queue error beside a pending fault");
    machine.take_faults();
    machine.read(DEVICE, 0x3000).unwrap_err();
    assert_eq!(messages(&machine), 1, "a fault beside a queue error");
    machine.take_faults();
    machine.unit.write64(0x88, 0);
    machine.unit.write32(FSTS, 1 << 4);
    machine.read(DEVICE, 0x4000).unwrap_err();
    assert_eq!(messages(&machine), 2);
}

#[test]
fn a_masked_interrupt_stays_pending_until_unmasked_or_serviced() {
    let machine = with_records(4);
    machine.unit.write32(FECTL, 1 << 31);
    machine.read(DEVICE, 0x1000).unwrap_err();
    assert_eq!(machine.unit.read32(FECTL), 3 << 30);
    machine.unit.write32(FECTL, 0);
    assert_eq!((machine.unit.read32(FECTL), messages(&machine)), (0, 1));
    machine.take_faults();
    machine.unit.write32(FECTL, 1 << 31);
    machine.read(DEVICE, 0x1000).unwrap_err();
    machine.take_faults();
    assert_eq!(machine.unit.read32(FECTL), 1 << 31);
    machine.unit.write32(FECTL, 0);
    assert_eq!(messages(&machine), 1);
}

#[test]
fn only_writing_one_clears() {
    let machine = with_records(1);
    machine.read(DEVICE, 0x1000).unwrap_err();
    machine.unit.write64(0x220, 0);
    machine.unit.write64(0x228, !(1 << 63));
    machine.unit.write32(FSTS, !0);
    assert_eq!(machine.record(0), [0x1000, 3 << 62 | 1 << 32 | u64::from(DEVICE)]);
    assert_eq!(machine.unit.read32(FSTS), PPF, "PPF follows the records");
    machine.clear_record(0);
    assert_eq!(machine.unit.read32(FSTS), 0);
    assert_eq!(machine.record(0)[1] >> 63, 0);
}

#[test]
fn faults_of_one_source_may_be_collapsed() {
    // VT-d 7.2.1.
    let config = VtdConfig { fault_records: 4, collapse_faults: true, ..VtdConfig::default() };
    let machine = Machine::legacy_with(config);
    machine.read(DEVICE, 0x1000).unwrap_err();
    machine.read(DEVICE, 0x2000).unwrap_err();
    machine.read(OTHER_DEVICE, 0x3000).unwrap_err();
    let addresses: Vec<u64> = machine.take_faults().iter().map(|record| record[0]).collect();
    assert_eq!(addresses, [0x1000, 0x3000]);
    machine.read(DEVICE, 0x4000).unwrap_err();
    assert_eq!(machine.take_faults().len(), 1);
}

#[test]
fn fpd_suppresses_the_faults_of_a_context_entry() {
    // VT-d 9.3: qualified faults, present or not.
    let mut machine = with_records(4);
    let table = machine.allocate();
    for low in [table | 3, 2, table | 3 << 2 | 3, table | 1 << 5 | 3] {
        machine.context(DEVICE, low, 2, 1);
        machine.invalidate_all();
        machine.refused_silently(machine.read(DEVICE, 0x1000));
    }
    machine.read(OTHER_DEVICE, 0x1000).unwrap_err();
    assert_eq!(machine.take_faults().len(), 1);
}
