//! Every command that talks to the service, as people and as programs call it.

mod common;

use std::process::{Output, Stdio};

use common::{Running, eventually};
use portcullis_manager::embedded::device::{Command as Told, Operation, Outcome};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it answered; it ended well.
fn answer(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// What a program gets.
fn json(service: &Running, arguments: &[&str]) -> Value {
    let output = service.command(&[&["-j"], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn tables_and_json_tell_the_same() {
    let service =
        Running::start(&["--platform", "embedded", "--simulate", "network=2", "--simulate", "rogue=1"]);
    let mut client = service.client();
    let device = client.claim("rogue0").expect("claimed").remove(0).1.expect("a descriptor");
    let granted = answer(&service.command(&["grant", "nic1", "0x100000000", "5000", "r"]));
    assert_eq!(granted, "grant 1: nic1 reaches 8K from 0x100000000, r\n");
    let refused = Told::new(Operation::Read, 0x5000, 8, 0).send(&device).expect("an answer");
    assert_eq!(refused.outcome, Outcome::Refused);
    eventually("it is recorded", || client.status().expect("a status").faults == 1);

    // Of each list: its first column, and where programs find that.
    for (command, column, field) in [
        ("units", "vtd-0", "/0/name"),
        ("devices", "nic0", "/0/name"),
        ("groups", "0", "/0/id"),
        ("grants", "1", "/grants/0/grant"),
        ("faults", "", "/faults/0/number"),
    ] {
        let table = answer(&service.command(&[command]));
        let row = table.lines().nth(1).unwrap_or_else(|| panic!("{command}: {table}"));
        assert!(
            table.lines().all(|line| line == line.trim_end()),
            "{command} has blanks at the ends of lines"
        );
        let value = json(&service, &[command]);
        let found = value.pointer(field).unwrap_or_else(|| panic!("{command}: no {field} in {value}"));
        let word = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        assert!(column.is_empty() || (word == column && row.starts_with(column)), "{command}: {word}, {row}");
    }
    let clients = json(&service, &["clients"]);
    // Before it stands who holds the devices of static grants.
    assert_eq!((&clients[1]["devices"][0], &clients[1]["faults"]), (&"rogue0".into(), &1.into()));
    let status = json(&service, &["status"]);
    assert_eq!(
        (&status["devices"], &status["faults"], &status["atLeast"]),
        (&3.into(), &1.into(), &false.into())
    );
    assert!(
        answer(&service.command(&["faults"])).ends_with("1 refused in all, 0 of them without a record\n")
    );
    let top = json(&service, &["top", "-n", "1", "-i", "0.1"]);
    assert_eq!(top["devices"].as_array().map(Vec::len), Some(3));

    // Faults by time: all of them are from today on, none from before.
    let count = |arguments: &[&str]| json(&service, arguments)["faults"].as_array().map(Vec::len);
    assert_eq!(count(&["faults", "--last", "1h"]), Some(1));
    assert_eq!(count(&["faults", "--since", "2020-01-01", "--until", "2020-01-02"]), Some(0));
    assert_eq!(count(&["faults", "--since", "2020-01-01T00:00:00Z"]), Some(1));

    assert_eq!(answer(&service.command(&["revoke", "1"])), "revoked grant 1, 8K bytes\n");
    assert_eq!(answer(&service.command(&["release", "rogue0"])), "released rogue0\n");
}

#[test]
fn what_fails_says_what_and_why() {
    let service = Running::start(&["--platform", "embedded"]);
    for (arguments, code, says) in [
        (&["claim", "nosuch"][..], 1, "no device is called `nosuch`"),
        (&["release", "nic0"], 1, "nobody has nic0"),
        (&["revoke", "9"], 1, "there is no grant 9"),
        (&["claim", "nic0", "--memory", "0"], 2, "no memory at all"),
        (&["claim", "nic0", "--memory", "4097"], 1, "not a multiple of 4096"),
        (&["claim", "nic0", "--", "/no/such/program"], 1, "cannot run /no/such/program"),
        (&["claim", "nic0", "--", "false"], 1, "false: exit status: 1"),
        (&["faults", "--since", "yesterday"], 2, "is no time such as"),
        (&["grant", "nic0", "0", "4K"], 1, "all the memory that the simulated machine has"),
    ] {
        let arguments: Vec<_> = arguments.to_vec();
        let (before, after) =
            arguments.split_at(arguments.iter().position(|it| *it == "--").unwrap_or(arguments.len()));
        let output = service.prepare(before).args(after).output().expect("the command runs");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {output:?}");
    }
}

#[test]
fn followers_begin_with_what_was_and_end_when_nobody_reads() {
    use std::io::{BufRead, BufReader};
    let service = Running::start(&["--platform", "embedded"]);
    let mut client = service.client();
    let device = client.claim("rogue0").expect("claimed").remove(0).1.expect("a descriptor");
    let refuse = |address| {
        let told = Told::new(Operation::Read, address, 8, 0).send(&device).expect("an answer");
        assert_eq!(told.outcome, Outcome::Refused);
    };
    refuse(0x5000);
    eventually("it is recorded", || client.status().expect("a status").faults == 1);
    let mut follower = service
        .prepare(&["faults", "--follow", "--last", "1h"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("rogue0 of "));
    refuse(0x7000);
    assert!(next().contains("r 0x7000"));
    // `| head`: with nobody to read, the next line ends it, and that is no failure.
    drop(lines);
    eventually("it ends", || {
        refuse(0x9000);
        follower.try_wait().expect("its state").is_some_and(|status| status.success())
    });
}
