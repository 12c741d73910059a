//! Sets of functions that grow together, each join with its cause.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::PciAddress;

use super::{Cause, Group, Membership};

pub(super) struct Union {
    index: BTreeMap<PciAddress, usize>,
    parent: Vec<usize>,
    memberships: Vec<Membership>,
}

impl Union {
    pub(super) fn new(addresses: impl Iterator<Item = PciAddress>) -> Self {
        let index: BTreeMap<_, _> = addresses.enumerate().map(|(place, address)| (address, place)).collect();
        let parent = (0..index.len()).collect();
        Self { index, parent, memberships: Vec::new() }
    }

    fn root(&mut self, mut place: usize) -> usize {
        while self.parent[place] != place {
            self.parent[place] = self.parent[self.parent[place]];
            place = self.parent[place];
        }
        place
    }

    /// Puts `member` and `with` into one set. A cause is kept where they were not yet in one.
    pub(super) fn join(&mut self, member: PciAddress, with: PciAddress, cause: Cause) {
        let (Some(&one), Some(&other)) = (self.index.get(&member), self.index.get(&with)) else { return };
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.parent[one.max(other)] = one.min(other);
            self.memberships.push(Membership { member, with, cause });
        }
    }

    pub(super) fn into_groups(mut self) -> Vec<Group> {
        let addresses: Vec<_> = self.index.keys().copied().collect();
        let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
        for (place, address) in addresses.into_iter().enumerate() {
            let root = self.root(place);
            groups
                .entry(root)
                .or_insert_with(|| Group { members: Vec::new(), memberships: Vec::new() })
                .members
                .push(address);
        }
        for membership in core::mem::take(&mut self.memberships) {
            let Some(&place) = self.index.get(&membership.member) else { continue };
            let root = self.root(place);
            if let Some(group) = groups.get_mut(&root) {
                group.memberships.push(membership);
            }
        }
        groups.into_values().collect()
    }
}
