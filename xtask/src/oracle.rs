//! `cargo xtask oracle NAME`: one of the judges in `testing/src/bin/oracle-NAME.rs`, in release mode.

use crate::host::{self, Tool};
use crate::process;
use std::process::ExitCode;

/// A judge, and what it needs of the machine.
struct Oracle {
    name: &'static str,
    tools: &'static [Tool],
    /// Whether `cargo xtask test` runs it.
    in_test: bool,
}

const ORACLES: &[Oracle] = &[
    Oracle { name: "firmware", tools: host::FIRMWARE, in_test: true },
    Oracle { name: "riscv", tools: host::QEMU_RISCV, in_test: true },
    Oracle { name: "smmuv3", tools: host::QEMU_ARM, in_test: true },
    Oracle { name: "vtd", tools: host::QEMU_X86, in_test: true },
];

/// Arguments of `cargo xtask oracle`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which, or `all`; without a name they are listed
    name: Option<String>,
    /// Handed to the oracle
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Run one oracle, or list them.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Some(name) = &arguments.name else {
        for oracle in ORACLES {
            println!("{}", oracle.name);
        }
        return ExitCode::SUCCESS;
    };
    let chosen: Vec<&Oracle> = ORACLES.iter().filter(|oracle| name == "all" || oracle.name == name).collect();
    if chosen.is_empty() {
        eprintln!("there is no oracle called {name}");
        return ExitCode::from(2);
    }
    let rest: Vec<&str> = arguments.arguments.iter().map(String::as_str).collect();
    let mut worst = 0;
    for oracle in chosen {
        if let Err(missing) = host::ensure(oracle.tools) {
            eprintln!("{missing}");
            worst = 2;
        } else if let Err(reason) = start(oracle.name, &rest) {
            eprintln!("{reason}");
            worst = worst.max(1);
        }
    }
    ExitCode::from(worst)
}

/// Names of those that `cargo xtask test` runs, and what they need of the machine.
pub(crate) fn in_test() -> impl Iterator<Item = (&'static str, &'static [Tool])> {
    ORACLES.iter().filter(|oracle| oracle.in_test).map(|oracle| (oracle.name, oracle.tools))
}

/// Build and run the oracle called `name`; an error where it finds a difference.
pub(crate) fn start(name: &str, arguments: &[&str]) -> Result<(), String> {
    let program = format!("oracle-{name}");
    let mut cargo =
        vec!["run", "--quiet", "--release", "--package", "portcullis-testing", "--bin", &program, "--"];
    cargo.extend(arguments);
    process::run(&mut process::cargo(&cargo))
}
