//! The RISC-V driver on QEMU's unit, with every choice of stages, and what is its own on our model.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;
mod bench;

use std::cell::Cell;

use bench::{Between, ModelBench};
use portcullis_driver::platform::{Memory as _, Mmio};
use portcullis_driver::riscv::{Options, Riscv};
use portcullis_driver::{Device, Domain, DomainOptions, Error, FaultSignal, Feature, Unit, UnitError};
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_spec::riscv::registers::IommuMode;
use portcullis_spec::{Access, FaultReason, Iova, PhysAddr, Requester};
use portcullis_testing::machine::qemu::{COPY_ENGINES, QemuMachine};
use portcullis_testing::machine::riscv::{RiscvMachine, Stages, board, model, requester};
use portcullis_testing::machine::still::Still;
use portcullis_testing::machine::{Copy, Machine as _, MachineError};
use portcullis_testing::qtest::QemuError;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_driver_governs_the_engines_of_qemu() -> Outcome {
    for board in Stages::ALL.map(board) {
        match QemuMachine::start(&board, requester) {
            Err(MachineError::Qemu(QemuError::Absent { program })) => {
                println!("skipped: {program} is not installed");
                return Ok(());
            }
            machine => governs(&machine?)?,
        }
    }
    Ok(())
}

fn governs(machine: &QemuMachine) -> Outcome {
    let ram = machine.ram();
    let unit = Unit::new(Riscv::start(machine, ram, Options::default())?);
    unit.enable()?;
    let domain = unit.create_domain(DomainOptions::default())?;
    for (engine, requester) in machine.requesters().iter().enumerate().take(COPY_ENGINES) {
        unit.add_device(Device::new(*requester))?;
        let program = ram.script(engine);
        domain.map(Iova(program.0), program, 4096, Access::READ)?;
    }
    let data = ram.data();
    let target = PhysAddr(data.0 + 0x8000);
    domain.map(Iova(0x10_0000), data, 0x4000, Access::READ)?;
    domain.map(Iova(0x20_0000), target, 0x1000, Access::READ_WRITE)?;
    let copy = Copy { source: 0x10_2ffc, destination: 0x20_0010, length: 8 };
    for (engine, requester) in machine.requesters().iter().enumerate().take(COPY_ENGINES) {
        ram.write(PhysAddr(data.0 + 0x2ffc), b"governed");
        ram.write(target, &[0; 0x20]);
        assert!(!machine.copy(engine, copy), "not attached");
        let mut faults = Vec::new();
        unit.read_faults(|record| faults.push(record.fault.requester));
        assert!(!faults.is_empty() && faults.iter().all(|faulty| faulty == requester), "{faults:?}");
        unit.attach(*requester, None, &domain)?;
        assert!(machine.copy(engine, copy));
        let mut found = [0; 8];
        ram.read(PhysAddr(target.0 + 0x10), &mut found);
        assert_eq!(&found, b"governed");
        assert_eq!(unit.read_faults(|_| ()).read, 0);
        // What was cached is forgotten when unmap returns.
        domain.unmap(Iova(0x10_3000), 0x1000)?;
        assert!(machine.copy(engine, copy));
        ram.read(PhysAddr(target.0 + 0x10), &mut found);
        assert_eq!(&found, b"gove\0\0\0\0");
        assert!(unit.read_faults(|_| ()).read > 0);
        domain.map(Iova(0x10_3000), PhysAddr(data.0 + 0x3000), 0x1000, Access::READ)?;
        assert!(machine.copy(engine, copy));
        ram.read(PhysAddr(target.0 + 0x10), &mut found);
        assert_eq!(&found, b"governed");
        unit.detach(*requester, None)?;
        assert!(!machine.copy(engine, copy));
        unit.read_faults(|_| ());
    }
    let identity = unit.identity_domain()?;
    unit.attach(machine.requesters()[0], None, &identity)?;
    assert!(machine.copy(0, Copy { source: data.0 as u32, destination: target.0 as u32, length: 8 }));
    unit.detach(machine.requesters()[0], None)?;
    unit.shut_down()?;
    drop((domain, identity));
    assert_eq!(ram.bytes_in_use(), 0);
    // Everything passes then.
    assert!(machine.copy(0, Copy { source: data.0 as u32, destination: target.0 as u32, length: 8 }));
    machine.health()?;
    Ok(())
}

const A: Requester = Requester::Device(0x18);
const PAGE: u64 = 0x1000;

type ModelUnit<'a, M> = Unit<Riscv<M, &'a Still<'a>>>;

fn started<'a, M: Mmio>(
    registers: M,
    platform: &'a Still<'a>,
    devices: impl IntoIterator<Item = Requester>,
) -> ModelUnit<'a, M> {
    let unit = Unit::new(Riscv::start(registers, platform, Options::default()).unwrap());
    unit.enable().unwrap();
    for device in devices {
        unit.add_device(Device::new(device)).unwrap();
    }
    unit
}

fn domain<'a, M: Mmio>(unit: &ModelUnit<'a, M>) -> Domain<Riscv<M, &'a Still<'a>>> {
    unit.create_domain(DomainOptions::default()).unwrap()
}

fn dma(machine: &RiscvMachine, device: Requester, address: u64, access: Access) -> Result<u64, u32> {
    let port = machine.unit().unit.port(device.index(), None);
    let answer = port.translate(&port.transaction(Iova(address), 1, access));
    answer.map(|translation| translation.address.0).map_err(|fault| fault.code)
}

fn read(machine: &RiscvMachine, address: u64) -> Result<u64, u32> {
    dma(machine, A, address, Access::READ)
}

#[test]
fn faults_come_decoded_in_order_and_overflow_is_counted() {
    let machine = model(RiscvConfig { sv39x4: false, sv48x4: false, ..RiscvConfig::default() }).unwrap();
    let platform = Still::new(machine.ram());
    let unit = started(&machine, &platform, [A]);
    let domain = domain(&unit);
    domain.map(Iova(0x1000), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
    unit.attach(A, None, &domain).unwrap();
    assert_eq!(dma(&machine, A, 0x1234, Access::WRITE), Err(15));
    assert_eq!(read(&machine, 0x7000), Err(13));
    assert_eq!(dma(&machine, Requester::Device(0x99), 0x8000, Access::READ), Err(258));
    let mut faults = Vec::new();
    let counts = unit.read_faults(|record| faults.push(record.fault));
    assert_eq!((counts.read, counts.overflows, counts.unknown), (3, 0, 0));
    let seen: Vec<_> = faults.iter().map(|it| (it.requester, it.address, it.access, it.code)).collect();
    assert_eq!(
        seen,
        [
            (A, Iova(0x1234), Access::WRITE, 15),
            (A, Iova(0x7000), Access::READ, 13),
            (Requester::Device(0x99), Iova(0x8000), Access::READ, 258),
        ]
    );
    assert!(matches!(faults[2].reason, FaultReason::EntryNotPresent(_)));
    // One page holds 128 records, of which one is always free; the unit records again once the driver has read.
    for _ in 0..130 {
        read(&machine, 0x7000).unwrap_err();
    }
    let counts = unit.read_faults(|_| ());
    assert_eq!((counts.read, counts.overflows), (127, 1));
    read(&machine, 0x7000).unwrap_err();
    assert_eq!(unit.read_faults(|_| ()).read, 1);
    assert_eq!((unit.fault_totals().read, unit.fault_totals().overflows), (131, 1));
}

#[test]
fn an_interrupt_says_that_faults_wait() {
    for interrupts in [Interrupts::Messages, Interrupts::Wires, Interrupts::Both] {
        let machine = model(RiscvConfig { interrupts, ..RiscvConfig::default() }).unwrap();
        let platform = Still::new(machine.ram());
        let unit = started(&machine, &platform, [A]);
        // `ipsr.fip`, which sends the message or drives the wire.
        let pending = || machine.read32(0x54);
        read(&machine, 0).unwrap_err();
        assert_eq!(pending(), 0);
        unit.read_faults(|_| ());
        unit.signal_faults(Some(FaultSignal { address: 0x2800_1000, data: 0x41 }));
        if interrupts != Interrupts::Wires {
            assert_eq!(
                (machine.read64(0x300), machine.read32(0x308), machine.read32(0x30c)),
                (0x2800_1000, 0x41, 0)
            );
        }
        read(&machine, 0).unwrap_err();
        assert_eq!(pending(), 2);
        unit.read_faults(|_| ());
        assert_eq!(pending(), 0);
        unit.signal_faults(None);
        read(&machine, 0).unwrap_err();
        assert_eq!(pending(), 0);
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    /// The first new command is none.
    Illegal,
    /// The tail does not arrive.
    Hang,
}

#[test]
fn a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery() {
    type Expected = fn(UnitError) -> bool;
    let troubles: [(Trouble, Expected); 2] = [
        (Trouble::Illegal, |error| matches!(error, UnitError::QueueCommand { .. })),
        (Trouble::Hang, |error| matches!(error, UnitError::QueueTimeout { .. })),
    ];
    let configs =
        || [RiscvConfig::default(), RiscvConfig { sv39: false, sv48: false, ..RiscvConfig::default() }];
    for ((trouble, is_expected), config) in
        troubles.into_iter().flat_map(|it| configs().map(|config| (it, config)))
    {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let active = Cell::new(None);
        // 5.6, 5.8: cqb and cqt.
        let write = |offset, value| {
            let tail = machine.read32(0x24);
            match active.get().filter(|_| offset == 0x24 && value != u64::from(tail)) {
                Some(Trouble::Hang) => return None,
                Some(Trouble::Illegal) => {
                    active.set(None);
                    let base = machine.read64(0x18) >> 10 << 12;
                    machine.ram().store64(PhysAddr(base + u64::from(tail) * 16), 0);
                }
                None => {}
            }
            Some(value)
        };
        let between = Between { machine: &machine, read: &|_, value| value, write: &write };
        let bench = ModelBench { machine: &machine, platform: &platform, requester: Requester::Device };
        let unit = started(&between, &platform, behaviour::Bench::devices(&bench));
        let (begin, end) = (|| active.set(Some(trouble)), || active.set(None));
        let end = (trouble == Trouble::Hang).then_some(&end as &dyn Fn());
        behaviour::a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery(
            &bench,
            unit,
            &behaviour::Trouble { begin: &begin, end, is_expected },
        );
    }
}

#[test]
fn a_unit_left_by_another_is_taken_over() {
    // 5.5: whatever it was, nothing passes after enable but what the driver says; and what passed until then goes on passing.
    for (mode, passes) in [(0u64, false), (1, true), (2, false), (3, false), (4, false)] {
        let machine = model(RiscvConfig::default()).unwrap();
        machine.write64(0x10, machine.ram().data().0 >> 2 | mode);
        let platform = Still::new(machine.ram());
        let unit = Unit::new(Riscv::start(&machine, &platform, Options::default()).unwrap());
        assert_eq!(read(&machine, 0x5000).is_ok(), passes, "{mode}");
        unit.enable().unwrap();
        assert_eq!(machine.read64(0x10) & 0xf, u64::from(IommuMode::ThreeLevel.encode()));
        assert_eq!(read(&machine, 0x5000), Err(258));
        unit.disable().unwrap();
        assert_eq!(read(&machine, 0x5000), Ok(0x5000));
        unit.shut_down().unwrap();
        assert_eq!(platform.blocks(), 0);
    }
}

#[test]
fn directories_are_as_deep_as_the_unit_has_them() {
    for (config, mode, reach) in [
        (RiscvConfig::default(), 4, 24),
        (RiscvConfig { three_level: false, ..RiscvConfig::default() }, 3, 16),
        (RiscvConfig { three_level: false, two_level: false, ..RiscvConfig::default() }, 2, 7),
    ] {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let unit = started(&machine, &platform, [A]);
        assert_eq!(machine.read64(0x10) & 0xf, mode);
        let (last, beyond) = (Requester::Device((1 << reach) - 1), Requester::Device(1 << reach));
        unit.add_device(Device::new(last)).unwrap();
        assert_eq!(unit.add_device(Device::new(beyond)), Err(Error::Unsupported(Feature::Requester(beyond))));
        let identity = unit.identity_domain().unwrap();
        unit.attach(last, None, &identity).unwrap();
        assert_eq!(dma(&machine, last, 0x5000, Access::WRITE), Ok(0x5000));
    }
}

#[test]
fn an_allocator_empty_at_any_point_leaves_nothing_behind() {
    for config in [
        RiscvConfig::default(),
        RiscvConfig { pd8: false, pd17: false, pd20: false, ..RiscvConfig::default() },
    ] {
        behaviour::an_allocator_empty_at_any_point_leaves_nothing_behind(|allowed| {
            let machine = model(config.clone()).unwrap();
            let platform = Still::new(machine.ram());
            platform.limit(allowed);
            // Far apart, so that each needs all levels of the directory for itself.
            let requester = |number| Requester::Device(number << 16);
            let bench = ModelBench { machine: &machine, platform: &platform, requester };
            let riscv = Riscv::start(&machine, &platform, Options::default());
            let result = riscv.and_then(|riscv| behaviour::a_life(&bench, Unit::new(riscv)));
            (result, platform.blocks())
        });
    }
}
