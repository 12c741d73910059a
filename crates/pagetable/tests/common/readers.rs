//! One slow reader a format, written from the specifications and sharing no code with the crate.

use super::Arena;
use portcullis_pagetable::{Rights, TableMemory};
use portcullis_spec::PhysAddr;

/// Where an address leads and what is permitted there.
pub type Answer = Option<(u64, Rights)>;

fn load(arena: &Arena, table: u64, index: u64) -> u64 {
    let Ok(raw) = arena.load(PhysAddr(table + index * 8));
    raw
}

/// VT-d 3.7 and 9.8.
pub fn vtd_second_stage(arena: &Arena, levels: u32, root: u64, iova: u64) -> Answer {
    let mut table = root;
    let (mut read, mut write) = (true, true);
    for number in (1..=levels).rev() {
        let shift = 12 + (number - 1) * 9;
        let raw = load(arena, table, iova >> shift & 511);
        read &= raw & 1 != 0;
        write &= raw & 2 != 0;
        if !read && !write {
            return None;
        }
        let address = raw & 0x000f_ffff_ffff_f000;
        if number == 1 || raw & 0x80 != 0 {
            let mut rights = Rights::USER;
            rights.set(Rights::READ | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, read);
            rights.set(Rights::WRITE, write);
            let size = 1u64 << shift;
            assert_eq!(address & (size - 1), 0, "a large page is misaligned");
            return Some((address + iova % size, rights));
        }
        table = address;
    }
    unreachable!("the last level is a leaf")
}
