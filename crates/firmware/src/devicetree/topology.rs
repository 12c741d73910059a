//! What a devicetree says about IOMMUs.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use portcullis_spec::Access;

use super::Blob;
use super::cells::Cells;
use super::index::{Index, Place};
use super::units::{self, architecture, source};
use crate::topology::{
    AddressRange, Architecture, DeviceName, Devices, Fact, FindingKind, IdMap, ReservedKind, ReservedRegion,
    Route, RouteAttributes, Source, Topology, UnitId,
};

/// References in one property that are followed; a property with more is broken.
const MAX_REFERENCES: usize = 4096;
/// Statements in all that are kept, so that a hostile tree cannot fill memory with paths.
const MAX_STATEMENTS: usize = 8192;

/// What a devicetree blob says of the machine, with every finding.
#[must_use]
pub fn topology(bytes: &[u8]) -> Topology {
    let mut topology = Topology::default();
    match Blob::read(bytes) {
        Ok(blob) => {
            let mut build = Build::new(&blob, &mut topology);
            build.units();
            build.routes();
            build.reserved();
        }
        Err(error) => topology.findings.push(
            Source::Devicetree { node: String::from("/"), property: None },
            FindingKind::Devicetree { problem: error.to_string() },
        ),
    }
    topology
}

struct Build<'a, 't> {
    index: Index<'a>,
    topology: &'t mut Topology,
    units: BTreeMap<Place, UnitId>,
    /// Segments of the PCI host bridges.
    segments: BTreeMap<Place, u16>,
}

impl<'a, 't> Build<'a, 't> {
    fn new(blob: &'a Blob<'a>, topology: &'t mut Topology) -> Self {
        let index = Index::new(blob);
        let mut segments = BTreeMap::new();
        for (place, entry) in index.entries.iter().enumerate() {
            if entry.node.property("device_type") == Some(b"pci\0") {
                // Without a number, Linux counts the bridges as it meets them.
                let number =
                    index.cell(place, "linux,pci-domain").and_then(|number| u16::try_from(number).ok());
                let counted = u16::try_from(segments.len()).unwrap_or(u16::MAX);
                segments.insert(place, number.unwrap_or(counted));
            }
        }
        Self { index, topology, units: BTreeMap::new(), segments }
    }

    fn problem(&mut self, place: Place, property: &str, problem: impl Into<String>) {
        let source = source(&self.index, place, Some(property));
        self.topology.findings.push(source, FindingKind::Devicetree { problem: problem.into() });
    }

    fn units(&mut self) {
        for place in 0..self.index.entries.len() {
            let entry = &self.index.entries[place];
            let Some(architecture) = entry.node.property("compatible").and_then(architecture) else {
                continue;
            };
            if !self.index.enabled(place) {
                continue;
            }
            if self.topology.units.len() >= MAX_STATEMENTS {
                let what = FindingKind::Limit { what: "units", limit: MAX_STATEMENTS as u64 };
                return self.topology.findings.push(source(&self.index, place, None), what);
            }
            let entry = &self.index.entries[place];
            let segment = entry.parent.and_then(|parent| self.segments.get(&parent).copied());
            let id = UnitId(self.topology.units.len() as u32);
            let unit = units::unit(&self.index, place, id, architecture, segment);
            if unit.registers.is_none() && unit.function.is_none() {
                self.problem(place, "reg", "the unit has no registers that can be reached");
            }
            self.topology.units.push(unit);
            self.units.insert(place, id);
        }
    }

    fn routes(&mut self) {
        for place in 0..self.index.entries.len() {
            if !self.index.enabled(place) {
                continue;
            }
            if self.topology.routes.len() >= MAX_STATEMENTS {
                let what = FindingKind::Limit { what: "routes", limit: MAX_STATEMENTS as u64 };
                return self.topology.findings.push(source(&self.index, place, None), what);
            }
            if self.index.entries[place].node.property("iommu-map").is_some() {
                self.map(place);
            }
            if self.index.entries[place].node.property("iommus").is_some() {
                self.references(place);
            }
        }
    }

    /// `iommu-map = <rid-base &unit id-base length …>`, with `iommu-map-mask` (binding pci-iommu).
    fn map(&mut self, place: Place) {
        let Some(segment) = self.segments.get(&place).copied() else {
            return self.problem(place, "iommu-map", "the node is no PCI host bridge");
        };
        let value = self.index.entries[place].node.property("iommu-map").unwrap_or_default();
        let mask = self.index.cell(place, "iommu-map-mask").unwrap_or(0xffff);
        let attributes = self.attributes(place);
        let mut cells = Cells(value);
        for _ in 0..MAX_REFERENCES {
            if cells.is_empty() {
                return;
            }
            let (Some(first), Some(phandle)) = (cells.cell(), cells.cell()) else { break };
            let unit = self.index.by_phandle(phandle);
            let Some(unit_place) = unit else {
                return self.problem(place, "iommu-map", alloc::format!("phandle {phandle:#x} is nobody's"));
            };
            // Units with two cells an ID have them here too; the second is a mask.
            let width = self.index.cell(unit_place, "#iommu-cells").unwrap_or(1);
            let Some(output) = cells.cell() else { break };
            for _ in 1..width.min(4) {
                if cells.cell().is_none() {
                    break;
                }
            }
            let Some(length) = cells.cell() else { break };
            let Some(id) = self.units.get(&unit_place).copied() else {
                self.problem(
                    place,
                    "iommu-map",
                    alloc::format!("phandle {phandle:#x} is no unit that is known and enabled"),
                );
                continue;
            };
            // QEMU writes entries that map nothing.
            let Some(distance) = length.checked_sub(1) else { continue };
            let last = first.checked_add(distance).filter(|last| *last <= 0xffff);
            let Some(last) = last else {
                self.problem(
                    place,
                    "iommu-map",
                    alloc::format!("requester IDs from {first:#x}, {length:#x} of them, pass 16 bits"),
                );
                continue;
            };
            self.topology.routes.push(Route {
                devices: Devices::Requesters {
                    segment,
                    first: first as u16,
                    last: last as u16,
                    mask: mask as u16,
                },
                unit: Some(id),
                ids: IdMap::Offset { input: first, output, count: length.into() },
                attributes,
                source: source(&self.index, place, Some("iommu-map")),
            });
        }
        self.problem(place, "iommu-map", "ends within an entry, or has too many");
    }

    /// `iommus = <&unit id …>`, with as many cells an ID as the unit says.
    fn references(&mut self, place: Place) {
        let path = self.index.path(place);
        let value = self.index.entries[place].node.property("iommus").unwrap_or_default();
        let attributes = self.attributes(place);
        let mut cells = Cells(value);
        for _ in 0..MAX_REFERENCES {
            if cells.is_empty() {
                return;
            }
            let Some(phandle) = cells.cell() else { break };
            let Some(unit_place) = self.index.by_phandle(phandle) else {
                return self.problem(place, "iommus", alloc::format!("phandle {phandle:#x} is nobody's"));
            };
            let width = self.index.cell(unit_place, "#iommu-cells").unwrap_or(1);
            let mut specifier = [0; 4];
            for (at, _) in (0..width.min(16)).enumerate() {
                let Some(cell) = cells.cell() else {
                    return self.problem(place, "iommus", "ends within an entry");
                };
                if let Some(kept) = specifier.get_mut(at) {
                    *kept = cell;
                }
            }
            let Some(id) = self.units.get(&unit_place).copied() else {
                // Other vendors' units are not ours to speak of.
                continue;
            };
            let architecture = self.topology.units.get(id.0 as usize).map(|unit| unit.architecture.value);
            let smmu = matches!(architecture, Some(Architecture::SmmuV1 | Architecture::SmmuV2));
            // arm,smmu: StreamID and, in the upper half or the second cell, bits of it that do not count.
            let (stream, ignored) = match (smmu, width) {
                (true, 1) => (specifier[0] & 0xffff, specifier[0] >> 16),
                (true, _) => (specifier[0], specifier[1]),
                _ => (specifier[0], 0),
            };
            if ignored != 0 {
                self.problem(
                    place,
                    "iommus",
                    alloc::format!(
                        "StreamIDs that differ from {stream:#x} only in {ignored:#x} are this device's too"
                    ),
                );
            }
            self.topology.routes.push(Route {
                devices: Devices::Named(DeviceName::Node(path.clone())),
                unit: Some(id),
                ids: if width == 0 { IdMap::Same } else { IdMap::One(stream) },
                attributes,
                source: source(&self.index, place, Some("iommus")),
            });
        }
        self.problem(place, "iommus", "has too many entries");
    }

    fn attributes(&self, place: Place) -> RouteAttributes {
        let node = self.index.entries[place].node;
        RouteAttributes {
            ats: node.property("ats-supported").map(|_| true),
            stall: node.property("dma-can-stall").map(|_| true),
            pasid_bits: self
                .index
                .cell(place, "pasid-num-bits")
                .and_then(|bits| u8::try_from(bits).ok())
                .filter(|bits| *bits <= 20),
            coherent: node.property("dma-coherent").map(|_| true),
            ..RouteAttributes::default()
        }
    }

    /// Children of `/reserved-memory` with `iommu-addresses = <&device iova size …>` (binding reserved-memory).
    fn reserved(&mut self) {
        let Some(parent) = self
            .index
            .entries
            .iter()
            .position(|entry| entry.parent == Some(0) && entry.node.name == "reserved-memory")
        else {
            return;
        };
        for place in 0..self.index.entries.len() {
            let entry = &self.index.entries[place];
            if entry.parent != Some(parent) || !self.index.enabled(place) {
                continue;
            }
            if self.topology.reserved.len() >= MAX_STATEMENTS {
                let what = FindingKind::Limit { what: "reserved regions", limit: MAX_STATEMENTS as u64 };
                return self.topology.findings.push(source(&self.index, place, None), what);
            }
            let Some(value) = entry.node.property("iommu-addresses") else { continue };
            let memory = self.index.window(place);
            self.addresses(place, value, memory);
        }
    }

    fn addresses(&mut self, place: Place, value: &'a [u8], memory: Option<(u64, u64)>) {
        let mut cells = Cells(value);
        let mut regions: Vec<ReservedRegion> = Vec::new();
        for _ in 0..MAX_REFERENCES {
            if cells.is_empty() {
                break;
            }
            let Some(device) = cells.cell().and_then(|phandle| self.index.by_phandle(phandle)) else {
                self.problem(place, "iommu-addresses", "names a device that is not there");
                break;
            };
            // The device's own addresses, as its parent numbers them.
            let Some((address, size)) = self.index.reg_cells(device) else { break };
            let (Some(first), Some(length)) = (cells.number(address), cells.number(size)) else {
                self.problem(place, "iommu-addresses", "ends within an entry");
                break;
            };
            let Some(range) = AddressRange::from_length(first, length) else {
                self.problem(place, "iommu-addresses", "has an empty range, or one that passes 64 bits");
                continue;
            };
            // Memory that the device reaches at its own address must stay where it is; anything else must not be used.
            let direct = memory == Some((first, length));
            let kind = if direct {
                ReservedKind::Rmr { remapping_permitted: false, privileged: false, attributes: 5 }
            } else {
                ReservedKind::NoMap
            };
            let stated = source(&self.index, place, Some("iommu-addresses"));
            let devices = Devices::Named(DeviceName::Node(self.index.path(device)));
            let devices = Fact::new(devices, stated.clone());
            match regions.iter_mut().find(|region| region.range.value == range && region.kind.value == kind) {
                Some(region) => region.devices.push(devices),
                None => regions.push(ReservedRegion {
                    range: Fact::new(range, stated.clone()),
                    kind: Fact::new(kind, source(&self.index, place, None)),
                    access: if direct { Access::READ_WRITE } else { Access::empty() },
                    devices: alloc::vec![devices],
                    source: source(&self.index, place, None),
                }),
            }
        }
        self.topology.reserved.extend(regions);
    }
}
