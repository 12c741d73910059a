//! Memory that nobody was granted, at a physical address that is known: had a device reached physical memory past its grants, it would
//! show there.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

use crate::edu;

const PAGE: usize = 4096;
/// Bytes that are looked through at a time, and how often, for a page that `edu` can address.
const CHUNK: usize = 16 << 20;
const CHUNKS: usize = 24;
/// Below this the cases map memory for `edu`.
const LOWEST: u64 = 0x500_0000;
/// What stands in it.
const SECRET: &[u8; 16] = b"nobodys-business";

/// One page of this process, filled with a secret.
pub(crate) struct Canary {
    chunk: Vec<u8>,
    /// Where the page begins in it.
    page: usize,
    /// The page's physical address.
    pub(crate) physical: u64,
}

impl Canary {
    /// Takes memory until a page of it lies where `edu` can send.
    pub(crate) fn new() -> Result<Self> {
        // What lies elsewhere is held meanwhile, so that other pages come.
        let mut held = Vec::new();
        for _ in 0..CHUNKS {
            let mut chunk = vec![0x5a; CHUNK];
            let first = chunk.as_ptr().addr().next_multiple_of(PAGE) - chunk.as_ptr().addr();
            let frames = frames(chunk.as_ptr().addr() + first, CHUNK / PAGE - 1)?;
            let fits = |at: &u64| *at >= LOWEST && at + PAGE as u64 <= edu::HIGHEST;
            if let Some(number) = frames.iter().position(fits) {
                let page = first + number * PAGE;
                chunk[page..page + PAGE].as_chunks_mut().0.fill(*SECRET);
                let canary = Self { chunk, page, physical: frames[number] };
                canary.look()?;
                return Ok(canary);
            }
            held.push(chunk);
        }
        bail!("no page of {} lies between {LOWEST:#x} and {:#x}", CHUNKS * CHUNK / PAGE, edu::HIGHEST)
    }

    /// What leads away from it would look like.
    pub(crate) fn secret() -> &'static str {
        std::str::from_utf8(SECRET).unwrap_or_default()
    }

    /// Makes sure that it is as it was, and where it was.
    pub(crate) fn look(&self) -> Result<()> {
        let page = black_box(&self.chunk[self.page..self.page + PAGE]);
        ensure!(
            frames(page.as_ptr().addr(), 1)? == [self.physical],
            "the kernel moved the page: nothing can be said"
        );
        ensure!(
            page.as_chunks().0.iter().all(|bytes| bytes == SECRET),
            "a device wrote where nobody granted anything"
        );
        Ok(())
    }
}

/// Where pages of this process lie (Linux Documentation/admin-guide/mm/pagemap.rst: bits 54:0 are the frame's number, 63 says present).
fn frames(address: usize, count: usize) -> Result<Vec<u64>> {
    let mut entries = vec![0; count * 8];
    let map = File::open("/proc/self/pagemap")?;
    map.read_exact_at(&mut entries, (address / PAGE * 8) as u64).context("pagemap")?;
    let frame = |entry: &[u8; 8]| {
        let entry = u64::from_le_bytes(*entry);
        let number = entry & ((1 << 55) - 1);
        ensure!(entry >> 63 == 1 && number != 0, "no page, or no right to know where: {entry:#x}");
        Ok(number * PAGE as u64)
    };
    entries.as_chunks().0.iter().map(frame).collect()
}
