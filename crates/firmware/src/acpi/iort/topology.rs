//! IORT as topology.
//!
//! A mapping of a root complex, named component or memory range leads to an SMMU or straight to an ITS group, one of an
//! SMMU leads to an ITS group, and an ITS group has none (IORT 3.1.1.6): so a chain has at most two steps, and every
//! reference that would make it longer, or a circle, is a finding and not followed.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portcullis_spec::{Access, PhysAddr};

use super::structures::{Interrupt, MappingInfo, NamedComponent, RootComplex, Smmu, SmmuV3};
use super::view::{Kind, NodeView, nodes};
use super::{Rmr, View};
use crate::acpi::build::{Build, id_range, trimmed_name};
use crate::topology::{
    AddressRange, Architecture, Declared, DeviceName, Devices, Fact, FindingKind, IdMap, MessageOrigin,
    MessageRoute, RegisterWindow, ReservedKind, ReservedRegion, Route, RouteAttributes, Topology, Unit,
    UnitId, Wire, WirePurpose,
};

/// Statements "this region is for these devices" that are taken from one table; each descriptor is for all mappings, so
/// that a table of n bytes could otherwise make n² of them.
const REGION_DEVICES_LIMIT: usize = 1 << 16;

/// Bytes of an SMMUv3's registers: two pages of 64 KiB (SMMUv3 6.1).
const SMMU_V3_SIZE: u64 = 0x2_0000;

/// Reads what can be trusted of a table.
pub(crate) fn topology(view: &View<'_>, mut build: Build) -> Topology {
    let (nodes, problems) = nodes(view);
    for (offset, kind) in problems {
        build.finding(offset, kind);
    }
    let index = nodes.iter().enumerate().map(|(index, node)| (node.offset, index)).collect();
    let mut reader = Reader {
        build,
        nodes: &nodes,
        index,
        units: BTreeMap::new(),
        bases: BTreeMap::new(),
        its: BTreeMap::new(),
        region_devices: 0,
    };
    for node in &nodes {
        for (offset, kind) in node.problems() {
            reader.build.finding(offset, kind);
        }
        reader.unit(node);
    }
    for node in &nodes {
        reader.overlapping_inputs(node);
        match node.kind {
            Kind::RootComplex => reader.root_complex(node),
            Kind::Named => reader.named_component(node),
            Kind::Smmu | Kind::SmmuV3 => reader.unit_messages(node),
            Kind::Rmr => reader.memory_range(node),
            Kind::Pmcg => reader.counter_group(node),
            Kind::Its if node.mapping_array().stated > 0 => {
                let kind = FindingKind::InvalidField {
                    field: "Number of ID Mappings (an ITS group has none)",
                    value: node.mapping_array().stated.into(),
                };
                reader.build.finding(node.offset + 8, kind);
            }
            Kind::Its | Kind::Unknown(_) => {}
        }
    }
    let mut build = reader.build;
    build.overlapping_regions();
    build.finish()
}

struct Reader<'n, 'a> {
    build: Build,
    nodes: &'n [NodeView<'a>],
    /// Nodes by offset.
    index: BTreeMap<usize, usize>,
    /// Units by the offset of their node.
    units: BTreeMap<usize, UnitId>,
    /// Units by register base.
    bases: BTreeMap<u64, UnitId>,
    /// Identifiers of ITS groups by the offset of their node, read once.
    its: BTreeMap<usize, Arc<[u32]>>,
    region_devices: usize,
}

/// Where a mapping leads.
enum Output {
    Unit(UnitId),
    Its(Arc<[u32]>),
}

impl Reader<'_, '_> {
    fn unit(&mut self, node: &NodeView<'_>) {
        let (base, size, architecture) = match node.kind {
            Kind::Smmu => {
                let Some(smmu) = node.data::<Smmu>() else { return };
                let architecture = match smmu.model {
                    0 | 2 | 4 => Architecture::SmmuV1,
                    1 | 3 | 5 => Architecture::SmmuV2,
                    model => {
                        let kind = FindingKind::InvalidField { field: "Model", value: model.into() };
                        self.build.finding(node.offset + 32, kind);
                        Architecture::SmmuV2
                    }
                };
                (smmu.base, smmu.span, architecture)
            }
            Kind::SmmuV3 => {
                let Some(smmu) = node.data::<SmmuV3>() else { return };
                (smmu.base, SMMU_V3_SIZE, Architecture::SmmuV3)
            }
            _ => return,
        };
        if base == 0 || base == u64::MAX || base & 0xfff != 0 {
            self.build.finding(node.offset + 16, FindingKind::RegisterBase { what: "Base Address", base });
            return;
        }
        let build = &mut self.build;
        if let Some(first) = self.bases.get(&base) {
            let first = build.topology.units[first.0 as usize].source.clone();
            build.finding(node.offset, FindingKind::DuplicateUnit { base, first });
            return;
        }
        let id = UnitId(build.topology.units.len() as u32);
        let window = RegisterWindow { base: PhysAddr(base), size: Some(size) };
        let unit = Unit {
            id,
            name: build.fact(node.offset, alloc::format!("smmu{}", id.0)),
            architecture: build.fact(node.offset, architecture),
            registers: Some(build.fact(node.offset + 16, window)),
            segment: None,
            function: None,
            proximity: proximity(build, node),
            wires: wires(build, node),
            declared: build.fact(node.offset + 16, declared(node)),
            source: build.source(node.offset),
        };
        build.topology.units.push(unit);
        self.units.insert(node.offset, id);
        self.bases.insert(base, id);
    }

    /// Where the mapping at `offset` of a node of type `from` leads; `None`, and a finding, where it may not.
    fn output(&mut self, from: Kind, offset: usize, reference: u32) -> Option<Output> {
        let target = usize::try_from(reference).unwrap_or(usize::MAX);
        let node = self.index.get(&target).and_then(|index| self.nodes.get(*index));
        let problem = match (from, node.map(|node| node.kind)) {
            (_, None) => "no node begins",
            (Kind::RootComplex | Kind::Named | Kind::Rmr, Some(Kind::Smmu | Kind::SmmuV3)) => {
                match self.units.get(&target) {
                    Some(unit) => return Some(Output::Unit(*unit)),
                    None => "the SMMU could not be used",
                }
            }
            (Kind::Rmr, Some(_)) => "no SMMU is",
            (_, Some(Kind::Its)) => {
                let node = node?;
                let read = || node.its_identifiers().collect();
                return Some(Output::Its(Arc::clone(self.its.entry(target).or_insert_with(read))));
            }
            (Kind::RootComplex | Kind::Named, Some(_)) => "neither an SMMU nor an ITS group is",
            (_, Some(_)) => "no ITS group is",
        };
        let what = "Output Reference";
        self.build.finding(offset + 12, FindingKind::Reference { what, target: reference.into(), problem });
        None
    }

    fn root_complex(&mut self, node: &NodeView<'_>) {
        let Some(root) = node.data::<RootComplex>() else { return };
        let Ok(segment) = u16::try_from(root.segment) else {
            let kind = FindingKind::InvalidField { field: "PCI Segment Number", value: root.segment.into() };
            self.build.finding(node.offset + 28, kind);
            return;
        };
        let has = |bit: u32| root.ats_attribute & (1 << bit) != 0;
        let width = (root.pasid_capabilities & 0x1f) as u8;
        let attributes = RouteAttributes {
            ats: Some(has(0)),
            pri: Some(has(1)),
            pasid_bits: (has(2) && node.info.revision >= 3).then_some(width),
            coherent: Some(root.cache_coherency == 1),
            address_bits: (root.memory_address_limit != 0).then_some(root.memory_address_limit),
            ..RouteAttributes::default()
        };
        for (offset, mapping, reference) in node.mappings() {
            let Some(output) = self.output(node.kind, offset, reference) else { continue };
            let (devices, ids) = if mapping.flags & 1 != 0 {
                (Devices::Segment(segment), IdMap::One(mapping.output_base))
            } else {
                let Some((ids, first, last)) = self.range(offset, mapping, 16) else { continue };
                (Devices::requesters(segment, first as u16, last as u16), ids)
            };
            self.route(offset, devices, ids, attributes, output);
        }
    }

    fn named_component(&mut self, node: &NodeView<'_>) {
        let Some(component) = node.data::<NamedComponent>() else { return };
        let name = match trimmed_name(node.name()) {
            Ok(name) => DeviceName::AcpiPath(name.to_string()),
            Err(expected) => {
                let kind = FindingKind::Name { what: "Device Object Name", expected };
                self.build.finding(node.offset + 29, kind);
                return;
            }
        };
        let attributes = RouteAttributes {
            stall: Some(component.flags & 1 != 0),
            pasid_bits: Some((component.flags >> 1 & 0x1f) as u8),
            coherent: Some(component.cache_coherency == 1),
            address_bits: (component.memory_address_limit != 0).then_some(component.memory_address_limit),
            ..RouteAttributes::default()
        };
        for (offset, mapping, reference) in node.mappings() {
            let Some(output) = self.output(node.kind, offset, reference) else { continue };
            let ids = if mapping.flags & 1 != 0 {
                IdMap::One(mapping.output_base)
            } else {
                let Some((ids, ..)) = self.range(offset, mapping, 32) else { continue };
                ids
            };
            self.route(offset, Devices::Named(name.clone()), ids, attributes, output);
        }
    }

    fn route(
        &mut self,
        offset: usize,
        devices: Devices,
        ids: IdMap,
        attributes: RouteAttributes,
        output: Output,
    ) {
        let source = self.build.source(offset);
        let topology = &mut self.build.topology;
        match output {
            Output::Unit(unit) => {
                topology.routes.push(Route { devices, unit: Some(unit), ids, attributes, source });
            }
            Output::Its(its) => {
                let origin = MessageOrigin::Devices(devices);
                topology.message_routes.push(MessageRoute { origin, ids, its, source });
            }
        }
    }

    /// The range of IDs that a mapping takes, of which `bits` bits exist.
    fn range(&mut self, offset: usize, mapping: MappingInfo, bits: u8) -> Option<(IdMap, u32, u32)> {
        let count = u64::from(mapping.id_count) + 1;
        let (range, problem) = id_range(mapping.input_base, mapping.output_base, count, bits);
        if let Some(kind) = problem {
            self.build.finding(offset, kind);
        }
        range
    }

    fn unit_messages(&mut self, node: &NodeView<'_>) {
        let Some(unit) = self.units.get(&node.offset).copied() else { return };
        let own = own_mapping(node);
        if let Some((index, field)) = own.filter(|(index, _)| *index >= node.mapping_array().count) {
            self.build.finding(
                node.offset + field,
                FindingKind::InvalidField { field: "DeviceID Mapping Index", value: index as u64 },
            );
        }
        for (number, (offset, mapping, reference)) in node.mappings().enumerate() {
            let Some(Output::Its(its)) = self.output(node.kind, offset, reference) else { continue };
            let source = self.build.source(offset);
            let (origin, ids) = if own.is_some_and(|(index, _)| index == number) {
                (MessageOrigin::Own(unit), IdMap::One(mapping.output_base))
            } else {
                let Some((ids, ..)) = self.range(offset, mapping, 32) else { continue };
                (MessageOrigin::Unit(unit), ids)
            };
            self.build.topology.message_routes.push(MessageRoute { origin, ids, its, source });
        }
    }

    fn counter_group(&mut self, node: &NodeView<'_>) {
        let reference = node.pmcg_reference();
        let target = usize::try_from(reference).unwrap_or(usize::MAX);
        if !self.index.contains_key(&target) {
            let (what, problem) = ("Node Reference", "no node begins");
            let kind = FindingKind::Reference { what, target: reference.into(), problem };
            self.build.finding(node.offset + 28, kind);
        }
        for (offset, _, reference) in node.mappings() {
            let _ = self.output(node.kind, offset, reference);
        }
    }

    fn memory_range(&mut self, node: &NodeView<'_>) {
        let Some(rmr) = node.data::<Rmr>() else { return };
        let mut devices = Vec::new();
        for (offset, mapping, reference) in node.mappings() {
            let Some(Output::Unit(unit)) = self.output(node.kind, offset, reference) else { continue };
            let count = if mapping.flags & 1 != 0 { 1 } else { u64::from(mapping.id_count) + 1 };
            let (range, problem) = id_range(mapping.output_base, mapping.output_base, count, 32);
            if let Some(kind) = problem {
                self.build.finding(offset, kind);
            }
            let Some((_, first, last)) = range else { continue };
            devices.push(self.build.fact(offset, Devices::Ids { unit, first, last }));
        }
        if devices.is_empty() {
            self.build.finding(node.offset, FindingKind::NoDevices);
        }
        let attributes = (rmr.flags >> 2 & 0xff) as u8;
        if attributes > 5 {
            let kind = FindingKind::InvalidField { field: "Access Attributes", value: attributes.into() };
            self.build.finding(node.offset + 16, kind);
        }
        let kind = ReservedKind::Rmr {
            remapping_permitted: rmr.flags & 1 != 0,
            privileged: rmr.flags & 2 != 0,
            attributes,
        };
        for (offset, _, descriptor) in node.entries::<super::RmrDescriptor>(node.rmr_descriptors()) {
            let (first, length) = (descriptor.base, descriptor.length);
            let Some(range) = AddressRange::from_length(first, length) else {
                let last = first.wrapping_add(length).wrapping_sub(1);
                self.build.finding(offset, FindingKind::EmptyRange { first, last });
                continue;
            };
            self.build.check_range(offset, range);
            self.region_devices += devices.len();
            if self.region_devices > REGION_DEVICES_LIMIT {
                let (what, limit) = ("devices of reserved memory ranges", REGION_DEVICES_LIMIT as u64);
                self.build.finding(offset, FindingKind::Limit { what, limit });
                return;
            }
            let region = ReservedRegion {
                range: self.build.fact(offset, range),
                kind: self.build.fact(node.offset + 16, kind),
                access: Access::READ_WRITE,
                devices: devices.clone(),
                source: self.build.source(offset),
            };
            self.build.topology.reserved.push(region);
        }
    }

    /// Reports mappings of one node that take the same input IDs.
    fn overlapping_inputs(&mut self, node: &NodeView<'_>) {
        if matches!(node.kind, Kind::Its | Kind::Pmcg | Kind::Rmr | Kind::Unknown(_)) {
            return;
        }
        let own = own_mapping(node).map(|(index, _)| index);
        let ranges = node
            .mappings()
            .enumerate()
            .filter(|(number, (_, mapping, _))| mapping.flags & 1 == 0 && own != Some(*number))
            .map(|(_, (offset, mapping, _))| {
                let first = u64::from(mapping.input_base);
                (first, first + u64::from(mapping.id_count), offset)
            });
        self.build.overlapping_ids(ranges.collect());
    }
}

/// Which mapping of an SMMUv3 names the DeviceID of its own messages, and where the node says so, in bytes from its start.
///
/// The field came with node revision 1. Before revision 5 it counts unless all interrupts are wires; from then on a flag
/// says whether it does.
fn own_mapping(node: &NodeView<'_>) -> Option<(usize, usize)> {
    if node.kind != Kind::SmmuV3 || node.info.revision < 1 {
        return None;
    }
    let smmu = node.data::<SmmuV3>()?;
    let all_wires =
        [smmu.event_gsiv, smmu.pri_gsiv, smmu.gerr_gsiv, smmu.sync_gsiv].iter().all(|gsiv| *gsiv != 0);
    let counts = if node.info.revision < 5 { !all_wires } else { smmu.flags & 1 << 4 != 0 };
    // Without mappings there is nothing to choose from: firmware then leaves the index zero.
    (counts && node.mapping_array().count > 0)
        .then(|| (usize::try_from(smmu.device_id_mapping_index).unwrap_or(usize::MAX), 64))
}

fn proximity(build: &Build, node: &NodeView<'_>) -> Option<Fact<u32>> {
    let smmu = (node.kind == Kind::SmmuV3).then(|| node.data::<SmmuV3>())??;
    (node.info.revision >= 1 && smmu.flags & 1 << 3 != 0)
        .then(|| build.fact(node.offset + 60, smmu.proximity_domain))
}

fn declared(node: &NodeView<'_>) -> Declared {
    if let (Kind::Smmu, Some(smmu)) = (node.kind, node.data::<Smmu>()) {
        return Declared::Smmu {
            model: smmu.model,
            dvm: smmu.flags & 1 != 0,
            coherent_walk: smmu.flags & 2 != 0,
        };
    }
    let Some(smmu) = node.data::<SmmuV3>() else { return Declared::Nothing };
    let own = own_mapping(node).and_then(|(index, _)| node.mappings().nth(index));
    Declared::SmmuV3 {
        model: smmu.model,
        coherent_override: smmu.flags & 1 != 0,
        httu_override: (smmu.flags >> 1 & 3) as u8,
        vatos: smmu.vatos,
        msi_device_id: own.map(|(_, mapping, _)| mapping.output_base),
    }
}

fn wires(build: &Build, node: &NodeView<'_>) -> Vec<Fact<Wire>> {
    let wire = |offset, purpose, gsi, edge| build.fact(offset, Wire { purpose, gsi, edge, active_low: None });
    if node.kind == Kind::SmmuV3 {
        let Some(smmu) = node.data::<SmmuV3>() else { return Vec::new() };
        return [
            (44, WirePurpose::Event, smmu.event_gsiv),
            (48, WirePurpose::PageRequest, smmu.pri_gsiv),
            (52, WirePurpose::GlobalError, smmu.gerr_gsiv),
            (56, WirePurpose::CommandSync, smmu.sync_gsiv),
        ]
        .into_iter()
        .filter(|(_, _, gsiv)| *gsiv != 0)
        // SMMUv3 3.18: wired interrupts are edge triggered.
        .map(|(offset, purpose, gsiv)| wire(node.offset + offset, purpose, gsiv, Some(true)))
        .collect();
    }
    let edge = |flags: u32| Some(flags & 1 != 0);
    let mut wires = Vec::new();
    if let Some((offset, global)) = node.global_interrupts() {
        wires.push(wire(offset, WirePurpose::GlobalError, global.fault, edge(global.fault_flags)));
        if global.configuration != 0 {
            let purpose = WirePurpose::Configuration;
            wires.push(wire(offset + 8, purpose, global.configuration, edge(global.configuration_flags)));
        }
    }
    let banks = node.entries::<Interrupt>(node.context_interrupts());
    wires.extend((0..).zip(banks).map(|(number, (offset, _, interrupt))| {
        wire(offset, WirePurpose::ContextBank(number), interrupt.gsiv, edge(interrupt.flags))
    }));
    let counters = node.entries::<Interrupt>(node.pmu_interrupts());
    wires.extend((0..).zip(counters).map(|(number, (offset, _, interrupt))| {
        wire(offset, WirePurpose::Pmu(number), interrupt.gsiv, edge(interrupt.flags))
    }));
    wires
}
