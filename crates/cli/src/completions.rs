//! `portcullis completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{
    Cli,
    exit::{Exit, Failure},
    output::Output,
};

/// Print the completion script of a shell.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "portcullis", &mut script);
    output.raw(&script)?;
    Ok(Exit::Done)
}
