//! Streams through stage 1, stage 2 and both: what passes, and what event says why not.

mod smmuv3_machine;

use smmuv3_machine::*;

const F_TRANSLATION: u64 = 0x10;
const F_PERMISSION: u64 = 0x13;
/// RnW, S2, and CLASS of an event's second word.
const RNW: u64 = 1 << 35;
const S2_FAULT: u64 = 1 << 39;
const CLASS_TT: u64 = 1 << 40;
const CLASS_IN: u64 = 2 << 40;

#[test]
fn stage_1_translates_and_says_what_it_refuses() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 1);
    machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.map(table, 0x2000, OTHER_PAGE, S1 | USER | READ_ONLY);
    machine.put(PAGE + 0x18, 0x1234);
    assert_eq!(machine.read(STREAM, 0x1018), Ok(0x1234));
    machine.write(STREAM, 0x1020, 7).unwrap();
    assert_eq!(machine.get(PAGE + 0x20), 7);
    assert_eq!(machine.read(STREAM, 0x2000), Ok(0));
    let denied = machine.refused(machine.write(STREAM, 0x2008, 0), F_PERMISSION);
    assert_eq!(denied, [F_PERMISSION | u64::from(STREAM) << 32, CLASS_IN, 0x2008, 0]);
    let missing = machine.refused(machine.read(STREAM, 0x3000), F_TRANSLATION);
    assert_eq!(missing, [F_TRANSLATION | u64::from(STREAM) << 32, CLASS_IN | RNW, 0x3000, 0]);
    let out = machine.refused(machine.read(STREAM, 1 << 39), F_TRANSLATION);
    assert_eq!(out[1..], [CLASS_IN | RNW, 1 << 39, 0]);
}

#[test]
fn stage_2_translates_and_says_what_it_refuses() {
    let mut machine = Machine::new();
    let table = machine.allocate();
    machine.stream(STREAM, Entry::new(0).stage2(table, 3));
    machine.map(table, 0x1000, PAGE, S2);
    machine.map(table, 0x2000, OTHER_PAGE, S2 & !(1 << 7));
    machine.put(PAGE, 0x77);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0x77));
    let denied = machine.refused(machine.write(STREAM, 0x2008, 0), F_PERMISSION);
    assert_eq!(denied[1..], [CLASS_IN | S2_FAULT, 0x2008, 0x2000]);
    let missing = machine.refused(machine.read(STREAM, 0x7010), F_TRANSLATION);
    assert_eq!(missing[1..], [CLASS_IN | S2_FAULT | RNW, 0x7010, 0x7000]);
}

#[test]
fn nested_stages_translate_tables_and_descriptors_too() {
    let mut machine = Machine::new();
    let second = machine.allocate();
    let first = machine.allocate();
    let cd = machine.context(descriptor(first, 1));
    machine.stream(STREAM, Entry::stage1(cd).stage2(second, 3));
    // The CD is fetched through stage 2.
    let event = machine.refused(machine.read(STREAM, 0x1000), F_TRANSLATION);
    assert_eq!(event[1..], [S2_FAULT | RNW, 0x1000, cd]);
    machine.map(second, cd, cd, S2);
    // Then the tables.
    let event = machine.refused(machine.read(STREAM, 0x1000), F_TRANSLATION);
    assert_eq!(event[1..], [S2_FAULT | CLASS_TT | RNW, 0x1000, first]);
    machine.map(first, 0x1000, 0x5000, S1 | USER);
    for page in (TABLES..TABLES + 0x10_0000).step_by(0x1000) {
        machine.map(second, page, page, S2);
    }
    // Then the output.
    let event = machine.refused(machine.read(STREAM, 0x1234), F_TRANSLATION);
    assert_eq!(event[1..], [S2_FAULT | CLASS_IN | RNW, 0x1234, 0x5000]);
    machine.map(second, 0x5000, PAGE, S2);
    machine.put(PAGE + 0x10, 9);
    assert_eq!(machine.read(STREAM, 0x1010), Ok(9));
}

#[test]
fn an_entry_may_bypass_abort_or_be_invalid() {
    let machine = Machine::new();
    machine.put(PAGE, 5);
    machine.refused(machine.read(STREAM, PAGE), 0x04);
    machine.stream(STREAM, Entry::new(BYPASS));
    assert_eq!(machine.read(STREAM, PAGE), Ok(5));
    machine.stream(OTHER_STREAM, Entry::new(0));
    machine.refused_silently(machine.read(OTHER_STREAM, PAGE));
    machine.refused(machine.read(64, PAGE), 0x02);
}

#[test]
fn cached_translations_live_until_they_are_invalidated() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 1);
    let leaf = machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    machine.put(leaf, OTHER_PAGE | S1 | USER | 3);
    // CMD_TLBI_NH_VA of the page.
    machine.command(&[[0x12 | 1 << 48, 0x1000 | 1]]);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(2));
}
