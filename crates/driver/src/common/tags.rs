//! Which domain tags are free.

use alloc::vec::Vec;

use portcullis_spec::DomainTag;

/// The domain tags of one unit. A tag comes back only after everything cached under it was invalidated; until then its
/// owner keeps it (reuse before that is CVE-2022-26357).
#[derive(Debug)]
pub(super) struct DomainTags {
    next: u32,
    last: u32,
    returned: Vec<u32>,
}

impl DomainTags {
    /// Tags `first` to `last`, all free.
    pub(super) const fn new(first: u32, last: u32) -> Self {
        Self { next: first, last, returned: Vec::new() }
    }

    /// A tag that nothing is cached under.
    pub(super) fn allocate(&mut self) -> Option<DomainTag> {
        if let Some(tag) = self.returned.pop() {
            return Some(DomainTag(tag));
        }
        (self.next <= self.last).then(|| {
            self.next += 1;
            DomainTag(self.next - 1)
        })
    }

    /// Takes back a tag that nothing is cached under any more.
    pub(super) fn release(&mut self, tag: DomainTag) {
        self.returned.push(tag.0);
    }
}
