//! The tables of a RISC-V IOMMU, written word by word.

use crate::oracle::tables::radix::{Builder, Radix, Style};
use crate::oracle::tables::{self, Layout, WINDOW, Word};
use std::fmt;

/// A valid set of tables, before anything is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Levels of the device directory, 1 to 3.
    pub directory: u8,
    /// device_id.
    pub device: u32,
    /// process_id, where the request carries one.
    pub process: Option<u32>,
    /// `pdtp.MODE` 1 to 3 for PD8, PD17 and PD20; 0 where the device context has `iosatp`.
    pub processes: u8,
    /// Levels of the first stage, 3 to 5; 0 for Bare.
    pub first: u8,
    /// Levels of the second stage, 3 to 5; 0 for Bare.
    pub second: u8,
    /// Level of the mapping's leaf.
    pub leaf: u8,
    /// Whether the smallest pages are parts of naturally aligned 64 KiB (Svnapot).
    pub napot: bool,
    /// SADE and GADE.
    pub flags: bool,
    /// `fctl.BE`, for everything but first-stage tables and processes.
    pub big_endian: bool,
    /// SBE.
    pub first_big_endian: bool,
    /// Whether device contexts have the extended format.
    pub extended: bool,
    /// Whether there is an MSI page table, which takes some of the pages that are mapped for interrupt files; only with the
    /// extended format.
    pub files: bool,
    /// Whether the request asks for supervisor rights; only with a process.
    pub privileged: bool,
    /// First byte of the mapped address range: a multiple of what the leaf maps.
    pub address: u64,
}

const fn table(next: u64) -> u64 {
    next >> 12 << 10 | 1
}
const fn leaf(target: u64, _: u32) -> u64 {
    target >> 12 << 10
}
/// N, and 8 in the low four bits of the page number.
const fn napot(target: u64, level: u32) -> u64 {
    if level > 0 { leaf(target, level) } else { 1 << 63 | leaf(target & !0xffff | 0x8000, level) }
}

const FIRST: [&str; 5] = [
    "first stage, level 0",
    "first stage, level 1",
    "first stage, level 2",
    "first stage, level 3",
    "first stage, level 4",
];
const SECOND: [&str; 5] = [
    "second stage, level 0",
    "second stage, level 1",
    "second stage, level 2",
    "second stage, level 3",
    "second stage, level 4",
];
const CONTEXT: [&str; 8] = [
    "device context, tc",
    "device context, iohgatp",
    "device context, ta",
    "device context, fsc",
    "device context, msiptp",
    "device context, msi_addr_mask",
    "device context, msi_addr_pattern",
    "device context, reserved",
];
const FILES: [&str; 8] = [
    "MSI page table, file 0",
    "MSI page table, file 0, second word",
    "MSI page table, file 1",
    "MSI page table, file 1, second word",
    "MSI page table, file 2",
    "MSI page table, file 2, second word",
    "MSI page table, file 3",
    "MSI page table, file 3, second word",
];
/// Of the eight pages that are mapped, the first, the second, the fifth and the sixth are files 0 to 3.
const FILES_MASK: u64 = 0b101;
const PROCESS: [&str; 2] = ["process context, ta", "process context, fsc"];

impl Shape {
    fn style(&self, names: [&'static str; 5], is_leaf: bool, big_endian: bool) -> Style {
        let leaf = if is_leaf && self.napot { napot } else { leaf };
        // V, R, W, X, U, A, D.
        let mut rights = 0xdf;
        // The unit is to set A and D.
        if self.flags {
            rights &= !0xc0;
        }
        if self.privileged && names == FIRST {
            rights &= !(1 << 4);
        }
        Style { names, table, leaf, rights, big_endian }
    }

    /// What `ddtp` holds.
    #[must_use]
    pub fn ddtp(&self, layout: Layout) -> u64 {
        layout.tables >> 12 << 10 | u64::from(self.directory + 1)
    }

    fn order(&self, value: u64) -> u64 {
        if self.big_endian { value.swap_bytes() } else { value }
    }

    /// The device directory; where the context lies.
    fn device_directory(&self, builder: &mut Builder) -> u64 {
        let id = u64::from(self.device);
        let (low, size) = if self.extended { (6, 64) } else { (7, 32) };
        let index = [id & ((1 << low) - 1), id >> low & 0x1ff, id >> (low + 9)];
        let names = ["", "device directory, level 1", "device directory, level 2"];
        let mut at = builder.table(4096);
        for level in (1..usize::from(self.directory)).rev() {
            let next = builder.table(4096);
            builder.put(names[level], at + index[level] * 8, self.order(table(next)));
            at = next;
        }
        at + index[0] * size
    }

    /// The MSI page table: files 0 to 2 lead to the last pages of the data, and file 3 lies in memory. The last four words of the
    /// device context.
    fn interrupt_files(&self, builder: &mut Builder, layout: Layout) -> [u64; 4] {
        if !self.files {
            return [0; 4];
        }
        let table = builder.table(4096);
        let page = |number: u64| (layout.data + WINDOW - 4096 * (number + 1)) >> 12 << 10;
        let (basic, in_memory) = (0b111, 0b11);
        let words =
            [page(0) | basic, 0, page(1) | basic, 0, page(2) | basic, 0, page(3) | in_memory, page(0) | 5];
        builder.put_all(&FILES, table, &words.map(|word| self.order(word)));
        let guest = if self.first > 0 { layout.data } else { tables::Shape::start(self, layout) };
        [1 << 60 | table >> 12, FILES_MASK, guest >> 12, 0]
    }

    /// The process directory; `pdtp`, and where the context lies.
    fn process_directory(&self, builder: &mut Builder) -> (u64, u64) {
        let id = u64::from(self.process.unwrap_or(0));
        let index = [id & 0xff, id >> 8 & 0x1ff, id >> 17 & 7];
        let names = ["", "process directory, level 1", "process directory, level 2"];
        let mut at = builder.table(4096);
        let pdtp = u64::from(self.processes) << 60 | at >> 12;
        for level in (1..usize::from(self.processes)).rev() {
            let next = builder.table(4096);
            builder.put(names[level], at + index[level] * 8, self.order_first(table(next)));
            at = next;
        }
        (pdtp, at + index[0] * 16)
    }

    fn order_first(&self, value: u64) -> u64 {
        if self.first_big_endian { value.swap_bytes() } else { value }
    }

    const fn mode(levels: u8) -> u64 {
        if levels == 0 { 0 } else { (levels as u64 + 5) << 60 }
    }
}

impl tables::Shape for Shape {
    fn words(&self, layout: Layout) -> Vec<Word> {
        let mut builder = Builder::new(layout);
        let context = self.device_directory(&mut builder);
        let begin = builder.end();
        let flags = u64::from(self.flags) << 8 | u64::from(self.flags && self.second > 0) << 7;
        // V; PDTV; DPE where the request carries no process; SBE.
        let mut tc = 1 | flags | u64::from(self.first_big_endian) << 10;
        if self.processes > 0 {
            tc |= 1 << 5 | u64::from(self.process.is_none()) << 9;
        }
        let process = (self.processes > 0).then(|| self.process_directory(&mut builder));
        let mut iosatp = Self::mode(self.first);
        if self.first > 0 {
            let style = self.style(FIRST, true, self.first_big_endian);
            let bits = 12 + 9 * u32::from(self.first);
            let mut first = Radix::new(12, self.first.into(), bits, style);
            iosatp |= first.root(&mut builder) >> 12;
            first.map_window(&mut builder, self.address, layout.data, self.leaf.into());
        }
        let mut fsc = iosatp;
        if let Some((pdtp, at)) = process {
            fsc = pdtp;
            // V, ENS, PSCID.
            let ta = 1 | u64::from(self.privileged) << 1 | 6 << 12;
            builder.put_all(&PROCESS, at, &[ta, iosatp].map(|word| self.order_first(word)));
        }
        let end = builder.end();
        let mut iohgatp = Self::mode(self.second);
        if self.second > 0 {
            let style = self.style(SECOND, self.first == 0, self.big_endian);
            let bits = 14 + 9 * u32::from(self.second);
            let mut second = Radix::new(12, self.second.into(), bits, style);
            iohgatp |= second.root(&mut builder) >> 12 | 5 << 44;
            if self.first > 0 {
                second.map_itself(&mut builder, layout.data..layout.data + WINDOW);
            } else {
                second.map_window(&mut builder, self.address, layout.data, self.leaf.into());
            }
            second.map_itself(&mut builder, begin..end);
        }
        let [msiptp, mask, pattern, reserved] = self.interrupt_files(&mut builder, layout);
        // PSCID.
        let words = [tc, iohgatp, 6 << 12, fsc, msiptp, mask, pattern, reserved].map(|word| self.order(word));
        let count = if self.extended { 8 } else { 4 };
        builder.put_all(&CONTEXT, context, &words[..count]);
        builder.words
    }

    fn start(&self, layout: Layout) -> u64 {
        if self.first == 0 && self.second == 0 {
            return layout.data;
        }
        let shift = if self.napot && self.leaf == 0 { 16 } else { 12 + 9 * u32::from(self.leaf) };
        self.address + (layout.data & ((1 << shift) - 1))
    }

    /// Entries of one naturally aligned range that differ may be taken for one another (Svnapot).
    fn is_of_one_page(&self) -> bool {
        self.napot
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, device, first, second, leaf, address, .. } = self;
        write!(f, "device {device:#x}, {directory} directory levels")?;
        if self.processes > 0 {
            write!(f, ", PD mode {}", self.processes)?;
        }
        if let Some(process) = self.process {
            write!(f, ", process {process:#x}{}", if self.privileged { " privileged" } else { "" })?;
        }
        let named = [
            (self.napot, ", Svnapot"),
            (self.flags, ", SADE and GADE"),
            (self.big_endian, ", BE"),
            (self.first_big_endian, ", SBE"),
            (self.files, ", an MSI page table"),
        ];
        write!(
            f,
            "; first stage of {first} levels, second of {second}; {address:#x} mapped with a leaf at level {leaf}"
        )?;
        named.iter().filter(|(is, _)| *is).try_for_each(|(_, name)| f.write_str(name))
    }
}
