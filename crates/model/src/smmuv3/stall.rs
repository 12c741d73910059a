//! Stalled transactions: held outside of the guard until software resumes or terminates them (SMMUv3 3.12.2, 4.7).

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::{Outcome, Release};

/// One stalled transaction.
#[derive(Clone, Copy, Debug)]
struct Stalled {
    stream: u32,
    /// Whether its event stands in the queue: otherwise it is tried again once that takes it.
    recorded: bool,
    release: Option<Release>,
}

#[derive(Debug, Default)]
struct Table {
    /// Whether translation is on.
    open: bool,
    /// By tag.
    stalled: BTreeMap<u16, Stalled>,
    /// The tag that is tried first for the next one.
    next: u16,
}

/// The stalled transactions of a unit.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    table: Mutex<Table>,
    changed: Condvar,
}

impl Stalls {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a tag for a transaction of `stream`, or `None` while as many as the unit holds are taken, or translation is off.
    /// Tags go round, so that one is used again late. Called inside of the guard: who changed the configuration and drained
    /// then sees every transaction that stalled by the old one.
    pub(super) fn enter(&self, stream: u32, most: u16) -> Option<u16> {
        let mut table = self.table();
        if !table.open || table.stalled.len() >= usize::from(most) {
            return None;
        }
        let mut tag = table.next;
        while table.stalled.contains_key(&tag) {
            tag = tag.wrapping_add(1);
        }
        table.next = tag.wrapping_add(1);
        table.stalled.insert(tag, Stalled { stream, recorded: false, release: None });
        Some(tag)
    }

    /// Waits until another transaction may be held, or translation is off: then it is tried again.
    pub(super) fn wait_for_room(&self, most: u16) {
        let mut table = self.table();
        while table.open && table.stalled.len() >= usize::from(most) {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Translation goes on or off; with it off, every stalled transaction is terminated (6.3.9.6).
    pub(super) fn open(&self, open: bool) {
        self.table().open = open;
        if !open {
            self.release(Release::End(Outcome::Abort), |_, _| true);
        }
    }

    /// The event of `tag` is about to be written, so that software may resume it as soon as it sees that. Not so where it is tried
    /// again already: then nothing is to be written, for the tag would name a transaction that waits no longer.
    pub(super) fn announce(&self, tag: u16) -> bool {
        let mut table = self.table();
        let Some(stalled) = table.stalled.get_mut(&tag).filter(|stalled| stalled.release.is_none()) else {
            return false;
        };
        stalled.recorded = true;
        true
    }

    /// The event of `tag` could not be written.
    pub(super) fn withdraw(&self, tag: u16) {
        if let Some(stalled) = self.table().stalled.get_mut(&tag) {
            stalled.recorded = false;
        }
    }

    /// Waits until `tag` is released, and gives it back.
    pub(super) fn wait(&self, tag: u16) -> Release {
        let mut table = self.table();
        loop {
            let release = table.stalled.get(&tag).map_or(Some(Release::Retry), |stalled| stalled.release);
            if let Some(release) = release {
                table.stalled.remove(&tag);
                self.changed.notify_all();
                return release;
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn release(&self, release: Release, which: impl Fn(u16, &Stalled) -> bool) {
        let mut table = self.table();
        for (tag, stalled) in &mut table.stalled {
            if which(*tag, stalled) && stalled.release.is_none() {
                stalled.release = Some(release);
            }
        }
        self.changed.notify_all();
    }

    /// CMD_RESUME (4.7.1): only where tag and stream belong together, and the event has been seen.
    pub(super) fn resume(&self, stream: u32, tag: u16, release: Release) {
        self.release(release, |other, stalled| other == tag && stalled.stream == stream && stalled.recorded);
    }

    /// CMD_STALL_TERM (4.7.2).
    pub(super) fn terminate(&self, stream: u32) {
        self.release(Release::End(Outcome::Abort), |_, stalled| stalled.stream == stream);
    }

    /// The event queue takes records again (7.2.1).
    pub(super) fn retry_unrecorded(&self) {
        self.release(Release::Retry, |_, stalled| !stalled.recorded);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Release, Stalls};
    use crate::engine::Outcome;

    /// 7.2.1: room in the queue lets those be tried again that have no record there, whether they were about to write one or not.
    #[test]
    fn what_is_tried_again_has_no_record_and_what_has_one_is_not_tried_again() {
        let stalls = Stalls::default();
        stalls.open(true);
        let (early, late) = (stalls.enter(1, 8).unwrap(), stalls.enter(1, 8).unwrap());
        assert!(stalls.announce(early));
        stalls.retry_unrecorded();
        assert!(!stalls.announce(late));
        assert_eq!(stalls.wait(late), Release::Retry);
        stalls.resume(1, early, Release::End(Outcome::ZeroAndIgnore));
        assert_eq!(stalls.wait(early), Release::End(Outcome::ZeroAndIgnore));
    }

    #[test]
    fn what_could_not_be_recorded_is_tried_again() {
        let stalls = Stalls::default();
        stalls.open(true);
        let tag = stalls.enter(1, 8).unwrap();
        assert!(stalls.announce(tag));
        stalls.withdraw(tag);
        stalls.resume(1, tag, Release::End(Outcome::Abort));
        stalls.retry_unrecorded();
        assert_eq!(stalls.wait(tag), Release::Retry);
    }
}
