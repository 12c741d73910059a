//! RIMT as topology.

use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use portcullis_spec::{PciAddress, PhysAddr};

use super::{InterruptWire, Iommu, MappingInfo, NodeView, Part, View, nodes};
use crate::acpi::build::{Build, id_range, trimmed_name};
use crate::topology::{
    Architecture, Declared, DeviceName, Devices, FindingKind, RegisterWindow, Route, RouteAttributes,
    Topology, Unit, UnitId, Wire, WirePurpose,
};

/// Bytes of a RISC-V IOMMU's registers (RISC-V IOMMU 6: "a 4-KiB page").
const REGISTERS: u64 = 4096;

/// Reads what can be trusted of a table.
pub(crate) fn topology(view: &View<'_>, mut build: Build) -> Topology {
    let (nodes, problems) = nodes(view);
    for (offset, kind) in problems {
        build.finding(offset, kind);
    }
    let index = nodes.iter().map(|node| (node.offset, ())).collect();
    let mut reader = Reader { build, nodes: index, units: BTreeMap::new(), places: BTreeMap::new() };
    for node in &nodes {
        if let Part::Iommu(iommu) = &node.part {
            reader.unit(node, iommu);
        }
    }
    for node in &nodes {
        match node.part {
            Part::RootComplex(root) => {
                let attributes = RouteAttributes {
                    ats: Some(root.flags & 1 != 0),
                    pri: Some(root.flags & 2 != 0),
                    ..RouteAttributes::default()
                };
                reader.routes(node, attributes, 16, |first, last| {
                    Devices::requesters(root.segment, first as u16, last as u16)
                });
            }
            Part::PlatformDevice => match trimmed_name(node.name()) {
                Ok(name) => {
                    let name = name.to_string();
                    let devices = |_, _| Devices::Named(DeviceName::AcpiPath(name.clone()));
                    reader.routes(node, RouteAttributes::default(), 32, devices);
                }
                Err(expected) => {
                    let kind = FindingKind::Name { what: "Device Object Name", expected };
                    reader.build.finding(node.offset + 12, kind);
                }
            },
            Part::Unknown(kind) => {
                let kind = FindingKind::UnknownType { what: "RIMT node", value: kind.into() };
                reader.build.finding(node.offset, kind);
            }
            Part::Iommu(_) => {}
        }
    }
    reader.build.finish()
}

struct Reader {
    build: Build,
    /// All nodes, by offset.
    nodes: BTreeMap<usize, ()>,
    /// Units by the offset of their node.
    units: BTreeMap<usize, UnitId>,
    /// Units by register base, or by segment and requester ID.
    places: BTreeMap<Result<u64, (u16, u16)>, UnitId>,
}

impl Reader {
    fn unit(&mut self, node: &NodeView<'_>, iommu: &Iommu) {
        let build = &mut self.build;
        let (offset, data) = (node.offset, node.offset + 8);
        let pcie = iommu.flags & 1 != 0;
        let base = iommu.base;
        if !pcie && (base == 0 || base == u64::MAX || base & 0xfff != 0) {
            build.finding(data + 8, FindingKind::RegisterBase { what: "Base Address", base });
            return;
        }
        let place = if pcie { Err((iommu.segment, iommu.bdf)) } else { Ok(base) };
        if let Some(first) = self.places.get(&place) {
            let first = build.topology.units[first.0 as usize].source.clone();
            build.finding(offset, FindingKind::DuplicateUnit { base, first });
            return;
        }
        let id = UnitId(build.topology.units.len() as u32);
        let window = RegisterWindow { base: PhysAddr(base), size: Some(REGISTERS) };
        let function = PciAddress { segment: iommu.segment, requester_id: iommu.bdf };
        let wires = (0..).zip(node.entries::<InterruptWire>()).map(|(number, (offset, _, wire))| {
            let wire = Wire {
                purpose: WirePurpose::Vector(number),
                gsi: wire.number,
                edge: Some(wire.flags & 1 == 0),
                active_low: Some(wire.flags & 2 == 0),
            };
            build.fact(offset, wire)
        });
        let unit = Unit {
            id,
            name: build.fact(offset, alloc::format!("rimt{}", id.0)),
            architecture: build.fact(offset, Architecture::Riscv),
            registers: (!pcie).then(|| build.fact(data + 8, window)),
            segment: pcie.then(|| build.fact(data + 24, iommu.segment)),
            function: pcie.then(|| build.fact(data + 26, function)),
            proximity: (iommu.flags & 2 != 0).then(|| build.fact(data + 20, iommu.proximity_domain)),
            wires: wires.collect(),
            declared: build.fact(data, Declared::Riscv { hardware_id: iommu.hardware_id }),
            source: build.source(offset),
        };
        build.topology.units.push(unit);
        self.units.insert(offset, id);
        self.places.insert(place, id);
    }

    fn routes(
        &mut self,
        node: &NodeView<'_>,
        attributes: RouteAttributes,
        bits: u8,
        devices: impl Fn(u32, u32) -> Devices,
    ) {
        let mut ranges = Vec::new();
        for (offset, mapping, destination) in node.mappings() {
            let Some(unit) = self.destination(offset, destination) else { continue };
            let MappingInfo { source_id_base: input, destination_base: output, count, .. } = mapping;
            if count == 0 {
                let (first, last) = (input.into(), u64::from(input).wrapping_sub(1));
                self.build.finding(offset + 4, FindingKind::EmptyRange { first, last });
                continue;
            }
            let (range, problem) = id_range(input, output, count.into(), bits);
            if let Some(kind) = problem {
                self.build.finding(offset, kind);
            }
            let Some((ids, first, last)) = range else { continue };
            ranges.push((u64::from(first), u64::from(last), offset));
            let (devices, source) = (devices(first, last), self.build.source(offset));
            self.build.topology.routes.push(Route { devices, unit: Some(unit), ids, attributes, source });
        }
        self.build.overlapping_ids(ranges);
    }

    fn destination(&mut self, offset: usize, destination: u32) -> Option<UnitId> {
        let target = usize::try_from(destination).unwrap_or(usize::MAX);
        if let Some(unit) = self.units.get(&target) {
            return Some(*unit);
        }
        let problem = if self.nodes.contains_key(&target) { "no usable IOMMU is" } else { "no node begins" };
        let (what, target) = ("Destination IOMMU Offset", destination.into());
        self.build.finding(offset + 12, FindingKind::Reference { what, target, problem });
        None
    }
}
