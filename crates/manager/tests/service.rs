//! The service over the embedded platform, as clients meet it.

mod common;

use std::{
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    PAGE,
    service::{Service, claim},
};
use portcullis_client::{
    Client, Error,
    api::{self, Access, ListFaults, ListGrants, MapRequest, Range},
    device::SharedMemory,
};
use portcullis_manager::{
    core::{Accepted, Core, Policy, Refusal},
    embedded::{
        ARCHITECTURES, EmbeddedBackend, EmbeddedOptions,
        backend::DEVICES,
        device::{Command, Kind, Operation, Outcome},
        simulate,
    },
    service::{self, Ended, Inherited, Policies, Settings},
    upstream::Upstream,
};
use portcullis_spec::Iova;

/// On VT-d, with clients that may have some devices each.
fn start() -> Service {
    let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let clients = [Policy::new("a", ["nic0", "accel0"]), Policy::new("b", ["disk0", "nic0", "rogue0"])];
    Service::over(Box::new(backend), clients)
}

/// A client whose devices may use addresses up to `last`.
fn up_to(last: u64, name: &str, devices: &[&str]) -> Policy {
    Policy { windows: Some(vec![Iova(0)..=Iova(last)]), ..Policy::new(name, devices.iter().copied()) }
}

/// A client that has a device with some memory granted.
struct Holder {
    client: Client,
    device: OwnedFd,
    memory: SharedMemory,
    space: u64,
    number: u64,
}

impl Holder {
    fn new(service: &Service, name: &str, device: &str, mappings: Vec<MapRequest>) -> Self {
        let mut client = service.client(name);
        let descriptor = claim(&mut client, device);
        let space = client.create_space().unwrap();
        client.attach(space, device, None).unwrap();
        let memory = SharedMemory::new("test", 16 * PAGE).unwrap();
        let number = client.add_memory(&memory).unwrap().memory;
        client.map(space, Some(number), mappings).unwrap();
        Self { client, device: descriptor, memory, space, number }
    }

    fn dma(&self, operation: Operation, address: u64, argument: u64) -> (Outcome, u64) {
        let answer = Command::new(operation, address, 8, argument).send(&self.device).unwrap();
        (answer.outcome, answer.value)
    }
}

fn at(iova: u64, offset: u64, pages: u64, access: Access) -> MapRequest {
    MapRequest { offset: offset * PAGE, iova: Some(iova), length: pages * PAGE, access }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    answer.unwrap_err().refusal().expect("a refusal").to_owned()
}

#[test]
fn dma_inside_a_grant_arrives_and_outside_is_refused_and_recorded_with_the_clients_name() {
    let service = start();
    let grants = vec![at(0x10_0000, 2, 1, Access::READ_WRITE), at(0x20_0000, 3, 1, Access::READ)];
    let mut a = Holder::new(&service, "a", "nic0", grants);
    a.memory.write::<u64>(3 * PAGE, 0x1122_3344).unwrap();
    assert_eq!(a.dma(Operation::Write, 0x10_0010, 0x5566), (Outcome::Done, 0));
    assert_eq!(a.dma(Operation::Read, 0x10_0010, 0), (Outcome::Done, 0x5566));
    assert_eq!(a.memory.read::<u64>(2 * PAGE + 0x10).unwrap(), 0x5566);
    assert_eq!(a.dma(Operation::Read, 0x20_0000, 0).0, Outcome::Done);
    assert_eq!(a.dma(Operation::Write, 0x20_0000, 1).0, Outcome::Refused);
    assert_eq!(a.dma(Operation::Write, 0x10_1000, 1).0, Outcome::Refused);

    let mut faults = Vec::new();
    eventually("two refusals are recorded", || {
        faults = a.client.faults(&ListFaults::default()).unwrap().faults;
        faults.len() == 2
    });
    let first = &faults[0];
    assert_eq!((first.client.as_deref(), first.devices.as_slice()), (Some("a"), &["nic0".to_owned()][..]));
    assert_eq!(
        (first.address, first.access, first.reason.as_str()),
        (0x20_0000, Access::WRITE, "permission-denied")
    );
    assert_eq!(first.grant, Some(2));
    assert_eq!(
        (faults[1].address, faults[1].reason.as_str(), faults[1].grant),
        (0x10_1000, "not-mapped", None)
    );
}

#[test]
fn every_architecture_that_is_simulated_keeps_to_the_grants() {
    for name in ARCHITECTURES {
        let backend = simulate(name, &DEVICES).expect("it is there").expect("it starts");
        let clients = [Policy::new("a", ["nic0", "accel0"]), Policy::new("b", ["rogue0"])];
        let service = Service::over(backend, clients);
        let grants = vec![at(0x10_0000, 2, 1, Access::READ_WRITE), at(0x20_0000, 3, 1, Access::READ)];
        let mut a = Holder::new(&service, "a", "nic0", grants);
        let unit = a.client.units().unwrap().remove(0);
        assert_eq!((unit.name, unit.kind), (format!("{name}-0"), name.to_owned()));
        assert_eq!(a.dma(Operation::Write, 0x10_0010, 0x5566), (Outcome::Done, 0), "{name}");
        assert_eq!(a.memory.read::<u64>(2 * PAGE + 0x10).unwrap(), 0x5566);
        // The RISC-V IOMMU's causes for page faults (12 to 15 and 20 to 23) don't say which of the two it was.
        let denied = if name == "riscv" { "not-mapped" } else { "permission-denied" };
        for (operation, address, reason) in
            [(Operation::Write, 0x20_0000, denied), (Operation::Read, 0x10_1000, "not-mapped")]
        {
            let mut newest = || {
                let which = ListFaults { newest: Some(true), limit: Some(1), ..ListFaults::default() };
                a.client.faults(&which).unwrap().faults.pop()
            };
            assert!(newest().is_none_or(|fault| fault.address != address));
            let answer = Command::new(operation, address, 8, 1).send(&a.device).unwrap();
            assert_eq!(answer.outcome, Outcome::Refused, "{name}: {address:#x}");
            eventually("the refusal is recorded", || newest().is_some_and(|fault| fault.address == address));
            let fault = newest().unwrap();
            assert_eq!((fault.client.as_deref(), fault.reason.as_str()), (Some("a"), reason), "{name}");
            assert_eq!(fault.devices, ["nic0"], "{name}");
        }
        // A PASID has a space of its own, and no other.
        let accelerator = claim(&mut a.client, "accel0");
        let space = a.client.create_space().unwrap();
        a.client.attach(space, "accel0", Some(5)).unwrap();
        a.client.map(space, Some(a.number), vec![at(0x30_0000, 4, 1, Access::READ_WRITE)]).unwrap();
        for (pasid, outcome) in
            [(Some(5), Outcome::Done), (Some(6), Outcome::Refused), (None, Outcome::Refused)]
        {
            let pasid = pasid.and_then(portcullis_spec::Pasid::new);
            let command = Command { pasid, ..Command::new(Operation::Write, 0x30_0000, 8, 9) };
            assert_eq!(command.send(&accelerator).unwrap().outcome, outcome, "{name}: {pasid:?}");
        }
        // While a rogue tries everything, what is unmapped is gone at once.
        let b = Holder::new(&service, "b", "rogue0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
        Command::new(Operation::Attack, 0x10_0000, 1 << 20, 100_000).send(&b.device).unwrap();
        for round in 0..20 {
            assert_eq!(a.dma(Operation::Write, 0x10_0000, round).0, Outcome::Done, "{name}");
            a.client.unmap(a.space, vec![Range { iova: 0x10_0000, length: PAGE }]).unwrap();
            assert_eq!(a.dma(Operation::Write, 0x10_0000, round).0, Outcome::Refused, "{name}");
            a.client.map(a.space, Some(a.number), vec![at(0x10_0000, 2, 1, Access::READ_WRITE)]).unwrap();
        }
        for page in (0..16).filter(|page| *page != 2 && *page != 4) {
            assert_eq!(a.memory.read::<u64>(page * PAGE).unwrap(), 0, "{name}: page {page}");
        }
        a.client.release("nic0", false).unwrap();
        assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&a.device).is_err(), "{name}");
    }
}

#[test]
fn what_is_unmapped_is_gone_at_once() {
    let service = start();
    let mut a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 4, Access::READ_WRITE)]);
    for round in 0..50 {
        assert_eq!(a.dma(Operation::Write, 0x10_2000, round).0, Outcome::Done);
        let removed = a.client.unmap(a.space, vec![Range { iova: 0x10_0000, length: 4 * PAGE }]).unwrap();
        assert_eq!((removed.mappings, removed.bytes), (1, 4 * PAGE));
        assert_eq!(a.dma(Operation::Write, 0x10_2000, round).0, Outcome::Refused);
        a.client.map(a.space, Some(a.number), vec![at(0x10_0000, 0, 4, Access::READ_WRITE)]).unwrap();
    }
}

#[test]
fn a_device_that_was_quiesced_reaches_nothing_and_stays_its_clients() {
    let service = start();
    let mut a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 1).0, Outcome::Done);
    let mut b = service.client("b");
    assert_eq!(refusal(b.quiesce("nic0")), "NotClaimed");
    let (name, descriptor) = a.client.quiesce("nic0").unwrap().remove(0);
    let descriptor = descriptor.expect("another descriptor");
    assert_eq!(name, "nic0");
    // The old descriptor is of no more use, and through the new one the device reaches nothing until it is attached.
    assert!(Command::new(Operation::Write, 0x10_0000, 8, 2).send(&a.device).is_err());
    a.device = descriptor;
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 3).0, Outcome::Refused);
    assert_eq!(refusal(b.claim("nic0")), "Held");
    a.client.attach(a.space, "nic0", None).unwrap();
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 4).0, Outcome::Done);
    assert_eq!(a.memory.read::<u64>(0).unwrap(), 4);
}

#[test]
fn metrics_are_told_to_who_asks_over_http() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let mut inherited = Inherited::default();
    inherited.metrics = Some(listener);
    let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let service = Service::with(Box::new(backend), [Policy::new("a", ["nic0"])], inherited);
    let a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    assert_eq!(a.dma(Operation::Read, 0x90_0000, 0).0, Outcome::Refused);
    let page = || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
        text
    };
    // OpenMetrics 1.0: the last line is `# EOF`; labels are bounded, so no address is one.
    eventually("the refusal is counted for its device", || {
        page().lines().any(|line| line.contains("\"nic0\"") && line.ends_with(" 1"))
    });
    let text = page();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("application/openmetrics-text"), "{text}");
    assert!(text.trim_end().ends_with("# EOF") && !text.contains("0x900000"), "{text}");
}

#[test]
fn a_device_that_is_pulled_out_is_told_at_once_and_one_that_is_put_in_too() {
    let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let plugs = backend.plugs();
    let clients = [Policy::new("a", ["nic*"]), Policy::new("b", ["disk0"])];
    let service = Service::over(Box::new(backend), clients);
    let a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    // Nobody watches the service: only the event itself can tell.
    let mut followed = service.client("b").follow(true, false).unwrap().map(Result::unwrap);
    plugs.pull_out("nic0");
    let event = followed.find_map(|followed| followed.event).unwrap();
    assert_eq!((event.kind.as_str(), event.devices), ("disappeared", vec!["nic0".to_owned()]));
    assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&a.device).is_err());
    let mut looker = service.client("a");
    assert_eq!(refusal(looker.devices(Some("nic0"))), "NoSuchDevice");

    plugs.put_in("nic1", Kind::Network);
    plugs.put_in("nic0", Kind::Network);
    let came: Vec<String> =
        followed.filter_map(|followed| followed.event).take(2).flat_map(|event| event.devices).collect();
    assert_eq!(came, ["nic1", "nic0"]);
    // It is another device, whatever its name: nobody has it, and it reaches nothing.
    let mut again = service.client("a");
    let device = again.claim("nic0").unwrap().remove(0).1.expect("a descriptor");
    let refused = Command::new(Operation::Read, 0x10_0000, 8, 0).send(&device).unwrap();
    assert_eq!(refused.outcome, Outcome::Refused);
    drop(a);
}

#[test]
fn the_newest_faults_come_newest_first() {
    let service = start();
    let mut a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    for page in 1..=9 {
        assert_eq!(a.dma(Operation::Read, 0x10_0000 + page * PAGE, 0).0, Outcome::Refused);
        // One after the other: the unit has few registers for records, and loses those that come too fast.
        eventually("it is recorded", || {
            a.client.faults(&ListFaults::default()).unwrap().faults.len() as u64 == page
        });
    }
    let mut numbers = |which: ListFaults| -> Vec<u64> {
        a.client.faults(&which).unwrap().faults.iter().map(|fault| fault.number).collect()
    };
    let newest = ListFaults { newest: Some(true), limit: Some(3), ..ListFaults::default() };
    assert_eq!(numbers(newest.clone()), [9, 8, 7]);
    assert_eq!(numbers(ListFaults { before: Some(7), ..newest.clone() }), [6, 5, 4]);
    assert_eq!(
        numbers(ListFaults { after: Some(2), before: Some(5), newest: None, limit: None, ..newest }),
        [3, 4]
    );
}

#[test]
fn a_client_reaches_nothing_of_anothers() {
    let service = start();
    let a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    let mut b = Holder::new(&service, "b", "rogue0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    assert_eq!(refusal(b.client.claim("nic0")), "Held");
    assert_eq!(refusal(b.client.claim("accel0")), "NotPermitted");
    assert_eq!(refusal(b.client.claim("nobody*")), "NoSuchDevice");
    assert_eq!(refusal(b.client.attach(a.space, "rogue0", None)), "NoSuchSpace");
    assert_eq!(refusal(b.client.attach(b.space, "nic0", None)), "NotClaimed");
    let foreign = b.client.map(b.space, Some(a.number), vec![at(0x30_0000, 0, 1, Access::READ)]);
    assert_eq!(refusal(foreign), "NoSuchMemory");
    // The same address of two devices leads to two memories.
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 0xaaaa).0, Outcome::Done);
    assert_eq!(b.dma(Operation::Read, 0x10_0000, 0), (Outcome::Done, 0));
    // A rogue finds nothing anywhere else: neighbours, tables, others' memory, interrupts.
    let before: Vec<u64> = (0..16).map(|page| a.memory.read::<u64>(page * PAGE).unwrap()).collect();
    let attack = Command::new(Operation::Attack, 0x10_0000, 70, 100_000);
    assert_eq!(attack.send(&b.device).unwrap().outcome, Outcome::Done);
    eventually("the rogue's accesses are refused", || {
        b.client.faults(&ListFaults { device: Some("rogue0".into()), ..ListFaults::default() }).unwrap().total
            >= 50
    });
    let after: Vec<u64> = (0..16).map(|page| a.memory.read::<u64>(page * PAGE).unwrap()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_client_that_dies_loses_its_devices_and_they_reach_nothing() {
    let service = start();
    let a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    let Holder { client, device, .. } = a;
    drop(client);
    let mut b = service.client("b");
    eventually("the device is free", || b.claim("nic0").is_ok());
    assert!(
        Command::new(Operation::Write, 0x10_0000, 8, 1).send(&device).is_err(),
        "the old descriptor still works"
    );
    let grants = b.grants(&ListGrants::default()).unwrap().grants;
    assert!(grants.is_empty(), "{grants:?}");
}

#[test]
fn a_pasid_has_a_space_of_its_own() {
    let service = start();
    let mut a = Holder::new(&service, "a", "accel0", vec![at(0x10_0000, 0, 1, Access::READ_WRITE)]);
    let space = a.client.create_space().unwrap();
    a.client.attach(space, "accel0", Some(5)).unwrap();
    a.client.map(space, Some(a.number), vec![at(0x10_0000, 1, 1, Access::READ_WRITE)]).unwrap();
    let write = |pasid, value| {
        let pasid = portcullis_spec::Pasid::new(pasid);
        let command = Command { pasid, ..Command::new(Operation::Write, 0x10_0000, 8, value) };
        command.send(&a.device).unwrap().outcome
    };
    assert_eq!(write(5, 0x55), Outcome::Done);
    assert_eq!(write(6, 0x66), Outcome::Refused);
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 0x11).0, Outcome::Done);
    let word = |page: u64| a.memory.read::<u64>(page * PAGE).unwrap();
    assert_eq!((word(0), word(1)), (0x11, 0x55));
}

#[test]
fn violations_are_followed_as_they_come() {
    let service = start();
    let follower = service.client("a");
    let mut followed = follower.follow(false, true).unwrap();
    let a = Holder::new(&service, "a", "nic0", vec![at(0x10_0000, 0, 1, Access::READ)]);
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 1).0, Outcome::Refused);
    let fault = followed.next().unwrap().unwrap().fault.expect("a violation");
    assert_eq!((fault.client.as_deref(), fault.address), (Some("a"), 0x10_0000));
}

#[test]
fn bad_input_gets_an_exact_error_and_harms_nobody_else() {
    let service = start();
    let mut good = service.client("a");
    let call = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&service.socket).unwrap();
        stream.write_all(bytes).unwrap();
        let mut client = Client::over(stream);
        client.set_timeout(Some(Duration::from_secs(10))).unwrap();
        client.receive::<serde_json::Value>().map(|(value, ..)| value)
    };
    let method = |name: &str, parameters: &str| {
        call(
            format!("{{\"method\":\"org.portcullis.Manager.{name}\",\"parameters\":{parameters}}}\0")
                .as_bytes(),
        )
    };
    for garbage in [&b"\0"[..], b"hello\0", b"{}\0", b"[1,2]\0", b"{\"method\":5}\0", b"\xff\xfe\0"] {
        assert_eq!(refusal(call(garbage)), "BadCall", "{garbage:?}");
    }
    assert_eq!(refusal(method("Fly", "{}")), "MethodNotFound");
    assert_eq!(refusal(call(b"{\"method\":\"org.other.Thing.Do\"}\0")), "InterfaceNotFound");
    assert_eq!(refusal(method("Claim", "{}")), "InvalidParameter");
    assert_eq!(refusal(method("Claim", "{\"device\":\"nic0\",\"also\":1}")), "InvalidParameter");
    assert_eq!(refusal(method("Claim", "{\"device\":5}")), "InvalidParameter");
    assert_eq!(refusal(method("Follow", "{}")), "ExpectedMore");
    assert_eq!(refusal(method("AddMemory", "{}")), "BadMemory");
    assert_eq!(refusal(method("Map", "{\"space\":1,\"memory\":-1,\"mappings\":[]}")), "InvalidParameter");
    // Too long, too many, never ending.
    let mut endless = vec![b' '; api::MESSAGE_LIMIT + 1];
    endless[0] = b'{';
    let stream = UnixStream::connect(&service.socket).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = (&stream).write_all(&endless);
    let mut client = Client::over(stream);
    client.set_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(refusal(client.receive::<serde_json::Value>().map(|(value, ..)| value)), "Limit");
    // A call is one however its text is spelled.
    let spelled = b"{\"method\":\"org.portcullis.Manager.\\u0047etStatus\"}\0";
    assert_eq!(call(spelled).unwrap()["backend"], "embedded vtd");
    let space = good.create_space().unwrap();
    let many = vec![at(0, 0, 1, Access::READ); 20_000];
    assert_eq!(refusal(good.map(space, None, many)), "Limit");
    // Descriptors that are not memory.
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert_eq!(refusal(good.add_memory(file.as_fd())), "BadMemory");
    let memory = SharedMemory::new("test", PAGE).unwrap();
    let number = good.add_memory(&memory).unwrap().memory;
    // Ranges that wrap, or lead outside.
    let wild = |good: &mut Client, one: MapRequest| refusal(good.map(space, Some(number), vec![one]));
    assert_eq!(wild(&mut good, at(u64::MAX - 0xfff, 0, 2, Access::READ)), "OutOfRange");
    assert_eq!(wild(&mut good, MapRequest { length: u64::MAX, ..at(0x1000, 0, 1, Access::READ) }), "Limit");
    assert_eq!(
        wild(&mut good, MapRequest { offset: u64::MAX - 0xfff, ..at(0x1000, 0, 1, Access::READ) }),
        "BadRange"
    );
    assert_eq!(wild(&mut good, at(0x1000, 0, 2, Access::READ)), "OutOfRange");
    assert_eq!(wild(&mut good, at(0x1000, 0, 1, Access::default())), "BadRange");
    // Clients that vanish in the middle of a call.
    for _ in 0..50 {
        let mut stream = UnixStream::connect(&service.socket).unwrap();
        stream.write_all(b"{\"method\":\"org.portcullis.Manager.Cl").unwrap();
    }
    assert_eq!(good.status().unwrap().you, "a");
}

#[test]
fn a_thousand_connections_that_say_nothing_keep_nobody_waiting() {
    let service = start();
    let silent: Vec<UnixStream> =
        (0..1000).filter_map(|_| UnixStream::connect(&service.socket).ok()).collect();
    assert_eq!(silent.len(), 1000);
    let mut client = service.client("a");
    let begin = Instant::now();
    for _ in 0..100 {
        client.status().unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // One too many is told so; those that were there before are served on.
    let more: Vec<UnixStream> = (0..110).filter_map(|_| UnixStream::connect(&service.socket).ok()).collect();
    let mut last = Client::over(more.last().unwrap().try_clone().unwrap());
    last.set_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(refusal(last.receive::<serde_json::Value>().map(|(value, ..)| value)), "Limit");
    client.status().unwrap();
}

/// Whatever some clients do, one who works beside them keeps what it has, its device goes on, and only its own faults are recorded.
#[test]
fn what_bad_clients_do_costs_the_others_nothing() {
    let service = start();
    let mut good = Holder::new(&service, "b", "disk0", vec![at(0x1000, 0, 4, Access::READ_WRITE)]);
    let call = |name: &str, parameters: &str| {
        format!("{{\"method\":\"org.portcullis.Manager.{name}\",\"parameters\":{parameters}}}\0").into_bytes()
    };
    for round in 0..20u64 {
        // Those who vanish before a call is whole, or before its answer: what they claimed meanwhile is let go.
        for bytes in [
            call("Introduce", "{\"client\":\"a\"}").repeat(2)[..90].to_vec(),
            [
                call("Introduce", "{\"client\":\"a\"}"),
                call("Claim", "{\"device\":\"nic0\"}"),
                call("CreateSpace", "{}"),
            ]
            .concat(),
            call("ListFaults", &format!("{{\"limit\":{}}}", u64::MAX)),
            call(
                "ListGrants",
                &format!("{{\"limit\":{},\"after\":{{\"iova\":{0},\"length\":{0}}}}}", u64::MAX),
            ),
            call("Unmap", &format!("{{\"space\":{},\"ranges\":[]}}", good.space)),
            call("RemoveMemory", &format!("{{\"memory\":{}}}", good.number)),
            call("Release", "{\"device\":\"disk0\"}"),
            b"{\"method\":".repeat(1000),
        ] {
            let mut stream = UnixStream::connect(&service.socket).unwrap();
            stream.write_all(&bytes).unwrap();
        }
        // More descriptors than any message takes.
        let stream = UnixStream::connect(&service.socket).unwrap();
        let memory = SharedMemory::new("test", PAGE).unwrap();
        for _ in 0..3 {
            let beside = [memory.as_fd(); api::DESCRIPTOR_LIMIT];
            let _ = portcullis_client::frame::send(&stream, b"{\"method\"", &beside);
        }
        let mut client = Client::over(stream);
        client.set_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(refusal(client.receive::<serde_json::Value>().map(|(value, ..)| value)), "Limit");
        // Beside them, everything is as it was.
        assert_eq!(good.dma(Operation::Write, 0x1000 + 8 * round, round), (Outcome::Done, 0));
        assert_eq!(good.dma(Operation::Read, 0x1000 + 8 * round, 0), (Outcome::Done, round));
    }
    let grants = good.client.grants(&ListGrants::default()).unwrap().grants;
    assert_eq!(
        grants.iter().map(|grant| (grant.iova, grant.length)).collect::<Vec<_>>(),
        [(0x1000, 4 * PAGE)]
    );
    assert_eq!(good.dma(Operation::Read, 0x9000, 0).0, Outcome::Refused);
    eventually("its fault is recorded, and no other", || good.client.status().unwrap().faults == 1);
    let mut other = service.client("a");
    eventually("what those who vanished had is free", || other.claim("nic0").is_ok());
}

#[test]
fn one_who_does_not_read_keeps_nobody_waiting() {
    let service = start();
    let mut deaf = service.client("b");
    deaf.set_timeout(Some(Duration::from_secs(1))).unwrap();
    let stream = deaf.as_fd().try_clone_to_owned().unwrap();
    let stream = UnixStream::from(stream);
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let call = b"{\"method\":\"org.portcullis.Manager.ListDevices\",\"parameters\":{}}\0".repeat(2000);
    let _ = (&stream).write_all(&call);
    let mut client = service.client("a");
    let begin = Instant::now();
    client.status().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn the_interface_describes_itself() {
    let service = start();
    let mut client = service.client("a");
    let asked = serde_json::json!({ "interface": api::INTERFACE });
    let answer: serde_json::Value =
        client.call("org.varlink.service.GetInterfaceDescription", &asked).unwrap();
    let description = answer["description"].as_str().unwrap();
    let methods: Vec<&str> = description
        .lines()
        .filter_map(|line| line.strip_prefix("method "))
        .filter_map(|line| line.split('(').next())
        .collect();
    assert!(methods.len() > 20);
    // Every method that is described is there: it is not unknown, whatever else is wrong with an empty call.
    for method in methods {
        let answer: Result<serde_json::Value, Error> = client.call(method, &serde_json::json!({}));
        if let Err(error) = answer {
            assert_ne!(error.refusal(), Some("MethodNotFound"), "{method}");
        }
    }
}

#[test]
fn a_guests_manager_narrows_what_the_host_gave_and_never_widens_it() {
    let embedded = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let host = Service::over(
        Box::new(embedded),
        [up_to(0x3f_ffff, "guest", &["nic0", "accel0"]), Policy::new("other", ["*"])],
    );
    let upstream = Upstream::connect(&host.socket, Some("guest")).unwrap();
    let guest = Service::over(
        Box::new(upstream),
        [up_to(0x1f_ffff, "driver", &["nic0"]), Policy::new("wide", ["accel0"])],
    );
    // What the guest was given, the host gives nobody else; what it was not given, the guest does not even see.
    let mut other = host.client("other");
    assert_eq!(refusal(other.claim("nic0")), "Held");
    let mut driver = guest.client("driver");
    let seen: Vec<String> = driver.devices(None).unwrap().into_iter().map(|device| device.name).collect();
    assert_eq!(seen, ["nic0", "accel0"]);

    let mut a = Holder::new(&guest, "driver", "nic0", vec![at(0x10_0000, 2, 1, Access::READ_WRITE)]);
    assert_eq!(a.dma(Operation::Write, 0x10_0000, 0x77).0, Outcome::Done);
    assert_eq!(a.memory.read::<u64>(2 * PAGE).unwrap(), 0x77);
    assert_eq!(a.dma(Operation::Write, 0x10_1000, 1).0, Outcome::Refused);
    // Both see it, each with the client that it knows.
    let client_of = |client: &mut Client| {
        let faults = client.faults(&ListFaults::default()).unwrap().faults;
        faults.first().and_then(|fault| Some((fault.client.clone()?, fault.address)))
    };
    eventually("the guest's manager records it", || {
        client_of(&mut a.client) == Some(("driver".into(), 0x10_1000))
    });
    eventually("the host's manager records it", || {
        client_of(&mut other) == Some(("guest".into(), 0x10_1000))
    });

    // The guest's own bound, then the host's.
    let beyond = a.client.map(a.space, Some(a.number), vec![at(0x20_0000, 0, 1, Access::READ)]);
    assert_eq!(refusal(beyond), "OutOfRange");
    let mut wide = Holder::new(&guest, "wide", "accel0", vec![at(0x20_0000, 0, 1, Access::READ)]);
    let beyond =
        wide.client.map(wide.space, Some(wide.number), vec![at(0x40_0000, 0, 1, Access::READ)]).unwrap_err();
    assert!(beyond.to_string().contains("outside the addresses that guest was given"), "{beyond}");
    assert_eq!(wide.dma(Operation::Read, 0x40_0000, 0).0, Outcome::Refused);

    // At run time: unmapped is gone at once, mapped is there at once.
    for round in 0..10 {
        a.client.unmap(a.space, vec![Range { iova: 0x10_0000, length: PAGE }]).unwrap();
        assert_eq!(a.dma(Operation::Read, 0x10_0000, 0).0, Outcome::Refused);
        a.client.map(a.space, Some(a.number), vec![at(0x10_0000, round, 1, Access::READ)]).unwrap();
        assert_eq!(a.dma(Operation::Read, 0x10_0000, 0).0, Outcome::Done);
    }
    // A driver in the guest that dies leaves nothing with the host either, and nobody else can have its device in between.
    let stop = Arc::new(AtomicBool::new(false));
    let greedy = {
        let (mut greedy, stop) = (host.client("other"), stop.clone());
        std::thread::spawn(move || {
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) || asked == 0 {
                assert_eq!(refusal(greedy.claim("nic0")), "Held");
                asked += 1;
            }
        })
    };
    let Holder { client, device, .. } = a;
    drop(client);
    for _ in 0..20 {
        let mut next = guest.client("driver");
        eventually("the guest's device is free again", || next.claim("nic0").is_ok());
    }
    stop.store(true, Ordering::Relaxed);
    greedy.join().expect("nobody else has had it");
    eventually("its grants are gone at the host", || {
        let all = ListGrants { device: Some("nic0".into()), ..ListGrants::default() };
        other.grants(&all).unwrap().grants.is_empty()
    });
    assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&device).is_err());
}

#[test]
fn a_service_that_can_not_start_says_why() {
    let first = start();
    let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &DEVICES).unwrap();
    let core = Core::start::<Refusal>(Box::new(backend), Accepted::default(), Ok).unwrap();
    let settings = Settings::new(&first.socket, Policies::default());
    let ended = service::start(core, settings, Inherited::default()).unwrap_err();
    assert!(matches!(&ended, Ended::Running(at) if *at == first.socket), "{ended}");
    assert_eq!(first.client("a").status().unwrap().you, "a");
}
