//! First and second stages (RISC-V Privileged, "Virtual Address Translation Process", "Two-Stage Address Translation", Svnapot,
//! Svpbmt; RISC-V IOMMU 2.1.3, 2.3, 3.2).

mod riscv_machine;

use portcullis_model::Registers;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_spec::{Access, Cacheability, Iova};
use riscv_machine::*;

const READ: Access = Access::READ;
const WRITE: Access = Access::WRITE;
const FETCH: Access = Access::EXECUTE;

#[test]
fn first_stages_of_three_four_and_five_levels() {
    for levels in 3..=5 {
        let bench = Bench::on(RiscvConfig::full());
        let width = 12 + 9 * levels;
        let root = bench.first_stage(DEVICE, levels, 0x5000);
        let high = !0 << (width - 1) | 0x7000;
        bench.map(root, levels, 0, high, pte(TARGET + PAGE, LEAF));
        assert_eq!(bench.read(DEVICE, 0x5123), Ok(TARGET + 0x123));
        assert_eq!(bench.write(DEVICE, 0x5fff), Ok(TARGET + 0xfff));
        assert_eq!(bench.fetch(DEVICE, 0x5000), Ok(TARGET));
        // The upper half is sign-extended; all else is a page fault.
        assert_eq!(bench.read(DEVICE, high | 8), Ok(TARGET + PAGE + 8));
        for iova in [1 << (width - 1), 1 << width | 0x5000, 1 << 63 | 0x5000, high ^ 1 << 63] {
            assert_eq!(bench.read(DEVICE, iova), Err(13), "{iova:#x}");
        }
        assert_eq!(bench.write(DEVICE, 0x6000), Err(15));
        assert_eq!(bench.fetch(DEVICE, 0x6000), Err(12));
    }
}

#[test]
fn second_stages_have_two_more_bits() {
    for levels in 3..=5 {
        let bench = Bench::on(RiscvConfig::full());
        let root = bench.pages(4);
        bench.device(DEVICE, [V, sv(levels) | 5 << 44 | root >> 12, 0, 0]);
        let highest = (1 << (14 + 9 * levels)) - PAGE;
        for guest in [0x5000, highest] {
            bench.map_guest(root, levels, 0, guest, pte(TARGET, LEAF));
            assert_eq!(bench.read(DEVICE, guest | 0xabc), Ok(TARGET + 0xabc));
        }
        for (guest, access, cause) in
            [(highest + PAGE, READ, 21), (1 << 63, WRITE, 23), (0x6abe, FETCH, 20), (0x6abf, WRITE, 23)]
        {
            assert_eq!(bench.access(&bench.port(DEVICE, None), guest, access), Err(cause));
            // 3.2: bits 63:2 of the guest-physical address; the access was the device's own.
            assert_eq!(bench.iotval2(), guest & !3);
        }
    }
}

#[test]
fn superpages_at_every_level() {
    let bench = Bench::on(RiscvConfig::full());
    let (first, second) = (bench.page(), bench.pages(4));
    bench.device(DEVICE, [V, 0, 0, sv(5) | first >> 12]);
    bench.device(DEVICE + 1, [V, sv(5) | second >> 12, 0, 0]);
    for level in 0..5 {
        let size = 1u64 << (12 + 9 * level);
        let iova = size * 3;
        bench.map(first, 5, level, iova, pte(size * 2, LEAF));
        bench.map_guest(second, 5, level, iova, pte(size * 2, LEAF));
        for device in [DEVICE, DEVICE + 1] {
            assert_eq!(bench.read(device, iova + size - 1), Ok(size * 2 + size - 1), "{level}");
        }
        bench.map(first, 5, level, iova, 0);
        bench.map_guest(second, 5, level, iova, 0);
        bench.forget();
        if level > 0 {
            // Step 6: misaligned.
            bench.map(first, 5, level, iova, pte(size * 2 + size / 2, LEAF));
            bench.map_guest(second, 5, level, iova, pte(size * 2 + PAGE, LEAF));
            assert_eq!(bench.read(DEVICE, iova), Err(13));
            assert_eq!(bench.read(DEVICE + 1, iova), Err(21));
            bench.map(first, 5, level, iova, 0);
            bench.map_guest(second, 5, level, iova, 0);
        }
    }
}

#[test]
fn entries_that_are_reserved_fault() {
    let bench = Bench::on(RiscvConfig { svpbmt: false, ..RiscvConfig::default() });
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    let guest_root = bench.pages(4);
    bench.device(DEVICE + 1, [V, sv(3) | guest_root >> 12, 0, 0]);
    let first = bench.map(root, 3, 0, 0x5000, 0);
    let second = bench.map_guest(guest_root, 3, 0, 0x5000, 0);
    let leaf = pte(TARGET, LEAF);
    let mut entries = vec![
        leaf & !V,
        // W without R, and a table at the last level.
        leaf & !R,
        leaf & !(R | X),
        pte(TARGET, V),
        // Svpbmt's bits without Svpbmt.
        leaf | 1 << 61,
        leaf | 2 << 61,
        leaf | 3 << 61,
    ];
    entries.extend((54..61).map(|bit| leaf | 1 << bit));
    for entry in entries {
        bench.put(first, entry);
        bench.put(second, entry);
        assert_eq!(bench.read(DEVICE, 0x5000), Err(13), "{entry:#x}");
        assert_eq!(bench.read(DEVICE + 1, 0x5000), Err(21), "{entry:#x}");
    }
    // In a table entry A, D, U and all of the upper bits are reserved; G is not.
    let tables = (root, bench.get(root));
    for bits in [A, D, U, 1 << 54, 1 << 60, 1 << 61, 1 << 63] {
        bench.put(tables.0, tables.1 | bits);
        assert_eq!(bench.read(DEVICE, 0x5000), Err(13), "{bits:#x}");
    }
    bench.put(tables.0, tables.1 | G | 3 << 8);
    bench.put(first, leaf | G | 3 << 8);
    assert_eq!(bench.read(DEVICE, 0x5000), Ok(TARGET));
}

#[test]
fn tables_that_can_not_be_read_are_access_faults() {
    let bench = Bench::on(RiscvConfig { physical_bits: 32, ..RiscvConfig::default() });
    let ports = [(READ, 5), (WRITE, 7), (FETCH, 1)];
    for at in [MEMORY, 1 << 32, 1 << 40] {
        for words in
            [[V, 0, 0, sv(3) | at >> 12], [V, sv(3) | at >> 12, 0, 0], [V, sv(3) | at >> 12, 0, sv(3)]]
        {
            bench.device(DEVICE, words);
            bench.forget();
            for (access, cause) in ports {
                assert_eq!(bench.access(&bench.port(DEVICE, None), 0x5000, access), Err(cause), "{words:x?}");
                assert_eq!(bench.iotval2(), 0);
            }
        }
    }
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    bench.put(root, pte(MEMORY, V));
    bench.forget();
    assert_eq!(bench.write(DEVICE, 0x5000), Err(7));
}

#[test]
fn rights_are_a_leafs() {
    let bench = Bench::on(RiscvConfig::default());
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    let guest_root = bench.pages(4);
    bench.device(DEVICE + 1, [V, sv(3) | guest_root >> 12, 0, 0]);
    // Rights, and what is refused of read, write and fetch. A fetch is a read for execute: it needs both.
    for (rights, refused) in [
        (R, [false, true, true]),
        (R | W, [false, false, true]),
        (R | X, [false, true, false]),
        (X, [true, true, true]),
        (R | W | X, [false; 3]),
    ] {
        for (device, causes) in [(DEVICE, [13, 15, 12]), (DEVICE + 1, [21, 23, 20])] {
            bench.map(root, 3, 0, 0x5000, pte(TARGET, V | U | A | D | rights));
            bench.map_guest(guest_root, 3, 0, 0x5000, pte(TARGET, V | U | A | D | rights));
            bench.forget();
            for (access, (refused, cause)) in
                [READ, WRITE, FETCH].into_iter().zip(refused.into_iter().zip(causes))
            {
                let expected = if refused { Err(cause) } else { Ok(TARGET) };
                assert_eq!(
                    bench.access(&bench.port(device, None), 0x5000, access),
                    expected,
                    "{rights:#x} {access:?}"
                );
            }
        }
    }
    // Without U nobody unprivileged is admitted; the second stage takes everybody for that.
    bench.map(root, 3, 0, 0x5000, pte(TARGET, LEAF & !U));
    bench.map_guest(guest_root, 3, 0, 0x5000, pte(TARGET, LEAF & !U));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5000), Err(13));
    assert_eq!(bench.read(DEVICE + 1, 0x5000), Err(21));
}

/// A process with number 3 and these bits of `ta`, whose first stage has a user's page at 0x5000 and a supervisor's at 0x6000.
fn process(bench: &Bench, ta: u64) {
    let (directory, root) = (bench.page(), bench.page());
    bench.device(DEVICE, [V | PDTV, 0, 0, 1 << 60 | directory >> 12]);
    bench.put(directory + 3 * 16, V | ta);
    bench.put(directory + 3 * 16 + 8, sv(3) | root >> 12);
    bench.map(root, 3, 0, 0x5000, pte(TARGET, LEAF));
    bench.map(root, 3, 0, 0x6000, pte(TARGET, LEAF & !U));
    bench.forget();
}

#[test]
fn supervisors_reach_users_pages_with_sum_and_never_execute_them() {
    let bench = Bench::on(RiscvConfig::default());
    const ENS: u64 = 2;
    const SUM: u64 = 4;
    for (ta, data) in [(ENS, false), (ENS | SUM, true)] {
        process(&bench, ta);
        let port = bench.port(DEVICE, Some(3)).privileged();
        let allowed = |allowed: bool, cause| if allowed { Ok(TARGET) } else { Err(cause) };
        assert_eq!(bench.access(&port, 0x5000, READ), allowed(data, 13));
        assert_eq!(bench.access(&port, 0x5000, WRITE), allowed(data, 15));
        assert_eq!(bench.access(&port, 0x5000, FETCH), Err(12));
        for access in [READ, WRITE, FETCH] {
            assert_eq!(bench.access(&port, 0x6000, access), Ok(TARGET));
        }
        let user = bench.port(DEVICE, Some(3));
        assert_eq!(bench.access(&user, 0x6000, READ), Err(13));
        assert_eq!(bench.access(&user, 0x5000, FETCH), Ok(TARGET));
    }
}

/// Privilege is the port's, also of one that was used without: a supervisor reaches no user's page (SUM clear).
#[test]
fn a_port_that_becomes_privileged_is_so_whatever_it_reached_before() {
    let bench = Bench::on(RiscvConfig::default());
    process(&bench, 2);
    let user = bench.port(DEVICE, Some(3));
    for _ in 0..4 {
        let guard = user.enter();
        for _ in 0..3 {
            assert!(guard.translate(Iova(0x5000), 1, READ).is_ok());
            assert!(guard.translate(Iova(0x5fff), 1, WRITE).is_ok());
        }
    }
    let supervisor = user.clone().privileged();
    assert_eq!(bench.access(&user, 0x6000, READ), Err(13));
    let became = user.privileged();
    for port in [&became, &supervisor] {
        for _ in 0..4 {
            let guard = port.enter();
            let read = |iova| guard.translate(Iova(iova), 1, READ).map_err(|fault| fault.code);
            assert_eq!((read(0x5000), read(0x6000).is_ok()), (Err(13), true));
        }
        assert_eq!(bench.records().len(), 4);
    }
}

#[test]
fn accessed_and_dirty_fault_or_are_set() {
    let bench = Bench::on(RiscvConfig::default());
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    let guest_root = bench.pages(4);
    let first = bench.map(root, 3, 0, 0x5000, 0);
    let second = bench.map_guest(guest_root, 3, 0, 0x5000, 0);
    let contexts = |tc| {
        bench.device(DEVICE, [V | tc, 0, 7 << 12, sv(3) | root >> 12]);
        bench.device(DEVICE + 1, [V | tc, sv(3) | guest_root >> 12, 0, 0]);
        bench.forget();
    };
    let bare = pte(TARGET, LEAF & !(A | D));
    let both = [(DEVICE, first, [13, 15]), (DEVICE + 1, second, [21, 23])];
    contexts(0);
    for (device, at, causes) in both {
        bench.put(at, bare);
        assert_eq!(bench.read(device, 0x5000), Err(causes[0]));
        bench.put(at, bare | A);
        assert_eq!(bench.read(device, 0x5000), Ok(TARGET));
        assert_eq!(bench.write(device, 0x5000), Err(causes[1]));
        assert_eq!(bench.get(at), bare | A);
        bench.put(at, bare | A | D);
        assert_eq!(bench.write(device, 0x5000), Ok(TARGET));
    }
    // SADE is the first stage's, GADE the second's.
    contexts(SADE);
    bench.put(first, bare);
    bench.put(second, bare);
    assert_eq!((bench.read(DEVICE, 0x5000), bench.get(first)), (Ok(TARGET), bare | A));
    assert_eq!((bench.write(DEVICE, 0x5000), bench.get(first)), (Ok(TARGET), bare | A | D));
    assert_eq!((bench.read(DEVICE + 1, 0x5000), bench.get(second)), (Err(21), bare));
    contexts(GADE);
    bench.put(first, bare);
    assert_eq!((bench.read(DEVICE, 0x5000), bench.get(first)), (Err(13), bare));
    assert_eq!((bench.read(DEVICE + 1, 0x5000), bench.get(second)), (Ok(TARGET), bare | A));
    assert_eq!((bench.write(DEVICE + 1, 0x5000), bench.get(second)), (Ok(TARGET), bare | A | D));
    // What is refused sets nothing.
    contexts(SADE);
    bench.put(first, bare & !W);
    assert_eq!((bench.write(DEVICE, 0x5000), bench.get(first)), (Err(15), bare & !W));
}

#[test]
fn napot_pages_are_64_kib() {
    let bench = Bench::on(RiscvConfig::default());
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    let guest_root = bench.pages(4);
    bench.device(DEVICE + 1, [V, sv(3) | guest_root >> 12, 0, 0]);
    const N: u64 = 1 << 63;
    let entry = pte(TARGET | 0x8000, LEAF | N);
    for page in 0..16 {
        bench.map(root, 3, 0, 0x20_0000 + page * PAGE, entry);
        bench.map_guest(guest_root, 3, 0, 0x20_0000 + page * PAGE, entry);
    }
    for page in [0, 7, 15] {
        for device in [DEVICE, DEVICE + 1] {
            assert_eq!(bench.read(device, 0x20_0004 + page * PAGE), Ok(TARGET + 4 + page * PAGE));
        }
    }
    // Any other size is reserved, and so is N above the last level.
    for low in [0, 0x4000, 0xc000, 0x9000] {
        let at = bench.map(root, 3, 0, 0x5000, pte(TARGET | low, LEAF | N));
        bench.forget();
        assert_eq!(bench.read(DEVICE, 0x5000), Err(13), "{:#x}", bench.get(at));
    }
    bench.map(root, 3, 1, 0x40_0000, pte(0x20_8000, LEAF | N));
    assert_eq!(bench.read(DEVICE, 0x40_0000), Err(13));
}

#[test]
fn memory_types_come_from_the_first_stage_unless_it_leaves_them_open() {
    let bench = Bench::on(RiscvConfig::default());
    let (root, guest_root) = (bench.page(), bench.pages(4));
    bench.device(DEVICE, [V, sv(3) | guest_root >> 12, 0, sv(3) | root >> 12]);
    for block in (0..MEMORY).step_by(0x20_0000) {
        bench.map_guest(guest_root, 3, 1, block, pte(block, LEAF));
    }
    const TYPES: [Cacheability; 3] =
        [Cacheability::Default, Cacheability::NonCacheable, Cacheability::Uncacheable];
    let target = MEMORY + TARGET;
    for first in 0..3u64 {
        for second in 0..3u64 {
            bench.map(root, 3, 0, 0x5000, pte(target, LEAF | first << 61));
            bench.map_guest(guest_root, 3, 0, target, pte(TARGET, LEAF | second << 61));
            bench.forget();
            let port = bench.port(DEVICE, None);
            let translation = port.translate(&port.transaction(Iova(0x5000), 1, READ)).unwrap();
            let expected = TYPES[if first == 0 { second } else { first } as usize];
            assert_eq!(translation.attributes.cacheability, expected, "{first} {second}");
        }
    }
    bench.map(root, 3, 0, 0x5000, pte(target, LEAF | 3 << 61));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5000), Err(13));
}

/// Both stages: the first's tables at guest 0x10000 and on, its page at guest 0x50000.
fn nested(bench: &Bench, tc: u64) -> (u64, u64) {
    let (tables, guest_root) = (bench.pages(4), bench.pages(4));
    bench.device(DEVICE, [V | tc, sv(3) | 5 << 44 | guest_root >> 12, 7 << 12, sv(3) | 0x10]);
    for page in 0..3 {
        bench.map_guest(guest_root, 3, 0, 0x1_0000 + page * PAGE, pte(tables + page * PAGE, LEAF & !X));
    }
    bench.put(tables, pte(0x1_1000, V));
    bench.put(tables + PAGE, pte(0x1_2000, V));
    bench.put(tables + 2 * PAGE + 5 * 8, pte(0x5_0000, LEAF));
    bench.map_guest(guest_root, 3, 0, 0x5_0000, pte(TARGET, LEAF));
    bench.forget();
    (tables, guest_root)
}

#[test]
fn two_stages_translate_tables_and_pages() {
    let bench = Bench::on(RiscvConfig::default());
    let (tables, guest_root) = nested(&bench, 0);
    assert_eq!(bench.write(DEVICE, 0x5678), Ok(TARGET + 0x678));
    // The second stage refuses the page: the guest's address, by an access of the device's own.
    bench.map_guest(guest_root, 3, 0, 0x5_0000, pte(TARGET, LEAF & !W));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5678), Ok(TARGET + 0x678));
    assert_eq!(bench.write(DEVICE, 0x5678), Err(23));
    assert_eq!(bench.iotval2(), 0x5_0678);
    // It refuses a table of each level: the entry's address, by an implicit read.
    for (page, entry) in [(0, 0x1_0000), (1, 0x1_1000), (2, 0x1_2028)] {
        let at = bench.map_guest(
            guest_root,
            3,
            0,
            0x1_0000 + page * PAGE,
            pte(tables + page * PAGE, V | X | U | A | D),
        );
        bench.forget();
        assert_eq!(bench.fetch(DEVICE, 0x5678), Err(20));
        assert_eq!(bench.iotval2(), entry | 1);
        bench.put(at, pte(tables + page * PAGE, LEAF));
    }
    bench.forget();
    // What the first stage refuses comes before what the second would (step 17 before step 19).
    bench.put(tables + 2 * PAGE + 5 * 8, pte(0x9_9000, LEAF & !(A | D)));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5678), Err(13));
    bench.put(tables + 2 * PAGE + 5 * 8, pte(0x9_9000, LEAF));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5678), Err(21));
    assert_eq!(bench.iotval2(), 0x9_9678);
}

#[test]
fn flags_of_a_guests_tables_are_set_through_the_second_stage() {
    let bench = Bench::on(RiscvConfig::default());
    let (tables, guest_root) = nested(&bench, SADE | GADE);
    let at = tables + 2 * PAGE + 5 * 8;
    bench.put(at, pte(0x5_0000, LEAF & !(A | D)));
    let table_page = bench.map_guest(guest_root, 3, 0, 0x1_2000, pte(tables + 2 * PAGE, V | R | W | U));
    bench.forget();
    assert_eq!(bench.write(DEVICE, 0x5678), Ok(TARGET + 0x678));
    assert_eq!(bench.get(at), pte(0x5_0000, LEAF));
    // That was a write to the page that holds the entry.
    assert_eq!(bench.get(table_page), pte(tables + 2 * PAGE, V | R | W | U | A | D));
    // Where the guest may not write its tables, the update is refused: an implicit write (3.2, iotval2 bits 0 and 1).
    bench.put(at, pte(0x5_0000, LEAF & !(A | D)));
    bench.put(table_page, pte(tables + 2 * PAGE, V | R | U));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5678), Err(21));
    assert_eq!(bench.iotval2(), 0x1_2028 | 3);
    assert_eq!(bench.get(at), pte(0x5_0000, LEAF & !(A | D)));
}

#[test]
fn both_byte_orders() {
    let bench = Bench::new(RiscvConfig::full());
    assert_eq!(bench.unit.read32(FCTL), 0);
    bench.unit.write32(FCTL, 1);
    assert_eq!(bench.unit.read32(FCTL), 1);
    bench.set_big_endian(true);
    bench.queues_on();
    bench.set_levels(3);
    // Directory, second stage, queues and records are big-endian; with SBE the first stage too.
    let (tables, _) = nested(&bench, SBE | SADE | GADE);
    let at = tables + 2 * PAGE + 5 * 8;
    bench.put(at, pte(0x5_0000, LEAF & !(A | D)));
    assert_eq!(bench.write(DEVICE, 0x5678), Ok(TARGET + 0x678));
    assert_eq!(bench.get(at), pte(0x5_0000, LEAF));
    assert_eq!(bench.read(DEVICE, 0x6000), Err(13));
    // Without SBE it is not.
    let context = bench.context_at(DEVICE);
    bench.put(context, V);
    for at in [tables, tables + PAGE, at] {
        bench.put(at, bench.get(at).swap_bytes());
    }
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5678), Ok(TARGET + 0x678));
    // A unit that is big-endian only says so, and SBE must say the same (2.1.4).
    let bench = Bench::new(RiscvConfig { big_endian: true, ..RiscvConfig::default() });
    bench.unit.write32(FCTL, 0);
    assert_eq!(bench.unit.read32(FCTL) & 1, 1);
    assert_eq!(bench.unit.read64(CAPABILITIES) >> 27 & 1, 0);
    bench.set_big_endian(true);
    bench.queues_on();
    bench.set_levels(3);
    bench.device(DEVICE, [V, 0, 0, 0]);
    assert_eq!(bench.read(DEVICE, 0x6000), Err(259));
    bench.device(DEVICE, [V | SBE, 0, 0, 0]);
    assert_eq!(bench.read(DEVICE, 0x6000), Ok(0x6000));
}

#[test]
fn nothing_beyond_pas_can_be_reached() {
    let bench = Bench::on(RiscvConfig { physical_bits: 32, ..RiscvConfig::default() });
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    assert!(bench.load(DEVICE, 0x5000).is_ok());
    // The bits above are none of the memory's, though they come to an address that it has.
    bench.map(root, 3, 0, 0x5000, pte(1 << 32 | TARGET, LEAF));
    bench.forget();
    assert!(matches!(bench.load(DEVICE, 0x5000), Err(portcullis_model::AccessError::Memory(_))));
}
