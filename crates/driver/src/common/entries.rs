//! What the drivers have in common where they write device entries.

use alloc::vec::Vec;

use portcullis_spec::PhysAddr;

use crate::error::{Error, UnitError};
use crate::platform::{Lock, Memory, Platform};

/// Writes an entry whose valid bit is in its first word: that word last where the entry becomes `valid`, and first where it is taken
/// away, so that the unit never sees half of one. Other entries than these two kinds are not changed so.
pub(crate) fn store_entry(memory: &impl Memory, at: PhysAddr, words: &[u64], valid: bool, coherent: bool) {
    let store = |index: usize| memory.store64(PhysAddr(at.0 + 8 * index as u64), words[index]);
    match valid {
        true => (0..words.len()).rev().for_each(store),
        false => (0..words.len()).for_each(store),
    }
    if !coherent {
        memory.flush(at, 8 * words.len() as u64);
    }
}

/// What the unit may still read although nobody uses it: it did not confirm that it forgot it. It is freed once it has, in recovery.
pub(crate) struct Condemned<T, P: Platform>(P::Lock<Vec<T>>);

impl<T, P: Platform> Condemned<T, P> {
    pub(crate) fn new() -> Self {
        Self(Lock::new(Vec::new()))
    }

    pub(crate) fn push(&self, what: T) {
        self.0.with(|all| all.push(what));
    }

    /// Refuses to use again what the unit may still read.
    pub(crate) fn refuse(&self, is_it: impl FnMut(&T) -> bool) -> Result<(), Error> {
        match self.0.with(|all| all.iter().any(is_it)) {
            true => Err(Error::Unit(UnitError::Stopped)),
            false => Ok(()),
        }
    }

    /// Frees `what` where the unit confirmed that it forgot it, and else keeps it until recovery. Returns what the unit said.
    pub(crate) fn free_once(
        &self,
        forgotten: Result<(), UnitError>,
        what: T,
        free: impl FnOnce(T),
    ) -> Result<(), UnitError> {
        match forgotten {
            Ok(()) => free(what),
            Err(_) => self.push(what),
        }
        forgotten
    }

    /// Frees everything: the unit has forgotten it.
    pub(crate) fn free(&self, free: impl FnMut(T)) {
        self.0.with(core::mem::take).into_iter().for_each(free);
    }
}
