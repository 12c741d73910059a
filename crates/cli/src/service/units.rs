//! `portcullis units`.

use super::{At, size};
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List the IOMMUs and what they can and cannot do.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let units = arguments.at.connect()?.units()?;
    output.show(&units, |units, out| {
        let mut rows = table(["UNIT", "KIND", "DEVICES", "PAGES", "ADDRESSES", "CANNOT", "SOURCE"]);
        for unit in units {
            let pages: Vec<String> = unit.page_sizes.iter().map(|&bytes| size(bytes)).collect();
            let lacks = [
                (unit.interrupts_isolated, "remap interrupts"),
                (unit.tells_devices_apart, "tell devices apart"),
                (unit.write_only, "grant writing alone"),
                (unit.pasid, "use PASIDs"),
            ];
            let lacks: Vec<&str> = lacks.iter().filter(|(can, _)| !can).map(|(_, what)| *what).collect();
            rows.add_row([
                unit.name.clone(),
                unit.kind.clone(),
                unit.devices.to_string(),
                pages.join(" "),
                format!("{:#x}-{:#x}", unit.first, unit.last),
                lacks.join(", "),
                unit.source.clone(),
            ]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    })?;
    Ok(Exit::Done)
}
