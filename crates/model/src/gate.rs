//! Knowing when no device thread uses anything older: presences and drain.
//!
//! A device thread enters the gate before it looks anything up and leaves it after its last byte has moved. Whoever
//! invalidates first makes what is cached unreachable, and then drains: waits until every thread that was inside has
//! left. Threads that enter meanwhile find nothing old, so a drain waits for no one who came later.
//!
//! To be inside is to hold a slot. A slot's turn is odd while it is held, and another number each time, so a drain sees that
//! whoever held it has left even if somebody holds it again. A slot has one holder, which therefore leaves by a plain store;
//! threads keep to a slot of their own as long as nobody else is found there. Entering costs one exchange on a cache line that
//! nobody else writes, leaving nothing.
//!
//! What is taken out of reach while threads may still be looking at it (`Retired`) is kept here until a drain has waited for
//! them.

use std::cell::Cell;

use crate::rcu::Retired;
use crate::sync::{
    AtomicU64, AtomicUsize, Mutex, Ordering, fence, fence_after_exchange, locked, spin_loop, yield_now,
};

/// How many threads may be inside at once. More wait until one leaves.
const SLOTS: usize = if cfg!(all(loom, test)) { 3 } else { 256 };
/// Among how many slots threads spread at first.
const SPREAD: usize = if cfg!(all(loom, test)) { 1 } else { 16 };

/// Two cache lines, for processors that fetch them in pairs.
#[repr(align(128))]
struct Slot {
    turn: AtomicU64,
}

/// The gate of one unit.
pub struct Gate {
    slots: Box<[Slot]>,
    /// How many slots, from the first on, have ever been held.
    used: AtomicUsize,
    retired: Mutex<Vec<Retired>>,
    retired_count: AtomicUsize,
}

/// A thread's presence inside; dropped, it has left. Hold it for short, bounded work only, and never while waiting for
/// anything.
pub struct Presence<'a> {
    slot: &'a Slot,
    next_turn: u64,
}

impl Drop for Presence<'_> {
    #[inline]
    fn drop(&mut self) {
        let order = if cfg!(mutant = "guard_left_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.slot.turn.store(self.next_turn, order);
    }
}

thread_local! {
    /// Where this thread tries first, in any unit.
    static HOME: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Where the next new thread tries first.
static NEXT_HOME: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

impl Default for Gate {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Slot { turn: AtomicU64::new(0) }).collect(),
            used: AtomicUsize::new(0),
            retired: Mutex::new(Vec::new()),
            retired_count: AtomicUsize::new(0),
        }
    }
}

impl Gate {
    /// Enters.
    #[inline(always)]
    pub fn enter(&self) -> Presence<'_> {
        // The model checker's threads share the one that it runs on.
        let home = if cfg!(all(loom, test)) { usize::MAX } else { HOME.get() };
        if home < self.used.load(Ordering::Relaxed)
            && let Some(presence) = self.take(home)
        {
            return presence;
        }
        self.enter_elsewhere(home)
    }

    #[inline(always)]
    fn take(&self, index: usize) -> Option<Presence<'_>> {
        let slot = self.slots.get(index)?;
        let turn = slot.turn.load(Ordering::Relaxed);
        if turn & 1 != 0 {
            return None;
        }
        slot.turn.compare_exchange(turn, turn + 1, Ordering::SeqCst, Ordering::Relaxed).ok()?;
        // Orders the turn before every look-up that follows, against the fence in `drain`: either the drain sees the
        // turn, or this thread sees what was invalidated before the drain.
        fence_after_exchange();
        Some(Presence { slot, next_turn: turn.wrapping_add(2) })
    }

    #[cold]
    fn enter_elsewhere(&self, home: usize) -> Presence<'_> {
        let first = match home {
            usize::MAX => NEXT_HOME.fetch_add(1, Ordering::Relaxed) % SPREAD,
            taken => taken,
        };
        loop {
            for index in (first..SLOTS).chain(0..first) {
                // Before the slot is held: a drain that does not see the one does not see the other.
                self.used.fetch_max(index + 1, Ordering::SeqCst);
                if let Some(presence) = self.take(index) {
                    HOME.set(index);
                    return presence;
                }
            }
            yield_now();
        }
    }

    /// Keeps what was taken out of reach until a drain that begins later has waited.
    pub(crate) fn retire(&self, retired: Retired) {
        if cfg!(mutant = "free_at_once") {
            return retired.free();
        }
        locked(&self.retired).push(retired);
        self.retired_count.fetch_add(1, Ordering::Release);
    }

    /// Waits until every thread that was inside has left.
    ///
    /// A thread that is inside must not call this: it would wait for itself.
    pub fn drain(&self) {
        let retired = if self.retired_count.load(Ordering::Acquire) == 0 {
            Vec::new()
        } else {
            let mut kept = locked(&self.retired);
            self.retired_count.store(0, Ordering::Relaxed);
            std::mem::take(&mut *kept)
        };
        if !cfg!(mutant = "no_drain") {
            fence(Ordering::SeqCst);
            let used = self.used.load(Ordering::SeqCst).min(SLOTS);
            for slot in &self.slots[..used] {
                slot.wait();
            }
        }
        for one in retired {
            one.free();
        }
    }
}

impl Slot {
    /// Waits until whoever holds it has left.
    fn wait(&self) {
        let turn = self.turn.load(Ordering::Acquire);
        if turn & 1 == 0 {
            return;
        }
        let mut spins = 0u32;
        while self.turn.load(Ordering::Acquire) == turn {
            spins += 1;
            if spins < 256 && !cfg!(all(loom, test)) {
                spin_loop();
            } else {
                yield_now();
            }
        }
    }
}
