//! Interrupts over the service on the embedded platform: those that were granted arrive at their client's event descriptors, and nothing
//! else arrives anywhere (attacks 11 to 15 of docs/attacks.md). The judge is the interrupt controller, which knows for each message who may send it,
//! and the clients' counters.

mod common;

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use common::service::{Service, claim};
use portcullis_client::{
    Client, Error,
    api::{Fault, ListFaults, ListGrants},
    device::SharedMemory,
};
use portcullis_manager::{
    Backend,
    core::Policy,
    embedded::{
        ARCHITECTURES, Controller, EmbeddedBackend, EmbeddedOptions,
        backend::DEVICES,
        device::{Command, Operation, Outcome},
        simulate,
    },
};
use rustix::event::{EventfdFlags, eventfd};

/// Client `a` may have the good devices, and `b` the rogue and the disk.
fn over(backend: Box<dyn Backend>) -> Service {
    let clients = [Policy::new("a", ["nic0", "disk0", "accel0"]), Policy::new("b", ["rogue0", "disk0"])];
    Service::over(backend, clients)
}

fn vtd() -> (Service, Arc<Controller>) {
    let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let controller = backend.controller().clone();
    (over(Box::new(backend)), controller)
}

fn events(count: usize) -> Vec<OwnedFd> {
    let event = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    (0..count).map(event).collect()
}

fn borrowed(events: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    events.iter().map(AsFd::as_fd).collect()
}

/// How often it was signalled since the last time. A device signals before it answers.
fn count(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

fn interrupt(device: &OwnedFd, vector: u64) -> Outcome {
    Command::new(Operation::Interrupt, 0, 0, vector).send(device).unwrap().outcome
}

fn forge(rogue: &OwnedFd, address: u64, data: u64, length: u64) -> Outcome {
    Command::new(Operation::Forge, address, length, data).send(rogue).unwrap().outcome
}

/// The journal, once it holds `refused` refusals of the rogue.
fn journal(client: &mut Client, refused: u64) -> Vec<Fault> {
    let begin = Instant::now();
    loop {
        let which = ListFaults { limit: Some(10_000), ..ListFaults::default() };
        let faults = client.faults(&which).unwrap();
        if faults.total >= refused {
            assert_eq!((faults.total, faults.lost), (refused, 0));
            return faults.faults;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{} of {refused}", faults.total);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn name(result: Result<(), Error>) -> String {
    match result {
        Err(Error::Refused { name, .. }) => name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn granted_interrupts_arrive_are_listed_and_end_with_the_claim() {
    let (service, controller) = vtd();
    let mut a = service.client("a");
    let (nic, accelerator) = (claim(&mut a, "nic0"), claim(&mut a, "accel0"));
    assert_eq!(interrupt(&nic, 0), Outcome::Unsupported);
    let (lines, other) = (events(3), events(1));
    a.set_interrupts("nic0", &borrowed(&lines)).unwrap();
    a.set_interrupts("accel0", &borrowed(&other)).unwrap();
    for (vector, times) in [(0, 1), (2, 3)] {
        for _ in 0..times {
            assert_eq!(interrupt(&nic, vector), Outcome::Done);
        }
    }
    assert_eq!(interrupt(&nic, 3), Outcome::Unsupported);
    assert_eq!([0, 1, 2].map(|line| count(&lines[line])), [1, 0, 3]);
    assert_eq!(count(&other[0]), 0);
    // A command that takes time says by an interrupt that it is done.
    let (space, memory) = (a.create_space().unwrap(), SharedMemory::new("test", 4096).unwrap());
    a.attach(space, "accel0", None).unwrap();
    let number = a.add_memory(&memory).unwrap().memory;
    let access = portcullis_client::api::Access::READ_WRITE;
    let mapping = portcullis_client::api::MapRequest { offset: 0, iova: Some(0x1000), length: 4096, access };
    a.map(space, Some(number), vec![mapping]).unwrap();
    let summed = Command::new(Operation::Sum, 0x1000, 4096, 0).send(&accelerator).unwrap();
    assert_eq!((summed.outcome, count(&other[0])), (Outcome::Done, 1));
    let listed = |client: &mut Client, name: &str| {
        let device = client.devices(Some(name)).unwrap().remove(0);
        (device.vectors_granted, device.vectors)
    };
    assert_eq!(listed(&mut a, "nic0"), (3, 16));
    let granted = a.grants(&ListGrants::default()).unwrap().interrupts;
    let granted: Vec<_> = granted.iter().map(|one| (&*one.client, &*one.device, one.vectors)).collect();
    assert_eq!(granted, [("a", "nic0", 3), ("a", "accel0", 1)]);
    let of_b = ListGrants { client: Some("b".into()), ..ListGrants::default() };
    assert!(a.grants(&of_b).unwrap().interrupts.is_empty());
    // Fewer: what is gone is gone, and the rest goes elsewhere.
    let fewer = events(1);
    a.set_interrupts("nic0", &borrowed(&fewer)).unwrap();
    assert_eq!((interrupt(&nic, 0), interrupt(&nic, 1)), (Outcome::Done, Outcome::Unsupported));
    assert_eq!((count(&fewer[0]), count(&lines[0])), (1, 0));
    // Quiesced, and released: none.
    let nic = a.quiesce("nic0").unwrap().remove(0).1.unwrap();
    assert_eq!((interrupt(&nic, 0), listed(&mut a, "nic0").0), (Outcome::Unsupported, 0));
    assert_eq!(listed(&mut a, "accel0").0, 1);
    drop(a);
    let mut looker = service.client("a");
    let begin = Instant::now();
    while listed(&mut looker, "accel0").0 != 0 {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((controller.delivered(), controller.strays()), (6, 0));
}

#[test]
fn what_cannot_be_signalled_or_is_not_the_clients_is_refused() {
    let (service, _) = vtd();
    let (mut a, mut b) = (service.client("a"), service.client("b"));
    let nic = claim(&mut a, "nic0");
    let good = events(16);
    a.set_interrupts("nic0", &borrowed(&good[..1])).unwrap();
    // Another's device, one that nobody has, and none.
    assert_eq!(name(b.set_interrupts("nic0", &borrowed(&good[..1]))), "NotClaimed");
    assert_eq!(name(a.set_interrupts("disk0", &borrowed(&good[..1]))), "NotClaimed");
    assert_eq!(name(a.set_interrupts("nothing", &borrowed(&good[..1]))), "NoSuchDevice");
    assert_eq!(name(a.set_interrupts("*", &borrowed(&good[..1]))), "NoSuchDevice");
    assert_eq!((interrupt(&nic, 0), count(&good[0])), (Outcome::Done, 1));
    // Descriptors that are no event descriptors, or could block a device for ever.
    let memory = SharedMemory::new("test", 4096).unwrap();
    let blocking = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for bad in [memory.as_fd(), blocking.as_fd(), nic.as_fd()] {
        assert_eq!(name(a.set_interrupts("nic0", &[good[1].as_fd(), bad])), "Unsupported");
    }
    a.set_interrupts("nic0", &borrowed(&good)).unwrap();
    assert_eq!((interrupt(&nic, 15), count(&good[15])), (Outcome::Done, 1));
    // A counter that takes no more holds nobody up, nor does one whose client lets it block later.
    rustix::io::write(&good[0], &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert_eq!(interrupt(&nic, 0), Outcome::Done);
    rustix::fs::fcntl_setfl(&good[0], rustix::fs::OFlags::RDWR).unwrap();
    assert_eq!(interrupt(&nic, 0), Outcome::Done);
    a.set_interrupts("nic0", &[]).unwrap();
    assert_eq!(interrupt(&nic, 0), Outcome::Unsupported);
}

/// The rogue tries each kind of attack; all of it is refused, and stands in the journal with its device and client.
#[test]
fn forged_interrupts_reach_nobody_and_are_journalled() {
    let (service, controller) = vtd();
    let (mut a, mut b) = (service.client("a"), service.client("b"));
    let (_nic, rogue) = (claim(&mut a, "nic0"), claim(&mut b, "rogue0"));
    let (of_a, of_b) = (events(4), events(2));
    a.set_interrupts("nic0", &borrowed(&of_a)).unwrap();
    let mut refused = 0;
    let mut attempt = |address: u64, data: u64, length: u64| {
        refused += 1;
        assert_eq!(forge(&rogue, address, data, length), Outcome::Refused, "{address:#x} {data:#x} {length}");
    };
    // 11 and 15: as processors take them: vectors, SMI, NMI, INIT, start-up, to one and to all, logical and with a hint; x2APIC
    // destinations cannot be said in this format, nor do they become others by losing bits.
    for destination in [0, 1, 3, 0xff] {
        for (mode, data) in
            [(0, 0x4041), (4, 0x41), (8, 0x200), (12, 0x400), (0, 0x500), (0, 0x600), (0, 0x700)]
        {
            attempt(0xfee0_0000 | destination << 12 | mode, data, 4);
        }
    }
    // 12: every entry near those in use, by handle, and by handle and subhandle.
    for index in 0..512 {
        attempt(0xfee0_0010 | index << 5, 0, 4);
        attempt(0xfee0_0018 | (index & !31) << 5, index & 31, 4);
    }
    // 13: too long, too short, misaligned, with reserved data, beyond the table.
    for (address, data, length) in [
        (0xfee0_0010, 0x4041, 8),
        (0xfee0_0010, 0x41, 1),
        (0xfee0_0012, 0x41, 2),
        (0xfee0_0011, 0x41, 4),
        (0xfee0_0018, 0x1_0000, 4),
        (0xfee0_001c, 0xffff, 4),
        (0xfeef_fffc, 0xffff, 4),
    ] {
        attempt(address, data, length);
    }
    // 14: what it once had.
    b.set_interrupts("rogue0", &borrowed(&of_b)).unwrap();
    assert_eq!((interrupt(&rogue, 1), count(&of_b[1])), (Outcome::Done, 1));
    b.set_interrupts("rogue0", &[]).unwrap();
    for _ in 0..2 {
        refused += 1;
        assert_eq!(interrupt(&rogue, 1), Outcome::Refused);
        // The same entry, now another's.
        let disk = claim(&mut a, "disk0");
        a.set_interrupts("disk0", &borrowed(&of_a[2..])).unwrap();
        refused += 1;
        assert_eq!(interrupt(&rogue, 1), Outcome::Refused);
        assert_eq!((interrupt(&disk, 0), count(&of_a[2])), (Outcome::Done, 1));
        a.release("disk0", false).unwrap();
    }
    assert_eq!((controller.delivered(), controller.strays()), (3, 0));
    assert!(of_a.iter().chain(&of_b).all(|event| count(event) == 0));
    for fault in journal(&mut b, refused) {
        assert_eq!((fault.devices, fault.client.as_deref()), (vec!["rogue0".into()], Some("b")));
        assert_eq!((&*fault.reason, fault.access.write), ("interrupt-blocked", true));
        assert!((0x20..=0x29).contains(&fault.code), "{:#x}", fault.code);
        assert!((0xfee0_0000..0xfef0_0000).contains(&fault.address));
    }
}

/// Everything that the rogue does by itself, on every architecture: nothing of it arrives.
#[test]
fn the_rogue_reaches_nothing_on_any_architecture() {
    for architecture in ARCHITECTURES {
        let service = over(simulate(architecture, &DEVICES).unwrap().unwrap());
        let (mut a, mut b) = (service.client("a"), service.client("b"));
        let (nic, rogue) = (claim(&mut a, "nic0"), claim(&mut b, "rogue0"));
        let lines = events(2);
        let vectors = a.devices(Some("nic0")).unwrap()[0].vectors;
        if vectors > 0 {
            a.set_interrupts("nic0", &borrowed(&lines)).unwrap();
        } else {
            assert_eq!(name(a.set_interrupts("nic0", &borrowed(&lines))), "Unsupported");
        }
        // Every page of both clients says whose it is; the rogue has one, to read.
        let memories = ["a", "b"].map(|name| SharedMemory::new(name, 16 * 4096).unwrap());
        for (client, memory, device) in [(&mut a, &memories[0], "nic0"), (&mut b, &memories[1], "rogue0")] {
            (0..16).for_each(|page| memory.write::<u64>(page * 4096, 0x1234_0000 + page).unwrap());
            let space = client.create_space().unwrap();
            client.attach(space, device, None).unwrap();
            let number = client.add_memory(memory).unwrap().memory;
            let access = portcullis_client::api::Access { read: true, ..Default::default() };
            let (first, length) = if device == "nic0" { (0x10_0000, 16 * 4096) } else { (0x10_0000, 4096) };
            let mapping = portcullis_client::api::MapRequest { offset: 0, iova: Some(first), length, access };
            client.map(space, Some(number), vec![mapping]).unwrap();
        }
        Command::new(Operation::Attack, 0x10_0000, 1 << 20, 1_000_000).send(&rogue).unwrap();
        // Long enough for every kind of it several times, however loaded the machine is.
        let begin = Instant::now();
        loop {
            let faults = b.faults(&ListFaults { limit: Some(1), ..ListFaults::default() }).unwrap();
            if faults.total >= 2000 {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "{architecture}: {}", faults.total);
            std::thread::sleep(Duration::from_millis(5));
        }
        Command::new(Operation::Stop, 0, 0, 0).send(&rogue).unwrap();
        for memory in &memories {
            let kept = |page: u64| memory.read::<u64>(page * 4096).unwrap() == 0x1234_0000 + page;
            assert!((0..16).all(kept), "{architecture}");
        }
        assert!(lines.iter().all(|line| count(line) == 0), "{architecture}");
        if vectors > 0 {
            assert_eq!((interrupt(&nic, 1), count(&lines[1])), (Outcome::Done, 1));
        }
        // What came last may still be on its way into the books.
        loop {
            let statistics = b.statistics().unwrap();
            let of =
                |name: &str| statistics.devices.iter().find(|device| device.device == name).unwrap().faults;
            assert_eq!(of("nic0"), 0, "{architecture}");
            if of("rogue0") == statistics.faults {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "{architecture}: {statistics:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
