//! What a service wrote to disk, the next one lists.

mod common;

use std::{fs, io::Write, path::Path};

use common::{Running, eventually};
use portcullis_client::{
    Client,
    api::{Fault, ListEvents, ListFaults},
};
use portcullis_manager::embedded::device::{Command, Operation, Outcome};

/// A configuration with a journal in that folder, under which we may have every device.
fn configuration(folder: &Path, size: &str, records: usize) -> String {
    let user = rustix::process::geteuid().as_raw();
    let text = format!(
        "[service]\nbackend = \"embedded\"\n\n[journal]\ndirectory = {:?}\nsize = \"{size}\"\nrecords = {records}\n\n\
         [operators]\nusers = [{user}]\n\n[[client]]\nname = \"lab\"\nusers = [{user}]\ndevices = [\"*\"]\n",
        folder.join("log")
    );
    let path = folder.join("portcullis.toml");
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

fn refused(device: &std::os::fd::OwnedFd, address: u64) {
    let answer = Command::new(Operation::Read, address, 8, 0).send(device).expect("the device answers");
    assert_eq!(answer.outcome, Outcome::Refused);
}

fn faults(client: &mut Client) -> Vec<Fault> {
    client.faults(&ListFaults { limit: Some(10_000), ..ListFaults::default() }).expect("a list").faults
}

#[test]
fn what_happened_before_a_crash_is_listed_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = ["--config", &configuration(folder.path(), "64M", 100)];
    let mut service = Running::start(&arguments);
    let mut client = service.client();
    let nic = client.claim("nic0").expect("claimed").remove(0).1.expect("a descriptor");
    let space = client.create_space().expect("a space");
    client.attach(space, "nic0", None).expect("attached");
    for page in 0..5 {
        refused(&nic, 0x10_0000 + page * 0x1000);
    }
    eventually("all are listed", || faults(&mut client).len() == 5);
    let before = faults(&mut client);
    let events = client.events(&ListEvents::default()).expect("a list");
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["client-came", "claimed", "attached"]);
    service.kill();
    // What the crash tore, and what somebody else wrote there.
    let log = folder.path().join("log");
    for (file, torn) in [("violations.json", "{\"number\":6,\"time\":17"), ("events.json", "nonsense\n\n{")] {
        let mut file = fs::File::options().append(true).open(log.join(file)).expect("it is there");
        file.write_all(torn.as_bytes()).expect("written");
    }

    service.again(&arguments);
    let mut client = service.client();
    assert_eq!(faults(&mut client), before, "field by field");
    let listed = client.events(&ListEvents::default()).expect("a list");
    assert_eq!(listed[..3], events);
    assert_eq!((listed.len(), listed[3].kind.as_str(), listed[3].number), (4, "warning", Some(4)));
    // Counts are since the start, and what has no record is so still.
    let status = client.status().expect("a status");
    assert_eq!(status.faults, 0);
    // Old and new go on in one order, and can be asked for by device, client and time alike.
    let rogue = client.claim("rogue0").expect("claimed").remove(0).1.expect("a descriptor");
    refused(&rogue, 0x7000);
    eventually("it is listed", || faults(&mut client).len() == 6);
    let all = faults(&mut client);
    assert_eq!(all[5].devices, ["rogue0"]);
    assert!(all.windows(2).all(|pair| pair[0].number < pair[1].number), "{all:?}");
    let mut some = |which: ListFaults| client.faults(&which).expect("a list").faults;
    let of_nic = some(ListFaults { device: Some("nic0".into()), ..ListFaults::default() });
    assert_eq!(of_nic, before);
    let since = some(ListFaults { since: Some(before[3].time), ..ListFaults::default() });
    assert_eq!(since, all[3..]);
    let after = some(ListFaults { after: Some(before[4].number), ..ListFaults::default() });
    assert_eq!(after, all[5..]);
    let newest = some(ListFaults { newest: Some(true), limit: Some(2), ..ListFaults::default() });
    assert_eq!(newest, [all[5].clone(), all[4].clone()]);
    let claimed = ListEvents { device: Some("nic0".into()), newest: Some(true), ..ListEvents::default() };
    let of_nic = client.events(&claimed).expect("a list");
    assert_eq!(of_nic.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["attached", "claimed"]);

    // The torn line harmed nothing that was written after it.
    service.kill();
    service.again(&arguments);
    assert_eq!(faults(&mut service.client()), all);

    // The command shows both.
    let listed = service.command(&["events"]);
    let text = String::from_utf8(listed.stdout).expect("text");
    assert!(listed.status.success() && text.contains(" claimed nic0 client lab"), "{text}");
    assert!(text.contains(" claimed rogue0 client lab"), "{text}");
}

#[test]
fn of_many_the_newest_are_read_over_an_exchanged_file() {
    let folder = tempfile::tempdir().expect("a folder");
    // Two files of 4 KiB, some dozen records each; and no more than 20 records in memory.
    let arguments = ["--config", &configuration(folder.path(), "8K", 20)];
    let mut service = Running::start(&arguments);
    let mut client = service.client();
    let nic = client.claim("nic0").expect("claimed").remove(0).1.expect("a descriptor");
    for number in 0..100 {
        refused(&nic, 0x10_0000 + number * 0x1000);
        // Each batch is written whole: one at a time fills the files evenly.
        eventually("it is counted", || client.status().expect("a status").faults == number + 1);
    }
    let log = folder.path().join("log");
    eventually("the last is written", || {
        fs::read_to_string(log.join("violations.json")).is_ok_and(|text| text.contains("\"number\":100,"))
    });
    for file in ["violations.json", "violations.json.1"] {
        assert!(fs::metadata(log.join(file)).expect("both are there").len() <= 4096, "{file}");
    }
    service.kill();
    service.again(&arguments);
    let mut client = service.client();
    let found = faults(&mut client);
    let numbers: Vec<u64> = found.iter().map(|fault| fault.number).collect();
    let on_disk = ["violations.json.1", "violations.json"]
        .map(|file| fs::read_to_string(log.join(file)).expect("read").lines().count())
        .iter()
        .sum::<usize>() as u64;
    assert!(on_disk > 8, "the test wants both files: {on_disk}");
    let expected = on_disk.min(20);
    assert_eq!(numbers, (101 - expected..=100).collect::<Vec<_>>());
    // As many as there is room for, and no more, when new ones come.
    let nic = client.claim("nic0").expect("claimed").remove(0).1.expect("a descriptor");
    for number in 0..30 {
        refused(&nic, 0x10_0000 + number * 0x1000);
    }
    eventually("all are counted", || client.status().expect("a status").faults == 30);
    let numbers: Vec<u64> = faults(&mut client).iter().map(|fault| fault.number).collect();
    assert_eq!(numbers, (111..=130).collect::<Vec<_>>());
    let answer = client.faults(&ListFaults::default()).expect("a list");
    assert_eq!((answer.total, answer.lost), (30, 10), "what another process counted is not lost here");
}
