//! RIMT: RISC-V I/O mapping table.

mod structures;
mod topology;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::decode::{Block, Decoder};
use super::header::{Header, View, WriteError, Writer};
use super::layout::{Layout, Record, Show, get, patch};
use super::walk::{Raw, Reference, Shape, Walk, length_at_2};
use crate::topology::{FindingKind, Findings, Signature, Source};

use structures::{Info, NodeInfo, PlatformDevice};
pub use structures::{InterruptWire, Iommu, MappingInfo, RootComplex};
pub(crate) use topology::topology;

/// Bytes before the first node, where nothing pads them.
const FIRST: usize = Header::LENGTH + Info::LENGTH;

const NODES: Shape = Shape { what: "RIMT node", header: NodeInfo::LENGTH, length: length_at_2 };

/// One ID mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    /// Ranges and flags.
    pub info: MappingInfo,
    /// The IOMMU.
    pub destination: Reference,
}

/// What a node says by its type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NodeKind {
    /// An IOMMU and its interrupt wires.
    Iommu(Iommu, Vec<InterruptWire>),
    /// A PCIe root complex.
    RootComplex(RootComplex, Vec<Mapping>),
    /// A platform device: its path in the namespace, with the NUL that ends it and what else pads it.
    PlatformDevice(Vec<u8>, Vec<Mapping>),
    /// A type that this crate does not know: type, and what follows the part that all nodes have.
    Unknown(u8, Vec<u8>),
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Revision of the node.
    pub revision: u8,
    /// Reserved.
    pub reserved: u16,
    /// Identifier, unique in the table.
    pub id: u16,
    /// What it says.
    pub kind: NodeKind,
}

/// A RIMT table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rimt {
    /// Table header.
    pub header: Header,
    /// Reserved.
    pub reserved: u32,
    /// Nodes.
    pub nodes: Vec<Node>,
}

/// A node's type and fixed part.
#[derive(Clone, Copy)]
enum Part {
    Iommu(Iommu),
    RootComplex(RootComplex),
    PlatformDevice,
    Unknown(u8),
}

/// A node as it lies in the table.
#[derive(Clone, Copy)]
struct NodeView<'a> {
    offset: usize,
    bytes: &'a [u8],
    info: NodeInfo,
    part: Part,
}

impl<'a> NodeView<'a> {
    /// `Err` where the node is too short for its type.
    fn read(raw: Raw<'a>) -> Result<Self, FindingKind> {
        let data = raw.bytes.get(NodeInfo::LENGTH..).unwrap_or_default();
        let kind = get::<u8>(raw.bytes, 0).unwrap_or(0);
        let (part, needed) = match kind {
            0 => (Iommu::read(data).map(Part::Iommu), Iommu::LENGTH),
            1 => (RootComplex::read(data).map(Part::RootComplex), RootComplex::LENGTH),
            2 => (PlatformDevice::read(data).map(|_| Part::PlatformDevice), PlatformDevice::LENGTH),
            _ => (Some(Part::Unknown(kind)), 0),
        };
        let (what, stated) = ("RIMT node", raw.bytes.len() as u64);
        let needed = (NodeInfo::LENGTH + needed) as u64;
        let too_short = FindingKind::TooShort { what, stated, needed };
        let info = NodeInfo::read(raw.bytes).ok_or_else(|| too_short.clone())?;
        let part = part.ok_or(too_short)?;
        Ok(Self { offset: raw.offset, bytes: raw.bytes, info, part })
    }

    const fn describe(&self) -> (&'static str, &'static [Layout]) {
        match self.part {
            Part::Iommu(_) => ("IOMMU", Iommu::FIELDS),
            Part::RootComplex(_) => ("PCIe Root Complex", RootComplex::FIELDS),
            Part::PlatformDevice => ("Platform Device", PlatformDevice::FIELDS),
            Part::Unknown(_) => ("Unknown Node", &[]),
        }
    }

    /// Where in the node the offset and the count of its array are, what the array is called, and the size of an entry.
    const fn array_fields(&self) -> Option<(usize, usize, &'static str, usize)> {
        match self.part {
            Part::Iommu(_) => Some((38, 36, "interrupt wires", InterruptWire::LENGTH)),
            Part::RootComplex(_) => Some((16, 18, "ID mappings", MappingInfo::LENGTH)),
            Part::PlatformDevice => Some((8, 10, "ID mappings", MappingInfo::LENGTH)),
            Part::Unknown(_) => None,
        }
    }

    /// Start of its array in the node, entries that lie in the node, and entries that are announced.
    fn array(&self) -> (usize, usize, usize) {
        let Some((offset, count, _, size)) = self.array_fields() else { return (0, 0, 0) };
        let at = |place| get::<u16>(self.bytes, place).map_or(0, usize::from);
        let (start, stated) = (at(offset), at(count));
        let room = self.bytes.len().saturating_sub(start) / size;
        let count = if start < NodeInfo::LENGTH { 0 } else { room.min(stated) };
        (start, count, stated)
    }

    /// The entries of its array: offset from the table's start, bytes from there on, and entry.
    fn entries<R: Record>(&self) -> impl Iterator<Item = (usize, &'a [u8], R)> + use<'a, R> {
        let (start, count, _) = self.array();
        let (bytes, node) = (self.bytes, self.offset);
        (0..count).map_while(move |index| {
            let start = start + index * R::LENGTH;
            let bytes = bytes.get(start..)?;
            Some((node + start, bytes, R::read(bytes)?))
        })
    }

    /// The ID mappings: offset from the table's start, mapping, and destination.
    fn mappings(&self) -> impl Iterator<Item = (usize, MappingInfo, u32)> + use<'a> {
        self.entries::<MappingInfo>()
            .map(|(offset, bytes, mapping)| (offset, mapping, get::<u32>(bytes, 12).unwrap_or(0)))
    }

    /// The name of a platform device with what pads it.
    fn name(&self) -> &'a [u8] {
        let (start, _, stated) = self.array();
        let first = NodeInfo::LENGTH + PlatformDevice::LENGTH;
        let end = if stated > 0 && start >= first { start.min(self.bytes.len()) } else { self.bytes.len() };
        self.bytes.get(first..end).unwrap_or_default()
    }

    /// What is wrong with its array.
    fn problem(&self) -> Option<(usize, FindingKind)> {
        let (_, found, stated) = self.array();
        let (_, place, what, _) = self.array_fields()?;
        let kind = FindingKind::Count { what, stated: stated as u64, found: found as u64 };
        (found != stated).then_some((self.offset + place, kind))
    }
}

/// All nodes that can be used, and what is wrong with others and the way to them.
fn nodes<'a>(view: &View<'a>) -> (Vec<NodeView<'a>>, Vec<(usize, FindingKind)>) {
    let at = |offset| get::<u32>(view.bytes, offset).and_then(|value| usize::try_from(value).ok());
    let (Some(count), Some(start), true) =
        (at(Header::LENGTH), at(Header::LENGTH + 4), view.bytes.len() >= FIRST)
    else {
        let (stated, needed) = (view.bytes.len() as u64, FIRST as u64);
        return (Vec::new(), alloc::vec![(0, FindingKind::TooShort { what: "RIMT", stated, needed })]);
    };
    if start < FIRST || start > view.bytes.len() {
        let (what, target, problem) = ("Offset to RIMT Node Array", start as u64, "no node can be");
        let kind = FindingKind::Reference { what, target, problem };
        return (Vec::new(), alloc::vec![(Header::LENGTH + 4, kind)]);
    }
    let mut walk = Walk::new(view.bytes, start, view.bytes.len(), NODES);
    let (mut nodes, mut problems, mut found) = (Vec::new(), Vec::new(), 0);
    for raw in walk.by_ref().take(count) {
        found += 1;
        match NodeView::read(raw) {
            Ok(node) => {
                problems.extend(node.problem());
                nodes.push(node);
            }
            Err(kind) => problems.push((raw.offset, kind)),
        }
    }
    problems.extend(walk.problem.clone());
    if found < count {
        let (stated, found) = (count as u64, found as u64);
        problems.push((Header::LENGTH, FindingKind::Count { what: "RIMT nodes", stated, found }));
    }
    (nodes, problems)
}

impl Rimt {
    /// Reads what can be trusted of a table; `findings` says what cannot.
    pub(crate) fn read(view: &View<'_>, findings: &mut Findings) -> Option<Self> {
        let (nodes, problems) = nodes(view);
        for (offset, kind) in problems {
            findings.push(Source::table(Signature::RIMT, offset as u32), kind);
        }
        let info = view.bytes.get(Header::LENGTH..).and_then(Info::read)?;
        let index: BTreeMap<usize, usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.offset, index)).collect();
        let mappings = |node: &NodeView<'_>| {
            let mapping =
                |(_, info, destination)| Mapping { info, destination: Reference::new(destination, &index) };
            node.mappings().map(mapping).collect()
        };
        let nodes = nodes.iter().map(|node| Node {
            revision: node.info.revision,
            reserved: node.info.reserved,
            id: node.info.id,
            kind: match node.part {
                Part::Iommu(iommu) => {
                    NodeKind::Iommu(iommu, node.entries().map(|(_, _, wire)| wire).collect())
                }
                Part::RootComplex(root) => NodeKind::RootComplex(root, mappings(node)),
                Part::PlatformDevice => NodeKind::PlatformDevice(node.name().to_vec(), mappings(node)),
                Part::Unknown(kind) => {
                    NodeKind::Unknown(kind, node.bytes.get(NodeInfo::LENGTH..).unwrap_or_default().to_vec())
                }
            },
        });
        Some(Self { header: view.header, reserved: info.reserved, nodes: nodes.collect() })
    }

    /// The table's bytes, with lengths, references and checksum.
    ///
    /// # Errors
    ///
    /// A node longer than its length field can say, or a reference to a node that is not there.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Signature::RIMT, &self.header);
        Info { reserved: self.reserved }.append(&mut writer.out);
        let length = self.nodes.len();
        let count = u32::try_from(length).map_err(|_| WriteError::TooLong { what: "RIMT nodes", length })?;
        patch(&mut writer.out, Header::LENGTH, count);
        patch(&mut writer.out, Header::LENGTH + 4, FIRST as u32);
        let (mut starts, mut references) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            starts.push(writer.offset_of("RIMT node")?);
            node.write(&mut writer, &mut references)?;
        }
        for (place, reference) in references {
            let offset: u32 = reference.resolve("Destination IOMMU Offset", &starts)?;
            patch(&mut writer.out, place, offset);
        }
        writer.finish()
    }
}

impl Node {
    fn write(&self, writer: &mut Writer, references: &mut Vec<(usize, Reference)>) -> Result<(), WriteError> {
        let start = writer.len();
        NodeInfo { revision: self.revision, reserved: self.reserved, id: self.id }.append(&mut writer.out);
        let count =
            |length: usize, what| u16::try_from(length).map_err(|_| WriteError::TooLong { what, length });
        let (kind, mappings, fields) = match &self.kind {
            NodeKind::Iommu(iommu, wires) => {
                iommu.append(&mut writer.out);
                let here: u16 = writer.since(start, "RIMT node")?;
                patch(&mut writer.out, start + 36, count(wires.len(), "interrupt wires")?);
                patch(&mut writer.out, start + 38, if wires.is_empty() { 0 } else { here });
                for wire in wires {
                    wire.append(&mut writer.out);
                }
                (0, &[][..], None)
            }
            NodeKind::RootComplex(root, mappings) => {
                (writer.append(1, root), &mappings[..], Some((start + 16, start + 18)))
            }
            NodeKind::PlatformDevice(name, mappings) => {
                let kind = writer.append(2, &PlatformDevice::default());
                writer.out.extend_from_slice(name);
                (kind, &mappings[..], Some((start + 8, start + 10)))
            }
            NodeKind::Unknown(kind, rest) => {
                writer.out.extend_from_slice(rest);
                (*kind, &[][..], None)
            }
        };
        if let Some((offset, number)) = fields {
            let here: u16 = writer.since(start, "RIMT node")?;
            patch(&mut writer.out, offset, if mappings.is_empty() { 0 } else { here });
            patch(&mut writer.out, number, count(mappings.len(), "ID mappings")?);
        }
        for mapping in mappings {
            references.push((writer.len() + 12, mapping.destination));
            mapping.info.append(&mut writer.out);
        }
        let length: u16 = writer.since(start, "RIMT node")?;
        patch::<u8>(&mut writer.out, start, kind);
        patch(&mut writer.out, start + 2, length);
        Ok(())
    }
}

/// Every field of the table.
pub(crate) fn decode<'a>(view: &View<'a>) -> Vec<Block<'a>> {
    let mut decoder = Decoder::new(view.bytes);
    let (nodes, _) = nodes(view);
    let first = nodes.first().map_or(FIRST, |node| node.offset);
    decoder.begin("RISC-V I/O Mapping Table", 0, 0, first, Header::FIELDS);
    decoder.layout(Info::FIELDS, Header::LENGTH);
    decoder.fill(first);
    let mut end = first;
    for node in nodes {
        decoder.unreadable("Unreadable Node", 1, end, node.offset);
        let (offset, length) = (node.offset, node.bytes.len());
        end = offset + length;
        let (name, fields) = node.describe();
        decoder.begin(name, 1, offset, length, NodeInfo::FIELDS);
        decoder.layout(fields, offset + NodeInfo::LENGTH);
        if let Part::PlatformDevice = node.part {
            let name = node.name();
            let text = name.iter().position(|byte| *byte == 0).map_or(name.len(), |end| end + 1);
            decoder.field("Device Object Name", offset + 12, text, Show::Text);
        }
        let (start, count, _) = node.array();
        let (name, fields, size) = match node.part {
            Part::Iommu(_) => ("Interrupt Wire", InterruptWire::FIELDS, InterruptWire::LENGTH),
            _ => ("ID Mapping", MappingInfo::FIELDS, MappingInfo::LENGTH),
        };
        if count == 0 {
            decoder.fill(end);
            continue;
        }
        decoder.fill(offset + start);
        for index in 0..count {
            decoder.begin(name, 2, offset + start + index * size, size, fields);
        }
        decoder.unreadable("Padding", 2, offset + start + count * size, end);
    }
    decoder.unreadable("Unreadable Node", 1, end, view.bytes.len());
    decoder.finish()
}
