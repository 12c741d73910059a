//! The driver over QEMU's SMMUv3, one thing after the other, and what is its own on our model. `cargo xtask oracle smmuv3` runs
//! random programs.

use std::cell::Cell;

use portcullis_driver::platform::{Memory as _, Mmio};
use portcullis_driver::smmuv3::{Options, Smmuv3};
use portcullis_driver::{Device, DomainOptions, Error, FaultSignal, Unit, UnitError};
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_spec::{Access, FaultReason, Iova, Pasid, PhysAddr, Requester, StageNumber};
use portcullis_testing::machine::model::Unit as _;
use portcullis_testing::machine::qemu::QemuMachine;
use portcullis_testing::machine::ram::Ram;
use portcullis_testing::machine::smmuv3::{Smmuv3Machine, Stages, board, model, requester};
use portcullis_testing::machine::still::Still;
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

/// Our model's registers, of which a submission can be made to hold an illegal command.
struct Spoiled<'m> {
    machine: &'m Smmuv3Machine,
    spoil: Cell<bool>,
}

impl Mmio for Spoiled<'_> {
    fn read32(&self, offset: u64) -> u32 {
        self.machine.read32(offset)
    }
    fn read64(&self, offset: u64) -> u64 {
        self.machine.read64(offset)
    }
    fn write32(&self, offset: u64, value: u32) {
        // 6.3.25 to 6.3.27: CMDQ_BASE, PROD and CONS.
        if offset == 0x98 && self.spoil.take() {
            let base = self.read64(0x90);
            let entry = u64::from(self.read32(0x9c)) & ((1 << (base & 0x1f)) - 1);
            self.machine.ram().store64(PhysAddr((base & 0x00ff_ffff_ffff_ffe0) + 16 * entry), 0);
        }
        self.machine.write32(offset, value);
    }
    fn write64(&self, offset: u64, value: u64) {
        self.machine.write64(offset, value);
    }
}

const STREAM: Requester = Requester::Stream(0x18);

fn reads(machine: &Smmuv3Machine, address: u64) -> bool {
    machine.unit().translate(STREAM.into(), Iova(address), false).is_some()
}

fn configs() -> [Smmuv3Config; 2] {
    let full = Smmuv3Config { stream_id_bits: 16, output_bits: 48, ..Smmuv3Config::full() };
    [Smmuv3Config { messages: false, ..full.clone() }, full]
}

#[test]
fn a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery() {
    for config in configs() {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let registers = Spoiled { machine: &machine, spoil: Cell::new(false) };
        let unit = Unit::new(Smmuv3::start(&registers, &platform, Options::default()).unwrap());
        unit.enable().unwrap();
        unit.add_device(Device::new(STREAM)).unwrap();
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        domain.map(Iova(0x20_0000), PhysAddr(0x5000_0000), 0x20_0000, Access::READ_WRITE).unwrap();
        unit.attach(STREAM, None, &domain).unwrap();
        assert!(reads(&machine, 0x20_0000));
        registers.spoil.set(true);
        let error = domain.unmap(Iova(0x20_0000), 0x20_0000).unwrap_err();
        // 7.1: CERROR_ILL is 1.
        let stopped = matches!(error, Error::NotInvalidated(UnitError::QueueCommand { detail: 1, .. }));
        assert!(stopped, "{error:?}");
        assert!(reads(&machine, 0x20_0000), "still cached");
        assert_eq!(domain.waiting(), 1);
        let stands = Error::NotInvalidated(UnitError::Stopped);
        assert_eq!(domain.flush(), Err(stands));
        assert_eq!(unit.detach(STREAM, None), Err(stands));
        unit.recover().unwrap();
        assert!(!reads(&machine, 0x20_0000));
        domain.flush().unwrap();
        unit.attach(STREAM, None, &domain).unwrap();
        unit.shut_down().unwrap();
        drop(domain);
        assert_eq!(platform.blocks(), 0);
    }
}

#[test]
fn a_unit_left_translating_by_another_blocks_from_the_takeover_on() {
    let [config, _] = configs();
    let machine = model(config).unwrap();
    let platform = Still::new(machine.ram());
    let first = Unit::new(Smmuv3::start(&machine, &platform, Options::default()).unwrap());
    // Translation is off, as it was: everything passes.
    assert!(reads(&machine, 0x5000));
    first.enable().unwrap();
    first.add_device(Device::new(STREAM)).unwrap();
    first.attach(STREAM, None, &first.identity_domain().unwrap()).unwrap();
    assert!(reads(&machine, 0x5000));
    let second = Smmuv3::start(&machine, &platform, Options::default()).unwrap();
    assert!(second.is_enabled() && !reads(&machine, 0x5000));
    Unit::new(second).disable().unwrap();
    assert!(reads(&machine, 0x5000));
}

#[test]
fn a_message_says_that_events_wait() {
    let [_, config] = configs();
    let machine = model(config).unwrap();
    let platform = Still::new(machine.ram());
    let unit = Unit::new(Smmuv3::start(&machine, &platform, Options::default()).unwrap());
    unit.enable().unwrap();
    unit.add_device(Device::new(STREAM)).unwrap();
    let at = machine.ram().data();
    let told = || {
        let value = machine.ram().load32(at);
        machine.ram().store32(at, 0);
        value
    };
    assert!(!reads(&machine, 0));
    assert_eq!((told(), unit.read_faults(|_| ()).read), (0, 1));
    unit.signal_faults(Some(FaultSignal { address: at.0, data: 0x4041 }));
    assert!(!reads(&machine, 0) && !reads(&machine, 0));
    assert_eq!((told(), unit.read_faults(|_| ()).read), (0x4041, 2));
    assert!(!reads(&machine, 0));
    assert_eq!((told(), unit.read_faults(|_| ()).read), (0x4041, 1));
    unit.signal_faults(None);
    assert!(!reads(&machine, 0));
    assert_eq!((told(), unit.read_faults(|_| ()).read), (0, 1));
}

/// SMMUv3 3.18: a record that comes to others in the queue is not told of.
#[test]
fn an_event_that_comes_amid_a_reading_is_not_forgotten() {
    let [_, config] = configs();
    let machine = model(config).unwrap();
    let platform = Still::new(machine.ram());
    let unit = Unit::new(Smmuv3::start(&machine, &platform, Options::default()).unwrap());
    unit.enable().unwrap();
    unit.add_device(Device::new(STREAM)).unwrap();
    let at = machine.ram().data();
    unit.signal_faults(Some(FaultSignal { address: at.0, data: 1 }));
    assert!(!reads(&machine, 0));
    machine.ram().store32(at, 0);
    let counts = unit.read_faults(|_| assert!(!reads(&machine, 0)));
    let told = machine.ram().load32(at) != 0;
    assert_eq!((counts.read, counts.more, told), (1, true, false));
    let counts = unit.read_faults(|_| ());
    assert_eq!((counts.read, counts.more), (1, false));
}

#[test]
fn an_event_queue_that_overflows_says_so_once() {
    let [_, config] = configs();
    let machine = model(config).unwrap();
    let platform = Still::new(machine.ram());
    let unit = Unit::new(Smmuv3::start(&machine, &platform, Options::default()).unwrap());
    unit.enable().unwrap();
    unit.add_device(Device::new(STREAM)).unwrap();
    // A page of events is 128.
    for round in 0..3 {
        for _ in 0..130 {
            assert!(!reads(&machine, 0));
        }
        let counts = unit.read_faults(|record| assert_eq!(record.fault.requester, STREAM));
        assert_eq!((counts.read, counts.overflows, counts.unknown), (128, 1, 0), "{round}");
        assert_eq!(unit.read_faults(|_| ()).read, 0);
    }
}

#[test]
fn an_allocator_empty_at_any_point_leaves_nothing_behind() {
    for config in configs() {
        let mut failures = 0;
        loop {
            let machine = model(config.clone()).unwrap();
            let platform = Still::new(machine.ram());
            platform.limit(failures);
            let program = || -> Result<(), Error> {
                let unit = Unit::new(Smmuv3::start(&machine, &platform, Options::default())?);
                unit.enable()?;
                let result = (|| {
                    unit.add_device(Device { pasid_bits: 10, ..Device::new(STREAM) })?;
                    let domain = unit.create_domain(DomainOptions::default())?;
                    let other = unit.create_domain(DomainOptions::default())?;
                    domain.map(Iova(0x1f_f000), PhysAddr(0x1000), 0x2000, Access::READ_WRITE)?;
                    unit.attach(STREAM, None, &domain)?;
                    unit.attach(STREAM, Pasid::new(0x123), &domain)?;
                    let moved = unit.replace(STREAM, Pasid::new(0x123), &other);
                    let holds = unit.domain_of(STREAM, Pasid::new(0x123)).is_some();
                    assert!(holds, "a move that is refused leaves it where it was");
                    moved
                })();
                unit.shut_down()?;
                result
            };
            let result = program();
            assert_eq!(platform.blocks(), 0, "out of memory after {failures}");
            match result {
                Ok(()) => break,
                Err(Error::OutOfMemory | Error::Table(_)) => failures += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(failures > 8);
    }
}
