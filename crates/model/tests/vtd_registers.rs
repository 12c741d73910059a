//! The register file: widths, reserved bits, handshakes, register-based invalidation, protected regions (VT-d 11.2, 11.4).

mod common;

use common::*;
use portcullis_model::Registers;
use portcullis_model::vtd::VtdUnit;
use portcullis_model::vtd::config::{ConfigError, ScalableConfig, VtdConfig};
use portcullis_model::{NoInterrupts, OwnedMemory};
use portcullis_spec::Iova;
use std::sync::Arc;

const RTPS: u32 = 1 << 30;
const IVA: u64 = 0xf0;
const IOTLB: u64 = 0xf8;

fn unit(config: VtdConfig) -> VtdUnit {
    VtdUnit::new(config, Arc::new(OwnedMemory::new(0x1000)), Arc::new(NoInterrupts)).unwrap()
}

#[test]
fn capabilities_say_what_was_chosen_and_nothing_else() {
    // VT-d 11.4.2, 11.4.3; by hand: ND 6, SAGAW 39 and 48, MGAW 47, ZLR, FRO 22h, SSLPS 3, PSI, NFR 7, MAMV 18, DWD, DRD,
    // ESRTPS; C, QI, PT, IRO fh.
    let legacy = unit(VtdConfig::default());
    let cap = 6
        | 6 << 8
        | 47 << 16
        | 1 << 22
        | 0x22 << 24
        | 3 << 34
        | 1 << 39
        | 7 << 40
        | 18 << 48
        | 3 << 54
        | 1 << 63;
    assert_eq!(legacy.read64(0x08), cap, "{:#x}", legacy.read64(0x08) ^ cap);
    assert_eq!(legacy.read64(0x10), 1 | 1 << 1 | 1 << 6 | 0xf << 8);
    assert_eq!(legacy.read32(0), 0x50);
    let full = unit(VtdConfig::full());
    // Advanced fault logging, write-buffer flushing, posted interrupts, enhanced commands.
    assert_eq!(full.read64(0x08) & (1 << 3 | 1 << 4 | 1 << 59 | 1 << 61), 0);
    // Device-TLBs, memory types, page requests, execute requests, NWFS, DIT, PDS, virtual commands, performance monitoring, stop
    // markers.
    let absent =
        1 << 2 | 1 << 25 | 1 << 29 | 1 << 30 | 1 << 33 | 1 << 41 | 1 << 42 | 1 << 44 | 1 << 51 | 1 << 58;
    assert_eq!(full.read64(0x10) & absent, 0);
    // SMTS, SSADS, SSTS, FSTS, SMPWCS, RPS, ADMS, RPRIVS; NEST; SRS; EAFS; PSS 19; PASID.
    let present = 1 << 43 | 0xf << 45 | 1 << 49 | 3 << 52 | 1 << 26 | 1 << 31 | 1 << 34 | 19 << 35 | 1 << 40;
    assert_eq!(full.read64(0x10) & present, present);
}

#[test]
fn configurations_that_contradict_themselves_make_no_unit() {
    let refused = |config: VtdConfig| {
        VtdUnit::new(config, Arc::new(OwnedMemory::new(0x1000)), Arc::new(NoInterrupts)).err()
    };
    let d = VtdConfig::default;
    let s = ScalableConfig::default;
    let no_levels = VtdConfig { three_level: false, four_level: false, ..d() };
    assert_eq!(refused(no_levels), Some(ConfigError::NoLevels));
    assert_eq!(refused(VtdConfig { guest_address_bits: 57, ..d() }), Some(ConfigError::GuestAddressBits(57)));
    assert_eq!(refused(VtdConfig { host_address_bits: 53, ..d() }), Some(ConfigError::HostAddressBits(53)));
    assert_eq!(refused(VtdConfig { domain_id_bits: 7, ..d() }), Some(ConfigError::DomainIdBits(7)));
    assert_eq!(refused(VtdConfig { fault_records: 257, ..d() }), Some(ConfigError::FaultRecords(257)));
    assert_eq!(refused(VtdConfig { iotlb_offset: 0x228, ..d() }), Some(ConfigError::Offset(0x228)));
    assert_eq!(refused(VtdConfig { iotlb_offset: 0x230, ..d() }), Some(ConfigError::Offset(0x230)));
    assert_eq!(
        refused(VtdConfig { queued_invalidation: false, scalable: Some(s()), ..d() }),
        Some(ConfigError::QueuedInvalidation)
    );
    let nested = ScalableConfig { second_stage: false, second_stage_flags: false, ..s() };
    assert_eq!(refused(VtdConfig { scalable: Some(nested), ..d() }), Some(ConfigError::Nested));
    let pasids = ScalableConfig { pasid_bits: Some(21), ..s() };
    assert_eq!(refused(VtdConfig { scalable: Some(pasids), ..d() }), Some(ConfigError::PasidBits(21)));
}

#[test]
fn only_aligned_doublewords_and_quadwords_reach_registers() {
    // VT-d 11.2.
    let unit = unit(VtdConfig::default());
    for (offset, length) in [(0x08, 1), (0x08, 2), (0x0a, 4), (0x0c, 8), (0x08, 3), (0x08, 16)] {
        let mut data = vec![0xff; length];
        unit.mmio_read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0), "{length} bytes at {offset:#x}");
        unit.mmio_write(0x20 + (offset & 7), &vec![0xff; length]);
        assert_eq!(unit.read64(0x20), 0, "{length} bytes at {offset:#x}");
    }
    let mut data = [0; 8];
    unit.mmio_read(0x08, &mut data);
    assert_eq!(u64::from_le_bytes(data), unit.read64(0x08));
    unit.mmio_write(0x24, &0x12u32.to_le_bytes());
    unit.mmio_write(0x20, &0x3000u32.to_le_bytes());
    assert_eq!(unit.read64(0x20), 0x12_0000_3000);
    unit.mmio_write(0x20, &0x4_5678_9000u64.to_le_bytes());
    assert_eq!(unit.read64(0x20), 0x4_5678_9000);
    assert_eq!(unit.mmio_size(), 0x1000);
    unit.mmio_read(unit.mmio_size(), &mut data);
    unit.mmio_read(u64::MAX - 7, &mut data);
    unit.mmio_write(u64::MAX - 7, &data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn reserved_and_read_only_bits_stay() {
    let unit = unit(VtdConfig::default());
    for offset in (0..0x1000).step_by(4).filter(|offset| *offset != 0x18) {
        unit.write32(offset, u32::MAX);
    }
    assert_eq!(unit.read32(GSTS), 0);
    assert_eq!(unit.read64(0x20), !0x3ff);
    // The queue's width, which needs scalable mode, was refused; the event is masked and pending.
    assert_eq!((unit.read32(FSTS), unit.read32(0x38)), (1 << 4, 3 << 30));
    assert_eq!(unit.read32(0x3c), 0xffff);
    assert_eq!(unit.read32(0x40), !3);
    // Without EIM, FEUADDR and IEUADDR are reserved.
    assert_eq!((unit.read32(0x44), unit.read32(0xac)), (0, 0));
    assert_eq!(unit.read64(0x58), 0, "AFLOG");
    assert_eq!(unit.read64(0x64), 0, "PMEN and PLMBASE");
    assert_eq!((unit.read64(0x80), unit.read64(0x88)), (0, 0x7fff0));
    assert_eq!(unit.read64(0x90), !0x7f8);
    assert_eq!(unit.read64(0xb8), 0, "IRTA");
    assert_eq!(unit.read64(0x220), 0);
    assert_eq!(unit.read64(0x228), 0);
}

#[test]
fn events_are_masked_after_reset() {
    // VT-d 11.4.7.2, 11.4.9.6.
    let unit = unit(VtdConfig::default());
    assert_eq!((unit.read32(0x38), unit.read32(0xa0)), (1 << 31, 1 << 31));
}

#[test]
fn a_root_table_counts_when_it_is_set() {
    // VT-d 11.4.4.1, SRTP.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0, PAGE, RW);
    assert_eq!(machine.unit.read32(GSTS), TE | RTPS | QIE);
    machine.unit.write64(0x20, 0);
    machine.invalidate_all();
    assert!(machine.read(DEVICE, 0).is_ok());
    // ESRTPS: setting it forgets everything.
    machine.command(SRTP);
    machine.refused(machine.read(DEVICE, 0), 0x1);
}

#[test]
fn translation_goes_off_and_on() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x1000, PAGE, RW);
    machine.put(PAGE, 1);
    machine.put(0x1000, 2);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(1));
    machine.unit.write32(0x18, QIE);
    assert_eq!(machine.unit.read32(GSTS), RTPS | QIE);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(2));
    machine.command(TE);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(1));
}

/// A legacy unit without its queue on.
fn by_registers(config: VtdConfig) -> (Machine, u64) {
    let mut machine = Machine::new(config);
    let table = machine.allocate();
    machine.set_root(machine.root);
    machine.command(TE);
    machine.attach(DEVICE, table, 7);
    machine.map(table, 0x1000, PAGE, RW);
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(1));
    (machine, table)
}

#[test]
fn the_iotlb_register_invalidates_what_it_names() {
    // VT-d 11.4.6.2: IVT 63, IIRG 61:60, IAIG 58:57, DID 47:32; IVA_REG: address, IH 6, AM 5:0.
    for (iva, iirg, did, done) in [(0, 1, 0, 1), (0, 2, 7, 2), (0x1000, 3, 7, 3), (0x4000 | 3, 3, 7, 3)] {
        let (mut machine, table) = by_registers(VtdConfig::default());
        machine.map(table, 0x1000, OTHER_PAGE, RW);
        machine.unit.write64(IVA, iva);
        machine.unit.write64(IOTLB, 1 << 63 | iirg << 60 | did << 32);
        assert_eq!(machine.unit.read64(IOTLB) >> 57 & 3, done);
        assert_eq!(machine.unit.read64(IOTLB) >> 63, 0);
        assert_eq!(machine.unit.read64(IVA), 0, "IVA_REG is write-only");
        assert_eq!(machine.read(DEVICE, 0x1000), Ok(2));
    }
}

#[test]
fn an_impossible_iotlb_request_does_nothing_and_says_so() {
    // VT-d 11.4.6.2, IAIG 00b: a reserved granularity; an address mask above MAMV.
    let (machine, _) = by_registers(VtdConfig::default());
    machine.unit.write64(IOTLB, 1 << 63);
    assert_eq!(machine.unit.read64(IOTLB), 0);
    machine.unit.write64(IVA, 19);
    machine.unit.write64(IOTLB, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(machine.unit.read64(IOTLB), 3 << 60 | 7 << 32);
    // Without PSI a page's invalidation is its domain's.
    let (mut machine, table) = by_registers(VtdConfig { page_selective: None, ..VtdConfig::default() });
    machine.map(table, 0x1000, OTHER_PAGE, RW);
    machine.unit.write64(IVA, 0x7000);
    machine.unit.write64(IOTLB, 1 << 63 | 3 << 60 | 7 << 32);
    assert_eq!(machine.unit.read64(IOTLB) >> 57 & 3, 2);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(2));
}

#[test]
fn the_context_command_invalidates_what_it_names() {
    // VT-d 11.4.6.1: ICC 63, CIRG 62:61, CAIG 60:59, FM 33:32, SID 31:16, DID 15:0.
    let other_function = u64::from(DEVICE) | 1;
    for (command, done) in [
        (1 << 61, 1),
        (2 << 61 | 7, 2),
        (3 << 61 | u64::from(DEVICE) << 16 | 7, 3),
        (3 << 61 | 3 << 32 | other_function << 16, 3),
    ] {
        let (mut machine, _) = by_registers(VtdConfig::default());
        machine.context(DEVICE, 0, 0, 0);
        machine.unit.write64(0x28, 1 << 63 | command);
        assert_eq!(machine.unit.read64(0x28) >> 59 & 3, done);
        assert_eq!(machine.unit.read64(0x28) >> 63, 0);
        machine.refused(machine.read(DEVICE, 0x1000), 0x2);
    }
    let (machine, _) = by_registers(VtdConfig::default());
    machine.unit.write64(0x28, 1 << 63);
    assert_eq!(machine.unit.read64(0x28), 0);
}

#[test]
fn registers_do_not_invalidate_while_the_queue_does_nor_in_version_6() {
    // VT-d 6.5.1.
    let (mut machine, _) = by_registers(VtdConfig::default());
    machine.enable_queue(false);
    let (mut newer, _) = by_registers(VtdConfig { version: (6, 0), ..VtdConfig::default() });
    for machine in [&mut machine, &mut newer] {
        machine.context(DEVICE, 0, 0, 0);
        machine.unit.write64(0x28, 1 << 63 | 1 << 61);
        assert_eq!(machine.unit.read64(0x28), 1 << 61);
        machine.unit.write64(IOTLB, 1 << 63 | 1 << 60);
        assert_eq!(machine.unit.read64(IOTLB), 1 << 60);
    }
}

#[test]
fn protected_regions_block_what_passes() {
    // VT-d 11.4.8.1: without translation, and pass-through; not recorded. Regions are multiples of 2 MiB here.
    let config = VtdConfig { protected_low: true, protected_high: true, ..VtdConfig::default() };
    let mut machine = Machine::new(config);
    let unit = machine.unit.clone();
    unit.write32(0x68, u32::MAX);
    assert_eq!(unit.read32(0x68), 0xffe0_0000, "software finds the alignment");
    unit.write64(0x70, u64::MAX);
    assert_eq!(unit.read64(0x70), 0xffff_ffe0_0000);
    unit.write32(0x68, 0x80_0000);
    unit.write32(0x6c, 0x80_0000);
    // A high region with its limit below its base is none.
    unit.write64(0x70, 0xa0_0000);
    unit.write64(0x78, 0x80_0000);
    assert!(machine.write(DEVICE, PAGE, 1).is_ok());
    unit.write32(0x64, 1 << 31);
    assert_eq!(unit.read32(0x64), 1 << 31 | 1);
    machine.refused_silently(machine.write(DEVICE, PAGE, 2));
    machine.refused_silently(machine.read(DEVICE, 0x9f_fff8));
    assert!(machine.write(DEVICE, 0xa0_0000, 1).is_ok());
    assert!(machine.read(DEVICE, 0x7f_fff8).is_ok());
    // A transfer that runs into the region stops at it.
    machine.refused_silently(machine.port(DEVICE).write(Iova(0x7f_fff8), &[9; 16]));
    assert_eq!(machine.get(PAGE), 1);
    // In force, the region can't be moved.
    unit.write32(0x68, 0);
    assert_eq!(unit.read32(0x68), 0x80_0000);
    // Pass-through is blocked too; translated requests are the tables' business.
    let table = machine.allocate();
    machine.context(DEVICE, 2 << 2 | 1, 2, 1);
    machine.attach(OTHER_DEVICE, table, 2);
    machine.map(table, 0, PAGE, RW);
    machine.set_root(machine.root);
    machine.command(TE);
    machine.refused_silently(machine.write(DEVICE, PAGE, 3));
    assert!(machine.write(OTHER_DEVICE, 0, 4).is_ok());
    unit.write32(0x64, 0);
    assert_eq!(unit.read32(0x64), 0);
    assert!(machine.write(DEVICE, PAGE, 5).is_ok());
}

#[test]
fn registers_lie_where_the_capabilities_say() {
    let config = VtdConfig {
        iotlb_offset: 0x100,
        fault_record_offset: 0x400,
        fault_records: 256,
        ..VtdConfig::default()
    };
    let machine = Machine::legacy_with(config);
    assert_eq!(machine.unit.mmio_size(), 0x2000);
    machine.read(DEVICE, 0).unwrap_err();
    assert_eq!(machine.unit.read64(0x408) >> 63, 1);
    assert_eq!(machine.unit.read64(0x228), 0);
}
