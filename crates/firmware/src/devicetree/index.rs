//! A tree by number, so that references can be followed and addresses translated upwards.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::cells::{Cells, single, texts};
use super::{Blob, Node};

/// Cells of an address or size that are allowed; more is a broken tree.
const MAX_CELLS: u32 = 4;

/// A node's place among all nodes.
pub(super) type Place = usize;

pub(super) struct Entry<'a> {
    pub(super) node: &'a Node<'a>,
    pub(super) parent: Option<Place>,
}

/// All nodes, parents before children.
pub(super) struct Index<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    phandles: BTreeMap<u32, Place>,
}

impl<'a> Index<'a> {
    pub(super) fn new(blob: &'a Blob<'a>) -> Self {
        let mut index = Self { entries: Vec::new(), phandles: BTreeMap::new() };
        index.add(&blob.root, None);
        index
    }

    fn add(&mut self, node: &'a Node<'a>, parent: Option<Place>) {
        let place = self.entries.len();
        for name in ["phandle", "linux,phandle"] {
            if let Some(phandle) = node.property(name).and_then(single) {
                self.phandles.entry(phandle).or_insert(place);
            }
        }
        self.entries.push(Entry { node, parent });
        for child in &node.children {
            self.add(child, Some(place));
        }
    }

    /// The node's full path.
    pub(super) fn path(&self, place: Place) -> String {
        let mut names = Vec::new();
        let mut at = &self.entries[place];
        while let Some(parent) = at.parent {
            names.push(&*at.node.name);
            at = &self.entries[parent];
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        if path.is_empty() { String::from("/") } else { path }
    }

    pub(super) fn by_phandle(&self, phandle: u32) -> Option<Place> {
        self.phandles.get(&phandle).copied()
    }

    pub(super) fn cell(&self, place: Place, name: &str) -> Option<u32> {
        self.entries[place].node.property(name).and_then(single)
    }

    /// Whether the node, and all above it, may be used (`status`).
    pub(super) fn enabled(&self, place: Place) -> bool {
        let mut at = Some(place);
        while let Some(here) = at {
            let entry = &self.entries[here];
            if let Some(status) = entry.node.property("status")
                && !matches!(texts(status).next(), Some("okay" | "ok"))
            {
                return false;
            }
            at = entry.parent;
        }
        true
    }

    /// Cells of addresses and sizes of the node's `reg`: its parent says.
    pub(super) fn reg_cells(&self, place: Place) -> Option<(u32, u32)> {
        let parent = self.entries[place].parent?;
        self.child_cells(parent)
    }

    /// Cells of addresses and sizes of the node's children (2 and 1 where it does not say).
    pub(super) fn child_cells(&self, place: Place) -> Option<(u32, u32)> {
        let address = self.cell(place, "#address-cells").unwrap_or(2);
        let size = self.cell(place, "#size-cells").unwrap_or(1);
        (address <= MAX_CELLS && size <= MAX_CELLS).then_some((address, size))
    }

    /// The first register window of the node, as the processors see it: address and size.
    pub(super) fn window(&self, place: Place) -> Option<(u64, u64)> {
        let (address, size) = self.reg_cells(place)?;
        let mut cells = Cells(self.entries[place].node.property("reg")?);
        let (base, size) = (cells.number(address)?, cells.number(size)?);
        Some((self.translate(self.entries[place].parent?, base)?, size))
    }

    /// An address on the bus of `place`, as the root sees it (`ranges`). `None` where a bus on the way does not pass it.
    fn translate(&self, mut place: Place, mut address: u64) -> Option<u64> {
        while let Some(parent) = self.entries[place].parent {
            let ranges = self.entries[place].node.property("ranges")?;
            if !ranges.is_empty() {
                let (child, size) = self.child_cells(place)?;
                let (above, _) = self.child_cells(parent)?;
                let mut cells = Cells(ranges);
                address = loop {
                    let (from, to, length) =
                        (cells.number(child)?, cells.number(above)?, cells.number(size)?);
                    if let Some(offset) = address.checked_sub(from).filter(|offset| *offset < length) {
                        break to.checked_add(offset)?;
                    }
                };
            }
            place = parent;
        }
        Some(address)
    }

    /// The node that takes the node's interrupts.
    pub(super) fn interrupt_parent(&self, place: Place) -> Option<Place> {
        let mut at = Some(place);
        while let Some(here) = at {
            if let Some(phandle) = self.cell(here, "interrupt-parent") {
                return self.by_phandle(phandle);
            }
            at = self.entries[here].parent;
        }
        None
    }
}
