//! `portcullis run` with configurations of both kinds.

mod common;

use std::process::Command;

use common::{Running, eventually};
use portcullis_client::api::ListGrants;
use portcullis_manager::embedded::device::{Command as Told, Operation, Outcome};

#[test]
fn a_configuration_is_put_in_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let me = rustix::process::geteuid().as_raw();
    // Simulated devices have the numbers 24, 32 and so on; simulated memory begins at 4 GiB.
    let text = format!(
        r#"
[service]
backend = "embedded"
iommu = "smmuv3"
[journal]
directory = "{}"
[firmware]
topology = "topology.toml"
[[alias]]
name = "camera"
device = "stream:24"
[[client]]
name = "lab"
users = [{me}]
devices = ["disk0", "rogue0"]
[[allow]]
device = "camera"
range = "0x100000000,4K"
access = "r"
"#,
        log.display()
    );
    let file = directory.path().join("portcullis.toml");
    std::fs::write(&file, text).expect("written");
    let topology = "mode = \"merge\"\n[[device]]\ndevice = \"0000:00:06.0\"\nunit = \"none\"\n";
    std::fs::write(directory.path().join("topology.toml"), topology).expect("written");
    let file = file.to_str().expect("text").to_owned();
    let service = Running::within(directory, &["--config", &file]);

    let mut client = service.client();
    assert_eq!(client.status().expect("a status").backend, "embedded smmuv3");
    let which = ListGrants { device: Some("camera".into()), ..ListGrants::default() };
    let grants = client.grants(&which).expect("a list").grants;
    let seen: Vec<_> = grants.iter().map(|g| (g.iova, g.length, g.access.to_string(), g.fixed)).collect();
    assert_eq!(seen, [(1 << 32, 4096, "r".to_owned(), false)]);
    client.introduce("lab").expect("it is us");
    let unguarded = client.claim("rogue0").expect_err("the topology leaves it without a unit").to_string();
    assert!(unguarded.contains("no IOMMU guards rogue0"), "{unguarded}");
    let device = client.claim("disk0").expect("claimed").remove(0).1.expect("a descriptor");
    let refused = Told::new(Operation::Read, 0x5000, 8, 0).send(&device).expect("an answer");
    assert_eq!(refused.outcome, Outcome::Refused);
    eventually("it is on disk", || {
        let written = std::fs::read_to_string(log.join("violations.json")).unwrap_or_default();
        written.lines().any(|line| line.contains("\"disk0\"") && line.contains("\"lab\""))
    });
}

#[test]
fn a_board_of_smmumans_is_put_in_force() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("board.smmu");
    let text = "device 24 camera\nreserved 0x80000000,64K\nallow camera 0x100000000,4096,s\n";
    std::fs::write(&file, text).expect("written");
    let board = format!("@{}", file.display());
    let service = Running::within(directory, &["--platform", "embedded", &board]);
    let mut client = service.client();
    let reserved = client.reserved("camera").expect("a list");
    assert!(reserved.iter().any(|r| (r.first, r.last) == (0x8000_0000, 0x8000_ffff)), "{reserved:?}");
    let which = ListGrants { device: Some("camera".into()), ..ListGrants::default() };
    let grants = client.grants(&which).expect("a list").grants;
    assert_eq!((grants.len(), grants[0].access.to_string()), (1, "r".to_owned()));
}

#[test]
fn what_is_not_so_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("board.smmu");
    std::fs::write(&file, "reserved 0x80000000,64K\nunit left mmio:fed90000,4096 intel\n").expect("written");
    let run = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["run", "--platform", "embedded", &format!("@{}", file.display()), "--socket"])
        .arg(directory.path().join("socket"))
        .output()
        .expect("the command runs");
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("board.smmu:2:1: the running machine has no unit `left`; it has vtd-0"), "{said}");
}
