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

/// SDM vol. 3, 4.5; without the effect of XD at intermediate levels, which the engine never sets.
pub fn x86(arena: &Arena, levels: u32, root: u64, iova: u64) -> Answer {
    let unused = 12 + levels * 9;
    let top = iova as i64 >> (unused - 1);
    assert!(top == 0 || top == -1, "not canonical");
    let mut table = root;
    let (mut write, mut user) = (true, true);
    for number in (1..=levels).rev() {
        let shift = 12 + (number - 1) * 9;
        let raw = load(arena, table, iova >> shift & 511);
        if raw & 1 == 0 {
            return None;
        }
        write &= raw & 2 != 0;
        user &= raw & 4 != 0;
        let mut address = raw & 0x000f_ffff_ffff_f000;
        if number == 1 || (number <= 3 && raw & 0x80 != 0) {
            if number > 1 {
                address &= !0x1000;
            }
            let size = 1u64 << shift;
            assert_eq!(address & (size - 1), 0, "a large page is misaligned");
            let mut rights = Rights::READ;
            rights.set(Rights::WRITE, write);
            rights.set(Rights::USER, user);
            rights.set(Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, raw >> 63 == 0);
            return Some((address + iova % size, rights));
        }
        table = address;
    }
    unreachable!("the last level is a leaf")
}

/// AMD I/O Virtualization 2.2.3.
pub fn amd_v1(arena: &Arena, mode: u32, root: u64, iova: u64) -> Answer {
    let mut table = root;
    let mut level = mode;
    let (mut read, mut write) = (true, true);
    if mode < 6 && iova >> (12 + 9 * mode) != 0 {
        return None;
    }
    loop {
        let shift = 12 + 9 * (level - 1);
        let raw = load(arena, table, iova >> shift & 511);
        if raw & 1 == 0 {
            return None;
        }
        read &= raw >> 61 & 1 != 0;
        write &= raw >> 62 & 1 != 0;
        let address = raw & 0x000f_ffff_ffff_f000;
        let size = match raw >> 9 & 7 {
            0 => 1u64 << shift,
            7 => {
                let mut bit = 12;
                while raw >> bit & 1 == 1 {
                    bit += 1;
                }
                1 << (bit + 1)
            }
            next => {
                let next = u32::try_from(next).unwrap();
                assert!(next < level, "the next level is not below");
                let skipped = (iova & ((1 << shift) - 1)) >> (12 + 9 * next);
                if skipped != 0 {
                    return None;
                }
                table = address;
                level = next;
                continue;
            }
        };
        let mut rights = Rights::USER;
        rights.set(Rights::READ | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, read);
        rights.set(Rights::WRITE, write);
        return Some((address / size * size + iova % size, rights));
    }
}

/// What the Arm readers need to know of the tables.
pub struct ArmTables {
    /// log2 of the granule.
    pub granule: u32,
    pub input_bits: u32,
    /// As Arm numbers them.
    pub start_level: i32,
    /// FEAT_LPA2.
    pub lpa2: bool,
    /// 52-bit addresses with 64 KiB granules.
    pub lpa: bool,
}

/// Arm ARM D8.2 and D8.3: the leaf's descriptor, its level, and the address.
fn arm_leaf(arena: &Arena, tables: &ArmTables, root: u64, iova: u64) -> Option<(u64, u64)> {
    let stride = tables.granule - 3;
    let iova = iova & ((1 << tables.input_bits) - 1);
    let mut table = root;
    for level in tables.start_level..=3 {
        let low = tables.granule + u32::try_from(3 - level).unwrap() * stride;
        let high = if level == tables.start_level { tables.input_bits } else { low + stride };
        let index = (iova >> low) & ((1 << (high - low)) - 1);
        let raw = load(arena, table, index);
        if raw & 1 == 0 {
            return None;
        }
        let is_leaf = if level == 3 {
            assert_eq!(raw & 3, 3, "a page has type 3");
            true
        } else {
            raw & 2 == 0
        };
        let from = if is_leaf { low } else { tables.granule };
        let mut address = raw & ((1 << 48) - 1) & !((1 << from) - 1);
        if tables.lpa2 {
            address |= raw & 3 << 48 | (raw >> 8 & 3) << 50;
        }
        if tables.lpa {
            address |= (raw >> 12 & 15) << 48;
        }
        if is_leaf {
            if raw >> 52 & 1 == 1 {
                // The neighbours of a run must look the same but for their addresses.
                let run = match (tables.granule, level) {
                    (12, _) => 16,
                    (14, 3) => 128,
                    (14 | 16, _) => 32,
                    _ => unreachable!("no runs there"),
                };
                let base = index / run * run;
                for other in base..base + run {
                    let neighbour = load(arena, table, other);
                    let expected = (address & !((run << low) - 1)) + ((other - base) << low);
                    assert_eq!(neighbour & ((1 << 48) - 1) & !((1 << low) - 1), expected & ((1 << 48) - 1));
                    assert_eq!(neighbour >> 52, raw >> 52);
                    assert_eq!(neighbour & 0xffd, raw & 0xffd);
                }
            }
            return Some((raw, address + (iova & ((1 << low) - 1))));
        }
        table = address;
    }
    unreachable!("level 3 is a leaf")
}

/// Stage 1: AP\[2:1\], UXN, PXN.
pub fn arm_stage1(arena: &Arena, tables: &ArmTables, root: u64, iova: u64) -> Answer {
    let (raw, address) = arm_leaf(arena, tables, root, iova)?;
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, raw >> 7 & 1 == 0);
    rights.set(Rights::USER, raw >> 6 & 1 == 1);
    rights.set(Rights::EXECUTE, raw >> 54 & 1 == 0);
    rights.set(Rights::PRIVILEGED_EXECUTE, raw >> 53 & 1 == 0);
    Some((address, rights))
}

/// Stage 2: S2AP, XN\[1\].
pub fn arm_stage2(arena: &Arena, tables: &ArmTables, root: u64, iova: u64) -> Answer {
    let (raw, address) = arm_leaf(arena, tables, root, iova)?;
    let mut rights = Rights::USER;
    rights.set(Rights::READ, raw >> 6 & 1 == 1);
    rights.set(Rights::WRITE, raw >> 7 & 1 == 1);
    rights.set(Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, raw >> 54 & 1 == 0);
    Some((address, rights))
}

/// RISC-V Privileged, "Virtual Address Translation Process"; Svnapot.
pub fn riscv(arena: &Arena, levels: u32, x4: bool, root: u64, iova: u64) -> Answer {
    let bits = 12 + 9 * levels;
    if x4 {
        assert_eq!(iova >> (bits + 2), 0);
    }
    let mut a = root;
    let mut i = levels - 1;
    loop {
        let mut vpn = iova >> (12 + 9 * i) & 511;
        if x4 && i == levels - 1 {
            vpn = iova >> (12 + 9 * i);
        }
        let pte = load(arena, a, vpn);
        let bit = |n: u32| pte >> n & 1 == 1;
        if !bit(0) {
            return None;
        }
        assert!(bit(1) || !bit(2), "W without R");
        let mut ppn = pte >> 10 & ((1 << 44) - 1);
        if !bit(1) && !bit(3) {
            a = ppn << 12;
            i = i.checked_sub(1).expect("a table entry at the last level");
            continue;
        }
        if bit(63) {
            assert_eq!((i, ppn & 15), (0, 8), "the one NAPOT encoding");
            ppn = ppn & !15 | iova >> 12 & 15;
        }
        let within = (1u64 << (12 + 9 * i)) - 1;
        assert_eq!((ppn << 12) & within & !0xfff, 0, "a superpage is misaligned");
        let mut rights = Rights::empty();
        rights.set(Rights::READ, bit(1));
        rights.set(Rights::WRITE, bit(2));
        rights.set(Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE, bit(3));
        rights.set(Rights::USER, bit(4));
        return Some(((ppn << 12) + (iova & within), rights));
    }
}
