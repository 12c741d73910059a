//! The register file (SMMUv3 6.2, 6.3).

mod smmuv3_machine;

use portcullis_model::Registers;
use portcullis_model::smmuv3::Smmuv3Unit;
use portcullis_model::smmuv3::config::{ConfigError, FlagUpdates, Smmuv3Config, StallModel, TableByteOrder};
use portcullis_model::{NoInterrupts, OwnedMemory};
use smmuv3_machine::*;
use std::sync::Arc;

fn idr(config: &Smmuv3Config) -> [u32; 6] {
    let machine = Machine::reset(config.clone());
    [0, 4, 8, 0xc, 0x10, 0x14].map(|offset| machine.unit.read32(offset))
}

#[test]
fn identification_says_what_was_chosen_and_nothing_else() {
    // S1P, TTF AArch64, COHACC, ASID16, TTENDIAN little, STALL_MODEL terminate, TERM_MODEL, ST_LEVEL two-level.
    let plain = 1 << 1 | 2 << 2 | 1 << 4 | 1 << 12 | 2 << 21 | 1 << 24 | 1 << 26 | 1 << 27;
    let idr5 = 4 | 1 << 4;
    assert_eq!(idr(&Smmuv3Config::default()), [plain, 16 | 8 << 16 | 8 << 21, 0, 0, 0, idr5]);
    // HTTU 2, HYP, MSI, SEV, ATOS, VMID16, CD2L; never BTM, ATS, PRI, VMW, VATOS, NS1ATS, DORMHINT, RME_IMPL.
    let full = 3
        | 2 << 2
        | 1 << 4
        | 2 << 6
        | 1 << 9
        | 1 << 12
        | 1 << 13
        | 1 << 14
        | 1 << 15
        | 1 << 18
        | 1 << 19
        | 1 << 27;
    assert_eq!(
        idr(&Smmuv3Config::full()),
        [
            full,
            // SIDSIZE, SSIDSIZE, EVENTQS, CMDQS, ATTR_PERMS_OVR.
            32 | 20 << 6 | 19 << 16 | 19 << 21 | 1 << 26,
            0,
            // HAD, XNX, STT, RIL, BBML 2.
            1 << 2 | 1 << 4 | 1 << 9 | 1 << 10 | 2 << 11,
            0,
            // OAS 52, three granules, VAX, STALL_MAX.
            6 | 7 << 4 | 1 << 10 | 64 << 16,
        ]
    );
    // Each by itself.
    let base =
        Smmuv3Config { stage2: true, substream_id_bits: 8, granule_64k: true, ..Smmuv3Config::default() };
    let before = idr(&base);
    let choices: [(Smmuv3Config, usize, u32, u32); 14] = [
        (Smmuv3Config { vmid_16: true, ..base.clone() }, 0, 1 << 18, 1 << 18),
        (Smmuv3Config { two_level_contexts: true, ..base.clone() }, 0, 1 << 19, 1 << 19),
        (Smmuv3Config { flag_updates: FlagUpdates::Accessed, ..base.clone() }, 0, 3 << 6, 1 << 6),
        (Smmuv3Config { hypervisor: true, ..base.clone() }, 0, 1 << 9, 1 << 9),
        (Smmuv3Config { table_byte_order: TableByteOrder::Big, ..base.clone() }, 0, 3 << 21, 3 << 21),
        (Smmuv3Config { coherent: false, ..base.clone() }, 0, 1 << 4, 0),
        (Smmuv3Config { read_as_zero: true, ..base.clone() }, 0, 1 << 26, 0),
        (Smmuv3Config { messages: true, ..base.clone() }, 0, 1 << 13, 1 << 13),
        (Smmuv3Config { wake_events: true, ..base.clone() }, 0, 1 << 14, 1 << 14),
        (Smmuv3Config { translation_operations: true, ..base.clone() }, 0, 1 << 15, 1 << 15),
        (Smmuv3Config { small_tables: true, ..base.clone() }, 3, 1 << 9, 1 << 9),
        (Smmuv3Config { range_invalidation: true, ..base.clone() }, 3, 1 << 10, 1 << 10),
        (Smmuv3Config { wide_input: true, ..base.clone() }, 5, 3 << 10, 1 << 10),
        (Smmuv3Config { output_bits: 36, ..base.clone() }, 5, 7, 1),
    ];
    for (config, register, mask, bits) in choices {
        let mut expected = before;
        expected[register] = expected[register] & !mask | bits;
        assert_eq!(idr(&config), expected);
    }
    let stall = Smmuv3Config { stall_model: StallModel::Stall, stall_max: 3, ..base };
    assert_eq!(idr(&stall)[0], before[0] & !(3 << 24) | 2 << 24);
    assert_eq!(idr(&stall)[5], before[5] | 3 << 16);
}

#[test]
fn configurations_that_contradict_themselves_make_no_unit() {
    let plain = Smmuv3Config::default;
    for config in [
        Smmuv3Config { revision: 0, ..plain() },
        Smmuv3Config { revision: 4, ..plain() },
        Smmuv3Config { output_bits: 45, ..plain() },
        Smmuv3Config { stream_id_bits: 33, ..plain() },
        Smmuv3Config { substream_id_bits: 21, ..plain() },
        Smmuv3Config { command_queue_log2: 20, ..plain() },
        Smmuv3Config { event_queue_log2: 20, ..plain() },
        Smmuv3Config { break_before_make_level: 3, ..plain() },
        Smmuv3Config { granule_4k: false, ..plain() },
        Smmuv3Config { stage1: false, asid_16: false, ..plain() },
        Smmuv3Config { stage1: false, stage2: true, ..plain() },
        Smmuv3Config { vmid_16: true, ..plain() },
        Smmuv3Config { two_level_streams: false, ..plain() },
        Smmuv3Config { two_level_contexts: true, ..plain() },
        Smmuv3Config { wide_input: true, ..plain() },
        Smmuv3Config { stall_max: 1, ..plain() },
        Smmuv3Config { stall_model: StallModel::Stall, ..plain() },
        Smmuv3Config { stage2_execute_by_privilege: true, ..plain() },
    ] {
        let memory = Arc::new(OwnedMemory::new(0x1000));
        let made: Result<_, ConfigError> = Smmuv3Unit::new(config.clone(), memory, Arc::new(NoInterrupts));
        assert!(made.is_err(), "{config:?}");
    }
}

#[test]
fn only_aligned_doublewords_and_quadwords_reach_registers() {
    let machine = Machine::reset(Smmuv3Config::full());
    let mut bytes = [0xee; 8];
    machine.unit.mmio_read(0, &mut bytes);
    assert_eq!(u64::from_le_bytes(bytes), machine.unit.read64(0));
    for (offset, length) in [(0, 1), (0, 2), (2, 4), (4, 8), (0, 3), (0, 0)] {
        let mut bytes = [0xee; 8];
        machine.unit.mmio_read(offset, &mut bytes[..length]);
        assert_eq!(bytes[..length], [0; 8][..length]);
        machine.unit.mmio_write(0x80 + offset, &[0xff; 8][..length]);
        assert_eq!(machine.unit.read64(0x80), 0);
    }
    machine.unit.mmio_write(0x84, &[1, 2, 3, 4]);
    assert_eq!(machine.unit.read64(0x80), 0x0003_0201 << 32, "bits 61:56 are reserved");
    machine.unit.mmio_write(0x80, &0x1234_5678_9abc_def0u64.to_le_bytes());
    assert_eq!(machine.unit.read64(0x80), 0x0034_5678_9abc_dec0);
}

#[test]
fn reserved_and_read_only_bits_stay() {
    let machine = Machine::reset(Smmuv3Config::full());
    let all = |offset: u64| {
        machine.unit.write32(offset, u32::MAX);
        machine.unit.read32(offset)
    };
    for offset in (0..0x20).step_by(4) {
        let before = machine.unit.read32(offset);
        assert_eq!(all(offset), before, "{offset:#x}");
    }
    assert_eq!(all(0x28), 0xfff, "CR1");
    assert_eq!(all(CR2), 3, "CR2: E2H, RECINVSID");
    assert_eq!(all(CR0ACK), 0);
    assert_eq!(all(GBPA), 0x001f_3f1f);
    assert_eq!(all(IRQ_CTRL), 5);
    assert_eq!(machine.unit.read32(0x54), 5);
    assert_eq!(all(GERROR), 0);
    assert_eq!(all(GERRORN), 0xb5);
    machine.unit.write32(GERRORN, 0);
    assert_eq!(all(0x88), 0x0003_07ff);
    assert_eq!(all(0x90), 0xffff_ffff);
    assert_eq!(all(0x94), 0x40ff_ffff);
    // Indexes have as many bits as the queue's size wants.
    machine.unit.write32(0x90, 4);
    assert_eq!((all(CMDQ_PROD), all(CMDQ_CONS)), (0x1f, 0x7f00_001f));
    machine.unit.write32(0xa0, 3);
    assert_eq!((all(EVENTQ_PROD), all(EVENTQ_CONS)), (0x8000_000f, 0x8000_000f));
    // Places of what is not there, and page 0's of the event queue's indexes.
    for offset in [
        0x30, 0x40, 0x48, 0xa8, 0xac, 0xc0, 0xc8, 0xd0, 0x130, 0x180, 0x190, 0x200, 0x8000, 0x1_00c8,
        0x1_fffc,
    ] {
        assert_eq!(all(offset), 0, "{offset:#x}");
    }
    assert_eq!(all(!3), 0);
    // EL2 is not there; neither are messages.
    let machine = Machine::reset(Smmuv3Config::default());
    machine.unit.write32(CR2, u32::MAX);
    assert_eq!(machine.unit.read32(CR2), 2);
    machine.unit.write64(0x68, u64::MAX);
    machine.unit.write64(0xb0, u64::MAX);
    assert_eq!((machine.unit.read64(0x68), machine.unit.read64(0xb0)), (0, 0));
}

#[test]
fn registers_are_fixed_while_what_they_steer_is_enabled() {
    let machine = Machine::new();
    let guarded = [
        (0x28, 1),
        (CR2, 0),
        (0x80, 0x40),
        (0x84, 1),
        (0x88, 5),
        (0x90, 0x40),
        (CMDQ_CONS, 1),
        (0xa0, 0x40),
        (EVENTQ_PROD, 1),
    ];
    for (offset, value) in guarded {
        let before = machine.unit.read32(offset);
        machine.unit.write32(offset, value);
        assert_eq!(machine.unit.read32(offset), before, "{offset:#x}");
    }
    // 6.3.11: CR1's table half by SMMUEN, its queue half by the queues.
    for (enabled, writable) in [(CMDQEN, 0xfc0), (EVENTQEN, 0xfc0), (SMMUEN, 0x03f)] {
        machine.unit.write32(CR0, 0);
        machine.unit.write32(0x28, 0);
        machine.unit.write32(CR0, enabled);
        machine.unit.write32(0x28, u32::MAX);
        assert_eq!(machine.unit.read32(0x28), writable);
    }
    machine.unit.write32(CR0, 0);
    assert_eq!(machine.unit.read32(CR0ACK), 0);
    for (offset, value) in guarded {
        machine.unit.write32(offset, value);
        assert_eq!(machine.unit.read32(offset), value, "{offset:#x}");
    }
    machine.unit.write32(IRQ_CTRL, 5);
    for offset in [0x68, 0x70, 0x74, 0xb0, 0xb8, 0xbc] {
        machine.unit.write32(offset, 0x14);
        assert_eq!(machine.unit.read32(offset), 0, "{offset:#x}");
    }
    machine.unit.write32(IRQ_CTRL, 0);
    for offset in [0x68, 0x70, 0x74, 0xb0, 0xb8, 0xbc] {
        machine.unit.write32(offset, 0x14);
        assert_eq!(machine.unit.read32(offset), 0x14, "{offset:#x}");
    }
}

#[test]
fn reset_is_power_on_and_a_restored_unit_is_the_same() {
    let mut machine = Machine::new();
    let table = machine.attach(STREAM, 1);
    machine.map(table, 0x1000, PAGE, S1 | USER);
    machine.put(PAGE, 3);
    machine.read(OTHER_STREAM, 0).unwrap_err();
    machine.command(&[[0x30, 0]]);
    machine.unit.write32(IRQ_CTRL, 5);
    let saved = machine.unit.save();
    let text = serde_json::to_string(&saved).unwrap();
    let registers = |machine: &Machine| {
        (0..0x200)
            .step_by(4)
            .chain([EVENTQ_PROD, EVENTQ_CONS])
            .map(|at| machine.unit.read32(at))
            .collect::<Vec<_>>()
    };
    let before = registers(&machine);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(3));
    machine.unit.reset();
    let fresh = Machine::reset(Smmuv3Config::full());
    assert_eq!(registers(&machine), registers(&fresh));
    assert_eq!(machine.read(STREAM, PAGE), Ok(3), "passes");
    machine.unit.restore(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(registers(&machine), before);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(3));
    machine.take_events();
    // Not of this unit, and not of any.
    let other = Machine::reset(Smmuv3Config::default());
    assert!(other.unit.restore(&saved).is_err());
    let impossible = text.replacen("\"cr0\":13", "\"cr0\":15", 1);
    assert_ne!(impossible, text);
    assert!(machine.unit.restore(&serde_json::from_str(&impossible).unwrap()).is_err());
    assert_eq!(machine.read(STREAM, 0x1000), Ok(3));
}
