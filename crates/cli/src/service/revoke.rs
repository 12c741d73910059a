//! `portcullis revoke`.

use super::{At, size};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Revoke one grant, whoever has it; on return no device reaches it. For operators.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of the grant, as `portcullis grants` shows it.
    grant: u64,
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let removed = arguments.at.connect()?.revoke(arguments.grant)?;
    output.show(&removed, |removed, out| {
        writeln!(out, "revoked grant {}, {} bytes", arguments.grant, size(removed.bytes))
    })?;
    Ok(Exit::Done)
}
