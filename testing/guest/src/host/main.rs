//! `guest SUITE`: boot Linux in QEMU and run a suite's cases inside.
#![forbid(unsafe_code)]

mod initramfs;
mod kernel;
mod machine;
mod programs;
mod session;
mod suites;
mod system;

use anyhow::{Context, Result};
use clap::Parser;
use initramfs::Archive;
use kernel::Kernel;
use machine::Machine;
use portcullis_guest::protocol::{Ledger, Verdict};
use programs::Program;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, fs};
use suites::Suite;

/// Boot Linux in QEMU and run a suite's cases inside.
#[derive(Parser)]
#[command(name = "cargo xtask guest", bin_name = "cargo xtask guest")]
struct Arguments {
    /// Which suite; without one, they are listed
    suite: Option<String>,
    /// Only this machine of the suite's
    #[arg(long)]
    machine: Option<String>,
    /// Show what every case printed, not only failed ones
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let suites = suites::all();
    let Some(name) = &arguments.suite else {
        for suite in suites {
            let machines: Vec<String> = suite.machines().iter().map(Machine::name).collect();
            println!("{:10} {}\n{:10} on {}", suite.name(), suite.about(), "", machines.join(", "));
        }
        return ExitCode::SUCCESS;
    };
    let Some(suite) = suites.iter().find(|suite| suite.name() == name) else {
        eprintln!("no suite is named {name}");
        return ExitCode::from(2);
    };
    match run(suite.as_ref(), &arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Run the suite on its machines; whether everything passed.
fn run(suite: &dyn Suite, arguments: &Arguments) -> Result<bool> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the workspace's root")?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from).join("guest");
    let mut wanted = suite.machines();
    if let Some(name) = &arguments.machine {
        wanted.retain(|machine| machine.name() == *name);
        anyhow::ensure!(!wanted.is_empty(), "suite {} has no machine {name}", suite.name());
    }
    let programs = programs::build(workspace, &target)?;
    let (mut passed, mut failed) = (0, 0);
    for machine in wanted {
        let started = Instant::now();
        let name = machine.name();
        println!("guest {} on {name}", suite.name());
        let (verdicts, outcome) = boot(suite, machine, &programs, &target);
        for verdict in &verdicts {
            *(if verdict.passed { &mut passed } else { &mut failed }) += 1;
            println!("  {:6} {}", if verdict.passed { "passed" } else { "FAILED" }, verdict.name);
            if !verdict.passed || arguments.verbose {
                verdict.details.iter().for_each(|line| println!("         {line}"));
            }
        }
        if let Err(error) = outcome {
            failed += 1;
            println!("  FAILED {error:#}");
        }
        println!("  {:.1} s", started.elapsed().as_secs_f64());
    }
    println!("guest {}: {passed} passed, {failed} failed", suite.name());
    Ok(failed == 0 && passed > 0)
}

/// Boot one machine: what it said, and what kept it from saying all.
fn boot(
    suite: &dyn Suite,
    mut machine: Machine,
    programs: &[(Program, PathBuf)],
    target: &Path,
) -> (Vec<Verdict>, Result<()>) {
    let mut ledger = Ledger::default();
    let folder = machine::folder(target, suite.name(), &machine);
    let outcome = start(suite, &mut machine, programs, target, &folder, &mut ledger);
    let after = if outcome.is_ok() { suite.judge(&machine, &ledger, &folder) } else { Vec::new() };
    let mut verdicts = ledger.verdicts;
    verdicts.extend(after);
    (verdicts, outcome)
}

fn start(
    suite: &dyn Suite,
    machine: &mut Machine,
    programs: &[(Program, PathBuf)],
    target: &Path,
    folder: &Path,
    ledger: &mut Ledger,
) -> Result<()> {
    let kernel = kernel::obtain(machine.flavour(), &target.join("kernels"))?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut contents = base(&kernel, machine)?;
    for (program, path) in programs {
        let name =
            if *program == programs::AGENT { "init".to_owned() } else { format!("bin/{}", program.name) };
        contents.copy(&name, path).with_context(|| path.display().to_string())?;
    }
    suite.prepare(machine, &mut contents, folder)?;
    let initramfs = folder.join("initramfs.cpio");
    fs::write(&initramfs, contents.finish())?;
    let log = folder.join("kernel.log");
    let arguments = machine.qemu(suite.name(), &kernel.image, &initramfs, &log);
    session::run(&arguments, &log, ledger)
}

/// What every guest has: mount points, a console, and the kernel's modules, numbered in the order they load.
fn base(kernel: &Kernel, machine: &Machine) -> Result<Archive> {
    let mut contents = Archive::default();
    for name in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp"] {
        contents.folder(name);
    }
    contents.device("dev/console", (5, 1));
    for (index, module) in machine.flavour().modules().iter().enumerate() {
        let path = kernel.modules.join(format!("{module}.ko.xz"));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        contents
            .copy(&format!("modules/{index:02}-{name}"), &path)
            .with_context(|| path.display().to_string())?;
    }
    Ok(contents)
}
