//! `portcullis decode`: what bits, bytes and lines of the kernel's log mean.

mod acpi;
mod entry;
mod fault;
mod fields;
mod msi;
mod register;

use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Say what tables, faults, interrupts, table entries and registers mean.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Acpi(acpi::Args),
    Fault(fault::Args),
    Msi(msi::Args),
    Entry(entry::Args),
    Register(register::Args),
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    match &arguments.what {
        What::Acpi(arguments) => acpi::run(arguments, output),
        What::Fault(arguments) => fault::run(arguments, output),
        What::Msi(arguments) => msi::run(arguments, output),
        What::Entry(arguments) => entry::run(arguments, output),
        What::Register(arguments) => register::run(arguments, output),
    }
}

/// A hexadecimal number, with or without `0x`; `_` between digits.
fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(&digits);
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}
