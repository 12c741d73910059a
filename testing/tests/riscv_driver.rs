//! The RISC-V driver on QEMU's unit, with every choice of stages.

use portcullis_driver::riscv::{Options, Riscv};
use portcullis_driver::{Device, DomainOptions, Unit};
use portcullis_spec::{Access, Iova, PhysAddr};
use portcullis_testing::machine::qemu::{COPY_ENGINES, QemuMachine};
use portcullis_testing::machine::riscv::{Stages, board, requester};
use portcullis_testing::machine::{Copy, Machine as _, MachineError};
use portcullis_testing::qtest::QemuError;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_driver_governs_the_engines_of_qemu() -> Outcome {
    for stages in Stages::ALL {
        match QemuMachine::start(&board(stages), requester) {
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
