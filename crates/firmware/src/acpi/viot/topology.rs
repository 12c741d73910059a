//! VIOT as topology.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use portcullis_spec::{PciAddress, PhysAddr};

use super::{Part, View, nodes};
use crate::acpi::build::{Build, id_range};
use crate::topology::{
    Architecture, Declared, DeviceName, Devices, FindingKind, IdMap, RegisterWindow, Route, RouteAttributes,
    Topology, Unit, UnitId,
};

/// Segments that are taken from one table. A node of 24 bytes may name 65,536 of them, each of which becomes a route.
const SEGMENT_LIMIT: usize = 4096;

/// Reads what can be trusted of a table.
pub(crate) fn topology(view: &View<'_>, mut build: Build) -> Topology {
    let (nodes, problems) = nodes(view);
    for (offset, kind) in problems {
        build.finding(offset, kind);
    }
    let mut reader = Reader { build, units: BTreeMap::new(), others: BTreeMap::new(), segments: 0 };
    let mut parts = Vec::new();
    for raw in nodes {
        match Part::read(raw) {
            Ok(part) => {
                reader.unit(raw.offset, part);
                parts.push((raw.offset, part));
            }
            Err(kind) => reader.build.finding(raw.offset, kind),
        }
    }
    for (offset, part) in parts {
        match part {
            Part::PciRange(range, output) => {
                if let Some(unit) = reader.output(offset, output) {
                    reader.range(offset, range, unit);
                }
            }
            Part::MmioEndpoint(endpoint, output) => {
                let Some(unit) = reader.output(offset, output) else { continue };
                let devices = Devices::Named(DeviceName::Mmio(PhysAddr(endpoint.base)));
                reader.route(offset, devices, IdMap::One(endpoint.endpoint), unit);
            }
            Part::Unknown(kind) => {
                let kind = FindingKind::UnknownType { what: "VIOT node", value: kind.into() };
                reader.build.finding(offset, kind);
            }
            Part::PciIommu(_) | Part::MmioIommu(_) => {}
        }
    }
    reader.build.finish()
}

struct Reader {
    build: Build,
    /// Units by the offset of their node.
    units: BTreeMap<usize, UnitId>,
    /// Other nodes, by offset.
    others: BTreeMap<usize, ()>,
    segments: usize,
}

impl Reader {
    fn unit(&mut self, offset: usize, part: Part) {
        let build = &mut self.build;
        let id = UnitId(build.topology.units.len() as u32);
        let mut unit = Unit {
            id,
            name: build.fact(offset, alloc::format!("viot{}", id.0)),
            architecture: build.fact(offset, Architecture::Virtio),
            registers: None,
            segment: None,
            function: None,
            proximity: None,
            wires: Vec::new(),
            declared: build.fact(offset, Declared::Nothing),
            source: build.source(offset),
        };
        match part {
            Part::PciIommu(iommu) => {
                let function = PciAddress { segment: iommu.segment, requester_id: iommu.bdf };
                unit.function = Some(build.fact(offset + 4, function));
            }
            Part::MmioIommu(iommu) => {
                let base = iommu.base;
                if base == 0 || base == u64::MAX {
                    build.finding(offset + 8, FindingKind::RegisterBase { what: "Base Address", base });
                    return;
                }
                let window = RegisterWindow { base: PhysAddr(base), size: None };
                unit.registers = Some(build.fact(offset + 8, window));
            }
            Part::PciRange(..) | Part::MmioEndpoint(..) | Part::Unknown(_) => {
                self.others.insert(offset, ());
                return;
            }
        }
        build.topology.units.push(unit);
        self.units.insert(offset, id);
    }

    fn output(&mut self, offset: usize, output: u16) -> Option<UnitId> {
        let target = usize::from(output);
        if let Some(unit) = self.units.get(&target) {
            return Some(*unit);
        }
        let problem = if self.others.contains_key(&target) { "no IOMMU is" } else { "no usable node begins" };
        let (what, target) = ("Output Node", output.into());
        self.build.finding(offset + 16, FindingKind::Reference { what, target, problem });
        None
    }

    fn route(&mut self, offset: usize, devices: Devices, ids: IdMap, unit: UnitId) {
        let (attributes, source) = (RouteAttributes::default(), self.build.source(offset));
        self.build.topology.routes.push(Route { devices, unit: Some(unit), ids, attributes, source });
    }

    /// A range over several segments repeats in each, its endpoint IDs 2^16 further on (ACPI 6.5, table 5.165).
    fn range(&mut self, offset: usize, range: super::PciRange, unit: UnitId) {
        let (first, last) = (range.bdf_start, range.bdf_end);
        for (at, first, last) in [(8, range.segment_start, range.segment_end), (12, first, last)] {
            if last < first {
                let (first, last) = (first.into(), last.into());
                self.build.finding(offset + at, FindingKind::EmptyRange { first, last });
                return;
            }
        }
        let count = u64::from(last - first) + 1;
        for (number, segment) in (range.segment_start..=range.segment_end).enumerate() {
            self.segments += 1;
            if self.segments > SEGMENT_LIMIT {
                let (what, limit) = ("segments of PCI ranges", SEGMENT_LIMIT as u64);
                self.build.finding(offset + 8, FindingKind::Limit { what, limit });
                return;
            }
            let start = u64::from(range.endpoint_start) + ((number as u64) << 16);
            let Ok(start) = u32::try_from(start) else {
                let kind = FindingKind::IdOverflow { first: range.endpoint_start, count, bits: 32 };
                self.build.finding(offset + 4, kind);
                return;
            };
            let (map, problem) = id_range(first.into(), start, count, 16);
            if let Some(kind) = problem {
                self.build.finding(offset + 4, kind);
            }
            let Some((ids, first, last)) = map else { continue };
            self.route(offset, Devices::requesters(segment, first as u16, last as u16), ids, unit);
        }
    }
}
