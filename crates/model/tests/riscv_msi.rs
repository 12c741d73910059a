//! Device contexts of the extended format, MSI page tables (RISC-V IOMMU 2.1, 2.3.3) and memory-resident interrupt files
//! (RISC-V AIA 9.3, 9.5).

mod riscv_machine;

use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::{AccessError, Registers, Width};
use portcullis_spec::{Access, Iova};
use riscv_machine::*;

const READ: Access = Access::READ;
const TR_REQ_IOVA: u64 = 0x258;
const TR_REQ_CTL: u64 = 0x260;
const TR_RESPONSE: u64 = 0x268;

/// `msiptp.MODE` Flat.
const FLAT: u64 = 1 << 60;
/// Modes of MSI page-table entries, with V.
const BASIC: u64 = 3 << 1 | V;
const MRIF: u64 = 1 << 1 | V;
/// Guest pages of interrupt files: 2800_0000h and 2900_0000h and 15 pages behind each.
const MASK: u64 = 0x100f;
const PATTERN: u64 = 0x2_8000;
const FILE: u64 = 0x2800_0000;
/// Behind memory: an interrupt controller may be there.
const CONTROLLER: u64 = 0x3000_0000;

fn with_tables() -> RiscvConfig {
    RiscvConfig { msi_tables: true, ..RiscvConfig::default() }
}

fn with_files() -> RiscvConfig {
    RiscvConfig { interrupt_files: true, ..with_tables() }
}

trait Extended {
    /// Writes a device context whose MSI page table is at `table`.
    fn extended(&self, device: u32, words: [u64; 4], table: u64) -> u64;
    fn entry(&self, table: u64, number: u64, words: [u64; 2]);
    fn send(&self, address: u64, bytes: &[u8]) -> Result<(), u16>;
}

impl Extended for Bench {
    fn extended(&self, device: u32, words: [u64; 4], table: u64) -> u64 {
        let at = self.device(device, words);
        for (index, word) in [FLAT | table >> 12, MASK, PATTERN, 0].into_iter().enumerate() {
            self.put(at + 32 + 8 * index as u64, word);
        }
        at
    }

    fn entry(&self, table: u64, number: u64, words: [u64; 2]) {
        self.put(table + number * 16, words[0]);
        self.put(table + number * 16 + 8, words[1]);
    }

    /// A device's write, or the cause of its refusal.
    fn send(&self, address: u64, bytes: &[u8]) -> Result<(), u16> {
        match self.port(DEVICE, None).write(Iova(address), bytes) {
            Ok(()) => Ok(()),
            Err(AccessError::Refused(fault)) => Err(fault.code as u16),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn directories_of_extended_contexts() {
    for levels in 1..=3 {
        let bench = Bench::on(with_tables());
        bench.set_levels(levels);
        // 2.1: extended-format contexts leave 6, 15 and 24 bits.
        let highest = (1u32 << [6, 15, 24][levels as usize - 1]) - 1;
        for device in [0, 1, highest] {
            assert_eq!(bench.read(device, 0x1000), Err(258));
            bench.device(device, [V, 0, 0, 0]);
            assert_eq!(bench.read(device, 0x1000), Ok(0x1000));
        }
        if levels < 3 {
            assert_eq!(bench.read(highest + 1, 0x1000), Err(260));
            // 3.1.3: a wider DID is illegal.
            assert_eq!(bench.commands(&[[3 | 1 << 33 | u64::from(highest) << 40, 0]]) & 0x700, 0);
            assert_eq!(bench.commands(&[[3 | 1 << 33 | u64::from(highest + 1) << 40, 0]]) & 0x700, 1 << 10);
        }
    }
}

#[test]
fn misconfigured_extended_contexts() {
    let bench = Bench::on(with_tables());
    let at = bench.extended(DEVICE, [V, 0, 0, 0], 0x1000);
    assert_eq!(bench.read(DEVICE, 0x5000), Ok(0x5000));
    let good: Vec<u64> = (4..8).map(|word| bench.get(at + word * 8)).collect();
    // 2.1.3.5, 2.1.3.6, 2.1.2: reserved bits and modes; every bit of the last word.
    let reserved = [(4, 0x0fff_f000_0000_0000u64), (5, 0xfff << 52), (6, 0xfff << 52), (7, u64::MAX)];
    for (word, bits) in reserved {
        for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
            let place = at + word * 8;
            bench.put(place, good[word as usize - 4] ^ 1 << bit);
            bench.forget();
            assert_eq!(bench.read(DEVICE, 0x5000), Err(259), "word {word}, bit {bit}");
            bench.put(place, good[word as usize - 4]);
        }
    }
    for mode in 0..16 {
        bench.put(at + 32, mode << 60);
        bench.forget();
        assert_eq!(bench.read(DEVICE, 0x5000), if mode < 2 { Ok(0x5000) } else { Err(259) }, "{mode}");
    }
    // What is not valid is not looked at.
    bench.put(at, 0);
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x5000), Err(258));
}

/// The stages that a device can have: `iohgatp` and `fsc`, and the address at which it finds what lies at `guest`.
fn stages(bench: &Bench, guest: u64) -> [(u64, u64, u64); 4] {
    let (first, second, nested) = (bench.page(), bench.pages(4), bench.page());
    bench.map(first, 3, 0, 0x5000, pte(guest, LEAF));
    bench.map(first, 3, 0, 0x6000, pte(TARGET, LEAF));
    // The second stage has the guest's tables and TARGET, and at the interrupt files' pages something else.
    for block in (0..MEMORY).step_by(0x20_0000) {
        bench.map_guest(second, 3, 1, block, pte(block, LEAF));
    }
    bench.map_guest(second, 3, 0, guest, pte(TARGET + PAGE, LEAF));
    bench.map(nested, 3, 0, 0x5000, pte(guest, LEAF));
    bench.map(nested, 3, 0, 0x6000, pte(TARGET, LEAF));
    let iohgatp = sv(3) | 9 << 44 | second >> 12;
    [
        (0, 0, guest),
        (0, sv(3) | first >> 12, 0x5000),
        (iohgatp, 0, guest),
        (iohgatp, sv(3) | nested >> 12, 0x5000),
    ]
}

#[test]
fn guest_addresses_of_interrupt_files_go_by_the_msi_page_table() {
    let bench = Bench::on(with_tables());
    let table = bench.page();
    // Bits 0 to 3 and 12 of the page number: file 18 is page 2900_2000h.
    let guest = FILE + 0x0100_2000;
    bench.entry(table, 18, [pte(CONTROLLER, BASIC), u64::MAX]);
    bench.put(TARGET + 8, 7);
    for (iohgatp, fsc, iova) in stages(&bench, guest) {
        bench.extended(DEVICE, [V, iohgatp, 0, fsc], table);
        bench.forget();
        for _ in 0..2 {
            assert_eq!(bench.read(DEVICE, iova | 0xabc), Ok(CONTROLLER | 0xabc));
            assert_eq!(bench.write(DEVICE, iova | 0xabc), Ok(CONTROLLER | 0xabc));
            // Step 15: as a page that is never executed.
            assert_eq!(bench.fetch(DEVICE, iova), Err(1));
            bench.send(iova | 4, &0x1234u32.to_le_bytes()).unwrap();
            assert_eq!(bench.interrupts(), [(DEVICE, CONTROLLER | 4, 0x1234)]);
        }
        // Other pages go their way.
        let other = if fsc == 0 { TARGET } else { 0x6000 };
        assert_eq!(bench.load(DEVICE, other | 8), Ok(7));
        // With mode Off, the page is like any other.
        bench.put(bench.context_at(DEVICE) + 32, 0);
        bench.forget();
        let plain = if iohgatp == 0 { guest } else { TARGET + PAGE };
        assert_eq!(bench.read(DEVICE, iova | 0xabc), Ok(plain | 0xabc));
    }
    assert!(bench.records().is_empty());
}

#[test]
fn a_first_stages_rights_and_flags_come_before_the_msi_page_table() {
    let bench = Bench::on(with_tables());
    let table = bench.page();
    bench.entry(table, 0, [pte(CONTROLLER, BASIC), 0]);
    for (iohgatp, fsc, iova) in stages(&bench, FILE).into_iter().skip(1).step_by(2) {
        let leaf = bench.map(fsc << 12, 3, 0, iova, pte(FILE, LEAF & !(A | D)));
        bench.extended(DEVICE, [V | SADE, iohgatp, 0, fsc], table);
        bench.forget();
        assert_eq!(bench.read(DEVICE, iova), Ok(CONTROLLER));
        assert_eq!(bench.get(leaf) & (A | D), A);
        bench.send(iova, &[1, 0, 0, 0]).unwrap();
        assert_eq!(bench.get(leaf) & (A | D), A | D);
        bench.put(leaf, pte(FILE, LEAF & !W));
        assert_eq!(bench.write(DEVICE, iova), Err(15));
        assert_eq!(bench.read(DEVICE, iova), Ok(CONTROLLER));
    }
}

#[test]
fn tables_in_pages_of_interrupt_files_are_no_messages() {
    // 2.3.3 is for the address A of the transaction; implicit accesses go by the second stage alone.
    let bench = Bench::on(with_tables());
    let (table, second, first) = (bench.page(), bench.pages(4), bench.page());
    for block in (0..MEMORY).step_by(0x20_0000) {
        bench.map_guest(second, 3, 1, block, pte(block, LEAF));
    }
    bench.map_guest(second, 3, 0, FILE, pte(first, LEAF));
    bench.map(first, 3, 0, 0x5000, pte(TARGET, LEAF));
    bench.extended(DEVICE, [V, sv(3) | second >> 12, 0, sv(3) | FILE >> 12], table);
    assert_eq!(bench.read(DEVICE, 0x5000), Ok(TARGET));
}

#[test]
fn entries_of_msi_page_tables_are_checked() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    let context = bench.extended(DEVICE, [V, 0, 0, 0], table);
    let good = pte(CONTROLLER, BASIC);
    // Steps 9 to 14, and the formats of AIA 9.5.
    let mut causes = vec![([0, 0], 262), ([good & !1, !0], 262), ([V, 0], 263), ([V | 2 << 1, 0], 263)];
    causes.extend((3..10).chain(54..64).map(|bit| ([good | 1 << bit, 0], 263)));
    causes.extend((3..7).chain(54..64).map(|bit| ([MRIF | 1 << bit, 0], 263)));
    causes.extend((54..60).chain(61..64).map(|bit| ([MRIF, 1 << bit], 263)));
    for (words, cause) in causes {
        bench.entry(table, 3, words);
        assert_eq!(bench.read(DEVICE, FILE + 0x3000), Err(cause), "{words:x?}");
        assert_eq!(bench.iotval2(), 0);
        // Before what it may be used for is looked at.
        assert_eq!(bench.fetch(DEVICE, FILE + 0x3000), Err(cause), "{words:x?}");
        assert_eq!(bench.send(FILE + 0x3000, &[0; 4]), Err(cause), "{words:x?}");
        assert_eq!(bench.records().len(), 1);
    }
    // What is not valid is not kept (2.8).
    bench.entry(table, 3, [good, 0]);
    assert_eq!(bench.read(DEVICE, FILE + 0x3000), Ok(CONTROLLER));
    // DTF (3.2).
    bench.put(context, V | DTF);
    bench.entry(table, 3, [0, 0]);
    bench.forget();
    assert_eq!(bench.send(FILE + 0x3000, &[0; 4]), Err(262));
    assert!(bench.records().is_empty());
    // Step 7: behind memory; the entry number is ORed.
    bench.put(context, V);
    bench.put(context + 32, FLAT | MEMORY >> 12);
    bench.forget();
    assert_eq!(bench.read(DEVICE, FILE + 0x3000), Err(261));
    // Without the capability, MRIF mode is misconfigured.
    let bench = Bench::on(with_tables());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [pte(TARGET, MRIF), pte(TARGET, 5)]);
    assert_eq!(bench.send(FILE, &[9, 0, 0, 0]), Err(263));
    assert_eq!(bench.get(TARGET), 0);
}

#[test]
fn messages_are_written_where_the_entry_leads() {
    let bench = Bench::on(with_tables());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [pte(TARGET, BASIC), 0]);
    bench.entry(table, 1, [pte(CONTROLLER, BASIC), 0]);
    bench.send(FILE | 8, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(bench.get(TARGET | 8), 0x0807_0605_0403_0201);
    assert_eq!(bench.load(DEVICE, FILE | 8), Ok(0x0807_0605_0403_0201));
    // To where there is no memory, aligned 32-bit writes are messages, and nothing else is anything.
    let port = bench.port(DEVICE, None);
    for (offset, length) in [(0, 8), (2, 4), (0, 2), (1, 4)] {
        let written = port.write(Iova(FILE + 0x1000 + offset), &vec![1; length]);
        assert!(matches!(written, Err(AccessError::Memory(_))), "{offset}, {length}: {written:?}");
    }
    assert!(matches!(port.read(Iova(FILE + 0x1000), &mut [0; 4]), Err(AccessError::Memory(_))));
    assert!(bench.interrupts().is_empty());
    bench.send(FILE + 0x1000, &[5, 0, 0, 0]).unwrap();
    // Without an MSI page table a page of the first stage may lead there too.
    bench.send(CONTROLLER | 4, &[6, 0, 0, 0]).unwrap();
    assert_eq!(bench.interrupts(), [(DEVICE, CONTROLLER, 5), (DEVICE, CONTROLLER | 4, 6)]);
    bench.sink.dead.lock().unwrap().insert(CONTROLLER);
    assert!(matches!(port.write(Iova(FILE + 0x1000), &[5; 4]), Err(AccessError::Memory(_))));
}

#[test]
fn fctl_says_the_byte_order_of_msi_page_tables() {
    let bench = Bench::new(RiscvConfig { both_byte_orders: true, ..with_files() });
    bench.unit.write32(FCTL, 1);
    bench.set_big_endian(true);
    bench.queues_on();
    bench.set_levels(3);
    let table = bench.page();
    bench.entry(table, 0, [pte(CONTROLLER, BASIC), 0]);
    bench.entry(table, 1, [MRIF | TARGET >> 9 << 7, pte(TARGET + PAGE, 0x123)]);
    // Whatever SBE says (2.10).
    for sbe in [0, SBE] {
        bench.extended(DEVICE, [V | sbe, 0, 0, 0], table);
        bench.forget();
        assert_eq!(bench.read(DEVICE, FILE), Ok(CONTROLLER));
    }
    // The files themselves are little-endian always (AIA 9.3.1), and so are notices (9.5.2).
    bench.send(FILE + 0x1000, &[65, 0, 0, 0]).unwrap();
    bench.set_big_endian(false);
    assert_eq!(bench.get(TARGET + 0x10), 1 << 1);
    assert_eq!(bench.get(TARGET + PAGE), 0x123);
}

#[test]
fn messages_are_stored_in_memory_and_told_of() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    let (file, notice) = (TARGET + 0x200, CONTROLLER);
    // NID 400h: bit 60 of the second word.
    bench.entry(table, 0, [MRIF | file >> 9 << 7, pte(notice, 1 << 60 | 5)]);
    bench.put(file + 0x18, 0x55);
    let sent = |bytes: [u8; 4], address| {
        bench.send(FILE | address, &bytes).unwrap();
        bench.messages()
    };
    // The pending bits of 64k to 64k + 63 lie in doubleword 2k; enable bits are not looked at (AIA 9.3.1).
    for identity in [0u32, 1, 63, 64, 127, 1024, 2047] {
        let at = file + u64::from(identity / 64) * 16;
        let before = bench.get(at);
        assert_eq!(sent(identity.to_le_bytes(), 0), [(notice, 0x405)]);
        assert_eq!(bench.get(at), before | 1 << (identity % 64), "{identity}");
    }
    assert_eq!(bench.get(file + 0x18), 0x55);
    // In the other byte order at offset 4.
    assert_eq!(sent(2046u32.to_be_bytes(), 4), [(notice, 0x405)]);
    assert_eq!(bench.get(file + 0x1f0), 3 << 62);
    // AIA 9.5.2: accepted but discarded.
    assert!(sent(2048u32.to_le_bytes(), 0).is_empty());
    assert!(sent(0x8000_0001u32.to_le_bytes(), 0).is_empty());
    assert!(sent([1, 0, 0, 0], 4).is_empty());
    assert!(sent([2, 0, 0, 0], 8).is_empty());
    assert!(sent([2, 0, 0, 0], 0x800).is_empty());
    assert_eq!(bench.get(file), 1 << 63 | 3);
    // A notice to memory.
    bench.entry(table, 0, [MRIF | file >> 9 << 7, pte(TARGET + PAGE, 0x3ff)]);
    assert!(sent([3, 0, 0, 0], 0).is_empty());
    assert_eq!(bench.get(TARGET + PAGE), 0x3ff);
    assert!(bench.interrupts().is_empty());
    assert!(bench.records().is_empty());
}

#[test]
fn pages_of_files_in_memory_take_aligned_32_bit_accesses() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [MRIF | TARGET >> 9 << 7, pte(CONTROLLER, 5)]);
    bench.put(TARGET, 0x77);
    let port = bench.port(DEVICE, None);
    // AIA 9.5.2: a read gives zero.
    let mut word = [9; 4];
    port.read(Iova(FILE), &mut word).unwrap();
    assert_eq!(word, [0; 4]);
    assert!(bench.records().is_empty());
    // All others are not supported: 2.3, step 7 (260).
    for (offset, length) in [(0, 1), (0, 2), (2, 4), (1, 4), (0, 8), (0xffe, 2)] {
        assert_eq!(bench.send(FILE | offset, &vec![1; length]), Err(260), "{offset}, {length}");
        let read = port.read(Iova(FILE | offset), &mut vec![0; length]).unwrap_err();
        assert_eq!(read.fault().unwrap().code, 260, "{offset}, {length}");
        let records = bench.records();
        assert_eq!(records.iter().map(|it| it[0] & 0xfff).collect::<Vec<_>>(), [260, 260]);
    }
    let atomic = port.fetch_add(Iova(FILE), Width::Four, 1).unwrap_err();
    assert_eq!(atomic.fault().unwrap().code, 260);
    assert_eq!(bench.fetch_file(), Err(1));
    assert_eq!(bench.get(TARGET), 0x77);
    assert!(bench.messages().is_empty());
}

trait FetchFile {
    fn fetch_file(&self) -> Result<u64, u16>;
}

impl FetchFile for Bench {
    fn fetch_file(&self) -> Result<u64, u16> {
        self.records();
        self.fetch(DEVICE, FILE)
    }
}

#[test]
fn files_that_are_no_memory_are_refused_and_lost_notices_recorded() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    let context = bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [MRIF | CONTROLLER >> 9 << 7, pte(CONTROLLER, 5)]);
    // 264, a write.
    assert_eq!(bench.send(FILE | 4, &[0, 0, 0, 1]), Err(264));
    let [record] = bench.records()[..] else { panic!() };
    assert_eq!((record[0] & 0xfff, record[0] >> 34 & 0x3f, record[0] >> 40), (264, 3, DEVICE.into()));
    assert_eq!((record[2], record[3]), (FILE | 4, 0));
    assert!(bench.messages().is_empty());
    // 3.2: not reported with DTF, unlike 273.
    bench.put(context, V | DTF);
    bench.forget();
    assert_eq!(bench.send(FILE, &[1, 0, 0, 0]), Err(264));
    assert!(bench.records().is_empty());
    bench.sink.dead.lock().unwrap().insert(CONTROLLER + PAGE);
    bench.entry(table, 0, [MRIF | TARGET >> 9 << 7, pte(CONTROLLER + PAGE, 5)]);
    assert_eq!(bench.send(FILE, &[1, 0, 0, 0]), Ok(()));
    assert_eq!(bench.get(TARGET), 2);
    let [record] = bench.records()[..] else { panic!() };
    assert_eq!(record, [273, 0, CONTROLLER + PAGE, 0]);
}

#[test]
fn the_debug_port_translates_addresses_of_interrupt_files() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [pte(CONTROLLER, BASIC), 0]);
    bench.entry(table, 1, [MRIF | TARGET >> 9 << 7, pte(CONTROLLER, 5)]);
    let request = |iova: u64| {
        bench.unit.write64(TR_REQ_IOVA, iova);
        bench.unit.write64(TR_REQ_CTL, u64::from(DEVICE) << 40 | 1);
        bench.unit.read64(TR_RESPONSE)
    };
    assert_eq!(request(FILE), CONTROLLER >> 2);
    assert!(bench.records().is_empty());
    // 4.1: "if the MSI PTE is in MRIF mode, the process stops and reports Transaction type disallowed (260)".
    assert_eq!(request(FILE + 0x1000) & 1, 1);
    let [record] = bench.records()[..] else { panic!() };
    assert_eq!((record[0] & 0xfff, record[2]), (260, FILE + 0x1000));
    assert_eq!(bench.get(TARGET), 0);
}

/// `IOTINVAL.GVMA` with GV and a GSCID, and an address.
const fn gvma(gscid: u64, address: Option<u64>) -> [u64; 2] {
    let low = 1 | 1 << 7 | 1 << 33 | gscid << 44;
    match address {
        None => [low, 0],
        Some(address) => [low | 1 << 10, address >> 12 << 10],
    }
}

#[test]
fn kept_entries_are_forgotten_by_guest_and_guest_address() {
    let bench = Bench::on(with_files());
    bench.unit.retain_translations();
    let table = bench.page();
    let (old, new) = (CONTROLLER, CONTROLLER + PAGE);
    let (was, is) = ([pte(old, BASIC), 0], [pte(new, BASIC), 0]);
    // 2.8: by GSCID and guest address, whatever the stages are.
    for (iohgatp, fsc, iova) in stages(&bench, FILE) {
        bench.extended(DEVICE, [V, iohgatp & !(0xffff << 44) | 9 << 44, 0, fsc], table);
        let after = |commands: &[[u64; 2]]| {
            bench.entry(table, 0, was);
            bench.forget();
            assert_eq!(bench.read(DEVICE, iova), Ok(old));
            bench.entry(table, 0, is);
            assert_eq!(bench.read(DEVICE, iova), Ok(old));
            assert_eq!(bench.commands(commands) & 0x700, 0);
            bench.read(DEVICE, iova)
        };
        let kept: [&[[u64; 2]]; 4] = [&[gvma(8, None)], &[gvma(9, Some(FILE + PAGE))], &[[1, 0]], &[[3, 0]]];
        for commands in kept {
            assert_eq!(after(commands), Ok(old), "{commands:x?}");
        }
        let forgotten = [gvma(9, Some(FILE)), gvma(9, None), [1 | 1 << 7, 0]];
        for command in forgotten {
            assert_eq!(after(&[command]), Ok(new), "{command:x?}");
        }
    }
    // MRIF mode is never kept.
    bench.entry(table, 0, [MRIF | TARGET >> 9 << 7, pte(CONTROLLER, 5)]);
    bench.forget();
    bench.send(0x5000, &[1, 0, 0, 0]).unwrap();
    bench.entry(table, 0, is);
    assert_eq!(bench.read(DEVICE, 0x5000), Ok(new));
}

#[test]
fn a_changed_context_is_in_force_after_iodir() {
    let bench = Bench::on(with_tables());
    let (table, other) = (bench.page(), bench.page());
    let context = bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [pte(CONTROLLER, BASIC), 0]);
    bench.entry(other, 0, [pte(CONTROLLER + PAGE, BASIC), 0]);
    assert_eq!(bench.read(DEVICE, FILE), Ok(CONTROLLER));
    bench.put(context + 32, FLAT | other >> 12);
    assert_eq!(bench.read(DEVICE, FILE), Ok(CONTROLLER));
    bench.commands(&[[3 | 1 << 33 | u64::from(DEVICE) << 40, 0]]);
    assert_eq!(bench.read(DEVICE, FILE), Ok(CONTROLLER + PAGE));
    // The pattern, and the mask.
    bench.put(context + 48, PATTERN + 0x10);
    bench.put(context + 40, 0);
    bench.commands(&[[3 | 1 << 33 | u64::from(DEVICE) << 40, 0]]);
    assert_eq!(bench.read(DEVICE, FILE), Ok(FILE));
    assert_eq!(bench.read(DEVICE, FILE + 0x1_0000), Ok(CONTROLLER + PAGE));
    assert_eq!(bench.read(DEVICE, FILE + 0x1_1000), Ok(FILE + 0x1_1000));
}

#[test]
fn guards_reach_what_entries_lead_to_but_no_files_in_memory() {
    let bench = Bench::on(with_files());
    let table = bench.page();
    bench.extended(DEVICE, [V, 0, 0, 0], table);
    bench.entry(table, 0, [pte(TARGET, BASIC), 0]);
    bench.entry(table, 1, [MRIF | TARGET >> 9 << 7, pte(CONTROLLER, 5)]);
    let port = bench.port(DEVICE, None);
    let guard = port.enter();
    assert_eq!(guard.translate(Iova(FILE | 8), 4, READ).unwrap().address.0, TARGET | 8);
    assert_eq!(guard.translate(Iova(FILE + 0x1000), 4, READ).unwrap_err().code, 260);
    drop(guard);
    assert_eq!(bench.records().len(), 1);
}
