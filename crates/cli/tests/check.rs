//! `portcullis check` as its users meet it.

use std::{fs, process::Command};

fn check(name: &str, text: &str, json: bool) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join(name), text).expect("the file is written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.current_dir(folder.path()).env("NO_COLOR", "1").args(["check", name]);
    if json {
        command.arg("--json");
    }
    let output = command.output().expect("portcullis runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the answer is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_good_file_ends_with_0() {
    let (code, out, _) = check("a.toml", "[[client]]\nname = \"vm\"\nusers = [1000]\n", false);
    assert_eq!((code, out.as_str()), (Some(0), "a.toml: ok, 1 client, 0 static grants\n"));
}

#[test]
fn problems_are_shown_where_they_stand_and_end_with_3() {
    let (code, out, _) = check("a.toml", "[metrics]\nlisten = \"1.2.3.4:80\"\n", false);
    assert_eq!(code, Some(3));
    for expected in
        ["1.2.3.4:80 can be reached from elsewhere", "a.toml:2:10", "loopback only", "a.toml: 1 problem"]
    {
        assert!(out.contains(expected), "{expected} is missing from:\n{out}");
    }
}

#[test]
fn programs_get_every_problem_with_its_place() {
    let (code, out, _) = check("board.smmu", "allow gfx 4000\n", true);
    let answer: serde_json::Value = serde_json::from_str(&out).expect("the answer is JSON");
    assert_eq!(code, Some(3));
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["problems"][0]["line"], 1);
    assert_eq!(answer["problems"][0]["column"], 11);
}

#[test]
fn who_is_not_there_is_named_with_the_place() {
    let text = "[operators]\ngroups = [0, \"no-such-group\"]\n[[client]]\nname = \"no-such-user\"\nusers = [\"root\",\n  \"no-such-user\"]\n";
    let (code, out, _) = check("a.toml", text, true);
    let answer: serde_json::Value = serde_json::from_str(&out).expect("the answer is JSON");
    let problems = answer["problems"].as_array().expect("a list");
    let found: Vec<_> = problems.iter().map(|it| (it["line"].clone(), it["column"].clone())).collect();
    assert_eq!((code, found), (Some(3), vec![(6.into(), 3.into()), (2.into(), 14.into())]));
    assert!(out.contains("this host has no user `no-such-user`") && out.contains("no group `no-such-group`"));
}

#[test]
fn a_missing_file_fails() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["check", "/nonexistent/portcullis.toml"])
        .output()
        .expect("portcullis runs");
    assert_eq!(output.status.code(), Some(1));
}
