//! The tables of VT-d, written word by word.

use crate::oracle::tables::{self, Layout, WINDOW, Word};
use std::fmt;

/// How a case's requester is translated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Legacy mode, through second-stage tables.
    Legacy,
    /// Legacy mode, unchanged.
    LegacyPassThrough,
    /// Scalable mode, first stage.
    First,
    /// Scalable mode, second stage.
    Second,
    /// Scalable mode, both.
    Nested,
    /// Scalable mode, unchanged.
    PassThrough,
}

impl Kind {
    /// Whether its root table is a scalable-mode one.
    #[must_use]
    pub const fn is_scalable(self) -> bool {
        !matches!(self, Self::Legacy | Self::LegacyPassThrough)
    }
    const fn has_first(self) -> bool {
        matches!(self, Self::First | Self::Nested)
    }
    const fn has_second(self) -> bool {
        matches!(self, Self::Legacy | Self::Second | Self::Nested)
    }
}

/// A valid set of tables, before anything is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// How the requester is translated.
    pub kind: Kind,
    /// Levels of the first stage, 4 or 5.
    pub first_levels: u8,
    /// Levels of the second stage, 3 to 5.
    pub second_levels: u8,
    /// Level at which the mapping's leaf is: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB pages.
    pub leaf: u8,
    /// Whether the second stage sets flags (SSADE), and the first the extended one (EAFE).
    pub flags: bool,
    /// Whether page walks snoop (PWSNP), without which no flag can be set.
    pub snoop: bool,
    /// Who asks: bus in bits 15:8, device and function below.
    pub requester_id: u16,
    /// PASID, where the request carries one.
    pub pasid: Option<u32>,
    /// Whether the request asks for supervisor rights; only with a PASID.
    pub privileged: bool,
    /// First byte of the mapped address range: a multiple of what the leaf maps.
    pub address: u64,
}

/// Pages that tables take.
const TABLE_PAGES: u64 = 24;
const FIRST: u64 = 5;
const SECOND: u64 = 10;
/// Second-stage leaf tables that a nested case's first-stage tables and data are reached through.
const SECOND_SPARE: u64 = 16;

struct Builder {
    layout: Layout,
    words: Vec<Word>,
}

impl Builder {
    const fn page(&self, index: u64) -> u64 {
        self.layout.page(index)
    }

    fn put(&mut self, name: &'static str, at: u64, value: u64) {
        self.words.push(Word { name, at, value });
    }

    /// Tables from the page `first` on that map `address` to `target` with a leaf at `leaf`.
    fn walk(&mut self, first: u64, levels: u8, leaf: u8, address: u64, target: u64, style: &Style) {
        for level in (leaf..levels).rev() {
            let depth = u64::from(levels - 1 - level);
            let table = self.page(first + depth);
            let index = |address: u64| address >> (12 + 9 * u32::from(level)) & 511;
            let name = style.names[usize::from(level)];
            if level > leaf {
                let next = self.page(first + depth + 1);
                self.put(name, table + index(address) * 8, next | style.table);
            } else if level == 0 {
                for page in 0..WINDOW / 4096 {
                    let value = (target + page * 4096) | style.page;
                    self.put(name, table + index(address + page * 4096) * 8, value);
                }
            } else {
                let size = 1u64 << (12 + 9 * u32::from(level));
                self.put(name, table + index(address) * 8, (target & !(size - 1)) | style.page | 1 << 7);
            }
        }
    }
}

struct Style {
    names: [&'static str; 5],
    table: u64,
    page: u64,
}

const FIRST_STYLE: Style = Style {
    names: [
        "first-stage PTE",
        "first-stage PDE",
        "first-stage PDPTE",
        "first-stage PML4E",
        "first-stage PML5E",
    ],
    // P, R/W, U/S.
    table: 7,
    page: 7,
};
const SECOND_STYLE: Style = Style {
    names: [
        "second-stage PTE",
        "second-stage PDE",
        "second-stage PDPTE",
        "second-stage PML4E",
        "second-stage PML5E",
    ],
    // R, W.
    table: 3,
    page: 3,
};

impl Shape {
    /// What the root table address register holds.
    #[must_use]
    pub const fn root(&self, layout: Layout) -> u64 {
        let mode = if self.kind.is_scalable() { 1 << 10 } else { 0 };
        layout.page(0) | mode
    }

    const fn passes(&self) -> bool {
        matches!(self.kind, Kind::LegacyPassThrough | Kind::PassThrough)
    }
}

impl tables::Shape for Shape {
    /// `address` leads to the layout's data, or to where the leaf's size lets it.
    fn words(&self, layout: Layout) -> Vec<Word> {
        let mut builder = Builder { layout, words: Vec::new() };
        let root = builder.page(0);
        let (bus, devfn) = (u64::from(self.requester_id >> 8), u64::from(self.requester_id & 0xff));
        let aw = u64::from(self.second_levels - 2);
        let domain = 5;
        if self.kind.is_scalable() {
            let context = builder.page(1);
            builder.put("scalable-mode root entry half", root + bus * 16 + devfn / 128 * 8, context | 1);
            let at = context + devfn % 128 * 32;
            // P, and PASIDE where it is used; a directory of 2^7 entries.
            let paside = if self.pasid.is_some() { 1 << 3 } else { 0 };
            builder.put("scalable-mode context entry, word 0", at, builder.page(3) | paside | 1);
            builder.put("scalable-mode context entry, word 1", at + 8, 0);
            builder.put("scalable-mode context entry, word 2", at + 16, 0);
            builder.put("scalable-mode context entry, word 3", at + 24, 0);
            let pasid = u64::from(self.pasid.unwrap_or(0));
            builder.put("PASID directory entry", builder.page(3) + pasid / 64 * 8, builder.page(4) | 1);
            let at = builder.page(4) + pasid % 64 * 64;
            let (kind, mut word0, mut word2) = match self.kind {
                // AW is ignored here, and set as software usually sets it.
                Kind::First => (1, aw << 2, builder.page(FIRST)),
                Kind::Second => (2, builder.page(SECOND) | aw << 2, 0),
                Kind::Nested => (3, builder.page(SECOND) | aw << 2, builder.page(FIRST)),
                _ => (4, 0, 0),
            };
            if self.kind.has_first() {
                word2 |= u64::from(self.first_levels - 4) << 2;
                word2 |= u64::from(self.flags) << 7;
            }
            if self.kind.has_second() {
                word0 |= u64::from(self.flags) << 9;
            }
            builder.put("PASID table entry, word 0", at, word0 | kind << 6 | 1);
            builder.put("PASID table entry, word 1", at + 8, u64::from(self.snoop) << 23 | domain);
            builder.put("PASID table entry, word 2", at + 16, word2);
            for (word, name) in (3..).zip([
                "PASID table entry, word 3",
                "PASID table entry, word 4",
                "PASID table entry, word 5",
                "PASID table entry, word 6",
                "PASID table entry, word 7",
            ]) {
                builder.put(name, at + word * 8, 0);
            }
        } else {
            let context = builder.page(1);
            builder.put("root entry, low", root + bus * 16, context | 1);
            builder.put("root entry, high", root + bus * 16 + 8, 0);
            let (table, kind) = match self.kind {
                Kind::Legacy => (builder.page(SECOND), 0),
                _ => (0, 2),
            };
            builder.put("context entry, low", context + devfn * 16, table | kind << 2 | 1);
            builder.put("context entry, high", context + devfn * 16 + 8, domain << 8 | aw);
        }
        let data = layout.data;
        match self.kind {
            Kind::First => {
                builder.walk(FIRST, self.first_levels, self.leaf, self.address, data, &FIRST_STYLE);
            }
            Kind::Legacy | Kind::Second => {
                builder.walk(SECOND, self.second_levels, self.leaf, self.address, data, &SECOND_STYLE);
            }
            Kind::Nested => {
                builder.walk(FIRST, self.first_levels, self.leaf, self.address, data, &FIRST_STYLE);
                // The second stage maps data and tables to themselves.
                builder.walk(SECOND, self.second_levels, 0, data, data, &SECOND_STYLE);
                let leaf_table = builder.page(SECOND_SPARE);
                let directory = builder.page(SECOND + u64::from(self.second_levels) - 2);
                let (style, tables) = (&SECOND_STYLE, layout.tables);
                builder.put(style.names[1], directory + (tables >> 21 & 511) * 8, leaf_table | style.table);
                for page in 0..TABLE_PAGES {
                    let address = tables + page * 4096;
                    let at = leaf_table + (address >> 12 & 511) * 8;
                    builder.put("second-stage PTE of a table", at, address | style.page);
                }
            }
            Kind::LegacyPassThrough | Kind::PassThrough => {}
        }
        builder.words
    }

    fn start(&self, layout: Layout) -> u64 {
        if self.passes() {
            return layout.data;
        }
        self.address + (layout.data & ((1 << (12 + 9 * u32::from(self.leaf))) - 1))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, first_levels, second_levels, leaf, flags, snoop, requester_id, address, .. } = *self;
        write!(f, "{kind:?}: requester {requester_id:#06x}")?;
        if let Some(pasid) = self.pasid {
            write!(f, " PASID {pasid:#x}{}", if self.privileged { " privileged" } else { "" })?;
        }
        if kind.has_first() {
            write!(f, ", first stage of {first_levels} levels")?;
        }
        if kind.has_second() {
            write!(f, ", second stage of {second_levels} levels")?;
        }
        let flags = if flags { ", flags on" } else { "" };
        let snoop = if snoop || !kind.is_scalable() { "" } else { ", no snoop" };
        write!(f, ", {address:#x} mapped with a leaf at level {leaf}{flags}{snoop}")
    }
}
