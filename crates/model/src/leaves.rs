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
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::gate::{Gate, Presence};
use crate::host::EntryPage;
use crate::rcu::Rcu;
use crate::space::Budget;
use crate::sync::{AtomicU64, Ordering, fence, fence_after_exchange};
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
    /// Whether a region of each slot was walked to since everything was forgotten. Hints: whoever loses one walks once more.
    touched: Box<[AtomicBool]>,
    /// Where there is a stage behind this one: through which of its pages the tables were reached.
    through: Option<Pages>,
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
    fn new(bits: u32, nested: bool, budget: &Arc<Budget>) -> Option<Arc<Self>> {
        let count = 1 << bits;
        budget.take(count).then(|| {
            Arc::new(Self {
                slots: (0..count).map(|_| AtomicWord::new(Word::empty(0))).collect(),
                mask: count as u64 - 1,
                touched: (0..count).map(|_| AtomicBool::new(false)).collect(),
                through: nested.then(|| Pages::new(count)),
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

    /// Whether some region of its slot was walked to before, as far as is known; from now on one was. That another was is enough: then
    /// more regions are in use than there are slots, and what is never kept would never make the table grow.
    fn was_touched(&self, region: u64) -> bool {
        if cfg!(all(loom, test)) {
            return true;
        }
        let Some(touched) = self.touched.get(region as usize & (self.slots.len() - 1)) else { return true };
        touched.load(Relaxed) || {
            touched.store(true, Relaxed);
            false
        }
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed)
    }

    fn clear(&self, first: u64, last: u64) {
        let empty = Word::empty(self.next_version());
        if last - first >= self.slots.len() as u64 {
            for touched in &self.touched {
                touched.store(false, Relaxed);
            }
            if let Some(through) = &self.through {
                through.reset();
            }
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

/// Pages, of which some may be here that are not: 16 bits for each slot, of which each page has one.
struct Pages(Box<[AtomicU64]>);

impl Pages {
    fn new(slots: usize) -> Self {
        Self((0..slots.div_ceil(4)).map(|_| AtomicU64::new(0)).collect())
    }

    fn bit(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        let mixed = page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        Some((self.0.get((mixed >> 6) as usize & (self.0.len() - 1))?, 1 << (mixed & 63)))
    }

    /// Before the stage behind is asked for the page. Either it is then asked after software's change, or whoever invalidates that sees the
    /// page here, whoever noted it: the accesses of both are in one order.
    fn note(&self, page: u64) {
        if cfg!(mutant = "no_table_pages") {
            return;
        }
        if let Some((word, bit)) = self.bit(page)
            && word.load(Ordering::SeqCst) & bit == 0
        {
            word.fetch_or(bit, Ordering::SeqCst);
        }
        // Where the bit stood already, what was loaded keeps its order on x86 without a fence, too.
        fence_after_exchange();
    }

    /// Whether some of these pages may be here.
    fn may_have(&self, first: u64, last: u64) -> bool {
        if last - first >= 64 * self.0.len() as u64 {
            return self.0.iter().any(|word| word.load(Ordering::SeqCst) != 0);
        }
        (first..=last)
            .any(|page| self.bit(page).is_none_or(|(word, bit)| word.load(Ordering::SeqCst) & bit != 0))
    }

    /// Before the slots are emptied: who then finds an empty one notes his pages anew.
    fn reset(&self) {
        for word in &self.0 {
            word.store(0, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
    }
}

/// The leaf cache of one stage of one space.
pub(crate) struct Leaves {
    table: Rcu<Table>,
    /// Whether any region was walked to while there was no table.
    touched: AtomicBool,
    /// Whether another stage stands behind, which translates the addresses of this one's tables.
    nested: bool,
    budget: Arc<Budget>,
}

/// A slot, and what stood there before the first table entry was read.
pub(crate) struct Place<'a> {
    table: &'a Table,
    slot: &'a AtomicWord,
    tag: u64,
    seen: Word,
}

impl Place<'_> {
    /// The walk is about to ask the stage behind for the page of a table, at this address.
    pub(crate) fn note(&self, table: u64) {
        if let Some(through) = &self.table.through {
            through.note(table >> 12);
        }
    }

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
    /// `nested` says that another stage stands behind.
    pub(crate) fn new(nested: bool, budget: Arc<Budget>) -> Self {
        Self { table: Rcu::default(), touched: AtomicBool::new(false), nested, budget }
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

    /// The slot for a region, to be filled after a walk that begins now. `None` where there is no room, and where no region of the slot
    /// was walked to before: what is used once is not worth the exchange, which takes longer than a walk.
    pub(crate) fn observe<'a>(
        &'a self,
        region: u64,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<Place<'a>> {
        let table = match self.table.load(inside) {
            Some(table) => table,
            None if !self.touched.swap(true, Relaxed) && !cfg!(all(loom, test)) => {
                return None;
            }
            None => self.grow(None, FIRST_BITS, inside, gate)?,
        };
        let (slot, tag) = table.place(region);
        let seen = slot?.load();
        // Where the region's own word stands, a table of its way may have changed since.
        let kept = !seen.is_empty() && !seen.is_of_another(tag);
        if !kept && !table.was_touched(region) {
            return None;
        }
        if seen.is_empty() {
            return Some(Place { table, slot: slot?, tag, seen });
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
            return Some(Place { table, slot, tag, seen });
        }
        let empty = Word::empty(table.next_version());
        let driven_out = slot.replace(seen, empty);
        fence_after_exchange();
        driven_out.then_some(Place { table, slot, tag, seen: empty })
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
        let new = Table::new(bits, self.nested, &self.budget)?;
        if let Ok(Some(retired)) = self.table.replace(old, new) {
            gate.retire(retired);
        }
        // An invalidation that did not see the new table is over before the walk that now begins: see `clear`.
        fence_after_exchange();
        self.table.load(inside)
    }

    /// Forgets everything if some of the tables were reached through a page of the stage behind from `first` to `last`. `inside` was
    /// entered after software changed that stage's tables.
    pub(crate) fn clear_through(&self, first: u64, last: u64, inside: &Presence<'_>) {
        let concerned = |table: &Table| {
            table.through.as_ref().is_none_or(|through| through.may_have(first >> 12, last >> 12))
        };
        let mut seen = None;
        while let Some(table) = self.table.load(inside)
            && seen.is_none_or(|seen| !std::ptr::eq(seen, table))
        {
            if concerned(table) {
                return self.clear(0, u64::MAX, inside);
            }
            // Whoever takes note in a table that is put in this one's place from here on sees what software changed.
            seen = Some(table);
        }
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
