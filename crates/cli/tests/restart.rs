//! A service that is killed: what it granted stays granted to those who had it, and nothing else does.

mod common;

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use common::{Running, eventually, kill};
use portcullis_client::{
    Client,
    api::{Access, ListEvents, MapRequest, Range},
    device::SharedMemory,
};
use portcullis_manager::embedded::device::{Command, Operation, Outcome};

const PAGE: u64 = 4096;
const RUN: [&str; 2] = ["--platform", "embedded"];

fn at(iova: u64, page: u64, access: Access) -> MapRequest {
    MapRequest { offset: page * PAGE, iova: Some(iova), length: PAGE, access }
}

fn dma(device: &OwnedFd, operation: Operation, address: u64, argument: u64) -> (Outcome, u64) {
    let answer = Command::new(operation, address, 8, argument).send(device).expect("the device answers");
    (answer.outcome, answer.value)
}

/// A client with a device and a memory of 64 pages; its space and the memory's number.
fn client(service: &Running, device: &str) -> (Client, OwnedFd, SharedMemory, u64, u64) {
    let mut client = service.client();
    let descriptor = client.claim(device).expect("claimed").remove(0).1.expect("a descriptor");
    let space = client.create_space().expect("a space");
    client.attach(space, device, None).expect("attached");
    let memory = SharedMemory::new("test", 64 * PAGE).expect("memory");
    let number = client.add_memory(&memory).expect("registered").memory;
    (client, descriptor, memory, space, number)
}

/// A process that has the rogue, by which so many devices are claimed.
fn claimant(service: &Running, claimed: u64) -> Child {
    let mut command = service.prepare(&["claim", "rogue0", "--memory", "4K"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command runs");
    let mut looker = service.client();
    eventually("the rogue is claimed", || looker.status().expect("a status").claimed == claimed);
    child
}

#[test]
fn a_killed_service_takes_up_where_it_was() {
    let mut service = Running::kept(&RUN);
    let (mut a, nic, memory, space, number) = client(&service, "nic0");
    let grants = vec![
        at(0x10_0000, 2, Access::READ_WRITE),
        at(0x20_0000, 3, Access::READ),
        at(0x30_0000, 4, Access::READ_WRITE),
    ];
    a.map(space, Some(number), grants).expect("mapped");
    a.unmap(space, vec![Range { iova: 0x30_0000, length: PAGE }]).expect("unmapped");
    let (_b, disk, ..) = client(&service, "disk0");
    let mut gone = claimant(&service, 3);

    service.kill();
    kill(&mut gone);
    service.again(&RUN);

    // Through the descriptor that the client has had all along.
    assert_eq!(dma(&nic, Operation::Write, 0x10_0008, 0x77), (Outcome::Done, 0));
    assert_eq!(memory.read::<u64>(2 * PAGE + 8).expect("in it"), 0x77);
    assert_eq!(dma(&nic, Operation::Read, 0x20_0000, 0).0, Outcome::Done);
    for (operation, address) in
        [(Operation::Write, 0x20_0000), (Operation::Read, 0x30_0000), (Operation::Read, 0x10_1000)]
    {
        assert_eq!(dma(&nic, operation, address, 1).0, Outcome::Refused, "{address:#x}");
    }
    assert_eq!(dma(&disk, Operation::Read, 0x10_0000, 0).0, Outcome::Refused);

    // What a client had whose process ended meanwhile is free, and what others have is still theirs.
    let mut other = service.client();
    eventually("the rogue is free", || {
        other.devices(Some("rogue0")).expect("a list").remove(0).holder.is_none()
    });
    assert_eq!(other.claim("nic0").unwrap_err().refusal(), Some("Held"));

    // This process was two clients; each comes back as itself.
    let mut a = service.client();
    let both = a.resume(None).unwrap_err().to_string();
    assert!(both.contains("you were 1 and 2"), "{both}");
    let resumed = a.resume(Some(1)).expect("resumed");
    assert_eq!((resumed.devices, resumed.spaces), (vec!["nic0".to_owned()], vec![space]));
    let memories: Vec<_> = resumed.memories.iter().map(|memory| (memory.memory, memory.length)).collect();
    assert_eq!(memories, [(number, 64 * PAGE)]);
    assert_eq!(service.client().resume(Some(1)).unwrap_err().refusal(), Some("NoSuchClient"));
    a.map(space, Some(number), vec![at(0x40_0000, 5, Access::READ_WRITE)]).expect("mapped");
    assert_eq!(dma(&nic, Operation::Write, 0x40_0000, 5).0, Outcome::Done);
    a.unmap(space, vec![Range { iova: 0x10_0000, length: PAGE }]).expect("unmapped");
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Refused);
    let grants = a.grants(&Default::default()).expect("a list").grants;
    assert_eq!(grants.iter().map(|grant| grant.iova).collect::<Vec<_>>(), [0x20_0000, 0x40_0000]);

    // Once more, and then the connection's end is the end of it.
    service.kill();
    service.again(&RUN);
    assert_eq!(dma(&nic, Operation::Read, 0x40_0000, 0).0, Outcome::Done);
    let mut a = service.client();
    a.resume(Some(1)).expect("resumed");
    drop(a);
    let mut looker = service.client();
    eventually("it is released", || looker.devices(Some("nic0")).expect("a list").remove(0).holder.is_none());
    assert!(Command::new(Operation::Read, 0x40_0000, 8, 0).send(&nic).is_err());
    eventually("only the other's is kept", || {
        let names = service.names();
        names.iter().all(|name| name == "memory-2" || name == "embedded-disk0" || name.starts_with("state-"))
    });
}

#[test]
fn the_descriptor_that_a_client_got_last_is_the_one_that_is_kept() {
    let mut service = Running::kept(&RUN);
    let (mut a, first, _memory, space, number) = client(&service, "nic0");
    let nic = a.quiesce("nic0").expect("stopped").remove(0).1.expect("a descriptor");
    assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&first).is_err());
    a.attach(space, "nic0", None).expect("attached");
    a.map(space, Some(number), vec![at(0x10_0000, 2, Access::READ)]).expect("mapped");
    service.kill();
    service.again(&RUN);
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Done);
    assert_eq!(service.client().resume(None).expect("resumed").devices, ["nic0"]);
}

#[test]
fn without_anyone_who_keeps_descriptors_everything_is_blocked() {
    let mut service = Running::start(&RUN);
    let (mut a, nic, _memory, space, number) = client(&service, "nic0");
    a.map(space, Some(number), vec![at(0x10_0000, 2, Access::READ_WRITE)]).expect("mapped");
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Done);
    service.kill();
    service.again(&RUN);
    assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&nic).is_err());
    let mut a = service.client();
    // Whoever had something is told exactly what; others that nobody knows them.
    for which in [None, Some(1)] {
        let lost = a.resume(which).unwrap_err();
        assert_eq!(lost.refusal(), Some("Lost"));
        assert!(lost.to_string().contains("nic0 is blocked"), "{lost}");
    }
    assert_eq!(a.resume(Some(2)).unwrap_err().refusal(), Some("NoSuchClient"));
    let status = a.status().expect("a status");
    assert_eq!((status.claimed, status.mappings), (0, 0));
    let events = a.events(&ListEvents::default()).expect("a list");
    let told = events.iter().filter_map(|event| event.text.as_deref()).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("nic0 of ") && told[0].ends_with("blocked, until they are claimed again"));
    // It is claimed again, and lost again with a process whose client ended meanwhile.
    let nic = a.claim("nic0").expect("claimed").remove(0).1.expect("a descriptor");
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Refused);
    let mut gone = claimant(&service, 2);
    service.kill();
    kill(&mut gone);
    service.again(&RUN);
    let mut a = service.client();
    let lost = a.resume(None).unwrap_err();
    assert!(lost.to_string().contains("nic0 is blocked"), "{lost}");
    let events = a.events(&ListEvents::default()).expect("a list");
    let told = events.iter().filter_map(|event| event.text.as_deref()).collect::<Vec<_>>();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|text| text.starts_with("rogue0 of ") && text.ends_with("its client is gone")));
    // A service that ended in order leaves nobody with anything.
    let mut other = service.client();
    other.claim("disk0").expect("claimed");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&service.child),
        rustix::process::Signal::TERM,
    )
    .expect("asked to end");
    service.child.wait().expect("ended");
    assert!(!service.directory.path().join("socket.clients").exists());
    service.again(&RUN);
    assert_eq!(service.client().resume(None).unwrap_err().refusal(), Some("NoSuchClient"));
}

#[test]
fn who_does_not_come_back_in_time_has_nothing_any_more() {
    let user = rustix::process::geteuid().as_raw();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("portcullis.toml");
    let text = format!(
        "[service]\nbackend = \"embedded\"\nresume-within = 1\n\n\
         [[client]]\nname = \"lab\"\nusers = [{user}]\ndevices = [\"*\"]\n"
    );
    std::fs::write(&file, text).expect("written");
    let arguments = ["--config", file.to_str().expect("text")];
    let mut service = Running::kept(&arguments);
    let (_a, nic, ..) = client(&service, "nic0");
    service.kill();
    service.again(&arguments);
    let mut looker = service.client();
    eventually("it is released", || looker.devices(Some("nic0")).expect("a list").remove(0).holder.is_none());
    assert!(Command::new(Operation::Read, 0x10_0000, 8, 0).send(&nic).is_err());
    assert_eq!(service.client().resume(None).unwrap_err().refusal(), Some("NoSuchClient"));
}

/// Killed amid requests, wherever it is then: what was answered holds, and what was not is there whole or not at all.
#[test]
fn killed_at_any_moment_it_widens_nothing() {
    kill_amid_requests(Running::kept(&RUN), &RUN);
}

/// A guest's manager, as a client of a host's: both as processes.
fn guest() -> (Running, tempfile::TempDir, [String; 2]) {
    let host = Running::start(&RUN);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.toml");
    let user = rustix::process::geteuid().as_raw();
    let text = format!(
        "[service]\nbackend = \"upstream\"\nupstream = {:?}\n\n\
         [[client]]\nname = \"driver\"\nusers = [{user}]\ndevices = [\"*\"]\n",
        host.socket()
    );
    std::fs::write(&file, text).expect("written");
    (host, folder, ["--config".into(), file.to_str().expect("text").into()])
}

#[test]
fn a_guests_manager_killed_at_any_moment_widens_nothing() {
    let (_host, _folder, run) = guest();
    let run = run.each_ref().map(String::as_str);
    kill_amid_requests(Running::kept(&run), &run);
}

#[test]
fn a_killed_guests_manager_takes_up_what_the_host_kept() {
    let (host, _folder, run) = guest();
    let run = run.each_ref().map(String::as_str);
    let mut service = Running::kept(&run);
    let (mut a, nic, memory, space, number) = client(&service, "nic0");
    let grants = vec![at(0x10_0000, 2, Access::READ_WRITE), at(0x20_0000, 3, Access::READ)];
    a.map(space, Some(number), grants).expect("mapped");
    let accelerator = a.claim("accel0").expect("claimed").remove(0).1.expect("a descriptor");
    let other = a.create_space().expect("a space");
    a.attach(other, "accel0", Some(5)).expect("attached");
    a.map(other, Some(number), vec![at(0x50_0000, 7, Access::READ)]).expect("mapped");
    let mut gone = claimant(&service, 3);
    let mut above = host.client();
    let mut listed = || above.grants(&Default::default()).expect("a list").grants;
    eventually("all is granted above", || listed().len() == 4);
    let before = listed();

    service.kill();
    // Nobody but the host is there, and it has nothing to do: the connection is kept.
    assert_eq!(dma(&nic, Operation::Write, 0x10_0008, 0x77), (Outcome::Done, 0));
    assert_eq!(dma(&nic, Operation::Write, 0x20_0000, 1).0, Outcome::Refused);
    kill(&mut gone);
    service.again(&run);
    assert_eq!(memory.read::<u64>(2 * PAGE + 8).expect("in it"), 0x77);
    assert_eq!(dma(&nic, Operation::Write, 0x10_0010, 0x78), (Outcome::Done, 0));
    for (operation, address) in [(Operation::Write, 0x20_0000), (Operation::Read, 0x30_0000)] {
        assert_eq!(dma(&nic, operation, address, 1).0, Outcome::Refused, "{address:#x}");
    }
    assert_eq!(dma(&accelerator, Operation::Read, 0x50_0000, 0).0, Outcome::Refused, "without the PASID");
    // The host was asked for nothing that it had already, and what nobody comes back for is gone there.
    let after = listed();
    let kept: Vec<_> = before.iter().filter(|grant| grant.devices != ["rogue0"]).collect();
    assert_eq!(after.iter().collect::<Vec<_>>(), kept);
    let mut a = service.client();
    let resumed = a.resume(None).expect("resumed");
    assert_eq!((resumed.devices.len(), resumed.spaces, resumed.lost), (2, vec![space, other], Vec::new()));
    a.map(space, Some(number), vec![at(0x40_0000, 5, Access::READ_WRITE)]).expect("mapped");
    assert_eq!(dma(&nic, Operation::Write, 0x40_0000, 5).0, Outcome::Done);
    a.unmap(space, vec![Range { iova: 0x10_0000, length: PAGE }]).expect("unmapped");
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Refused);
    a.detach(other, "accel0", Some(5)).expect("detached");
    a.destroy_space(other).expect("removed");
    a.release("nic0", false).expect("released");
    assert!(Command::new(Operation::Read, 0x20_0000, 8, 0).send(&nic).is_err());
    drop(a);
    eventually("nothing is granted above", || listed().is_empty());
}

/// A record is its length and its kind, four bytes each: without the last, "the grants were made", nobody was told that they were.
#[test]
fn what_the_host_maps_beyond_the_ledger_is_taken_away() {
    let (host, _folder, run) = guest();
    let run = run.each_ref().map(String::as_str);
    let mut service = Running::kept(&run);
    let (mut a, nic, _memory, space, number) = client(&service, "nic0");
    a.map(space, Some(number), vec![at(0x10_0000, 2, Access::READ)]).expect("mapped");
    a.map(space, Some(number), vec![at(0x20_0000, 3, Access::READ)]).expect("mapped");
    service.kill();
    service.cut_ledger(8);
    assert_eq!(dma(&nic, Operation::Read, 0x20_0000, 0).0, Outcome::Done, "the host had made it");
    service.again(&run);
    assert_eq!(dma(&nic, Operation::Read, 0x10_0000, 0).0, Outcome::Done);
    assert_eq!(dma(&nic, Operation::Read, 0x20_0000, 0).0, Outcome::Refused);
    let above = host.client().grants(&Default::default()).expect("a list").grants;
    assert_eq!(above.iter().map(|grant| grant.iova).collect::<Vec<_>>(), [0x10_0000]);
    service.client().resume(None).expect("resumed");
}

/// Kills the service again and again while a client asks it to map and unmap.
fn kill_amid_requests(mut service: Running, run: &[&str]) {
    const SLOTS: u64 = 32;
    let (mut a, nic, memory, space, number) = client(&service, "nic0");
    for page in 0..64 {
        memory.write::<u64>(page * PAGE, page + 1).expect("in it");
    }
    let slot = |slot: u64| 0x10_0000 + slot * PAGE;
    // What every slot leads to, as far as it was answered.
    let mut granted: BTreeMap<u64, u64> = BTreeMap::new();
    let mut random = 0x1234_5678_9abc_def0u64;
    let mut next = |bound: u64| {
        // xorshift64 (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for _ in 0..8 {
        let limit = 20 + next(200);
        let done = AtomicU64::new(0);
        // The one request that may not have been answered: its slot, and where it leads if it was made.
        let mut unanswered = None;
        thread::scope(|scope| {
            let (child, done) = (&mut service.child, &done);
            scope.spawn(move || {
                while done.load(Ordering::Relaxed) < limit {
                    std::hint::spin_loop();
                }
                kill(child);
            });
            loop {
                let (at_slot, page) = (next(SLOTS), next(64));
                let answered = match granted.get(&at_slot) {
                    Some(_) => {
                        unanswered = Some((at_slot, None));
                        a.unmap(space, vec![Range { iova: slot(at_slot), length: PAGE }]).map(|_| ())
                    }
                    None => {
                        unanswered = Some((at_slot, Some(page)));
                        let asked = vec![at(slot(at_slot), page, Access::READ)];
                        a.map(space, Some(number), asked).map(|_| ())
                    }
                };
                if answered.is_err() {
                    break;
                }
                match unanswered.take() {
                    Some((at_slot, Some(page))) => _ = granted.insert(at_slot, page),
                    Some((at_slot, None)) => _ = granted.remove(&at_slot),
                    None => {}
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            // Whatever ended it: the service is killed now.
            done.store(limit, Ordering::Relaxed);
        });
        service.again(run);
        let mut reached = BTreeMap::new();
        for at_slot in 0..SLOTS {
            if let (Outcome::Done, value) = dma(&nic, Operation::Read, slot(at_slot), 0) {
                reached.insert(at_slot, value - 1);
            }
        }
        if let Some((at_slot, made)) = unanswered {
            let before = granted.get(&at_slot).copied();
            let after = reached.get(&at_slot).copied();
            assert!(after == before || after == made, "slot {at_slot}: {before:?}, {made:?}, {after:?}");
            granted.remove(&at_slot);
            granted.extend(after.map(|page| (at_slot, page)));
        }
        assert_eq!(reached, granted);
        a = service.client();
        a.resume(None).expect("resumed");
    }
}
