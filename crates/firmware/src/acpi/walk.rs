//! Sequences of structures that carry their own length: the one loop over bytes that all tables share.

use alloc::collections::BTreeMap;

use super::header::WriteError;
use super::layout::get;
use crate::topology::FindingKind;

/// How the structures of a sequence say how long they are.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// What one of them is called.
    pub(crate) what: &'static str,
    /// Bytes that every one of them has; those hold what `length` reads.
    pub(crate) header: usize,
    /// The length that a structure claims, given its bytes from its start on (at least `header` of them). `None` where
    /// the bytes end before the length is known.
    pub(crate) length: fn(&[u8]) -> Option<usize>,
}

/// A length in 16 bits at bytes 2 and 3 (DMAR, IVRS, VIOT, RIMT).
pub(crate) fn length_at_2(bytes: &[u8]) -> Option<usize> {
    get::<u16>(bytes, 2).map(usize::from)
}

/// One structure of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Raw<'a> {
    /// Bytes from the table's start.
    pub(crate) offset: usize,
    /// The structure, all of it.
    pub(crate) bytes: &'a [u8],
}

/// Walks a sequence. Ends at the first structure whose length cannot be believed, and then holds why.
#[derive(Clone)]
pub(crate) struct Walk<'a> {
    table: &'a [u8],
    at: usize,
    end: usize,
    shape: Shape,
    /// What ended the walk early, and where.
    pub(crate) problem: Option<(usize, FindingKind)>,
}

impl<'a> Walk<'a> {
    /// The structures from `start` to `end`, both in bytes from the start of `table`.
    pub(crate) fn new(table: &'a [u8], start: usize, end: usize, shape: Shape) -> Self {
        Self { table, at: start, end: end.min(table.len()), shape, problem: None }
    }

    fn fail(&mut self, kind: FindingKind) -> Option<Raw<'a>> {
        self.problem = Some((self.at, kind));
        self.at = self.end;
        None
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let rest = self.table.get(self.at..self.end)?;
        let what = self.shape.what;
        if rest.is_empty() {
            return None;
        }
        if rest.len() < self.shape.header {
            return self.fail(FindingKind::TrailingBytes { what, count: rest.len() as u64 });
        }
        let needed = self.shape.header as u64;
        let available = rest.len() as u64;
        let Some(stated) = (self.shape.length)(rest) else {
            return self.fail(FindingKind::Truncated { what, stated: available + 1, available });
        };
        if stated < self.shape.header {
            return self.fail(FindingKind::TooShort { what, stated: stated as u64, needed });
        }
        let Some(bytes) = rest.get(..stated) else {
            return self.fail(FindingKind::Truncated { what, stated: stated as u64, available });
        };
        let offset = self.at;
        self.at += stated;
        Some(Raw { offset, bytes })
    }
}

/// A reference from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reference {
    /// To the node at this place in the table's list of nodes.
    Node(usize),
    /// To this offset from the table's start, where no node begins.
    Offset(u32),
}

impl Reference {
    /// `index` gives the place in the list of the node that begins at an offset.
    pub(crate) fn new(offset: u32, index: &BTreeMap<usize, usize>) -> Self {
        let node = usize::try_from(offset).ok().and_then(|offset| index.get(&offset));
        node.map_or(Self::Offset(offset), |node| Self::Node(*node))
    }

    /// The offset; `starts` has that of each node, in rising order.
    pub(crate) fn resolve(self, what: &'static str, starts: &[u32]) -> Result<u32, WriteError> {
        match self {
            Self::Offset(offset) if starts.binary_search(&offset).is_ok() => {
                Err(WriteError::OffsetOfNode { what, offset })
            }
            Self::Offset(offset) => Ok(offset),
            Self::Node(index) => {
                starts.get(index).copied().ok_or(WriteError::NoSuchNode { what, index, count: starts.len() })
            }
        }
    }
}
