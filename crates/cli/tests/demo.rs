//! `portcullis demo`.

use std::process::Command;

fn demo(arguments: &[&str]) -> (Option<i32>, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["demo", "--seconds", "1"])
        .args(arguments)
        .output();
    let run = run.expect("the command runs");
    (run.status.code(), String::from_utf8(run.stdout).expect("text"))
}

#[test]
fn first_says_that_nothing_real_is_protected() {
    let (code, text) = demo(&["--iommu", "smmuv3"]);
    assert_eq!(code, Some(0), "{text}");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.contains("protects nothing real"), "{first}");
    assert!(!text.contains("NOT AS IT SHOULD BE"), "{text}");
}

#[test]
fn granted_dma_arrives_and_the_rogues_is_refused_and_named() {
    let (code, text) = demo(&["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["simulated"], &report["wrong"]), (&true.into(), &serde_json::json!([])));
    let count = |device: &str, what: &str| {
        let devices = report["devices"].as_array().expect("devices");
        devices.iter().find(|d| d["device"] == device).and_then(|d| d[what].as_u64()).expect("a count")
    };
    for device in ["nic0", "disk0"] {
        assert!(count(device, "arrived") > 0 && count(device, "refused") == 0, "{device}: {text}");
    }
    assert!(count("rogue0", "refused") > 10, "{text}");
    let faults = report["faults"].as_array().expect("faults");
    assert!(!faults.is_empty());
    for fault in faults {
        assert_eq!(
            (&fault["client"], &fault["devices"][0]),
            (&"mallory".into(), &"rogue0".into()),
            "{fault}"
        );
    }
}
