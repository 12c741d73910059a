//! `portcullis claim` ends with what it has.

mod common;

use std::process::{Command, Stdio};

use common::{Running, eventually};

#[test]
fn a_claim_ends_when_its_device_is_taken_by_force() {
    let service = Running::start(&["--platform", "embedded"]);
    for command in [&[][..], &["--", "sleep", "1000"][..]] {
        let mut claim = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["claim", "nic0", "--socket"])
            .arg(service.socket())
            .args(command)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command runs");
        let mut client = service.client();
        let mut holder = || client.devices(Some("nic0")).expect("a list").remove(0).holder;
        eventually("it has the device", || holder().is_some());
        assert!(service.command(&["release", "nic0"]).status.success());
        eventually("it ended", || claim.try_wait().expect("its state").is_some());
        let ended = claim.wait_with_output().expect("its output");
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains("nic0 was taken away"), "{said}");
    }
}
