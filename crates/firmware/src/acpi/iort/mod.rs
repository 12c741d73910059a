//! IORT: I/O remapping table (Arm DEN 0049).

mod structures;
mod topology;
mod view;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::decode::{Block, Decoder};
use super::header::{Header, View, WriteError, Writer};
use super::layout::{Record, Show, get, patch};
use super::walk::Reference;
use crate::topology::{FindingKind, Findings, Signature, Source};
use view::{Kind, NodeView, nodes};

pub use structures::{
    GlobalInterrupts, Interrupt, MappingInfo, NamedComponent, Pmcg, Rmr, RmrDescriptor, RootComplex, Smmu,
    SmmuV3,
};
use structures::{Info, NodeInfo};
pub(crate) use topology::topology;

/// Bytes before the first node, where nothing pads them.
const FIRST: usize = Header::LENGTH + Info::LENGTH;

/// One ID mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mapping {
    /// Ranges and flags.
    pub info: MappingInfo,
    /// Where the IDs go.
    pub output: Reference,
}

/// What a node says by its type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum NodeKind {
    /// ITS group: identifiers, as in the MADT.
    ItsGroup(Vec<u32>),
    /// Named component: its path in the namespace, with the NUL that ends it and what else pads it.
    NamedComponent(NamedComponent, Vec<u8>),
    /// Root complex. `flags` exists from node revision 4 on.
    RootComplex(RootComplex),
    /// SMMUv1 or SMMUv2: global, context and PMU interrupts.
    Smmu(Smmu, Option<GlobalInterrupts>, Vec<Interrupt>, Vec<Interrupt>),
    /// SMMUv3. `proximity_domain` and `device_id_mapping_index` exist from node revision 1 on.
    SmmuV3(SmmuV3),
    /// PMCG, and the node whose events it counts. `page1_base` exists from node revision 1 on.
    Pmcg(Pmcg, Reference),
    /// Reserved memory range.
    Rmr(Rmr, Vec<RmrDescriptor>),
    /// A type that this crate does not know: type, and what follows the part that all nodes have.
    Unknown(u8, Vec<u8>),
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Revision of the node.
    pub revision: u8,
    /// Identifier; zero in tables before IORT E.
    pub identifier: u32,
    /// What it says.
    pub kind: NodeKind,
    /// Its ID mappings.
    pub mappings: Vec<Mapping>,
}

/// An IORT table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Iort {
    /// Table header.
    pub header: Header,
    /// Reserved.
    pub reserved: u32,
    /// Bytes between the fixed part and the first node; firmware has none or four.
    pub padding: Vec<u8>,
    /// Nodes.
    pub nodes: Vec<Node>,
}

impl Iort {
    /// Reads what can be trusted of a table; `findings` says what cannot.
    pub(crate) fn read(view: &View<'_>, findings: &mut Findings) -> Option<Self> {
        let (nodes, problems) = nodes(view);
        for (offset, kind) in problems {
            findings.push(Source::table(Signature::IORT, offset as u32), kind);
        }
        let info = view.bytes.get(Header::LENGTH..).and_then(Info::read)?;
        let mut kept = Vec::new();
        for node in nodes {
            let problems = node.problems();
            if !problems.iter().any(|(_, kind)| matches!(kind, FindingKind::TooShort { .. })) {
                kept.push(node);
            }
            for (offset, kind) in problems {
                findings.push(Source::table(Signature::IORT, offset as u32), kind);
            }
        }
        let index: BTreeMap<usize, usize> =
            kept.iter().enumerate().map(|(i, node)| (node.offset, i)).collect();
        let stated = get::<u32>(view.bytes, Header::LENGTH + 4).map_or(FIRST, |start| start as usize);
        let padding_end = kept.first().map_or(stated, |node| node.offset);
        let padding = view.bytes.get(FIRST..padding_end).unwrap_or_default().to_vec();
        let nodes = kept.iter().filter_map(|node| Node::read(node, &index)).collect();
        Some(Self { header: view.header, reserved: info.reserved, padding, nodes })
    }

    /// The table's bytes, with lengths, references and checksum.
    ///
    /// # Errors
    ///
    /// A node longer than its length field can say, or a reference to a node that is not there.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Signature::IORT, &self.header);
        Info { reserved: self.reserved }.append(&mut writer.out);
        writer.out.extend_from_slice(&self.padding);
        let first = writer.offset_of::<u32>("Offset to Array of IORT Nodes")?;
        let length = self.nodes.len();
        let count = u32::try_from(length).map_err(|_| WriteError::TooLong { what: "IORT nodes", length })?;
        patch(&mut writer.out, Header::LENGTH, count);
        patch(&mut writer.out, Header::LENGTH + 4, first);
        let mut starts = Vec::new();
        let mut references = Vec::new();
        for node in &self.nodes {
            starts.push(writer.offset_of("IORT node")?);
            node.write(&mut writer, &mut references)?;
        }
        for (place, what, reference) in references {
            let offset = reference.resolve(what, &starts)?;
            patch(&mut writer.out, place, offset);
        }
        writer.finish()
    }
}

impl Node {
    fn read(node: &NodeView<'_>, index: &BTreeMap<usize, usize>) -> Option<Self> {
        let reference = |offset| Reference::new(offset, index);
        let kind = match node.kind {
            Kind::Its => NodeKind::ItsGroup(node.its_identifiers().collect()),
            Kind::Named => NodeKind::NamedComponent(node.data()?, node.name().to_vec()),
            Kind::RootComplex => {
                let mut root = node.data::<RootComplex>()?;
                if node.info.revision < 4 {
                    root.flags = 0;
                }
                NodeKind::RootComplex(root)
            }
            Kind::Smmu => {
                let interrupts = |array| node.entries(array).map(|(_, _, interrupt)| interrupt).collect();
                NodeKind::Smmu(
                    node.data()?,
                    node.global_interrupts().map(|(_, interrupts)| interrupts),
                    interrupts(node.context_interrupts()),
                    interrupts(node.pmu_interrupts()),
                )
            }
            Kind::SmmuV3 => {
                let mut smmu = node.data::<SmmuV3>()?;
                if node.info.revision < 1 {
                    (smmu.proximity_domain, smmu.device_id_mapping_index) = (0, 0);
                }
                NodeKind::SmmuV3(smmu)
            }
            Kind::Pmcg => {
                let mut pmcg = node.data::<Pmcg>()?;
                if node.info.revision < 1 {
                    pmcg.page1_base = 0;
                }
                NodeKind::Pmcg(pmcg, reference(node.pmcg_reference()))
            }
            Kind::Rmr => {
                let descriptors = node.entries(node.rmr_descriptors()).map(|(_, _, descriptor)| descriptor);
                NodeKind::Rmr(node.data()?, descriptors.collect())
            }
            Kind::Unknown(kind) => {
                let rest = node.bytes.get(NodeInfo::LENGTH..node.data_end()).unwrap_or_default();
                NodeKind::Unknown(kind, rest.to_vec())
            }
        };
        let mappings =
            node.mappings().map(|(_, info, output)| Mapping { info, output: reference(output) }).collect();
        Some(Self { revision: node.info.revision, identifier: node.info.identifier, kind, mappings })
    }

    const fn kind(&self) -> Kind {
        match &self.kind {
            NodeKind::ItsGroup(_) => Kind::Its,
            NodeKind::NamedComponent(..) => Kind::Named,
            NodeKind::RootComplex(_) => Kind::RootComplex,
            NodeKind::Smmu(..) => Kind::Smmu,
            NodeKind::SmmuV3(_) => Kind::SmmuV3,
            NodeKind::Pmcg(..) => Kind::Pmcg,
            NodeKind::Rmr(..) => Kind::Rmr,
            NodeKind::Unknown(kind, _) => Kind::Unknown(*kind),
        }
    }

    /// Appends the node; `references` gets the places that must hold offsets of nodes.
    fn write(
        &self,
        writer: &mut Writer,
        references: &mut Vec<(usize, &'static str, Reference)>,
    ) -> Result<(), WriteError> {
        let start = writer.len();
        let data = start + NodeInfo::LENGTH;
        let kind = self.kind();
        NodeInfo { revision: self.revision, identifier: self.identifier }.append(&mut writer.out);
        let fixed = kind.data_length(self.revision);
        let count =
            |length: usize, what| u32::try_from(length).map_err(|_| WriteError::TooLong { what, length });
        match &self.kind {
            NodeKind::ItsGroup(identifiers) => {
                let number = count(identifiers.len(), "ITS identifiers")?;
                writer.out.extend_from_slice(&number.to_le_bytes());
                writer.out.extend(identifiers.iter().flat_map(|identifier| identifier.to_le_bytes()));
            }
            NodeKind::NamedComponent(component, name) => {
                component.append(&mut writer.out);
                writer.out.extend_from_slice(name);
            }
            NodeKind::RootComplex(root) => root.append(&mut writer.out),
            NodeKind::Smmu(smmu, global, context, pmu) => {
                smmu.append(&mut writer.out);
                let here = writer.since::<u32>(start, "IORT node")?;
                if let Some(global) = global {
                    patch(&mut writer.out, data + 24, here);
                    global.append(&mut writer.out);
                }
                for (place, what, interrupts) in
                    [(data + 28, "context interrupts", context), (data + 36, "PMU interrupts", pmu)]
                {
                    let here = writer.since::<u32>(start, "IORT node")?;
                    patch(&mut writer.out, place, count(interrupts.len(), what)?);
                    patch(&mut writer.out, place + 4, here);
                    for interrupt in interrupts {
                        interrupt.append(&mut writer.out);
                    }
                }
            }
            NodeKind::SmmuV3(smmu) => smmu.append(&mut writer.out),
            NodeKind::Pmcg(pmcg, reference) => {
                pmcg.append(&mut writer.out);
                references.push((data + 12, "Node Reference", *reference));
            }
            NodeKind::Rmr(rmr, descriptors) => {
                rmr.append(&mut writer.out);
                patch(&mut writer.out, data + 4, count(descriptors.len(), "memory range descriptors")?);
                patch(&mut writer.out, data + 8, (NodeInfo::LENGTH + Rmr::LENGTH) as u32);
                for descriptor in descriptors {
                    descriptor.append(&mut writer.out);
                }
            }
            NodeKind::Unknown(_, rest) => writer.out.extend_from_slice(rest),
        }
        if matches!(kind, Kind::RootComplex | Kind::SmmuV3 | Kind::Pmcg) {
            writer.out.truncate(data + fixed);
        }
        let mappings = writer.since::<u32>(start, "IORT node")?;
        // A reader finds a named component's name by where the mappings begin, so theirs is given in any case but none.
        patch(&mut writer.out, start + 8, count(self.mappings.len(), "ID mappings")?);
        patch(&mut writer.out, start + 12, if self.mappings.is_empty() { 0 } else { mappings });
        for mapping in &self.mappings {
            references.push((writer.len() + 12, "Output Reference", mapping.output));
            mapping.info.append(&mut writer.out);
        }
        let length: u16 = writer.since(start, "IORT node")?;
        patch(&mut writer.out, start, kind.number());
        patch(&mut writer.out, start + 1, length);
        Ok(())
    }
}

/// Every field of the table.
pub(crate) fn decode<'a>(view: &View<'a>) -> Vec<Block<'a>> {
    let mut decoder = Decoder::new(view.bytes);
    let (nodes, _) = nodes(view);
    let first = nodes.first().map_or(FIRST, |node| node.offset);
    decoder.begin("I/O Remapping Table", 0, 0, first, Header::FIELDS);
    decoder.layout(Info::FIELDS, Header::LENGTH);
    decoder.fill(first);
    let mut end = first;
    for node in &nodes {
        let (offset, length) = (node.offset, node.bytes.len());
        end = offset + length;
        let (name, fields, _) = node.kind.describe();
        decoder.begin(name, 1, offset, length, NodeInfo::FIELDS);
        let data_end = offset + node.data_end();
        let start = offset + NodeInfo::LENGTH;
        for field in fields {
            let at = start + usize::from(field.offset);
            if at + usize::from(field.length) <= data_end {
                decoder.field(field.name, at, field.length.into(), field.show);
            }
        }
        let mut numbers = |name: &'static str, array: view::Array, size: usize| {
            for index in 0..array.count {
                decoder.field(name, offset + array.start + index * size, size, Show::Number);
            }
        };
        match node.kind {
            Kind::Its => numbers("GIC ITS Identifier", node.its_array(), 4),
            Kind::Smmu => {
                numbers("Context Interrupt", node.context_interrupts(), 8);
                numbers("PMU Interrupt", node.pmu_interrupts(), 8);
                if let Some((offset, _)) = node.global_interrupts() {
                    decoder.layout(GlobalInterrupts::FIELDS, offset);
                }
            }
            Kind::Named => {
                let name = node.name();
                let text = name.iter().position(|byte| *byte == 0).map_or(name.len(), |end| end + 1);
                decoder.field("Device Object Name", start + NamedComponent::LENGTH, text, Show::Text);
            }
            Kind::RootComplex | Kind::SmmuV3 | Kind::Pmcg | Kind::Rmr | Kind::Unknown(_) => {}
        }
        let mut parts: Vec<(usize, usize, &'static str, &'static [_])> = Vec::new();
        let mappings = node.mapping_array();
        parts.extend((0..mappings.count).map(|index| {
            let at = offset + mappings.start + index * MappingInfo::LENGTH;
            (at, MappingInfo::LENGTH, "ID Mapping", MappingInfo::FIELDS)
        }));
        if node.kind == Kind::Rmr {
            let ranges = node.rmr_descriptors();
            parts.extend((0..ranges.count).map(|index| {
                let at = offset + ranges.start + index * RmrDescriptor::LENGTH;
                (at, RmrDescriptor::LENGTH, "Memory Range Descriptor", RmrDescriptor::FIELDS)
            }));
        }
        parts.sort_by_key(|(at, ..)| *at);
        decoder.fill(parts.first().map_or(end, |(at, ..)| *at));
        let mut covered = parts.first().map_or(end, |(at, ..)| *at);
        for (at, length, name, fields) in parts {
            decoder.unreadable("Padding", 2, covered, at);
            decoder.begin(name, 2, at, length, fields);
            covered = covered.max(at + length);
        }
        decoder.unreadable("Padding", 2, covered, end);
    }
    decoder.unreadable("Unreadable Node", 1, end, view.bytes.len());
    decoder.finish()
}
