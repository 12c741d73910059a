//! What a program should do, by the plainest means: a list of stretches per space, and a copy of the memory.

use super::program::{Engine, Space, Step};
use crate::machine::ram::{DATA_BYTES, SCRIPT_BYTES};
use crate::machine::{COPY_PIECE, Machine};
use crate::qtest::hda::{Hda, WRITE_BYTES, WRITE_PIECE};
use portcullis_spec::Access;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// What depends on the unit and the machine.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Addresses that can be mapped are below this.
    pub limit: u64,
    /// First and last addresses that can't be mapped.
    pub reserved: Vec<(u64, u64)>,
    /// Whether what may be written may be read.
    pub write_implies_read: bool,
    /// Whether an engine that left an identity space can't be used any more: a machine may fail to notice.
    pub identity_sticks: bool,
    /// Whether engines that can't fetch their program are left alone: they look for it for a long while, and a machine that
    /// records every refusal records each of those.
    pub fetches_always: bool,
    /// Where data lies.
    pub data: u64,
    /// Start of the machine's memory.
    pub ram: u64,
    /// Where each engine fetches its program.
    pub scripts: Vec<u64>,
}

impl Rules {
    /// Of a unit that reserves nothing and forgets what it is told to, on a machine. Addresses up to `limit` can be mapped.
    #[must_use]
    pub fn on(machine: &impl Machine, limit: u64) -> Self {
        let ram = machine.ram();
        Self {
            limit,
            reserved: Vec::new(),
            write_implies_read: true,
            identity_sticks: false,
            fetches_always: true,
            data: ram.data().0,
            ram: ram.base().0,
            scripts: (0..machine.requesters().len()).map(|engine| ram.script(engine).0).collect(),
        }
    }
}

/// A stretch of pages that lead to neighbouring memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    length: u64,
    target: u64,
    access: Access,
}

/// What is mapped, by first address.
#[derive(Clone, Default, Debug)]
struct Map(BTreeMap<u64, Stretch>);

impl Map {
    fn find(&self, address: u64) -> Option<(u64, Stretch)> {
        let (start, stretch) = self.0.range(..=address).next_back()?;
        (address - start < stretch.length).then_some((*start, *stretch))
    }

    fn overlaps(&self, start: u64, length: u64) -> bool {
        self.find(start).is_some() || self.0.range(start..start + length).next().is_some()
    }

    /// Make sure that no stretch reaches across `at`.
    fn cut(&mut self, at: u64) {
        if let Some((start, stretch)) = self.find(at)
            && start < at
        {
            let head = at - start;
            self.0.insert(start, Stretch { length: head, ..stretch });
            let tail = Stretch { length: stretch.length - head, target: stretch.target + head, ..stretch };
            self.0.insert(at, tail);
        }
    }

    /// The stretches of exactly this range, cut where it begins and ends.
    fn within(&mut self, start: u64, length: u64) -> Vec<u64> {
        self.cut(start);
        self.cut(start + length);
        self.0.range(start..start + length).map(|(start, _)| *start).collect()
    }
}

/// What a space is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpaceKind {
    /// It has mappings.
    Mapped,
    /// Addresses pass unchanged.
    Identity,
}

/// A refused access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Whose.
    pub engine: Engine,
    /// Its page.
    pub page: u64,
    /// Whether it wrote.
    pub is_write: bool,
    /// Why.
    pub why: Why,
}

/// Why an access is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The engine is attached to nothing.
    Detached,
    /// Nothing is mapped there.
    NotMapped,
    /// It may be read, but not written.
    ReadOnly,
    /// It may be written, but not read.
    WriteOnly,
}

impl Why {
    /// Whether there is a mapping, without the right.
    #[must_use]
    pub const fn is_right(self) -> bool {
        matches!(self, Self::ReadOnly | Self::WriteOnly)
    }
}

/// What one step should do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expectation {
    /// Whether the driver should agree.
    pub accepted: bool,
    /// Whether the engine can fetch its program (copies), or what it reads (touches).
    pub result: u8,
    /// Every access that should be refused, in order.
    pub refusals: Vec<Refusal>,
}

/// The state that a program has brought about.
#[derive(Clone, Debug)]
pub struct Shadow {
    rules: Rules,
    /// `None` where addresses pass unchanged.
    spaces: Vec<Option<Map>>,
    attached: Vec<Option<Space>>,
    /// Engines that can't be used any more.
    spent: Vec<bool>,
    /// The data.
    pub memory: Vec<u8>,
}

impl Shadow {
    /// No engine attached, nothing mapped but the engines' programs, in spaces of these kinds.
    #[must_use]
    pub fn new(rules: Rules, spaces: &[SpaceKind]) -> Self {
        let mut scripts = Map::default();
        for script in &rules.scripts {
            scripts.0.insert(*script, Stretch { length: PAGE, target: *script, access: Access::READ });
        }
        let spaces = spaces.iter().map(|kind| match kind {
            SpaceKind::Mapped => Some(scripts.clone()),
            SpaceKind::Identity => None,
        });
        Self {
            spaces: spaces.collect(),
            attached: vec![None; rules.scripts.len()],
            spent: vec![false; rules.scripts.len()],
            memory: vec![0; DATA_BYTES as usize],
            rules,
        }
    }

    /// Fill the data with tokens ([`crate::machine::ram::Ram::put_token`]) that depend on `seed`.
    pub fn fill(&mut self, seed: u64) {
        for (index, word) in self.memory.chunks_exact_mut(4).enumerate() {
            let mixed = (index as u64 ^ seed << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // Not zero: that is what a refused read brings.
            word.copy_from_slice(&Hda::verb((mixed >> 56) as u8 | 1));
        }
    }

    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Stretches of addresses that lead to data in a space: first address and bytes.
    #[must_use]
    pub fn stretches(&self, space: Space) -> Vec<(u64, u64)> {
        let Some(map) = &self.spaces[space] else { return vec![(self.rules.data, DATA_BYTES)] };
        let mut stretches: Vec<(u64, u64)> = Vec::new();
        for (start, stretch) in map.0.iter().filter(|(start, _)| !self.rules.scripts.contains(start)) {
            match stretches.last_mut() {
                Some((first, length)) if *first + *length == *start => *length += stretch.length,
                _ => stretches.push((*start, stretch.length)),
            }
        }
        stretches
    }

    /// Which space an engine is attached to.
    #[must_use]
    pub fn space_of(&self, engine: Engine) -> Option<Space> {
        self.attached[engine]
    }

    /// Whether a step's engine can be used, and everything that it reaches is data: large pages reach further than there is
    /// memory.
    #[must_use]
    pub fn is_possible(&self, step: &Step) -> bool {
        let inside = |engine: Engine, first: u64, length: u64, is_write: bool| {
            let mut page = first / PAGE;
            loop {
                if let Ok(target) = self.translate(engine, page * PAGE, is_write) {
                    let data = self.rules.data..self.rules.data + DATA_BYTES;
                    if !data.contains(&target) {
                        return false;
                    }
                }
                if page * PAGE + PAGE >= first + length {
                    return true;
                }
                page += 1;
            }
        };
        match *step {
            Step::Copy { engine, source, destination, length } => {
                let fetched = self.translate(engine, self.rules.scripts[engine], false).is_ok();
                !self.spent[engine]
                    && (fetched || !self.rules.fetches_always)
                    && inside(engine, source.into(), length.into(), false)
                    && inside(engine, destination.into(), length.into(), true)
            }
            Step::Touch { read, write } => {
                let engine = self.attached.len() - 1;
                !self.spent[engine] && inside(engine, read, 4, false) && inside(engine, write, 8, true)
            }
            _ => true,
        }
    }

    fn translate(&self, engine: Engine, address: u64, is_write: bool) -> Result<u64, Why> {
        let space = self.attached[engine].ok_or(Why::Detached)?;
        let Some(map) = &self.spaces[space] else { return Ok(address) };
        let (start, stretch) = map.find(address).ok_or(Why::NotMapped)?;
        match (is_write, stretch.access.contains(Access::READ), stretch.access.contains(Access::WRITE)) {
            (false, false, _) => Err(Why::WriteOnly),
            (true, _, false) => Err(Why::ReadOnly),
            _ => Ok(stretch.target + (address - start)),
        }
    }

    /// Do a step, and say what should be seen of it.
    pub fn apply(&mut self, step: &Step) -> Expectation {
        let mut expectation = Expectation { accepted: true, ..Expectation::default() };
        match *step {
            Step::Map { space, iova, target, length, access } => {
                let possible = self.can_be_mapped(iova, length) && target.is_multiple_of(PAGE);
                let (target, access) = (self.rules.ram + target, self.granted(access));
                let map = self.spaces[space].as_mut();
                let free = map.filter(|map| possible && !map.overlaps(iova, length));
                expectation.accepted = free.is_some();
                if let Some(map) = free {
                    map.0.insert(iova, Stretch { length, target, access });
                }
            }
            Step::Unmap { space, iova, length } => {
                let possible = self.can_be_mapped(iova, length);
                let map = self.spaces[space].as_mut().filter(|_| possible);
                expectation.accepted = map.is_some();
                if let Some(map) = map {
                    for start in map.within(iova, length) {
                        map.0.remove(&start);
                    }
                }
            }
            Step::Protect { space, iova, length, access } => {
                let possible = self.can_be_mapped(iova, length);
                let access = self.granted(access);
                let map = self.spaces[space].as_mut().filter(|_| possible);
                expectation.accepted = map.is_some();
                if let Some(map) = map {
                    for start in map.within(iova, length) {
                        map.0.entry(start).and_modify(|stretch| stretch.access = access);
                    }
                }
            }
            Step::Attach { engine, space } => {
                expectation.accepted = self.attached[engine].is_none();
                self.attached[engine].get_or_insert(space);
            }
            Step::Detach { engine } => {
                let space = self.attached[engine].take();
                expectation.accepted = space.is_some();
                let was_identity = space.is_some_and(|space| self.spaces[space].is_none());
                self.spent[engine] |= was_identity && self.rules.identity_sticks;
            }
            Step::Copy { engine, source, destination, length } => {
                let script = self.rules.scripts[engine];
                let refusals = &mut expectation.refusals;
                let mut program = [0; SCRIPT_BYTES];
                self.read(engine, script, &mut program, refusals);
                expectation.result = u8::from(refusals.is_empty());
                if refusals.is_empty() {
                    let mut done = 0;
                    while done < length {
                        let piece = (length - done).min(COPY_PIECE);
                        let mut bytes = vec![0; piece as usize];
                        self.read(engine, u64::from(source + done), &mut bytes, refusals);
                        self.write(engine, u64::from(destination + done), &bytes, refusals);
                        done += piece;
                    }
                }
            }
            Step::Touch { read, write } => {
                let engine = self.attached.len() - 1;
                let mut token = [0; 4];
                self.read(engine, read, &mut token, &mut expectation.refusals);
                expectation.result = token[0];
                for half in (0..WRITE_BYTES as u64).step_by(WRITE_PIECE) {
                    self.write(engine, write + half, &[0; WRITE_PIECE], &mut expectation.refusals);
                }
            }
        }
        expectation
    }

    fn can_be_mapped(&self, iova: u64, length: u64) -> bool {
        let last = iova.wrapping_add(length.wrapping_sub(1));
        let reserved = self.rules.reserved.iter().any(|(first, end)| *first <= last && iova <= *end);
        let aligned = iova.is_multiple_of(PAGE) && length.is_multiple_of(PAGE);
        aligned && length > 0 && last >= iova && last < self.rules.limit && !reserved
    }

    fn granted(&self, access: Access) -> Access {
        if self.rules.write_implies_read { access | Access::READ } else { access }
    }

    fn read(&self, engine: Engine, address: u64, bytes: &mut [u8], refusals: &mut Vec<Refusal>) {
        let length = bytes.len() as u64;
        for (offset, length) in page_pieces(address, length) {
            match self.translate(engine, address + offset, false) {
                Ok(target) => {
                    if let Some(from) = target.checked_sub(self.rules.data).filter(|from| *from < DATA_BYTES)
                    {
                        let piece = &self.memory[from as usize..(from + length) as usize];
                        bytes[offset as usize..(offset + length) as usize].copy_from_slice(piece);
                    }
                }
                Err(why) => refusals.push(refusal(engine, address + offset, false, why)),
            }
        }
    }

    fn write(&mut self, engine: Engine, address: u64, bytes: &[u8], refusals: &mut Vec<Refusal>) {
        let length = bytes.len() as u64;
        for (offset, length) in page_pieces(address, length) {
            match self.translate(engine, address + offset, true) {
                Ok(target) => {
                    if let Some(to) = target.checked_sub(self.rules.data).filter(|to| *to < DATA_BYTES) {
                        let piece = &bytes[offset as usize..(offset + length) as usize];
                        self.memory[to as usize..(to + length) as usize].copy_from_slice(piece);
                    }
                }
                Err(why) => refusals.push(refusal(engine, address + offset, true, why)),
            }
        }
    }
}

const fn refusal(engine: Engine, address: u64, is_write: bool, why: Why) -> Refusal {
    Refusal { engine, page: address & !(PAGE - 1), is_write, why }
}

/// Offset and length of each part of a stretch that lies in one page.
fn page_pieces(address: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let here = (PAGE - (address + offset) % PAGE).min(length - offset);
        let piece = (here > 0).then_some((offset, here));
        offset += here;
        piece
    })
}
