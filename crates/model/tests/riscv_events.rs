//! The fault queue (RISC-V IOMMU 3.2, 5.9 to 5.11, 5.16), `ipsr`, `icvec` and `msi_cfg_tbl` (5.18, 5.27, 5.28).

mod riscv_machine;

use portcullis_model::Registers;
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use riscv_machine::*;

const ON: u32 = 1 << 16 | 1;
const FIE: u32 = 2;
const FQMF: u32 = 1 << 8;
const FQOF: u32 = 1 << 9;
const CIP: u32 = 1;
const FIP: u32 = 2;

/// `msi_cfg_tbl` entry `vector`: address, data, mask.
fn set_message(bench: &Bench, vector: u64, address: u64, data: u32, masked: bool) {
    bench.unit.write64(MSI + vector * 16, address);
    bench.unit.write32(MSI + vector * 16 + 8, data);
    bench.unit.write32(MSI + vector * 16 + 12, u32::from(masked));
}

/// A unit that refuses everything, and sends message 3 for faults and 2 for commands.
fn signalling() -> Bench {
    let bench = Bench::new(RiscvConfig { interrupts: Interrupts::Messages, ..RiscvConfig::default() });
    bench.queues_on();
    bench.unit.write64(ICVEC, 3 << 4 | 2);
    set_message(&bench, 2, 0x2800_0000, 22, false);
    set_message(&bench, 3, 0x2800_1000, 33, false);
    bench.unit.write32(CQCSR, 3);
    bench.unit.write32(FQCSR, 1 | FIE);
    bench
}

/// Causes one fault and leaves its record.
fn refuse(bench: &Bench) {
    assert!(bench.load(DEVICE, 0x5000).is_err());
}

#[test]
fn records_fill_the_queue_and_then_overflow() {
    let bench = Bench::new(RiscvConfig::default());
    bench.queues_on();
    for round in 0..127 {
        assert_eq!(bench.unit.read32(FQT), round);
        refuse(&bench);
        assert_eq!(bench.unit.read32(FQCSR), ON);
    }
    refuse(&bench);
    assert_eq!((bench.unit.read32(FQT), bench.unit.read32(FQCSR)), (127, ON | FQOF));
    // 5.16: nothing more is recorded, though there is room, until software clears the bit.
    assert_eq!(bench.records().len(), 127);
    refuse(&bench);
    assert_eq!(bench.records().len(), 0);
    assert_eq!(bench.unit.unrecorded_faults(), 2);
    bench.unit.write32(FQCSR, 1 | FQOF);
    assert_eq!(bench.unit.read32(FQCSR), ON);
    refuse(&bench);
    refuse(&bench);
    assert_eq!(bench.unit.read32(FQT), 1, "around the end");
    assert_eq!(bench.records().len(), 2);
}

#[test]
fn a_queue_outside_of_memory_is_a_memory_fault() {
    let bench = Bench::new(RiscvConfig::default());
    bench.unit.write64(FQB, MEMORY >> 2 | 6);
    bench.unit.write32(FQCSR, 1);
    refuse(&bench);
    assert_eq!((bench.unit.read32(FQT), bench.unit.read32(FQCSR)), (0, ON | FQMF));
    // Turning it on again clears the error and the tail.
    bench.unit.write32(FQCSR, 0);
    refuse(&bench);
    assert_eq!(bench.unit.read32(FQCSR), FQMF);
    bench.unit.write64(FQB, FAULTS >> 2 | 6);
    bench.unit.write32(FQCSR, 1);
    assert_eq!((bench.unit.read32(FQT), bench.unit.read32(FQCSR)), (0, ON));
    refuse(&bench);
    assert_eq!(bench.records().len(), 1);
}

#[test]
fn the_base_is_fixed_while_the_queue_is_on_and_indexes_stay_in_it() {
    let bench = Bench::new(RiscvConfig { queue_entries_log2: 8, ..RiscvConfig::default() });
    bench.unit.write64(FQB, !0);
    assert_eq!(bench.unit.read64(FQB), ((1 << 44) - 1) << 10 | 7);
    bench.unit.write32(FQH, !0);
    assert_eq!(bench.unit.read32(FQH), 0xff);
    bench.unit.write64(FQB, FAULTS >> 2 | 1);
    assert_eq!(bench.unit.read32(FQH), 3);
    bench.unit.write32(FQT, 2);
    assert_eq!(bench.unit.read32(FQT), 0);
    bench.unit.write32(FQH, 0);
    bench.unit.write32(FQCSR, 1);
    bench.unit.write64(FQB, 0);
    assert_eq!(bench.unit.read64(FQB), FAULTS >> 2 | 1);
    // 4 entries hold 3 records.
    (0..4).for_each(|_| refuse(&bench));
    assert_eq!(bench.unit.read32(FQCSR), ON | FQOF);
    assert_eq!(bench.unit.read32(FQT), 3);
}

#[test]
fn a_message_tells_of_the_first_record_until_the_interrupt_is_acknowledged() {
    let bench = signalling();
    refuse(&bench);
    assert_eq!(bench.unit.read32(IPSR), FIP);
    refuse(&bench);
    assert_eq!(bench.messages(), [(0x2800_1000, 33)]);
    bench.unit.write32(IPSR, CIP);
    assert_eq!(bench.unit.read32(IPSR), FIP);
    bench.unit.write32(IPSR, FIP);
    assert_eq!(bench.unit.read32(IPSR), 0);
    // Records that wait are no condition of their own; the next one is.
    assert_eq!(bench.messages(), []);
    refuse(&bench);
    assert_eq!(bench.messages(), [(0x2800_1000, 33)]);
    // Without FIE nothing is told.
    bench.unit.write32(IPSR, FIP);
    bench.unit.write32(FQCSR, 1);
    refuse(&bench);
    assert_eq!((bench.messages(), bench.unit.read32(IPSR)), (vec![], 0));
}

#[test]
fn errors_that_stand_raise_again() {
    let bench = signalling();
    (0..128).for_each(|_| refuse(&bench));
    assert_eq!(bench.unit.read32(FQCSR), ON | FIE | FQOF);
    assert_eq!(bench.messages().len(), 1);
    // 5.18: cleared while the condition stands, the bit is set anew, and a message says so.
    bench.unit.write32(IPSR, FIP);
    assert_eq!((bench.unit.read32(IPSR), bench.messages().len()), (FIP, 1));
    bench.unit.write32(FQCSR, 1 | FIE | FQOF);
    bench.unit.write32(IPSR, FIP);
    assert_eq!((bench.unit.read32(IPSR), bench.messages().len()), (0, 0));
    // The command queue's, and one that stood before interrupts were enabled.
    bench.unit.write32(CQCSR, 1);
    bench.commands(&[[0, 0]]);
    assert_eq!(bench.unit.read32(IPSR), 0);
    bench.unit.write32(CQCSR, 3);
    assert_eq!(bench.unit.read32(IPSR), CIP);
    assert_eq!(bench.messages(), [(0x2800_0000, 22)]);
    bench.unit.write32(IPSR, CIP);
    assert_eq!(bench.messages(), [(0x2800_0000, 22)]);
}

#[test]
fn a_masked_vector_keeps_its_message_until_it_is_unmasked() {
    let bench = signalling();
    set_message(&bench, 3, 0x2800_1000, 33, true);
    refuse(&bench);
    assert_eq!((bench.unit.read32(IPSR), bench.messages()), (FIP, vec![]));
    // What is sent then is what the entry says then.
    bench.unit.write32(MSI + 3 * 16 + 8, 44);
    assert_eq!(bench.messages(), []);
    bench.unit.write32(MSI + 3 * 16 + 12, 0);
    assert_eq!(bench.messages(), [(0x2800_1000, 44)]);
    bench.unit.write32(MSI + 3 * 16 + 12, 1);
    bench.unit.write32(MSI + 3 * 16 + 12, 0);
    assert_eq!(bench.messages(), []);
}

#[test]
fn a_message_that_nothing_takes_is_recorded() {
    let bench = signalling();
    bench.sink.dead.lock().unwrap().insert(0x2800_1000);
    refuse(&bench);
    // 5.28: cause 273, TTYP 0, and so PV, PID, PRIV and DID 0; iotval is the address. Its own interrupt is already pending.
    let records = bench.records();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0][0] & 0xfff, 256);
    assert_eq!(records[1], [273, 0, 0x2800_1000, 0]);
    // The command queue's message: the fault queue tells of it.
    bench.unit.write32(IPSR, !0);
    bench.sink.dead.lock().unwrap().clear();
    bench.sink.dead.lock().unwrap().insert(0x2800_0000);
    bench.commands(&[[0, 0]]);
    assert_eq!(bench.records(), [[273, 0, 0x2800_0000, 0]]);
    assert_eq!(bench.unit.read32(IPSR), CIP | FIP);
    assert_eq!(bench.messages(), [(0x2800_1000, 33)]);
    // Neither can be told: it ends.
    bench.sink.dead.lock().unwrap().insert(0x2800_1000);
    bench.unit.write32(IPSR, !0);
    assert_eq!(bench.messages(), []);
    assert_eq!(bench.unit.read32(IPSR), CIP | FIP);
    assert_eq!(bench.records(), [[273, 0, 0x2800_0000, 0], [273, 0, 0x2800_1000, 0]]);
}

#[test]
fn wires_follow_pending_bits() {
    let bench =
        Bench::new(RiscvConfig { interrupts: Interrupts::Wires, vectors: 4, ..RiscvConfig::default() });
    // 5.4: fixed.
    bench.unit.write32(FCTL, 0);
    assert_eq!(bench.unit.read32(FCTL), 2);
    bench.queues_on();
    bench.unit.write64(ICVEC, 0x0032);
    bench.unit.write32(FQCSR, 1 | FIE);
    bench.unit.write32(CQCSR, 3);
    refuse(&bench);
    assert_eq!(bench.wires(), [3]);
    bench.commands(&[[0, 0]]);
    assert_eq!(bench.wires(), [2, 3]);
    bench.unit.write64(ICVEC, 0x0011);
    assert_eq!(bench.wires(), [1]);
    bench.unit.write32(IPSR, FIP);
    assert_eq!(bench.wires(), [1], "the other cause has the same wire");
    bench.put(QUEUE, 2);
    bench.unit.write32(CQCSR, 3 | 1 << 10);
    bench.unit.write32(IPSR, CIP);
    assert_eq!(bench.wires(), []);
    assert_eq!(bench.messages(), []);
    // 5.28: without messages there is no table.
    bench.unit.write64(MSI, !0);
    assert_eq!(bench.unit.read64(MSI), 0);
}

#[test]
fn vectors_and_messages_hold_what_there_is() {
    for (vectors, fields) in [(1, 0), (2, 0x1111), (4, 0x3333), (8, 0x7777), (16, 0xffff)] {
        let bench = Bench::new(RiscvConfig { vectors, ..RiscvConfig::default() });
        bench.unit.write64(ICVEC, !0);
        assert_eq!(bench.unit.read64(ICVEC), fields);
        for vector in 0..16 {
            set_message(&bench, vector, !0, !0, true);
            let at = MSI + vector * 16;
            let found = (bench.unit.read64(at), bench.unit.read32(at + 8), bench.unit.read32(at + 12));
            let expected = if vector < vectors.into() { (0x00ff_ffff_ffff_fffc, !0, 1) } else { (0, 0, 0) };
            assert_eq!(found, expected);
        }
    }
}
