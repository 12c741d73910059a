//! A guest's memory, and what stands in it: first-stage tables and directories of every format, in bits written here from the
//! specifications.

use portcullis_driver::Memory;
use portcullis_spec::{
    DescriptorLayout, DirectoryFormat, Granule, Ipa, PagingFormat, Pasid, PhysAddr, Stage, StageRules,
};

use super::Bench;

/// Bytes of the guest's memory, from its address 0 on.
pub(crate) const BYTES: u64 = 1 << 20;
/// Everything in it lies in a block of its own, as large as the largest granule.
const BLOCK: u64 = 1 << 16;
/// The directory's root, and the tables below it.
const DIRECTORY: [u64; 3] = [0, BLOCK, 2 * BLOCK];
/// The tables of the first and of the second set, roots first.
const TABLES: [u64; 2] = [3 * BLOCK, 8 * BLOCK];
/// Where either set leads.
const DATA: [u64; 2] = [14 * BLOCK, 15 * BLOCK];
/// The page, counted from address 0, at which both lead there.
const PAGE_NUMBER: u64 = 5;

/// The guest's memory.
pub(crate) struct Guest<'m, M: Memory> {
    memory: &'m M,
    base: u64,
    /// The guest address of the directory's block 0.
    directory: u64,
}

impl<'m, M: Memory> Guest<'m, M> {
    pub(crate) fn new(bench: &'m impl Bench<Memory = M>) -> Self {
        let base = bench.guest_memory(BYTES).0;
        let directory = if bench.takes_directories_for_physical() { base } else { 0 };
        Self { memory: bench.memory(), base, directory }
    }

    pub(crate) fn base(&self) -> PhysAddr {
        PhysAddr(self.base)
    }

    pub(crate) fn free(self) {
        self.memory.free(self.base(), BYTES, BYTES);
    }

    fn store(&self, address: u64, value: u64) {
        let at = PhysAddr(self.base + address);
        self.memory.store64(at, value);
        self.memory.flush(at, 8);
    }

    fn load(&self, address: u64) -> u64 {
        self.memory.load64(PhysAddr(self.base + address))
    }

    /// Where a set of tables leads, in the host's memory.
    pub(crate) fn data(&self, set: usize) -> u64 {
        self.base + DATA[set]
    }

    /// The address of a page in the guest's memory, as the second stage has it.
    pub(crate) fn data_page(&self, set: usize) -> u64 {
        DATA[set]
    }

    /// Writes a set of tables that lead one page to its data.
    pub(crate) fn write_tables(&self, set: usize, shape: PagingFormat) -> Tables {
        let page = 1 << page_shift(shape);
        let tables = levels(shape);
        let table = |level: u64| TABLES[set] + level * BLOCK;
        for level in 1..tables {
            self.store(table(level - 1), entry(shape, table(level), false));
        }
        let leaf = table(tables - 1) + PAGE_NUMBER * 8;
        self.store(leaf, entry(shape, DATA[set], true));
        let rules = match shape {
            // SMRs of VT-d: the first stage always sets its flags.
            PagingFormat::X86 { .. } => StageRules::SET_ACCESSED | StageRules::SET_DIRTY,
            _ => StageRules::empty(),
        };
        Tables {
            stage: Stage { format: shape, root: Ipa(table(0)), rules, input_bits: 48 },
            leaf,
            page,
            address: PAGE_NUMBER * page,
        }
    }

    /// Takes the page away from the tables. What it was.
    pub(crate) fn take_page(&self, tables: &Tables) -> u64 {
        let entry = self.load(tables.leaf);
        self.store(tables.leaf, 0);
        entry
    }

    /// Gives it back.
    pub(crate) fn give_page(&self, tables: &Tables, entry: u64) {
        self.store(tables.leaf, entry);
    }

    /// The directory's root.
    pub(crate) fn directory(&self) -> Ipa {
        Ipa(self.directory + DIRECTORY[0])
    }

    /// The highest PASID that a directory of this format has room for here.
    pub(crate) fn highest(&self, format: DirectoryFormat) -> Pasid {
        let bits = match format {
            DirectoryFormat::ArmContextDescriptors { layout: DescriptorLayout::Linear, .. } => 10,
            DirectoryFormat::ArmContextDescriptors { layout: DescriptorLayout::TwoLevel4K, .. } => 19,
            _ => 20,
        };
        Pasid::new((1 << bits.min(format.pasid_bits())) - 1).unwrap()
    }

    /// Writes the directory's entry of a PASID: tables, of an address space of the guest's.
    pub(crate) fn write_entry(&self, format: DirectoryFormat, pasid: u32, tables: &Tables, space: u32) {
        let at = self.entry(format, pasid);
        let root = tables.stage.root.0;
        let words = match format {
            DirectoryFormat::ArmContextDescriptors { .. } => descriptor(&tables.stage, space).to_vec(),
            // RISC-V IOMMU 2.2.2: V, PSCID; iosatp: Sv39 is 8.
            DirectoryFormat::RiscvProcessDirectory { .. } => {
                let mode = levels(tables.stage.format) + 5;
                vec![1 | u64::from(space) << 12, root >> 12 | mode << 60]
            }
            DirectoryFormat::AmdGcr3 { .. } => unreachable!("there is no such driver"),
        };
        // The word with the valid bit last: it is the first in all of them.
        for (index, word) in words.iter().enumerate().rev() {
            self.store(at + 8 * index as u64, *word);
        }
    }

    /// Makes the directory's entry of a PASID invalid.
    pub(crate) fn clear_entry(&self, format: DirectoryFormat, pasid: u32) {
        let at = self.entry(format, pasid);
        self.store(at, 0);
    }

    /// The address of an entry, with the tables on the way there.
    fn entry(&self, format: DirectoryFormat, pasid: u32) -> u64 {
        let number = u64::from(pasid);
        match format {
            // SMMUv3 5.3: V and the table's address.
            DirectoryFormat::ArmContextDescriptors { layout, .. } => {
                let bits = match layout {
                    DescriptorLayout::Linear => return DIRECTORY[0] + 64 * number,
                    DescriptorLayout::TwoLevel4K => 6,
                    DescriptorLayout::TwoLevel64K => 10,
                };
                self.store(DIRECTORY[0] + 8 * (number >> bits), (self.directory + DIRECTORY[1]) | 1);
                DIRECTORY[1] + 64 * (number & ((1 << bits) - 1))
            }
            // RISC-V IOMMU 2.2: 8, 9 and 3 bits of the process_id, from the leaf up; entries hold V and the page.
            DirectoryFormat::RiscvProcessDirectory { levels } => {
                let indexes = [number & 0xff, number >> 8 & 0x1ff, number >> 17];
                let mut table = 0;
                for level in (1..usize::from(levels)).rev() {
                    let next = self.directory + DIRECTORY[table + 1];
                    self.store(DIRECTORY[table] + 8 * indexes[level], next >> 12 << 10 | 1);
                    table += 1;
                }
                DIRECTORY[table] + 16 * indexes[0]
            }
            DirectoryFormat::AmdGcr3 { .. } => unreachable!("there is no such driver"),
        }
    }
}

/// A set of tables.
pub(crate) struct Tables {
    pub(crate) stage: Stage<Ipa>,
    /// Where the leaf entry is.
    leaf: u64,
    /// Bytes of its page.
    pub(crate) page: u64,
    /// The address that leads to data.
    pub(crate) address: u64,
}

/// log2 of a format's smallest page.
pub(crate) fn page_shift(shape: PagingFormat) -> u8 {
    match shape {
        PagingFormat::ArmStage1 { granule, .. } | PagingFormat::ArmStage2 { granule, .. } => granule.shift(),
        _ => 12,
    }
}

/// Levels of first-stage tables. Arm's 48 bits are 12 + 4 * 9, 14 + 3 * 11 + 1 and 16 + 2 * 13 + 6.
fn levels(shape: PagingFormat) -> u64 {
    match shape {
        PagingFormat::X86 { levels } | PagingFormat::RiscvSv { levels } => levels.into(),
        PagingFormat::ArmStage1 { granule: Granule::Size64K, .. } => 3,
        PagingFormat::ArmStage1 { .. } => 4,
        other => unreachable!("no first stage: {other:?}"),
    }
}

fn entry(shape: PagingFormat, address: u64, leaf: bool) -> u64 {
    match (shape, leaf) {
        // VT-d 9.7: P, R/W and U/S; A and D.
        (PagingFormat::X86 { .. }, false) => address | 0x7,
        (PagingFormat::X86 { .. }, true) => address | 0x67,
        // Privileged architecture 10.3: V; V, R, W, U, A and D.
        (PagingFormat::RiscvSv { .. }, false) => address >> 12 << 10 | 1,
        (PagingFormat::RiscvSv { .. }, true) => address >> 12 << 10 | 0xd7,
        // VMSAv8-64: a table; a page with AF, inner shareable, AP 01, attribute 0, not global (or it would belong to no ASID).
        (_, false) => address | 0b11,
        (_, true) => address | 1 << 11 | 1 << 10 | 3 << 8 | 1 << 6 | 0b11,
    }
}

/// SMMUv3 5.4: T0SZ 16, TG0, EPD1, V, IPS 32 bits, AA64, R, A, ASET, ASID; TTB0; MAIR attribute 0 write-back.
fn descriptor(stage: &Stage<Ipa>, asid: u32) -> [u64; 8] {
    let tg0 = match page_shift(stage.format) {
        12 => 0,
        16 => 1,
        _ => 2,
    };
    let low = 16 | tg0 << 6 | 1 << 30 | 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 47;
    [low | u64::from(asid) << 48, stage.root.0, 0, 0xff, 0, 0, 0, 0]
}
