//! The example in Rust of the clients' page, against a service.

mod common;
#[allow(dead_code, reason = "its main is for those who run it by hand")]
#[path = "../../client/examples/grant.rs"]
mod grant;

use std::process::Command;

use common::Running;

/// Says to the process that is started below that it is the example.
const DEVICE: &str = "PORTCULLIS_EXAMPLE_DEVICE";

#[test]
fn it_is_the_example() {
    if let Some(device) = std::env::var_os(DEVICE) {
        grant::have(&device.into_string().expect("text")).expect("it does what it says");
    }
}

#[test]
fn the_rust_example_of_the_clients_page_runs() {
    let service = Running::start(&["--platform", "embedded"]);
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["it_is_the_example", "--exact", "--nocapture"])
        .env("PORTCULLIS_SOCKET", service.socket())
        .env(DEVICE, "rogue0")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for line in
        ["claimed rogue0, with its descriptor", "granted 1048576 bytes at 0x1000, rw", "released rogue0"]
    {
        assert!(said.contains(line), "{line} is missing from:\n{said}");
    }
    assert_eq!(service.client().status().expect("a status").claimed, 0);
}
