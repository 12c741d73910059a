//! The driver and the model face to face: what a device reaches is what the driver was told, at every moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portcullis_driver::vtd::Mode;
use portcullis_driver::{Device, DomainOptions, Error, FlushPolicy, Prefer};
use portcullis_manager::Backend;
use portcullis_manager::embedded::device::Kind;
use portcullis_manager::embedded::{
    Embedded, EmbeddedBackend, EmbeddedOptions, Machine, RiscvMachine, Smmuv3Machine, VtdMachine,
};
use portcullis_model::vtd::config::{ScalableConfig, VtdConfig};
use portcullis_model::{InterruptSink, Message, Undelivered};
use portcullis_spec::{
    Access, FaultReason, Iova, Ipa, PagingFormat, Pasid, PciAddress, PhysAddr, Stage, StageRules,
};

const A: PciAddress = PciAddress::new(0, 0, 3, 0);
const B: PciAddress = PciAddress::new(0, 0x80, 31, 7);
const PAGE: u64 = 4096;

/// Units that make the driver take every turn that it has.
fn kinds() -> Vec<EmbeddedOptions> {
    let legacy = VtdConfig::default;
    let scalable = |config: ScalableConfig| VtdConfig { scalable: Some(config), ..VtdConfig::default() };
    let first_only = ScalableConfig {
        second_stage: false,
        nested: false,
        second_stage_flags: false,
        ..ScalableConfig::default()
    };
    let legacy_units = [
        legacy(),
        VtdConfig { caching_mode: true, enhanced_set_root: false, ..legacy() },
        VtdConfig { queued_invalidation: false, ..legacy() },
        VtdConfig { coherent: false, page_selective: None, ..legacy() },
        VtdConfig { four_level: false, guest_address_bits: 39, pages_1g: false, ..legacy() },
        VtdConfig {
            three_level: false,
            four_level: false,
            five_level: true,
            guest_address_bits: 57,
            ..legacy()
        },
        VtdConfig::full(),
    ];
    let scalable_units = [
        scalable(ScalableConfig::default()),
        VtdConfig { caching_mode: true, enhanced_set_root: false, ..scalable(ScalableConfig::default()) },
        scalable(first_only),
        scalable(ScalableConfig { page_walk_coherency: false, ..ScalableConfig::default() }),
        VtdConfig::full(),
    ];
    let legacy_units = legacy_units.map(|unit| EmbeddedOptions { unit, mode: Some(Mode::Legacy) });
    let scalable_units = scalable_units.map(|unit| EmbeddedOptions { unit, mode: Some(Mode::Scalable) });
    legacy_units.into_iter().chain(scalable_units).collect()
}

fn platform(options: EmbeddedOptions) -> Embedded {
    let platform = Embedded::new(options).unwrap();
    let pasid_bits = platform.unit().features().pasid_bits;
    for device in [A, B] {
        platform.unit().add_device(Device { pasid_bits, ..Device::new(device) }).unwrap();
    }
    platform
}

#[test]
fn a_device_reaches_what_its_domain_maps_and_nothing_else() {
    for options in kinds() {
        let platform = platform(options.clone());
        let unit = platform.unit();
        let memory = platform.add_memory(4 << 20).unwrap();
        let (engine, other) = (platform.engine(A, None), platform.engine(B, None));
        let mut buffer = [0; 3 * PAGE as usize];
        assert!(engine.read(Iova(0), &mut buffer).is_err(), "{options:?}");
        let domain = unit.create_domain(DomainOptions::default()).unwrap();
        unit.attach(A, None, &domain).unwrap();
        assert!(engine.write(Iova(0x5_0000), b"early").is_err());
        // Scattered pages side by side.
        for page in 0..3 {
            let at = PhysAddr(memory.0 + (5 - 2 * page) * PAGE);
            domain.map(Iova(0x5_0000 + page * PAGE), at, PAGE, Access::READ_WRITE).unwrap();
        }
        let pattern: Vec<u8> = (0..3 * PAGE).map(|byte| (byte % 251) as u8).collect();
        engine.write(Iova(0x5_0000), &pattern).unwrap();
        engine.read(Iova(0x5_0000), &mut buffer).unwrap();
        assert_eq!(&buffer[..], &pattern[..]);
        let mut page = [0; PAGE as usize];
        portcullis_model::GuestMemory::read(&**platform.bus(), PhysAddr(memory.0 + 3 * PAGE), &mut page)
            .unwrap();
        assert_eq!(page, pattern[PAGE as usize..2 * PAGE as usize]);
        assert!(engine.write(Iova(0x5_0000 + 3 * PAGE), b"x").is_err());
        assert!(other.read(Iova(0x5_0000), &mut page).is_err());
        domain.protect(Iova(0x5_1000), PAGE, Access::READ).unwrap();
        assert!(engine.write(Iova(0x5_1000), b"x").is_err());
        engine.read(Iova(0x5_1000), &mut page).unwrap();
        domain.unmap(Iova(0x5_1000), PAGE).unwrap();
        assert!(engine.read(Iova(0x5_1000), &mut page).is_err());
        engine.read(Iova(0x5_2000), &mut page).unwrap();
        // A large page, cut.
        domain.map(Iova(0x4000_0000), memory, 2 << 20, Access::READ_WRITE).unwrap();
        engine.write(Iova(0x4000_0000 + 7 * PAGE), b"large").unwrap();
        domain.unmap(Iova(0x4000_0000 + 7 * PAGE), PAGE).unwrap();
        assert!(engine.read(Iova(0x4000_0000 + 7 * PAGE), &mut page).is_err());
        engine.read(Iova(0x4000_0000 + 8 * PAGE), &mut page).unwrap();
        unit.detach(A, None).unwrap();
        assert!(engine.read(Iova(0x5_2000), &mut page).is_err());
        platform.unit().clone().shut_down().unwrap();
    }
}

#[test]
fn faults_come_back_as_they_happened() {
    for options in kinds() {
        let platform = platform(options);
        assert!(!platform.wait_for_faults(Duration::ZERO));
        let error = platform.engine(B, None).write(Iova(0x1234_5678), b"none").unwrap_err();
        assert!(platform.wait_for_faults(Duration::from_secs(5)));
        let mut records = Vec::new();
        let counts = platform.unit().read_faults(|record| records.push(record.fault));
        assert_eq!((counts.read, counts.overflows, counts.unknown), (1, 0, 0));
        assert_eq!(Some(&records[0]), error.fault());
        assert_eq!(records[0].address, Iova(0x1234_5000));
        assert_eq!(records[0].requester, B.into());
        assert!(matches!(records[0].reason, FaultReason::EntryNotPresent(_)));
        assert!(!platform.wait_for_faults(Duration::ZERO));
    }
}

#[test]
fn pasids_and_nested_stages_are_kept_apart() {
    let platform = platform(EmbeddedOptions::default());
    let unit = platform.unit();
    let memory = platform.add_memory(16 * PAGE).unwrap();
    let pasid = Pasid::new(0x4_2000).unwrap();
    let domains = [(); 2].map(|()| unit.create_domain(DomainOptions::default()).unwrap());
    for (index, domain) in domains.iter().enumerate() {
        let page = PhysAddr(memory.0 + index as u64 * PAGE);
        domain.map(Iova(0x1000), page, PAGE, Access::READ_WRITE).unwrap();
    }
    unit.attach(A, None, &domains[0]).unwrap();
    unit.attach(A, Some(pasid), &domains[1]).unwrap();
    platform.engine(A, None).write(Iova(0x1000), b"zero").unwrap();
    platform.engine(A, Some(pasid)).write(Iova(0x1000), b"one!").unwrap();
    let mut bytes = [0; 4];
    platform.engine(A, None).read(Iova(0x1000), &mut bytes).unwrap();
    assert_eq!(&bytes, b"zero");
    assert!(platform.engine(A, Pasid::new(1)).read(Iova(0x1000), &mut bytes).is_err());
    unit.detach(A, Some(pasid)).unwrap();
    assert!(platform.engine(A, Some(pasid)).read(Iova(0x1000), &mut bytes).is_err());

    // A guest's tables in guest-physical pages 0 to 3; its address 0x7000 is its page 5.
    let bus = platform.bus();
    let guest = platform.add_memory(16 * PAGE).unwrap().0;
    for (table, index, entry) in [(0u64, 0u64, 0x1007u64), (1, 0, 0x2007), (2, 0, 0x3007), (3, 7, 0x5007)] {
        let at = PhysAddr(guest + table * PAGE + index * 8);
        portcullis_model::GuestMemory::store64(&**bus, at, entry).unwrap();
    }
    let parent = unit.create_domain(DomainOptions::default()).unwrap();
    parent.map(Iova(0), PhysAddr(guest), 16 * PAGE, Access::READ_WRITE).unwrap();
    let first = Stage {
        format: PagingFormat::X86 { levels: 4 },
        root: Ipa(0),
        rules: StageRules::SET_ACCESSED | StageRules::SET_DIRTY,
        input_bits: 48,
    };
    let nested = unit.nested_domain(&parent, first).unwrap();
    unit.attach(B, None, &nested).unwrap();
    platform.engine(B, None).write(Iova(0x7000), b"deep").unwrap();
    portcullis_model::GuestMemory::read(&**bus, PhysAddr(guest + 5 * PAGE), &mut bytes).unwrap();
    assert_eq!(&bytes, b"deep");
    parent.unmap(Iova(5 * PAGE), PAGE).unwrap();
    assert!(platform.engine(B, None).read(Iova(0x7000), &mut bytes).is_err());
}

#[test]
fn a_file_is_shared_and_a_read_only_one_is_never_written() {
    let platform = platform(EmbeddedOptions::default());
    let unit = platform.unit();
    let file = tempfile::tempfile().unwrap();
    file.set_len(4 * PAGE).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"from the file", PAGE).unwrap();
    let file = Arc::new(file);
    let writable = platform.add_file(file.clone(), 4 * PAGE, true).unwrap();
    let read_only = platform.add_file(file.clone(), 4 * PAGE, false).unwrap();
    let domain = unit.create_domain(DomainOptions::default()).unwrap();
    domain.map(Iova(0), writable, 4 * PAGE, Access::READ_WRITE).unwrap();
    domain.map(Iova(0x10_0000), read_only, 4 * PAGE, Access::READ_WRITE).unwrap();
    unit.attach(A, None, &domain).unwrap();
    let engine = platform.engine(A, None);
    let mut bytes = [0; 13];
    engine.read(Iova(PAGE), &mut bytes).unwrap();
    assert_eq!(&bytes, b"from the file");
    engine.write(Iova(2 * PAGE), b"by the device").unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&*file, &mut bytes, 2 * PAGE).unwrap();
    assert_eq!(&bytes, b"by the device");
    engine.read(Iova(0x10_0000 + 2 * PAGE), &mut bytes).unwrap();
    assert_eq!(&bytes, b"by the device");
    assert!(engine.write(Iova(0x10_0000), b"no").is_err());
    domain.unmap(Iova(0), 4 * PAGE).unwrap();
    platform.remove_memory(writable);
    assert!(platform.add_file(file, 0, true).is_err());
}

#[derive(Default)]
struct Collected(Mutex<Vec<Message>>);

impl InterruptSink for Collected {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

#[test]
fn interrupts_of_devices_go_to_the_machine_and_no_domain_maps_their_range() {
    let sink = Arc::new(Collected::default());
    let unit = VtdConfig { interrupts: None, ..VtdConfig::full() };
    let options = EmbeddedOptions { unit, ..EmbeddedOptions::default() };
    let platform = Embedded::with_interrupts(options, sink.clone()).unwrap();
    platform.unit().add_device(Device::new(A)).unwrap();
    platform.engine(A, None).write(Iova(0xfee0_1000), &0x4051u32.to_le_bytes()).unwrap();
    let messages = sink.0.lock().unwrap().clone();
    assert_eq!(messages, [Message { source: Some(A.into()), address: 0xfee0_1000, data: 0x4051 }]);
    // With remapping, none that was not granted.
    let remapping = Embedded::with_interrupts(EmbeddedOptions::default(), sink.clone()).unwrap();
    remapping.unit().add_device(Device::new(A)).unwrap();
    remapping.engine(A, None).write(Iova(0xfee0_1000), &0x4051u32.to_le_bytes()).unwrap_err();
    assert_eq!(sink.0.lock().unwrap().len(), 1);
    let domain = platform.unit().create_domain(DomainOptions::default()).unwrap();
    let refused = domain.map(Iova(0xfee0_0000), PhysAddr(0), PAGE, Access::READ_WRITE);
    assert!(matches!(refused, Err(Error::Reserved { .. })));
}

/// Devices do DMA without pause while pages come and go under them: what is written after an unmap has returned must never
/// arrive.
#[test]
fn nothing_arrives_after_unmap_has_returned() {
    for options in kinds() {
        let platform = platform(options);
        let unit = platform.unit();
        let memory = platform.add_memory(64 * PAGE).unwrap();
        let (stop, arrived) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
        let domains = [A, B].map(|device| {
            let domain = unit.create_domain(DomainOptions::default()).unwrap();
            unit.attach(device, None, &domain).unwrap();
            domain
        });
        std::thread::scope(|scope| {
            for (device, arrived) in [A, B].into_iter().zip(&arrived) {
                let (engine, stop) = (platform.engine(device, None), &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for page in 0..4 {
                            let done = engine.write(Iova(0x20_0000 + page * PAGE), &[0xff; 64]).is_ok();
                            arrived.fetch_add(u64::from(done), Ordering::Relaxed);
                        }
                    }
                });
            }
            let workers: Vec<_> = domains
                .iter()
                .zip(&arrived)
                .enumerate()
                .map(|(index, (domain, arrived))| {
                    let bus = platform.bus();
                    scope.spawn(move || {
                        for round in 0..16u64 {
                            let place = PhysAddr(memory.0 + (32 * index as u64 + 4 * (round % 8)) * PAGE);
                            let before = arrived.load(Ordering::Relaxed);
                            domain.map(Iova(0x20_0000), place, 4 * PAGE, Access::READ_WRITE).unwrap();
                            std::thread::yield_now();
                            // Now and then the device is at work for certain, however late it gets a processor.
                            while round % 8 == 0 && arrived.load(Ordering::Relaxed) == before {
                                std::thread::yield_now();
                            }
                            domain.unmap(Iova(0x20_0000), 4 * PAGE).unwrap();
                            // The pages are ours again: what we write stays.
                            portcullis_model::GuestMemory::write(&**bus, place, &[0; 4 * PAGE as usize])
                                .unwrap();
                            std::thread::yield_now();
                            let mut bytes = [1; 256];
                            portcullis_model::GuestMemory::read(&**bus, place, &mut bytes).unwrap();
                            assert!(bytes.iter().all(|byte| *byte == 0), "a device wrote after unmap");
                        }
                    })
                })
                .collect();
            // Whatever a worker found, the engines end.
            let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            results.into_iter().for_each(|result| result.unwrap());
        });
        for device in [A, B] {
            unit.detach(device, None).unwrap();
        }
    }
}

#[test]
fn deferred_unmaps_complete_by_ticket() {
    let platform = platform(EmbeddedOptions::default());
    let unit = platform.unit();
    let memory = platform.add_memory(16 * PAGE).unwrap();
    let flush = FlushPolicy::Deferred { count: 3, delay: Duration::from_secs(3600) };
    let window = Some((Iova(0), Iova(u64::MAX)));
    let domain = unit.create_domain(DomainOptions { flush, window, ..DomainOptions::default() }).unwrap();
    unit.attach(A, None, &domain).unwrap();
    let map =
        || domain.map_anywhere(memory, PAGE, Access::READ_WRITE, Iova(0xffff_ffff), Prefer::Low).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for round in 1..=6 {
        let iova = map();
        platform.engine(A, None).write(iova, b"here").unwrap();
        let ticket = domain.unmap(iova, PAGE).unwrap();
        assert_eq!(domain.is_released(ticket), round % 3 == 0);
        if round <= 3 {
            assert!(seen.insert(iova), "an address was reused before its flush");
        }
    }
    assert!(seen.contains(&map()), "addresses come back after the flush");
}

#[test]
fn a_unit_that_the_model_does_not_answer_for_is_an_error() {
    let unit = VtdConfig { three_level: false, four_level: false, ..VtdConfig::default() };
    assert!(Embedded::new(EmbeddedOptions { unit, mode: None }).is_err());
    let options = EmbeddedOptions { unit: VtdConfig::default(), mode: Some(Mode::Scalable) };
    let refused = Embedded::new(options).err().map(|error| error.to_string());
    assert!(refused.is_some_and(|text| text.contains("does not support")));
}

/// Refuses more at once than the unit has room to record, round by round; `room` records at most wait.
fn counts_every_refusal<M: Machine>(options: M::Options, room: u64) {
    let mut backend = EmbeddedBackend::<M>::of(options, &[("rogue", Kind::Rogue)]).unwrap();
    let requester = backend.inventory().unwrap().devices[0].1.requesters[0];
    let mut source = backend.violations().unwrap();
    let engine = backend.platform().engine(requester, None);
    for round in 1..4 {
        let sent = room + 6 * round;
        for page in 0..sent {
            engine.read(Iova(page * PAGE), &mut [0; 8]).unwrap_err();
        }
        let mut recorded = 0;
        let lost = source.read(Duration::from_secs(60), &mut |_| recorded += 1).unwrap();
        // Of those for which there is no room the unit says only that there were some.
        assert_eq!((recorded, lost), (room, sent - room), "{}", M::NAME);
    }
}

#[test]
fn every_refusal_is_counted_however_many_come_at_once() {
    let unit = VtdConfig { fault_records: 4, ..VtdConfig::full() };
    counts_every_refusal::<VtdMachine>(EmbeddedOptions { unit, mode: None }, 4);
    // SMMUv3 3.5.1: indices have a wrap bit, so all 4096 entries are used.
    counts_every_refusal::<Smmuv3Machine>(Default::default(), 4096);
    // RISC-V IOMMU 3: a queue is full when the tail is one behind the head.
    counts_every_refusal::<RiscvMachine>(Default::default(), 4095);
}
