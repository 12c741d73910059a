//! The final cache of a nested space: where each page of 4 KiB leads after both stages, and what both permit together.
//!
//! Unlike leaf entries these are not read anew, so they go with every invalidation that covers them: one of the first stage finds
//! them by their input, one of the second by the pages between the stages through which they were found.

use std::sync::{Arc, OnceLock};

use portcullis_spec::PhysAddr;

use crate::budget::Budget;
use crate::fast::Reached;
use crate::gate::{Gate, Presence};
use crate::pattern::{Demand, Pattern, Says};
use crate::slots::{Place, Probe, Slots};
use crate::word::{Found, Frame, Kept, Kind};

/// log2 of a page's bytes.
const PAGE_SHIFT: u8 = Frame::SHIFT;

/// How many pairs of patterns a space keeps: pages of others are decided each time.
const PAIRS: usize = 16;

/// An entry of the first stage and one of the second by which pages are reached, and what these permit together.
struct Pair {
    first: Pattern,
    second: Pattern,
    says: [Says; 2],
    /// log2 of the pages that the first stage's entry spans. (What the second's spans its invalidations say themselves.)
    width: u8,
}

impl Pair {
    #[inline(always)]
    const fn grants(&self, demand: Demand) -> bool {
        self.first.grants(demand) && self.second.grants(demand)
    }

    fn reached(&self, address: PhysAddr, demand: Demand) -> Reached<'_> {
        Reached { address, says: &self.says[usize::from(demand.is_privileged())] }
    }
}

/// The final cache of one nested space.
pub(crate) struct Finals {
    pages: Slots<Frame>,
    /// The first [`Kind::NUMBERED`] are what words are of.
    pairs: [OnceLock<Box<Pair>>; PAIRS],
}

impl Finals {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { pages: Slots::new(true, budget), pairs: Default::default() }
    }

    /// Where an input leads, if that is known and the demand is met.
    #[inline(always)]
    pub(crate) fn find<'a>(
        &'a self,
        input: u64,
        demand: Demand,
        inside: &'a Presence<'_>,
    ) -> Option<Reached<'a>> {
        let Found { page, kind } = self.pages.find(input >> PAGE_SHIFT, inside)?;
        let pair = self.pairs.get(usize::from(kind.number()))?.get()?;
        pair.grants(demand).then(|| pair.reached(PhysAddr(page.number() | input & 0xfff), demand))
    }

    /// The slot for an input, to be filled from entries that are read from now on.
    #[inline(always)]
    pub(crate) fn observe<'a>(
        &'a self,
        input: u64,
        inside: &'a Presence<'_>,
        gate: &Gate,
    ) -> Option<Place<'a, Frame>> {
        let page = input >> PAGE_SHIFT;
        match self.pages.probe(page, inside, gate) {
            Probe::Fill(place) => Some(place),
            Probe::Nothing => None,
            // What is there does not meet the demand.
            Probe::Found(_) => self.pages.observe(page, inside, gate),
        }
    }

    /// What is reached at `address` by entries of these patterns, which is kept in `place`.
    pub(crate) fn reach(
        &self,
        address: PhysAddr,
        (first, second): (&Pattern, &Pattern),
        demand: Demand,
        place: Option<&Place<'_, Frame>>,
    ) -> Option<Reached<'_>> {
        let (number, pair) = self.pair(first, second)?;
        if let Some(place) = place.filter(|_| number < Kind::NUMBERED) {
            place.fill_from(pair.width, Found { page: Frame::of(address), kind: Kind::numbered(number) });
        }
        Some(pair.reached(address, demand))
    }

    /// The pair of two patterns, kept from now on if there is room.
    fn pair(&self, first: &Pattern, second: &Pattern) -> Option<(u8, &Pair)> {
        let new = || {
            let mut says = first.says;
            for (says, after) in says.iter_mut().zip(&second.says) {
                *says = says.then(after);
            }
            let width = first.says[0].of(PhysAddr(0)).page_shift.saturating_sub(PAGE_SHIFT);
            Box::new(Pair { first: first.clone(), second: second.clone(), says, width })
        };
        // Whoever comes first keeps a place.
        let mut pairs = (0..).zip(&self.pairs).map(|(number, place)| (number, &**place.get_or_init(new)));
        pairs.find(|(_, pair)| pair.first.is_same(first) && pair.second.is_same(second))
    }

    /// Forgets the pages `first` to `last`, by their numbers.
    pub(crate) fn clear(&self, first: u64, last: u64, inside: &Presence<'_>) {
        self.pages.clear(first, last, inside);
    }

    /// Forgets what was reached through the stage behind's pages from the address `first` to `last`.
    pub(crate) fn clear_through(&self, first: u64, last: u64, inside: &Presence<'_>) {
        self.pages.clear_through(first, last, inside);
    }
}
