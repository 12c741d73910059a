//! The frame of the command: exit codes, completions, manual pages.

use std::process::{Command, Output};

fn portcullis(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments).output().expect("the command runs")
}

#[test]
fn wrong_usage_ends_with_2() {
    assert_eq!(portcullis(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(portcullis(&[]).status.code(), Some(2));
}

#[test]
fn help_documents_every_exit_code() {
    let help = portcullis(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).expect("help is text");
    for line in
        ["0  done", "1  failed", "2  wrong usage", "3  done, and there are findings", "4  the service"]
    {
        assert!(text.contains(line), "{line:?} is missing from:\n{text}");
    }
}

#[test]
fn failures_end_with_1_and_are_json_when_asked() {
    let failed = portcullis(&["--json", "man", "/nonexistent/directory"]);
    assert_eq!(failed.status.code(), Some(1));
    let body: serde_json::Value = serde_json::from_slice(&failed.stderr).expect("the error is JSON");
    assert!(body["error"].is_string(), "{body}");
}

#[test]
fn bash_takes_the_completion_script() {
    let script = portcullis(&["completions", "bash"]).stdout;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &script).expect("the script is written");
    let Ok(checked) = Command::new("bash").arg("-n").arg(file.path()).output() else {
        println!("skipped: no bash");
        return;
    };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(String::from_utf8_lossy(&script).contains("completions"));
}

#[test]
fn a_manual_page_exists_for_every_subcommand() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert!(portcullis(&["man", directory.path().to_str().expect("text")]).status.success());
    for page in ["portcullis.1", "portcullis-man.1", "portcullis-completions.1"] {
        let text = std::fs::read_to_string(directory.path().join(page)).expect(page);
        assert!(text.contains(".TH"), "{page} is a manual page");
    }
}

#[test]
fn wrong_usage_is_json_when_asked_and_help_is_no_failure() {
    for arguments in [&["-j", "grant", "nic0", "zz", "4K"][..], &["--json", "no-such-command"], &["-j"]] {
        let failed = portcullis(arguments);
        assert_eq!(failed.status.code(), Some(2), "{arguments:?}");
        let body: serde_json::Value = serde_json::from_slice(&failed.stderr).expect("the error is JSON");
        assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    let help = portcullis(&["-j", "faults", "--help"]);
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
}
