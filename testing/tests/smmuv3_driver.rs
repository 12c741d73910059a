//! The driver over QEMU's SMMUv3, one thing after the other. `cargo xtask oracle smmuv3` runs random programs.

use portcullis_driver::smmuv3::{Options, Smmuv3};
use portcullis_driver::{Device, DomainOptions, Unit};
use portcullis_spec::{Access, FaultReason, Iova, PhysAddr, StageNumber};
use portcullis_testing::machine::qemu::QemuMachine;
use portcullis_testing::machine::ram::Ram;
use portcullis_testing::machine::smmuv3::{Stages, board, requester};
use portcullis_testing::machine::{Copy, Machine as _, MachineError, Touch};
use portcullis_testing::qtest::QemuError;

type QemuUnit<'m> = Unit<Smmuv3<&'m QemuMachine, &'m Ram>>;

fn on_qemu(test: impl Fn(&QemuMachine, &QemuUnit<'_>, Stages)) {
    for stages in Stages::ALL {
        let machine = match QemuMachine::start(&board(stages), requester) {
            Err(MachineError::Qemu(QemuError::Absent { program })) => {
                println!("skipped: {program} is not installed");
                return;
            }
            other => other.unwrap(),
        };
        let unit = Unit::new(Smmuv3::start(&machine, machine.ram(), Options::default()).unwrap());
        unit.enable().unwrap();
        for requester in machine.requesters() {
            unit.add_device(Device::new(*requester)).unwrap();
        }
        test(&machine, &unit, stages);
        unit.shut_down().unwrap();
        machine.health().unwrap();
        assert_eq!(machine.ram().bytes_in_use(), 0);
    }
}

#[test]
fn a_device_reaches_what_its_domain_maps_and_nothing_else() {
    on_qemu(|machine, unit, stages| {
        let ram = machine.ram();
        let (toucher, data) = (*machine.requesters().last().unwrap(), ram.data().0);
        let reads = |address: u64, value: u8| machine.touch(Touch { read: address, write: 0x80 }) == value;
        ram.put_token(PhysAddr(data), 0x51);
        ram.put_token(PhysAddr(data + 0x1000), 0x52);
        for shape in unit.features().formats.iter().map(|format| format.shape) {
            let options = DomainOptions { shape: Some(shape), ..DomainOptions::default() };
            let domain = unit.create_domain(options.clone()).unwrap();
            domain.map(Iova(0), PhysAddr(data + 0x8000), 0x1000, Access::READ_WRITE).unwrap();
            domain.map(Iova(0x12_3456_7000), PhysAddr(data), 0x2000, Access::READ).unwrap();
            assert!(!reads(0x12_3456_7000, 0x51));
            unit.attach(toucher, None, &domain).unwrap();
            assert!(reads(0x12_3456_7000, 0x51), "{stages:?} {shape:?}");
            assert!(reads(0x12_3456_8000, 0x52));
            assert!(!reads(data, 0x51));
            domain.unmap(Iova(0x12_3456_7000), 0x1000).unwrap();
            assert!(!reads(0x12_3456_7000, 0x51) && reads(0x12_3456_8000, 0x52));

            // From one domain to another, whatever their shapes.
            for shape in unit.features().formats.iter().map(|format| format.shape) {
                let options = DomainOptions { shape: Some(shape), ..DomainOptions::default() };
                let other = unit.create_domain(options).unwrap();
                other.map(Iova(0), PhysAddr(data + 0x8000), 0x1000, Access::READ_WRITE).unwrap();
                other.map(Iova(0x5000), PhysAddr(data), 0x1000, Access::READ).unwrap();
                unit.detach(toucher, None).unwrap();
                unit.attach(toucher, None, &other).unwrap();
                assert!(reads(0x5000, 0x51) && !reads(0x12_3456_8000, 0x52));
                unit.detach(toucher, None).unwrap();
                unit.attach(toucher, None, &domain).unwrap();
                assert!(!reads(0x5000, 0x51) && reads(0x12_3456_8000, 0x52));
            }
            unit.detach(toucher, None).unwrap();
            assert!(!reads(0x12_3456_8000, 0x52));
        }
        let identity = unit.identity_domain().unwrap();
        unit.attach(toucher, None, &identity).unwrap();
        assert_eq!(machine.touch(Touch { read: data, write: data + 0x8080 }), 0x51);
        unit.detach(toucher, None).unwrap();
    });
}

#[test]
fn large_pages_are_split_where_an_unmap_cuts_them() {
    on_qemu(|machine, unit, _| {
        let ram = machine.ram();
        let engine = 0;
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        let script = ram.script(engine);
        domain.map(Iova(script.0), script, 0x1000, Access::READ).unwrap();
        // 2 MiB from the data on: the whole block is one page.
        let data = ram.data();
        domain.map(Iova(0x20_0000), data, 0x20_0000, Access::READ_WRITE).unwrap();
        unit.attach(machine.requesters()[engine], None, &domain).unwrap();
        let copies = |source: u32, destination: u32| {
            let bytes = [source.to_le_bytes(), destination.to_le_bytes()].concat();
            ram.write(PhysAddr(data.0 + u64::from(source) - 0x20_0000), &bytes);
            assert!(machine.copy(engine, Copy { source, destination, length: 8 }));
            let mut seen = [0; 8];
            ram.read(PhysAddr(data.0 + u64::from(destination) - 0x20_0000), &mut seen);
            seen == bytes[..]
        };
        assert!(copies(0x20_0000, 0x20_3000) && copies(0x20_1000, 0x20_4000));
        domain.unmap(Iova(0x20_1000), 0x1000).unwrap();
        assert!(
            copies(0x20_0000, 0x20_5000) && !copies(0x20_1000, 0x20_6000) && copies(0x20_2000, 0x20_7000)
        );
        domain.protect(Iova(0x20_2000), 0x1000, Access::READ).unwrap();
        assert!(copies(0x20_2000, 0x20_8000) && !copies(0x20_3000, 0x20_2000));
        unit.detach(machine.requesters()[engine], None).unwrap();
    });
}

#[test]
fn every_refusal_is_reported_with_stream_address_and_reason() {
    on_qemu(|machine, unit, stages| {
        let toucher = *machine.requesters().last().unwrap();
        let faults = || {
            let mut faults = Vec::new();
            let counts = unit.read_faults(|record| faults.push(record.fault));
            assert_eq!((counts.unknown, counts.overflows), (0, 0));
            faults
        };
        machine.touch(Touch { read: 0x1000, write: 0x2000 });
        let blocked = faults();
        assert!(!blocked.is_empty());
        // 7.3.5: C_BAD_STE has no address.
        assert!(blocked.iter().all(|fault| fault.requester == toucher && fault.code == 0x04));
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        domain.map(Iova(0x1000), machine.ram().data(), 0x1000, Access::READ).unwrap();
        unit.attach(toucher, None, &domain).unwrap();
        machine.touch(Touch { read: 0x7000_1000, write: 0x1080 });
        let faults = faults();
        let second = matches!(stages, Stages::Two);
        let stage = Some(if second { StageNumber::Second } else { StageNumber::First });
        let read = faults.iter().find(|fault| fault.access == Access::READ).unwrap();
        assert_eq!(
            (read.address, read.reason, read.stage),
            (Iova(0x7000_1000), FaultReason::NotMapped, stage)
        );
        let write = faults.iter().find(|fault| fault.access == Access::WRITE).unwrap();
        assert_eq!((write.address.0 & !0xfff, write.stage), (0x1000, stage));
        assert_eq!(write.reason, FaultReason::PermissionDenied);
        // Nothing is recorded of a device that is blocked silently.
        unit.detach(toucher, None).unwrap();
        unit.attach(toucher, None, &unit.blocking_domain(true).unwrap()).unwrap();
        machine.touch(Touch { read: 0x1000, write: 0x2000 });
        assert_eq!(unit.read_faults(|_| ()).read, 0);
        unit.detach(toucher, None).unwrap();
    });
}
