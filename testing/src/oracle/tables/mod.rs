//! Tables written by the test itself, word by word: valid ones of every shape, then some of their bits changed.
//!
//! No driver and no encoder has a part in this, so that what no driver would ever write is reached too: reserved bits,
//! types that don't exist, pointers to anywhere. What is the same for every architecture is here; a [`Subject`] is one
//! architecture.

pub mod bench;
pub mod departures;
pub mod neighbour;
pub mod radix;
pub mod random_bits;
pub mod run;

use crate::machine::Machine;
use crate::machine::model::Sender;
use crate::reference::{Update, Words};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use std::fmt::{self, Write as _};

/// One word of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    /// Which it is.
    pub name: &'static str,
    /// Where it lies.
    pub at: u64,
    /// What it holds.
    pub value: u64,
}

/// A word that is not what the shape makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its index in what [`Shape::words`] gives.
    pub word: usize,
    /// Its bits that are inverted.
    pub flip: u64,
}

/// Where tables lie, and where what they map lies.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// First of [`TABLE_PAGES`] pages.
    pub tables: u64,
    /// First byte of data, a multiple of 2 MiB.
    pub data: u64,
}

/// Pages that tables take.
pub const TABLE_PAGES: u64 = 64;
/// Bytes of data that a request of a case may reach.
pub const WINDOW: u64 = 8 * 4096;

impl Layout {
    /// Where tables and data lie in a machine's memory.
    pub fn of<M: Machine>(machine: &M) -> Self {
        let base = machine.ram().base().0;
        Self { tables: base + 0x80_0000, data: base + 0x20_0000 }
    }

    /// The first byte of a page of the tables.
    #[must_use]
    pub const fn page(&self, index: u64) -> u64 {
        self.tables + index * 4096
    }
}

/// A valid set of tables and who asks through them, before anything is changed.
pub trait Shape: Copy + PartialEq + fmt::Debug + fmt::Display {
    /// Every word that is not zero, and others that matter. One may be named twice; the last counts.
    fn words(&self, layout: Layout) -> Vec<Word>;

    /// The address that leads to the first byte of the layout's data.
    fn start(&self, layout: Layout) -> u64;

    /// Whether all requests go to one page: what one finds may stand for its neighbours too.
    fn is_of_one_page(&self) -> bool {
        false
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<F> {
    /// It goes on to this physical address.
    Pass(u64),
    /// It is taken by something that is no memory: a read gives zero, and a write changes nothing.
    Taken,
    /// It is refused, with this record or none.
    Refuse(Option<F>),
}

/// An architecture, as far as tables before a unit are concerned.
pub trait Subject: Copy + fmt::Debug + Sized + 'static {
    /// Its tables.
    type Shape: Shape;
    /// A unit as the reference knows it: what its registers hold.
    type Unit: Copy + fmt::Debug;
    /// A fault record, as far as it is defined.
    type Recorded: Copy + PartialEq + fmt::Debug;

    /// Flags that any entry on the way of a walk may have which ends in a refusal, beyond what the reference says of it.
    const ON_THE_WAY: u64 = 0;
    /// Fault records that the compared units keep.
    const RECORDS: usize;

    /// The unit with registers that lead to a case's tables.
    fn rooted(unit: &Self::Unit, shape: &Self::Shape, layout: Layout) -> Self::Unit;

    /// What the reference says of one request, and the words that change; `None` where it is no ordinary request.
    fn decide(
        unit: &Self::Unit,
        memory: &impl Words,
        shape: &Self::Shape,
        request: Request,
    ) -> Option<(Decision<Self::Recorded>, Vec<Update>)>;

    /// Write the registers that lead to a case's tables, and let nothing remain of earlier ones.
    fn install<M: Machine>(machine: &M, unit: &Self::Unit);

    /// The fault records since the last call, oldest first.
    fn take_faults<M: Machine>(machine: &M, unit: &Self::Unit) -> Vec<Self::Recorded>;

    /// Who asks.
    fn sender(shape: &Self::Shape) -> Sender;
}

/// One of a case's three requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// First byte.
    pub address: u64,
    /// Whether it writes; otherwise it reads.
    pub is_write: bool,
}

/// A set of tables and requests: a read of 4 bytes, then two writes of 4.
#[derive(Clone, PartialEq, Debug)]
pub struct Case<S> {
    /// The tables before anything is changed.
    pub shape: S,
    /// What is changed.
    pub changes: Vec<Change>,
    /// First byte read; a multiple of 4.
    pub read: u64,
    /// First byte written; leaves 8 divided by 128.
    pub write: u64,
}

impl<S: Shape> Case<S> {
    /// The tables, with the changes made.
    #[must_use]
    pub fn words(&self, layout: Layout) -> Vec<Word> {
        let mut words = self.shape.words(layout);
        for change in &self.changes {
            words[change.word].value ^= change.flip;
        }
        words
    }

    /// A case of this shape with random changes and a random request.
    pub fn random(shape: S, layout: Layout, random: &mut impl Rng) -> Self {
        let words = shape.words(layout);
        let count = *[0, 1, 1, 1, 1, 2, 2, 3].choose(random).unwrap_or(&1);
        let changes = (0..count).map(|_| {
            let word = random.random_range(0..words.len());
            Change { word, flip: random_flip(words[word].value, random) }
        });
        let changes = changes.collect();
        Self::with_changes(shape, changes, layout, random)
    }

    /// A case of this shape with these changes and a random request.
    pub fn with_changes(shape: S, changes: Vec<Change>, layout: Layout, random: &mut impl Rng) -> Self {
        let start = shape.start(layout);
        let mut address = |align: u64, remainder: u64| {
            let offset = random.random_range(0..WINDOW) / align * align + remainder;
            let stray = match random.random_range(0..16) {
                0 => 1 << random.random_range(12..64),
                1 => u64::MAX << random.random_range(30..64),
                _ => 0,
            };
            (start + offset % WINDOW) ^ stray
        };
        let (read, write) = (address(4, 0), address(128, 8));
        let write = if shape.is_of_one_page() { read & !0xfff | write & 0xfff } else { write };
        Self { shape, changes, read, write }
    }

    /// A case in which the bits given of the words named are inverted; it reads at the mapping's start and writes in its
    /// second page.
    #[must_use]
    pub fn changed(shape: S, layout: Layout, changes: &[(&str, u64)]) -> Self {
        let words = shape.words(layout);
        let index = |name: &str| words.iter().position(|word| word.name == name).unwrap_or(usize::MAX);
        let changes = changes.iter().map(|(name, flip)| Change { word: index(name), flip: *flip }).collect();
        let start = shape.start(layout);
        Self { shape, changes, read: start, write: start + 0x1008 }
    }

    /// The case, with the write where it reads.
    #[must_use]
    pub fn with_write_to_the_page_read(self) -> Self {
        let write = (self.read & !0xfff) | 0x108;
        Self { write, ..self }
    }

    /// Simpler cases, the simplest first: fewer changes, and fewer bits in them.
    #[must_use]
    pub fn simpler(&self) -> Vec<Self> {
        let mut simpler = Vec::new();
        for (index, change) in self.changes.iter().enumerate() {
            let mut without = self.clone();
            without.changes.remove(index);
            simpler.push(without);
            if change.flip.count_ones() > 1 {
                for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| change.flip & bit != 0) {
                    let mut one = self.clone();
                    one.changes[index].flip = bit;
                    simpler.push(one);
                }
                for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| change.flip & bit != 0) {
                    let mut fewer = self.clone();
                    fewer.changes[index].flip ^= bit;
                    simpler.push(fewer);
                }
            }
        }
        simpler
    }

    /// The case in words.
    #[must_use]
    pub fn show(&self, layout: Layout) -> String {
        let mut text = format!("{}\n", self.shape);
        let before = self.shape.words(layout);
        for change in &self.changes {
            let Word { name, value, .. } = before[change.word];
            let _ = writeln!(text, "  {name}: {value:#x} becomes {:#x}", value ^ change.flip);
        }
        let _ = write!(text, "  read 4 bytes at {:#x}, then write 8 at {:#x}", self.read, self.write);
        text
    }
}

/// What a word of these tables holds; 0 where it is none of them.
#[must_use]
pub fn value(words: &[Word], at: u64) -> u64 {
    words.iter().rfind(|word| word.at == at).map_or(0, |word| word.value)
}

/// Mostly one bit, sometimes a few, sometimes anything.
fn random_flip(value: u64, random: &mut impl Rng) -> u64 {
    let bit = |random: &mut dyn Rng| 1u64 << random.random_range(0..64u32);
    match random.random_range(0..10) {
        0..=4 => bit(random),
        5 => 1 << random.random_range(0..12u32),
        6 => bit(random) | bit(random),
        7 => value,
        8 => (random.random::<u64>() & 0xfff) << random.random_range(0..56u32),
        _ => random.random(),
    }
}
