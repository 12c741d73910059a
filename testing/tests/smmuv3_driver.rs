//! The driver over QEMU's SMMUv3, one thing after the other, and what is its own on our model. `cargo xtask oracle smmuv3` runs
//! random programs.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;
mod bench;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{Between, ModelBench};
use portcullis_driver::platform::{Memory as _, Mmio, Platform};
use portcullis_driver::smmuv3::{Options, Smmuv3};
use portcullis_driver::{Device, DomainOptions, Error, FaultSignal, Unit, UnitError};
use portcullis_model::smmuv3::config::{Smmuv3Config, StallModel};
use portcullis_model::{InterruptSink, Message, Undelivered};
use portcullis_spec::{Access, FaultReason, Iova, PhysAddr, Requester, StageNumber};
use portcullis_testing::machine::model::Unit as _;
use portcullis_testing::machine::qemu::QemuMachine;
use portcullis_testing::machine::ram::Ram;
use portcullis_testing::machine::smmuv3::{Smmuv3Machine, Stages, board, model, model_with, requester};
use portcullis_testing::machine::still::Still;
use portcullis_testing::machine::{Copy, Machine as _, MachineError, Touch};
use portcullis_testing::qtest::QemuError;

type QemuUnit<'m> = Unit<Smmuv3<&'m QemuMachine, &'m Ram>>;

/// A unit that translates, and knows these devices.
fn started<M: Mmio, P: Platform>(
    registers: M,
    platform: P,
    devices: impl IntoIterator<Item = Requester>,
) -> Unit<Smmuv3<M, P>> {
    let unit = Unit::new(Smmuv3::start(registers, platform, Options::default()).unwrap());
    unit.enable().unwrap();
    for device in devices {
        unit.add_device(Device::new(device)).unwrap();
    }
    unit
}

fn on_qemu(test: impl Fn(&QemuMachine, &QemuUnit<'_>, Stages)) {
    for stages in Stages::ALL {
        let machine = match QemuMachine::start(&board(stages), requester) {
            Err(MachineError::Qemu(QemuError::Absent { program })) => {
                println!("skipped: {program} is not installed");
                return;
            }
            other => other.unwrap(),
        };
        let unit = started(&machine, machine.ram(), machine.requesters().iter().copied());
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

const STREAM: Requester = Requester::Stream(0x18);

fn reads(machine: &Smmuv3Machine, address: u64) -> bool {
    machine.unit().translate(STREAM.into(), Iova(address), false).is_some()
}

fn configs() -> [Smmuv3Config; 2] {
    let full = Smmuv3Config { stream_id_bits: 16, output_bits: 48, ..Smmuv3Config::full() };
    [Smmuv3Config { messages: false, ..full.clone() }, full]
}

/// The registers that the troubles below are about (6.3.18, 6.3.25, 6.3.26).
const GERROR: u64 = 0x60;
const CMDQ_BASE: u64 = 0x90;
const EVENTQ_PROD: u64 = 0x1_00a8;
const CMDQ_PROD: u64 = 0x98;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    /// The first new command is none (CERROR_ILL).
    Illegal,
    /// So it is, and the next queue lies outside of memory (CERROR_ABT).
    IllegalThenAbort,
    /// The index does not arrive.
    Hang,
    /// The unit fails as a whole, and carries nothing out (SFM_ERR).
    Failure,
}

/// The first byte of a command in the queue.
fn command_at(machine: &Smmuv3Machine, index: u32) -> PhysAddr {
    let base = machine.read64(CMDQ_BASE);
    let entry = u64::from(index) & ((1 << (base & 0x1f)) - 1);
    PhysAddr((base & 0x00ff_ffff_ffff_ffe0) + 16 * entry)
}

#[test]
fn a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery() {
    type Expected = fn(UnitError) -> bool;
    // 7.1: CERROR_ILL is 1.
    let illegal: Expected = |error| matches!(error, UnitError::QueueCommand { detail: 1, .. });
    let troubles: [(Trouble, Expected); 4] = [
        (Trouble::Illegal, illegal),
        (Trouble::IllegalThenAbort, illegal),
        (Trouble::Hang, |error| matches!(error, UnitError::QueueTimeout { .. })),
        (Trouble::Failure, |error| matches!(error, UnitError::Failed { register: "GERROR", .. })),
    ];
    for ((trouble, is_expected), config) in
        troubles.into_iter().flat_map(|it| configs().map(|config| (it, config)))
    {
        println!("{trouble:?} {config:?}");
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let active = Cell::new(None);
        let spoilt = Cell::new(false);
        let between = Between {
            machine: &machine,
            read: &|offset, value| match (offset, active.get()) {
                (GERROR, Some(Trouble::Failure)) => value ^ 1 << 8,
                _ => value,
            },
            write: &|offset, value| match (offset, active.get()) {
                (CMDQ_PROD, Some(Trouble::Hang | Trouble::Failure)) => None,
                (CMDQ_PROD, Some(Trouble::Illegal | Trouble::IllegalThenAbort)) if !spoilt.replace(true) => {
                    machine.ram().store64(command_at(&machine, machine.read32(0x9c)), 0);
                    Some(value)
                }
                (CMDQ_BASE, Some(Trouble::IllegalThenAbort)) => Some(value & 0x1f | 0xf000_0000_0000),
                _ => Some(value),
            },
        };
        let bench = ModelBench { machine: &machine, platform: &platform, requester: Requester::Stream };
        let unit = started(&between, &platform, behaviour::Bench::devices(&bench));
        let (begin, end) = (|| active.set(Some(trouble)), || active.set(None));
        let end = (trouble != Trouble::Illegal).then_some(&end as &dyn Fn());
        behaviour::a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery(
            &bench,
            unit,
            &behaviour::Trouble { begin: &begin, end, is_expected },
        );
    }
}

#[test]
fn a_queue_outside_of_memory_is_an_error() {
    for config in configs() {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let write =
            |offset, value| Some(if offset == CMDQ_BASE { value & 0x1f | 0xf000_0000_0000 } else { value });
        let between = Between { machine: &machine, read: &|_, value| value, write: &write };
        // 7.1: CERROR_ABT is 2.
        let refused = Smmuv3::start(&between, &platform, Options::default()).err();
        assert_eq!(refused, Some(Error::Unit(UnitError::QueueCommand { entry: 0, detail: 2 })));
    }
}

/// 7.5, MSI_CMDQ_ABT_ERR: the completion came, its message did not.
#[test]
fn completions_are_read_from_the_queue_once_a_message_is_lost() {
    /// There is nothing but memory.
    struct Nobody;
    impl InterruptSink for Nobody {
        fn send(&self, message: Message) -> Result<(), Undelivered> {
            Err(Undelivered { address: message.address })
        }
    }
    let [_, config] = configs();
    let machine = model_with(config, Arc::new(Nobody)).unwrap();
    let platform = Still::new(machine.ram());
    let lose = Cell::new(false);
    // 4.7.3: CS, and the address in the second word.
    let signals = RefCell::new(Vec::new());
    let write = |offset, value| {
        if offset == CMDQ_PROD {
            let sync = command_at(&machine, (value as u32).wrapping_sub(1));
            signals.borrow_mut().push(machine.ram().load64(sync) >> 12 & 3);
            if lose.replace(false) {
                machine.ram().store64(PhysAddr(sync.0 + 8), 0xf000_0000_0000);
            }
        }
        Some(value)
    };
    let between = Between { machine: &machine, read: &|_, value| value, write: &write };
    let unit = started(&between, &platform, [STREAM]);
    let domain = unit.create_domain(DomainOptions::default()).unwrap();
    unit.attach(STREAM, None, &domain).unwrap();
    for round in 0..3 {
        domain.map(Iova(0x5000), PhysAddr(0x5000_0000), 0x1000, Access::READ_WRITE).unwrap();
        assert!(reads(&machine, 0x5000));
        lose.set(round == 1);
        signals.borrow_mut().clear();
        domain.unmap(Iova(0x5000), 0x1000).unwrap();
        assert!(!reads(&machine, 0x5000));
        // With a message up to the one that is lost, by the index from then on.
        assert_eq!(*signals.borrow(), [if round < 2 { 1 } else { 0 }], "{round}");
    }
    unit.shut_down().unwrap();
}

/// Longer than any machine takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// IDR0.STALL_MODEL 2: every fault stalls, and the thread that drives the device with it.
#[test]
fn a_unit_that_always_stalls_lets_go_of_what_it_refuses() {
    let [_, full] = configs();
    let stalling = Smmuv3Config { stall_model: StallModel::Stall, ..full };
    let first = Smmuv3Config {
        stage2: false,
        vmid_16: false,
        stage2_execute_by_privilege: false,
        hypervisor: false,
        ..stalling.clone()
    };
    let second = Smmuv3Config {
        stage1: false,
        substream_id_bits: 0,
        two_level_contexts: false,
        asid_16: false,
        hypervisor: false,
        ..stalling
    };
    for config in [first, second] {
        let machine = model(config).unwrap();
        let platform = Still::new(machine.ram());
        let unit = started(&machine, &platform, [STREAM]);
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        domain.map(Iova(0x5000), machine.ram().data(), 0x1000, Access::READ).unwrap();
        unit.attach(STREAM, None, &domain).unwrap();
        assert!(reads(&machine, 0x5000));
        let device = |address| {
            let port = machine.unit().unit.port(STREAM.index(), None);
            std::thread::spawn(move || port.read(Iova(address), &mut [0; 4]))
        };
        let began = Instant::now();
        let wait = |done: &mut dyn FnMut() -> bool| {
            while !done() {
                assert!(began.elapsed() < PATIENCE, "it waits on");
                std::thread::yield_now();
            }
        };
        // Until its event is read.
        let refused = device(0x9000);
        let mut faults = Vec::new();
        wait(&mut || {
            unit.read_faults(|record| faults.push(record));
            refused.is_finished()
        });
        assert!(refused.join().unwrap().is_err());
        let [record] = faults[..] else { panic!("{faults:?}") };
        assert_eq!((record.fault.address, record.fault.reason), (Iova(0x9000), FaultReason::NotMapped));
        // 7.3: the stall bit.
        assert_eq!(record.raw[1] >> 31 & 1, 1);
        // Or until it is detached, whether its event is ever read or not.
        let refused = device(0xa000);
        let prod = machine.read32(EVENTQ_PROD);
        wait(&mut || machine.read32(EVENTQ_PROD) != prod || refused.is_finished());
        unit.detach(STREAM, None).unwrap();
        wait(&mut || refused.is_finished());
        assert!(refused.join().unwrap().is_err());
        unit.shut_down().unwrap();
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
    let unit = started(&machine, &platform, [STREAM]);
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
    let unit = started(&machine, &platform, [STREAM]);
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
    let unit = started(&machine, &platform, [STREAM]);
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
        behaviour::an_allocator_empty_at_any_point_leaves_nothing_behind(|allowed| {
            let machine = model(Smmuv3Config { substream_id_bits: 10, ..config.clone() }).unwrap();
            let platform = Still::new(machine.ram());
            platform.limit(allowed);
            let bench = ModelBench { machine: &machine, platform: &platform, requester: Requester::Stream };
            let smmu = Smmuv3::start(&machine, &platform, Options::default());
            let result = smmu.and_then(|smmu| behaviour::a_life(&bench, Unit::new(smmu)));
            (result, platform.blocks())
        });
    }
}
