//! Stream table entries, substreams, and stage 2 (SMMUv3 3.3, 3.4, 5.1, 5.2).

mod smmuv3_machine;

use portcullis_model::Registers;
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config};
use smmuv3_machine::*;

const C_BAD_STREAMID: u64 = 0x02;
const F_STE_FETCH: u64 = 0x03;
const C_BAD_STE: u64 = 0x04;
const F_STREAM_DISABLED: u64 = 0x06;
const C_BAD_SUBSTREAMID: u64 = 0x08;
const F_WALK_EABT: u64 = 0x0b;
const F_TRANSLATION: u64 = 0x10;
const F_ADDR_SIZE: u64 = 0x11;
const F_ACCESS: u64 = 0x12;
const F_PERMISSION: u64 = 0x13;

const CLASS_TT: u64 = 1 << 40;
const CLASS_IN: u64 = 2 << 40;
const RNW: u64 = 1 << 35;
const S2_FAULT: u64 = 1 << 39;
const TTRNW: u64 = 1 << 44;

fn off(machine: &Machine) {
    machine.unit.write32(CR0, CMDQEN | EVENTQEN);
}

fn on(machine: &Machine) {
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
}

#[test]
fn two_level_tables_lead_to_entries() {
    let mut machine = Machine::new();
    let (first, second) = (machine.allocate(), machine.allocate_aligned(0x4000));
    off(&machine);
    machine.unit.write64(0x80, first);
    // 16 bits of streams, split at 8.
    machine.unit.write32(0x88, 16 | 8 << 6 | 1 << 16);
    on(&machine);
    machine.put(PAGE, 4);
    let stream = 0x312;
    // Span 6: 32 entries.
    machine.put(first + 3 * 8, second | 6);
    machine.put_words(second + 0x12 * 64, &Entry::new(BYPASS).0);
    assert_eq!(machine.read(stream, PAGE), Ok(4));
    // 7.3.3: beyond the span, in a part without table, with a reserved span or one beyond the split, and beyond the table.
    machine.refused(machine.read(0x320, PAGE), C_BAD_STREAMID);
    machine.refused(machine.read(0x412, PAGE), C_BAD_STREAMID);
    for span in [12, 31, 10] {
        machine.put(first + 5 * 8, second | span);
        machine.refused(machine.read(0x500, PAGE), C_BAD_STREAMID);
    }
    machine.refused(machine.read(0x1_0000, PAGE), C_BAD_STREAMID);
    // The tables are not in memory.
    machine.put(first + 6 * 8, 0xf_0000_0000 | 9);
    let event = machine.refused(machine.read(0x601, PAGE), F_STE_FETCH);
    assert_eq!(event[1..], [0, 0, 0xf_0000_0040]);
    // 7.3.3: not recorded unless RECINVSID says so.
    off(&machine);
    machine.unit.write32(CR2, 0);
    on(&machine);
    machine.refused_silently(machine.read(0x412, PAGE));
}

#[test]
fn an_entry_that_breaks_a_rule_is_c_bad_ste() {
    // 5.2.2, SteIllegal(), one rule after the other.
    let two = |change: fn(&mut [u64; 8])| {
        let mut entry = Entry::new(0).stage2(TABLES, 1);
        change(&mut entry.0);
        entry
    };
    let one = |change: fn(&mut [u64; 8])| {
        let mut entry = Entry::stage1(TABLES);
        change(&mut entry.0);
        entry
    };
    let full = Smmuv3Config::full();
    let plain = Smmuv3Config { stage2: true, output_bits: 44, ..Smmuv3Config::default() };
    let only1 = Smmuv3Config::default();
    let only2 = Smmuv3Config { stage1: false, stage2: true, asid_16: false, ..Smmuv3Config::default() };
    let narrow = Smmuv3Config { substream_id_bits: 4, ..plain.clone() };
    let stage2_words: [fn(&mut [u64; 8]); 7] = [
        // S2AA64.
        |words| words[2] &= !(1 << 51),
        // S2TG reserved.
        |words| words[2] |= 3 << 46,
        // S2TTB beyond S2PS.
        |words| words[3] |= 1 << 44,
        // S2T0SZ too small, and too large.
        |words| words[2] = words[2] & !(0x3f << 32) | 11 << 32,
        |words| words[2] = words[2] & !(0x3f << 32) | 49 << 32,
        // S2SL0 that does not fit: level 0 for 39 bits, level 2 for 39 bits.
        |words| words[2] = words[2] & !(3 << 38) | 2 << 38,
        |words| words[2] &= !(3 << 38),
    ];
    for change in stage2_words {
        let machine = Machine::with(full.clone());
        let entry = two(change);
        machine.stream(STREAM, entry);
        machine.refused(machine.read(STREAM, 0x1000), C_BAD_STE);
    }
    for (config, entry) in [
        // STRW reserved, where it is used.
        (full.clone(), one(|words| words[1] |= 1 << 30)),
        // S1ContextPtr beyond the output size; S1CDMax beyond SSIDSIZE; S1Fmt without CD2L; S1STALLD where nothing stalls.
        (plain.clone(), one(|words| words[0] |= 1 << 44)),
        (narrow.clone(), one(|words| words[0] |= 5 << 59)),
        (narrow, one(|words| words[0] |= 4 << 59 | 1 << 4)),
        (plain.clone(), one(|words| words[1] |= 1 << 27)),
        // What the unit does not update, and stalls where there are none; VMIDs of 16 bits; big-endian tables.
        (plain.clone(), two(|words| words[2] |= 1 << 56)),
        (plain.clone(), two(|words| words[2] |= 1 << 55)),
        (plain.clone(), two(|words| words[2] |= 1 << 57)),
        (plain.clone(), two(|words| words[2] |= 0x100)),
        (plain.clone(), one(|words| words[2] |= 0x100)),
        (plain, two(|words| words[2] |= 1 << 52)),
        // Stages that are not there.
        (only1.clone(), two(|_| {})),
        (only2, one(|_| {})),
    ] {
        let machine = Machine::with(config);
        machine.stream(STREAM, entry);
        machine.refused(machine.read(STREAM, 0x1000), C_BAD_STE);
    }
    // What is not used is not looked at: the same bits under bypass, and S2VMID without stage 2.
    let machine = Machine::with(only1);
    machine.stream(STREAM, Entry([1 | BYPASS << 1, 1 << 27 | 1 << 30, u64::MAX, u64::MAX, 0, 0, 0, 0]));
    assert_eq!(machine.read(STREAM, PAGE), Ok(0));
    let words = Entry::stage1(TABLES).with(2, 0xffff);
    machine.stream(OTHER_STREAM, words);
    machine.refused(machine.read(OTHER_STREAM, 0x1000), 0x0a);
    assert!(FlagUpdates::default() == FlagUpdates::None);
}

/// A table of two descriptors, of which each maps 0x1000 to its own page.
fn two_contexts(machine: &mut Machine) -> u64 {
    let at = machine.allocate();
    for (index, page) in [(0, PAGE), (1, OTHER_PAGE)] {
        let table = machine.allocate();
        machine.map(table, 0x1000, page, S1 | USER);
        machine.put_words(at + 64 * index, &descriptor(table, index + 1));
    }
    machine.put(PAGE, 10);
    machine.put(OTHER_PAGE, 11);
    at
}

#[test]
fn substreams_choose_their_descriptor() {
    let mut machine = Machine::new();
    let at = two_contexts(&mut machine);
    // 16 descriptors, linear; transactions without substream are terminated.
    machine.stream(STREAM, Entry::stage1(at).with(0, 4 << 59));
    assert_eq!(read(&machine.substream_port(STREAM, 0), 0x1000), Ok(10));
    assert_eq!(read(&machine.substream_port(STREAM, 1), 0x1000), Ok(11));
    machine.refused(machine.read(STREAM, 0x1000), F_STREAM_DISABLED);
    // SSV and the SubstreamID in records that have them, and the one that has no SSV.
    let event = machine.refused(read(&machine.substream_port(STREAM, 1), 0x9000), F_TRANSLATION);
    assert_eq!(event[0], F_TRANSLATION | 1 << 11 | 1 << 12 | u64::from(STREAM) << 32);
    let event = machine.refused(read(&machine.substream_port(STREAM, 16), 0x1000), C_BAD_SUBSTREAMID);
    assert_eq!(event[0], C_BAD_SUBSTREAMID | 16 << 12 | u64::from(STREAM) << 32);
    // S1DSS: bypass of stage 1, and substream 0's descriptor, which substream 0 itself then may not use.
    machine.stream(STREAM, Entry::stage1(at).with(0, 4 << 59).with(1, 1));
    machine.forget();
    assert_eq!(machine.read(STREAM, PAGE), Ok(10));
    assert_eq!(read(&machine.substream_port(STREAM, 0), 0x1000), Ok(10));
    machine.stream(STREAM, Entry::stage1(at).with(0, 4 << 59).with(1, 2));
    machine.forget();
    assert_eq!(machine.read(STREAM, 0x1000), Ok(10));
    machine.refused(read(&machine.substream_port(STREAM, 0), 0x1000), F_STREAM_DISABLED);
    assert_eq!(read(&machine.substream_port(STREAM, 1), 0x1000), Ok(11));
    // 7.3.9: substreams where there are none, and without stage 1.
    machine.stream(STREAM, Entry::stage1(at));
    machine.forget();
    machine.refused(read(&machine.substream_port(STREAM, 0), 0x1000), C_BAD_SUBSTREAMID);
    machine.stream(STREAM, Entry::new(BYPASS));
    machine.forget();
    machine.refused(read(&machine.substream_port(STREAM, 1), PAGE), C_BAD_SUBSTREAMID);
}

#[test]
fn two_level_descriptor_tables_lead_to_descriptors() {
    // Leaves of 4 KiB hold 64 descriptors, of 64 KiB 1024.
    for (format, bits, size) in [(1, 6, 0x1000), (2, 10, 0x1_0000)] {
        let mut machine = Machine::new();
        let (first, leaf) = (machine.allocate(), machine.allocate_aligned(size));
        let table = machine.allocate();
        machine.map(table, 0x1000, PAGE, S1 | USER);
        machine.put(PAGE, 12);
        let substream = 2 << bits | 3;
        machine.put(first + 2 * 8, leaf | 1);
        machine.put_words(leaf + 3 * 64, &descriptor(table, 1));
        machine.stream(STREAM, Entry::stage1(first).with(0, format << 4 | 12 << 59));
        assert_eq!(read(&machine.substream_port(STREAM, substream), 0x1000), Ok(12));
        // 7.3.9: without V, and beyond the output size.
        machine.refused(read(&machine.substream_port(STREAM, 1 << bits), 0x1000), C_BAD_SUBSTREAMID);
        machine.put(first + 8, 1 << 52 | 1);
        machine.refused(read(&machine.substream_port(STREAM, 1 << bits), 0x1000), C_BAD_SUBSTREAMID);
    }
}

#[test]
fn bypass_is_bounded_by_the_output_size() {
    let machine = Machine::with(Smmuv3Config { output_bits: 36, ..Smmuv3Config::default() });
    machine.stream(STREAM, Entry::new(BYPASS));
    let event = machine.refused(machine.read(STREAM, 1 << 36), F_ADDR_SIZE);
    // A stage-1 fault (3.4).
    assert_eq!(event[1..], [CLASS_IN | RNW, 1 << 36, 0]);
    // Disabled: terminated without an event; and GBPA.ABORT.
    off(&machine);
    machine.refused_silently(machine.read(STREAM, 1 << 36));
    assert_eq!(machine.read(STREAM, PAGE), Ok(0));
    assert_eq!(read(&machine.substream_port(STREAM, 3), PAGE), Ok(0));
    machine.unit.write32(GBPA, 1 << 20);
    assert_eq!(machine.read(STREAM, PAGE), Ok(0), "without Update nothing changes");
    machine.unit.write32(GBPA, 1 << 31 | 1 << 20 | 1 << 12);
    assert_eq!(machine.unit.read32(GBPA), 1 << 20 | 1 << 12);
    machine.refused_silently(machine.read(STREAM, PAGE));
    // A bypassed stage 1 in front of stage 2 is checked as a stage-1 output.
    let mut machine =
        Machine::with(Smmuv3Config { stage2: true, output_bits: 36, ..Smmuv3Config::default() });
    let table = machine.allocate();
    let mut entry = Entry::new(0).stage2(table, 1);
    // 36 bits.
    entry.0[2] = entry.0[2] & !(0x3f << 32) | 28 << 32;
    machine.stream(STREAM, entry);
    let event = machine.refused(machine.read(STREAM, 1 << 36), F_ADDR_SIZE);
    assert_eq!(event[1], CLASS_IN | RNW);
}

#[test]
fn stage_2_flags_rights_and_sizes() {
    let mut machine = Machine::new();
    let table = machine.allocate();
    let entry = Entry::new(0).stage2(table, 1);
    machine.stream(STREAM, entry);
    // AF, then S2AFFD, then S2HA and S2HD.
    let plain = S2 & !(1 << 10) & !(1 << 7);
    let leaf = machine.map(table, 0x1000, PAGE, plain | DBM);
    let event = machine.refused(machine.read(STREAM, 0x1000), F_ACCESS);
    assert_eq!(event[1..], [S2_FAULT | CLASS_IN | RNW, 0x1000, 0x1000]);
    machine.stream(STREAM, entry.with(2, 1 << 53));
    machine.forget();
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    machine.refused(machine.write(STREAM, 0x1000, 0), F_PERMISSION);
    machine.stream(STREAM, entry.with(2, 3 << 55));
    machine.forget();
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    assert_eq!(machine.get(leaf), PAGE | plain | DBM | 1 << 10 | 3);
    machine.write(STREAM, 0x1000, 0).unwrap();
    assert_eq!(machine.get(leaf), PAGE | plain | DBM | 1 << 10 | 1 << 7 | 3);
    // No rights at all are a permission fault, not a translation fault.
    machine.put(leaf, PAGE | 1 << 10 | 0xf << 2 | 3);
    machine.forget();
    machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
    // Outputs beyond S2PS, addresses beyond S2T0SZ, tables that are not in memory.
    machine.put(leaf, 1 << 44 | S2 | 3);
    machine.forget();
    machine.refused(machine.read(STREAM, 0x1000), F_ADDR_SIZE);
    let event = machine.refused(machine.read(STREAM, 1 << 39), F_TRANSLATION);
    assert_eq!(event[1..], [S2_FAULT | CLASS_IN | RNW, 1 << 39, 1 << 39]);
    machine.put(table + 8, 0xf_0000_0003);
    let event = machine.refused(machine.read(STREAM, 1 << 30), F_WALK_EABT);
    assert_eq!(event[1..], [S2_FAULT | CLASS_IN | RNW, 1 << 30, 0xf_0000_0000]);
    // S2R clear: not recorded; stage 2 always aborts.
    let mut quiet = entry;
    quiet.0[2] &= !(1 << 58);
    machine.stream(STREAM, quiet);
    machine.forget();
    machine.refused_silently(machine.read(STREAM, 0x7000));
}

#[test]
fn stage_2_fetches_by_xn_and_xnx() {
    let fetches = |xnx: bool, xn: u64| {
        let config = Smmuv3Config { stage2_execute_by_privilege: xnx, ..Smmuv3Config::full() };
        let mut machine = Machine::with(config);
        let table = machine.allocate();
        machine.stream(STREAM, Entry::new(0).stage2(table, 1));
        machine.map(table, 0x1000, PAGE, S2 | xn << 53);
        let port = machine.port(STREAM);
        (fetch(&port, 0x1000).is_ok(), fetch(&port.privileged(), 0x1000).is_ok())
    };
    // Arm ARM D8.4.3: XN[1:0]; without FEAT_XNX, XN[0] is ignored.
    assert_eq!(
        [0, 1, 2, 3].map(|xn| fetches(false, xn)),
        [(true, true), (true, true), (false, false), (false, false)]
    );
    assert_eq!(
        [0, 1, 2, 3].map(|xn| fetches(true, xn)),
        [(true, true), (true, false), (false, false), (false, true)]
    );
}

#[test]
fn concatenated_tables_and_granules_of_stage_2() {
    let mut machine = Machine::new();
    machine.put(PAGE + 8, 6);
    // 4 KiB from level 1 with 41 bits: four tables side by side.
    let table = machine.allocate_aligned(0x4000);
    let mut entry = Entry::new(0).stage2(table, 1);
    entry.0[2] = entry.0[2] & !(0x3f << 32) | 23 << 32;
    machine.stream(STREAM, entry);
    let (next, last) = (machine.allocate(), machine.allocate());
    machine.put(table + (3 << 9 | 5) * 8, next | 3);
    machine.put(next, last | 3);
    machine.put(last, PAGE | S2 | 3);
    assert_eq!(machine.read(STREAM, 3 << 39 | 5 << 30 | 8), Ok(6));
    // 64 KiB from level 3, 26 bits.
    let table = machine.allocate_aligned(0x1_0000);
    let mut entry = Entry::new(0).stage2(table, 1);
    entry.0[2] = entry.0[2] & !(0xff << 32) & !(3 << 46) | 38 << 32 | 1 << 46;
    machine.stream(STREAM, entry);
    machine.forget();
    machine.put(table + 7 * 8, PAGE | S2 | 3);
    assert_eq!(machine.read(STREAM, 7 << 16 | 8), Ok(6));
}

/// Nested stages in which stage 2 maps all table memory to itself, and stage 1 maps 0x1000 to 0x5000.
fn nested(machine: &mut Machine, cd: u64, ste: u64) -> (u64, u64, u64) {
    let (second, first) = (machine.allocate(), machine.allocate());
    let mut words = descriptor(first, 1);
    words[0] |= cd;
    let at = machine.context(words);
    machine.stream(STREAM, Entry::stage1(at).stage2(second, 3).with(2, ste));
    let leaf = machine.map(first, 0x1000, 0x5000, S1 & !(1 << 10) | USER);
    for page in (TABLES..TABLES + 0x2_0000).step_by(0x1000) {
        machine.map(second, page, page, S2);
    }
    machine.map(second, 0x5000, PAGE, S2);
    (second, leaf, at)
}

#[test]
fn flags_of_stage_1_are_written_through_stage_2() {
    let mut machine = Machine::new();
    let (second, leaf, _) = nested(&mut machine, 1 << 43, 0);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    assert_eq!(machine.get(leaf) >> 10 & 1, 1);
    // 3.13.5: stage 2 must permit that write; TTRnW says that it was a write.
    machine.put(leaf, machine.get(leaf) & !(1 << 10));
    machine.map(second, leaf & !0xfff, leaf & !0xfff, S2 & !(1 << 7));
    machine.forget();
    let event = machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
    assert_eq!(event[1..], [S2_FAULT | CLASS_TT | RNW, 0x1000, leaf & !0xfff]);
    // A read of the table that is refused.
    machine.map(second, leaf & !0xfff, leaf & !0xfff, S2 & !(3 << 6));
    machine.forget();
    let event = machine.refused(machine.write(STREAM, 0x1000, 0), F_PERMISSION);
    assert_eq!(event[1..], [S2_FAULT | CLASS_TT | TTRNW, 0x1000, leaf & !0xfff]);
}

#[test]
fn s2ptw_keeps_tables_out_of_device_memory() {
    let mut machine = Machine::new();
    let (second, leaf, at) = nested(&mut machine, 1 << 43, 1 << 54);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    // Device-nGnRE.
    let device = S2 & !(0xf << 2) | 1 << 2;
    machine.map(second, leaf & !0xfff, leaf & !0xfff, device);
    machine.forget();
    let event = machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
    assert_eq!(event[1] & !TTRNW, S2_FAULT | CLASS_TT | RNW);
    machine.map(second, leaf & !0xfff, leaf & !0xfff, S2);
    machine.map(second, at, at, device);
    machine.forget();
    let event = machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
    assert_eq!(event[1..], [S2_FAULT | RNW, 0x1000, at]);
    // The output itself may be device memory.
    machine.map(second, at, at, S2);
    machine.map(second, 0x5000, PAGE, device);
    machine.forget();
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
}

#[test]
fn requests_of_ats_are_unsupported() {
    use portcullis_model::AccessError;
    use portcullis_spec::{Access, Iova, RequestType};
    let machine = Machine::new();
    machine.stream(STREAM, Entry::new(BYPASS));
    let port = machine.port(STREAM);
    for request_type in [RequestType::TranslationRequest, RequestType::Translated] {
        let mut transaction = port.transaction(Iova(PAGE), 8, Access::READ);
        transaction.request_type = request_type;
        let done = port.translate(&transaction).map_err(AccessError::Refused);
        assert_eq!(machine.refused(done, 0x01)[1..], [RNW, PAGE, 0]);
    }
}
