//! The leaf cache: where the leaf entries of each 2 MiB of input addresses lie. The entries themselves are read anew for
//! every request, so what software writes into them needs no invalidation to be seen.
//!
//! Look-ups take no lock and write nothing. A slot is one word ([`Word`]); whoever wants to fill it takes note of what stands
//! there before reading the first table entry ([`Leaves::observe`]) and puts his word in its place only if that still stands
//! ([`Place::fill`]). An invalidation puts an empty word of a version that never was there before, so that a walk which
//! raced it fills nothing: the version is the generation of that slot, and no other slot's.
//!
//! A table of slots grows by a larger, empty one taking its place when addresses that share slots drive each other out. Those who
//! still see the old one are inside the gate, and a drain waits for them.

use std::sync::Arc;

use crate::gate::{Gate, Presence};
use crate::host::EntryPage;
use crate::rcu::Rcu;
use crate::space::Budget;
use crate::sync::{AtomicU64, Ordering, fence_after_exchange};
use crate::word::{AtomicWord, Found, Kind, Word};

/// log2 of the bytes of input addresses that share a word.
pub(crate) const REGION_SHIFT: u8 = 21;
/// log2 of the slots that a space begins with; with the tag, enough for 48 address bits.
const FIRST_BITS: u32 = if cfg!(all(loom, test)) { 0 } else { 6 };
/// log2 of the slots that a space has at most: 4096, for 8 GiB without conflict.
const LAST_BITS: u32 = if cfg!(all(loom, test)) { 1 } else { 12 };

/// A table of slots.
struct Table {
    slots: Box<[AtomicWord]>,
    /// The last of them.
    mask: u64,
    bits: u32,
    /// The next version of empty words.
    version: AtomicU64,
    /// How often one region drove out another.
    conflicts: AtomicU64,
    budget: Arc<Budget>,
}

impl Drop for Table {
    fn drop(&mut self) {
        self.budget.give_back(self.slots.len());
    }
}

impl Table {
    fn new(bits: u32, budget: &Arc<Budget>) -> Option<Arc<Self>> {
        let count = 1 << bits;
        budget.take(count).then(|| {
            Arc::new(Self {
                slots: (0..count).map(|_| AtomicWord::new(Word::empty(0))).collect(),
                mask: count as u64 - 1,
                bits,
                version: AtomicU64::new(1),
                conflicts: AtomicU64::new(0),
                budget: Arc::clone(budget),
            })
        })
    }

    /// The slot and the tag of a region. Neighbours never share a slot, and regions at large powers of two from each other rarely
    /// do. Those that share one differ in their tags, for what is mixed in follows from the tag.
    #[inline(always)]
    fn place(&self, region: u64) -> (Option<&AtomicWord>, u64) {
        let tag = region >> FIRST_BITS;
        let index = (region ^ region >> 12) & self.mask;
        (self.slots.get(index as usize), tag)
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }

    fn clear(&self, first: u64, last: u64) {
        let empty = Word::empty(self.next_version());
        if last - first >= self.slots.len() as u64 {
            for slot in &self.slots {
                slot.store(empty);
            }
            return;
        }
        // Whatever stands there: to spare another region that shares the slot would take a look at what it is, and by then it may
        // be ours.
        for region in first..=last {
            if let (Some(slot), _) = self.place(region) {
                slot.store(empty);
            }
        }
    }
}

/// The leaf cache of one stage of one space.
pub(crate) struct Leaves {
    table: Rcu<Table>,
    budget: Arc<Budget>,
}

/// A slot, and what stood there before the first table entry was read.
pub(crate) struct Place<'a> {
    slot: &'a AtomicWord,
    tag: u64,
    seen: Word,
}

impl Place<'_> {
    /// Keeps what the walk found, unless the slot was emptied or filled meanwhile.
    pub(crate) fn fill(&self, found: Found) {
        let Some(word) = Word::new(self.tag, found) else { return };
        if cfg!(mutant = "no_generation") {
            self.slot.store(word);
        } else {
            self.slot.replace(self.seen, word);
        }
    }
}

impl Leaves {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { table: Rcu::default(), budget }
    }

    /// Where the leaf entries of a region lie, if that is known.
    #[inline(always)]
    pub(crate) fn find(&self, region: u64, inside: &Presence<'_>) -> Option<Found> {
        let (slot, tag) = self.table.load(inside)?.place(region);
        slot?.load().found(tag)
    }

    /// The page of leaf entries of a region, if it is known and they are of this kind.
    #[inline(always)]
    pub(crate) fn find_kind(&self, region: u64, kind: Kind, inside: &Presence<'_>) -> Option<EntryPage> {
        let (slot, tag) = self.table.load(inside)?.place(region);
        slot?.load().page_of(tag, kind)
    }

    /// The slot for a region, to be filled after a walk that begins now. `None` where there is no room.
    pub(crate) fn observe<'a>(
        &'a self,
        region: u64,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<Place<'a>> {
        let table = match self.table.load(inside) {
            Some(table) => table,
            None => self.grow(None, FIRST_BITS, inside, gate)?,
        };
        let (slot, tag) = table.place(region);
        let seen = slot?.load();
        if seen.is_empty() {
            return Some(Place { slot: slot?, tag, seen });
        }
        let mut table = table;
        if seen.is_of_another(tag) {
            let conflicts = table.conflicts.fetch_add(1, Ordering::Relaxed) + 1;
            if table.bits < LAST_BITS && conflicts > table.slots.len() as u64 / 4 {
                table = self.grow(Some(table), table.bits + 1, inside, gate).unwrap_or(table);
            }
        }
        // What stands there goes first: it might go and come again during the walk, and then nothing would tell that there was
        // an invalidation between.
        let (slot, tag) = table.place(region);
        let slot = slot?;
        let seen = slot.load();
        if seen.is_empty() {
            return Some(Place { slot, tag, seen });
        }
        let empty = Word::empty(table.next_version());
        let driven_out = slot.replace(seen, empty);
        fence_after_exchange();
        driven_out.then_some(Place { slot, tag, seen: empty })
    }

    /// Puts an empty table in the place of another.
    #[cold]
    fn grow<'a>(
        &'a self,
        old: Option<&Table>,
        bits: u32,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<&'a Table> {
        let new = Table::new(bits, &self.budget)?;
        if let Ok(Some(retired)) = self.table.replace(old, new) {
            gate.retire(retired);
        }
        // An invalidation that did not see the new table is over before the walk that now begins: see `clear`.
        fence_after_exchange();
        self.table.load(inside)
    }

    /// Forgets the regions `first` to `last`. `inside` was entered after software changed its tables.
    pub(crate) fn clear(&self, first: u64, last: u64, inside: &Presence<'_>) {
        if cfg!(mutant = "no_clear") {
            return;
        }
        let mut seen = None;
        // Where a table takes the place of the one just cleared, a walk from before may fill the new one.
        while let Some(table) = self.table.load(inside)
            && seen.is_none_or(|seen| !std::ptr::eq(seen, table))
        {
            table.clear(first, last);
            seen = Some(table);
        }
    }
}
