//! Devices that translate without pause while the driver takes their mappings away: does anybody use what it must not any more?
//!
//! Everything goes through an architecture's own command queue: the driver writes commands, the model reads them. Device threads
//! translate and read; one thread unmaps and maps anew, page by page, 2 MiB with their tables, and all at once, and detaches and
//! attaches. What holds is kept in a shadow: a page's mapping has a number, and so has each page of memory that it leads to. Whoever
//! holds a guard, and finds that the mapping he was given is one whose unmap has returned, has seen something stale. Tables
//! that were given back are full of entries that lead to a page of nobody's, so that whoever still walks them is seen too.

mod guest;

use crate::machine::{Kind, Machine};
use crate::order::{FIRST, PAGE, Random};
use portcullis_driver::Domain;
use portcullis_model::Port;
use portcullis_spec::{Access, Iova, PhysAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pages that are mapped, unmapped and used.
const SLOTS: u64 = 64;
/// How many of them lie together; those of one stretch share a leaf table.
const TOGETHER: u64 = 16;
/// Bytes from one stretch to the next: what a leaf table spans.
const REGION: u64 = 2 << 20;
/// Pages of memory that the mappings of a slot lead to in turn.
const TURNS: u64 = 8;
/// Translations to a guard.
const EACH: u64 = 32;
/// Rounds of the invalidating thread between two detaches.
const ROUNDS_TO_DETACH: u64 = 257;
/// The device that is detached then. The other stays.
const COMES_AND_GOES: u16 = 0x18;
/// Rounds between two unmaps of everything.
const ROUNDS_TO_CLEAR: u64 = 61;
/// Rounds between two unmaps of 2 MiB, whose leaf table goes too.
const ROUNDS_TO_UNLINK: u64 = 7;
/// Pages of memory that mappings lead to; behind them lies the one that is nobody's.
const PAGES: u64 = SLOTS * TURNS;

/// What holds for one page.
#[derive(Default)]
struct Slot {
    /// The number of the last mapping that was begun.
    begun: AtomicU64,
    /// The number of the last mapping whose unmap has returned.
    over: AtomicU64,
}

/// What holds, said before it begins to hold and after it has ceased to.
struct Shadow {
    slots: Vec<Slot>,
    /// Attaches that have begun.
    attaching: AtomicU64,
    /// Detaches that have returned.
    detached: AtomicU64,
}

/// What happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counts {
    /// Translations that devices were given.
    pub translations: u64,
    /// Uses of what was over.
    pub stale: u64,
    /// Mappings that were taken away.
    pub unmaps: u64,
    /// Tables that were given back.
    pub tables: u64,
}

/// Where mapping `number` of a slot leads, from the first byte of memory on.
const fn place(slot: u64, number: u64) -> u64 {
    (slot * TURNS + number % TURNS) * PAGE
}

impl Shadow {
    /// Whether a translation to `output`, still in use, is of a mapping that is over. Called by those who hold the guard under
    /// which they got it, and who say whether they are the device that is detached now and then.
    fn is_stale(&self, slot: u64, output: u64, comes_and_goes: bool) -> bool {
        // In this order: what is begun after that is no excuse, what is over after that no fault.
        let detached = self.detached.load(Ordering::SeqCst);
        let over = self.slots[slot as usize].over.load(Ordering::SeqCst);
        let begun = self.slots[slot as usize].begun.load(Ordering::SeqCst);
        let attaching = self.attaching.load(Ordering::SeqCst);
        let possible = (over + 1..=begun).rev().take(TURNS as usize);
        (comes_and_goes && detached > attaching)
            || !possible.into_iter().any(|number| place(slot, number) == output & !(PAGE - 1))
    }
}

struct Stress<K: Kind> {
    machine: Machine<K>,
    /// What maps.
    domain: Domain<K::Driver>,
    /// What devices are attached to: the same, or one that stands on it.
    attached: Domain<K::Driver>,
    shadow: Shadow,
    stop: AtomicBool,
    translations: AtomicU64,
    stale: AtomicU64,
    unmaps: AtomicU64,
}

const fn iova(slot: u64) -> Iova {
    Iova(FIRST + slot / TOGETHER * REGION + slot % TOGETHER * PAGE)
}

impl<K: Kind> Stress<K> {
    fn physical(&self, slot: u64, number: u64) -> PhysAddr {
        PhysAddr(self.machine.ram.data().0 + place(slot, number))
    }

    fn map(&self, slot: u64) {
        let number = self.shadow.slots[slot as usize].begun.fetch_add(1, Ordering::SeqCst) + 1;
        let physical = self.physical(slot, number);
        self.domain.map(iova(slot), physical, PAGE, Access::READ_WRITE).expect("a free page");
    }

    /// Everything that `slots`, all between these addresses, map is over when this returns.
    fn unmap(&self, first: Iova, bytes: u64, slots: std::ops::Range<u64>) {
        self.domain.unmap(first, bytes).expect("mapped");
        for slot in slots {
            let slot = &self.shadow.slots[slot as usize];
            slot.over.store(slot.begun.load(Ordering::SeqCst), Ordering::SeqCst);
            self.unmaps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A device that translates, `EACH` to a guard, and now and then reads. What it was given is looked at at once, and again before
    /// the guard ends.
    fn device(&self, port: &Port<K::Model>, seed: u64) {
        let comes_and_goes = port.requester() == K::requester(COMES_AND_GOES);
        let mut random = Random(seed | 1);
        let base = self.machine.ram.data().0;
        let mut found = Vec::with_capacity(EACH as usize);
        while !self.stop.load(Ordering::Relaxed) {
            let (mut given, mut stale) = (0, 0);
            for _ in 0..64 {
                let guard = port.enter();
                for _ in 0..EACH {
                    let slot = random.below(SLOTS);
                    let access = if random.below(4) == 0 { Access::READ_WRITE } else { Access::READ };
                    let Ok(translation) = guard.translate(iova(slot), 8, access) else { continue };
                    let output = translation.address.0.wrapping_sub(base);
                    stale += u64::from(self.shadow.is_stale(slot, output, comes_and_goes));
                    found.push((slot, output));
                }
                given += found.len() as u64;
                stale += found
                    .drain(..)
                    .filter(|(slot, output)| self.shadow.is_stale(*slot, *output, comes_and_goes))
                    .count() as u64;
                drop(guard);
                // A read moves its bytes under a guard of its own: what it finds may be over by now, but not before it began.
                let slot = random.below(SLOTS);
                let over = self.shadow.slots[slot as usize].over.load(Ordering::SeqCst);
                let mut bytes = [0; 8];
                if port.read(iova(slot), &mut bytes).is_ok() {
                    given += 1;
                    let begun = self.shadow.slots[slot as usize].begun.load(Ordering::SeqCst);
                    let found = u64::from_le_bytes(bytes);
                    let possible = (over + 1..=begun).rev().take(TURNS as usize);
                    stale += u64::from(!possible.into_iter().any(|number| place(slot, number) + 1 == found));
                }
            }
            self.translations.fetch_add(given, Ordering::Relaxed);
            self.stale.fetch_add(stale, Ordering::Relaxed);
        }
    }

    /// The driver's side: one round.
    fn disturb(&self, round: u64, random: &mut Random) {
        if round.is_multiple_of(ROUNDS_TO_DETACH) {
            let requester = K::requester(COMES_AND_GOES);
            self.machine.unit.detach(requester, None).expect("attached");
            self.shadow.detached.fetch_add(1, Ordering::SeqCst);
            std::hint::spin_loop();
            self.shadow.attaching.fetch_add(1, Ordering::SeqCst);
            self.machine.unit.attach(requester, None, &self.attached).expect("not attached");
        } else if round.is_multiple_of(ROUNDS_TO_CLEAR) {
            self.unmap(Iova(FIRST), SLOTS / TOGETHER * REGION, 0..SLOTS);
            (0..SLOTS).for_each(|slot| self.map(slot));
        } else if round.is_multiple_of(ROUNDS_TO_UNLINK) {
            let first = random.below(SLOTS / TOGETHER) * TOGETHER;
            self.unmap(iova(first), REGION, first..first + TOGETHER);
            (first..first + TOGETHER).for_each(|slot| self.map(slot));
        } else {
            let slot = random.below(SLOTS);
            self.unmap(iova(slot), PAGE, slot..slot + 1);
            self.map(slot);
        }
        if round.is_multiple_of(1024) {
            self.machine.unit.read_faults(|_| ());
        }
    }
}

/// What is asked every now and then whether it was enough: how long it has taken, and what has happened.
pub trait Enough: FnMut(Duration, Counts) -> bool {}

impl<F: FnMut(Duration, Counts) -> bool> Enough for F {}

/// Lets the devices of one architecture run until `enough` says so.
///
/// # Panics
/// Where driver and model don't get along.
#[must_use]
pub fn run<K: Kind>(enough: impl Enough) -> Counts {
    let machine = Machine::<K>::new((PAGES + 1) * PAGE, 64 << 20);
    let domain = machine.domain();
    Stress::new(machine, domain.clone(), domain).run(enough, |_| ())
}

/// The same behind the tables of a guest, which has two stages and changes its own.
///
/// # Panics
/// Where driver and model don't get along.
#[must_use]
pub fn run_nested(enough: impl Enough) -> Counts {
    let (guest, stress) = guest::new();
    stress.run(enough, |round| guest.disturb(round))
}

impl<K: Kind> Stress<K> {
    fn new(machine: Machine<K>, domain: Domain<K::Driver>, attached: Domain<K::Driver>) -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        let shadow = Shadow { slots, attaching: AtomicU64::new(0), detached: AtomicU64::new(0) };
        let base = machine.ram.data().0;
        let memory = machine.ram.memory();
        for page in 0..PAGES {
            memory.write(PhysAddr(base + page * PAGE), &(page * PAGE + 1).to_le_bytes()).expect("memory");
        }
        machine.ram.poison(K::leaf(PhysAddr(base + PAGES * PAGE)));
        let stress = Self {
            machine,
            domain,
            attached,
            shadow,
            stop: AtomicBool::new(false),
            translations: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            unmaps: AtomicU64::new(0),
        };
        (0..SLOTS).for_each(|slot| stress.map(slot));
        stress
    }

    fn counts(&self) -> Counts {
        Counts {
            translations: self.translations.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            unmaps: self.unmaps.load(Ordering::Relaxed),
            tables: self.machine.ram.given_back(),
        }
    }

    fn run(&self, mut enough: impl Enough, disturb: impl Fn(u64)) -> Counts {
        let devices = [0x10, COMES_AND_GOES].map(|number| self.machine.device(number, &self.attached));
        std::thread::scope(|scope| {
            for (seed, port) in devices.into_iter().enumerate() {
                scope.spawn(move || self.device(&port, 0x9e37_79b9 * (seed as u64 + 1)));
            }
            let (start, mut random) = (Instant::now(), Random(0x1234_5678_9abc_def1));
            for round in 1u64.. {
                self.disturb(round, &mut random);
                disturb(round);
                if round.is_multiple_of(16) && enough(start.elapsed(), self.counts()) {
                    break;
                }
            }
            self.stop.store(true, Ordering::Relaxed);
        });
        self.counts()
    }
}
