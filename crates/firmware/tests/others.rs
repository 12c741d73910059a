//! VIOT and RIMT as topology: tables put together by hand from ACPI 6.5, 5.2.34 and the RIMT specification.
#![allow(missing_docs)]

mod common;

use common::{findings, hex, table};
use portcullis_firmware::acpi::topology;
use portcullis_firmware::topology::{Architecture, DeviceName, IdMap, NoBridges, UnitId, WirePurpose};
use portcullis_spec::{PciAddress, PhysAddr, Requester};

#[test]
fn viot_names_units_and_endpoints() {
    let bytes = table(b"VIOT", &hex("
        0500 3000 0000000000000000
        03 00 1000 0000 1000 0000000000000000                      # +30 virtio-pci IOMMU 00:02.0
        04 00 1000 00000000 00000b0a00000000                       # +40 virtio-mmio IOMMU at a0b0000
        01 00 1800 00000100 0000 0100 0000 ff00 3000 000000000000  # +50 segments 0 and 1, bus 0, endpoints from 10000
        02 00 1800 77000000 00000c0a00000000 4000 000000000000     # +68 platform device at a0c0000, endpoint 77
        01 00 1800 00000000 0000 0000 0001 ff01 5000 000000000000  # +80 refers to a range
    "));
    let topology = topology(&bytes);
    let [pci, mmio] = &topology.units[..] else { panic!("{:?}", topology.units) };
    assert_eq!(pci.function.as_ref().unwrap().value, PciAddress::new(0, 0, 2, 0));
    assert_eq!(mmio.registers.as_ref().unwrap().base, PhysAddr(0x0a0b_0000));
    let endpoint = |segment| {
        let resolved = topology.resolve(PciAddress::new(segment, 0, 3, 0), &NoBridges).unwrap();
        (resolved.unit, resolved.requester)
    };
    assert_eq!(endpoint(0), (Some(UnitId(0)), Requester::Endpoint(0x1_0018)));
    assert_eq!(endpoint(1), (Some(UnitId(0)), Requester::Endpoint(0x2_0018)), "2^16 further on");
    let name = DeviceName::Mmio(PhysAddr(0x0a0c_0000));
    let ways: Vec<_> = topology.resolve_named(&name).map(|route| (route.unit, route.ids)).collect();
    assert_eq!(ways, [(Some(UnitId(1)), IdMap::One(0x77))]);
    assert_eq!(
        findings(&topology),
        ["VIOT+0x90: error: Output Node refers to offset 0x50, where no IOMMU is"]
    );
}

#[test]
fn viot_segments_are_bounded() {
    let range = "01 00 1800 00000000 0000 ffff 0000 ffff 3000 000000000000";
    let body = format!("0200 3000 0000000000000000 03 00 1000 0000 1000 0000000000000000 {range}");
    let topology = topology(&table(b"VIOT", &hex(&body)));
    assert_eq!(topology.routes.len(), 4096);
    assert_eq!(
        findings(&topology),
        ["VIOT+0x48: error: segments of PCI ranges: more than 4096; the rest is not read"]
    );
}

#[test]
fn rimt_names_units_root_complexes_and_platform_devices() {
    let bytes = table(b"RIMT", &hex("
        04000000 30000000 00000000
        00 01 3800 0000 0000  5253435630303034 0000013000000000 02000000 01000000 0000 0000 0200 2800  # +30 platform IOMMU
          24000000 01000000 25000000 02000000                      # +58 wire 24 level active low, 25 edge active high
        00 01 2800 0000 0100  3136346564663100 0000000000000000 01000000 00000000 0000 0800 0000 0000  # +68 PCIe IOMMU 00:01.0
        01 01 2800 0000 0200  01000000 0000 0000 1400 0100         # +90 root complex of segment 0, ATS
          00000000 00010000 00400000 30000000 00000000             # +a4 256 IDs from 0 as from 4000
        02 01 2c00 0000 0300  1800 0100 5c5f53422e44455600 000000  # +b8 \\_SB.DEV
          00000000 01000000 99000000 68000000 00000000             # +d0 device_id 99
    "));
    let topology = topology(&bytes);
    assert_eq!(findings(&topology), [""; 0]);
    let [platform, pcie] = &topology.units[..] else { panic!("{:?}", topology.units) };
    assert_eq!(platform.architecture.value, Architecture::Riscv);
    assert_eq!(platform.registers.as_ref().unwrap().base, PhysAddr(0x3001_0000));
    assert_eq!(platform.proximity.as_ref().unwrap().value, 1);
    let wires: Vec<_> =
        platform.wires.iter().map(|wire| (wire.purpose, wire.gsi, wire.edge, wire.active_low)).collect();
    assert_eq!(
        wires,
        [
            (WirePurpose::Vector(0), 0x24, Some(false), Some(true)),
            (WirePurpose::Vector(1), 0x25, Some(true), Some(false)),
        ]
    );
    assert_eq!(
        (pcie.registers.as_ref(), pcie.function.as_ref().unwrap().value),
        (None, PciAddress::new(0, 0, 1, 0))
    );
    let resolved = topology.resolve(PciAddress::new(0, 0, 0x1f, 7), &NoBridges).unwrap();
    assert_eq!((resolved.unit, resolved.requester), (Some(UnitId(0)), Requester::Device(0x40ff)));
    assert_eq!((resolved.route.attributes.ats, resolved.route.attributes.pri), (Some(true), Some(false)));
    assert_eq!(topology.resolve(PciAddress::new(0, 1, 0, 0), &NoBridges), None, "256 IDs, not 257");
    let name = DeviceName::AcpiPath("\\_SB.DEV".into());
    let ways: Vec<_> = topology.resolve_named(&name).map(|route| (route.unit, route.ids)).collect();
    assert_eq!(ways, [(Some(UnitId(1)), IdMap::Offset { input: 0, output: 0x99, count: 1 })]);
}
