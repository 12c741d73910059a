//! Nested spaces under the model checker: the whole of [`Space`], with both its caches and the cache of the space behind.
//!
//! The tables are real memory, whose changes everyone sees at once; what the orders of their accesses must be, the models of `Machine`
//! show. Here it is what is noted, kept and forgotten, and in what order.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use portcullis_pagetable::{AnyFormat, Attributes, Format, Rights};
use portcullis_spec::{
    Access, DomainTag, Iova, Ipa, PagingFormat, PhysAddr, SpaceTag, Stage, StageNumber, StageRules, Tags,
    TranslationScope,
};

use super::{Bytes, explore};
use crate::budget::Budget;
use crate::engine::Inside;
use crate::gate::Gate;
use crate::memory::{GuestMemory, OwnedMemory};
use crate::pattern::Demand;
use crate::plain::Block;
use crate::space::{Space, SpaceKey};
use crate::translate::{FormattedStage, Request, Stages, not_redirected};

const PAGE: u64 = 0x1000;
/// Pages of memory: the second stage's only table, the first stage's root and leaf tables, a copy of one of these, and data.
const SECOND: u64 = PAGE;
const ROOT: u64 = 2 * PAGE;
const TABLES: [u64; 2] = [3 * PAGE, 4 * PAGE];
const COPY: u64 = 5 * PAGE;
const DATA: u64 = 6 * PAGE;
const OTHER: u64 = 7 * PAGE;
const PAGES: u64 = 8;
/// Where the second stage has them.
const GUEST: u64 = 0x10 * PAGE;
/// Inputs by the leaf table that translates them.
const INPUTS: [u64; 2] = [0, 2 << 20];

const FIRST: PagingFormat = PagingFormat::AmdV1 { mode: 2 };
const BEHIND: PagingFormat = PagingFormat::AmdV1 { mode: 1 };

fn stage<A>(format: PagingFormat, root: A) -> FormattedStage<A> {
    let stage = Stage { format, root, rules: StageRules::empty(), input_bits: 64 };
    FormattedStage { stage, format: AnyFormat::try_from(format).expect("a format") }
}

/// A nested space, and the memory around it.
struct Machine {
    gate: Gate,
    memory: OwnedMemory,
    second: Arc<Space>,
    space: Space,
    /// Whether [`DATA`] is somebody else's by now, and somebody reached it all the same.
    reused: AtomicBool,
    is_stale: AtomicBool,
    data: Bytes,
}

/// What software changes, so that [`DATA`] is not reached any more.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// The first stage's leaf entry, which it invalidates as such.
    First,
    /// The second stage's for the page of data.
    Second,
    /// The second stage's for the page in which the first stage's leaf table lies.
    Table,
}

impl Machine {
    /// With input 0 leading to [`DATA`], and the other to [`OTHER`].
    fn new() -> Arc<Self> {
        let memory = OwnedMemory::new((PAGES * PAGE) as usize);
        let tags = |space| Tags { domain: DomainTag(1), space };
        let (first, behind) = (stage(FIRST, Ipa(GUEST + ROOT)), stage(BEHIND, PhysAddr(SECOND)));
        let key = SpaceKey { tags: tags(Some(SpaceTag(1))), stages: Stages::Two { first, second: behind } };
        let budget = Arc::new(Budget::new(1 << 10));
        let space = |key, second| Space::new(key, second, &memory, &budget, Block::NONE, false);
        let second = Arc::new(space(key.second().expect("two stages"), None));
        let space = space(key, Some(Arc::clone(&second)));
        let machine = Self {
            gate: Gate::default(),
            memory,
            second,
            space,
            reused: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
            data: Bytes::default(),
        };
        for page in 0..PAGES {
            machine.back(page * PAGE, page * PAGE);
        }
        for (input, table) in INPUTS.into_iter().zip(TABLES) {
            let entry = first.format.encode_table(1, GUEST + table);
            machine.put(ROOT + (input >> 21) * 8, entry);
        }
        for (table, page) in [(TABLES[0], DATA), (TABLES[1], OTHER), (COPY, OTHER)] {
            machine.map(table, page);
        }
        Arc::new(machine)
    }

    fn put(&self, at: u64, entry: u64) {
        self.memory.store64(PhysAddr(at), entry).expect("memory");
    }

    fn leaf(address: u64) -> u64 {
        let format = AnyFormat::try_from(FIRST).expect("a format");
        format.encode_leaf(0, 12, address, &Attributes::new(Rights::all()))
    }

    /// Leads the first entry of a leaf table to a page.
    fn map(&self, table: u64, page: u64) {
        self.put(table, Self::leaf(GUEST + page));
    }

    /// Leads the guest's page to a page of memory.
    fn back(&self, page: u64, to: u64) {
        self.put(SECOND + (GUEST + page) / PAGE * 8, Self::leaf(to));
    }

    fn enter(&self) -> Inside<'_> {
        Inside {
            presence: self.gate.enter(),
            gate: &self.gate,
            memory: &self.memory,
            guesses: Default::default(),
        }
    }

    /// A device's request: by what is cached or by the tables, as the engine does.
    fn request(&self, input: u64) {
        let inside = self.enter();
        let address = match self.space.hit_both(input, Demand::new(Access::READ, false), &inside) {
            Some(reached) => reached.address,
            None => {
                let request = Request { access: Access::READ, privileged: false, any: false, table: false };
                let walked = self.space.walk_and_keep(input, request, &inside, false, &not_redirected);
                walked.expect("mapped").address(input)
            }
        };
        if address == PhysAddr(DATA) {
            // Said once all threads have ended, or they could not be taken down.
            if self.reused.load(Ordering::Relaxed) {
                self.is_stale.store(true, Ordering::Relaxed);
            } else {
                self.data.look();
            }
        }
        drop(inside);
    }

    fn invalidate(&self, stage: StageNumber, page: u64) {
        let scope = TranslationScope {
            stage: Some(stage),
            domain: Some(DomainTag(1)),
            range: Some((Iova(page), Iova(page | 0xfff))),
            leaf_only: true,
            ..TranslationScope::default()
        };
        let inside = self.enter();
        // In this order: see `Spaces::invalidate`.
        self.second.invalidate(&scope, &inside);
        self.space.invalidate(&scope, &inside);
    }

    /// Software's change, after which [`DATA`] is used for something else.
    fn unmap(&self, change: Change) {
        match change {
            Change::First => {
                self.map(TABLES[0], OTHER);
                self.invalidate(StageNumber::First, INPUTS[0]);
            }
            Change::Second => {
                self.back(DATA, OTHER);
                self.invalidate(StageNumber::Second, GUEST + DATA);
            }
            Change::Table => {
                self.back(TABLES[0], COPY);
                self.invalidate(StageNumber::Second, GUEST + TABLES[0]);
            }
        }
        self.gate.drain();
        self.reused.store(true, Ordering::Relaxed);
        self.data.change();
    }

    /// Makes what is final forgotten, while it stays known where leaf entries lie.
    fn forget_finals(&self) {
        self.invalidate(StageNumber::First, INPUTS[0]);
    }
}

/// A device's requests for these inputs against software's change, with so much kept before: nothing, where leaf entries lie, or
/// everything.
fn race(preemptions: usize, change: Change, requests: &'static [u64]) {
    for before in 0..3 {
        // Where nothing is known all tables are gone through, which is long.
        let preemptions = if before == 0 { 1 } else { preemptions };
        explore(preemptions, move || {
            let machine = Machine::new();
            // What entries come to is known from the first request on, and is kept for good.
            machine.request(INPUTS[0]);
            match before {
                0 => {
                    let inside = machine.enter();
                    let all = TranslationScope::default();
                    machine.second.invalidate(&all, &inside);
                    machine.space.invalidate(&all, &inside);
                }
                1 => machine.forget_finals(),
                _ => machine.request(INPUTS[0]),
            }
            let device = thread::spawn({
                let machine = Arc::clone(&machine);
                move || requests.iter().for_each(|input| machine.request(*input))
            });
            machine.unmap(change);
            machine.request(INPUTS[0]);
            device.join().unwrap();
            machine.request(INPUTS[0]);
            assert!(!machine.is_stale.load(Ordering::Relaxed), "stale");
        });
    }
}

#[test]
fn a_final_fill_that_races_an_invalidation_of_the_first_stages_leaf_is_never_used_after_it() {
    race(2, Change::First, &[INPUTS[0]]);
}

#[test]
fn a_final_fill_that_races_an_invalidation_of_the_page_behind_is_never_used_after_it() {
    race(2, Change::Second, &[INPUTS[0]]);
}

#[test]
fn a_final_fill_that_races_an_invalidation_of_a_tables_page_is_never_used_after_it() {
    race(2, Change::Table, &[INPUTS[0]]);
}

/// The other input's slot is the same, so that both caches grow.
#[test]
fn final_and_leaf_caches_that_grow_meanwhile_keep_nothing_old() {
    for change in [Change::First, Change::Second, Change::Table] {
        race(1, change, &[INPUTS[1], INPUTS[0]]);
    }
}
