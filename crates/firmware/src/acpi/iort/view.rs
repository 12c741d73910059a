//! IORT's nodes as they lie in the table.

use alloc::vec::Vec;

use super::structures::{
    GlobalInterrupts, Info, Interrupt, ItsInfo, MappingInfo, NamedComponent, NodeInfo, Pmcg, Rmr,
    RmrDescriptor, RootComplex, Smmu, SmmuV3,
};
use crate::acpi::header::{Header, View};
use crate::acpi::layout::{Layout, Record, get};
use crate::acpi::walk::{Shape, Walk};
use crate::topology::FindingKind;

const NODES: Shape = Shape {
    what: "IORT node",
    header: NodeInfo::LENGTH,
    length: |bytes| get::<u16>(bytes, 1).map(usize::from),
};

/// A node's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Its,
    Named,
    RootComplex,
    Smmu,
    SmmuV3,
    Pmcg,
    Rmr,
    Unknown(u8),
}

impl Kind {
    const fn new(value: u8) -> Self {
        match value {
            0 => Self::Its,
            1 => Self::Named,
            2 => Self::RootComplex,
            3 => Self::Smmu,
            4 => Self::SmmuV3,
            5 => Self::Pmcg,
            6 => Self::Rmr,
            other => Self::Unknown(other),
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Its => 0,
            Self::Named => 1,
            Self::RootComplex => 2,
            Self::Smmu => 3,
            Self::SmmuV3 => 4,
            Self::Pmcg => 5,
            Self::Rmr => 6,
            Self::Unknown(other) => other,
        }
    }

    /// What it is called, the fields after [`NodeInfo`], and how many bytes of those the first revision has.
    pub(super) fn describe(self) -> (&'static str, &'static [Layout], usize) {
        match self {
            Self::Its => ("ITS Group", ItsInfo::FIELDS, ItsInfo::LENGTH),
            Self::Named => ("Named Component", NamedComponent::FIELDS, NamedComponent::LENGTH),
            Self::RootComplex => ("Root Complex", RootComplex::FIELDS, 16),
            Self::Smmu => ("SMMUv1 or SMMUv2", Smmu::FIELDS, Smmu::LENGTH),
            Self::SmmuV3 => ("SMMUv3", SmmuV3::FIELDS, 44),
            Self::Pmcg => ("Performance Monitoring Counter Group", Pmcg::FIELDS, 16),
            Self::Rmr => ("Reserved Memory Range", Rmr::FIELDS, Rmr::LENGTH),
            Self::Unknown(_) => ("Unknown Node", &[], 0),
        }
    }

    /// Bytes that the fields after [`NodeInfo`] have in a node of this revision, as it is written.
    pub(super) fn data_length(self, revision: u8) -> usize {
        match self {
            Self::RootComplex if revision < 4 => 20,
            Self::SmmuV3 if revision < 1 => 44,
            Self::Pmcg if revision < 1 => 16,
            _ => crate::acpi::layout::fields_length(self.describe().1),
        }
    }
}

/// A node.
#[derive(Clone, Copy)]
pub(super) struct NodeView<'a> {
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
    pub(super) kind: Kind,
    pub(super) info: NodeInfo,
}

/// A stretch of a node that holds an array.
#[derive(Clone, Copy)]
pub(super) struct Array {
    /// Bytes from the node's start.
    pub(super) start: usize,
    /// Entries of it that lie in the node.
    pub(super) count: usize,
    /// Entries that are announced.
    pub(super) stated: u32,
}

impl<'a> NodeView<'a> {
    /// The fields of the node's type; bytes that an earlier revision does not have are zero. `None` where it is shorter
    /// than the first revision's.
    pub(super) fn data<R: Record>(&self) -> Option<R> {
        let limit = self.data_end();
        let bytes = self.bytes.get(NodeInfo::LENGTH..limit)?;
        if bytes.len() < self.kind.describe().2 {
            return None;
        }
        let mut padded = [0u8; 64];
        let present = bytes.get(..R::LENGTH.min(bytes.len()))?;
        padded.get_mut(..present.len())?.copy_from_slice(present);
        R::read(&padded)
    }

    /// Where the fields of the node's type must end: its end, or where its ID mappings begin.
    pub(super) fn data_end(&self) -> usize {
        let mappings = self.mapping_array();
        if mappings.stated > 0 && (NodeInfo::LENGTH..self.bytes.len()).contains(&mappings.start) {
            mappings.start
        } else {
            self.bytes.len()
        }
    }

    fn number(&self, offset: usize) -> u32 {
        get(self.bytes, offset).unwrap_or(0)
    }

    /// The array of `count` entries of `size` bytes at `start`, as much of it as lies in the node.
    pub(super) fn array(&self, stated: u32, start: u32, size: usize) -> Array {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let room = self.bytes.len().saturating_sub(start) / size;
        // No array lies in the part that all nodes have.
        let room = if start < NodeInfo::LENGTH { 0 } else { room };
        Array { start, count: room.min(usize::try_from(stated).unwrap_or(usize::MAX)), stated }
    }

    pub(super) fn mapping_array(&self) -> Array {
        self.array(self.number(8), self.number(12), MappingInfo::LENGTH)
    }

    /// The ID mappings: offset from the table's start, mapping, and output reference.
    pub(super) fn mappings(&self) -> impl Iterator<Item = (usize, MappingInfo, u32)> + use<'a> {
        self.entries::<MappingInfo>(self.mapping_array())
            .map(|(offset, bytes, mapping)| (offset, mapping, get::<u32>(bytes, 12).unwrap_or(0)))
    }

    /// The entries of an array: offset from the table's start, bytes from there on, and entry.
    pub(super) fn entries<R: Record>(
        &self,
        array: Array,
    ) -> impl Iterator<Item = (usize, &'a [u8], R)> + use<'a, R> {
        let (bytes, node) = (self.bytes, self.offset);
        (0..array.count).map_while(move |index| {
            let start = array.start + index * R::LENGTH;
            let bytes = bytes.get(start..)?;
            Some((node + start, bytes, R::read(bytes)?))
        })
    }

    pub(super) fn its_array(&self) -> Array {
        self.array(self.number(16), 20, 4)
    }

    pub(super) fn its_identifiers(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (array, bytes) = (self.its_array(), self.bytes);
        (0..array.count).map_while(move |index| get::<u32>(bytes, array.start + index * 4))
    }

    pub(super) fn global_interrupts(&self) -> Option<(usize, GlobalInterrupts)> {
        let array = self.array(1, self.number(16 + 24), GlobalInterrupts::LENGTH);
        self.entries(array).next().map(|(offset, _, interrupts)| (offset, interrupts))
    }

    pub(super) fn context_interrupts(&self) -> Array {
        self.array(self.number(16 + 28), self.number(16 + 32), Interrupt::LENGTH)
    }

    pub(super) fn pmu_interrupts(&self) -> Array {
        self.array(self.number(16 + 36), self.number(16 + 40), Interrupt::LENGTH)
    }

    pub(super) fn rmr_descriptors(&self) -> Array {
        self.array(self.number(16 + 4), self.number(16 + 8), RmrDescriptor::LENGTH)
    }

    /// The name of a named component with what pads it.
    pub(super) fn name(&self) -> &'a [u8] {
        self.bytes.get(NodeInfo::LENGTH + NamedComponent::LENGTH..self.data_end()).unwrap_or_default()
    }

    pub(super) fn pmcg_reference(&self) -> u32 {
        self.number(16 + 12)
    }

    /// What is wrong with the node itself: offset from the table's start, and what.
    pub(super) fn problems(&self) -> Vec<(usize, FindingKind)> {
        let mut problems = Vec::new();
        let (what, _, needed) = self.kind.describe();
        let stated = self.data_end().saturating_sub(NodeInfo::LENGTH);
        if let Kind::Unknown(kind) = self.kind {
            problems.push((self.offset, FindingKind::UnknownType { what: "IORT node", value: kind.into() }));
        } else if stated < needed {
            let (stated, needed) = (stated as u64, needed as u64);
            problems.push((self.offset, FindingKind::TooShort { what, stated, needed }));
            return problems;
        }
        let mut count = |offset, what, array: Array| {
            if array.count as u64 != u64::from(array.stated) {
                let (stated, found) = (array.stated.into(), array.count as u64);
                problems.push((offset, FindingKind::Count { what, stated, found }));
            }
        };
        count(self.offset + 8, "ID mappings", self.mapping_array());
        match self.kind {
            Kind::Its => count(self.offset + 16, "ITS identifiers", self.its_array()),
            Kind::Smmu => {
                count(self.offset + 44, "context interrupts", self.context_interrupts());
                count(self.offset + 52, "PMU interrupts", self.pmu_interrupts());
                if self.global_interrupts().is_none() {
                    let target = self.offset as u64 + u64::from(self.number(40));
                    let (what, problem) =
                        ("Reference to Global Interrupt Array", "no such array fits in the node");
                    problems.push((self.offset + 40, FindingKind::Reference { what, target, problem }));
                }
            }
            Kind::Rmr => count(self.offset + 20, "memory range descriptors", self.rmr_descriptors()),
            _ => {}
        }
        problems
    }
}

/// All nodes that can be reached, and what is wrong with the way to them.
pub(super) fn nodes<'a>(view: &View<'a>) -> (Vec<NodeView<'a>>, Vec<(usize, FindingKind)>) {
    let mut problems = Vec::new();
    let at = |offset| get::<u32>(view.bytes, offset);
    let (Some(count), Some(start)) = (at(Header::LENGTH), at(Header::LENGTH + 4)) else {
        let (stated, needed) = (view.bytes.len() as u64, (Header::LENGTH + Info::LENGTH) as u64);
        problems.push((0, FindingKind::TooShort { what: "IORT", stated, needed }));
        return (Vec::new(), problems);
    };
    let target = u64::from(start);
    let start = usize::try_from(start).unwrap_or(usize::MAX);
    if start < Header::LENGTH + Info::LENGTH || start > view.bytes.len() {
        let (what, problem) = ("Offset to Array of IORT Nodes", "no node can be");
        problems.push((Header::LENGTH + 4, FindingKind::Reference { what, target, problem }));
        return (Vec::new(), problems);
    }
    let mut walk = Walk::new(view.bytes, start, view.bytes.len(), NODES);
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    let nodes: Vec<_> = walk
        .by_ref()
        .take(wanted)
        .filter_map(|raw| {
            let kind = Kind::new(*raw.bytes.first()?);
            Some(NodeView { offset: raw.offset, bytes: raw.bytes, kind, info: NodeInfo::read(raw.bytes)? })
        })
        .collect();
    problems.extend(walk.problem.clone());
    if nodes.len() < wanted {
        let (stated, found) = (count.into(), nodes.len() as u64);
        problems.push((Header::LENGTH, FindingKind::Count { what: "IORT nodes", stated, found }));
    }
    (nodes, problems)
}
