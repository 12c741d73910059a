//! What all tables need while they are turned into topology.

use alloc::vec::Vec;

use crate::topology::{
    AddressRange, Fact, FindingKind, Findings, IdMap, ReservedRegion, Signature, Source, Topology,
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

    /// Reports ranges of input IDs (first, last, offset of the statement) that share IDs.
    pub(crate) fn overlapping_ids(&mut self, mut ranges: Vec<(u64, u64, usize)>) {
        ranges.sort_unstable();
        let mut reached: Option<u64> = None;
        for (first, last, offset) in ranges {
            if let Some(end) = reached.filter(|end| *end >= first) {
                self.finding(offset, FindingKind::OverlappingIds { first, last: end.min(last) });
            }
            reached = reached.max(Some(last));
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

/// Longest name that is believed. Names are kept once for each statement about a device, so that longer ones would let a
/// hostile table grow to the square of its size.
const NAME_LIMIT: usize = 256;

/// A name that NUL ends (or the bytes do, which ACPI tables of real machines do as well): printable ASCII, not empty.
pub(crate) fn trimmed_name(bytes: &[u8]) -> Result<&str, &'static str> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    if end > NAME_LIMIT {
        return Err("a name of at most 256 characters");
    }
    match core::str::from_utf8(&bytes[..end]) {
        Ok("") => Err("a name: it is empty"),
        Ok(name) if name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') => Ok(name),
        _ => Err("printable text"),
    }
}

/// A range of IDs, cut to the `bits` bits that input IDs have and to 32 bits of output, and what is wrong with it: the map,
/// first and last input ID. `None` where nothing is left.
pub(crate) fn id_range(
    input: u32,
    output: u32,
    count: u64,
    bits: u8,
) -> (Option<(IdMap, u32, u32)>, Option<FindingKind>) {
    let inputs = (1u64 << bits).saturating_sub(input.into());
    let outputs = (1u64 << 32) - u64::from(output);
    let kept = count.min(inputs).min(outputs);
    let problem = if inputs < count {
        Some(FindingKind::IdOverflow { first: input, count, bits })
    } else if outputs < count {
        Some(FindingKind::IdOverflow { first: output, count, bits: 32 })
    } else {
        None
    };
    let last = u64::from(input) + kept.saturating_sub(1);
    let range = u32::try_from(last).ok().filter(|_| kept > 0);
    (range.map(|last| (IdMap::Offset { input, output, count: kept }, input, last)), problem)
}
