//! The micro-TLB of a queue: the ranges of 2 MiB that it used last, and where the leaf entries of each lie.
//!
//! Every port has one, which its guard takes along, so that nobody else looks at it meanwhile: asking it and filling it are plain
//! loads and stores. What it holds follows from one context and from one generation of that context's leaf cache ([`Stamp`]). Both
//! are looked at when the guard begins, and nothing is asked again before it ends, for whoever invalidates waits until then. The
//! entries themselves are read anew for every request, as everywhere.

use std::cell::Cell;

use portcullis_spec::Access;

use crate::fast::{Reached, entry_offset};
use crate::gate::Presence;
use crate::host::EntryPage;
use crate::pattern::{Pattern, Says};
use crate::plain::Plain;
use crate::slots::{Leaves, REGION_SHIFT};
use crate::word::Kind;

/// Ranges that are remembered: 32 MiB of buffers that lie side by side.
const RANGES: usize = 16;

/// What a micro-TLB's content follows from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// The number of the context. No other ever has it.
    pub(crate) context: u64,
    /// The generation of its leaf cache, looked at before anything was looked up there.
    pub(crate) generation: u64,
}

/// Ranges and the pages in which their leaf entries lie, each where the low bits of its number say; and what they follow from.
pub(crate) struct Ranges {
    stamp: Stamp,
    ranges: [Cell<Option<Range>>; RANGES],
}

#[derive(Clone, Copy)]
struct Range {
    number: u64,
    page: EntryPage,
}

impl Ranges {
    pub(crate) fn new(stamp: Stamp) -> Self {
        Self { stamp, ranges: Default::default() }
    }

    /// Makes them those of the present stamp. Whether they are of the present context.
    #[inline]
    pub(crate) fn renew(&mut self, present: Stamp) -> bool {
        if self.stamp == present {
            return true;
        }
        if !cfg!(mutant = "micro_tlb_kept") {
            for range in &self.ranges {
                range.set(None);
            }
        }
        self.stamp.generation = present.generation;
        self.stamp.context == present.context
    }

    /// The page of leaf entries for an input, if it is here or `leaves` knows one of this kind for an input below `end`.
    #[inline(always)]
    pub(crate) fn find(
        &self,
        input: u64,
        end: u64,
        kind: Kind,
        leaves: &Leaves,
        inside: &Presence<'_>,
    ) -> Option<EntryPage> {
        let number = input >> REGION_SHIFT;
        let place = &self.ranges[number as usize % RANGES];
        match place.get() {
            Some(range) if range.number == number => Some(range.page),
            _ if input >= end => None,
            _ => {
                let page = leaves.find_kind(number, kind, inside)?;
                place.set(Some(Range { number, page }));
                Some(page)
            }
        }
    }
}

/// The micro-TLB of one port: of the lower, or only, half of its addresses, and of the entries of the first pattern.
pub(crate) struct MicroTlb {
    ranges: Ranges,
    /// Below which address inputs are looked up as they are.
    end: u64,
    pattern: Pattern,
    /// The sets of [`Access`] flags that are granted as the entries stand, by their bits.
    granted: u16,
    says: Says,
}

impl MicroTlb {
    /// An empty one for inputs below `end`, and entries of a pattern. `plain` and `privileged` say what is asked of these.
    pub(crate) fn new(stamp: Stamp, end: u64, pattern: &Pattern, plain: &Plain, privileged: bool) -> Self {
        let granted = (0..u16::BITS as u8)
            .filter(|bits| pattern.grants(plain.ask(Access::from_bits_truncate(*bits), privileged)))
            .fold(0, |granted, bits| granted | 1 << bits);
        let says = pattern.says[usize::from(privileged)];
        Self { ranges: Ranges::new(stamp), end, pattern: pattern.clone(), granted, says }
    }

    /// Makes it one of the present stamp. Whether it is of the present context.
    #[inline]
    pub(crate) fn renew(&mut self, present: Stamp) -> bool {
        self.ranges.renew(present)
    }

    /// Translates an input if all about it is known here or in `leaves`, the leaf cache of the context.
    #[inline(always)]
    pub(crate) fn hit(
        &self,
        input: u64,
        access: Access,
        leaves: &Leaves,
        inside: &Presence<'_>,
    ) -> Option<Reached<'_>> {
        let page = self.ranges.find(input, self.end, self.pattern.kind, leaves, inside)?;
        let raw = page.load(entry_offset(input, self.pattern.span));
        let granted = self.granted >> (access.bits() & 0xf) & 1 != 0;
        (self.pattern.has(raw) && granted)
            .then(|| Reached { address: self.pattern.output(raw, input), says: &self.says })
    }
}
