//! `portcullis devices`.

use super::At;
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List the devices, which unit guards them, and who has them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name, pattern with * and ?, or mmio:BASE.
    device: Option<String>,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let devices = arguments.at.connect()?.devices(arguments.device.as_deref())?;
    output.show(&devices, |devices, out| {
        let mut rows = table(["DEVICE", "WHAT", "UNIT", "GROUP", "HOLDER", "VECTORS", "RESERVED"]);
        for device in devices {
            let holder = match (&device.holder, &device.quarantine, &device.driver) {
                (Some(holder), ..) => holder.clone(),
                (_, Some(why), _) => format!("nobody: {why}"),
                (_, _, Some(driver)) => format!("driver {driver}"),
                _ => "nobody".into(),
            };
            let reserved: Vec<String> = device
                .reserved
                .iter()
                .map(|region| format!("{:#x}-{:#x} {}", region.first, region.last, region.kind))
                .collect();
            rows.add_row([
                device.name.clone(),
                device.description.clone(),
                device.unit.clone().unwrap_or_else(|| "none".into()),
                device.group.to_string(),
                holder,
                match device.vectors {
                    0 => "-".into(),
                    most => format!("{} of {most}", device.vectors_granted),
                },
                reserved.join(", "),
            ]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    })?;
    Ok(Exit::Done)
}
