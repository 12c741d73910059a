//! The caches and the drain under a model checker, which tries every order in which threads may see each other's accesses.
//!
//! The code is the real one ([`crate::sync`]); what is modelled is the memory around it. A table entry leads to the old or
//! to the new leaf table. Software changes it, invalidates, drains, and only then reuses the old table. Nobody may find it after
//! that.
#![allow(unsafe_code)]

mod nested;

use std::ptr::NonNull;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use portcullis_pagetable::Rights;
use portcullis_spec::PhysAddr;

use crate::budget::Budget;
use crate::gate::{Gate, Presence};
use crate::host::EntryPage;
use crate::micro::{Ranges, Stamp};
use crate::pin::Pins;
use crate::rcu::Rcu;
use crate::slots::{Leaves, Slots};
use crate::word::{Found, Frame, Kept, Kind};

const OLD: usize = 0x1000;
const NEW: usize = 0x2000;
/// Where the first stage's table lies for the first stage.
const TABLE: u64 = 0x7000;

fn page(number: usize) -> EntryPage {
    let pointer = NonNull::new(std::ptr::without_provenance_mut(number)).expect("not null");
    EntryPage::new(pointer).expect("aligned")
}

fn kind() -> Kind {
    Kind::new(0, Rights::READ).expect("a level that is kept")
}

/// A unit's caches, and the memory around them.
struct Machine {
    gate: Gate,
    pins: Pins,
    nested: bool,
    leaves: Leaves,
    /// The table entry above the leaf table.
    entry: AtomicUsize,
    /// Whether the old leaf table is somebody else's by now.
    reused: AtomicBool,
    /// The old leaf table.
    old: Bytes,
}

/// Memory whose every use must be ordered against every change.
#[derive(Default)]
struct Bytes(UnsafeCell<()>);

// SAFETY: nothing is read or written through it; the model checker notes who touches it when, and fails where two are not ordered.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn look(&self) {
        self.0.with(|_| ());
    }

    fn change(&self) {
        self.0.with_mut(|_| ());
    }
}

impl Machine {
    fn new() -> Arc<Self> {
        Self::with(false)
    }

    /// `nested` says that the entry is one of a second stage, for the page in which the first stage's table lies.
    fn with(nested: bool) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::default(),
            pins: Pins::default(),
            nested,
            leaves: Leaves::new(nested, Arc::new(Budget::new(1 << 10))),
            entry: AtomicUsize::new(OLD),
            reused: AtomicBool::new(false),
            old: Bytes::default(),
        })
    }

    /// A device's request: finds the leaf table in the cache or in the table above, and uses it.
    fn request(&self, region: u64) {
        let inside = self.gate.enter();
        self.use_table(self.find(region, &inside));
        drop(inside);
    }

    /// A device's request for something that lasts longer: pins what it found, leaves, and uses it then.
    fn pinned_request(&self, region: u64) {
        let inside = self.gate.enter();
        let table = self.find(region, &inside);
        let pin = if cfg!(mutant = "pin_taken_outside") {
            drop(inside);
            self.pins.take()
        } else {
            let pin = self.pins.take();
            drop(inside);
            pin
        };
        self.use_table(table);
        drop(pin.expect("fewer than the limit"));
    }

    fn find(&self, region: u64, inside: &Presence<'_>) -> usize {
        match self.leaves.find(region, inside) {
            Some(found) => found.page.number() as usize,
            None => {
                let place = self.leaves.observe(region, inside, &self.gate);
                if let Some(place) = &place {
                    place.note(TABLE);
                }
                let table = self.entry.load(Ordering::Acquire);
                if let Some(place) = place {
                    place.fill(Found { page: page(table), kind: kind() });
                }
                table
            }
        }
    }

    /// The same where a micro-TLB may know the leaf table, which lasts from one guard to the next.
    fn request_of_queue(&self, kept: &mut Ranges) {
        let inside = self.gate.enter();
        // As `Visit::new`.
        assert!(kept.renew(self.stamp()), "there is but one context");
        let table = match kept.find(0, u64::MAX, kind(), &self.leaves, &inside) {
            Some(page) => page.number() as usize,
            None => self.find(0, &inside),
        };
        self.use_table(table);
        drop(inside);
    }

    fn stamp(&self) -> Stamp {
        Stamp { context: 1, generation: self.leaves.generation() }
    }

    fn use_table(&self, table: usize) {
        if table == OLD {
            assert!(!self.reused.load(Ordering::Relaxed), "stale");
            self.old.look();
        }
    }

    /// Software's unmap: changes the entry, invalidates, waits, and reuses the old table.
    fn unmap(&self) {
        self.entry.store(NEW, Ordering::Release);
        if cfg!(mutant = "drain_before_clear") {
            self.gate.drain();
        }
        {
            let inside = self.gate.enter();
            if self.nested {
                self.leaves.clear_through(TABLE, TABLE | 0xfff, &inside);
            } else {
                self.leaves.clear(0, 0, &inside);
            }
        }
        if !cfg!(mutant = "drain_before_clear") {
            self.pins.drain_behind(&self.gate);
        }
        self.reused.store(true, Ordering::Relaxed);
        self.old.change();
    }
}

/// Explores with a bound on preemptions, which finds what two or three switches at the wrong moment can do.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// An invalidation of the second stage, which finds by the noted pages whether there is anything to forget.
#[test]
fn a_nested_fill_that_races_an_invalidation_of_the_stage_behind_is_never_used_after_it() {
    for noted_before in [false, true] {
        explore(2, move || {
            let machine = Machine::with(true);
            if noted_before {
                // Somebody came through the page, and an invalidation of it made that forgotten.
                machine.request(0);
                let inside = machine.gate.enter();
                machine.leaves.clear_through(TABLE, TABLE, &inside);
            }
            let device = {
                let machine = Arc::clone(&machine);
                loom::thread::spawn(move || machine.request(0))
            };
            machine.unmap();
            machine.request(0);
            device.join().unwrap();
            machine.request(0);
        });
    }
}

/// Two devices come through the same page, the second of which finds it noted.
#[test]
fn a_page_that_somebody_else_noted_is_as_good_as_noted() {
    explore(1, || {
        let machine = Machine::with(true);
        let devices = [0, 1].map(|region| {
            let machine = Arc::clone(&machine);
            loom::thread::spawn(move || machine.request(region))
        });
        machine.unmap();
        for device in devices {
            device.join().unwrap();
        }
        machine.request(0);
        machine.request(1);
    });
}

#[test]
fn a_fill_that_races_an_invalidation_is_never_used_after_it() {
    explore(2, || {
        let machine = Machine::new();
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || machine.request(0)
        });
        machine.unmap();
        // Also what was filled while the invalidation went on must be dead.
        machine.request(0);
        device.join().unwrap();
        machine.request(0);
    });
}

#[test]
fn a_hit_that_races_an_invalidation_is_over_before_the_drain_is() {
    explore(2, || {
        let machine = Machine::new();
        machine.request(0);
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || machine.request(0)
        });
        machine.unmap();
        device.join().unwrap();
    });
}

/// What a micro-TLB keeps from one guard to the next goes with what it was found in.
#[test]
fn a_micro_tlb_that_outlives_a_guard_keeps_nothing_that_was_invalidated() {
    explore(2, || {
        let machine = Machine::new();
        machine.request(0);
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            let mut kept = Ranges::new(machine.stamp());
            move || {
                machine.request_of_queue(&mut kept);
                machine.request_of_queue(&mut kept);
                kept
            }
        });
        machine.unmap();
        let mut kept = device.join().unwrap();
        machine.request_of_queue(&mut kept);
    });
}

#[test]
fn what_is_pinned_is_used_before_the_drain_is_over() {
    explore(2, || {
        let machine = Machine::new();
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || machine.pinned_request(0)
        });
        machine.unmap();
        device.join().unwrap();
        machine.pinned_request(0);
    });
}

/// A drain switches newcomers to the other counter. One who read which is theirs before that, and counts after it, is waited for by
/// the next drain too.
#[test]
fn a_pin_that_races_one_drain_is_waited_for_by_the_next() {
    explore(3, || {
        let machine = Machine::new();
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || machine.pinned_request(0)
        });
        // Nothing was invalidated. Some other pin kept this drain from returning at once, and is gone already.
        machine.gate.drain();
        machine.pins.turn_over();
        machine.unmap();
        device.join().unwrap();
    });
}

/// A copy of a pin keeps what the pin kept.
#[test]
fn a_copied_pin_is_waited_for_too() {
    explore(2, || {
        let machine = Machine::new();
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || {
                let inside = machine.gate.enter();
                let table = machine.find(0, &inside);
                let pin = machine.pins.take().expect("fewer than the limit");
                drop(inside);
                let copy = pin.clone();
                drop(pin);
                machine.use_table(table);
                drop(copy);
            }
        });
        machine.unmap();
        device.join().unwrap();
    });
}

#[test]
fn two_devices_fill_and_use_while_software_invalidates() {
    explore(1, || {
        let machine = Machine::new();
        let devices = [0, 1].map(|_| {
            let machine = Arc::clone(&machine);
            thread::spawn(move || machine.request(0))
        });
        machine.unmap();
        for device in devices {
            device.join().unwrap();
        }
    });
}

#[test]
fn a_cache_that_grows_meanwhile_keeps_nothing_old() {
    explore(2, || {
        let machine = Machine::new();
        machine.request(0);
        let device = thread::spawn({
            let machine = Arc::clone(&machine);
            move || {
                // Another region of the only slot: the table grows.
                let inside = machine.gate.enter();
                let place = machine.leaves.observe(1, &inside, &machine.gate);
                if let Some(place) = place {
                    place.fill(Found { page: page(0x3000), kind: kind() });
                }
                drop(inside);
                machine.request(0);
            }
        });
        machine.unmap();
        device.join().unwrap();
        machine.request(0);
    });
}

/// A wide entry by which a second page was found goes with its first, which is all that the invalidation names; also while nobody has seen
/// so wide a one before.
#[test]
fn the_first_entry_of_its_width_is_forgotten_as_a_whole_too() {
    for seen_before in [false, true] {
        explore(2, move || {
            let machine = Machine::new();
            let finals = Arc::new(Slots::<Frame>::new(true, Arc::new(Budget::new(1 << 10))));
            // Two pages with a slot each.
            for block in [0, 1] {
                let inside = machine.gate.enter();
                let place = finals.observe(block, &inside, &machine.gate);
                let page = Frame::of(PhysAddr(NEW as u64));
                place
                    .filter(|_| block == 0)
                    .inspect(|place| place.fill(Found { page, kind: Kind::numbered(0) }));
                drop(inside);
            }
            let request = |machine: &Machine, finals: &Slots<Frame>| {
                let inside = machine.gate.enter();
                let known = finals.find(1, &inside).map(|found| found.page);
                let page = known.unwrap_or_else(|| {
                    let place = finals.observe(1, &inside, &machine.gate);
                    let page = Frame::of(PhysAddr(machine.entry.load(Ordering::Acquire) as u64));
                    if let Some(place) = place {
                        place.fill_from(1, Found { page, kind: Kind::numbered(0) });
                    }
                    page
                });
                machine.use_table(page.number() as usize);
                drop(inside);
            };
            if seen_before {
                request(&machine, &finals);
            }
            let device = thread::spawn({
                let (machine, finals) = (Arc::clone(&machine), Arc::clone(&finals));
                move || {
                    request(&machine, &finals);
                    request(&machine, &finals);
                }
            });
            machine.entry.store(NEW, Ordering::Release);
            let inside = machine.gate.enter();
            finals.clear(0, 0, &inside);
            drop(inside);
            machine.gate.drain();
            machine.reused.store(true, Ordering::Relaxed);
            machine.old.change();
            device.join().unwrap();
            request(&machine, &finals);
        });
    }
}

/// Says when it is dropped.
struct Watched(Arc<AtomicBool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_was_replaced_lives_as_long_as_somebody_looks_at_it() {
    explore(2, || {
        let gate = Arc::new(Gate::default());
        let (published, dropped) = (Arc::new(Rcu::default()), Arc::new(AtomicBool::new(false)));
        let _ = published.swap(Some(Arc::new(Watched(Arc::clone(&dropped)))));
        let reader = thread::spawn({
            let (gate, published) = (Arc::clone(&gate), Arc::clone(&published));
            move || {
                let inside = gate.enter();
                if let Some(watched) = published.load(&inside) {
                    assert!(!watched.0.load(Ordering::Relaxed), "freed while in use");
                }
                drop(inside);
            }
        });
        if let Some(retired) = published.swap(None) {
            gate.retire(retired);
        }
        gate.drain();
        assert!(dropped.load(Ordering::Relaxed), "kept although nobody is left");
        reader.join().unwrap();
    });
}
