//! Queued invalidation: completion, errors, what each descriptor forgets (VT-d 6.5.2, 11.4.9).

mod common;

use common::*;
use portcullis_model::Registers;
use portcullis_model::vtd::config::VtdConfig;

const IQH: u64 = 0x80;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
const ICS: u64 = 0x9c;
const IECTL: u64 = 0xa0;
const IQERCD: u64 = 0xb0;
const IQE: u32 = 1 << 4;

const FIRST: u64 = 1 << 6 | 1;
const SECOND: u64 = 2 << 6 | 2 << 2 | 1;
const NESTED: u64 = 3 << 6 | 2 << 2 | 1;
const PWSNP: u64 = 1 << 23;
const USER_RW: u64 = 0b111;

fn pages(did: u64, address: u64, mask: u64) -> [u64; 2] {
    [2 | 3 << 4 | did << 16, address | mask]
}

#[test]
fn a_wait_writes_its_status_and_the_head_follows() {
    let mut machine = Machine::legacy();
    assert!(machine.submit(&[[2 | 1 << 4, 0]]));
    assert_eq!(machine.unit.read64(IQH), 32);
    // Round the 4 KiB queue.
    for _ in 0..300 {
        assert!(machine.submit(&[]));
    }
    assert_eq!(machine.unit.read64(IQH), machine.unit.read64(IQT));
    assert_eq!(machine.unit.read32(FSTS), 0);
}

#[test]
fn a_larger_queue_is_used_to_its_end() {
    // VT-d 11.4.9.3: 2^QS pages.
    let machine = Machine::new(VtdConfig::default());
    machine.unit.write64(IQA, 0x10_0000 | 7);
    machine.command(QIE);
    for index in 0..32768 {
        machine.put(0x10_0000 + index * 16, 2 | 1 << 4);
    }
    machine.put(0x10_0000 + 32766 * 16, 5 | 1 << 5 | 9 << 32);
    machine.put(0x10_0008 + 32766 * 16, STATUS);
    machine.unit.write64(IQT, 32767 * 16);
    assert_eq!(machine.get(STATUS), 9);
    assert_eq!(machine.unit.read64(IQH), 32767 * 16);
}

#[test]
fn a_completion_interrupts_once_until_it_is_serviced() {
    // VT-d 6.5.2.8, 11.4.9.4, 11.4.9.6.
    let mut machine = Machine::legacy();
    let wait = [5 | 1 << 4, 0];
    machine.unit.write32(0xa4, 0x31);
    machine.unit.write32(0xa8, 0xfee0_1000);
    // Masked: pending.
    assert!(machine.submit(&[wait]));
    assert_eq!((machine.unit.read32(ICS), machine.unit.read32(IECTL)), (1, 3 << 30));
    assert!(machine.sink.0.lock().unwrap().is_empty());
    machine.unit.write32(IECTL, 0);
    assert_eq!(machine.unit.read32(IECTL), 0);
    let messages = machine.sink.0.lock().unwrap().clone();
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].source, messages[0].address, messages[0].data), (None, 0xfee0_1000, 0x31));
    // IWC still set: no new condition.
    assert!(machine.submit(&[wait]));
    assert_eq!(machine.sink.0.lock().unwrap().len(), 1);
    machine.unit.write32(ICS, 1);
    assert_eq!(machine.unit.read32(ICS), 0);
    assert!(machine.submit(&[wait]));
    assert_eq!(machine.sink.0.lock().unwrap().len(), 2);
    // Serviced before it was unmasked: nothing is pending any more.
    machine.unit.write32(ICS, 1);
    machine.unit.write32(IECTL, 1 << 31);
    assert!(machine.submit(&[wait]));
    machine.unit.write32(ICS, 1);
    assert_eq!(machine.unit.read32(IECTL), 1 << 31);
    machine.unit.write32(IECTL, 0);
    assert_eq!(machine.sink.0.lock().unwrap().len(), 2);
}

#[test]
fn a_bad_descriptor_stops_the_queue_until_it_is_mended() {
    // VT-d 6.5.2.10: head stays on the descriptor; IQE and IQEI say why; clearing IQE resumes.
    let cases: [([u64; 2], u64); 12] = [
        ([0, 0], 3),
        ([0xf, 0], 3),
        ([1 | 1 << 4 | 1 << 9, 0], 3),
        ([3, 0], 3),
        ([4, 0], 3),
        ([6 | 2 << 4, 0], 3),
        ([7, 0], 3),
        ([9, 0], 3),
        ([1, 0], 4),
        ([2 | 1 << 4 | 1 << 12, 0], 4),
        ([5 | 1 << 7, 0], 4),
        (pages(1, 0, 19), 4),
    ];
    for (bad, iqei) in cases {
        let mut machine = Machine::legacy();
        machine.unit.write32(0x38, 0);
        machine.queue(&[[2 | 1 << 4, 0]]);
        assert!(!machine.submit(&[bad]));
        assert_eq!(machine.unit.read64(IQH), 16, "{bad:x?}");
        assert_eq!(machine.unit.read32(FSTS), IQE);
        assert_eq!(machine.unit.read64(IQERCD) & 0xf, iqei, "{bad:x?}");
        assert_eq!(machine.sink.0.lock().unwrap().len(), 1);
        // New descriptors wait, too.
        machine.unit.write64(IQT, 48);
        assert_eq!(machine.unit.read64(IQH), 16);
        // Software puts something harmless there.
        machine.put(QUEUE + 16, 2 | 1 << 4);
        machine.put(QUEUE + 24, 0);
        machine.unit.write32(FSTS, IQE);
        assert_eq!(machine.unit.read32(FSTS), 0);
        assert_eq!(machine.unit.read64(IQERCD) & 0xf, 0);
        assert_eq!(machine.unit.read64(IQH), 48);
        assert_eq!(machine.get(STATUS), 0x1234);
    }
}

#[test]
fn a_tail_beyond_the_queue_is_refused_before_anything_runs() {
    // VT-d 11.4.9.9, IQEI 1. A peer looped for ever on this.
    let machine = Machine::legacy();
    machine.unit.write64(IQT, 0x1000);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 1));
    assert_eq!(machine.unit.read64(IQH), 0);
    machine.unit.write64(IQT, 0);
    machine.unit.write32(FSTS, IQE);
    assert_eq!(machine.unit.read32(FSTS), 0);
}

#[test]
fn widths_and_alignment_are_checked() {
    // VT-d 11.4.9.9: 5 for a width that does not fit, 6 for a tail between two 256-bit descriptors, 7 for a bad mode.
    let machine = Machine::scalable();
    machine.unit.write64(IQT, 16);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 6));

    let machine = Machine::new(VtdConfig::full());
    machine.set_root(machine.root | 1 << 10);
    machine.enable_queue(false);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 5));

    let machine = Machine::new(VtdConfig::default());
    machine.unit.write64(IQA, QUEUE | 1 << 11);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 5));

    let machine = Machine::new(VtdConfig::default());
    machine.set_root(machine.root | 2 << 10);
    machine.enable_queue(false);
    machine.unit.write64(IQT, 16);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 7));
}

#[test]
fn a_queue_outside_of_memory_is_a_fetch_error() {
    let machine = Machine::new(VtdConfig::default());
    machine.unit.write64(IQA, 0xffff_ffff_ffff_f000);
    machine.command(QIE);
    machine.unit.write64(IQT, 16);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 2));
}

#[test]
fn upper_halves_of_256_bit_descriptors_are_reserved() {
    let mut machine = Machine::scalable();
    assert!(machine.submit(&[[2 | 1 << 4, 0]]));
    let head = machine.unit.read64(IQH);
    machine.queue(&[[2 | 1 << 4, 0]]);
    machine.put(QUEUE + head + 24, 1);
    machine.unit.write64(IQT, head + 32);
    assert_eq!((machine.unit.read32(FSTS), machine.unit.read64(IQERCD)), (IQE, 4));
}

#[test]
fn legacy_mode_takes_256_bit_descriptors_where_they_exist() {
    let mut machine = Machine::new(VtdConfig::full());
    machine.set_root(machine.root);
    machine.enable_queue(true);
    machine.command(TE);
    assert!(machine.submit(&[[1 | 1 << 4, 0], [2 | 1 << 4, 0]]));
    // PASIDs are scalable mode's.
    assert!(!machine.submit(&[[7 | 3 << 4, 0]]));
    assert_eq!(machine.unit.read64(IQERCD), 3);
}

#[test]
fn disabling_the_queue_puts_its_head_back() {
    let mut machine = Machine::legacy();
    assert!(machine.submit(&[]));
    assert_ne!(machine.unit.read64(IQH), 0);
    machine.unit.write64(IQA, 0x7000);
    assert_eq!(machine.unit.read64(IQA), QUEUE, "fixed while the queue is on");
    machine.unit.write32(0x18, TE);
    assert_eq!(machine.unit.read32(GSTS) & QIE, 0);
    assert_eq!(machine.unit.read64(IQH), 0);
    machine.unit.write64(IQT, 0x40);
    assert_eq!(machine.unit.read32(FSTS), 0);
    machine.unit.write64(IQA, 0x7000);
    assert_eq!(machine.unit.read64(IQA), 0x7000);
}

#[test]
fn a_status_address_outside_of_memory_harms_nobody() {
    let mut machine = Machine::legacy();
    assert!(machine.submit(&[[5 | 1 << 5, MEMORY], [5 | 1 << 5, !3]]));
    assert_eq!(machine.unit.read32(FSTS), 0);
}

/// What a device at a legacy context sees: 1 before, and after the change of its tables 2 once it was invalidated.
fn changed(machine: &mut Machine, table: u64, iova: u64) {
    machine.put(PAGE, 1);
    machine.put(OTHER_PAGE, 2);
    machine.map(table, iova, PAGE, RW);
    assert_eq!(machine.read(DEVICE, iova), Ok(1));
    machine.map(table, iova, OTHER_PAGE, RW);
}

#[test]
fn iotlb_descriptors_forget_what_they_name() {
    for descriptor in [
        [2 | 1 << 4, 0],
        [2 | 2 << 4 | 7 << 16, 0],
        pages(7, 0x5000, 0),
        pages(7, 0x4000, 1),
        pages(7, 0x5000, 1),
        pages(7, 0x3fff_f000, 18),
        pages(7, 0x5000, 1 << 6),
    ] {
        let mut machine = Machine::legacy();
        let table = machine.allocate();
        machine.attach(DEVICE, table, 7);
        changed(&mut machine, table, 0x5000);
        assert!(machine.submit(&[descriptor]));
        assert_eq!(machine.read(DEVICE, 0x5000), Ok(2), "{descriptor:x?}");
    }
}

#[test]
fn a_page_of_a_large_page_forgets_it_whole() {
    let mut machine = Machine::legacy();
    let table = machine.allocate();
    machine.attach(DEVICE, table, 7);
    machine.map_at(table, 4, 1, 0x20_0000, RW, PAGE | RW | PS);
    assert!(machine.read(DEVICE, 0x20_0000).is_ok());
    machine.map_at(table, 4, 1, 0x20_0000, RW, 0);
    assert!(machine.submit(&[pages(7, 0x3f_f000, 0)]));
    machine.refused(machine.read(DEVICE, 0x20_0000), 0x6);
}

#[test]
fn context_descriptors_forget_what_they_name() {
    for descriptor in [
        [1 | 1 << 4, 0],
        [1 | 2 << 4 | 7 << 16, 0],
        [1 | 3 << 4 | u64::from(DEVICE) << 32, 0],
        [1 | 3 << 4 | (u64::from(DEVICE) | 4) << 32 | 1 << 48, 0],
        [1 | 3 << 4 | (u64::from(DEVICE) | 6) << 32 | 2 << 48, 0],
        [1 | 3 << 4 | (u64::from(DEVICE) | 7) << 32 | 3 << 48, 0],
    ] {
        let mut machine = Machine::legacy();
        let table = machine.allocate();
        machine.attach(DEVICE, table, 7);
        machine.map(table, 0, PAGE, RW);
        assert!(machine.read(DEVICE, 0).is_ok());
        machine.context(DEVICE, 0, 0, 0);
        assert!(machine.submit(&[descriptor]));
        machine.refused(machine.read(DEVICE, 0), 0x2);
    }
}

#[test]
fn pasid_descriptors_forget_what_they_name() {
    for descriptor in
        [[7 | 3 << 4, 0], [7 | 9 << 16, 0], [7 | 1 << 4 | 9 << 16 | 5 << 32, 0], [1 | 1 << 4, 0]]
    {
        let mut machine = Machine::scalable();
        let table = machine.allocate();
        let entry = machine.pasid(DEVICE, 5, [FIRST, PWSNP | 9, table]);
        machine.map_first(table, 0, PAGE, USER_RW);
        let port = machine.pasid_port(DEVICE, 5);
        assert!(read(&port, 0).is_ok());
        machine.put(entry, 0);
        assert!(machine.submit(&[descriptor]));
        machine.refused(read(&port, 0), 0x59);
    }
}

#[test]
fn pasid_iotlb_descriptors_forget_first_stage_translations() {
    for descriptor in [
        [6 | 2 << 4 | 9 << 16 | 5 << 32, 0],
        [6 | 3 << 4 | 9 << 16 | 5 << 32, 0x5000],
        [6 | 3 << 4 | 9 << 16 | 5 << 32, 0x4000 | 1],
        [2 | 2 << 4 | 9 << 16, 0],
        [2 | 1 << 4, 0],
    ] {
        let mut machine = Machine::scalable();
        let table = machine.allocate();
        machine.pasid(DEVICE, 5, [FIRST, PWSNP | 9, table]);
        machine.map_first(table, 0x5000, PAGE, USER_RW);
        let port = machine.pasid_port(DEVICE, 5);
        machine.put(OTHER_PAGE, 2);
        assert_eq!(read(&port, 0x5000), Ok(0));
        machine.map_first(table, 0x5000, OTHER_PAGE, USER_RW);
        assert!(machine.submit(&[descriptor]));
        assert_eq!(read(&port, 0x5000), Ok(2), "{descriptor:x?}");
    }
}

#[test]
fn a_second_stage_page_forgets_what_was_nested_on_it() {
    // VT-d 6.5.2.3: the address is a guest address; a nested translation keeps none, so all of the domain's go.
    let mut machine = Machine::scalable();
    let first = machine.allocate();
    let second = machine.allocate();
    machine.pasid(DEVICE, 0, [second | NESTED, PWSNP | 9, first]);
    machine.map_first(first, 0x1000, 0x4000_0000, USER_RW);
    // Tables by a large page, the data page by a small one.
    machine.map_at(second, 4, 2, 0, RW, RW | PS);
    machine.map(second, 0x4000_0000, PAGE, RW);
    machine.put(OTHER_PAGE, 2);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(0));
    machine.map(second, 0x4000_0000, OTHER_PAGE, RW);
    assert!(machine.submit(&[pages(9, 0x4000_0000, 0)]));
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(2));
}

#[test]
fn a_domain_change_without_any_iotlb_entry_left_reads_new_tables() {
    let mut machine = Machine::scalable();
    let tables = [machine.allocate(), machine.allocate()];
    let entry = machine.pasid(DEVICE, 0, [tables[0] | SECOND, 9, 0]);
    machine.map(tables[0], 0, PAGE, RW);
    machine.map(tables[1], 0, OTHER_PAGE, RW);
    machine.put(OTHER_PAGE, 2);
    assert_eq!(machine.read(DEVICE, 0), Ok(0));
    machine.put(entry, tables[1] | SECOND);
    assert!(machine.submit(&[[7 | 1 << 4 | 9 << 16, 0], [2 | 2 << 4 | 9 << 16, 0]]));
    assert_eq!(machine.read(DEVICE, 0), Ok(2));
}

#[test]
fn caching_mode_keeps_what_was_not_there_until_it_is_told() {
    // VT-d 6.1: with CM set, not-present and erroneous entries may be cached, first-stage mappings excepted. Without CM
    // they never are.
    for caching_mode in [false, true] {
        let mut machine = Machine::legacy_with(VtdConfig { caching_mode, ..VtdConfig::default() });
        let table = machine.allocate();
        machine.refused(machine.read(DEVICE, 0x5000), 0x1);
        machine.attach(DEVICE, table, 7);
        if caching_mode {
            machine.refused(machine.read(DEVICE, 0x5000), 0x1);
            // What was not present has domain 0, or is named by its device.
            assert!(machine.submit(&[[1 | 3 << 4 | u64::from(DEVICE) << 32, 0]]));
        }
        machine.refused(machine.read(DEVICE, 0x5000), 0x6);
        machine.map(table, 0x5000, PAGE, RW);
        if caching_mode {
            machine.refused(machine.read(DEVICE, 0x5000), 0x6);
            assert!(machine.submit(&[pages(7, 0x5000, 0)]));
        }
        assert!(machine.read(DEVICE, 0x5000).is_ok());
    }
    let config = VtdConfig { caching_mode: true, ..VtdConfig::full() };
    let mut machine = Machine::scalable_with(config);
    let table = machine.allocate();
    machine.pasid(DEVICE, 0, [FIRST, PWSNP | 9, table]);
    machine.refused(machine.read(DEVICE, 0), 0x71);
    machine.map_first(table, 0, PAGE, USER_RW);
    assert!(machine.read(DEVICE, 0).is_ok());
}
