//! Table entries that differ in nothing but where they lead.
//!
//! Decoding an entry gives the same for every entry whose bits are the same but for the address. So it is done once for each such
//! pattern, and from then on an entry is compared with it. What is alike follows from a format alone, and from nothing in memory.

/// Bits of an entry in which an address may lie, in any format.
const ADDRESS_BITS: std::ops::Range<u32> = 10..58;

/// Entries that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Alike {
    /// The bits in which they are, and how.
    fixed: u64,
    value: u64,
    /// The other bits, and what to multiply them by for an address.
    address: u64,
    scale: u64,
    /// What the fixed bits add to that.
    rest: u64,
}

impl Alike {
    /// The entry `raw` alone, which leads to `leads`.
    pub(crate) const fn one(raw: u64, leads: u64) -> Self {
        Self { fixed: u64::MAX, value: raw, address: 0, scale: 1, rest: leads }
    }

    /// The entries that differ from this one in where they lead; `leads` says where another one does, if it is the same in all else. An
    /// address is a field of bits in every format: a bit belongs to it if an entry with that bit changed leads elsewhere by as much.
    pub(crate) fn all(self, leads: impl Fn(u64) -> Option<u64>) -> Self {
        let one = self;
        let mut all = self;
        for bit in ADDRESS_BITS.map(|number| 1u64 << number) {
            let Some(elsewhere) = leads(one.value ^ bit) else { continue };
            let by = elsewhere ^ one.rest;
            let scale = by / bit;
            let is_linear = by.is_power_of_two()
                && by == bit.wrapping_mul(scale)
                && (one.rest & by != 0) == (one.value & bit != 0)
                && (all.address == 0 || scale == all.scale);
            if is_linear {
                all.address |= bit;
                all.scale = scale;
            }
        }
        all.fixed = !all.address;
        all.value = one.value & all.fixed;
        all.rest = one.rest & !(one.value & all.address).wrapping_mul(all.scale);
        all
    }

    /// Whether an entry is one of them.
    #[inline(always)]
    pub(crate) const fn has(&self, raw: u64) -> bool {
        raw & self.fixed == self.value
    }

    /// Where one of them leads.
    #[inline(always)]
    pub(crate) const fn leads(&self, raw: u64) -> u64 {
        (raw & self.address).wrapping_mul(self.scale) | self.rest
    }

    /// Whether they are the same entries, given that both are of one format.
    #[inline(always)]
    pub(crate) const fn is_same(&self, other: &Self) -> bool {
        self.fixed == other.fixed && self.value == other.value
    }

    /// The bits in which they differ.
    #[cfg(test)]
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }
}
