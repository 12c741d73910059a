//! A queue of commands to a unit, the same for every architecture: a ring in memory, and completion by a word that the
//! unit writes, or where it writes none, by how far it says that it is.
//!
//! Each submission ends in a command that writes to a status word of its own (one per ring entry), so any number of threads wait
//! at once, none with the lock held. Entries are reused in order, once every submission before has ended.
//!
//! The queue stops on the first error or time-out and takes nothing more until [`CommandQueue::turn_on`]. No submission that was
//! under way then is taken for done, unless its own status word says so.

use alloc::vec::Vec;
use core::time::Duration;

use portcullis_spec::PhysAddr;

use crate::error::UnitError;
use crate::platform::{Lock, Platform};

/// What the status word of a completion holds until the unit writes it.
const PENDING: u32 = 0;
/// Written by the commands that replace others when the queue is drained after an error.
pub(crate) const DRAINED: u32 = 1;
/// Written by fences, which nobody waits for.
const FENCED: u32 = 2;

/// What the unit writes when a submission is done: its number, so that no word left over from another, before or after a
/// restart, is taken for it.
const fn done(number: u64) -> u32 {
    1 << 31 | number as u32
}

/// Commands in one submission, at most. Longer requests are cut.
const MAX_SUBMISSION: usize = 64;

/// A command, as the architecture writes it: as many words as an entry has, low word first.
pub(crate) type Words = [u64; 4];

/// How an architecture speaks to its queue.
pub(crate) trait Commands<P: Platform> {
    /// A command.
    type Command;

    /// Turns the unit's queue off, in whatever state the unit left it. It is `queue`, or where the architecture need not know what is
    /// in it, also one that somebody else set up.
    fn turn_off(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError>;

    /// Makes the unit, whose queue is off, take commands from `queue`, beginning at entry 0 and with earlier errors cleared.
    fn turn_on(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError>;

    /// The command's words, or `None` where it is a fence: that place gets a completion which nobody waits for.
    fn encode(&self, command: &Self::Command) -> Option<Words>;

    /// A command that writes `value` to `status` when all before it is done; later ones wait for it.
    fn completion(&self, status: PhysAddr, value: u32) -> Words;

    /// Tells the unit that entries before `tail` are to be carried out. `wrapped` changes each time that the tail passes the end of
    /// the ring; it begins with `false`.
    fn ring(&self, tail: u32, wrapped: bool);

    /// For a unit whose completions write no status: the entry that it comes to next. A completion counts as consumed only when
    /// all before it is done.
    fn consumed(&self) -> Option<u32> {
        None
    }

    /// What holds the unit up, if anything.
    fn error(&self) -> Option<UnitError>;

    /// How long the unit may take.
    fn timeout(&self) -> Duration;
}

/// A stretch of ring entries.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    entries: u32,
    finished: bool,
}

struct State {
    /// Where the next command goes.
    tail: u32,
    wrapped: bool,
    /// Submissions since the oldest unfinished one, in order; together they are the used entries before `tail`.
    stretches: Vec<Stretch>,
    /// Number of the first of `stretches`, counted from the start.
    first: u64,
    used: u32,
    /// Why it stopped. Set from the start: [`CommandQueue::turn_on`] clears it.
    stopped: Option<UnitError>,
}

/// A submission that is under way.
struct Ticket {
    number: u64,
    /// Ring entry of its completion.
    entry: u32,
}

pub(crate) struct CommandQueue<P: Platform> {
    base: PhysAddr,
    bytes: u64,
    status: PhysAddr,
    status_bytes: u64,
    entries: u32,
    entry_bytes: u64,
    coherent: bool,
    state: P::Lock<State>,
}

impl<P: Platform> CommandQueue<P> {
    /// A queue of `2^size` pages, not yet known to the unit. `None` where the platform has no memory.
    pub(crate) fn allocate(platform: &P, size: u8, entry_bytes: u64, coherent: bool) -> Option<Self> {
        let bytes = 4096u64 << size;
        let entries = (bytes / entry_bytes) as u32;
        let status_bytes = (u64::from(entries) * 4).next_power_of_two().max(4096);
        let base = platform.allocate(bytes, bytes)?;
        let Some(status) = platform.allocate(status_bytes, 4096) else {
            platform.free(base, bytes, bytes);
            return None;
        };
        let state = State {
            tail: 0,
            wrapped: false,
            stretches: Vec::new(),
            first: 0,
            used: 0,
            stopped: Some(UnitError::Stopped),
        };
        let state = P::Lock::new(state);
        Some(Self { base, bytes, status, status_bytes, entries, entry_bytes, coherent, state })
    }

    /// Gives its memory back. The unit does not use it any more.
    pub(crate) fn free(&self, platform: &P) {
        platform.free(self.base, self.bytes, self.bytes);
        platform.free(self.status, self.status_bytes, 4096);
    }

    /// First byte of the ring.
    pub(crate) const fn base(&self) -> PhysAddr {
        self.base
    }

    /// Bytes of the ring.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries of the ring, a power of two.
    pub(crate) const fn entries(&self) -> u32 {
        self.entries
    }

    /// Turns the queue that there was off ([`Commands::turn_off`] says which it may be) and makes the unit take commands from here.
    pub(crate) fn start(&self, commands: &impl Commands<P>, platform: &P) -> Result<(), UnitError> {
        self.turn_off(commands, platform)?;
        self.turn_on(commands, platform)
    }

    /// Takes nothing more, and turns the unit's queue off.
    pub(crate) fn turn_off(&self, commands: &impl Commands<P>, platform: &P) -> Result<(), UnitError> {
        self.stop(UnitError::Stopped);
        commands.turn_off(platform, self)
    }

    /// Makes the unit, whose queue is off, take commands from here. It begins at entry 0 again: what was submitted before is void.
    pub(crate) fn turn_on(&self, commands: &impl Commands<P>, platform: &P) -> Result<(), UnitError> {
        commands.turn_on(platform, self)?;
        self.state.with(|state| {
            state.first += state.stretches.len() as u64;
            state.stretches.clear();
            state.used = 0;
            state.tail = 0;
            state.wrapped = false;
            state.stopped = None;
        });
        Ok(())
    }

    /// Stops the queue for good reason, or because the unit is to be shut down.
    pub(crate) fn stop(&self, error: UnitError) {
        self.state.with(|state| {
            state.stopped.get_or_insert(error);
        });
    }

    /// Replaces an entry that the unit did not carry out by a completion that nobody waits for.
    pub(crate) fn neutralize(&self, platform: &P, commands: &impl Commands<P>, entry: u32) {
        self.write(platform, entry, &commands.completion(self.status_word(entry), DRAINED));
    }

    /// Submits commands in order and waits until the unit has carried out all of them.
    pub(crate) fn submit<C: Commands<P>>(
        &self,
        commands: &C,
        platform: &P,
        list: &[C::Command],
    ) -> Result<(), UnitError> {
        list.chunks(MAX_SUBMISSION).try_for_each(|chunk| {
            let ticket = self.enter(commands, platform, chunk)?;
            self.complete(commands, platform, &ticket)
        })
    }

    /// Waits for room and writes the commands with a completion behind.
    fn enter<C: Commands<P>>(
        &self,
        commands: &C,
        platform: &P,
        list: &[C::Command],
    ) -> Result<Ticket, UnitError> {
        let needed = list.len() as u32 + 1;
        let mut since = None;
        loop {
            let entered = self.state.with(|state| {
                if state.stopped.is_some() {
                    return Err(UnitError::Stopped);
                }
                // A full ring would look like an empty one (VT-d 6.5.2, RISC-V IOMMU 3, and SMMUv3 3.5.1 with its wrap bit).
                if self.entries - state.used <= needed {
                    return Ok(None);
                }
                let mut entry = state.tail;
                for command in list {
                    let words = commands.encode(command);
                    let words = words.unwrap_or_else(|| commands.completion(self.status_word(entry), FENCED));
                    self.write(platform, entry, &words);
                    entry = (entry + 1) & (self.entries - 1);
                }
                platform.store32(self.status_word(entry), PENDING);
                self.flush(platform, self.status_word(entry), 4);
                let number = state.first + state.stretches.len() as u64;
                self.write(platform, entry, &commands.completion(self.status_word(entry), done(number)));
                let tail = (entry + 1) & (self.entries - 1);
                state.wrapped ^= tail < state.tail;
                state.tail = tail;
                state.used += needed;
                state.stretches.push(Stretch { entries: needed, finished: false });
                commands.ring(state.tail, state.wrapped);
                Ok(Some(Ticket { number, entry }))
            })?;
            match entered {
                Some(ticket) => return Ok(ticket),
                None => self.check_time(commands, platform, &mut since)?,
            }
        }
    }

    /// Waits until the unit has carried out a submission.
    fn complete(&self, commands: &impl Commands<P>, platform: &P, ticket: &Ticket) -> Result<(), UnitError> {
        let mut since = None;
        loop {
            if self.is_done(commands, platform, ticket) {
                self.leave(ticket.number);
                return Ok(());
            }
            if let Some(error) = commands.error() {
                self.stop(error);
            }
            let stopped = self.state.with(|state| {
                // Restarted meanwhile: what was submitted before is void.
                if ticket.number < state.first { Some(UnitError::Stopped) } else { state.stopped }
            });
            if let Some(error) = stopped {
                return Err(error);
            }
            self.check_time(commands, platform, &mut since)?;
        }
    }

    /// Whether the unit has carried a submission out, by its own word.
    fn is_done(&self, commands: &impl Commands<P>, platform: &P, ticket: &Ticket) -> bool {
        let Some(next) = commands.consumed() else {
            return platform.load32(self.status_word(ticket.entry)) == done(ticket.number);
        };
        // What the unit has left ends before the tail; the ring is never full, so less than a round. After a restart the entries are
        // others' (the number says so), before it they stay until this submission leaves.
        self.state.with(|state| {
            let before_tail = |entry: u32| state.tail.wrapping_sub(entry) & (self.entries - 1);
            ticket.number >= state.first
                && state.stopped.is_none()
                && before_tail(next) < before_tail(ticket.entry)
        })
    }

    /// The entries of a finished submission, and of finished ones before the first unfinished, can be used again.
    fn leave(&self, number: u64) {
        self.state.with(|state| {
            let Some(index) = number.checked_sub(state.first) else { return };
            if let Some(stretch) = state.stretches.get_mut(index as usize) {
                stretch.finished = true;
            }
            let finished = state.stretches.iter().take_while(|stretch| stretch.finished).count();
            for stretch in state.stretches.drain(..finished) {
                state.used -= stretch.entries;
            }
            state.first += finished as u64;
        });
    }

    /// Relaxes, or stops the queue where it has taken too long. `since` is when the wait began: now, where nobody has waited
    /// yet. Who need not wait never asks what time it is.
    fn check_time(
        &self,
        commands: &impl Commands<P>,
        platform: &P,
        since: &mut Option<Duration>,
    ) -> Result<(), UnitError> {
        let now = platform.now();
        let waited = now.saturating_sub(*since.get_or_insert(now));
        if waited >= commands.timeout() {
            let error = UnitError::QueueTimeout { waited };
            self.stop(error);
            return Err(error);
        }
        platform.relax();
        Ok(())
    }

    fn status_word(&self, entry: u32) -> PhysAddr {
        PhysAddr(self.status.0 + 4 * u64::from(entry))
    }

    fn write(&self, platform: &P, entry: u32, words: &Words) {
        let at = PhysAddr(self.base.0 + self.entry_bytes * u64::from(entry));
        platform.store64_run(at, self.entry_bytes as usize / 8, |index| words[index]);
        self.flush(platform, at, self.entry_bytes);
    }

    fn flush(&self, platform: &P, at: PhysAddr, bytes: u64) {
        if !self.coherent {
            platform.flush(at, bytes);
        }
    }
}
