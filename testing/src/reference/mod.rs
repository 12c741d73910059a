//! Slow and obvious readings of the specifications: tables in, decision out.
//!
//! Each is a page or two, written beside the chapter, and shares no code with the vocabulary's bits, the page-table engine
//! or the models that it judges: no caches, no types that could hide a mistake in common, one request at a time.

pub mod riscv;
pub mod smmuv3;
pub mod vtd;
pub mod vtd_interrupts;

/// Physical memory: a 64-bit word, or nothing where there is no memory.
pub trait Words {
    /// The word at `address`, a multiple of 8.
    fn load(&self, address: u64) -> Option<u64>;
}

impl<F: Fn(u64) -> Option<u64>> Words for F {
    fn load(&self, address: u64) -> Option<u64> {
        self(address)
    }
}

/// A word that the unit writes: accessed and dirty flags.
pub type Update = (u64, u64);

pub(crate) fn bit(value: u64, number: u32) -> bool {
    value >> number & 1 == 1
}

pub(crate) fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & (u64::MAX >> (63 - (high - low)))
}
