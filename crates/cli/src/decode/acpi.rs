//! `portcullis decode acpi`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use portcullis_firmware::{
    acpi::{self, Block},
    topology::{Finding, Topology},
};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// Show every field of ACPI tables: DMAR, IVRS, IORT, VIOT, RIMT.
///
/// Ends with 3 where a table has errors.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Tables as the kernel gives them (/sys/firmware/acpi/tables/DMAR).
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Show what the tables say of the machine, instead of their fields.
    #[arg(short, long)]
    topology: bool,
}

/// The largest table that is read, in bytes.
const MAX_TABLE: u64 = 16 << 20;

#[derive(Serialize)]
struct Table<'a> {
    file: String,
    blocks: &'a [Block<'a>],
    findings: &'a [Finding],
}

pub(super) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut errors = false;
    for file in &arguments.files {
        let unreadable = |error: io::Error| Failure::new(format!("cannot read {}: {error}", file.display()));
        let opened = std::fs::File::open(file).map_err(unreadable)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(opened, MAX_TABLE), &mut bytes).map_err(unreadable)?;
        let topology = acpi::topology(&bytes);
        errors |= topology
            .findings
            .iter()
            .any(|finding| finding.severity() >= portcullis_firmware::Severity::Error);
        if arguments.topology {
            output.show(&topology, |topology, out| write_topology(topology, out))?;
            continue;
        }
        let blocks = acpi::decode(&bytes).unwrap_or_default();
        let shown =
            Table { file: file.display().to_string(), blocks: &blocks, findings: &topology.findings.list };
        output.show(&shown, |table, out| {
            if arguments.files.len() > 1 {
                writeln!(out, "{}", table.file)?;
            }
            write_blocks(table.blocks, out)?;
            write_findings(table.findings, out)
        })?;
    }
    Ok(if errors { Exit::Findings } else { Exit::Done })
}

fn write_blocks(blocks: &[Block<'_>], out: &mut dyn Write) -> io::Result<()> {
    for block in blocks {
        let indent = "  ".repeat(block.depth.into());
        writeln!(out, "{indent}{} at {:#x}, {} bytes", block.name, block.offset, block.length)?;
        for field in &block.fields {
            let place = match field.bits {
                Some((high, low)) if high == low => format!("  bit {high}"),
                Some((high, low)) => format!("  bits {high}:{low}"),
                None => format!("{:#06x}", field.offset),
            };
            write!(out, "{indent}  {place:<12} {:<40} {}", field.name, field.value)?;
            if field.meaning.is_empty() { writeln!(out) } else { writeln!(out, "  {}", field.meaning) }?;
        }
    }
    Ok(())
}

fn write_findings(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    Ok(())
}

fn write_topology(topology: &Topology, out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(["unit", "architecture", "registers", "source"]);
    for unit in &topology.units {
        rows.add_row([
            unit.name.value.clone(),
            unit.architecture.value.to_string(),
            unit.registers.as_ref().map(|window| window.base.to_string()).unwrap_or_default(),
            unit.source.to_string(),
        ]);
    }
    writeln!(out, "{}\n", rows.trim_fmt())?;
    let mut rows = table(["devices", "unit", "source"]);
    for route in &topology.routes {
        let unit = route.unit.and_then(|unit| topology.unit(unit));
        rows.add_row([
            route.devices.to_string(),
            unit.map_or_else(|| "none".to_owned(), |unit| unit.name.value.clone()),
            route.source.to_string(),
        ]);
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    if !topology.reserved.is_empty() {
        let mut rows = table(["reserved", "kind", "for", "source"]);
        for region in &topology.reserved {
            let devices: Vec<String> =
                region.devices.iter().map(|devices| devices.value.to_string()).collect();
            rows.add_row([
                region.range.value.to_string(),
                region.kind.value.to_string(),
                devices.join(", "),
                region.source.to_string(),
            ]);
        }
        writeln!(out, "\n{}", rows.trim_fmt())?;
    }
    write_findings(&topology.findings.list, out)
}
