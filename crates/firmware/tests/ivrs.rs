//! IVRS as topology: tables put together by hand from AMD I/O Virtualization chapter 5.
#![allow(missing_docs)]

mod common;

use common::{findings, hex, table};
use portcullis_firmware::acpi::topology;
use portcullis_firmware::topology::{
    Architecture, Declared, DeviceName, InterruptSourceKind, NoBridges, ReservedKind, UnitId,
};
use portcullis_spec::{Access, PciAddress, Requester};

/// One IOMMU described by blocks of types 10h and 40h, with entries of every kind, and three memory blocks.
fn machine() -> Vec<u8> {
    table(b"IVRS", &hex("
        43302000 0000000000000000                      # EFRSup, DMA remapping, 48-bit GVA, 48-bit PA, 64-bit VA
        10 b0 1c00 0200 4000 000040a000000000 0000 0000 6e8f0480   # +30 IVHD 10h: not used, as 40h is there
          02 1000 00
        40 30 8700 0200 4000 000040a000000000 0000 0000 00020400   # +4c IVHD 40h of 00:00.2 at a0400000
          fa4a25a2ef776524 0700000000000000                        #     EFR, EFR2
          01 0000 00                                               # +74 all
          02 1100 01                                               # +78 select 00:02.1
          03 0001 40  04 ff01 00                                   # +7c 01:00.0 to 01:1f.7
          42 0002 00 00 a500 00                                    # +84 02:00.0 as 00:14.5
          43 0003 00 00 a600 00  04 ff03 00                        # +8c 03:00.0 to 03:1f.7 as 00:14.6
          46 0004 00 00000080                                      # +98 04:00.0 with ATS disabled
          48 0000 d7 21 a000 01                                    # +a0 I/O APIC 21h at 00:14.0
          48 0000 00 00 a000 02                                    # +a8 HPET 0 at 00:14.0
          f0 a700 40 414d444930303230 0000000000000000 02 09 5c5f53422e46555230  # +b0 AMDI0020:\\_SB.FUR0 at 00:14.7
          04 0000 00                                               # +cf an end without a start: a finding
        21 08 2000 0003 0000 0000000000000000 00f0327100000000 0060020000000000  # +d3 exclusion for 03:00.0
        22 07 2000 0001 ff01 0000000000000000 0000001000000000 0010000000000000  # +f3 unity for 01:00.0 to 01:1f.7
        20 00 2000 0000 0000 0000000000000000 0000002000000000 0010000000000000  # +113 firmware's, for all
    "))
}

#[test]
fn the_highest_type_of_block_counts() {
    let topology = topology(&machine());
    assert_eq!(topology.units.len(), 1);
    let unit = &topology.units[0];
    assert_eq!(unit.architecture.value, Architecture::AmdVi);
    assert_eq!(unit.registers.as_ref().unwrap().base.0, 0xa040_0000);
    assert_eq!(unit.function.as_ref().unwrap().value, PciAddress::new(0, 0, 0, 2));
    assert_eq!(
        unit.declared.value,
        Declared::AmdVi {
            block_type: 0x40,
            flags: 0x30,
            capability_offset: 0x40,
            info: 0,
            attributes: 0x0004_0200,
            efr: Some(0x2465_77ef_a225_4afa),
            efr2: Some(7),
        }
    );
}

#[test]
fn platform_fields_are_cut_out_of_ivinfo() {
    let platform = topology(&machine()).platform;
    assert_eq!(platform.physical_address_bits.unwrap().value, 48);
    assert_eq!(platform.virtual_address_bits.unwrap().value, 64);
    assert_eq!(platform.guest_virtual_address_bits.unwrap().value, 48);
    assert!(platform.efr_supported.unwrap().value);
    assert!(platform.dma_opt_in.unwrap().value);
    assert!(!platform.ht_ats_reserved.unwrap().value);
}

/// Bus, device and function of a device, those under which its requests arrive, and its DTE setting.
type Case = ((u8, u8, u8), (u8, u8, u8), u8);

#[test]
fn later_entries_win_and_aliases_replace_the_requester() {
    let topology = topology(&machine());
    let cases: [Case; 6] = [
        ((9, 0, 0), (9, 0, 0), 0),
        ((0, 2, 1), (0, 2, 1), 1),
        ((1, 4, 0), (1, 4, 0), 0x40),
        ((2, 0, 0), (0, 0x14, 5), 0),
        ((3, 9, 1), (0, 0x14, 6), 0),
        ((0, 0x14, 7), (0, 0x14, 7), 0x40),
    ];
    for (device, requester, setting) in cases {
        let address = |(bus, device, function)| PciAddress::new(0, bus, device, function);
        let resolved = topology.resolve(address(device), &NoBridges).unwrap();
        assert_eq!(resolved.unit, Some(UnitId(0)));
        assert_eq!(resolved.requester, Requester::Pci(address(requester)), "{device:?}");
        assert_eq!(resolved.route.attributes.dte_setting, Some(setting), "{device:?}");
    }
    let resolved = topology.resolve(PciAddress::new(0, 4, 0, 0), &NoBridges).unwrap();
    assert_eq!(resolved.route.attributes.ats, Some(false));
}

#[test]
fn special_and_acpi_devices_are_named() {
    let topology = topology(&machine());
    let sources: Vec<_> = topology
        .interrupt_sources
        .iter()
        .map(|source| (source.kind, source.number, source.dte_setting))
        .collect();
    assert_eq!(
        sources,
        [(InterruptSourceKind::IoApic, 0x21, Some(0xd7)), (InterruptSourceKind::Hpet, 0, Some(0)),]
    );
    let name = DeviceName::AcpiId { hid: "AMDI0020".into(), cid: None, uid: Some("\\_SB.FUR0".into()) };
    assert_eq!(topology.resolve_named(&name).count(), 1);
}

#[test]
fn memory_blocks_become_regions_of_their_kind() {
    let topology = topology(&machine());
    let kinds: Vec<_> = topology
        .reserved
        .iter()
        .map(|region| (region.range.first, region.kind.value, region.access))
        .collect();
    assert_eq!(
        kinds,
        [
            (0x7132_f000, ReservedKind::Exclusion, Access::READ_WRITE),
            (0x1000_0000, ReservedKind::Unity, Access::READ_WRITE),
            (0x2000_0000, ReservedKind::Unmapped, Access::empty()),
        ]
    );
    let regions = |bus, device| topology.reserved_for(PciAddress::new(0, bus, device, 0), &NoBridges).count();
    assert_eq!([regions(3, 0), regions(3, 1), regions(1, 0x1f), regions(2, 0)], [2, 1, 2, 1]);
}

#[test]
fn what_is_wrong_is_found_with_its_offset() {
    assert_eq!(
        findings(&topology(&machine())),
        ["IVRS+0xcf: error: an end of range without a start of range"]
    );
    let bytes = table(
        b"IVRS",
        &hex("
        00000000 0000000000000000
        10 00 2400 0200 4000 000040a000000000 0000 0000 00000000
          03 0001 00  03 0002 00  04 0001 00
        10 00 1800 0200 4000 000040a000000000 0000 0000 00000000
        10 00 1800 0300 4000 001040a000000000 0000 0000 00000000
        11 00 2c00 0400 4000 000050a000000000 0000 0000 00000000 0000000000000000 0000000000000000
          f0 0000 00
    "),
    );
    assert_eq!(
        findings(&topology(&bytes)),
        [
            "IVRS+0x48: error: a start of range without an end of range",
            "IVRS+0x50: error: the range 0x200 to 0x100 is empty or ends before it starts",
            "IVRS+0x54: error: a unit with registers at 0xa0400000 is already described at IVRS+0x30",
            "IVRS+0x74: error: IOMMU Base Address at 0xa0401000 cannot be a register window",
            "IVRS+0x84: note: no device goes to this unit",
            "IVRS+0xac: error: device entry of 5 bytes, but only 4 are left",
        ]
    );
}
