//! Knowing when no device thread uses anything older: guards and drain.
//!
//! A device thread enters the gate before it looks anything up and leaves it after its last byte has moved. Whoever
//! invalidates first makes what is cached unreachable, and then drains: waits until every thread that was inside has
//! left. Threads that enter meanwhile find nothing old, so a drain waits for no one who came later.
//!
//! The counters are in pairs, and a drain switches newcomers to the other of the pair (as sleepable RCU does), so a
//! steady stream of newcomers can't keep a drain waiting. Each port counts in a shard of its own as far as shards go.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

const SHARDS: usize = 32;

#[repr(align(128))]
#[derive(Default)]
struct Shard {
    inside: [AtomicU64; 2],
}

/// The gate of one unit.
pub struct Gate {
    /// The parity under which newcomers count.
    side: AtomicUsize,
    shards: Box<[Shard]>,
    next_shard: AtomicUsize,
    draining: Mutex<()>,
}

/// A thread's presence inside; dropped, it has left. Hold it for short, bounded work only, and never while waiting for
/// anything.
pub struct Guard<'a> {
    count: &'a AtomicU64,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Release);
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            side: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next_shard: AtomicUsize::new(0),
            draining: Mutex::new(()),
        }
    }
}

impl Gate {
    /// A shard for a new port: a number for [`enter`](Self::enter).
    pub fn assign(&self) -> usize {
        self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS
    }

    /// Enters, counting in `shard`.
    pub fn enter(&self, shard: usize) -> Guard<'_> {
        let side = self.side.load(Ordering::Relaxed) & 1;
        let count = &self.shards[shard % SHARDS].inside[side];
        count.fetch_add(1, Ordering::SeqCst);
        // Orders the count before every look-up that follows, against the fence in `drain`: either the drain sees the
        // count, or this thread sees what was invalidated before the drain.
        fence(Ordering::SeqCst);
        Guard { count }
    }

    /// Waits until every thread that was inside has left.
    ///
    /// A thread that is inside must not call this: it would wait for itself.
    pub fn drain(&self) {
        let _turn = self.draining.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fence(Ordering::SeqCst);
        let side = self.side.load(Ordering::Relaxed) & 1;
        // Those who read the side before the last switch and counted after that drain looked: few, and gone soon.
        self.wait(side ^ 1);
        self.side.store(side ^ 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.wait(side);
    }

    fn wait(&self, side: usize) {
        for shard in &self.shards {
            let mut spins = 0u32;
            while shard.inside[side].load(Ordering::Acquire) != 0 {
                spins += 1;
                if spins < 64 {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_drain_waits_for_those_inside_and_for_no_newcomer() {
        let gate = Arc::new(Gate::default());
        let old = gate.enter(0);
        let drained = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (gate, drained) = (Arc::clone(&gate), Arc::clone(&drained));
            move || {
                gate.drain();
                drained.store(true, Ordering::SeqCst);
            }
        });
        while gate.side.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(5));
        assert!(!drained.load(Ordering::SeqCst));
        let newcomer = gate.enter(1);
        drop(old);
        thread.join().unwrap();
        assert!(drained.load(Ordering::SeqCst));
        drop(newcomer);
        gate.drain();
    }
}
