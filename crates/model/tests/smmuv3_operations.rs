//! Address translation operations (SMMUv3 9, 6.3.37 to 6.3.40).

mod smmuv3_machine;

use portcullis_model::Registers;
use portcullis_model::smmuv3::config::Smmuv3Config;
use smmuv3_machine::*;

const STAGE_1: u64 = 1 << 10;
const STAGE_2: u64 = 2 << 10;
const BOTH: u64 = 3 << 10;
const PRIVILEGED: u64 = 1 << 9;
const READ: u64 = 1 << 8;
const INSTRUCTION: u64 = 1 << 7;
const PASSIVE: u64 = 1 << 6;

const INV_REQ: u64 = 0xff;
const INV_STAGE: u64 = 0xfe;

/// Write-back memory, inner shareable.
const ATTRIBUTES: u64 = 0xff << 56 | 3 << 8;

/// Runs an operation and gives back PAR.
fn operate(machine: &Machine, stream: u64, address: u64) -> u64 {
    machine.unit.write64(0x108, stream);
    machine.unit.write64(0x110, address);
    machine.unit.write32(0x100, 1);
    assert_eq!(machine.unit.read32(0x100), 0, "RUN");
    let par = machine.unit.read64(0x118);
    assert_eq!(machine.take_events().len(), 0, "operations record nothing");
    par
}

/// A failure with its code, REASON and FADDR.
const fn failed(code: u64, reason: u64, faddr: u64) -> u64 {
    faddr | code << 4 | reason << 1 | 1
}

fn table_memory(machine: &mut Machine, second: u64) {
    for page in (TABLES..TABLES + 0x2_0000).step_by(0x1000) {
        machine.map(second, page, page, S2);
    }
}

#[test]
fn stage_1_alone() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 1);
    let stream = u64::from(STREAM);
    machine.map(table, 0x1000, PAGE, S1 | USER | READ_ONLY | UXN);
    machine.map_from(table, 1, 2, 0x20_0000, S1 | USER | 1);
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ), ATTRIBUTES | PAGE);
    // 6.3.40: 2 MiB, told by bit 20 of the address.
    assert_eq!(operate(&machine, stream, 0x23_4000 | STAGE_1 | READ), ATTRIBUTES | 1 << 20 | 1 << 11);
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1), failed(0x13, 0, 0));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ | INSTRUCTION), failed(0x13, 0, 0));
    // InD is ignored for writes; PnU counts.
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | INSTRUCTION), failed(0x13, 0, 0));
    let privileged = 0x1000 | STAGE_1 | READ | INSTRUCTION | PRIVILEGED;
    assert_eq!(operate(&machine, stream, privileged), ATTRIBUTES | PAGE);
    assert_eq!(operate(&machine, stream, 0x3000 | STAGE_1 | READ), failed(0x10, 0, 0));
    // 9.1.3.
    assert_eq!(operate(&machine, stream, 0x1000), failed(INV_REQ, 0, 0));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_2), failed(INV_STAGE, 0, 0));
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH), failed(INV_STAGE, 0, 0));
    assert_eq!(operate(&machine, stream | 1 << 52, 0x1000 | STAGE_2), failed(INV_REQ, 0, 0));
    assert_eq!(operate(&machine, stream | 1 << 52, 0x1000 | STAGE_1), failed(0x08, 0, 0));
    assert_eq!(operate(&machine, 0x40, 0x1000 | STAGE_1), failed(0x02, 0, 0));
    assert_eq!(operate(&machine, 0x3f, 0x1000 | STAGE_1), failed(0x04, 0, 0));
    machine.stream(OTHER_STREAM, Entry::new(0));
    assert_eq!(operate(&machine, OTHER_STREAM.into(), 0x1000 | STAGE_1), failed(INV_STAGE, 0, 0));
    machine.stream(OTHER_STREAM, Entry::new(BYPASS));
    assert_eq!(operate(&machine, OTHER_STREAM.into(), 0x1000 | STAGE_1), failed(INV_STAGE, 0, 0));
    machine.stream(OTHER_STREAM, Entry::stage1(0xf_0000_0000));
    assert_eq!(operate(&machine, OTHER_STREAM.into(), 0x1000 | STAGE_1), failed(0x09, 0, 0));
}

#[test]
fn both_stages_and_each_of_them() {
    let mut machine = Machine::new();
    let (second, first) = (machine.allocate(), machine.allocate());
    let at = machine.context(descriptor(first, 1));
    let stream = u64::from(STREAM);
    machine.stream(STREAM, Entry::stage1(at).stage2(second, 3));
    // The descriptor's fetch fails: by stage as asked for.
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH | READ), failed(0x10, 1, at));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ), failed(0x09, 0, 0));
    machine.map(second, at, at, S2);
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH | READ), failed(0x10, 2, first));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ), failed(0x0b, 0, 0));
    machine.map(first, 0x1000, 0x5000, S1 | USER);
    table_memory(&mut machine, second);
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH | READ), failed(0x10, 3, 0x5000));
    assert_eq!(operate(&machine, stream, 0x5000 | STAGE_2 | READ), failed(0x10, 3, 0));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ), ATTRIBUTES | 0x5000);
    machine.map(second, 0x5000, PAGE, S2);
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH | READ), ATTRIBUTES | PAGE);
    assert_eq!(operate(&machine, stream, 0x5000 | STAGE_2 | READ), ATTRIBUTES | PAGE);
    assert_eq!(operate(&machine, stream, 0x2000 | BOTH | READ), failed(0x10, 0, 0));
    // Beyond the output size: a stage-1 fault (3.4, 9.1.4).
    assert_eq!(operate(&machine, stream, 1 << 55 | STAGE_2 | READ), failed(0x11, 0, 0));
}

#[test]
fn a_passive_operation_changes_nothing() {
    let mut machine = Machine::new();
    let (second, first) = (machine.allocate(), machine.allocate());
    let mut words = descriptor(first, 1);
    words[0] |= 3 << 42;
    let at = machine.context(words);
    machine.stream(STREAM, Entry::stage1(at).stage2(second, 3).with(2, 3 << 55));
    table_memory(&mut machine, second);
    let clean = S1 & !(1 << 10) | USER | READ_ONLY | DBM;
    let leaf = machine.map(first, 0x1000, 0x5000, clean);
    let clean2 = S2 & !(1 << 10) & !(1 << 7) | DBM;
    let leaf2 = machine.map(second, 0x5000, PAGE, clean2);
    let stream = u64::from(STREAM);
    // What would be set counts as set.
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH | PASSIVE), ATTRIBUTES | PAGE);
    assert_eq!((machine.get(leaf), machine.get(leaf2)), (0x5000 | clean | 3, PAGE | clean2 | 3));
    assert_eq!(operate(&machine, stream, 0x1000 | BOTH), ATTRIBUTES | PAGE);
    assert_eq!(machine.get(leaf), 0x5000 | clean & !READ_ONLY | 1 << 10 | 3);
    assert_eq!(machine.get(leaf2), PAGE | clean2 | 1 << 10 | 1 << 7 | 3);
}

#[test]
fn a_bypassed_stage_1_gives_its_input() {
    let mut machine = Machine::new();
    let at = machine.allocate();
    // S1DSS bypass, substreams enabled.
    machine.stream(STREAM, Entry::stage1(at).with(0, 4 << 59).with(1, 1));
    let stream = u64::from(STREAM);
    assert_eq!(operate(&machine, stream, 0x7000 | STAGE_1 | READ), ATTRIBUTES | 0x7000);
    assert_eq!(operate(&machine, stream, 1 << 55 | STAGE_1 | READ), failed(0x11, 0, 0));
    let second = machine.allocate();
    machine.map(second, 0x7000, PAGE, S2);
    machine.stream(STREAM, Entry::stage1(at).with(0, 4 << 59).with(1, 1).stage2(second, 1));
    assert_eq!(operate(&machine, stream, 0x7000 | STAGE_1 | READ), ATTRIBUTES | 0x7000);
    assert_eq!(operate(&machine, stream, 0x7000 | BOTH | READ), ATTRIBUTES | PAGE);
}

#[test]
fn overrides_and_fault_flags_have_no_say() {
    let mut machine = Machine::new();
    let table = machine.allocate();
    let mut words = descriptor(table, 1);
    // Stalls, and does not abort.
    words[0] = words[0] & !(1 << 46) | 1 << 44;
    let at = machine.context(words);
    machine.stream(STREAM, Entry::stage1(at).with(1, 3 << 48));
    machine.map(table, 0x1000, PAGE, S1);
    let stream = u64::from(STREAM);
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ), failed(0x13, 0, 0));
    assert_eq!(operate(&machine, stream, 0x1000 | STAGE_1 | READ | PRIVILEGED), ATTRIBUTES | PAGE);
}

#[test]
fn without_translation_or_the_feature_nothing_runs() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 1);
    machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN);
    assert_eq!(operate(&machine, STREAM.into(), 0x1000 | STAGE_1 | READ), 0);
    let machine = Machine::with(Smmuv3Config::default());
    machine.unit.write64(0x108, 5);
    machine.unit.write64(0x110, 0x1000);
    assert_eq!((machine.unit.read64(0x108), machine.unit.read64(0x110)), (0, 0));
}
