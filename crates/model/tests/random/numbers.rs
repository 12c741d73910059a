//! Numbers that look random and are always the same.

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A word that is likely to get somewhere: a valid one with a few bits changed, or all random.
    pub(crate) fn disturb(&mut self, value: u64) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => value ^ 1 << self.below(64),
            2 => value ^ 1 << self.below(64) ^ 1 << self.below(64),
            _ => value & self.next() | self.next() & self.next() & self.next() & 0xfff,
        }
    }
}
