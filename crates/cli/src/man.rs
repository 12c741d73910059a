//! `portcullis man`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use crate::{
    Cli,
    exit::{Exit, Failure},
    output::Output,
};

/// Write the manual pages, one a subcommand, into a directory; or print the first one.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directory for the pages; it must exist.
    directory: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let command = Cli::command();
    match &arguments.directory {
        Some(directory) => clap_mangen::generate_to(command, directory)?,
        None => {
            let mut page = Vec::new();
            Man::new(command).render(&mut page)?;
            output.raw(&page)?;
        }
    }
    Ok(Exit::Done)
}
