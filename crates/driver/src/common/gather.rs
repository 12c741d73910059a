//! What was unmapped but may still be cached, and what may only be reused after that is over.
//!
//! Every unmap gets a [`Ticket`]. It is complete once everything that the unmap made unreachable has been invalidated: then, and
//! not before, its table pages went back to the platform, its addresses to the allocator, and the caller may reuse the
//! memory. Invalidations that fail leave their batch here, with its ticket open; nothing turns a failure into a
//! completion but a later success.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use portcullis_pagetable::Gather;
use portcullis_spec::Iova;

use super::table::Table;
use crate::platform::Memory;

/// Names an unmap. Tickets of one domain complete in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// When what was unmapped is invalidated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlushPolicy {
    /// Before unmap returns.
    #[default]
    Strict,
    /// Together with what is unmapped later, when this many unmaps wait or the oldest has waited this long, whichever comes
    /// first. Until then devices may still reach what was unmapped: keep it (see [`Ticket`]). The time is kept by
    /// [`crate::Domain::poll`], which the platform calls when it likes, and by every unmap.
    Deferred {
        /// Unmaps that may wait; one that reaches this number flushes. Memory is bounded by it too.
        count: usize,
        /// How long the oldest may wait.
        delay: Duration,
    },
}

/// Ranges named one by one in an invalidation; with more, everything of the domain is invalidated at once.
const MAX_RANGES: usize = 16;

/// What waits for one invalidation.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Its oldest ticket.
    first: Ticket,
    /// When its oldest unmap was made.
    since: Duration,
    /// Unmaps in it.
    unmaps: usize,
    /// First and last byte of each range; empty where there were too many, and then everything must be invalidated.
    ranges: Vec<(Iova, Iova)>,
    everything: bool,
    /// The tables to be freed.
    pub(crate) tables: Gather,
    /// Addresses to go back to the allocator: first byte and bytes.
    pub(crate) addresses: Vec<(Iova, u64)>,
}

impl Batch {
    fn new(first: Ticket, since: Duration, tables: Gather, address: Option<(Iova, u64)>) -> Self {
        let ranges = tables.range().into_iter().collect();
        let addresses = address.into_iter().collect();
        Self { first, since, unmaps: 1, ranges, everything: false, tables, addresses }
    }

    /// The ranges to be invalidated; `None` for everything.
    pub(crate) fn ranges(&self) -> Option<&[(Iova, Iova)]> {
        (!self.everything).then_some(&self.ranges)
    }

    /// Its oldest ticket, and a range that holds all of its ranges.
    fn hull(&self) -> (Ticket, Option<(Iova, Iova)>) {
        let low = self.ranges.iter().map(|range| range.0).min();
        let high = self.ranges.iter().map(|range| range.1).max();
        let hull = if self.everything { Some((Iova(0), Iova(u64::MAX))) } else { low.zip(high) };
        (self.first, hull)
    }

    /// Whether it names an address in `first` to `last`.
    fn overlaps(&self, first: Iova, last: Iova) -> bool {
        self.everything || self.ranges.iter().any(|(low, high)| *low <= last && first <= *high)
    }

    fn absorb<M: Memory>(&mut self, table: &Table<M>, mut other: Self) {
        self.first = self.first.min(other.first);
        self.since = self.since.min(other.since);
        self.unmaps += other.unmaps;
        self.everything |= other.everything;
        table.append(&mut self.tables, other.tables);
        self.addresses.append(&mut other.addresses);
        for (first, last) in other.ranges {
            self.add_range(first, last);
        }
    }

    fn add_range(&mut self, first: Iova, last: Iova) {
        if self.everything {
            return;
        }
        if let Some((low, high)) = self.ranges.last_mut() {
            let touches_after = high.checked_add(1) == Some(first);
            let touches_before = last.checked_add(1) == Some(*low);
            if touches_after || touches_before {
                *low = (*low).min(first);
                *high = (*high).max(last);
                return;
            }
        }
        if self.ranges.len() == MAX_RANGES {
            self.everything = true;
            self.ranges = Vec::new();
        } else {
            self.ranges.push((first, last));
        }
    }
}

/// The waiting and travelling batches of one domain.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    issued: u64,
    waiting: Option<Box<Batch>>,
    /// Oldest ticket of each batch that is being invalidated right now, and the range around it. As many as threads.
    travelling: Vec<(Ticket, Option<(Iova, Iova)>)>,
}

impl Waiting {
    fn issue(&mut self, now: Duration, tables: Gather, address: Option<(Iova, u64)>) -> Batch {
        self.issued += 1;
        Batch::new(Ticket(self.issued), now, tables, address)
    }

    /// Issues a ticket for an unmap, and the batch that holds it and whatever waits. It counts as travelling until
    /// [`Self::arrive`] or [`Self::wait`].
    pub(crate) fn depart_with<M: Memory>(
        &mut self,
        table: &Table<M>,
        now: Duration,
        tables: Gather,
        address: Option<(Iova, u64)>,
    ) -> (Ticket, Batch) {
        let mut batch = self.issue(now, tables, address);
        let ticket = batch.first;
        if let Some(waiting) = self.waiting.take() {
            batch.absorb(table, *waiting);
        }
        self.travelling.push(batch.hull());
        (ticket, batch)
    }

    /// Issues a ticket for an unmap that waits with others.
    pub(crate) fn join<M: Memory>(
        &mut self,
        table: &Table<M>,
        now: Duration,
        tables: Gather,
        address: Option<(Iova, u64)>,
    ) -> Ticket {
        let batch = self.issue(now, tables, address);
        let ticket = batch.first;
        self.put_back(table, batch);
        ticket
    }

    fn put_back<M: Memory>(&mut self, table: &Table<M>, batch: Batch) {
        match &mut self.waiting {
            Some(waiting) => waiting.absorb(table, batch),
            None => self.waiting = Some(Box::new(batch)),
        }
    }

    /// Takes what waits, to invalidate it. It counts as travelling until [`Self::arrive`] or [`Self::wait`].
    pub(crate) fn depart(&mut self) -> Option<Batch> {
        let batch = *self.waiting.take()?;
        self.travelling.push(batch.hull());
        Some(batch)
    }

    /// The batch was invalidated.
    pub(crate) fn arrive(&mut self, batch: &Batch) {
        if let Some(index) = self.travelling.iter().position(|travelling| travelling.0 == batch.first) {
            self.travelling.swap_remove(index);
        }
    }

    /// The batch was not invalidated: it waits again.
    pub(crate) fn wait<M: Memory>(&mut self, table: &Table<M>, batch: Batch) {
        self.arrive(&batch);
        self.put_back(table, batch);
    }

    /// Whether what waits has reached the policy's bound.
    pub(crate) fn is_due(&self, policy: FlushPolicy, now: Duration) -> bool {
        match (&self.waiting, policy) {
            (None, _) => false,
            (Some(_), FlushPolicy::Strict) => true,
            (Some(waiting), FlushPolicy::Deferred { count, delay }) => {
                waiting.unmaps >= count || now.saturating_sub(waiting.since) >= delay
            }
        }
    }

    /// Whether something in `first` to `last` was unmapped and is not yet invalidated.
    pub(crate) fn overlaps(&self, first: Iova, last: Iova) -> bool {
        let travelling = self.travelling.iter().filter_map(|travelling| travelling.1);
        self.waiting.as_ref().is_some_and(|waiting| waiting.overlaps(first, last))
            || travelling.into_iter().any(|(low, high)| low <= last && first <= high)
    }

    /// The newest ticket.
    pub(crate) const fn issued(&self) -> Ticket {
        Ticket(self.issued)
    }

    /// Unmaps that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.unmaps)
    }

    /// Whether this ticket and all older ones are complete.
    pub(crate) fn is_complete(&self, ticket: Ticket) -> bool {
        let waiting = self.waiting.iter().map(|waiting| waiting.first);
        let open = waiting.chain(self.travelling.iter().map(|travelling| travelling.0));
        ticket.0 <= self.issued && open.min().is_none_or(|oldest| ticket < oldest)
    }
}
