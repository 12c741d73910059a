//! VIOT: virtual I/O translation table (ACPI 6.5, 5.2.34): virtio-iommu.

mod structures;
mod topology;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::decode::{Block, Decoder};
use super::header::{Header, View, WriteError, Writer};
use super::layout::{Layout, Record, get, patch};
use super::walk::{Raw, Reference, Shape, Walk, length_at_2};
use crate::topology::{FindingKind, Findings, Signature, Source};

use structures::{Info, NodeInfo};
pub use structures::{MmioEndpoint, MmioIommu, PciIommu, PciRange};
pub(crate) use topology::topology;

/// Bytes before the first node, where nothing pads them.
const FIRST: usize = Header::LENGTH + Info::LENGTH;

const NODES: Shape = Shape { what: "VIOT node", header: NodeInfo::LENGTH, length: length_at_2 };

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Node {
    /// A range of PCI functions, and the unit that they go to.
    PciRange(PciRange, Reference),
    /// A platform device, and the unit that it goes to.
    MmioEndpoint(MmioEndpoint, Reference),
    /// A virtio-iommu that is a PCI function.
    PciIommu(PciIommu),
    /// A virtio-iommu that is a platform device.
    MmioIommu(MmioIommu),
    /// A type that this crate does not know: type, and what follows type, reserved byte and length.
    Unknown(u8, Vec<u8>),
}

/// A VIOT table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Viot {
    /// Table header.
    pub header: Header,
    /// Reserved.
    pub reserved: u64,
    /// Nodes.
    pub nodes: Vec<Node>,
}

/// A node as it lies in the table.
#[derive(Clone, Copy)]
enum Part {
    PciRange(PciRange, u16),
    MmioEndpoint(MmioEndpoint, u16),
    PciIommu(PciIommu),
    MmioIommu(MmioIommu),
    Unknown(u8),
}

impl Part {
    /// `Err` where the node is too short for its type.
    fn read(raw: Raw<'_>) -> Result<Self, FindingKind> {
        let bytes = raw.bytes;
        let output = |offset| get::<u16>(bytes, offset).unwrap_or(0);
        let kind = get::<u8>(bytes, 0).unwrap_or(0);
        let (part, needed) = match kind {
            1 => (PciRange::read(bytes).map(|range| Self::PciRange(range, output(16))), PciRange::LENGTH),
            2 => (
                MmioEndpoint::read(bytes).map(|endpoint| Self::MmioEndpoint(endpoint, output(16))),
                MmioEndpoint::LENGTH,
            ),
            3 => (PciIommu::read(bytes).map(Self::PciIommu), PciIommu::LENGTH),
            4 => (MmioIommu::read(bytes).map(Self::MmioIommu), MmioIommu::LENGTH),
            _ => (Some(Self::Unknown(kind)), NodeInfo::LENGTH),
        };
        let (what, stated, needed) = ("VIOT node", bytes.len() as u64, needed as u64);
        part.ok_or(FindingKind::TooShort { what, stated, needed })
    }

    const fn describe(self) -> (&'static str, &'static [Layout]) {
        match self {
            Self::PciRange(..) => ("PCI Range", PciRange::FIELDS),
            Self::MmioEndpoint(..) => ("Single MMIO Endpoint", MmioEndpoint::FIELDS),
            Self::PciIommu(_) => ("virtio-pci IOMMU", PciIommu::FIELDS),
            Self::MmioIommu(_) => ("virtio-mmio IOMMU", MmioIommu::FIELDS),
            Self::Unknown(_) => ("Unknown Node", NodeInfo::FIELDS),
        }
    }
}

/// All nodes that can be reached, and what is wrong with the way to them.
fn nodes<'a>(view: &View<'a>) -> (Vec<Raw<'a>>, Vec<(usize, FindingKind)>) {
    let at = |offset| get::<u16>(view.bytes, offset).map(usize::from);
    let (Some(count), Some(start), true) =
        (at(Header::LENGTH), at(Header::LENGTH + 2), view.bytes.len() >= FIRST)
    else {
        let (stated, needed) = (view.bytes.len() as u64, FIRST as u64);
        return (Vec::new(), alloc::vec![(0, FindingKind::TooShort { what: "VIOT", stated, needed })]);
    };
    if start < FIRST || start > view.bytes.len() {
        let (what, target, problem) = ("Node Offset", start as u64, "no node can be");
        let kind = FindingKind::Reference { what, target, problem };
        return (Vec::new(), alloc::vec![(Header::LENGTH + 2, kind)]);
    }
    let mut walk = Walk::new(view.bytes, start, view.bytes.len(), NODES);
    let nodes: Vec<_> = walk.by_ref().take(count).collect();
    let mut problems: Vec<_> = walk.problem.clone().into_iter().collect();
    if nodes.len() < count {
        let (stated, found) = (count as u64, nodes.len() as u64);
        problems.push((Header::LENGTH, FindingKind::Count { what: "VIOT nodes", stated, found }));
    }
    (nodes, problems)
}

impl Viot {
    /// Reads what can be trusted of a table; `findings` says what cannot.
    pub(crate) fn read(view: &View<'_>, findings: &mut Findings) -> Option<Self> {
        let (nodes, mut problems) = nodes(view);
        let mut kept = Vec::new();
        for raw in nodes {
            match Part::read(raw) {
                Ok(part) => kept.push((raw, part)),
                Err(kind) => problems.push((raw.offset, kind)),
            }
        }
        for (offset, kind) in problems {
            findings.push(Source::table(Signature::VIOT, offset as u32), kind);
        }
        let info = view.bytes.get(Header::LENGTH..).and_then(Info::read)?;
        let index: BTreeMap<usize, usize> =
            kept.iter().enumerate().map(|(index, (raw, _))| (raw.offset, index)).collect();
        let reference = |offset: u16| Reference::new(offset.into(), &index);
        let nodes = kept
            .iter()
            .map(|(raw, part)| match *part {
                Part::PciRange(range, output) => Node::PciRange(range, reference(output)),
                Part::MmioEndpoint(endpoint, output) => Node::MmioEndpoint(endpoint, reference(output)),
                Part::PciIommu(iommu) => Node::PciIommu(iommu),
                Part::MmioIommu(iommu) => Node::MmioIommu(iommu),
                Part::Unknown(kind) => {
                    Node::Unknown(kind, raw.bytes.get(NodeInfo::LENGTH..).unwrap_or_default().to_vec())
                }
            })
            .collect();
        Some(Self { header: view.header, reserved: info.reserved, nodes })
    }

    /// The table's bytes, with lengths, references and checksum.
    ///
    /// # Errors
    ///
    /// More nodes, or nodes further away, than 16 bits can say, or a reference to a node that is not there.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Signature::VIOT, &self.header);
        Info { reserved: self.reserved }.append(&mut writer.out);
        let length = self.nodes.len();
        let count = u16::try_from(length).map_err(|_| WriteError::TooLong { what: "VIOT nodes", length })?;
        patch(&mut writer.out, Header::LENGTH, count);
        patch(&mut writer.out, Header::LENGTH + 2, FIRST as u16);
        let (mut starts, mut references) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let start = writer.len();
            starts.push(writer.offset_of("VIOT node")?);
            let kind = match node {
                Node::PciRange(range, output) => {
                    references.push((start + 16, *output));
                    writer.append(1, range)
                }
                Node::MmioEndpoint(endpoint, output) => {
                    references.push((start + 16, *output));
                    writer.append(2, endpoint)
                }
                Node::PciIommu(iommu) => writer.append(3, iommu),
                Node::MmioIommu(iommu) => writer.append(4, iommu),
                Node::Unknown(kind, rest) => {
                    NodeInfo::default().append(&mut writer.out);
                    writer.out.extend_from_slice(rest);
                    *kind
                }
            };
            let length: u16 = writer.since(start, "VIOT node")?;
            patch::<u8>(&mut writer.out, start, kind);
            patch(&mut writer.out, start + 2, length);
        }
        for (place, reference) in references {
            let offset = reference.resolve("Output Node", &starts)?;
            let length = offset as usize;
            let what = "offset of an output node";
            let offset = u16::try_from(offset).map_err(|_| WriteError::TooLong { what, length })?;
            patch(&mut writer.out, place, offset);
        }
        writer.finish()
    }
}

/// Every field of the table.
pub(crate) fn decode<'a>(view: &View<'a>) -> Vec<Block<'a>> {
    let mut decoder = Decoder::new(view.bytes);
    let (nodes, _) = nodes(view);
    let first = nodes.first().map_or(FIRST, |node| node.offset);
    decoder.begin("Virtual I/O Translation Table", 0, 0, first, Header::FIELDS);
    decoder.layout(Info::FIELDS, Header::LENGTH);
    decoder.fill(first);
    let mut end = first;
    for raw in nodes {
        end = raw.offset + raw.bytes.len();
        let part = Part::read(raw).unwrap_or(Part::Unknown(0));
        let (name, fields) = part.describe();
        decoder.begin(name, 1, raw.offset, raw.bytes.len(), fields);
        decoder.fill(end);
    }
    decoder.unreadable("Unreadable Node", 1, end, view.bytes.len());
    decoder.finish()
}
