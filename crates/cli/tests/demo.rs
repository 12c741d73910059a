//! `portcullis demo`.

use std::process::Command;

fn demo(arguments: &[&str]) -> (Option<i32>, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("demo").args(arguments).output();
    let run = run.expect("the command runs");
    (run.status.code(), String::from_utf8(run.stdout).expect("text"))
}

#[test]
fn first_says_that_nothing_of_the_host_is_protected() {
    let (code, text) = demo(&[]);
    assert_eq!(code, Some(0), "{text}");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.contains("simulation") && first.contains("nothing of this host"), "{first}");
    assert!(!text.contains("SHOULD NOT"), "{text}");
}

#[test]
fn every_refusal_comes_with_its_decoded_fault() {
    let (code, text) = demo(&["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&report["simulated"], &report["intact"]), (&true.into(), &true.into()));
    let steps = report["steps"].as_array().expect("steps");
    let refused: Vec<_> = steps.iter().filter(|step| step["succeeded"] == false).collect();
    assert!(refused.len() >= 8 && steps.len() > refused.len());
    for step in steps {
        assert_eq!(step["allowed"], step["succeeded"], "{step}");
    }
    for step in refused {
        assert_eq!(step["fault"]["requester"]["Pci"], step["device"], "{step}");
    }
}
