//! Free addresses of a space, for requests that leave the choice to the manager.

use std::collections::{BTreeMap, BTreeSet};

/// Disjoint ranges that are free, found by address and by length in logarithmic time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Free {
    /// First byte to last byte.
    by_first: BTreeMap<u64, u64>,
    /// Length less one, and first byte. Less one, so that all 64 bits can be free.
    by_length: BTreeSet<(u64, u64)>,
}

impl Free {
    fn put(&mut self, first: u64, last: u64) {
        self.by_first.insert(first, last);
        self.by_length.insert((last - first, first));
    }

    fn take(&mut self, first: u64, last: u64) {
        self.by_first.remove(&first);
        self.by_length.remove(&(last - first, first));
    }

    /// Adds a range, merging it with its neighbours. None of it may be free yet.
    pub(crate) fn add(&mut self, first: u64, last: u64) {
        let (mut low, mut high) = (first, last);
        if let Some((&f, &l)) = self.by_first.range(..first).next_back()
            && l.checked_add(1) == Some(first)
        {
            self.take(f, l);
            low = f;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(&l) = self.by_first.get(&next)
        {
            self.take(next, l);
            high = l;
        }
        self.put(low, high);
    }

    /// Removes whatever of a range is free.
    pub(crate) fn remove(&mut self, first: u64, last: u64) {
        while let Some((&f, &l)) = self.by_first.range(..=last).next_back() {
            if l < first {
                return;
            }
            self.take(f, l);
            if l > last {
                self.put(last + 1, l);
            }
            if f < first {
                self.put(f, first - 1);
                return;
            }
        }
    }

    /// First byte of a free range of `length` bytes, a multiple of `alignment` (a power of two); the smallest that fits, of
    /// the `attempts` smallest that are long enough.
    pub(crate) fn find(&self, length: u64, alignment: u64, attempts: usize) -> Option<u64> {
        let needed = length.checked_sub(1)?;
        self.by_length.range((needed, 0)..).take(attempts).find_map(|&(room, first)| {
            let aligned = first.checked_next_multiple_of(alignment)?;
            (aligned.checked_add(needed)? <= first + room).then_some(aligned)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Free;

    #[test]
    fn all_64_bits_can_be_free() {
        let mut free = Free::default();
        free.add(0, u64::MAX);
        assert_eq!(free.find(0x1000, 0x1000, 1), Some(0));
        free.remove(0, 0xfff);
        assert_eq!(free.find(0x1000, 0x1000, 1), Some(0x1000));
        free.remove(0x1000, u64::MAX);
        assert_eq!(free.find(1, 1, 1), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(steps in prop::collection::vec((any::<bool>(), 0u64..64, 1u64..16), 1..80)) {
            let mut free = Free::default();
            let mut slow = [false; 80];
            for (add, first, length) in steps {
                let bytes = first as usize..(first + length) as usize;
                if add {
                    if slow[bytes.clone()].iter().any(|&f| f) { continue; }
                    free.add(first, first + length - 1);
                } else {
                    free.remove(first, first + length - 1);
                }
                slow[bytes].fill(add);
                for length in 1..20usize {
                    for alignment in [1usize, 4] {
                        let exists = (0..=80 - length).step_by(alignment)
                            .any(|at| slow[at..at + length].iter().all(|&f| f));
                        let found = free.find(length as u64, alignment as u64, usize::MAX);
                        prop_assert_eq!(found.is_some(), exists);
                        if let Some(at) = found {
                            prop_assert!((at as usize).is_multiple_of(alignment));
                            prop_assert!(slow[at as usize..at as usize + length].iter().all(|&f| f));
                        }
                    }
                }
            }
        }
    }
}
