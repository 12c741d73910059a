//! `portcullis grant`.

use portcullis_client::api::{Access, Allow};

use super::{At, bytes, size};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Grant physical addresses to a device whose driver knows nothing of the service, unchanged, until revoked or the service
/// ends. For operators.
///
/// A client grants its own memory over the service's interface; see `portcullis claim --memory` for one that lasts as long as
/// a command.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name, pattern, or mmio:BASE.
    device: String,
    /// First address.
    #[arg(value_parser = bytes)]
    address: u64,
    /// Bytes. Both ends are rounded outward to whole pages.
    #[arg(value_parser = bytes)]
    length: u64,
    /// What the device may do.
    #[arg(default_value = "rw")]
    access: Access,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let allow = Allow {
        device: arguments.device.clone(),
        first: arguments.address,
        length: arguments.length,
        access: arguments.access,
    };
    let grants = arguments.at.connect()?.allow(&allow)?.grants;
    output.show(&grants, |grants, out| {
        for grant in grants {
            let devices = grant.devices.join(" ");
            writeln!(
                out,
                "grant {}: {devices} reaches {} from {:#x}, {}",
                grant.grant,
                size(grant.length),
                grant.iova,
                grant.access
            )?;
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}
