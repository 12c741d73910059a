//! `portcullis claim` ends with what it has.

mod common;

use std::process::Stdio;

use common::{Running, eventually};

#[test]
fn a_claim_ends_when_its_device_is_taken_by_force() {
    let service = Running::start(&["--platform", "embedded"]);
    for command in [&[][..], &["--", "sleep", "1000"][..]] {
        let mut claim = service
            .prepare(&["claim", "nic0"])
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
