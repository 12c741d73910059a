//! Register accesses, capabilities, `fctl`, `ddtp`, the debug port and the counters (RISC-V IOMMU 4, 5), and saved states.

mod riscv_machine;

use portcullis_model::Registers;
use portcullis_model::StateError;
use portcullis_model::riscv::config::{ConfigError, Interrupts, RiscvConfig};
use portcullis_spec::Access;
use riscv_machine::*;

const OVERFLOWS: u64 = 0x58;
const INHIBIT: u64 = 0x5c;
const CYCLES: u64 = 0x60;
const COUNTERS: u64 = 0x68;
const EVENTS: u64 = 0x160;
const TR_REQ_IOVA: u64 = 0x258;
const TR_REQ_CTL: u64 = 0x260;
const TR_RESPONSE: u64 = 0x268;
const PMIP: u32 = 4;

#[test]
fn capabilities_say_what_was_chosen_and_nothing_else() {
    let read = |config| Bench::new(config).unit.read64(CAPABILITIES);
    let least = RiscvConfig::least();
    // Version 1.0, IGS 1, PAS 32.
    let base = 0x10 | 1 << 28 | 32 << 32;
    assert_eq!(read(least.clone()), base);
    let one = |change: fn(&mut RiscvConfig)| {
        let mut config = least.clone();
        change(&mut config);
        read(config) ^ base
    };
    assert_eq!(one(|it| it.sv39 = true), 1 << 9);
    assert_eq!(one(|it| (it.sv39, it.sv48) = (true, true)), 3 << 9);
    assert_eq!(one(|it| (it.sv39, it.sv48, it.sv57) = (true, true, true)), 7 << 9);
    assert_eq!(one(|it| it.svpbmt = true), 1 << 15);
    assert_eq!(one(|it| it.sv39x4 = true), 1 << 17);
    assert_eq!(one(|it| it.sv48x4 = true), 1 << 18);
    assert_eq!(one(|it| it.sv57x4 = true), 1 << 19);
    assert_eq!(one(|it| it.msi_tables = true), 1 << 22);
    assert_eq!(one(|it| (it.msi_tables, it.interrupt_files) = (true, true)), 3 << 22);
    let atomic = |it: &mut RiscvConfig| {
        (it.msi_tables, it.interrupt_files, it.atomic_interrupt_files) = (true, true, true);
    };
    assert_eq!(one(atomic), 7 << 21);
    assert_eq!(one(|it| it.flag_updates = true), 1 << 24);
    assert_eq!(one(|it| it.both_byte_orders = true), 1 << 27);
    assert_eq!(one(|it| it.interrupts = Interrupts::Messages), 1 << 28);
    assert_eq!(one(|it| it.interrupts = Interrupts::Both), 3 << 28);
    assert_eq!(one(|it| it.counters = Some(1)), 1 << 30);
    assert_eq!(one(|it| it.debug = true), 1 << 31);
    assert_eq!(one(|it| it.physical_bits = 56), (32 ^ 56) << 32);
    assert_eq!(one(|it| it.pd8 = true), 1 << 38);
    assert_eq!(one(|it| it.pd17 = true), 1 << 39);
    assert_eq!(one(|it| it.pd20 = true), 1 << 40);
    assert_eq!(one(|it| it.non_leaf = true), 1 << 42);
    assert_eq!(one(|it| it.ranges = true), 1 << 43);
    assert_eq!(one(|it| it.version = 0x11), 1);
    // What decides nothing there.
    assert_eq!(one(|it| (it.vectors, it.queue_entries_log2) = (8, 4)), 0);
    assert_eq!(one(|it| (it.two_level, it.bare_after_reset, it.big_endian) = (true, true, true)), 0);
    // Bits of features that the model lacks are never set: Sv32, Sv32x4, ATS, T2GPA, QOSID.
    assert_eq!(read(RiscvConfig::full()) & (1 << 8 | 1 << 16 | 3 << 25 | 1 << 41), 0);
    let bench = Bench::new(least);
    bench.unit.write64(CAPABILITIES, !0);
    assert_eq!(bench.unit.read64(CAPABILITIES), base);
}

#[test]
fn configurations_that_contradict_themselves_make_no_unit() {
    let refused = |change: fn(&mut RiscvConfig)| {
        let mut config = RiscvConfig::default();
        change(&mut config);
        let memory = std::sync::Arc::new(portcullis_model::OwnedMemory::new(0x1000));
        let sink = std::sync::Arc::new(portcullis_model::NoInterrupts);
        portcullis_model::riscv::RiscvUnit::new(config, memory, sink).err()
    };
    assert_eq!(refused(|_| ()), None);
    assert_eq!(refused(|it| it.version = 0x0f), Some(ConfigError::Version(0x0f)));
    assert_eq!(refused(|it| it.sv39 = false), Some(ConfigError::FirstStage));
    assert_eq!(refused(|it| (it.sv48, it.sv57) = (false, true)), Some(ConfigError::FirstStage));
    assert_eq!(refused(|it| it.interrupt_files = true), Some(ConfigError::InterruptFiles));
    let without = |it: &mut RiscvConfig| (it.msi_tables, it.atomic_interrupt_files) = (true, true);
    assert_eq!(refused(without), Some(ConfigError::InterruptFiles));
    assert_eq!(refused(|it| it.physical_bits = 57), Some(ConfigError::PhysicalBits(57)));
    assert_eq!(refused(|it| it.physical_bits = 31), Some(ConfigError::PhysicalBits(31)));
    assert_eq!(refused(|it| it.vectors = 3), Some(ConfigError::Vectors(3)));
    assert_eq!(refused(|it| it.vectors = 0), Some(ConfigError::Vectors(0)));
    assert_eq!(refused(|it| it.counters = Some(32)), Some(ConfigError::Counters(32)));
    assert_eq!(refused(|it| it.counters = Some(0)), Some(ConfigError::Counters(0)));
    assert_eq!(refused(|it| it.queue_entries_log2 = 21), Some(ConfigError::QueueEntries(21)));
    assert_eq!(refused(|it| it.queue_entries_log2 = 0), Some(ConfigError::QueueEntries(0)));
    assert_eq!(
        refused(|it| (it.one_level, it.two_level, it.three_level) = (false, false, false)),
        Some(ConfigError::NoDirectory)
    );
    assert_eq!(
        refused(|it| (it.both_byte_orders, it.big_endian) = (true, true)),
        Some(ConfigError::ByteOrder)
    );
}

#[test]
fn only_aligned_doublewords_and_quadwords_reach_registers() {
    let bench = Bench::new(RiscvConfig::default());
    assert_eq!(bench.unit.mmio_size(), 0x1000);
    for (offset, length) in [(CQB, 1), (CQB, 2), (CQB, 16), (CQB + 2, 4), (CQB + 4, 8), (CQB + 1, 8)] {
        bench.unit.mmio_write(offset, &vec![0xff; length]);
        let mut bytes = vec![0xff; length];
        bench.unit.mmio_read(offset, &mut bytes);
        assert_eq!((bench.unit.read64(CQB), bytes), (0, vec![0; length]));
    }
    // Both halves, and both at once. Reserved bits stay 0.
    bench.unit.mmio_write(CQB, &[0xff; 4]);
    assert_eq!(bench.unit.read64(CQB), 0xffff_fc0f);
    bench.unit.mmio_write(CQB + 4, &[0xff; 4]);
    assert_eq!(bench.unit.read64(CQB), 0x003f_ffff_ffff_fc0f);
    bench.unit.mmio_write(CQB, &0x1234_5400u64.to_le_bytes());
    let mut bytes = [0; 8];
    bench.unit.mmio_read(CQB, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), 0x1234_5400);
}

#[test]
fn registers_of_what_is_not_there_read_zero() {
    let bench = Bench::new(RiscvConfig::least());
    let there = [CAPABILITIES, FCTL, DDTP, CQB, CQH, FQB, FQH, CQCSR, 0x50, ICVEC];
    for offset in (0..0x1000).step_by(8) {
        bench.unit.write64(offset, !0);
        let found = bench.unit.read64(offset);
        // Read-only 0: cqh and fqt, the tails of nothing, ipsr; page requests, counters, the debug port, messages.
        assert!(there.contains(&offset) || found == 0, "{offset:#x}: {found:#x}");
    }
    // `pqcsr` has `ipsr` beside it.
    for offset in [0x38, 0x40, 0x44, 0x50] {
        assert_eq!(bench.unit.read32(offset), 0);
    }
}

#[test]
fn ddtp_takes_the_modes_that_there_are() {
    let bench = Bench::new(RiscvConfig { two_level: false, ..RiscvConfig::default() });
    let root = bench.root >> 2;
    for (mode, taken) in [(1, true), (2, true), (0, true), (4, true), (0, true)] {
        bench.unit.write64(DDTP, root | mode);
        assert_eq!(bench.unit.read64(DDTP) == (root | mode), taken);
    }
    for mode in [3, 5, 13, 14, 15] {
        bench.unit.write64(DDTP, 0x5000 >> 2 | mode);
        assert_eq!(bench.unit.read64(DDTP), root, "a mode that is not there changes nothing");
    }
    // Reserved bits and busy can't be set; software with 32 bits writes the upper half first.
    bench.unit.write32(DDTP + 4, !0);
    assert_eq!(bench.unit.read64(DDTP), root);
    bench.unit.write32(DDTP, 0xffff_fff4);
    assert_eq!(bench.unit.read64(DDTP), 0x003f_ffff_ffff_fc04);
}

#[test]
fn fctl_holds_what_can_be_chosen() {
    for (interrupts, wsi) in [(Interrupts::Messages, 0), (Interrupts::Wires, 2), (Interrupts::Both, 2)] {
        for both_byte_orders in [false, true] {
            let bench = Bench::new(RiscvConfig { interrupts, both_byte_orders, ..RiscvConfig::default() });
            bench.unit.write32(FCTL, !0);
            // GXL can't be written: there is no Sv32x4.
            assert_eq!(bench.unit.read32(FCTL), wsi | u32::from(both_byte_orders));
        }
    }
}

/// A translation request: Go, and NW, Exe, Priv, PV.
fn ask(bench: &Bench, iova: u64, device: u32, control: u64) -> u64 {
    bench.unit.write64(TR_REQ_IOVA, iova);
    bench.unit.write64(TR_REQ_CTL, u64::from(device) << 40 | control | 1);
    assert_eq!(bench.unit.read64(TR_REQ_CTL), u64::from(device) << 40 | control, "done");
    bench.unit.read64(TR_RESPONSE)
}

const NW: u64 = 8;
const EXE: u64 = 4;

#[test]
fn the_debug_port_translates() {
    let bench = Bench::on(RiscvConfig::default());
    let root = bench.first_stage(DEVICE, 3, 0x5000);
    bench.map(root, 3, 0, 0x6000, pte(TARGET, V | R | U | A | D | 2 << 61));
    bench.map(root, 3, 1, 0x20_0000, pte(0x40_0000, LEAF));
    bench.map(root, 3, 0, 0x1_3000, pte(0x18000, LEAF | 1 << 63 | 1 << 61));
    assert_eq!(ask(&bench, 0x5abc, DEVICE, NW), TARGET >> 2);
    assert_eq!(bench.unit.read64(TR_REQ_IOVA), 0x5000);
    assert_eq!(ask(&bench, 0x5000, DEVICE, EXE), TARGET >> 2);
    // PBMT; S and the size in the page number: 2 MiB is …0 1111 1111, 64 KiB …0111.
    assert_eq!(ask(&bench, 0x6000, DEVICE, NW), TARGET >> 2 | 2 << 7);
    assert_eq!(ask(&bench, 0x3f_f000, DEVICE, 0), (0x400 | 0xff) << 10 | 1 << 9);
    assert_eq!(ask(&bench, 0x1_3000, DEVICE, 0), (0x10 | 7) << 10 | 1 << 9 | 1 << 7);
    assert_eq!(bench.records().len(), 0);
    // Without NW a write is asked for too, and a fault is recorded as an untranslated write's.
    assert_eq!(ask(&bench, 0x6000, DEVICE, 0) & 1, 1);
    let records = bench.records();
    assert_eq!(records[0], [15 | 3 << 34 | u64::from(DEVICE) << 40, 0, 0x6000, 0]);
    assert_eq!(ask(&bench, 0x6000, DEVICE, NW | EXE) & 1, 1);
    assert_eq!(bench.records()[0][0], 12 | 1 << 34 | u64::from(DEVICE) << 40);
    // PV and PID; the directory does not know processes.
    assert_eq!(ask(&bench, 0x5000, DEVICE, NW | 1 << 32 | 9 << 12) & 1, 1);
    assert_eq!(bench.records()[0][0], 260 | 9 << 12 | 1 << 32 | 2 << 34 | u64::from(DEVICE) << 40);
    // Nothing happens without Go, and in a unit without the port.
    bench.unit.write64(TR_REQ_CTL, 0);
    assert_eq!(bench.unit.read64(TR_RESPONSE) & 1, 1);
}

/// Counter 1 counts `event`; what it shows after `done`.
fn counted(bench: &Bench, selector: u64, done: impl FnOnce()) -> u64 {
    bench.unit.write64(EVENTS, selector);
    bench.unit.write64(COUNTERS, 0);
    done();
    let counted = bench.unit.read64(COUNTERS);
    bench.unit.write64(EVENTS, 0);
    counted
}

#[test]
fn events_are_counted() {
    let bench = Bench::on(RiscvConfig::default());
    let root = bench.pages(4);
    bench.device(DEVICE, [V, sv(3) | 5 << 44 | root >> 12, 0, 0]);
    bench.map_guest(root, 3, 0, 0x5000, pte(TARGET, LEAF));
    bench.first_stage(DEVICE + 1, 3, 0x5000);
    let both = || {
        bench.forget();
        for device in [DEVICE, DEVICE + 1] {
            // What is walked to once is not kept yet.
            for _ in 0..3 {
                bench.read(device, 0x5000).unwrap();
            }
        }
    };
    // Untranslated requests, TLB misses, device directory walks, first- and second-stage walks.
    for (event, expected) in [(0, 0), (1, 6), (2, 0), (3, 0), (4, 4), (5, 2), (6, 0), (7, 2), (8, 2)] {
        assert_eq!(counted(&bench, event, both), expected, "{event}");
    }
    // No such event: WARL.
    bench.unit.write64(EVENTS, 9);
    assert_eq!(bench.unit.read64(EVENTS), 0);
    // Inhibited.
    bench.unit.write32(INHIBIT, 2);
    assert_eq!(counted(&bench, 1, both), 0);
    bench.unit.write32(INHIBIT, !2);
    assert_eq!(bench.unit.read32(INHIBIT), 0xff & !2);
    assert_eq!(counted(&bench, 1, both), 6);
    // By device_id (DV), with a mask up to the lowest 0; by GSCID and PSCID (IDT) where the event has them.
    const DV: u64 = 1 << 61;
    const PV: u64 = 1 << 60;
    const IDT: u64 = 1 << 62;
    const DMASK: u64 = 1 << 15;
    let by = |event: u64, did: u64, pid: u64| event | did << 36 | pid << 16;
    assert_eq!(counted(&bench, DV | by(1, DEVICE.into(), 0), both), 3);
    assert_eq!(counted(&bench, DV | by(1, 0x99, 0), both), 0);
    assert_eq!(counted(&bench, DV | DMASK | by(1, u64::from(DEVICE & !7) | 1, 0), both), 0);
    assert_eq!(counted(&bench, DV | DMASK | by(1, u64::from(DEVICE & !7) | 3, 0), both), 6);
    assert_eq!(counted(&bench, PV | by(1, 0, 0), both), 0, "no process_id");
    assert_eq!(counted(&bench, IDT | DV | by(4, 5, 0), both), 2);
    assert_eq!(counted(&bench, IDT | PV | by(4, 0, 7), both), 2);
    assert_eq!(counted(&bench, IDT | PV | DV | by(4, 5, 7), both), 0);
    assert_eq!(counted(&bench, IDT | by(1, 0, 0), both), 0, "IDT 1 is not supported for requests");
}

#[test]
fn process_walks_and_the_debug_ports_requests_are_counted() {
    let bench = Bench::on(RiscvConfig::default());
    let directory = bench.page();
    bench.device(DEVICE, [V | PDTV, 0, 0, 1 << 60 | directory >> 12]);
    bench.put(directory + 3 * 16, V);
    let port = bench.port(DEVICE, Some(3));
    let go = || {
        bench.access(&port, 0x5000, Access::READ).unwrap();
    };
    assert_eq!(counted(&bench, 6, go), 1);
    assert_eq!(counted(&bench, 6, go), 0, "cached");
    // PV with process 3.
    assert_eq!(counted(&bench, 1 << 60 | 3 << 16 | 1, go), 1);
    assert_eq!(counted(&bench, 1 << 60 | 4 << 16 | 1, go), 0);
    assert_eq!(counted(&bench, 1, || _ = ask(&bench, 0x5000, DEVICE, NW)), 1);
}

#[test]
fn an_overflow_is_kept_and_interrupts_once() {
    let bench = Bench::new(RiscvConfig { interrupts: Interrupts::Messages, ..RiscvConfig::default() });
    bench.queues_on();
    bench.unit.write64(DDTP, BARE);
    bench.unit.write64(ICVEC, 1 << 8);
    bench.unit.write64(MSI + 16, 0x2800_0000);
    bench.unit.write64(COUNTERS + 8, !0);
    bench.unit.write64(EVENTS + 8, 1);
    bench.read(DEVICE, 0).unwrap();
    assert_eq!(bench.unit.read64(COUNTERS + 8), 0);
    assert_eq!(bench.unit.read64(EVENTS + 8), 1 << 63 | 1);
    assert_eq!(bench.unit.read32(OVERFLOWS), 4);
    assert_eq!((bench.unit.read32(IPSR), bench.messages()), (PMIP, vec![(0x2800_0000, 0)]));
    bench.unit.write32(IPSR, PMIP);
    assert_eq!(bench.unit.read32(IPSR), 0);
    // While OF is set, no further overflow tells.
    bench.unit.write64(COUNTERS + 8, !0);
    bench.read(DEVICE, 0).unwrap();
    assert_eq!((bench.unit.read64(COUNTERS + 8), bench.unit.read32(IPSR)), (0, 0));
    bench.unit.write32(OVERFLOWS, 0);
    assert_eq!(bench.unit.read32(OVERFLOWS), 4, "read-only");
    bench.unit.write64(EVENTS + 8, 1);
    assert_eq!(bench.unit.read32(OVERFLOWS), 0);
}

#[test]
fn cycles_go_on_and_overflow() {
    let bench = Bench::new(RiscvConfig::default());
    bench.queues_on();
    bench.unit.write32(INHIBIT, 1);
    bench.unit.write64(CYCLES, 5);
    assert_eq!(bench.unit.read64(CYCLES), 5);
    assert_eq!(bench.unit.read64(CYCLES), 5);
    bench.unit.write64(CYCLES, (1 << 63) - 1);
    bench.unit.write32(INHIBIT, 0);
    while bench.unit.read32(OVERFLOWS) == 0 {
        bench.unit.poll();
    }
    assert_eq!(bench.unit.read64(CYCLES) >> 63, 1);
    assert_eq!(bench.unit.read32(IPSR), PMIP);
    let before = bench.unit.read64(CYCLES);
    while bench.unit.read64(CYCLES) == before {}
    bench.unit.write32(INHIBIT, 1);
    bench.unit.write64(CYCLES, 0);
    assert_eq!(bench.unit.read32(OVERFLOWS), 0);
}

#[test]
fn counters_that_are_not_there_read_zero() {
    let bench = Bench::new(RiscvConfig { counters: Some(3), ..RiscvConfig::default() });
    for counter in 0..31 {
        bench.unit.write64(COUNTERS + counter * 8, 5);
        bench.unit.write64(EVENTS + counter * 8, 1);
        let found = (bench.unit.read64(COUNTERS + counter * 8), bench.unit.read64(EVENTS + counter * 8));
        assert_eq!(found, if counter < 3 { (5, 1) } else { (0, 0) });
    }
    bench.unit.write32(INHIBIT, !0);
    assert_eq!(bench.unit.read32(INHIBIT), 0xf);
}

/// A unit in the middle of something: faults recorded, an error, a masked message, a debug answer, a counter.
fn busy() -> Bench {
    let bench = Bench::on(RiscvConfig::full());
    bench.first_stage(DEVICE, 3, 0x5000);
    bench.unit.write32(FQCSR, 3);
    bench.unit.write64(ICVEC, 3 << 4);
    bench.unit.write64(MSI + 48, 0x2800_1000);
    bench.unit.write32(MSI + 60, 1);
    bench.unit.write32(INHIBIT, 1);
    bench.unit.write64(COUNTERS, 77);
    assert!(bench.load(1, 0).is_err());
    ask(&bench, 0x5000, DEVICE, NW);
    bench.commands(&[[2, 0], [0, 0], [2, 0]]);
    bench
}

fn registers(bench: &Bench) -> Vec<u32> {
    (0..0x400).step_by(4).map(|offset| bench.unit.read32(offset)).collect()
}

#[test]
fn a_restored_unit_reads_and_translates_the_same() {
    let bench = busy();
    let before = registers(&bench);
    let text = serde_json::to_string(&bench.unit.save()).unwrap();
    bench.unit.reset();
    assert_ne!(registers(&bench), before);
    assert_eq!(bench.messages(), []);
    bench.unit.restore(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(registers(&bench), before);
    assert!(bench.load(DEVICE, 0x5000).is_ok());
    // The message still waits for its mask.
    bench.unit.write32(MSI + 60, 0);
    assert_eq!(bench.messages(), [(0x2800_1000, 0)]);
    // The queue goes on where it stood.
    bench.put(QUEUE + 16, 2);
    bench.unit.write32(CQCSR, 1 | 1 << 10);
    assert_eq!((bench.unit.read32(CQH), bench.unit.read32(CQT)), (3, 3));
}

#[test]
fn reset_is_power_on() {
    let bench = busy();
    bench.unit.write32(INHIBIT, 0);
    bench.unit.reset();
    let fresh = Bench::new(RiscvConfig::full());
    for unit in [&bench, &fresh] {
        unit.unit.write32(INHIBIT, 1);
        unit.unit.write64(CYCLES, 0);
    }
    assert_eq!(registers(&bench), registers(&fresh));
    assert!(bench.load(DEVICE, 0x5000).is_err());
}

#[test]
fn an_impossible_state_is_refused_and_changes_nothing() {
    let bench = busy();
    let good = serde_json::to_value(bench.unit.save()).unwrap();
    let before = registers(&bench);
    let wrong: [(&str, serde_json::Value); 7] = [
        ("/ddtp", 5.into()),
        ("/ddtp", (1 << 4).into()),
        ("/fctl", 4.into()),
        ("/command_head", 0x100.into()),
        ("/queue/base", 31.into()),
        ("/events/fqh", 0x80.into()),
        ("/counters/values", serde_json::json!([1, 2])),
    ];
    for (pointer, value) in wrong {
        let mut state = good.clone();
        *state.pointer_mut(pointer).unwrap() = value;
        let state = serde_json::from_value(state).unwrap();
        assert_eq!(bench.unit.restore(&state), Err(StateError::Impossible), "{pointer}");
        assert_eq!(registers(&bench), before);
    }
    let other = Bench::new(RiscvConfig::default());
    assert_eq!(other.unit.restore(&bench.unit.save()), Err(StateError::OtherConfig));
}
