//! Values made of 32-bit cells.

/// Reads cells one after the other.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a>(pub(super) &'a [u8]);

impl Cells<'_> {
    /// The next cell.
    pub(super) fn cell(&mut self) -> Option<u32> {
        let (cell, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*cell))
    }

    /// A number of `count` cells; of more than two, the upper ones must be 0.
    pub(super) fn number(&mut self, count: u32) -> Option<u64> {
        let mut number = 0u64;
        for _ in 0..count {
            if number >> 32 != 0 {
                return None;
            }
            number = number << 32 | u64::from(self.cell()?);
        }
        Some(number)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A property of one cell.
pub(super) fn single(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// The texts of a property, up to what is not text.
pub(super) fn texts(value: &[u8]) -> impl Iterator<Item = &str> {
    value
        .split(|byte| *byte == 0)
        .map_while(|text| core::str::from_utf8(text).ok())
        .filter(|text| !text.is_empty())
}
