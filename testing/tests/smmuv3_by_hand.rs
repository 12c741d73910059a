//! QEMU's SMMUv3 programmed by hand, without the driver: what the engines and the event queue show when the oracle relies on
//! them. Offsets and bits are the specification's, written out.

use portcullis_driver::platform::{Memory as _, Mmio as _};
use portcullis_spec::PhysAddr;
use portcullis_testing::machine::qemu::{COPY_ENGINES, QemuMachine};
use portcullis_testing::machine::smmuv3::{Stages, board, requester};
use portcullis_testing::machine::{Copy, Machine as _, MachineError, Touch};
use portcullis_testing::qtest::QemuError;

const IDR0: u64 = 0x0;
const CR0: u64 = 0x20;
const CR0ACK: u64 = 0x24;
const STRTAB_BASE: u64 = 0x80;
const STRTAB_BASE_CFG: u64 = 0x88;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;
const EVENTQ_BASE: u64 = 0xa0;
const EVENTQ_PROD: u64 = 0x1_00a8;

/// 3 levels of 4 KiB tables: 39 bits. Every engine's program, and one page of data, are mapped.
fn translate(stages: Stages) -> Result<(), Box<dyn std::error::Error>> {
    let machine = match QemuMachine::start(&board(stages), requester) {
        Err(MachineError::Qemu(QemuError::Absent { program })) => {
            println!("skipped: {program} is not installed");
            return Ok(());
        }
        other => other?,
    };
    let ram = machine.ram();
    // 6.3.1: S2P, S1P.
    let expected = match stages {
        Stages::One => 0b10,
        Stages::Two => 0b01,
        Stages::Nested => 0b11,
    };
    assert_eq!(machine.read32(IDR0) & 3, expected);

    let page = || ram.allocate(4096, 4096).ok_or("out of memory");
    let (commands, events, descriptors) = (page()?, page()?, page()?);
    let tables = [page()?, page()?, page()?];
    // 512 entries of 64 bytes reach the highest requester ID, 0x100.
    let streams = ram.allocate(512 * 64, 512 * 64).ok_or("out of memory")?;
    let second = matches!(stages, Stages::Two);
    let (permissions, unprivileged) = if second { (0b11 << 6 | 0xf << 2, 0) } else { (0, 1 << 6) };
    for requester in machine.requesters() {
        let at = streams.0 + u64::from(requester.index()) * 64;
        let words = if second {
            // 5.2: V, Config 0b110; S2VMID 1, S2T0SZ 25, S2SL0 1, S2TG 0, S2PS 44 bits, S2AA64, S2R; S2TTB.
            let word2 = 1 | 25 << 32 | 1 << 38 | 4 << 48 | 1 << 51 | 1 << 58;
            [1 | 0b110 << 1, 0, word2, tables[0].0]
        } else {
            [1 | 0b101 << 1 | descriptors.0, 0, 0, 0]
        };
        for (index, word) in words.into_iter().enumerate() {
            ram.store64(PhysAddr(at + 8 * index as u64), word);
        }
    }
    // 5.4: T0SZ 25, TG0 0, EPD1, V, IPS 44 bits, AA64, R, A, ASID 1; TTB0; MAIR attribute 0 write-back.
    let word0 = 25 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 48;
    for (index, word) in [word0, tables[0].0, 0, 0xff].into_iter().enumerate() {
        ram.store64(PhysAddr(descriptors.0 + 8 * index as u64), word);
    }
    for (table, next) in tables.iter().zip(&tables[1..]) {
        ram.store64(*table, next.0 | 3);
    }
    let leaf = |iova: u64, entry: u64| {
        let attributes = 3 | 1 << 10 | 3 << 8 | permissions | unprivileged;
        ram.store64(PhysAddr(tables[2].0 + (iova >> 12 & 0x1ff) * 8), entry | attributes);
    };
    // The programs lie in the first 2 MiB of memory, at 0x4000_0000: index 1 of the first level.
    ram.store64(PhysAddr(tables[0].0 + 8), tables[1].0 | 3);
    for engine in 0..COPY_ENGINES {
        leaf(ram.script(engine).0, ram.script(engine).0);
    }
    let data = ram.data().0;
    leaf(0x5000, data);
    leaf(0x6000, data + 0x3000);
    leaf(0x8000, data);

    machine.write64(STRTAB_BASE, streams.0);
    machine.write32(STRTAB_BASE_CFG, 9);
    machine.write64(CMDQ_BASE, commands.0 | 8);
    machine.write32(CMDQ_PROD, 0);
    machine.write32(CMDQ_CONS, 0);
    machine.write64(EVENTQ_BASE, events.0 | 7);
    machine.write32(CR0, 0b1101);
    assert_eq!(machine.read32(CR0ACK), 0b1101);

    ram.write(PhysAddr(data), &[0x5a; 4096]);
    for engine in 0..COPY_ENGINES {
        ram.write(PhysAddr(data + 0x3000), &[0; 4096]);
        assert!(machine.copy(engine, Copy { source: 0x5000, destination: 0x6000, length: 4096 }));
        let mut seen = [0; 4096];
        ram.read(PhysAddr(data + 0x3000), &mut seen);
        assert!(seen.iter().all(|byte| *byte == 0x5a), "engine {engine}");
    }
    assert_eq!(machine.read32(EVENTQ_PROD), 0);
    ram.put_token(PhysAddr(data), 0x77);
    assert_eq!(machine.touch(Touch { read: 0x5000, write: 0x8080 }), 0x77);
    // 7.3.13: F_TRANSLATION with the StreamID, the address, and that it was a read.
    machine.copy(0, Copy { source: 0x7000, destination: 0x6000, length: 4 });
    assert_eq!(machine.read32(EVENTQ_PROD), 1);
    let low = ram.load64(events);
    assert_eq!((low & 0xff, low >> 32), (0x10, u64::from(machine.requesters()[0].index())));
    let syndrome = ram.load64(PhysAddr(events.0 + 8));
    assert_eq!((syndrome >> 35 & 1, syndrome >> 39 & 1), (1, u64::from(second)));
    assert_eq!(ram.load64(PhysAddr(events.0 + 16)), 0x7000);
    machine.health()?;
    Ok(())
}

#[test]
fn stage_1_lets_through_what_it_maps() -> Result<(), Box<dyn std::error::Error>> {
    translate(Stages::One)
}

#[test]
fn stage_2_lets_through_what_it_maps() -> Result<(), Box<dyn std::error::Error>> {
    translate(Stages::Two)
}

#[test]
fn a_unit_of_both_stages_lets_through_what_the_first_maps() -> Result<(), Box<dyn std::error::Error>> {
    translate(Stages::Nested)
}
