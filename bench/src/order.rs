//! Orders and addresses, scrambled the same way for everybody.

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The first address that devices send: above everything that an architecture reserves.
pub const FIRST: u64 = 1 << 32;

/// Marsaglia's xorshift64, from a seed that is not 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The numbers below `count` in an order that looks random and is always the same.
#[must_use]
pub fn scrambled(count: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for index in (1..order.len()).rev() {
        order.swap(index, random.below(index as u64 + 1) as usize);
    }
    order
}

/// The page, of `pages` pages, that page `index` leads to: no two neighbours are neighbours there.
#[inline]
#[must_use]
pub const fn scattered(index: u64, pages: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b1) % pages
}

/// An order in rounds of at most 4096, short enough to be over before somebody else wants the processor.
#[derive(Debug)]
pub struct Rounds {
    order: Vec<u64>,
    at: usize,
}

impl Rounds {
    /// Rounds through `order`, whose length is a power of two.
    #[must_use]
    pub const fn new(order: Vec<u64>) -> Self {
        Self { order, at: 0 }
    }

    /// Turns that go through everything once and a quarter more, but 4 at least: those at the end find in the processor's caches what fits there.
    #[must_use]
    pub fn sitting(pages: u64) -> u32 {
        let turns = pages.div_ceil(4096);
        (turns + turns.div_ceil(4)).max(4) as u32
    }

    /// The next round. Where the order is shorter than a round, the same each time.
    pub fn turn(&mut self) -> &[u64] {
        let each = self.order.len().min(4096);
        let start = self.at;
        self.at = (start + each) % self.order.len();
        &self.order[start..start + each]
    }
}
