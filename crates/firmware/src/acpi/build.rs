//! What all tables need while they are turned into topology.

use alloc::vec::Vec;

use crate::topology::{
    AddressRange, Fact, FindingKind, Findings, ReservedRegion, Signature, Source, Topology,
};

/// A topology under construction from one table.
pub(crate) struct Build {
    pub(crate) signature: Signature,
    pub(crate) topology: Topology,
}

impl Build {
    pub(crate) fn new(signature: Signature, findings: Findings) -> Self {
        Self { signature, topology: Topology { findings, ..Topology::default() } }
    }

    pub(crate) fn finish(self) -> Topology {
        self.topology
    }

    pub(crate) fn source(&self, offset: usize) -> Source {
        Source::table(self.signature, offset as u32)
    }

    pub(crate) fn fact<T>(&self, offset: usize, value: T) -> Fact<T> {
        Fact::new(value, self.source(offset))
    }

    pub(crate) fn finding(&mut self, offset: usize, kind: FindingKind) {
        let source = self.source(offset);
        self.topology.findings.push(source, kind);
    }

    /// Reports why a walk ended early.
    pub(crate) fn problem(&mut self, problem: Option<(usize, FindingKind)>) {
        if let Some((offset, kind)) = problem {
            self.finding(offset, kind);
        }
    }

    /// Reports a range that is not made of whole pages.
    pub(crate) fn check_range(&mut self, offset: usize, range: AddressRange) {
        if range.first & 0xfff != 0 || range.last & 0xfff != 0xfff {
            self.finding(offset, FindingKind::UnalignedRange { range });
        }
    }

    /// Reports reserved regions that share addresses, each with the one before it that reaches furthest.
    pub(crate) fn overlapping_regions(&mut self) {
        let mut order: Vec<&ReservedRegion> = self.topology.reserved.iter().collect();
        order.sort_by_key(|region| region.range.first);
        let mut found = Vec::new();
        let mut furthest: Option<&ReservedRegion> = None;
        for region in order {
            if let Some(other) = furthest.filter(|other| other.range.overlaps(region.range.value)) {
                found.push((region.source.clone(), region.range.value, other.source.clone()));
            }
            if furthest.is_none_or(|other| other.range.last < region.range.last) {
                furthest = Some(region);
            }
        }
        for (source, range, other) in found {
            self.topology.findings.push(source, FindingKind::OverlappingRange { range, other });
        }
    }
}

/// A name that NUL ends (or the bytes do, which ACPI tables of real machines do as well): printable ASCII, not empty.
pub(crate) fn trimmed_name(bytes: &[u8]) -> Result<&str, &'static str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    match core::str::from_utf8(&bytes[..end]) {
        Ok("") => Err("a name: it is empty"),
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => Ok(name),
        _ => Err("printable text"),
    }
}
