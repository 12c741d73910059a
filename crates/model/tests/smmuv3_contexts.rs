//! Context descriptors and what stage 1 makes of them (SMMUv3 3.3.2, 3.4, 3.13, 5.3 to 5.5; VMSAv8-64).

mod smmuv3_machine;

use portcullis_model::Registers;
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config, TableByteOrder};
use portcullis_model::{AccessError, GuestMemory};
use portcullis_spec::{Access, Iova, PhysAddr};
use smmuv3_machine::*;

const C_BAD_CD: u64 = 0x0a;
const F_CD_FETCH: u64 = 0x09;
const F_WALK_EABT: u64 = 0x0b;
const F_TRANSLATION: u64 = 0x10;
const F_ADDR_SIZE: u64 = 0x11;
const F_ACCESS: u64 = 0x12;
const F_PERMISSION: u64 = 0x13;

type Change = fn(&mut [u64; 8]);

/// A stream whose one descriptor is `words`, over tables of the allocator's.
fn stream(machine: &mut Machine, change: impl FnOnce(&mut [u64; 8])) -> u64 {
    let table = machine.allocate();
    let mut words = descriptor(table, 1);
    change(&mut words);
    let at = machine.context(words);
    machine.stream(STREAM, Entry::stage1(at));
    table
}

#[test]
fn a_descriptor_that_breaks_a_rule_is_c_bad_cd() {
    // 5.4.2, CdIllegal(), one rule after the other.
    let rules: [(&str, Change); 12] = [
        ("V", |words| words[0] &= !(1 << 31)),
        ("AA64", |words| words[0] &= !(1 << 41)),
        ("T0SZ too small", |words| words[0] = words[0] & !0x3f | 15),
        ("T0SZ too large", |words| words[0] = words[0] & !0x3f | 49),
        ("TG0 reserved", |words| words[0] |= 3 << 6),
        ("TTB0 beyond IPS", |words| words[1] |= 1 << 48),
        ("TG1 reserved", |words| words[0] &= !(1 << 30)),
        ("T1SZ too small", |words| words[0] = words[0] & !(1 << 30) | 2 << 22 | 1 << 16),
        ("TTB1 beyond IPS", |words| {
            words[0] = words[0] & !(1 << 30) | 2 << 22 | 25 << 16;
            words[2] = 1 << 48;
        }),
        ("T0SZ of 64 KiB", |words| words[0] = words[0] & !0xff | 1 << 6 | 48),
        ("T0SZ of 16 KiB", |words| words[0] = words[0] & !0xff | 2 << 6 | 49),
        ("T0SZ of 64 KiB below 52 bits", |words| words[0] = words[0] & !0xff | 1 << 6 | 11),
    ];
    for (rule, change) in rules {
        let mut machine = Machine::new();
        stream(&mut machine, change);
        let event = machine.refused(machine.read(STREAM, 0x1000), C_BAD_CD);
        assert_eq!(event[1..], [0, 0, 0], "{rule}");
    }
    // Fields that count only where there is no such feature.
    let small = Smmuv3Config { asid_16: false, ..Smmuv3Config::default() };
    let rules: [(&str, Change); 5] = [
        ("ASID of 16 bits", |words| words[0] |= 0x100 << 48),
        ("HA", |words| words[0] |= 1 << 43),
        ("HD", |words| words[0] |= 1 << 42),
        ("S", |words| words[0] |= 1 << 44),
        ("A clear", |words| words[0] &= !(1 << 46)),
    ];
    for (rule, change) in rules {
        let mut machine = Machine::with(small.clone());
        stream(&mut machine, |_| {});
        machine.refused(machine.read(STREAM, 0x1000), F_TRANSLATION);
        stream(&mut machine, change);
        machine.forget();
        let done = machine.read(STREAM, 0x1000);
        assert_eq!(machine.refused(done, C_BAD_CD)[1], 0, "{rule}");
    }
}

#[test]
fn a_half_that_is_not_walked_needs_no_valid_fields() {
    // 5.4.1: EPD0 set makes T0SZ, TG0 and TTB0 ignored, and gives translation faults.
    let mut machine = Machine::new();
    stream(&mut machine, |words| {
        words[0] = words[0] & !0xff | 3 << 6 | 1 << 14;
        words[1] = u64::MAX << 4;
    });
    machine.refused(machine.read(STREAM, 0x1000), F_TRANSLATION);
}

#[test]
fn ttb1_translates_the_upper_half() {
    let mut machine = Machine::new();
    machine.unit.retain_translations();
    let upper = machine.allocate();
    let lower = stream(&mut machine, |words| {
        words[0] = words[0] & !(1 << 30) | 25 << 16 | 2 << 22;
        words[2] = upper;
    });
    machine.map(lower, 0x1000, PAGE, S1 | USER);
    machine.map(upper, 0x1000, OTHER_PAGE, S1 | USER);
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    assert_eq!(machine.read(STREAM, 0xffff_ff80_0000_1000), Ok(2));
    // 3.4.1: all bits above the range must agree.
    for hole in [1 << 39, 0xffff_ff00_0000_1000, 0x00ff_ff80_0000_1000] {
        machine.refused(machine.read(STREAM, hole), F_TRANSLATION);
    }
    // Each half goes by addresses of its own.
    machine.map(upper, 0x1000, PAGE, S1 | USER);
    machine.command(&[[0x12 | 1 << 48, 0x1000]]);
    assert_eq!(machine.read(STREAM, 0xffff_ff80_0000_1000), Ok(2));
    machine.command(&[[0x12 | 1 << 48, 0xffff_ff80_0000_1000]]);
    assert_eq!(machine.read(STREAM, 0xffff_ff80_0000_1000), Ok(1));
}

#[test]
fn the_top_byte_is_ignored_where_tbi_says_so() {
    let mut machine = Machine::new();
    let table = stream(&mut machine, |words| words[0] |= 1 << 38);
    let leaf = machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 3);
    machine.put(OTHER_PAGE, 4);
    assert_eq!(machine.read(STREAM, 0xab00_0000_0000_1000), Ok(3));
    // 7.3: InputAddr is as it came.
    let event = machine.refused(machine.read(STREAM, 0xab00_0000_0000_2000), F_TRANSLATION);
    assert_eq!(event[2], 0xab00_0000_0000_2000);
    // The page goes by its address with or without the tag.
    for (address, page) in [(0x1000, OTHER_PAGE), (0x4500_0000_0000_1000, PAGE)] {
        machine.put(leaf, page | S1 | USER | 3);
        machine.command(&[[0x12 | 1 << 48, address]]);
        assert_eq!(machine.read(STREAM, 0xab00_0000_0000_1000), Ok(machine.get(page)));
    }
}

#[test]
fn granules_of_16_and_64_kib_translate() {
    let mut machine = Machine::new();
    machine.put(PAGE + 0x3008, 0x16);
    machine.put(PAGE + 0xf008, 0x64);
    // 16 KiB, 36 bits: level 2 has 2^11 entries.
    let (level2, level3) = (machine.allocate_aligned(0x4000), machine.allocate_aligned(0x4000));
    stream(&mut machine, |words| {
        words[0] = words[0] & !0xff | 28 | 2 << 6;
        words[1] = level2;
    });
    machine.put(level2, level3 | 3);
    machine.put(level3 + 5 * 8, PAGE | S1 | USER | 3);
    assert_eq!(machine.read(STREAM, 5 << 14 | 0x3008), Ok(0x16));
    // 64 KiB, 42 bits: level 2 has 2^13 entries.
    let (level2, level3) = (machine.allocate_aligned(0x1_0000), machine.allocate_aligned(0x1_0000));
    stream(&mut machine, |words| {
        words[0] = words[0] & !0xff | 22 | 1 << 6;
        words[1] = level2;
    });
    machine.put(level2 + 8, level3 | 3);
    machine.put(level3 + 9 * 8, PAGE | S1 | USER | 3);
    machine.forget();
    assert_eq!(machine.read(STREAM, 1 << 29 | 9 << 16 | 0xf008), Ok(0x64));
    // A block of 512 MiB.
    machine.put(level2, S1 | USER | 1);
    machine.forget();
    assert_eq!(machine.read(STREAM, PAGE + 0xf008), Ok(0x64));
}

#[test]
fn blocks_translate_where_the_granule_has_them() {
    let mut machine = Machine::new();
    let table = stream(&mut machine, |_| {});
    machine.put(PAGE + 0x12_3450, 5);
    machine.map_from(table, 1, 2, 0x20_0000, PAGE | S1 | USER | 1);
    machine.map_from(table, 1, 1, 1 << 30, S1 | USER | 1);
    assert_eq!(machine.read(STREAM, 0x20_0000 + 0x12_3450), Ok(5));
    assert_eq!(machine.read(STREAM, (1 << 30) + PAGE + 0x12_3450), Ok(5));
    // Encoding 0b01 at level 3 is reserved: a translation fault.
    machine.map_from(table, 1, 3, 2 << 30, PAGE | S1 | USER | 1);
    machine.refused(machine.read(STREAM, 2 << 30), F_TRANSLATION);
}

#[test]
fn an_output_beyond_ips_is_an_address_size_fault() {
    let mut machine = Machine::new();
    // IPS of 32 bits.
    let table = stream(&mut machine, |words| words[0] &= !(7 << 32));
    machine.map(table, 0x1000, 1 << 32, S1 | USER);
    machine.refused(machine.read(STREAM, 0x1000), F_ADDR_SIZE);
    // And so is a table's.
    machine.put(table + 8, 1 << 32 | 3);
    machine.refused(machine.read(STREAM, 1 << 30), F_ADDR_SIZE);
}

#[test]
fn what_can_not_be_read_is_an_external_abort() {
    let mut machine = Machine::new();
    let nowhere = 0xf_0000_0000;
    let table = stream(&mut machine, |_| {});
    machine.put(table, nowhere | 3);
    let event = machine.refused(machine.read(STREAM, 0x20_0000), F_WALK_EABT);
    // CLASS TT though stage 1 alone is there (7.3.12), RnW; the descriptor's address.
    assert_eq!(event[1..], [1 << 40 | 1 << 35, 0x20_0000, nowhere + 8]);
    machine.stream(OTHER_STREAM, Entry::stage1(nowhere));
    let event = machine.refused(machine.read(OTHER_STREAM, 0x1000), F_CD_FETCH);
    assert_eq!(event[1..], [0, 0, nowhere]);
}

/// Which of reads, writes and fetches a page permits, unprivileged and privileged.
fn permitted(machine: &Machine, iova: u64) -> [bool; 6] {
    let user = machine.port(STREAM);
    let privileged = machine.port(STREAM).privileged();
    let allowed = [
        read(&user, iova).is_ok(),
        write(&user, iova).is_ok(),
        fetch(&user, iova).is_ok(),
        read(&privileged, iova).is_ok(),
        write(&privileged, iova).is_ok(),
        fetch(&privileged, iova).is_ok(),
    ];
    let refused = allowed.iter().filter(|allowed| !**allowed).count();
    let events = machine.take_events();
    assert_eq!(events.len(), refused);
    assert!(events.iter().all(|event| event[0] & 0xff == F_PERMISSION), "{events:x?}");
    allowed
}

#[test]
fn pages_permit_by_ap_uxn_and_pxn() {
    const T: bool = true;
    const F: bool = false;
    // Arm ARM D8.4.1, EL1&0: AP[2:1], and that what EL0 may write, EL1 does not execute.
    for (bits, expected) in [
        (0, [F, F, T, T, T, T]),
        (USER, [T, T, T, T, T, F]),
        (READ_ONLY, [F, F, T, T, F, T]),
        (READ_ONLY | USER, [T, F, T, T, F, T]),
        (USER | UXN, [T, T, F, T, T, F]),
        (READ_ONLY | USER | PXN, [T, F, T, T, F, F]),
        (UXN, [F, F, F, T, T, T]),
    ] {
        let mut machine = Machine::new();
        let table = stream(&mut machine, |_| {});
        machine.map(table, 0x1000, PAGE, S1 | bits);
        assert_eq!(permitted(&machine, 0x1000), expected, "{bits:#x}");
    }
    // PAN (bit 40): no privileged data access to what users may access. WXN (bit 36): what is writable never executes.
    for (cd, bits, expected) in [
        (1 << 40, USER, [T, T, T, F, F, F]),
        (1 << 40, 0, [F, F, T, T, T, T]),
        (1 << 40, USER | READ_ONLY, [T, F, T, F, F, T]),
        (1 << 36, USER, [T, T, F, T, T, F]),
        (1 << 36, 0, [F, F, T, T, T, F]),
        (1 << 36, USER | READ_ONLY, [T, F, T, T, F, T]),
    ] {
        let mut machine = Machine::new();
        let table = stream(&mut machine, |words| words[0] |= cd);
        machine.map(table, 0x1000, PAGE, S1 | bits);
        assert_eq!(permitted(&machine, 0x1000), expected, "CD {cd:#x}, {bits:#x}");
    }
}

#[test]
fn tables_limit_what_is_below_unless_had_says_no() {
    const T: bool = true;
    const F: bool = false;
    // APTable[0], APTable[1], UXNTable and PXNTable.
    for (bits, expected) in [
        (1 << 61, [F, F, T, T, T, T]),
        (1 << 62, [T, F, T, T, F, T]),
        (1 << 60, [T, T, F, T, T, F]),
        (1 << 59, [T, T, T, T, T, F]),
    ] {
        for had in [false, true] {
            let mut machine = Machine::new();
            let table = stream(&mut machine, |words| words[1] |= u64::from(had) << 1);
            machine.map(table, 0x1000, PAGE, S1 | USER);
            machine.put(table, machine.get(table) | bits);
            let expected = if had { [T, T, T, T, T, F] } else { expected };
            assert_eq!(permitted(&machine, 0x1000), expected, "{bits:#x}, HAD {had}");
        }
    }
}

#[test]
fn stream_entries_override_privilege_and_fetches() {
    const PRIVCFG: u32 = 48;
    const INSTCFG: u32 = 50;
    let mut machine = Machine::new();
    let table = stream(&mut machine, |_| {});
    let at = machine.get(STREAMS + 64 * u64::from(STREAM)) & !0xf;
    // Privileged alone, and not executable.
    machine.map(table, 0x1000, PAGE, S1 | UXN | PXN);
    let entry = Entry::stage1(at);
    let set = |machine: &Machine, bits: u64| {
        machine.stream(STREAM, entry.with(1, bits));
        machine.forget();
    };
    let port = machine.port(STREAM);
    machine.refused(read(&port, 0x1000), F_PERMISSION);
    set(&machine, 3 << PRIVCFG);
    assert_eq!(read(&port, 0x1000), Ok(0));
    set(&machine, 2 << PRIVCFG);
    let event = machine.refused(read(&port.clone().privileged(), 0x1000), F_PERMISSION);
    assert_eq!(event[1] >> 33 & 1, 0, "PnU after the override");
    set(&machine, 3 << PRIVCFG | 3 << INSTCFG);
    let event = machine.refused(read(&port, 0x1000), F_PERMISSION);
    assert_eq!(event[1] >> 33 & 7, 0b111, "PnU, InD, RnW");
    // 13.1.2: writes are data.
    write(&port, 0x1000).unwrap();
    set(&machine, 3 << PRIVCFG | 2 << INSTCFG);
    fetch(&port, 0x1000).unwrap();
    // Without ATTR_PERMS_OVR the fields do nothing.
    let mut machine = Machine::with(Smmuv3Config { permission_overrides: false, ..Smmuv3Config::full() });
    let table = stream(&mut machine, |_| {});
    machine.map(table, 0x1000, PAGE, S1);
    let at = machine.get(STREAMS + 64 * u64::from(STREAM)) & !0xf;
    machine.stream(STREAM, Entry::stage1(at).with(1, 3 << PRIVCFG));
    machine.forget();
    machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
}

/// Nothing but the stream's entry changes, and that is invalidated (4.3.1): the tables and what is cached of them stay.
#[test]
fn a_port_has_the_privilege_of_its_streams_present_entry() {
    const PRIVCFG: u32 = 48;
    let mut machine = Machine::new();
    let table = stream(&mut machine, |_| {});
    let at = machine.get(STREAMS + 64 * u64::from(STREAM)) & !0xf;
    // Privileged alone, and a page for everyone through the same table.
    machine.map(table, 0x1000, PAGE, S1);
    machine.map(table, 0x2000, PAGE, S1 | USER);
    let port = machine.port(STREAM);
    for (privileged, bits) in [(true, 3), (false, 2), (true, 3)] {
        machine.stream(STREAM, Entry::stage1(at).with(1, bits << PRIVCFG));
        machine.command(&[[0x03 | u64::from(STREAM) << 32, 1]]);
        // Another port comes first with the other page, so that this one meets what that found; but for the first time.
        let others = if privileged { 0 } else { 4 };
        for _ in 0..others {
            assert_eq!(machine.read(STREAM, 0x2000), Ok(0));
        }
        for _ in 0..6 {
            assert_eq!(port.enter().translate(Iova(0x1000), 8, Access::READ).is_ok(), privileged);
        }
        assert_eq!(machine.take_events().len(), if privileged { 0 } else { 6 });
    }
}

#[test]
fn the_access_flag_faults_is_ignored_or_is_set() {
    let mut machine = Machine::new();
    let no_flag = S1 & !(1 << 10) | USER;
    let table = stream(&mut machine, |_| {});
    let leaf = machine.map(table, 0x1000, PAGE, no_flag);
    machine.refused(machine.read(STREAM, 0x1000), F_ACCESS);
    // 3.13.1: it comes before a missing permission.
    machine.put(leaf, PAGE | no_flag | READ_ONLY | 3);
    machine.refused(machine.write(STREAM, 0x1000, 0), F_ACCESS);
    machine.put(leaf, PAGE | no_flag | 3);
    let at = machine.get(STREAMS + 64 * u64::from(STREAM)) & !0xf;
    // AFFD, then HA.
    for (bits, flag) in [(1 << 35, 0), (1 << 43, 1)] {
        machine.put(at, descriptor(table, 1)[0] | bits);
        machine.forget();
        assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
        assert_eq!(machine.get(leaf) >> 10 & 1, flag);
    }
}

#[test]
fn dirty_state_is_kept_before_a_write_is_granted() {
    let mut machine = Machine::new();
    let table = stream(&mut machine, |words| words[0] |= 3 << 42);
    let clean = S1 | USER | READ_ONLY | DBM;
    let leaf = machine.map(table, 0x1000, PAGE, clean);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
    assert_eq!(machine.get(leaf), PAGE | clean | 3);
    machine.write(STREAM, 0x1000, 1).unwrap();
    assert_eq!(machine.get(leaf), PAGE | clean & !READ_ONLY | 3);
    // Cleaned by software, and written again after the invalidation.
    machine.put(leaf, PAGE | clean | 3);
    machine.forget();
    machine.write(STREAM, 0x1000, 1).unwrap();
    assert_eq!(machine.get(leaf), PAGE | clean & !READ_ONLY | 3);
    // 3.13.3: what a table makes read-only stays so, and without HD the bit is nothing.
    machine.put(leaf, PAGE | clean | 3);
    machine.put(table, machine.get(table) | 1 << 62);
    machine.forget();
    machine.refused(machine.write(STREAM, 0x1000, 1), F_PERMISSION);
    let mut machine =
        Machine::with(Smmuv3Config { flag_updates: FlagUpdates::Accessed, ..Smmuv3Config::full() });
    let table = stream(&mut machine, |words| words[0] |= 1 << 43);
    machine.map(table, 0x1000, PAGE, clean);
    machine.refused(machine.write(STREAM, 0x1000, 1), F_PERMISSION);
}

#[test]
fn tables_may_be_big_endian() {
    let mut machine = Machine::new();
    let table = stream(&mut machine, |words| words[0] |= 1 << 15 | 1 << 43);
    let next = machine.allocate();
    let last = machine.allocate();
    machine.put(table, (next | 3).swap_bytes());
    machine.put(next, (last | 3).swap_bytes());
    machine.put(last + 8, (PAGE | S1 & !(1 << 10) | USER | 3).swap_bytes());
    machine.put(PAGE, 8);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(8));
    assert_eq!(machine.get(last + 8).swap_bytes(), PAGE | S1 | USER | 3);
    let little = Smmuv3Config { table_byte_order: TableByteOrder::Little, ..Smmuv3Config::full() };
    let mut machine = Machine::with(little);
    stream(&mut machine, |words| words[0] |= 1 << 15);
    machine.refused(machine.read(STREAM, 0x1000), C_BAD_CD);
    let big = Smmuv3Config { table_byte_order: TableByteOrder::Big, ..Smmuv3Config::full() };
    let mut machine = Machine::with(big);
    stream(&mut machine, |_| {});
    machine.refused(machine.read(STREAM, 0x1000), C_BAD_CD);
}

#[test]
fn a_and_r_say_what_becomes_of_a_fault() {
    // 5.5: A, R.
    for (bits, aborts, records) in [(3, true, true), (2, true, false), (1, false, true), (0, false, false)] {
        let mut machine = Machine::new();
        let table = stream(&mut machine, |words| words[0] = words[0] & !(3 << 45) | bits << 45);
        machine.map(table, 0x1000, PAGE, S1 | USER | READ_ONLY);
        machine.put(PAGE, u64::MAX);
        let mut bytes = [0xee; 8];
        let done = machine.port(STREAM).read(portcullis_spec::Iova(0x2000), &mut bytes);
        assert_eq!(matches!(done, Err(AccessError::Refused(_))), aborts);
        assert_eq!(bytes, if aborts { [0xee; 8] } else { [0; 8] });
        assert_eq!(machine.write(STREAM, 0x1000, 5).is_err(), aborts);
        assert_eq!(machine.get(PAGE), u64::MAX, "the write went nowhere");
        assert_eq!(machine.take_events().len(), if records { 2 } else { 0 });
        // Other faults are not governed by them.
        machine.put(table + 8, 0xf_0000_0003);
        machine.refused(machine.read(STREAM, 1 << 30), F_WALK_EABT);
    }
}

#[test]
fn el2_has_one_privilege_and_its_own_tags() {
    let mut machine = Machine::new();
    machine.unit.retain_translations();
    let table = stream(&mut machine, |_| {});
    let at = machine.get(STREAMS + 64 * u64::from(STREAM)) & !0xf;
    // STRW 0b10.
    machine.stream(STREAM, Entry::stage1(at).with(1, 2 << 30));
    // AP[1] and PXN are no matter; UXN is XN.
    let leaf = machine.map(table, 0x1000, PAGE, S1 | PXN);
    assert_eq!(permitted(&machine, 0x1000), [true; 6]);
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    machine.put(leaf, OTHER_PAGE | S1 | UXN | 3);
    // The invalidations of EL1 do not concern it.
    machine.command(&[[0x10, 0], [0x12 | 1 << 48, 0x1000], [0x28, 0]]);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    machine.command(&[[0x22, 0x1000]]);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(2));
    assert_eq!(permitted(&machine, 0x1000), [true, true, false, true, true, false]);
    // TTB1 is not there.
    machine.refused(machine.read(STREAM, 0xffff_ffff_ffff_f000), F_TRANSLATION);
    // E2H: EL2&0 has two privileges and ASIDs.
    machine.put(OTHER_PAGE, 2);
    machine.unit.write32(CR0, 0);
    machine.unit.write32(CR2, 3);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    machine.put(leaf, PAGE | S1 | 3);
    machine.forget();
    machine.refused(machine.read(STREAM, 0x1000), F_PERMISSION);
    assert_eq!(read(&machine.port(STREAM).privileged(), 0x1000), Ok(1));
    for (command, goes) in [([0x21 | 2 << 48, 0], false), ([0x21 | 1 << 48, 0], true), ([0x20, 0], true)] {
        machine.put(leaf, PAGE | S1 | 3);
        machine.forget();
        assert_eq!(read(&machine.port(STREAM).privileged(), 0x1000), Ok(1));
        machine.put(leaf, OTHER_PAGE | S1 | 3);
        machine.command(&[command]);
        assert_eq!(read(&machine.port(STREAM).privileged(), 0x1000), Ok(if goes { 2 } else { 1 }));
    }
}

#[test]
fn atomic_operations_need_both_rights() {
    use portcullis_spec::{Access, Iova};
    let mut machine = Machine::new();
    let second = machine.allocate();
    machine.stream(STREAM, Entry::new(0).stage2(second, 1));
    let leaf = machine.map(second, 0x1000, PAGE, S2 & !(1 << 6));
    let port = machine.port(STREAM);
    let atomic = port.transaction(Iova(0x1000), 8, Access::READ_WRITE | Access::ATOMIC);
    // 13.1.1: only reading is denied: RnW is 1. Both or writing: 0.
    for (bits, rnw) in [(S2 & !(1 << 6), 1), (S2 & !(1 << 7), 0), (S2 & !(3 << 6), 0)] {
        machine.memory.store64(PhysAddr(leaf), PAGE | bits | 3).unwrap();
        machine.forget();
        let done = port.translate(&atomic).map_err(AccessError::Refused);
        assert_eq!(machine.refused(done, F_PERMISSION)[1] >> 35 & 1, rnw, "{bits:#x}");
    }
    machine.memory.store64(PhysAddr(leaf), PAGE | S2 | 3).unwrap();
    machine.forget();
    assert!(port.translate(&atomic).is_ok());
}
