//! Units: nodes with the bindings `arm,smmu-v3`, `arm,mmu-500` and the like, `riscv,iommu`, `virtio,pci-iommu`.

use alloc::vec::Vec;

use portcullis_spec::{PciAddress, PhysAddr};

use super::cells::{Cells, texts};
use super::index::{Index, Place};
use crate::topology::{
    Architecture, Declared, Fact, RegisterWindow, Source, Unit, UnitId, Wire, WirePurpose,
};

/// The architecture of a unit with one of these names.
pub(super) fn architecture(compatible: &[u8]) -> Option<Architecture> {
    texts(compatible).find_map(|name| {
        Some(match name {
            "arm,smmu-v3" | "nvidia,tegra264-smmu" | "hisilicon,hip09-smmu-v3" => Architecture::SmmuV3,
            "arm,smmu-v1" | "arm,mmu-400" | "arm,mmu-401" => Architecture::SmmuV1,
            "arm,smmu-v2"
            | "arm,mmu-500"
            | "cavium,smmu-v2"
            | "qcom,smmu-500"
            | "qcom,smmu-v2"
            | "nvidia,smmu-500"
            | "marvell,ap806-smmu-500" => Architecture::SmmuV2,
            "riscv,iommu" | "riscv,pci-iommu" => Architecture::Riscv,
            "virtio,pci-iommu" => Architecture::Virtio,
            _ => return None,
        })
    })
}

/// What a devicetree states at a node, or in one of its properties.
pub(super) fn source(index: &Index<'_>, place: Place, property: Option<&str>) -> Source {
    Source::Devicetree { node: index.path(place), property: property.map(Into::into) }
}

/// The function of a node on a PCI bus, from the first cell of its `reg`: bus 23:16, device 15:11, function 10:8 (PCI bus
/// binding 2.2.1.1).
pub(super) fn function(index: &Index<'_>, place: Place, segment: u16) -> Option<PciAddress> {
    let high = Cells(index.entries[place].node.property("reg")?).cell()?;
    Some(PciAddress::new(segment, (high >> 16) as u8, (high >> 11) as u8 & 0x1f, (high >> 8) as u8 & 7))
}

/// The unit at `place`; `segment` where it lies on a PCI bus.
pub(super) fn unit(
    index: &Index<'_>,
    place: Place,
    id: UnitId,
    architecture: Architecture,
    segment: Option<u16>,
) -> Unit {
    let node = index.entries[place].node;
    let fact_source = |property| source(index, place, Some(property));
    let coherent = node.property("dma-coherent").is_some();
    let registers = match segment {
        Some(_) => None,
        None => index.window(place).map(|(base, size)| {
            Fact::new(RegisterWindow { base: PhysAddr(base), size: Some(size) }, fact_source("reg"))
        }),
    };
    let declared = match architecture {
        Architecture::SmmuV3 => Declared::SmmuV3 {
            model: 0,
            coherent_override: coherent,
            httu_override: 0,
            vatos: 0,
            msi_device_id: None,
        },
        Architecture::SmmuV1 | Architecture::SmmuV2 => {
            Declared::Smmu { model: 0, dvm: false, coherent_walk: coherent }
        }
        _ => Declared::Nothing,
    };
    Unit {
        id,
        name: Fact::new(node.name.as_ref().into(), source(index, place, None)),
        architecture: Fact::new(architecture, fact_source("compatible")),
        registers,
        segment: None,
        function: segment
            .and_then(|segment| function(index, place, segment))
            .map(|function| Fact::new(function, fact_source("reg"))),
        proximity: index.cell(place, "numa-node-id").map(|node| Fact::new(node, fact_source("numa-node-id"))),
        wires: wires(index, place, architecture),
        declared: Fact::new(declared, source(index, place, None)),
        source: source(index, place, None),
    }
}

/// The unit's interrupt wires, as far as its interrupt controller is one whose numbers mean the same everywhere.
fn wires(index: &Index<'_>, place: Place, architecture: Architecture) -> Vec<Fact<Wire>> {
    let node = index.entries[place].node;
    let Some(controller) = index.interrupt_parent(place) else { return Vec::new() };
    let Some(value) = node.property("interrupts") else { return Vec::new() };
    let gic = index.entries[controller]
        .node
        .property("compatible")
        .is_some_and(|compatible| texts(compatible).any(|name| name.contains("gic")));
    let Some(count @ 1..=4) = index.cell(controller, "#interrupt-cells") else { return Vec::new() };
    let names: Vec<&str> =
        node.property("interrupt-names").map(|names| texts(names).collect()).unwrap_or_default();
    let global = index.cell(place, "#global-interrupts").unwrap_or(1);
    let mut cells = Cells(value);
    let mut wires = Vec::new();
    while !cells.is_empty() {
        let mut specifier = [0; 4];
        for cell in specifier.iter_mut().take(count as usize) {
            let Some(value) = cells.cell() else { return wires };
            *cell = value;
        }
        // GIC: kind (0 shared, 1 private), number, flags. Others: number, and flags where there is a second cell.
        let (gsi, flags) = match (gic, count) {
            (true, 3..) => {
                let base = if specifier[0] == 0 { 32 } else { 16 };
                let Some(gsi) = specifier[1].checked_add(base) else { return wires };
                (gsi, Some(specifier[2]))
            }
            (_, 2..) => (specifier[0], Some(specifier[1])),
            _ => (specifier[0], None),
        };
        let number = wires.len() as u32;
        let purpose = match (architecture, names.get(wires.len()).copied()) {
            (_, Some("eventq")) => WirePurpose::Event,
            (_, Some("priq")) => WirePurpose::PageRequest,
            (_, Some("gerror")) => WirePurpose::GlobalError,
            (_, Some("cmdq-sync")) => WirePurpose::CommandSync,
            (Architecture::SmmuV1 | Architecture::SmmuV2, _) if number < global => WirePurpose::GlobalError,
            (Architecture::SmmuV1 | Architecture::SmmuV2, _) => WirePurpose::ContextBank(number - global),
            _ => WirePurpose::Vector(number),
        };
        // 1 rising, 2 falling, 4 high, 8 low.
        let sense = flags.map(|flags| flags & 0xf).filter(|flags| *flags != 0);
        let wire = Wire {
            purpose,
            gsi,
            edge: sense.map(|flags| flags & 3 != 0),
            active_low: sense.map(|flags| flags & 0xa != 0),
        };
        wires.push(Fact::new(wire, source(index, place, Some("interrupts"))));
    }
    wires
}
