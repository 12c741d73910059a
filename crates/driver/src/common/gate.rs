//! Keeping a domain's table in place while it is worked on.
//!
//! Work on disjoint ranges goes on side by side without a lock; taking empty tables out needs everyone else out of them. So
//! workers count themselves in and out, and whoever takes tables out waits until there are none.

use crate::platform::{Clock, Lock, Platform};

#[derive(Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// The gate of one table.
pub(crate) struct Gate<P: Platform> {
    state: P::Lock<State>,
}

impl<P: Platform> Gate<P> {
    pub(crate) fn new() -> Self {
        Self { state: P::Lock::new(State::default()) }
    }

    /// Does `work` beside others. It ends soon and waits for nobody.
    pub(crate) fn enter<R>(&self, clock: &impl Clock, work: impl FnOnce() -> R) -> R {
        while !self.state.with(|state| {
            state.inside += usize::from(!state.closed);
            !state.closed
        }) {
            clock.relax();
        }
        let result = work();
        self.state.with(|state| state.inside -= 1);
        result
    }

    /// Does `work` alone. It ends soon, and waits for nobody but the unit.
    pub(crate) fn close<R>(&self, clock: &impl Clock, work: impl FnOnce() -> R) -> R {
        while self.state.with(|state| core::mem::replace(&mut state.closed, true)) {
            clock.relax();
        }
        while self.state.with(|state| state.inside != 0) {
            clock.relax();
        }
        let result = work();
        self.state.with(|state| state.closed = false);
        result
    }
}
