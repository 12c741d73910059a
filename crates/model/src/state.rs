//! What units have in common whose state is saved, restored and shared by threads.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Why a state can't be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// It was saved by a unit with another configuration.
    #[error("the state was saved by a unit with another configuration")]
    OtherConfig,
    /// It holds values that no such unit has.
    #[error("the state holds values that no such unit can have")]
    Impossible,
}

/// The lock, also where a thread panicked with it: every holder leaves registers that a unit can have.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
