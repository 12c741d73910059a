//! What should be mapped, kept page by page.

use portcullis_pagetable::Rights;
use std::collections::BTreeMap;

/// What should be mapped: by smallest page, where it leads and what it permits.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    pub page: u64,
    pub pages: BTreeMap<u64, (u64, Rights)>,
}

impl Shadow {
    pub fn new(page: u64) -> Self {
        Self { page, pages: BTreeMap::new() }
    }

    /// Maps, or tells the lowest page of the range that is mapped.
    pub fn map(&mut self, iova: u64, address: u64, size: u64, rights: Rights) -> Result<(), u64> {
        let taken = self.pages.range(iova..=iova + (size - 1)).next();
        if let Some((page, _)) = taken {
            return Err(*page);
        }
        for offset in (0..size).step_by(usize::try_from(self.page).unwrap()) {
            self.pages.insert(iova + offset, (address + offset, rights));
        }
        Ok(())
    }

    /// Unmaps; returns the bytes that were mapped.
    pub fn unmap(&mut self, iova: u64, size: u64) -> u64 {
        let pages: Vec<u64> = self.pages.range(iova..=iova + (size - 1)).map(|(page, _)| *page).collect();
        for page in &pages {
            self.pages.remove(page);
        }
        pages.len() as u64 * self.page
    }

    /// Changes rights; returns the bytes that are mapped.
    pub fn protect(&mut self, iova: u64, size: u64, rights: Rights) -> u64 {
        let mut bytes = 0;
        for (_, page) in self.pages.range_mut(iova..=iova + (size - 1)) {
            page.1 = rights;
            bytes += self.page;
        }
        bytes
    }
}
