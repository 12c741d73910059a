//! The VT-d driver against a unit of this test's own (`machine`).

mod behaviour;
mod machine;

use std::cell::RefCell;
use std::time::Duration;

use machine::registers::{ICE, IQE, ITE, Trouble};
use machine::{Machine, Traits};
use portcullis_driver::vtd::{Mode, Options, Vtd, probe};
use portcullis_driver::{
    Device, Domain, DomainOptions, Error, FaultSignal, Feature, FlushPolicy, Prefer, Unit, UnitError,
};
use portcullis_spec::{Access, FaultReason, Iova, PagingFormat, Pasid, PciAddress, PhysAddr, Requester};

type TestUnit<'a> = Unit<Vtd<&'a Machine, &'a Machine>>;
type TestDomain<'a> = Domain<Vtd<&'a Machine, &'a Machine>>;

const A: PciAddress = PciAddress::new(0, 0, 3, 0);
const B: PciAddress = PciAddress::new(0, 5, 0x1f, 7);
const PAGE: u64 = 0x1000;

fn options(mode: Mode) -> Options {
    Options { mode: Some(mode), timeout: Duration::from_millis(5), ..Options::default() }
}

fn start(machine: &Machine, mode: Mode) -> TestUnit<'_> {
    let vtd = Vtd::start(machine, machine, options(mode)).unwrap();
    Unit::new(vtd)
}

fn started(machine: &Machine, mode: Mode) -> TestUnit<'_> {
    let unit = start(machine, mode);
    unit.enable().unwrap();
    for device in [A, B] {
        unit.add_device(Device { pasid_bits: unit.features().pasid_bits, ..Device::new(device) }).unwrap();
    }
    unit
}

fn domain<'a>(unit: &TestUnit<'a>) -> TestDomain<'a> {
    unit.create_domain(DomainOptions::default()).unwrap()
}

fn read(machine: &Machine, device: PciAddress, address: u64) -> Result<u64, u8> {
    machine.dma(device.requester_id, None, address, false)
}

fn write(machine: &Machine, device: PciAddress, address: u64) -> Result<u64, u8> {
    machine.dma(device.requester_id, None, address, true)
}

/// Every kind of unit that the common behaviour is shown on.
fn kinds() -> Vec<(Traits, Mode)> {
    let legacy = Traits::LEGACY;
    let scalable = Traits::SCALABLE;
    vec![
        (legacy, Mode::Legacy),
        (legacy.with_caching_mode(), Mode::Legacy),
        (legacy.with_write_buffer(), Mode::Legacy),
        (legacy.without_coherency(), Mode::Legacy),
        (legacy.without_queue(), Mode::Legacy),
        (legacy.without_queue().with_caching_mode(), Mode::Legacy),
        (legacy.with_self_invalidating_root(), Mode::Legacy),
        (legacy.with_levels(0b10).with_guest_address_bits(39), Mode::Legacy),
        (legacy.with_levels(0b1000).with_guest_address_bits(57), Mode::Legacy),
        (scalable, Mode::Legacy),
        (scalable, Mode::Scalable),
        (scalable.with_caching_mode(), Mode::Scalable),
        (scalable.with_write_buffer(), Mode::Scalable),
        (scalable.without_coherency(), Mode::Scalable),
        (scalable.without_second_stage(), Mode::Scalable),
        (scalable.without_second_stage().with_caching_mode(), Mode::Scalable),
        (scalable.without_second_stage().without_coherency(), Mode::Scalable),
    ]
}

/// [`Machine`] as [`behaviour`] sees it.
struct VtdBench<'a>(&'a Machine);

impl behaviour::Bench for VtdBench<'_> {
    type Memory = Machine;

    fn memory(&self) -> &Machine {
        self.0
    }

    fn devices(&self) -> [Requester; 2] {
        [A.into(), B.into()]
    }

    fn strangers(&self) -> [Requester; 3] {
        [
            PciAddress::new(0, 2, 0, 0).into(),
            PciAddress::new(0, 2, 0, 1).into(),
            PciAddress::new(0, 0xff, 31, 7).into(),
        ]
    }

    fn dma(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        address: u64,
        write: bool,
    ) -> Result<u64, behaviour::Refused> {
        let source = requester.index() as u16;
        self.0.dma(source, pasid.map(Pasid::value), address, write).map_err(|_| behaviour::Refused)
    }

    fn live_blocks(&self) -> usize {
        self.0.live_blocks()
    }

    fn pass(&self, time: Duration) {
        self.0.now.set(self.0.now.get() + time);
    }
}

fn on_each_kind(test: impl Fn(&VtdBench<'_>, &TestUnit<'_>)) {
    for (traits, mode) in kinds() {
        for lazy in [false, true] {
            let machine = Machine::new(traits);
            machine.registers.borrow_mut().lazy = lazy;
            let unit = started(&machine, mode);
            test(&VtdBench(&machine), &unit);
            unit.shut_down().unwrap();
            assert_eq!(machine.live_blocks(), 0, "memory leaked with {traits:x?} {mode:?}");
        }
    }
}

macro_rules! on_each {
    ($test:expr) => {
        on_each_kind($test)
    };
}
behaviour::behaviours!(on_each);

#[test]
fn probe_reads_capabilities_and_writes_nothing() {
    let machine = Machine::new(Traits::SCALABLE);
    let capabilities = probe(&&machine).unwrap();
    assert_eq!(capabilities.cap.into_bits(), Traits::SCALABLE.cap);
    assert_eq!(capabilities.best_mode(), Mode::Scalable);
    assert!(machine.registers.borrow().commands.is_empty());
    let machine = Machine::new(Traits { cap: u64::MAX, ecap: u64::MAX });
    assert_eq!(probe(&&machine), Err(UnitError::Absent));
}

#[test]
fn domains_are_as_many_as_there_is_memory_and_attached_ones_as_there_are_ids() {
    let machine = Machine::new(Traits::LEGACY.with_domains(0).with_caching_mode());
    let unit = start(&machine, Mode::Legacy);
    let domains: Vec<_> = (0..100).map(|_| domain(&unit)).collect();
    // ND 0 is 16 IDs, and caching mode keeps ID 0 (6.2.2.1).
    for (index, domain) in domains.iter().enumerate() {
        let device = PciAddress::new(0, 1, (index >> 3) as u8, index as u8 & 7);
        unit.add_device(Device::new(device)).unwrap();
        let expected = if index < 15 { Ok(()) } else { Err(Error::NoDomainTags { count: 15 }) };
        assert_eq!(unit.attach(device, None, domain), expected);
    }
    unit.detach(PciAddress::new(0, 1, 0, 3), None).unwrap();
    unit.attach(PciAddress::new(0, 1, 3, 0), None, &domains[24]).unwrap();
    // A second device in a domain needs no other ID.
    unit.attach(PciAddress::new(0, 1, 3, 1), None, &domains[24]).unwrap();
}

#[test]
fn identity_passes_addresses_unchanged() {
    for (traits, mode) in [(Traits::LEGACY, Mode::Legacy), (Traits::SCALABLE, Mode::Scalable)] {
        let machine = Machine::new(traits);
        let unit = started(&machine, mode);
        let identity = unit.identity_domain().unwrap();
        unit.attach(A, None, &identity).unwrap();
        assert_eq!(write(&machine, A, 0x1234_5678), Ok(0x1234_5678));
        assert!(write(&machine, B, 0x1234_5678).is_err());
        assert_eq!(identity.map(Iova(0), PhysAddr(0), PAGE, Access::READ), Err(Error::NoMappings));
        unit.detach(A, None).unwrap();
        assert!(write(&machine, A, 0x1234_5678).is_err());
    }
    let machine = Machine::new(Traits::LEGACY.without_pass_through());
    let unit = start(&machine, Mode::Legacy);
    assert_eq!(unit.identity_domain().err(), Some(Error::Unsupported(Feature::Identity)));
}

#[test]
fn silent_blocking_records_nothing() {
    for (traits, mode) in [
        (Traits::LEGACY, Mode::Legacy),
        (Traits::LEGACY.with_caching_mode(), Mode::Legacy),
        (Traits::SCALABLE, Mode::Scalable),
        (Traits::SCALABLE.with_caching_mode(), Mode::Scalable),
    ] {
        let machine = Machine::new(traits);
        let unit = started(&machine, mode);
        read(&machine, A, 0).unwrap_err();
        assert_eq!(unit.read_faults(|_| ()).read, 1);
        let blocking = unit.blocking_domain(true).unwrap();
        unit.attach(A, None, &blocking).unwrap();
        read(&machine, A, 0).unwrap_err();
        assert_eq!(unit.read_faults(|_| ()).read, 0);
        unit.detach(A, None).unwrap();
        read(&machine, A, 0).unwrap_err();
        assert_eq!(unit.read_faults(|_| ()).read, 1);
    }
}

#[test]
fn faults_come_decoded_in_order_and_overflow_is_counted() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    let domain = domain(&unit);
    domain.map(Iova(0x1000), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
    unit.attach(A, None, &domain).unwrap();
    write(&machine, A, 0x1234).unwrap_err();
    read(&machine, A, 0x7000).unwrap_err();
    read(&machine, B, 0x8000).unwrap_err();
    let faults = RefCell::new(Vec::new());
    let counts = unit.read_faults(|record| faults.borrow_mut().push(record.fault));
    assert_eq!((counts.read, counts.overflows, counts.unknown), (3, 0, 0));
    let faults = faults.into_inner();
    let seen: Vec<_> =
        faults.iter().map(|it| (it.requester, it.address, it.access, it.code, it.reason)).collect();
    // 7.1.3, table of fault reasons: 5 write, 6 read, 2 context entry not present.
    assert_eq!(seen[0], (A.into(), Iova(0x1000), Access::WRITE, 5, FaultReason::PermissionDenied));
    assert_eq!((seen[1].0, seen[1].1, seen[1].2, seen[1].3), (A.into(), Iova(0x7000), Access::READ, 6));
    assert_eq!((seen[2].0, seen[2].1, seen[2].3), (B.into(), Iova(0x8000), 2));
    for page in 0..9 {
        read(&machine, A, 0x10_0000 + page * PAGE).unwrap_err();
    }
    let mut addresses = Vec::new();
    let counts = unit.read_faults(|record| addresses.push(record.fault.address.0));
    assert_eq!((counts.read, counts.overflows), (4, 1));
    assert_eq!(addresses, [0x10_0000, 0x10_1000, 0x10_2000, 0x10_3000]);
    read(&machine, A, 0x20_0000).unwrap_err();
    assert_eq!(unit.read_faults(|_| ()).read, 1);
    assert_eq!((unit.fault_totals().read, unit.fault_totals().overflows), (8, 1));
}

#[test]
fn faults_that_come_without_end_are_left_to_the_next_reading() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    unit.signal_faults(Some(FaultSignal { address: 0xfee0_1000, data: 0x4041 }));
    read(&machine, A, 0).unwrap_err();
    let counts = unit.read_faults(|_| _ = read(&machine, A, 0).unwrap_err());
    assert!(counts.more);
    let fetched = counts.read;
    let counts = unit.read_faults(|_| ());
    assert_eq!((counts.read, counts.more), (1, false));
    assert_eq!(unit.fault_totals().read, fetched + 1);
    // 11.4.7.2: each record came when none waited.
    let told = machine.registers.borrow().messages.len();
    read(&machine, A, 0).unwrap_err();
    assert_eq!(machine.registers.borrow().messages.len(), told + 1);
}

#[test]
fn a_message_says_that_faults_wait() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    read(&machine, A, 0).unwrap_err();
    assert!(machine.registers.borrow().messages.is_empty());
    unit.read_faults(|_| ());
    unit.signal_faults(Some(FaultSignal { address: 0x12_fee0_1000, data: 0x4041 }));
    read(&machine, A, 0).unwrap_err();
    read(&machine, A, 0).unwrap_err();
    assert_eq!(machine.registers.borrow().messages, [(0x12_fee0_1000, 0x4041)]);
    unit.read_faults(|_| ());
    read(&machine, A, 0).unwrap_err();
    assert_eq!(machine.registers.borrow().messages.len(), 2);
    unit.read_faults(|_| ());
    unit.signal_faults(None);
    read(&machine, A, 0).unwrap_err();
    assert_eq!(machine.registers.borrow().messages.len(), 2);
}

#[test]
fn pasids_out_of_reach_are_refused() {
    let machine = Machine::new(Traits::SCALABLE);
    let unit = start(&machine, Mode::Scalable);
    unit.add_device(Device { pasid_bits: 4, ..Device::new(A) }).unwrap();
    let domain = domain(&unit);
    let pasid = Pasid::new(16).unwrap();
    assert_eq!(unit.attach(A, Some(pasid), &domain), Err(Error::PasidOutOfReach(pasid)));
    unit.attach(A, Pasid::new(15), &domain).unwrap();
    let legacy = Machine::new(Traits::LEGACY);
    let unit = start(&legacy, Mode::Legacy);
    let refused = unit.add_device(Device { pasid_bits: 1, ..Device::new(A) });
    assert_eq!(refused, Err(Error::Unsupported(Feature::Pasid)));
}

#[test]
fn dirty_pages_are_reported_once_and_again_when_written_again() {
    for traits in [Traits::SCALABLE, Traits::SCALABLE.without_second_stage()] {
        let machine = Machine::new(traits);
        let unit = started(&machine, Mode::Scalable);
        let options = DomainOptions { dirty_tracking: true, ..DomainOptions::default() };
        let domain = unit.create_domain(options).unwrap();
        unit.attach(A, None, &domain).unwrap();
        domain.map(Iova(0x10_0000), PhysAddr(0x10_0000), 16 * PAGE, Access::READ_WRITE).unwrap();
        let dirty = || {
            let mut pages = Vec::new();
            domain
                .read_and_clear_dirty(Iova(0x10_0000), 16 * PAGE, |page, shift| pages.push((page.0, shift)))
                .unwrap();
            pages
        };
        assert!(dirty().is_empty());
        read(&machine, A, 0x10_1000).unwrap();
        write(&machine, A, 0x10_3000).unwrap();
        write(&machine, A, 0x10_7000).unwrap();
        assert_eq!(dirty(), [(0x10_3000, 12), (0x10_7000, 12)]);
        assert!(dirty().is_empty());
        write(&machine, A, 0x10_3000).unwrap();
        assert_eq!(dirty(), [(0x10_3000, 12)]);
    }
    let machine = Machine::new(Traits::LEGACY);
    let unit = start(&machine, Mode::Legacy);
    let options = DomainOptions { dirty_tracking: true, ..DomainOptions::default() };
    assert_eq!(unit.create_domain(options).err(), Some(Error::Unsupported(Feature::DirtyTracking)));
}

#[test]
fn addresses_are_handed_out_below_4g_first_and_reused_only_after_the_flush() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    let flush = FlushPolicy::Deferred { count: 100, delay: Duration::from_secs(1) };
    let window = Some((Iova(0), Iova(u64::MAX)));
    let domain = unit.create_domain(DomainOptions { flush, window, ..DomainOptions::default() }).unwrap();
    unit.attach(A, None, &domain).unwrap();
    let all = Iova(u64::MAX);
    let map = |size| domain.map_anywhere(PhysAddr(0x100_0000), size, Access::READ_WRITE, all, Prefer::Low);
    let first = map(PAGE).unwrap();
    assert!(first.0 < 1 << 32);
    assert_eq!(read(&machine, A, first.0), Ok(0x100_0000));
    let ticket = domain.unmap(first, PAGE).unwrap();
    let second = map(PAGE).unwrap();
    assert_ne!(first, second, "the address still leads to the old page in the unit's cache");
    domain.flush().unwrap();
    assert!(domain.is_released(ticket));
    assert_eq!(map(PAGE).unwrap(), first);
    let governed = domain.map(Iova(0x1234_5000), PhysAddr(0), PAGE, Access::READ);
    assert!(matches!(governed, Err(Error::Governed { .. })), "{governed:?}");
    assert!(matches!(domain.unmap(second, 2 * PAGE), Err(Error::Iova(_))));
    assert!(read(&machine, A, second.0).is_ok());
    // 3.15: nothing is handed out in the interrupt range, however much is taken around it.
    let blocks: Vec<_> = (0..15).map(|_| map(0x1000_0000).unwrap()).collect();
    assert!(blocks.iter().all(|block| block.0 + 0x1000_0000 <= 0xfee0_0000 || block.0 > 0xfeef_ffff));
}

#[test]
fn reserved_regions_cannot_be_mapped() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    let domain = domain(&unit);
    let interrupts = Error::Reserved { first: Iova(0xfee0_0000), last: Iova(0xfeef_ffff) };
    let map = |iova, size| domain.map(Iova(iova), PhysAddr(0), size, Access::READ_WRITE);
    assert_eq!(map(0xfee0_0000, PAGE), Err(interrupts));
    assert_eq!(map(0xfedf_f000, 2 * PAGE), Err(interrupts));
    assert_eq!(map(0xfeef_f000, PAGE), Err(interrupts));
    map(0xfedf_f000, PAGE).unwrap();
    map(0xfef0_0000, PAGE).unwrap();
}

#[test]
fn aliases_move_all_or_none() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = start(&machine, Mode::Legacy);
    unit.enable().unwrap();
    let phantom = PciAddress::new(0, 9, 0, 4);
    let device = Device { requesters: vec![A.into(), phantom.into()], ..Device::new(A) };
    unit.add_device(device).unwrap();
    assert_eq!(unit.add_device(Device::new(phantom)), Err(Error::DeviceExists(phantom.into())));
    assert_eq!(unit.attach(phantom, None, &domain(&unit)), Err(Error::UnknownDevice(phantom.into())));
    let domain = domain(&unit);
    domain.map(Iova(0x1000), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
    unit.attach(A, None, &domain).unwrap();
    assert!(read(&machine, A, 0x1000).is_ok() && read(&machine, phantom, 0x1000).is_ok());
    assert_eq!(unit.attach(A, None, &domain), Err(Error::Attached(A.into())));
    unit.detach(A, None).unwrap();
    assert!(read(&machine, A, 0x1000).is_err() && read(&machine, phantom, 0x1000).is_err());
    assert_eq!(unit.detach(A, None), Err(Error::NotAttached(A.into())));
}

#[test]
fn enable_sets_the_root_first_and_ends_protection_last() {
    let machine = Machine::new(Traits::LEGACY.with_protected_ranges());
    machine.registers.borrow_mut().pmen = 1 << 31;
    let unit = start(&machine, Mode::Legacy);
    {
        let registers = machine.registers.borrow();
        // Queue on, root set; then context cache and IOTLB forgotten globally, in this order, with a fence between.
        assert_eq!(registers.commands, [1 << 26, 1 << 26 | 1 << 30]);
        let types: Vec<_> = registers.log.iter().map(|words| (words[0] & 0xf, words[0] >> 4 & 3)).collect();
        assert_eq!(types[0], (1, 1));
        assert_eq!(types[1].0, 5);
        assert!(registers.log[1][0] & 1 << 6 != 0, "the fence");
        assert_eq!(types[2], (2, 1));
        // 11.4.6: with drains, as CAP.DWD and CAP.DRD allow.
        assert_eq!(registers.log[2][0] >> 6 & 3, 3);
        assert_eq!(registers.pmen >> 31, 1, "protection lasts until translation is in force");
    }
    unit.enable().unwrap();
    let registers = machine.registers.borrow();
    assert_eq!(registers.commands.last(), Some(&(1 << 31 | 1 << 26)));
    assert_eq!(registers.pmen, 0);
}

#[test]
fn a_root_pointer_that_invalidates_needs_no_more() {
    let machine = Machine::new(Traits::LEGACY.with_self_invalidating_root());
    start(&machine, Mode::Legacy);
    assert!(machine.registers.borrow().log.is_empty());
    let machine = Machine::new(Traits::SCALABLE);
    start(&machine, Mode::Scalable);
    let log = &machine.registers.borrow().log;
    let types: Vec<_> = log.iter().map(|words| words[0] & 0xf).filter(|kind| *kind != 5).collect();
    assert_eq!(types, [1, 7, 2]);
}

#[test]
fn a_unit_left_translating_by_another_stays_so_through_the_takeover() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = start(&machine, Mode::Legacy);
    unit.enable().unwrap();
    unit.add_device(Device::new(A)).unwrap();
    let identity = unit.identity_domain().unwrap();
    unit.attach(A, None, &identity).unwrap();
    assert!(read(&machine, A, 0x1000).is_ok());
    machine.registers.borrow_mut().commands.clear();
    let second = start(&machine, Mode::Legacy);
    assert!(machine.registers.borrow().commands.iter().all(|command| command >> 31 == 1));
    assert!(read(&machine, A, 0x1000).is_err());
    drop(second);
}

#[test]
fn a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery() {
    type Expected = fn(UnitError) -> bool;
    let troubles: [(Trouble, Expected); 3] = [
        (Trouble::Stop(IQE), |error| matches!(error, UnitError::QueueCommand { detail: 3, .. })),
        (Trouble::Stop(ITE), |error| error == UnitError::DeviceTimeout { detail: 3 }),
        (Trouble::Hang, |error| matches!(error, UnitError::QueueTimeout { .. })),
    ];
    for (trouble, is_expected) in troubles {
        for (traits, mode) in [
            (Traits::LEGACY, Mode::Legacy),
            (Traits::SCALABLE, Mode::Scalable),
            (Traits::SCALABLE.without_second_stage(), Mode::Scalable),
        ] {
            let machine = Machine::new(traits);
            let unit = started(&machine, mode);
            let set = |trouble| machine.registers.borrow_mut().trouble = trouble;
            let (begin, end) = (|| set(Some((0, trouble))), || set(None));
            let end = (trouble == Trouble::Hang).then_some(&end as &dyn Fn());
            behaviour::a_queue_that_stops_is_an_error_and_nothing_is_released_until_recovery(
                &VtdBench(&machine),
                unit,
                &behaviour::Trouble { begin: &begin, end, is_expected },
            );
        }
    }
}

#[test]
fn an_attach_that_fails_halfway_is_taken_back() {
    for (traits, mode) in [
        (Traits::LEGACY.with_caching_mode(), Mode::Legacy),
        (Traits::SCALABLE.with_caching_mode(), Mode::Scalable),
    ] {
        let mut failures = 0;
        for after in 0..32 {
            let machine = Machine::new(traits);
            let unit = start(&machine, mode);
            unit.enable().unwrap();
            let device = Device { requesters: vec![A.into(), B.into()], ..Device::new(A) };
            unit.add_device(device).unwrap();
            let domain = domain(&unit);
            domain.map(Iova(0x1000), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
            machine.registers.borrow_mut().trouble = Some((after, Trouble::Stop(IQE)));
            let attached = unit.attach(A, None, &domain);
            machine.registers.borrow_mut().trouble = None;
            if attached.is_err() {
                failures += 1;
                // By the tables alone, both are blocked.
                *machine.caches.borrow_mut() = machine::Caches::default();
                assert!(read(&machine, A, 0x1000).is_err() && read(&machine, B, 0x1000).is_err());
                unit.recover().unwrap();
                unit.attach(A, None, &domain).unwrap();
            }
            assert!(read(&machine, A, 0x1000).is_ok() && read(&machine, B, 0x1000).is_ok());
            unit.shut_down().unwrap();
            drop(domain);
            assert_eq!(machine.live_blocks(), 0);
        }
        assert!((4..32).contains(&failures));
    }
}

#[test]
fn a_completion_error_stops_nobody() {
    // 11.4.7.1, ICE: some device answered what nobody had asked.
    let machine = Machine::new(Traits::LEGACY);
    machine.registers.borrow_mut().lazy = true;
    let unit = started(&machine, Mode::Legacy);
    let domain = domain(&unit);
    unit.attach(A, None, &domain).unwrap();
    domain.map(Iova(0x1000), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
    machine.registers.borrow_mut().fsts |= ICE;
    domain.unmap(Iova(0x1000), PAGE).unwrap();
    assert_eq!(machine.registers.borrow().fsts, 0);
}

#[test]
fn registers_that_do_not_answer_time_out() {
    let machine = Machine::new(Traits::LEGACY);
    let unit = start(&machine, Mode::Legacy);
    machine.registers.borrow_mut().deaf = 1 << 31;
    let error = unit.enable().unwrap_err();
    assert!(matches!(error, Error::Unit(UnitError::RegisterTimeout { register: "GSTS", .. })), "{error:?}");
    machine.registers.borrow_mut().deaf = 0;
    unit.enable().unwrap();
    let machine = Machine::new(Traits::LEGACY);
    machine.registers.borrow_mut().deaf = 1 << 30;
    assert!(matches!(Vtd::start(&machine, &machine, options(Mode::Legacy)).err(), Some(Error::Unit(_))));
}

#[test]
fn an_allocator_empty_at_any_point_leaves_nothing_behind() {
    for (traits, mode) in kinds() {
        println!("{traits:x?} {mode:?}");
        behaviour::an_allocator_empty_at_any_point_leaves_nothing_behind(|allowed| {
            let machine = Machine::new(traits);
            machine.budget.set(allowed as u64);
            let vtd = Vtd::start(&machine, &machine, options(mode));
            let result = vtd.and_then(|vtd| behaviour::a_life(&VtdBench(&machine), Unit::new(vtd)));
            (result, machine.live_blocks())
        });
    }
}

#[test]
fn foreign_domains_and_unknown_devices_are_refused() {
    let machine = Machine::new(Traits::LEGACY);
    let other = Machine::new(Traits::LEGACY);
    let unit = started(&machine, Mode::Legacy);
    let other = started(&other, Mode::Legacy);
    let domain = domain(&other);
    assert_eq!(unit.attach(A, None, &domain), Err(Error::ForeignDomain));
    let stranger = PciAddress::new(1, 0, 3, 0);
    assert_eq!(
        unit.add_device(Device::new(stranger)),
        Err(Error::Unsupported(Feature::Requester(stranger.into())))
    );
    assert_eq!(unit.remove_device(stranger), Err(Error::UnknownDevice(stranger.into())));
}

#[test]
fn tables_of_three_levels_reach_39_bits_and_no_more() {
    let machine = Machine::new(Traits::LEGACY.with_levels(0b10).with_guest_address_bits(39));
    let unit = started(&machine, Mode::Legacy);
    let domain = domain(&unit);
    unit.attach(A, None, &domain).unwrap();
    let top = (1 << 39) - PAGE;
    domain.map(Iova(top), PhysAddr(0x1000), PAGE, Access::READ).unwrap();
    assert_eq!(read(&machine, A, top), Ok(0x1000));
    assert!(domain.map(Iova(1 << 39), PhysAddr(0x1000), PAGE, Access::READ).is_err());
    assert_eq!(machine.dma(A.requester_id, None, 1 << 39, false), Err(4));
    let shape = Some(PagingFormat::VtdSecondStage { levels: 4 });
    assert!(unit.create_domain(DomainOptions { shape, ..DomainOptions::default() }).is_err());
}
