//! Another requester of the same unit, with tables that are right, while somebody's are not.

use super::bench::{Bench, contains};
use super::random_bits::BadInput;
use super::{Case, Decision, Layout, Request, Shape as _, Subject, Word};
use crate::machine::Machine as _;
use crate::machine::Touch;
use crate::oracle::tables::bench::ask_as;
use crate::qtest::hda::Hda;
use portcullis_driver::platform::Memory as _;
use portcullis_spec::PhysAddr;
use std::cell::Cell;

/// From the tables of the one to those of the other, and so with data.
const APART: u64 = 0x10_0000;
const DATA_APART: u64 = 0x20_0000;
/// Bytes of tables.
const TABLES: u64 = super::TABLE_PAGES * 4096;

/// The other requester: its tables lie apart but for its own entries in the table that the registers lead to.
pub struct Neighbour<S: Subject> {
    shape: S::Shape,
    words: Vec<Word>,
    layout: Layout,
    /// How often it was asked.
    asked: Cell<u64>,
}

/// What the neighbour's data holds before it is read.
const VALUE: u8 = 0x5b;

impl<S: BadInput> Neighbour<S> {
    /// A neighbour of a case's requester, where there is room for one: its tables are in memory from now on.
    pub fn settle(bench: &Bench<S, S::Model>, case: &Case<S::Shape>) -> Option<Self> {
        let (shape, top) = S::neighbour(&case.shape)?;
        let own = bench.layout;
        let layout = Layout { tables: own.tables + APART, data: own.data + DATA_APART };
        let mut words = shape.words(layout);
        for word in &mut words {
            if (layout.tables..layout.tables + top).contains(&word.at) {
                word.at -= APART;
            }
        }
        let theirs = case.shape.words(own);
        if words.iter().any(|word| theirs.iter().any(|other| other.at == word.at)) {
            return None;
        }
        let ram = bench.machine.ram();
        for word in &words {
            ram.store64(PhysAddr(word.at), word.value);
        }
        let neighbour = Self { shape, words, layout, asked: Cell::new(0) };
        let unit = S::rooted(&bench.unit, &case.shape, own);
        let passes = [false, true].into_iter().all(|is_write| {
            let address = shape.start(layout) + u64::from(is_write) * 0x80;
            let memory = |at: u64| contains(ram, at).then(|| ram.load64(PhysAddr(at)));
            let decided = S::decide(&unit, &memory, &shape, Request { address, is_write });
            let expected = layout.data + u64::from(is_write) * 0x80;
            matches!(decided, Some((Decision::Pass(to), _)) if to == expected)
        });
        if passes {
            return Some(neighbour);
        }
        neighbour.leave(bench);
        None
    }

    /// Whether a word is one of its tables or of its data.
    pub fn owns(&self, at: u64) -> bool {
        let Layout { tables, data } = self.layout;
        (tables..tables + TABLES).contains(&at)
            || (data..data + super::WINDOW).contains(&at)
            || self.words.iter().any(|word| word.at == at)
    }

    /// Let it read and write, which must do what its tables say.
    ///
    /// # Errors
    /// What it did instead.
    pub fn go_on(&self, bench: &Bench<S, S::Model>) -> Result<(), String> {
        let ram = bench.machine.ram();
        let (read, write) = (PhysAddr(self.layout.data), PhysAddr(self.layout.data + 0x80));
        ram.write(read, &Hda::verb(VALUE));
        ram.store64(write, u64::MAX);
        let start = self.shape.start(self.layout);
        let token = ask_as::<S, _>(&bench.machine, &self.shape, Touch { read: start, write: start + 0x80 });
        let written = ram.load64(write);
        self.asked.set(self.asked.get() + 1);
        if (token, written) == (VALUE, 0) {
            return Ok(());
        }
        let Self { shape, .. } = self;
        let step = self.asked.get();
        Err(format!("at step {step} a neighbour read {token:#x} and left {written:#x}: {shape}"))
    }

    /// How often it read and wrote.
    pub const fn asked(&self) -> u64 {
        self.asked.get()
    }

    /// Take its tables away.
    pub fn leave(&self, bench: &Bench<S, S::Model>) {
        for word in &self.words {
            bench.machine.ram().store64(PhysAddr(word.at), 0);
        }
    }
}
