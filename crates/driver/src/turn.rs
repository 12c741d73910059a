//! One at a time, over stretches too long for a lock.

use crate::platform::{Clock, Lock, Platform};

/// Whose turn it is. Unlike a [`Lock`], which never covers a wait for the unit, a turn may: the others wait in
/// [`Clock::relax`]. Whatever runs in a turn ends by its own time-out.
pub(crate) struct Turn<P: Platform> {
    taken: P::Lock<bool>,
}

impl<P: Platform> Turn<P> {
    pub(crate) fn new() -> Self {
        Self { taken: P::Lock::new(false) }
    }

    /// Runs `work` when no one else's is running.
    pub(crate) fn take<R>(&self, clock: &impl Clock, work: impl FnOnce() -> R) -> R {
        while self.taken.with(|taken| core::mem::replace(taken, true)) {
            clock.relax();
        }
        let result = work();
        self.taken.with(|taken| *taken = false);
        result
    }
}
