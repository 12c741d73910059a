//! IORT as topology: tables put together by hand from Arm DEN 0049.
#![allow(missing_docs)]

mod common;

use common::{findings, hex, table};
use portcullis_firmware::acpi::topology;
use portcullis_firmware::topology::{
    Architecture, Declared, DeviceName, Devices, IdMap, MessageOrigin, NoBridges, ReservedKind, UnitId,
    WirePurpose,
};
use portcullis_spec::{PciAddress, Requester};

/// An ITS group, an SMMUv3 with its own messages, an SMMUv2, a root complex whose first bus goes to the SMMUv3 and whose
/// second goes straight to the ITS, a named component with two StreamIDs, and a reserved memory range.
fn machine() -> Vec<u8> {
    table(b"IORT", &hex("
        06000000 30000000 00000000
        00 1800 01 00000000 00000000 00000000  01000000 05000000          # +30 ITS group: ITS 5
        04 6c00 04 01000000 02000000 44000000                             # +48 SMMUv3, two mappings
          0000000900000000 0b000000 00000000 0000000000000000 00000000    # +58 base 9000000; COHACC, HTTU 1, PXM valid
          00000000 00000000 00000000 00000000 03000000 01000000           # +74 no wires; domain 3; mapping 1 is its own
          00000000 ffff0000 00000100 30000000 00000000                    # +8c StreamID n -> DeviceID 10000+n
          00000000 00000000 f0000000 30000000 01000000                    # +a0 its own DeviceID f0
        03 5400 01 02000000 00000000 00000000                             # +b4 SMMUv2
          0000000a00000000 0000010000000000 03000000 02000000             # +c4 base a000000, span 10000, MMU-500, coherent
          3c000000 01000000 4c000000 00000000 54000000                    # +dc
          20000000 00000000 00000000 00000000                             # +f0 NSgIrpt 20 level
          21000000 01000000                                               # +100 context bank 0: 21 edge
        02 4c00 03 03000000 02000000 24000000                             # +108 root complex, two mappings
          01000000 00 0000 00 07000000 00000000 30 0a00 00                # +118 coherent; ATS, PRI, PASID; segment 0; 48 bits; 10 PASID bits
          00000000 ff000000 00100000 48000000 00000000                    # +12c bus 0 -> SMMUv3 StreamID 1000
          00010000 ff000000 00000000 30000000 00000000                    # +140 bus 1 -> ITS
        01 5400 02 04000000 02000000 2c000000                             # +154 named component
          0b000000 01000000 00 0000 00 28 5c5f53422e444d413000 0000000000 # +164 stall, 5 PASID bits; 40 bits; \\_SB.DMA0
          00000000 00000000 07000000 b4000000 01000000                    # +180 StreamID 7
          00000000 00000000 08000000 b4000000 01000000                    # +194 StreamID 8
        06 4400 03 05000000 01000000 30000000                             # +1a8 RMR
          03000000 01000000 1c000000                                      # +1b8 remapping permitted, privileged
          0000008000000000 0000100000000000 00000000                      # +1c4 80000000, 1 MiB
          00000000 00000000 05100000 48000000 01000000                    # +1d8 StreamID 1005 of the SMMUv3
    "))
}

#[test]
fn units_are_smmus_with_wires_and_overrides() {
    let topology = topology(&machine());
    assert_eq!(findings(&topology), [""; 0]);
    let [v3, v2] = &topology.units[..] else { panic!("{:?}", topology.units) };
    assert_eq!((v3.architecture.value, v2.architecture.value), (Architecture::SmmuV3, Architecture::SmmuV2));
    assert_eq!(v3.registers.as_ref().unwrap().base.0, 0x900_0000);
    assert_eq!(v3.proximity.as_ref().unwrap().value, 3);
    assert!(v3.wires.is_empty());
    assert_eq!(
        v3.declared.value,
        Declared::SmmuV3 {
            model: 0,
            coherent_override: true,
            httu_override: 1,
            vatos: 0,
            msi_device_id: Some(0xf0),
        }
    );
    assert_eq!(v2.registers.as_ref().unwrap().size, Some(0x1_0000));
    let wires: Vec<_> = v2.wires.iter().map(|wire| (wire.purpose, wire.gsi, wire.edge)).collect();
    assert_eq!(
        wires,
        [(WirePurpose::GlobalError, 0x20, Some(false)), (WirePurpose::ContextBank(0), 0x21, Some(true)),]
    );
}

#[test]
fn a_root_complex_maps_requester_ids_to_stream_ids() {
    let topology = topology(&machine());
    let resolved = topology.resolve(PciAddress::new(0, 0, 3, 1), &NoBridges).unwrap();
    assert_eq!(
        (resolved.unit, resolved.requester),
        (Some(UnitId(0)), Requester::Stream(0x1000 + (3 << 3) + 1))
    );
    let attributes = resolved.route.attributes;
    assert_eq!((attributes.ats, attributes.pri, attributes.pasid_bits), (Some(true), Some(true), Some(10)));
    assert_eq!((attributes.coherent, attributes.address_bits), (Some(true), Some(48)));
    assert_eq!(topology.resolve(PciAddress::new(0, 1, 0, 0), &NoBridges), None, "bus 1 passes no SMMU");
    assert_eq!(topology.resolve(PciAddress::new(0, 2, 0, 0), &NoBridges), None, "bus 2 is not spoken of");
}

#[test]
fn chains_lead_messages_to_the_its() {
    let topology = topology(&machine());
    let its = |origin: &MessageOrigin| {
        let route = topology.message_routes.iter().find(|route| route.origin == *origin).unwrap();
        (route.ids, route.its.to_vec())
    };
    let behind = IdMap::Offset { input: 0, output: 0x1_0000, count: 0x1_0000 };
    assert_eq!(its(&MessageOrigin::Unit(UnitId(0))), (behind, vec![5]));
    assert_eq!(its(&MessageOrigin::Own(UnitId(0))), (IdMap::One(0xf0), vec![5]));
    let (ids, _) = its(&MessageOrigin::Devices(Devices::requesters(0, 0x100, 0x1ff)));
    assert_eq!(ids.apply(0x108), Some(8));
    assert_eq!(behind.apply(0x1018), Some(0x1_1018), "00:03.0 has StreamID 1018 and so DeviceID 11018");
}

#[test]
fn a_named_component_may_have_several_stream_ids() {
    let topology = topology(&machine());
    let name = DeviceName::AcpiPath("\\_SB.DMA0".into());
    let ways: Vec<_> = topology.resolve_named(&name).map(|route| (route.unit, route.ids)).collect();
    assert_eq!(ways, [(Some(UnitId(1)), IdMap::One(7)), (Some(UnitId(1)), IdMap::One(8))]);
    let attributes = topology.resolve_named(&name).next().unwrap().attributes;
    assert_eq!(
        (attributes.stall, attributes.pasid_bits, attributes.address_bits),
        (Some(true), Some(5), Some(40))
    );
}

#[test]
fn a_reserved_memory_range_is_for_whatever_has_its_stream_id() {
    let topology = topology(&machine());
    let region = &topology.reserved[0];
    assert_eq!((region.range.first, region.range.last), (0x8000_0000, 0x800f_ffff));
    let kind = ReservedKind::Rmr { remapping_permitted: true, privileged: true, attributes: 0 };
    assert_eq!(region.kind.value, kind);
    assert_eq!(region.devices[0].value, Devices::Ids { unit: UnitId(0), first: 0x1005, last: 0x1005 });
    assert_eq!(topology.reserved_for(PciAddress::new(0, 0, 0, 5), &NoBridges).count(), 1);
    assert_eq!(topology.reserved_for(PciAddress::new(0, 0, 0, 6), &NoBridges).count(), 0);
}

#[test]
fn circles_and_references_to_nowhere_are_found_and_not_followed() {
    let bytes = table(b"IORT", &hex("
        04000000 30000000 00000000
        02 3800 01 00000000 01000000 24000000                             # +30 root complex that refers to itself
          00000000 00 0000 00 00000000 00000000 00 0000 00
          00000000 ffff0000 00000000 30000000 00000000                    # +54
        04 5800 01 00000000 01000000 44000000                             # +68 SMMUv3 that refers to the next
          0000000900000000 00000000 00000000 0000000000000000 00000000
          01000000 01000000 01000000 01000000 00000000 00000000
          00000000 ffff0000 00000000 c0000000 00000000                    # +ac
        04 5800 01 00000000 01000000 44000000                             # +c0 SMMUv3 that refers to the one before
          0000000a00000000 00000000 00000000 0000000000000000 00000000
          01000000 01000000 01000000 01000000 00000000 00000000
          00000000 ffff0000 00000000 68000000 00000000                    # +104
        02 3800 01 00000000 01000000 24000000                             # +118 root complex that refers into a node
          00000000 00 0000 00 00000000 01000000 00 0000 00
          00000000 ffff0000 00000000 69000000 00000000                    # +13c
    "));
    let topology = topology(&bytes);
    assert!(topology.routes.is_empty() && topology.message_routes.is_empty());
    assert_eq!(
        findings(&topology),
        [
            "IORT+0x60: error: Output Reference refers to offset 0x30, where neither an SMMU nor an ITS group is",
            "IORT+0xb8: error: Output Reference refers to offset 0xc0, where no ITS group is",
            "IORT+0x110: error: Output Reference refers to offset 0x68, where no ITS group is",
            "IORT+0x148: error: Output Reference refers to offset 0x69, where no node begins",
        ]
    );
}

#[test]
fn mappings_that_overlap_or_overflow_are_found() {
    let bytes = table(
        b"IORT",
        &hex("
        02000000 30000000 00000000
        04 4400 01 00000000 00000000 00000000                             # +30 SMMUv3
          0000000900000000 00000000 00000000 0000000000000000 00000000
          01000000 01000000 01000000 01000000 00000000 00000000
        02 6000 01 00000000 03000000 24000000                             # +74
          00000000 00 0000 00 00000000 00000000 00 0000 00
          00000000 ff000000 00000000 30000000 00000000                    # +98
          ff000000 00000000 00100000 30000000 00000000                    # +ac takes ff again
          00ff0000 ffff0000 00200000 30000000 00000000                    # +c0 passes 16 bits
    "),
    );
    let topology = topology(&bytes);
    assert_eq!(
        findings(&topology),
        [
            "IORT+0xac: warning: IDs 0xff to 0xff are mapped twice; the first mapping counts",
            "IORT+0xc0: error: IDs from 0xff00, 0x10000 of them, pass the 16 bits that they have",
        ]
    );
    let stream = |requester_id| {
        let address = PciAddress { segment: 0, requester_id };
        topology.resolve(address, &NoBridges).map(|resolved| resolved.requester.index())
    };
    assert_eq!([stream(0xff), stream(0x100), stream(0xffff)], [Some(0xff), None, Some(0x20ff)]);
}

#[test]
fn counts_that_do_not_fit_are_found() {
    let bytes = table(
        b"IORT",
        &hex("
        05000000 30000000 00000000
        00 1800 01 00000000 00000000 00000000  05000000 05000000          # +30 five identifiers, room for one
    "),
    );
    assert_eq!(
        findings(&topology(&bytes)),
        [
            "IORT+0x24: warning: IORT nodes: 5 are announced, 1 are there",
            "IORT+0x40: warning: ITS identifiers: 5 are announced, 1 are there",
        ]
    );
    let bytes = table(b"IORT", &hex("01000000 ff000000 00000000"));
    assert_eq!(
        findings(&topology(&bytes)),
        ["IORT+0x28: error: Offset to Array of IORT Nodes refers to offset 0xff, where no node can be"]
    );
}
