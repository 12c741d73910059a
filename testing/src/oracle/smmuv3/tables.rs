//! The tables of an SMMUv3, written word by word.

use crate::oracle::tables::radix::{Builder, Radix, Style};
use crate::oracle::tables::{self, Layout, WINDOW, Word};
use std::fmt;

/// STE.Config (5.2), with its least significant bit's meaning "translates".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Config {
    /// Everything is aborted, without an event.
    Abort,
    /// Addresses pass.
    Bypass,
    /// Stage 1.
    Stage1,
    /// Stage 2.
    Stage2,
    /// Both.
    Nested,
}

impl Config {
    const fn bits(self) -> u64 {
        match self {
            Self::Abort => 0,
            Self::Bypass => 4,
            Self::Stage1 => 5,
            Self::Stage2 => 6,
            Self::Nested => 7,
        }
    }
    /// Whether stage 1 translates.
    #[must_use]
    pub const fn stage1(self) -> bool {
        matches!(self, Self::Stage1 | Self::Nested)
    }
    /// Whether stage 2 translates.
    #[must_use]
    pub const fn stage2(self) -> bool {
        matches!(self, Self::Stage2 | Self::Nested)
    }
}

/// One stage's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage {
    /// log2 of the granule: 12, 14 or 16.
    pub granule: u32,
    /// Input address bits: 64 - TxSZ.
    pub bits: u32,
    /// The unit sets Accessed.
    pub ha: bool,
    /// The unit sets Dirty.
    pub hd: bool,
    /// Tables are big-endian.
    pub big_endian: bool,
}

impl Stage {
    /// Levels of stage 1: as many as the input needs (VMSAv8-64).
    #[must_use]
    pub const fn levels(self) -> u32 {
        (self.bits - self.granule).div_ceil(self.granule - 3)
    }
    /// Levels of stage 2, where up to 16 tables stand beside one another at the start.
    #[must_use]
    pub const fn concatenated_levels(self) -> u32 {
        let levels = (self.bits - self.granule).saturating_sub(4).div_ceil(self.granule - 3);
        if levels == 0 { 1 } else { levels }
    }
    const fn flags(self, hd: u32, ha: u32) -> u64 {
        (self.hd as u64) << hd | (self.ha as u64) << ha
    }
}

/// A valid set of tables, before anything is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// How the stream is translated.
    pub config: Config,
    /// StreamID.
    pub stream: u32,
    /// SPLIT of a two-level stream table, or none for a linear one.
    pub split: Option<u8>,
    /// log2 of the streams in the table.
    pub log2size: u8,
    /// SubstreamID, where the request carries one.
    pub substream: Option<u32>,
    /// S1CDMax.
    pub cdmax: u8,
    /// S1Fmt: 0 linear, 1 and 2 two-level.
    pub s1fmt: u8,
    /// S1DSS.
    pub s1dss: u8,
    /// Stage 1.
    pub first: Stage,
    /// Stage 2.
    pub second: Stage,
    /// Whether stage 1 has its address in the upper half (TTB1).
    pub upper: bool,
    /// Level of the mapping's leaf, 0 for the smallest page.
    pub leaf: u32,
    /// Output size, as IPS and S2PS say it.
    pub size: u8,
    /// PRIVCFG and INSTCFG.
    pub overrides: u8,
    /// Whether the request asks for privileged rights.
    pub privileged: bool,
    /// First byte of the mapped address range: a multiple of what the leaf maps.
    pub address: u64,
}

const STE: [&str; 8] = [
    "STE, word 0",
    "STE, word 1",
    "STE, word 2",
    "STE, word 3",
    "STE, word 4",
    "STE, word 5",
    "STE, word 6",
    "STE, word 7",
];
const CD: [&str; 8] = [
    "CD, word 0",
    "CD, word 1",
    "CD, word 2",
    "CD, word 3",
    "CD, word 4",
    "CD, word 5",
    "CD, word 6",
    "CD, word 7",
];

/// A valid table, or page at the last level and block above it.
const fn table(next: u64) -> u64 {
    next | 3
}
const fn leaf(target: u64, level: u32) -> u64 {
    target | if level == 0 { 3 } else { 1 }
}
/// AF, inner shareable.
const BOTH: u64 = 1 << 10 | 3 << 8;

/// Rights of a leaf whose flags the unit is to set, where it may: AF, and dirty state through DBM.
const fn clean(stage: Stage, rights: u64, clean: u64) -> u64 {
    const DBM: u64 = 1 << 51;
    match (stage.ha, stage.hd) {
        (false, _) => rights,
        (true, false) => rights & !(1 << 10),
        (true, true) => (rights & !(1 << 10)) ^ clean | DBM,
    }
}

const fn first_style(stage: Stage) -> Style {
    let names =
        ["stage 1, level 3", "stage 1, level 2", "stage 1, level 1", "stage 1, level 0", "stage 1, level -1"];
    // AP[1], nG.
    let rights = clean(stage, BOTH | 1 << 6 | 1 << 11, 1 << 7);
    Style { names, table, leaf, rights, big_endian: stage.big_endian }
}
const fn second_style(stage: Stage) -> Style {
    let names =
        ["stage 2, level 3", "stage 2, level 2", "stage 2, level 1", "stage 2, level 0", "stage 2, level -1"];
    // S2AP, MemAttr: normal memory.
    let rights = clean(stage, BOTH | 3 << 6 | 0xf << 2, 1 << 7);
    Style { names, table, leaf, rights, big_endian: stage.big_endian }
}

/// ASID and VMID of every shape.
const TAG: u64 = 5;

impl Shape {
    fn stream_table(&self, builder: &mut Builder) -> (u64, u64) {
        let stream = u64::from(self.stream);
        match self.split {
            None => {
                let base = builder.table(64 << self.log2size);
                (base, base + stream * 64)
            }
            Some(split) => {
                let l1 = builder.table((8u64 << self.log2size.saturating_sub(split)).max(64));
                let l2 = builder.table(64 << split);
                builder.put(
                    "level 1 stream table descriptor",
                    l1 + (stream >> split) * 8,
                    l2 | u64::from(split + 1),
                );
                (l1, l2 + (stream & ((1 << split) - 1)) * 64)
            }
        }
    }

    /// STRTAB_BASE and STRTAB_BASE_CFG.
    #[must_use]
    pub fn registers(&self, layout: Layout) -> (u64, u64) {
        let (base, _) = self.stream_table(&mut Builder::new(layout));
        let format = self.split.map_or(0, |split| 1 << 16 | u64::from(split) << 6);
        (base, format | u64::from(self.log2size))
    }

    /// Where the context descriptor is that the request uses, and S1ContextPtr.
    fn contexts(&self, builder: &mut Builder) -> (u64, u64) {
        let index = u64::from(self.substream.unwrap_or(0));
        let leaf = match (self.cdmax, self.s1fmt) {
            (0, _) | (_, 0) => {
                let table = builder.table(64 << self.cdmax);
                return (table + index * 64, table);
            }
            (_, 1) => 6,
            _ => 10,
        };
        let l1 = builder.table((8u64 << self.cdmax.saturating_sub(leaf)).max(64));
        let l2 = builder.table(64 << leaf);
        builder.put("level 1 context descriptor", l1 + (index >> leaf) * 8, l2 | 1);
        (l2 + (index & ((1 << leaf) - 1)) * 64, l1)
    }

    fn context(&self, root: u64) -> [u64; 8] {
        let Stage { granule, bits, big_endian, .. } = self.first;
        let (tg0, tg1) = match granule {
            12 => (0, 2),
            14 => (2, 1),
            _ => (1, 3),
        };
        let (low, disabled) = (u64::from(64 - bits) | tg0 << 6, 1 << 14);
        let (high, high_disabled) = (u64::from(64 - bits) << 16 | tg1 << 22, 1 << 30);
        let ranges = if self.upper { disabled | high } else { low | high_disabled };
        // V, IPS, AA64, R, A, ASID.
        let word = ranges | 1 << 31 | u64::from(self.size) << 32 | 1 << 41 | 1 << 45 | 1 << 46 | TAG << 48;
        let word = word | u64::from(big_endian) << 15 | self.first.flags(42, 43);
        let (low, high) = if self.upper { (0, root) } else { (root, 0) };
        // MAIR: normal memory.
        [word, low, high, 0xff, 0, 0, 0, 0]
    }

    fn second_words(&self, root: u64) -> [u64; 2] {
        let Stage { granule, bits, big_endian, .. } = self.second;
        let tg = match granule {
            12 => 0,
            14 => 2,
            _ => 1,
        };
        let levels = u64::from(self.second.concatenated_levels());
        // SL0: with 4 KiB from level 2 on 0, 1 and 2; otherwise from level 3 on.
        let sl0 = if granule == 12 { if levels == 1 { 3 } else { levels - 2 } } else { levels - 1 };
        // VMID, S2AA64, S2R.
        let word = TAG | u64::from(64 - bits) << 32 | sl0 << 38 | tg << 46 | u64::from(self.size) << 48;
        let word = word | 1 << 51 | u64::from(big_endian) << 52 | self.second.flags(55, 56) | 1 << 58;
        [word, root]
    }

    fn leaf_shift(&self) -> u32 {
        let stage = if self.config.stage1() { self.first } else { self.second };
        stage.granule + self.leaf * (stage.granule - 3)
    }
}

impl tables::Shape for Shape {
    fn words(&self, layout: Layout) -> Vec<Word> {
        let mut builder = Builder::new(layout);
        let (_, ste) = self.stream_table(&mut builder);
        // S1DSS, S1CIR and the like: write-back, inner shareable; SHCFG: as it came.
        let word1 =
            u64::from(self.s1dss) | 1 << 2 | 1 << 4 | 3 << 6 | 1 << 44 | u64::from(self.overrides) << 48;
        let mut words = [1 | self.config.bits() << 1, word1, 0, 0, 0, 0, 0, 0];
        let begin = builder.end();
        if self.config.stage1() {
            let (at, pointer) = self.contexts(&mut builder);
            words[0] |= pointer | u64::from(self.s1fmt) << 4 | u64::from(self.cdmax) << 59;
            let style = first_style(self.first);
            let mut first = Radix::new(self.first.granule, self.first.levels(), self.first.bits, style);
            let root = first.root(&mut builder);
            builder.put_all(&CD, at, &self.context(root));
            first.map_window(&mut builder, self.address, layout.data, self.leaf);
        }
        let end = builder.end();
        if self.config.stage2() {
            let style = second_style(self.second);
            let levels = self.second.concatenated_levels();
            let mut second = Radix::new(self.second.granule, levels, self.second.bits, style);
            let root = second.root(&mut builder);
            words[2..4].copy_from_slice(&self.second_words(root));
            if self.config == Config::Nested {
                second.map_itself(&mut builder, layout.data..layout.data + WINDOW);
                second.map_itself(&mut builder, begin..end);
            } else {
                second.map_window(&mut builder, self.address, layout.data, self.leaf);
            }
        }
        builder.put_all(&STE, ste, &words);
        builder.words
    }

    fn start(&self, layout: Layout) -> u64 {
        match self.config {
            Config::Abort | Config::Bypass => layout.data,
            _ => self.address + (layout.data & ((1 << self.leaf_shift()) - 1)),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: stream {:#x} of 2^{}", self.config, self.stream, self.log2size)?;
        if let Some(split) = self.split {
            write!(f, " split at {split}")?;
        }
        if let Some(substream) = self.substream {
            write!(f, ", substream {substream:#x}")?;
        }
        if self.privileged {
            write!(f, ", privileged")?;
        }
        if self.config.stage1() {
            let Self { cdmax, s1fmt, s1dss, upper, .. } = self;
            write!(f, "; S1CDMax {cdmax}, S1Fmt {s1fmt}, S1DSS {s1dss}, TTB{}", u8::from(*upper))?;
            write!(f, ", first {:x?}", self.first)?;
        }
        if self.config.stage2() {
            write!(f, "; second {:x?}", self.second)?;
        }
        let Self { address, leaf, size, overrides, .. } = self;
        write!(
            f,
            "; {address:#x} mapped with a leaf {leaf} above the smallest; size {size}, overrides {overrides:#x}"
        )
    }
}
