//! Page tables of any shape, written word by word.

use super::{Layout, WINDOW, Word};
use std::collections::BTreeMap;

/// Words, and where the next table may lie.
#[derive(Clone, Debug)]
pub struct Builder {
    next: u64,
    /// The words so far.
    pub words: Vec<Word>,
}

impl Builder {
    /// No words.
    #[must_use]
    pub const fn new(layout: Layout) -> Self {
        Self { next: layout.tables, words: Vec::new() }
    }

    /// Room for a table of `bytes`, aligned to its size, a power of two.
    pub const fn table(&mut self, bytes: u64) -> u64 {
        let at = self.next.next_multiple_of(bytes);
        self.next = at + bytes;
        at
    }

    /// The first address that no table has.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.next
    }

    /// A word.
    pub fn put(&mut self, name: &'static str, at: u64, value: u64) {
        self.words.push(Word { name, at, value });
    }

    /// Words one behind the other.
    pub fn put_all(&mut self, names: &[&'static str], at: u64, values: &[u64]) {
        for ((name, value), at) in names.iter().zip(values).zip((at..).step_by(8)) {
            self.put(name, at, *value);
        }
    }
}

/// How entries are written.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Entry names by level, that of the smallest pages first.
    pub names: [&'static str; 5],
    /// An entry that leads to a table.
    pub table: fn(u64) -> u64,
    /// An entry that maps a page of a level.
    pub leaf: fn(u64, u32) -> u64,
    /// Bits that every leaf has beside those.
    pub rights: u64,
    /// Whether entries are stored big-endian.
    pub big_endian: bool,
}

/// Page tables.
#[derive(Clone, Debug)]
pub struct Radix {
    /// log2 of the smallest page's bytes, and of a table's, but for the root.
    pub page: u32,
    /// Levels.
    pub levels: u32,
    /// Bits of the address that count.
    pub bits: u32,
    /// How entries are written.
    pub style: Style,
    tables: BTreeMap<(u32, u64), u64>,
}

impl Radix {
    /// Tables with nothing in them.
    #[must_use]
    pub const fn new(page: u32, levels: u32, bits: u32, style: Style) -> Self {
        Self { page, levels, bits, style, tables: BTreeMap::new() }
    }

    /// log2 of what an entry of a level maps.
    #[must_use]
    pub const fn shift(&self, level: u32) -> u32 {
        self.page + level * (self.page - 3)
    }

    /// Where the root is.
    pub fn root(&mut self, builder: &mut Builder) -> u64 {
        self.table(builder, self.levels - 1, 0)
    }

    fn table(&mut self, builder: &mut Builder, level: u32, prefix: u64) -> u64 {
        let is_root = level + 1 == self.levels;
        let index_bits = if is_root { self.bits - self.shift(level) } else { self.page - 3 };
        let key = (level, if is_root { 0 } else { prefix });
        // No format's root takes less than 64 bytes of alignment.
        *self.tables.entry(key).or_insert_with(|| builder.table((8 << index_bits).max(64)))
    }

    /// Map one page of a level.
    pub fn map(&mut self, builder: &mut Builder, address: u64, target: u64, leaf: u32) {
        for level in (leaf..self.levels).rev() {
            let is_root = level + 1 == self.levels;
            let table = self.table(builder, level, address >> (self.shift(level) + self.page - 3));
            let index_bits = if is_root { self.bits - self.shift(level) } else { self.page - 3 };
            let at = table + (address >> self.shift(level) & ((1 << index_bits) - 1)) * 8;
            let entry = if level == leaf {
                (self.style.leaf)(target, level) | self.style.rights
            } else {
                let below = address >> (self.shift(level - 1) + self.page - 3);
                (self.style.table)(self.table(builder, level - 1, below))
            };
            let entry = if self.style.big_endian { entry.swap_bytes() } else { entry };
            if !builder.words.iter().any(|word| word.at == at) {
                builder.put(self.style.names[level as usize], at, entry);
            }
        }
    }

    /// Map the window of data at `address`, a multiple of what a page of level `leaf` maps, or what of that page holds it.
    pub fn map_window(&mut self, builder: &mut Builder, address: u64, data: u64, leaf: u32) {
        let size = 1u64 << self.shift(leaf);
        let first = data & !(size - 1);
        for offset in (0..WINDOW).step_by(size.min(WINDOW) as usize) {
            self.map(builder, address + offset, first + offset, leaf);
        }
    }

    /// Map a stretch to itself, with the smallest pages.
    pub fn map_itself(&mut self, builder: &mut Builder, range: std::ops::Range<u64>) {
        let size = 1 << self.page;
        let first = range.start & !(size - 1);
        for address in (first..range.end).step_by(1 << self.page) {
            self.map(builder, address, address, 0);
        }
    }
}
