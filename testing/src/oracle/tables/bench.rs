//! What the reference expects of a case, what a machine did, and whether that is the same.

use super::{Case, Decision, Layout, Request, Shape, Subject, WINDOW, Word, value};
use crate::machine::model::{ModelMachine, Sender, Unit};
use crate::machine::ram::{RAM_BYTES, Ram};
use crate::machine::{Machine, Touch};
use crate::qtest::hda::{Hda, WRITE_PIECE};
use portcullis_driver::platform::Memory as _;
use portcullis_spec::PhysAddr;
use std::cell::Cell;
use std::collections::BTreeMap;

/// What a case did, or should do.
///
/// Flags that a walk sets which then ends in a refusal may be set or not (`docs/oracles.md` says by which sections), so they read
/// as if they were not. All others count, set or not.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome<F> {
    /// The token that was read; 0 where reading was refused.
    pub token: u8,
    /// The faults that were recorded.
    pub faults: Vec<F>,
    /// Data that changed: offset into the window to new byte.
    pub data: BTreeMap<u64, u8>,
    /// Words of tables that changed.
    pub tables: BTreeMap<u64, u64>,
}

/// Words of tables that change, and the bits of them that may change or not.
#[derive(Default)]
struct Updates {
    /// What requests that pass have set.
    least: BTreeMap<u64, u64>,
    /// What all have set, as far as they came.
    most: BTreeMap<u64, u64>,
    /// Flags that may be anywhere.
    anywhere: u64,
}

impl Updates {
    /// A word as a machine has it that set as little as it may.
    fn settle(&self, at: u64, before: u64, found: u64) -> u64 {
        let least = self.least.get(&at).copied().unwrap_or(before);
        let open = least ^ self.most.get(&at).copied().unwrap_or(least);
        let found = found & !open | least & open;
        found & !self.anywhere | before & self.anywhere
    }
}

/// Both sides of a case.
#[derive(Clone, Debug)]
pub struct Judged<S: Subject> {
    /// The unit, with registers that lead to the case's tables.
    pub unit: S::Unit,
    /// The tables, changes made.
    pub words: Vec<Word>,
    /// What the specification says.
    pub expected: Outcome<S::Recorded>,
    /// What the machine did.
    pub observed: Outcome<S::Recorded>,
}

/// How a case's request is made on a machine: returns the token that it read.
pub type Ask<S, M> = fn(&M, &Case<<S as Subject>::Shape>) -> u8;

/// A machine with a unit in force.
pub struct Bench<S: Subject, M> {
    /// The machine.
    pub machine: M,
    /// What its unit says of itself.
    pub unit: S::Unit,
    /// Where tables and data lie in it.
    pub layout: Layout,
    /// Addresses at which the machine has something that is neither memory nor nothing.
    pub elsewhere: Vec<std::ops::Range<u64>>,
    pattern: Vec<u8>,
    ask: Ask<S, M>,
}

/// The token that the memory at `address` holds before a case.
const fn token_at(address: u64) -> u8 {
    // Odd, so never 0, and different in neighbouring words and pages.
    (address >> 2 ^ address >> 9) as u8 | 1
}

impl<S: Subject, M: Machine> Bench<S, M> {
    /// A machine whose unit is enabled, says `unit` of itself, and is asked by `ask`.
    pub fn new(machine: M, unit: S::Unit, ask: Ask<S, M>) -> Self {
        let layout = Layout::of(&machine);
        let tokens = (layout.data..layout.data + WINDOW).step_by(4);
        let pattern: Vec<u8> = tokens.flat_map(|at| Hda::verb(token_at(at))).collect();
        machine.ram().write(PhysAddr(layout.data), &pattern);
        Self { machine, unit, layout, elsewhere: Vec::new(), pattern, ask }
    }

    /// What the specification says of a case and what the machine does; `None` where the case can't be judged.
    pub fn run(&self, case: &Case<S::Shape>) -> Option<Judged<S>> {
        self.run_beside(case, |_| false, || ())
    }

    /// The same, with `meanwhile` done when the tables are in force and once more after the request. Cases that change words that
    /// are `foreign` can't be judged.
    pub fn run_beside(
        &self,
        case: &Case<S::Shape>,
        foreign: impl Fn(u64) -> bool,
        mut meanwhile: impl FnMut(),
    ) -> Option<Judged<S>> {
        let ram = self.machine.ram();
        let words = case.words(self.layout);
        let unit = S::rooted(&self.unit, &case.shape, self.layout);
        for word in &words {
            ram.store64(PhysAddr(word.at), word.value);
        }
        let judged = self.expect(&unit, case, foreign).map(|(expected, updates)| {
            S::install(&self.machine, &unit);
            meanwhile();
            let observed = self.observe(&unit, case, &words, &updates, meanwhile);
            Judged { unit, words: words.clone(), expected, observed }
        });
        for word in &words {
            ram.store64(PhysAddr(word.at), 0);
        }
        judged
    }

    /// What the specification says of a case whose tables lie in memory; `None` where it would reach memory outside the
    /// window, or is no ordinary request, or hangs on what is open. And what may change.
    fn expect(
        &self,
        unit: &S::Unit,
        case: &Case<S::Shape>,
        foreign: impl Fn(u64) -> bool,
    ) -> Option<(Outcome<S::Recorded>, Updates)> {
        let ram = self.machine.ram();
        let data = self.layout.data..self.layout.data + WINDOW;
        let mut tables = Updates::default();
        let unknown = Cell::new(false);
        let mut outcome =
            Outcome { token: 0, faults: Vec::new(), data: BTreeMap::new(), tables: BTreeMap::new() };
        let piece = WRITE_PIECE as u64;
        let requests = [(false, case.read), (true, case.write), (true, case.write.wrapping_add(piece))];
        for (is_write, address) in requests {
            let decide = |changed: &BTreeMap<u64, u64>| {
                let memory = |at: u64| {
                    unknown.set(unknown.get() || self.elsewhere.iter().any(|range| range.contains(&at)));
                    let known = || changed.get(&at).copied().unwrap_or_else(|| ram.load64(PhysAddr(at)));
                    contains(ram, at).then(known)
                };
                S::decide(unit, &memory, &case.shape, Request { address, is_write })
            };
            let (decision, updates) = decide(&tables.least)?;
            let (other, most) = decide(&tables.most)?;
            // A table that lies where the data is, or a flag that is something else to another table.
            let mut all = updates.iter().chain(&most);
            if unknown.get() || all.any(|(at, _)| data.contains(at) || foreign(*at)) || other != decision {
                return None;
            }
            tables.most.extend(most);
            if !matches!(decision, Decision::Refuse(_)) {
                tables.least.extend(updates);
            }
            match decision {
                Decision::Pass(to) => {
                    let offset = to.checked_sub(self.layout.data).filter(|offset| *offset < WINDOW)?;
                    if is_write {
                        outcome.data.extend((offset..offset + piece).map(|offset| (offset, 0)));
                    } else {
                        outcome.token = token_at(to);
                    }
                }
                Decision::Taken => {}
                Decision::Refuse(fault) => {
                    tables.anywhere = S::ON_THE_WAY;
                    outcome.faults.extend(fault.filter(|_| outcome.faults.len() < S::RECORDS));
                }
            }
        }
        for (at, value) in &tables.least {
            let before = ram.load64(PhysAddr(*at));
            let after = before & tables.anywhere | value & !tables.anywhere;
            if after != before {
                outcome.tables.insert(*at, after);
            }
        }
        // A change to zero where zero was is none.
        let pattern = &self.pattern;
        outcome.data.retain(|offset, value| pattern[*offset as usize] != *value);
        Some((outcome, tables))
    }

    /// Let the machine make the request of a case, and see what it did.
    fn observe(
        &self,
        unit: &S::Unit,
        case: &Case<S::Shape>,
        words: &[Word],
        updates: &Updates,
        meanwhile: impl FnOnce(),
    ) -> Outcome<S::Recorded> {
        let ram = self.machine.ram();
        let token = (self.ask)(&self.machine, case);
        meanwhile();
        let mut after = [0; WINDOW as usize];
        ram.read(PhysAddr(self.layout.data), &mut after);
        let mut data = BTreeMap::new();
        if after != self.pattern[..] {
            let pairs = self.pattern.iter().zip(&after).enumerate();
            let changed = pairs.filter(|(_, (before, after))| before != after);
            data.extend(changed.map(|(offset, (_, after))| (offset as u64, *after)));
            ram.write(PhysAddr(self.layout.data), &self.pattern);
        }
        let changed = words.iter().filter_map(|word| {
            let before = value(words, word.at);
            let after = updates.settle(word.at, before, ram.load64(PhysAddr(word.at)));
            (after != before).then_some((word.at, after))
        });
        let tables = changed.collect();
        let faults = S::take_faults(&self.machine, unit);
        Outcome { token, faults, data, tables }
    }

    /// The case and what both sides did, in words.
    pub fn show(&self, case: &Case<S::Shape>, judged: &Judged<S>, machine: &str) -> String {
        let Judged { expected, observed, .. } = judged;
        let case = case.show(self.layout);
        format!("{case}\n  specification: {expected:x?}\n  {machine}: {observed:x?}")
    }
}

/// Whether a word lies in memory.
#[must_use]
pub fn contains(ram: &Ram, at: u64) -> bool {
    at.checked_sub(ram.base().0).is_some_and(|offset| offset < RAM_BYTES)
}

/// The request of a case by a machine's last engine, which carries no PASID.
pub fn touch<M: Machine, S: Shape>(machine: &M, case: &Case<S>) -> u8 {
    machine.touch(Touch { read: case.read, write: case.write })
}

/// A request by whoever a shape names, on a model.
pub fn ask_as<S: Subject, M: Asked>(machine: &M, shape: &S::Shape, touch: Touch) -> u8 {
    machine.ask(S::sender(shape), touch)
}

/// A machine that lets anybody ask.
pub trait Asked {
    /// Read 4 bytes and write 8.
    fn ask(&self, sender: Sender, touch: Touch) -> u8;
}

impl<U: Unit> Asked for ModelMachine<U> {
    fn ask(&self, sender: Sender, touch: Touch) -> u8 {
        self.touch_as(sender, touch)
    }
}

/// The request of a case by whoever it names, on a model.
pub fn ask<S: Subject, U: Unit>(machine: &ModelMachine<U>, case: &Case<S::Shape>) -> u8 {
    machine.touch_as(S::sender(&case.shape), Touch { read: case.read, write: case.write })
}
