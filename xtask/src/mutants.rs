//! `cargo xtask mutants` and `cargo xtask loom`: the model's caches and drain under a model checker, and broken copies of them
//! that the tests must catch.
//!
//! A mutant is code behind `cfg!(mutant = "NAME")`. The flag reaches the workspace's own crates alone, by a wrapper around
//! the compiler that lies at a path of its own for each mutant, so that what they depend on is built once for all.

use crate::process;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Where a mutant must be caught: a test target of the model, what names its tests, and whether the model checker runs them.
struct Mutant {
    name: &'static str,
    target: &'static [&'static str],
    test: &'static str,
    loom: bool,
}

const CHECKED: &[&str] = &["--lib"];
const INVARIANTS: &[&str] = &["--test", "vtd_invariants"];

const fn checked(name: &'static str, test: &'static str) -> Mutant {
    Mutant { name, target: CHECKED, test, loom: true }
}

const MUTANTS: &[Mutant] = &[
    checked("no_drain", "a_fill_that_races"),
    checked("no_generation", "a_fill_that_races"),
    checked("no_clear", "a_fill_that_races"),
    checked("no_table_pages", "a_nested_fill_that_races"),
    checked("no_data_page", "a_final_fill_that_races_an_invalidation_of_the_page_behind"),
    checked("finals_kept", "a_final_fill_that_races_an_invalidation_of_the_first_stages_leaf"),
    checked("finals_before_leaves", "a_final_fill_that_races_an_invalidation_of_a_tables_page"),
    checked("first_of_its_width", "the_first_entry_of_its_width"),
    checked("micro_tlb_kept", "a_micro_tlb_that"),
    checked("micro_tlb_generation_first", "a_micro_tlb_that"),
    checked("micro_tlb_generation_stays", "a_micro_tlb_that"),
    checked("drain_before_clear", "a_hit_that_races"),
    checked("free_at_once", "what_was_replaced"),
    checked("guard_left_relaxed", "a_fill_that_races"),
    checked("no_pins", "what_is_pinned"),
    checked("pin_taken_outside", "what_is_pinned"),
    checked("pins_before_guards", "what_is_pinned"),
    checked("pin_dropped_relaxed", "what_is_pinned"),
    checked("pins_of_one_side", "a_pin_that_races"),
    checked("copied_pin_not_counted", "a_copied_pin"),
    Mutant { name: "guard_left_early", target: INVARIANTS, test: "a_wait_is_not_written", loom: false },
    Mutant { name: "no_context_generation", target: INVARIANTS, test: "a_look_up_that_races", loom: false },
    Mutant {
        name: "no_flags",
        target: &["--test", "smmuv3_contexts"],
        test: "dirty_state_is_kept",
        loom: false,
    },
];

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// One mutant alone
    name: Option<String>,
}

/// Break the model in each way, and expect its test to fail.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    finish(all(arguments.name.as_deref()))
}

/// Run the model checker.
pub(crate) fn run_loom() -> ExitCode {
    finish(loom())
}

fn finish(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// The model's caches and drain in every order that matters.
pub(crate) fn loom() -> Result<(), String> {
    process::run(&mut tests("loom", &["loom"], CHECKED, "models::", &[])?)
}

/// All mutants, or the one of this name.
pub(crate) fn all(name: Option<&str>) -> Result<(), String> {
    let mut survivors = Vec::new();
    let mut tried = 0;
    for mutant in MUTANTS.iter().filter(|mutant| name.is_none_or(|name| name == mutant.name)) {
        tried += 1;
        let flag = format!("mutant=\"{}\"", mutant.name);
        let flags: &[&str] = if mutant.loom { &["loom", &flag] } else { &[&flag] };
        let command = |more: &[&str]| tests(mutant.name, flags, mutant.target, mutant.test, more);
        // That it does not compile would be no proof of anything.
        process::run(command(&["--no-run"])?.arg("--quiet"))?;
        let output = command(&[])?.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let caught = !output.status.success() && said.contains(" 0 passed; 1 failed;");
        println!("{:<28} {}", mutant.name, if caught { "caught" } else { "NOT CAUGHT" });
        if !caught {
            println!("{said}");
            survivors.push(mutant.name);
        }
    }
    match (tried, survivors.is_empty()) {
        (0, _) => Err("no such mutant".into()),
        (_, true) => Ok(()),
        (_, false) => Err(format!("not caught: {}", survivors.join(", "))),
    }
}

/// Tests of the model, compiled with these flags set.
fn tests(name: &str, flags: &[&str], target: &[&str], test: &str, more: &[&str]) -> Result<Command, String> {
    let wrapper = wrapper(name, flags).map_err(|error| format!("the compiler's wrapper: {error}"))?;
    let mut command = process::cargo(&["test", "--package", "portcullis-model"]);
    command.args(target).args(more).arg(test).env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    // A mutant's failure is no news, and its backtrace none either.
    command.env("RUST_BACKTRACE", "0");
    Ok(command)
}

/// A program that runs the compiler with `flags` set.
fn wrapper(name: &str, flags: &[&str]) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let folder = process::root().join("target/mutants");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("rustc-{name}"));
    let flags: String = flags.iter().map(|flag| format!(" --cfg '{flag}'")).collect();
    let text = format!("#!/bin/sh\nexec \"$@\"{flags}\n");
    // Left alone where it is as it should be: cargo builds anew what an older wrapper made.
    if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(path);
    }
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
