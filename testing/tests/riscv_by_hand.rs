//! QEMU's RISC-V IOMMU, and our model of it, programmed by hand, without the driver: what the engines, the fault queue and the debug port
//! show when the oracle relies on them. Offsets and bits are the specification's, written out.

use portcullis_driver::platform::Memory as _;
use portcullis_spec::PhysAddr;
use portcullis_testing::machine::qemu::{COPY_ENGINES, QemuMachine};
use portcullis_testing::machine::riscv::{Stages, board, like_qemu, model, requester};
use portcullis_testing::machine::{Copy, Machine, MachineError, Touch};
use portcullis_testing::qtest::QemuError;

const DDTP: u64 = 0x10;
const FQB: u64 = 0x28;
const FQH: u64 = 0x30;
const FQT: u64 = 0x34;
const FQCSR: u64 = 0x4c;
const TR_REQ_IOVA: u64 = 0x258;
const TR_REQ_CTL: u64 = 0x260;
const TR_RESPONSE: u64 = 0x268;

/// V, R, W, U, A and D; and V alone.
const LEAF: u64 = 0xd7;
const TABLE: u64 = 1;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A three-level directory whose devices have one Sv39 first stage, set up and put in force.
fn first_stage_lets_through_what_it_maps(machine: &impl Machine) -> Outcome {
    let ram = machine.ram();
    let page = || ram.allocate(4096, 4096).ok_or("out of memory");
    let entry = |table: PhysAddr, flags: u64| table.0 >> 2 | flags;
    let (level2, level1, faults) = (page()?, page()?, page()?);
    let tables = [page()?, page()?, page()?];
    let data = ram.data().0;
    ram.store64(level2, entry(level1, 1));
    for requester in machine.requesters() {
        let id = u64::from(requester.index());
        let at = PhysAddr(level1.0 + (id >> 7) * 8);
        if ram.load64(at) == 0 {
            ram.store64(at, entry(page()?, 1));
        }
        let leaf = (ram.load64(at) & !0x3ff) << 2;
        let context = leaf + (id & 0x7f) * 32;
        // PSCID 7, Sv39.
        ram.store64(PhysAddr(context + 16), 7 << 12);
        ram.store64(PhysAddr(context + 24), 8 << 60 | tables[0].0 >> 12);
        ram.store64(PhysAddr(context), 1);
    }
    let leaf = |iova: u64, entry: u64| ram.store64(PhysAddr(tables[2].0 + (iova >> 12 & 0x1ff) * 8), entry);
    // Programs lie above 2 GiB and in their second MiB; everything else is below 2 MiB.
    let program = ram.script(0).0;
    ram.store64(tables[0], entry(tables[1], TABLE));
    ram.store64(PhysAddr(tables[0].0 + (program >> 30) * 8), entry(tables[1], TABLE));
    ram.store64(tables[1], entry(tables[2], TABLE));
    assert_eq!(program >> 21 & 0x1ff, 0, "programs and data share a table");
    for engine in 0..COPY_ENGINES {
        let at = ram.script(engine);
        leaf(at.0, entry(at, LEAF));
    }
    leaf(0x5000, entry(PhysAddr(data), 0x53));
    leaf(0x6000, entry(PhysAddr(data + 0x3000), LEAF));
    leaf(0x8000, entry(PhysAddr(data), 0x53));

    machine.write64(FQB, faults.0 >> 2 | 6);
    machine.write32(FQCSR, 1);
    assert_eq!(machine.read32(FQCSR), 1 << 16 | 1);
    machine.write64(DDTP, level2.0 >> 2 | 4);
    assert_eq!(machine.read64(DDTP), level2.0 >> 2 | 4);

    ram.write(PhysAddr(data), &[0x5a; 4096]);
    for engine in 0..COPY_ENGINES {
        ram.write(PhysAddr(data + 0x3000), &[0; 4096]);
        assert!(machine.copy(engine, Copy { source: 0x5010, destination: 0x6020, length: 0x20 }), "{engine}");
        let mut found = [0; 0x42];
        ram.read(PhysAddr(data + 0x301f), &mut found);
        assert_eq!(found[..0x21], [&[0][..], &[0x5a; 0x20]].concat());
        assert_eq!(found[0x21..], [0; 0x21]);
        assert_eq!(machine.read32(FQT), 0);
    }

    // Out of a mapping: zeros are read, and a record says who, where and why (cause 13: read page fault).
    assert!(machine.copy(0, Copy { source: 0x7000, destination: 0x6020, length: 8 }));
    let mut found = [1; 9];
    ram.read(PhysAddr(data + 0x3020), &mut found);
    assert_eq!(found, [0, 0, 0, 0, 0, 0, 0, 0, 0x5a]);
    // QEMU records each four bytes of a read that it refuses.
    let newest = || {
        let tail = machine.read32(FQT);
        let at = faults.0 + 32 * u64::from(tail.wrapping_sub(1) & 0x7f);
        let fault = (ram.load64(PhysAddr(at)), ram.load64(PhysAddr(at + 16)));
        let news = tail != machine.read32(FQH);
        machine.write32(FQH, tail);
        news.then_some(fault)
    };
    let (record, iotval) = newest().ok_or("no record")?;
    assert_eq!((record & 0xfff, record >> 40, iotval & !0xfff), (13, 0x10, 0x7000));
    assert_eq!(newest(), None);

    // A write where only reading is allowed (cause 15). QEMU records it only where it has not cached a translation for reads.
    ram.put_token(PhysAddr(data + 0x10), 0x77);
    assert_eq!(machine.touch(Touch { read: 0x5010, write: 0x8008 }), 0x77);
    let (record, iotval) = newest().ok_or("no record")?;
    assert_eq!((record & 0xfff, record >> 34 & 0x3f, record >> 40), (15, 3, 0xa8));
    assert_eq!(iotval & !0xfff, 0x8000);

    // The debug port answers for a device, and changes nothing else: read only, 0x10.
    machine.write64(TR_REQ_IOVA, 0x5000);
    machine.write64(TR_REQ_CTL, 0x10 << 40 | 8 | 1);
    assert_eq!(machine.read64(TR_REQ_CTL) & 1, 0);
    // QEMU puts the page number where its place is without shifting it there.
    let response = machine.read64(TR_RESPONSE);
    assert!([data >> 12 << 10, data >> 12 & !0x3ff].contains(&response), "{response:#x}");
    machine.health()?;
    Ok(())
}

#[test]
fn qemu_lets_through_what_a_first_stage_maps() -> Outcome {
    match QemuMachine::start(&board(Stages::Both), requester) {
        Err(MachineError::Qemu(QemuError::Absent { program })) => {
            println!("skipped: {program} is not installed");
            Ok(())
        }
        machine => first_stage_lets_through_what_it_maps(&machine?),
    }
}

#[test]
fn the_model_lets_through_what_a_first_stage_maps() -> Outcome {
    first_stage_lets_through_what_it_maps(&model(like_qemu(Stages::Both))?)
}
