//! `cargo xtask test`: everything that must hold before a change goes in.

use crate::report::{Outcome, Report};
use crate::{guest, host, mutants, oracle, process};
use std::process::ExitCode;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Run every step, go on after a failed one, and close with a table.
pub(crate) fn run(_: &Arguments) -> ExitCode {
    let continuous_integration = std::env::var("CI").is_ok_and(|value| value == "true");
    let mut report = Report::new();

    report.step("tools", || match host::ensure(host::ALL) {
        Ok(()) => Outcome::Passed,
        Err(missing) if continuous_integration => Outcome::Failed(missing.to_string()),
        Err(missing) => Outcome::Skipped(missing.to_string()),
    });
    report.step("format", || {
        let run = |()| process::run(&mut process::cargo(&["fmt", "--all", "--check"]));
        host::component("fmt", "rustfmt").and_then(run).into()
    });
    report.step("clippy", || {
        let arguments = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        let run = |()| process::run(&mut process::cargo(&arguments));
        host::component("clippy", "clippy").and_then(run).into()
    });
    report.step("documentation", || {
        let arguments = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
        process::run(process::cargo(&arguments).env("RUSTDOCFLAGS", "--deny warnings")).into()
    });
    report.step("tests", || {
        if host::nextest() {
            let arguments = ["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "fail"];
            process::run(&mut process::cargo(&arguments)).into()
        } else {
            println!("cargo-nextest can't be had here; plain `cargo test` runs the same tests");
            process::run(&mut process::cargo(&[
                "test",
                "--workspace",
                "--lib",
                "--bins",
                "--tests",
                "--no-fail-fast",
            ]))
            .into()
        }
    });
    report.step("doctests", || {
        process::run(&mut process::cargo(&["test", "--quiet", "--workspace", "--doc"])).into()
    });

    report.step("loom", || mutants::loom().into());
    report.step("mutants", || mutants::all(None).into());

    for (name, tools) in oracle::in_test() {
        report.step(&format!("oracle {name}"), || match host::ensure(tools) {
            Ok(()) => oracle::start(name, &[]).into(),
            Err(missing) if continuous_integration => Outcome::Failed(missing.to_string()),
            Err(missing) => Outcome::Skipped(missing.to_string()),
        });
    }
    for suite in ["boot", "firmware", "inspect", "vfio", "manager", "systemd"] {
        report.step(&format!("guest {suite}"), || match guest::prepare(suite) {
            Ok(()) => guest::start(&[suite]).into(),
            Err(reason) if continuous_integration => Outcome::Failed(reason),
            Err(reason) => Outcome::Skipped(reason),
        });
    }

    if report.close("xtask test") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
