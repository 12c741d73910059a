//! `portcullis release`.

use portcullis_client::Error;

use super::At;
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Take devices from whoever has them: they are stopped, cut off and reset. For operators.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name, pattern, or mmio:BASE. Everything in their groups comes along.
    device: String,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let released = arguments.at.connect()?.release(&arguments.device, true);
    let devices = released.map_err(|error| match error {
        Error::Refused { name, .. } if name == "NotClaimed" => {
            Failure::new(format!("nobody has {}", arguments.device))
        }
        other => other.into(),
    })?;
    output.show(&devices, |devices, out| writeln!(out, "released {}", devices.join(" ")))?;
    Ok(Exit::Done)
}
