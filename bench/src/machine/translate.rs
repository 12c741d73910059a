//! A device thread that asks where addresses lead.

use portcullis_model::Port;
use portcullis_model::engine::Architecture;
use portcullis_spec::{Access, Iova};
use std::hint::black_box;

use crate::order::{FIRST, PAGE};

/// Translations to a guard, where rows don't say otherwise.
pub const EACH: usize = 32;

/// Translates a byte of each of `pages`, whose numbers count `stride` bytes, `each` to a guard. How many were translated.
///
/// # Panics
/// Where one is refused.
#[inline]
pub fn translate<A: Architecture>(port: &Port<A>, pages: &[u64], stride: u64, each: usize) -> u64 {
    for some in pages.chunks(each) {
        let guard = port.enter();
        for page in some {
            let address = Iova(FIRST + page * stride + 0x120);
            let translation = guard.translate(address, 8, Access::READ).expect("mapped");
            black_box(translation.address.0);
        }
    }
    pages.len() as u64
}

/// The same for pages that lie one after the other.
pub fn translate_pages<A: Architecture>(port: &Port<A>, pages: &[u64], each: usize) -> u64 {
    translate(port, pages, PAGE, each)
}
