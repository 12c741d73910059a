//! `portcullis inspect`.

mod html;
mod text;

use std::path::PathBuf;

use portcullis_manager::{
    host::{Host, Root},
    inspect::{PciNames, Report},
};

use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Show what protects this host from DMA, and what does not.
///
/// Reads the kernel's and the firmware's own words and changes nothing. Run as root to see all of it: others may not read the
/// firmware's tables, nor more of a device than its header.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A directory that holds a copy of a host's /sys, /proc and /dev, instead of this host.
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
    /// Write a page with the topology drawn into this file as well.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show every group, those of one device without anything to say too.
    #[arg(short, long)]
    all: bool,
}

/// Reads the host, writes the report; ends with [`Exit::Findings`] where there are any.
pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let failed = |error| Failure::new(format!("cannot read {}: {error}", arguments.root.display()));
    let host = Host::read(&arguments.root).map_err(failed)?;
    let root = Root::open(&arguments.root).map_err(failed)?;
    let wanted = host.functions.iter().map(|function| (function.vendor, function.device));
    let report = Report::of(&host, &PciNames::read(&root, wanted));
    if let Some(file) = &arguments.html {
        std::fs::write(file, html::page(&report))
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))?;
    }
    output.show(&report, |report, out| text::write(report, arguments.all, out))?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Findings })
}
