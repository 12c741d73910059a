//! What is needed for longer than a guard may last: counted pins, for which whoever drains waits.

use crate::gate::Gate;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, fence, locked, yield_now};

/// Pins that a unit gives out at most at a time.
pub const PIN_LIMIT: u64 = 1 << 20;

/// A unit has given out as many pins as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the unit has given out {PIN_LIMIT} pins")]
pub struct TooManyPins;

/// The pins of one unit.
///
/// The counters are a pair, and a drain switches newcomers to the other of the pair, as sleepable RCU does: whoever pins after an
/// invalidation pins nothing old and is not waited for.
#[derive(Default)]
pub(crate) struct Pins {
    /// The parity under which newcomers count.
    side: AtomicUsize,
    count: [AtomicU64; 2],
    draining: Mutex<()>,
}

/// Keeps what its guard gave out good after the guard's end. Whoever invalidates waits until the last pin from before is
/// gone, so the thread that pins must not submit to the same unit meanwhile, nor wait for somebody who does.
#[derive(Debug)]
pub struct Pin<'a> {
    count: &'a AtomicU64,
}

impl Pins {
    /// A pin. Called inside of the gate.
    pub(crate) fn take(&self) -> Result<Pin<'_>, TooManyPins> {
        let side = self.side.load(Ordering::Relaxed) & 1;
        let count = &self.count[side];
        // Whoever drains waits for the guard inside which this happens first, and sees the count then.
        if count.fetch_add(1, Ordering::Relaxed) >= PIN_LIMIT / 2 {
            count.fetch_sub(1, Ordering::Release);
            return Err(TooManyPins);
        }
        Ok(Pin { count })
    }

    /// Waits until every pin is gone that was taken inside of the gate before the gate was drained.
    fn drain(&self) {
        if cfg!(mutant = "no_pins") {
            return;
        }
        // Whoever pinned inside of the gate before it was drained has been counted, and counts until his last pin is gone.
        if self.count.iter().all(|count| count.load(Ordering::Acquire) == 0) {
            return;
        }
        self.turn_over();
    }

    /// Makes newcomers count on the other side, and waits until this one is empty.
    pub(crate) fn turn_over(&self) {
        let _turn = locked(&self.draining);
        fence(Ordering::SeqCst);
        let side = self.side.load(Ordering::Relaxed) & 1;
        // Those who read the side before the last switch and counted after that drain had looked.
        if !cfg!(mutant = "pins_of_one_side") {
            self.wait(side ^ 1);
        }
        self.side.store(side ^ 1, Ordering::SeqCst);
        self.wait(side);
    }

    /// Drains the gate and then the pins: whoever is inside may pin until it leaves, and nobody may be waited for at the gate who
    /// waits for a pin.
    pub(crate) fn drain_behind(&self, gate: &Gate) {
        if cfg!(mutant = "pins_before_guards") {
            self.drain();
        }
        gate.drain();
        if !cfg!(mutant = "pins_before_guards") {
            self.drain();
        }
    }

    fn wait(&self, side: usize) {
        while self.count[side].load(Ordering::Acquire) != 0 {
            yield_now();
        }
    }
}

impl Clone for Pin<'_> {
    /// Another pin of the same things. It goes beyond the limit where it must.
    fn clone(&self) -> Self {
        // As long as `self` is there nobody takes the count for zero.
        if !cfg!(mutant = "copied_pin_not_counted") {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Self { count: self.count }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        // What was done while pinned is seen by whoever waited.
        let order = if cfg!(mutant = "pin_dropped_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.count.fetch_sub(1, order);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_drain_waits_for_every_pin_from_before_and_for_none_from_after() {
        let pins = Pins::default();
        let old = pins.take().unwrap();
        let another = old.clone();
        let drained = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pins.drain();
                drained.store(true, Ordering::SeqCst);
            });
            while pins.side.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(old);
            let new = pins.take().unwrap();
            assert!(!drained.load(Ordering::SeqCst));
            drop(another);
            while !drained.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop(new);
        });
        pins.drain();
    }

    #[test]
    fn pins_are_limited() {
        let pins = Pins::default();
        let all: Vec<_> = (0..PIN_LIMIT / 2).map(|_| pins.take().unwrap()).collect();
        assert_eq!(pins.take().err(), Some(TooManyPins));
        drop(all);
        assert!(pins.take().is_ok());
    }
}
