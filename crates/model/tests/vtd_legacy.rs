//! Legacy mode: root and context tables, second-stage translation, pass-through (VT-d 3.4.2, 3.7, 7.1.3, 9.1, 9.3, 9.8).

mod common;

use common::*;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_model::{AccessError, GuestMemory};
use portcullis_spec::{Access, FaultReason, Iova, PhysAddr, StageNumber};

#[test]
fn without_translation_all_dma_passes() {
    // VT-d 11.4.4.1, TE.
    let machine = Machine::new(VtdConfig::default());
    machine.write(DEVICE, PAGE, 7).unwrap();
    assert_eq!(machine.read(OTHER_DEVICE, PAGE), Ok(7));
    // What is not memory is no matter of the unit's.
    assert!(matches!(machine.read(DEVICE, MEMORY), Err(AccessError::Memory(_))));
}

#[test]
fn with_an_empty_root_table_everything_is_refused() {
    let machine = Machine::legacy();
    machine.put(PAGE, 7);
    let fault = machine.refused(machine.read(DEVICE, PAGE), 0x1);
    assert_eq!(fault.access, Access::READ);
    machine.refused(machine.write(DEVICE, PAGE, 8), 0x1);
    assert_eq!(machine.get(PAGE), 7);
}

#[test]
fn a_mapped_page_is_reached_and_its_neighbour_is_not() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x40_0000, PAGE, RW);
    machine.write(DEVICE, 0x40_0008, 0xabcd).unwrap();
    assert_eq!(machine.get(PAGE + 8), 0xabcd);
    assert_eq!(machine.read(DEVICE, 0x40_0008), Ok(0xabcd));
    machine.refused(machine.read(DEVICE, 0x40_1000), 0x6);
    machine.refused(machine.write(DEVICE, 0x40_1000, 0), 0x5);
    machine.refused(machine.read(OTHER_DEVICE, 0x40_0000), 0x2);
}

#[test]
fn a_transfer_that_leaves_the_mapping_stops_there() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x40_0000, PAGE, RW);
    let result = machine.port(DEVICE).write(Iova(0x40_0ffc), &[1, 2, 3, 4, 5, 6, 7, 8]);
    let fault = machine.refused(result, 0x5);
    assert_eq!(fault.address, Iova(0x40_1000));
    assert_eq!(machine.memory.load32(PhysAddr(PAGE + 0xffc)), Ok(0x0403_0201));
    assert_eq!(machine.get(OTHER_PAGE), 0);
}

#[test]
fn tables_of_three_four_and_five_levels_translate() {
    // VT-d 9.3, AW: 1 is 39 bits, 2 is 48, 3 is 57.
    let config = VtdConfig { five_level: true, guest_address_bits: 57, ..VtdConfig::default() };
    for (aw, levels, iova) in [(1, 3, 0x7f_8040_3000), (2, 4, 0xff80_8040_3000), (3, 5, 0x1ff_8080_8040_3000)]
    {
        let mut machine = Machine::legacy_with(config.clone());
        let table = machine.allocate();
        machine.context(DEVICE, table | 1, aw, 1);
        machine.map_at(table, levels, 0, iova, RW, PAGE | RW);
        machine.write(DEVICE, iova, levels).unwrap();
        assert_eq!(machine.get(PAGE), levels);
    }
}

#[test]
fn large_pages_translate_where_they_are_supported() {
    // VT-d 3.7: PS in a PDE maps 2 MiB, in a PDPTE 1 GiB.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map_at(table, 4, 1, 0x20_0000, RW, PAGE | RW | PS);
    machine.map_at(table, 4, 2, 0x4000_0000, RW, RW | PS);
    machine.write(DEVICE, 0x20_0000 + 0x12_3450, 1).unwrap();
    assert_eq!(machine.get(PAGE + 0x12_3450), 1);
    machine.write(DEVICE, 0x4000_0000 + PAGE, 2).unwrap();
    assert_eq!(machine.get(PAGE), 2);
    let port = machine.port(DEVICE);
    let transaction = port.transaction(Iova(0x20_0123), 4, Access::READ);
    assert_eq!(
        port.translate(&transaction).map(|t| (t.address, t.page_shift)),
        Ok((PhysAddr(PAGE + 0x123), 21))
    );

    // Without CAP.SSLPS, PS is reserved (VT-d 9.8).
    let mut machine =
        Machine::legacy_with(VtdConfig { pages_2m: false, pages_1g: false, ..VtdConfig::default() });
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map_at(table, 4, 1, 0x20_0000, RW, PAGE | RW | PS);
    machine.map_at(table, 4, 2, 0x4000_0000, RW, RW | PS);
    machine.refused(machine.read(DEVICE, 0x20_0000), 0xc);
    machine.refused(machine.read(DEVICE, 0x4000_0000), 0xc);
}

#[test]
fn rights_of_all_levels_are_intersected() {
    // VT-d 3.7.1: read and write need R and W in every entry; missing ones are LGN.3 and LGN.2.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x1000, PAGE, R);
    machine.map(table, 0x2000, PAGE, W);
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    machine.refused(machine.write(DEVICE, 0x1000, 1), 0x5);
    assert!(machine.write(DEVICE, 0x2000, 1).is_ok());
    machine.refused(machine.read(DEVICE, 0x2000), 0x6);
    let slot = machine.map(table, 0x4000_0000, PAGE, RW);
    assert!(machine.write(DEVICE, 0x4000_0000, 2).is_ok());
    // The PDPTE above loses W.
    let pdpt = machine.get(table) & !0xfff;
    let entry = machine.get(pdpt + 8);
    machine.put(pdpt + 8, entry & !W);
    machine.invalidate_all();
    assert!(machine.read(DEVICE, 0x4000_0000).is_ok());
    machine.refused(machine.write(DEVICE, 0x4000_0000, 3), 0x5);
    assert_eq!(machine.get(slot), PAGE | RW);
}

#[test]
fn an_address_beyond_the_guest_address_width_is_lgn_1() {
    // VT-d 7.1.3, LGN.1: above 2^X - 1, X the smaller of MGAW and the AGAW that AW selects.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.context(DEVICE, table | 1, 1, 1);
    machine.refused(machine.read(DEVICE, 1 << 39), 0x4);
    machine.refused(machine.read(DEVICE, !7), 0x4);
    let mut machine = Machine::legacy_with(VtdConfig { guest_address_bits: 36, ..VtdConfig::default() });
    let table = machine.allocate();
    machine.context(DEVICE, table | 1, 1, 1);
    machine.map_at(table, 3, 0, 0xf_ffff_f000, RW, PAGE | RW);
    assert!(machine.read(DEVICE, 0xf_ffff_f000).is_ok());
    machine.refused(machine.read(DEVICE, 1 << 36), 0x4);
}

#[test]
fn reserved_bits_of_root_entries_block_and_record_lrt_3() {
    // VT-d 9.1: bits 11:1, bits above HAW, and the whole upper half.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    let good = machine.get(machine.root);
    for (word, bit) in [(0, 1), (0, 11), (0, 48), (0, 63), (8, 0), (8, 63)] {
        machine.put(machine.root, good);
        machine.put(machine.root + 8, 0);
        let old = machine.get(machine.root + word);
        machine.put(machine.root + word, old | 1 << bit);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0xa);
    }
}

#[test]
fn unreachable_tables_are_lrt_1_lct_1_lct_4_and_lss_1() {
    let mut machine = Machine::legacy();
    machine.set_root(MEMORY + 0x1000);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x8);
    machine.set_root(machine.root);
    machine.put(machine.root, (MEMORY + 0x1000) | 1);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x9);
    machine.put(machine.root, 0);
    // The root of the second stage is the context entry's (QEMU says the same), what it leads to is not.
    machine.attach(DEVICE, MEMORY + 0x1000, 1);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x3);
    let table = machine.allocate();
    machine.put(table, (MEMORY + 0x1000) | 3);
    machine.attach(DEVICE, table, 1);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x7);
}

#[test]
fn reserved_bits_of_context_entries_are_lct_3() {
    // VT-d 9.3: bits 11:4, 71, 127:88, above HAW, and domain ID bits that CAP.ND does not have.
    let config = VtdConfig { domain_id_bits: 8, ..VtdConfig::default() };
    let mut machine = Machine::legacy_with(config);
    let table = machine.allocate();
    machine.attach(DEVICE, table, 255);
    machine.refused(machine.read(DEVICE, 0), 0x6);
    let at = machine.context_entry(DEVICE);
    let good = [machine.get(at), machine.get(at + 8)];
    for (word, bit) in [(0, 4), (0, 11), (0, 48), (0, 63), (1, 7), (1, 16), (1, 23), (1, 24), (1, 63)] {
        for (index, value) in good.iter().enumerate() {
            let flip = if index == word { 1u64 << bit } else { 0 };
            machine.put(at + 8 * index as u64, value | flip);
        }
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0xb);
    }
    // Bits 70:67 are software's.
    machine.put(at, good[0]);
    machine.put(at + 8, good[1] | 0x78);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x6);
}

#[test]
fn invalid_widths_and_types_are_lct_4() {
    // VT-d 9.3: an AW or TT that the hardware lacks, or a reserved one.
    let mut machine = Machine::legacy_with(VtdConfig { pass_through: false, ..VtdConfig::default() });
    let table = machine.allocate();
    for (tt, aw) in [(0, 0), (0, 3), (0, 4), (0, 7), (1, 2), (2, 2), (3, 2)] {
        machine.context(DEVICE, table | tt << 2 | 1, aw, 1);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x3);
    }
}

#[test]
fn reserved_bits_of_paging_entries_are_lss_2() {
    // VT-d 9.8: SNP without ECAP.SC, addresses above HAW, PS in a PML4E.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    for bit in [11, 48, 51, 62] {
        machine.map(table, 0x1000, PAGE, RW | 1 << bit);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0x1000), 0xc);
    }
    for bit in [2, 3, 6, 7, 8, 9, 10, 52, 61, 63] {
        machine.map(table, 0x1000, PAGE, RW | 1 << bit);
        machine.invalidate_all();
        assert!(machine.read(DEVICE, 0x1000).is_ok(), "bit {bit} is ignored");
    }
    let entry = machine.get(table);
    machine.put(table, entry | PS);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0x1000), 0xc);
}

#[test]
fn pass_through_reaches_the_address_itself_up_to_the_host_address_width() {
    // VT-d 9.3, TT 10b; LGN.1 above HAW.
    let mut machine = Machine::legacy();
    machine.context(DEVICE, 2 << 2 | 1, 2, 1);
    machine.write(DEVICE, PAGE, 5).unwrap();
    assert_eq!(machine.get(PAGE), 5);
    machine.refused(machine.read(DEVICE, 1 << 48), 0x4);
}

#[test]
fn a_request_with_pasid_is_rta_2() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0, PAGE, RW);
    let fault = machine.refused(read(&machine.pasid_port(DEVICE, 5), 0), 0x31);
    assert_eq!(fault.reason, FaultReason::PasidUnsupported);
}

#[test]
fn translated_and_translation_requests_are_lct_5_without_device_tlbs() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0, PAGE, RW);
    let port = machine.port(DEVICE);
    for request_type in
        [portcullis_spec::RequestType::Translated, portcullis_spec::RequestType::TranslationRequest]
    {
        let transaction =
            portcullis_spec::Transaction { request_type, ..port.transaction(Iova(0), 8, Access::READ) };
        machine.refused(port.translate(&transaction).map_err(AccessError::Refused), 0xd);
    }
}

#[test]
fn a_translation_to_the_interrupt_range_is_lgn_4() {
    // VT-d 3.15.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x1000, 0xfee0_0000, RW);
    machine.map(table, 0x2000, 0xfee0_0000 - 0x1000, RW);
    machine.refused(machine.write(DEVICE, 0x1000, 1), 0xe);
    assert!(matches!(machine.read(DEVICE, 0x2000), Err(AccessError::Memory(_))));
    assert!(machine.sink.0.lock().unwrap().is_empty());
}

#[test]
fn the_interrupt_range_is_no_memory_however_much_is_cached_around_it() {
    // VT-d 3.15, for what is asked for and for what it is translated to.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    for (iova, output) in [(0x1000, PAGE), (0x2000, 0xfee0_0000), (0xfee0_1000, PAGE), (0xfef0_0000, PAGE)] {
        machine.map(table, iova, output, RW);
    }
    for _ in 0..3 {
        machine.read(DEVICE, 0x1000).unwrap();
        machine.read(DEVICE, 0xfef0_0000).unwrap();
        machine.refused(machine.read(DEVICE, 0x2000), 0xe);
        machine.refused_silently(machine.read(DEVICE, 0xfee0_1000));
    }
}

#[test]
fn a_doubleword_write_to_the_interrupt_range_is_a_message() {
    // VT-d 3.15: such requests are no DMA, whatever the tables say; others to the range are refused.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0xfee0_1000, PAGE, RW);
    let port = machine.port(DEVICE);
    port.write(Iova(0xfee0_1004), &0x41u32.to_le_bytes()).unwrap();
    let messages = machine.sink.0.lock().unwrap().clone();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].address, messages[0].data), (0xfee0_1004, 0x41));
    assert_eq!(messages[0].source, Some(port.requester()));
    machine.refused_silently(machine.read(DEVICE, 0xfee0_1000));
    machine.refused_silently(machine.write(DEVICE, 0xfee0_1000, 1));
    machine.refused_silently(port.write(Iova(0xfee0_1002), &[0; 4]));
    assert_eq!(machine.sink.0.lock().unwrap().len(), 1);
    assert_eq!(machine.get(PAGE), 0);
}

#[test]
fn a_zero_length_read_needs_any_right_where_zlr_is_reported() {
    // VT-d 11.4.2, ZLR.
    for zero_length_reads in [true, false] {
        let mut machine = Machine::legacy_with(VtdConfig { zero_length_reads, ..VtdConfig::default() });
        let table = machine.allocate();
        machine.attach(DEVICE, table, 1);
        machine.map(table, 0x1000, PAGE, W);
        let result = machine.port(DEVICE).read(Iova(0x1000), &mut []);
        if zero_length_reads {
            result.unwrap();
        } else {
            machine.refused(result, 0x6);
        }
        machine.refused(machine.port(DEVICE).read(Iova(0x2000), &mut []), 0x6);
    }
}

#[test]
fn a_fault_says_which_stage_and_why() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    let fault = machine.refused(machine.read(DEVICE, 0x5678), 0x6);
    assert_eq!(fault.stage, Some(StageNumber::Second));
    assert_eq!(fault.reason, FaultReason::PermissionDenied);
    assert_eq!(fault.address, Iova(0x5000));
}

#[test]
fn another_segment_and_the_tables_end_are_no_ones() {
    // The highest address: nothing wraps around.
    let mut machine = Machine::legacy();
    machine.context(DEVICE, 2 << 2 | 1, 2, 1);
    let result = machine.port(DEVICE).write(Iova(u64::MAX - 3), &[0; 8]);
    machine.refused(result, 0x4);
}

#[test]
fn an_atomic_operation_needs_both_rights() {
    // VT-d 7.1.3, LGN.2 and LGN.3: the missing one names the reason.
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 1);
    machine.map(table, 0x1000, PAGE, R);
    machine.map(table, 0x2000, PAGE, W);
    machine.map(table, 0x3000, PAGE, RW);
    let port = machine.port(DEVICE);
    let atomic = |iova| {
        let transaction = port.transaction(Iova(iova), 8, Access::READ_WRITE | Access::ATOMIC);
        port.translate(&transaction).map_err(AccessError::Refused)
    };
    machine.refused(atomic(0x1000), 0x5);
    machine.refused(atomic(0x2000), 0x6);
    assert!(atomic(0x3000).is_ok());
    // VT-d 11.4.7.6: T1 and T2 set.
    atomic(0x4000).unwrap_err();
    assert_eq!(machine.take_faults()[0][1] & (1 << 62 | 1 << 28), 1 << 62 | 1 << 28);
}
