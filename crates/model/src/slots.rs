//! Caches without locks: tables of slots, each one word ([`Word`]).
//!
//! The leaf cache of a stage ([`Leaves`]) knows where the leaf entries of each 2 MiB of input addresses lie. The entries themselves are
//! read anew for every request, so what software writes into them needs no invalidation to be seen. The final cache of two stages
//! (`finals`) knows where each page leads in the end.
//!
//! Look-ups take no lock and write nothing. Whoever wants to fill a slot takes note of what stands
//! there before reading the first table entry ([`Slots::observe`]) and puts his word in its place only if that still stands
//! ([`Place::fill`]). An invalidation puts an empty word of a version that never was there before, so that a walk which
//! raced it fills nothing: the version is the generation of that slot, and no other slot's.
//!
//! A table of slots grows by a larger, empty one taking its place when addresses that share slots drive each other out. Those who
//! still see the old one are inside the gate, and a drain waits for them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8};

use crate::budget::Budget;
use crate::gate::{Gate, Presence};
use crate::host::EntryPage;
use crate::noted::Noted;
use crate::rcu::Rcu;
use crate::sync::{AtomicU64, Ordering, fence_after_exchange};
use crate::word::{AtomicWord, Found, Kept, Kind, Word};

/// The leaf cache of one stage of one space.
pub(crate) type Leaves = Slots<EntryPage>;

/// log2 of the bytes of input addresses whose leaf entries share a word.
pub(crate) const REGION_SHIFT: u8 = EntryPage::SHIFT;

/// log2 of the slots of which it is noted together through which pages of a second stage they were filled.
const GROUP_BITS: u32 = 6;

/// The pages of a group: 16 bits for each slot.
type Group = Noted<16>;

/// A table of slots.
struct Table<K> {
    slots: Box<[AtomicWord<K>]>,
    /// The last of them.
    mask: u64,
    /// Which block was last walked to of those that share a slot, or 0. Hints: whoever loses one walks once more.
    touched: Box<[AtomicU8]>,
    /// Through which pages of a second stage words were found, if that is noted: one for each group of slots.
    through: Box<[Group]>,
    bits: u32,
    /// The next version of empty words.
    version: AtomicU64,
    /// How often one block got in another's way.
    conflicts: AtomicU64,
    budget: Arc<Budget>,
}

impl<K> Drop for Table<K> {
    fn drop(&mut self) {
        self.budget.give_back(self.slots.len());
    }
}

impl<K: Kept> Table<K> {
    fn new(bits: u32, noting: bool, budget: &Arc<Budget>) -> Option<Arc<Self>> {
        let count = 1usize << bits;
        let groups = if noting { count.div_ceil(1 << GROUP_BITS) } else { 0 };
        budget.take(count).then(|| {
            Arc::new(Self {
                slots: (0..count).map(|_| AtomicWord::new(Word::empty(0))).collect(),
                mask: count as u64 - 1,
                touched: (0..count).map(|_| AtomicU8::new(0)).collect(),
                through: (0..groups).map(|_| Group::default()).collect(),
                bits,
                version: AtomicU64::new(1),
                conflicts: AtomicU64::new(0),
                budget: Arc::clone(budget),
            })
        })
    }

    /// The slot and the tag of a block. Neighbours never share a slot, and blocks at large powers of two from each other rarely
    /// do. Those that share one differ in their tags, for what is mixed in follows from the tag.
    #[inline(always)]
    fn place(&self, block: u64) -> (Option<&AtomicWord<K>>, u64) {
        (self.slots.get(self.index(block)), block >> K::FIRST_BITS)
    }

    #[inline(always)]
    const fn index(&self, block: u64) -> usize {
        ((block ^ block >> 12) & self.mask) as usize
    }

    /// Whether a block is walked to for the first time, as far as is known.
    fn touch(&self, block: u64) -> Touch {
        if cfg!(all(loom, test)) {
            return Touch::Again;
        }
        let signature = Self::signature(block);
        let Some(touched) = self.touched.get(self.index(block)) else { return Touch::Again };
        match touched.load(Relaxed) {
            last if last == signature => Touch::Again,
            last => {
                touched.store(signature, Relaxed);
                if last == 0 { Touch::First } else { Touch::AfterAnother }
            }
        }
    }

    /// What tells blocks that share a slot from each other, mostly.
    #[inline(always)]
    const fn signature(block: u64) -> u8 {
        let tag = block >> K::FIRST_BITS;
        (tag ^ tag >> 7 ^ tag >> 14) as u8 | 0x80
    }

    /// Two blocks got into each other's way. Whether that has happened too often for so few slots.
    fn is_crowded(&self) -> bool {
        let conflicts = self.conflicts.fetch_add(1, Ordering::Relaxed) + 1;
        self.bits < K::LAST_BITS && conflicts > self.slots.len() as u64 / 4
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }

    fn clear(&self, first: u64, last: u64) {
        let empty = Word::empty(self.next_version());
        if last - first >= self.slots.len() as u64 {
            for touched in &self.touched {
                touched.store(0, Relaxed);
            }
            self.through.iter().for_each(Group::reset);
            for slot in &self.slots {
                slot.store(empty);
            }
            return;
        }
        // Whatever stands there: to spare another block that shares the slot would take a look at what it is, and by then it may
        // be ours.
        for block in first..=last {
            if let (Some(slot), _) = self.place(block) {
                slot.store(empty);
            }
        }
    }

    /// Forgets what may have been found through the pages from the address `first` to `last`.
    fn clear_through(&self, first: u64, last: u64) {
        for (slots, through) in self.slots.chunks(1 << GROUP_BITS).zip(&self.through) {
            if through.may_have(first, last) {
                through.reset();
                let empty = Word::empty(self.next_version());
                slots.iter().for_each(|slot| slot.store(empty));
            }
        }
    }
}

/// Whether a block was walked to before.
enum Touch {
    /// Nobody of its slot was.
    First,
    /// The last of its slot was another.
    AfterAnother,
    /// It was.
    Again,
}

/// One cache of a space.
pub(crate) struct Slots<K: Kept> {
    table: Rcu<Table<K>>,
    /// Whether any block was walked to while there was no table.
    touched: AtomicBool,
    /// Whether it is noted through which pages of a second stage words are found.
    noting: bool,
    /// Counts what was forgotten, each time after it was: who keeps something elsewhere looks at it before he uses that, and before he
    /// looks here for something to keep.
    generation: AtomicU64,
    width: Width,
    budget: Arc<Budget>,
}

/// How wide the entries are from which words were found, at most: log2 of their blocks. Whoever names one block of a wide entry means
/// all.
#[derive(Default)]
struct Width(AtomicU64);

impl Width {
    /// To be asked before the first table entry is read.
    fn known(&self) -> u64 {
        let known = self.0.load(Ordering::Acquire);
        // As in `Noted::note`.
        fence_after_exchange();
        known
    }
}

/// Values `first` to `last`, and all others that differ from these in the lowest bits alone.
const fn widened(first: u64, last: u64, bits: u64) -> (u64, u64) {
    let low = !(u64::MAX << (bits & 63));
    (first & !low, last | low)
}

/// A slot, and what stood there before the first table entry was read.
pub(crate) struct Place<'a, K = EntryPage> {
    width: &'a Width,
    known_width: u64,
    table: &'a Table<K>,
    index: usize,
    tag: u64,
    seen: Word<K>,
}

/// What is known of a block.
pub(crate) enum Probe<'a, K = EntryPage> {
    /// This.
    Found(Found<K>),
    /// Nothing, and it is to be kept.
    Fill(Place<'a, K>),
    /// Nothing.
    Nothing,
}

impl<K: Kept> Place<'_, K> {
    /// The second stage is about to be asked for the page of this address.
    pub(crate) fn note(&self, address: u64) {
        if let Some(through) = self.table.through.get(self.index >> GROUP_BITS) {
            through.note(address);
        }
    }

    /// Keeps what the walk found, unless the slot was emptied or filled meanwhile.
    pub(crate) fn fill(&self, found: Found<K>) {
        let (Some(word), Some(slot)) = (Word::new(self.tag, found), self.table.slots.get(self.index)) else {
            return;
        };
        if cfg!(mutant = "no_generation") {
            slot.store(word);
        } else {
            slot.replace(self.seen, word);
        }
    }

    /// The same of what was found from an entry this wide. What is the first of its width is not kept: whoever invalidates meanwhile may
    /// not know yet.
    pub(crate) fn fill_from(&self, width: u8, found: Found<K>) {
        let width = u64::from(width);
        if width > self.known_width {
            self.width.0.fetch_max(width, Ordering::SeqCst);
        }
        if width <= self.known_width || cfg!(mutant = "first_of_its_width") {
            self.fill(found);
        }
    }
}

impl<K: Kept + Send + Sync + 'static> Slots<K> {
    /// `noting` says that it is to be noted through which pages of a second stage words are found.
    pub(crate) fn new(noting: bool, budget: Arc<Budget>) -> Self {
        let (table, touched) = (Rcu::default(), AtomicBool::new(false));
        Self { table, touched, noting, generation: AtomicU64::new(0), width: Width::default(), budget }
    }

    /// The present generation.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is known of a block, if anything.
    #[inline(always)]
    pub(crate) fn find(&self, block: u64, inside: &Presence<'_>) -> Option<Found<K>> {
        let (slot, tag) = self.table.load(inside)?.place(block);
        slot?.load().found(tag)
    }

    /// The page of a block, if it is known and of this kind.
    #[inline(always)]
    pub(crate) fn find_kind(&self, block: u64, kind: Kind, inside: &Presence<'_>) -> Option<K> {
        let (slot, tag) = self.table.load(inside)?.place(block);
        slot?.load().page_of(tag, kind)
    }

    /// What is known of a block, or the slot for it as [`observe`](Self::observe) gives it.
    #[inline(always)]
    pub(crate) fn probe<'a>(&'a self, block: u64, inside: &'a Presence<'_>, gate: &Gate) -> Probe<'a, K> {
        if let Some(table) = self.table.load(inside)
            && let index = table.index(block)
            && let Some(slot) = table.slots.get(index)
            && let Some(touched) = table.touched.get(index)
        {
            let word = slot.load();
            if let Some(found) = word.found(block >> K::FIRST_BITS) {
                return Probe::Found(found);
            }
            if word.is_empty() && touched.load(Relaxed) == 0 && !cfg!(all(loom, test)) {
                touched.store(Table::<K>::signature(block), Relaxed);
                return Probe::Nothing;
            }
        }
        self.observe(block, inside, gate).map_or(Probe::Nothing, Probe::Fill)
    }

    /// The slot for a block, to be filled after a walk that begins now. `None` where there is no room, and where the last block of the
    /// slot that was walked to was another: what is used once is not worth the exchange, which takes longer than a walk.
    #[cold]
    pub(crate) fn observe<'a>(
        &'a self,
        block: u64,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<Place<'a, K>> {
        let known_width = self.width.known();
        let mut table = match self.table.load(inside) {
            Some(table) => table,
            None if !self.touched.swap(true, Relaxed) && !cfg!(all(loom, test)) => {
                return None;
            }
            None => self.grow(None, K::FIRST_BITS, inside, gate)?,
        };
        let (slot, tag) = table.place(block);
        let seen = slot?.load();
        // Where the block's own word stands, a table of its way may have changed since.
        let kept = !seen.is_empty() && !seen.is_of_another(tag);
        let touch = if kept { Touch::Again } else { table.touch(block) };
        let in_the_way = seen.is_of_another(tag) || matches!(touch, Touch::AfterAnother);
        if in_the_way && table.is_crowded() {
            table = self.grow(Some(table), table.bits + 1, inside, gate).unwrap_or(table);
        }
        if !matches!(touch, Touch::Again) {
            return None;
        }
        // What stands there goes first: it might go and come again during the walk, and then nothing would tell that there was
        // an invalidation between.
        let index = table.index(block);
        let slot = table.slots.get(index)?;
        let seen = slot.load();
        if seen.is_empty() {
            return Some(Place { width: &self.width, known_width, table, index, tag, seen });
        }
        let empty = Word::empty(table.next_version());
        let driven_out = slot.replace(seen, empty);
        fence_after_exchange();
        driven_out.then_some(Place { width: &self.width, known_width, table, index, tag, seen: empty })
    }

    /// Puts an empty table in the place of another.
    #[cold]
    fn grow<'a>(
        &'a self,
        old: Option<&Table<K>>,
        bits: u32,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<&'a Table<K>> {
        let new = Table::new(bits, self.noting, &self.budget)?;
        if let Ok(Some(retired)) = self.table.replace(old, new) {
            gate.retire(retired);
        }
        // An invalidation that did not see the new table is over before the walk that now begins: see `clear`.
        fence_after_exchange();
        self.table.load(inside)
    }

    /// Forgets what may have been found through a page of the second stage from the address `first` to `last`. `inside` was
    /// entered after software changed that stage's tables.
    pub(crate) fn clear_through(&self, first: u64, last: u64, inside: &Presence<'_>) {
        self.for_each_table(inside, |table| table.clear_through(first, last));
    }

    /// Forgets the blocks `first` to `last`. `inside` was entered after software changed its tables.
    pub(crate) fn clear(&self, first: u64, last: u64, inside: &Presence<'_>) {
        let (first, last) = widened(first, last, self.width.known());
        self.for_each_table(inside, |table| table.clear(first, last));
    }

    /// Makes the table that is there forget, and each that takes its place meanwhile: a walk from before may fill it.
    fn for_each_table(&self, inside: &Presence<'_>, forget: impl Fn(&Table<K>)) {
        if cfg!(mutant = "no_clear") {
            return;
        }
        if cfg!(mutant = "micro_tlb_generation_first") {
            self.generation.fetch_add(1, Ordering::Release);
        }
        let mut seen = None;
        while let Some(table) = self.table.load(inside)
            && seen.is_none_or(|seen| !std::ptr::eq(seen, table))
        {
            forget(table);
            seen = Some(table);
        }
        // Not before: who sees the new generation finds nothing old any more.
        if !cfg!(any(mutant = "micro_tlb_generation_first", mutant = "micro_tlb_generation_stays")) {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }
}
