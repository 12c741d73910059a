//! Nested translation: a first stage whose tables and pages lie at guest addresses (VT-d 3.8, 7.1.3).

mod common;

use common::*;

const P: u64 = 1;
const USER_RW: u64 = 0b111;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const NESTED: u64 = 3 << 6 | 2 << 2 | 1;
const SSADE: u64 = 1 << 9;
const PWSNP: u64 = 1 << 23;

/// Guest addresses are this far above the memory behind them.
const GUEST: u64 = 0x1_0000_0000;

/// A device behind a nested entry: first-stage tables at `first` (a memory address; its guest address is `GUEST` above),
/// second-stage tables at `second`.
struct Nested {
    machine: Machine,
    first: u64,
    second: u64,
}

impl Nested {
    fn new(word0: u64, second_levels: u64) -> Self {
        let mut machine = Machine::scalable();
        let first = machine.allocate();
        let second = machine.allocate();
        let aw = second_levels - 2;
        let word0 = second | word0 & !(7 << 2) | aw << 2;
        machine.pasid(DEVICE, 0, [word0, PWSNP | 7, first + GUEST]);
        Self { machine, first, second }
    }

    /// Lets the second stage map the page at `page` where the guest expects it. Returns the leaf's address.
    fn back(&mut self, page: u64, rights: u64) -> u64 {
        let at = (page & !0xfff) + GUEST;
        self.machine.map(self.second, at, page & !0xfff, rights)
    }

    /// Maps a page in the first stage, at its guest address, through four tables that the second stage backs. Returns the
    /// addresses of the four entries, root first.
    fn map(&mut self, iova: u64, page: u64, flags: u64) -> [u64; 4] {
        let mut table = self.first;
        let mut entries = [0; 4];
        self.back(table, RW);
        for (slot, level) in entries.iter_mut().zip([3, 2, 1, 0]) {
            *slot = table + (iova >> (12 + 9 * level) & 511) * 8;
            if level == 0 {
                self.machine.put(*slot, (page + GUEST) | flags);
            } else {
                if self.machine.get(*slot) == 0 {
                    let next = self.machine.allocate();
                    self.machine.put(*slot, (next + GUEST) | USER_RW);
                    self.back(next, RW);
                }
                table = (self.machine.get(*slot) & 0x000f_ffff_ffff_f000) - GUEST;
            }
        }
        entries
    }
}

#[test]
fn both_stages_translate_and_both_keep_flags() {
    let mut nested = Nested::new(NESTED | SSADE, 4);
    let entries = nested.map(0x40_0000, PAGE, USER_RW);
    let leaf = nested.back(PAGE, RW);
    let table_leaf = nested.back(nested.first, RW);
    let machine = &nested.machine;
    machine.put(PAGE, 3);
    assert_eq!(machine.read(DEVICE, 0x40_0000), Ok(3));
    for entry in entries {
        assert_eq!(machine.get(entry) & 0xfff, USER_RW | A);
    }
    assert_eq!(machine.get(leaf) & 0xfff, RW | 1 << 8);
    // The first stage's tables were written, for their flags.
    assert_eq!(machine.get(table_leaf) & 0xfff, RW | 3 << 8);
    machine.write(DEVICE, 0x40_0000, 4).unwrap();
    assert_eq!(machine.get(entries[3]) & 0xfff, USER_RW | A | D);
    assert_eq!(machine.get(leaf) & 0xfff, RW | 3 << 8);
    assert_eq!(machine.get(PAGE), 4);
}

#[test]
fn rights_of_both_stages_count() {
    let mut nested = Nested::new(NESTED, 4);
    nested.map(0x1000, PAGE, USER_RW);
    nested.map(0x2000, OTHER_PAGE, P | 4);
    nested.back(PAGE, R);
    nested.back(OTHER_PAGE, RW);
    let machine = &nested.machine;
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    let fault = machine.refused(machine.write(DEVICE, 0x1000, 1), 0x85);
    assert_eq!(fault.ipa.map(|ipa| ipa.0), Some(PAGE + GUEST));
    machine.refused(machine.write(DEVICE, 0x2000, 1), 0x85);
    machine.refused(machine.read(DEVICE, 0x3000), 0x71);
}

#[test]
fn a_second_stage_that_lacks_the_page_is_sss_2() {
    let mut nested = Nested::new(NESTED, 4);
    nested.map(0x1000, PAGE, USER_RW);
    let machine = &nested.machine;
    machine.refused(machine.read(DEVICE, 0x1000), 0x79);
}

#[test]
fn a_second_stage_that_refuses_the_tables_is_sfs_5_to_sfs_8() {
    // SFS.6: no read permission for the root; SFS.7: for another table. Write permission is there, or it would be SSS.2.
    let mut nested = Nested::new(NESTED, 4);
    let entries = nested.map(0x1000, PAGE, USER_RW);
    nested.back(PAGE, RW);
    nested.back(nested.first, W);
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x75);
    nested.back(nested.first, RW);
    let last_table = entries[3] & !0xfff;
    nested.back(last_table, W);
    nested.machine.invalidate_all();
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x76);
    // SFS.8: the flags of a first-stage entry can't be written.
    nested.back(last_table, R);
    nested.machine.invalidate_all();
    let fault = nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x77);
    assert_eq!(fault.ipa.map(|ipa| ipa.0), Some(entries[3] + GUEST));
    // Where the flags are set already nothing has to be written.
    for entry in entries {
        let old = nested.machine.get(entry);
        nested.machine.put(entry, old | A);
    }
    assert!(nested.machine.read(DEVICE, 0x1000).is_ok());
    // SFS.5: a table beyond the second stage's input.
    nested.machine.put(entries[0], 1 << 48 | USER_RW | A);
    nested.machine.invalidate_all();
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x74);
}

#[test]
fn other_second_stage_faults_on_tables_are_their_own() {
    let mut nested = Nested::new(NESTED, 4);
    let entries = nested.map(0x1000, PAGE, USER_RW);
    nested.back(PAGE, RW);
    // A first-stage table that the second stage does not map at all: SSS.2. One behind a malformed entry: SSS.3.
    nested.back(entries[3], 0);
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x79);
    nested.back(entries[3], RW | 1 << 62);
    nested.machine.invalidate_all();
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x7a);
    // One that lies outside of memory: SFS.1.
    nested.machine.map(nested.second, (entries[3] & !0xfff) + GUEST, MEMORY, RW);
    nested.machine.invalidate_all();
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x70);
}

#[test]
fn a_guest_address_beyond_the_second_stage_is_sgn_5() {
    let mut nested = Nested::new(NESTED, 4);
    let entries = nested.map(0x1000, PAGE, USER_RW);
    nested.machine.put(entries[3], 1 << 48 | USER_RW);
    nested.machine.refused(nested.machine.read(DEVICE, 0x1000), 0x84);
}

#[test]
fn a_page_is_as_large_as_the_smaller_of_both_stages() {
    let mut nested = Nested::new(NESTED, 4);
    // 2 MiB in the first stage over 4 KiB in the second.
    nested.map(0x1000, PAGE, USER_RW);
    let pdpt = (nested.machine.get(nested.first) & 0x000f_ffff_ffff_f000) - GUEST;
    let directory = (nested.machine.get(pdpt) & 0x000f_ffff_ffff_f000) - GUEST;
    nested.machine.put(directory + 8, (PAGE + GUEST) | USER_RW | PS);
    nested.back(PAGE + 0x3000, RW);
    let machine = &nested.machine;
    machine.write(DEVICE, 0x20_3000, 6).unwrap();
    assert_eq!(machine.get(PAGE + 0x3000), 6);
    machine.refused(machine.read(DEVICE, 0x20_4000), 0x79);
}

#[test]
fn three_level_second_stages_nest_too() {
    let mut machine = Machine::scalable();
    let first = machine.allocate();
    let second = machine.allocate();
    machine.pasid(DEVICE, 0, [second | 3 << 6 | 1 << 2 | 1, PWSNP, first]);
    // Tables and page at their own addresses, by one 1 GiB page of the second stage.
    machine.map_at(second, 3, 2, 0, RW, RW | PS);
    machine.map_first(first, 0x1000, PAGE, USER_RW);
    machine.write(DEVICE, 0x1000, 8).unwrap();
    assert_eq!(machine.get(PAGE), 8);
}

/// A nested device that reads 1 at `IOVA` and has done so often enough that everything is cached, and the entries by which it would read
/// 2: of the first stage, by level from the root on.
fn cached() -> (Nested, [u64; 4], [u64; 4]) {
    let mut nested = Nested::new(NESTED, 4);
    let entries = nested.map(IOVA, PAGE, USER_RW);
    let first = std::mem::replace(&mut nested.first, 0);
    nested.first = nested.machine.allocate();
    let others = nested.map(IOVA, OTHER_PAGE, USER_RW);
    nested.first = first;
    for (page, value) in [(PAGE, 1), (OTHER_PAGE, 2)] {
        nested.back(page, RW);
        nested.machine.put(page, value);
    }
    for _ in 0..6 {
        assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(1));
    }
    let others = others.map(|entry| nested.machine.get(entry));
    (nested, entries, others)
}

const IOVA: u64 = 0x40_0000;

/// A page-selective IOTLB invalidation of domain 7 (6.5.2.3), with the hint that only leaf entries changed.
const fn pages(address: u64) -> [u64; 2] {
    [2 | 3 << 4 | 7 << 16, address | 1 << 6]
}

#[test]
fn a_first_stage_table_that_moves_in_the_host_is_found_where_it_is_after_its_guest_address_was_invalidated() {
    for level in 0..4 {
        let (mut nested, entries, others) = cached();
        let table = entries[level] & !0xfff;
        let moved = nested.machine.allocate();
        nested.machine.put(moved + (entries[level] & 0xfff), others[level]);
        nested.machine.map(nested.second, table + GUEST, moved, RW);
        assert!(nested.machine.submit(&[pages(table + GUEST)]));
        assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(2), "level {}", 3 - level);
    }
}

/// Any unit may forget more. This one does not: what the invalidation names costs no more than that.
#[test]
fn a_second_stage_invalidation_that_names_no_table_leaves_the_first_stage_cached() {
    let (mut nested, entries, others) = cached();
    // Not invalidated, so what stood there may be used on.
    nested.machine.put(entries[2], others[2]);
    for page in 0..16 {
        assert!(nested.machine.submit(&[pages(PAGE + GUEST + (page << 12))]));
        assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(1), "page {page}");
    }
    assert!(nested.machine.submit(&[pages((entries[2] & !0xfff) + GUEST)]));
    assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(2));
}

/// The same for where pages lead in the end: neither stage's entry for the page is named, so what stood there may be used on.
#[test]
fn an_invalidation_of_other_pages_leaves_a_page_cached() {
    let (mut nested, entries, others) = cached();
    nested.machine.put(entries[3], others[3]);
    nested.back(PAGE, 0);
    assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(1), "kept");
    for page in 1..16 {
        // 6.5.2.4 and 6.5.2.3, with the hint.
        let first = [6 | 3 << 4 | 7 << 16, (IOVA + (page << 12)) | 1 << 6];
        assert!(nested.machine.submit(&[first, pages(PAGE + GUEST + (page << 12))]));
        assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(1), "page {page}");
    }
    assert!(nested.machine.submit(&[pages(PAGE + GUEST)]));
    assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(2));
    // The first stage's by itself.
    let (mut nested, entries, others) = cached();
    nested.machine.put(entries[3], others[3]);
    assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(1));
    assert!(nested.machine.submit(&[[6 | 3 << 4 | 7 << 16, IOVA | 1 << 6]]));
    assert_eq!(nested.machine.read(DEVICE, IOVA), Ok(2));
}
