//! `portcullis clients`.

use super::{At, size};
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List the clients and what they have.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let clients = arguments.at.connect()?.clients()?;
    output.show(&clients, |clients, out| {
        let mut rows = table(["CLIENT", "NAME", "PROCESS", "USER", "DEVICES", "GRANTS", "BYTES", "REFUSED"]);
        for client in clients {
            let unity = if client.unity { " (mapped to itself)" } else { "" };
            let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
            rows.add_row([
                client.id.to_string(),
                format!("{}{unity}", client.name),
                number(client.pid),
                number(client.uid),
                client.devices.join(" "),
                client.mappings.to_string(),
                size(client.bytes),
                client.faults.to_string(),
            ]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    })?;
    Ok(Exit::Done)
}
