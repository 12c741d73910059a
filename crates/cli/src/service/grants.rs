//! `portcullis grants`.

use portcullis_client::api::{Grant, InterruptGrant, ListGrants};
use serde::Serialize;

use super::{At, size};
use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// List what devices may reach: memory, and interrupts of their clients.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only of this device: name, pattern, or mmio:BASE.
    #[arg(long)]
    device: Option<String>,
    /// Only of this client.
    #[arg(long)]
    client: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    #[command(flatten)]
    at: At,
}

#[derive(Default, Serialize)]
struct Listed {
    grants: Vec<Grant>,
    interrupts: Vec<InterruptGrant>,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut client = arguments.at.connect()?;
    let mut which = ListGrants {
        client: arguments.client.clone(),
        device: arguments.device.clone(),
        after: None,
        limit: None,
    };
    let mut listed = Listed::default();
    let more = loop {
        let left = arguments.limit.saturating_sub(listed.grants.len() as u64);
        which.limit = Some(left);
        let page = client.grants(&which)?;
        listed.grants.extend(page.grants);
        listed.interrupts.extend(page.interrupts);
        which.after = page.next;
        if which.after.is_none() || listed.grants.len() as u64 >= arguments.limit {
            break which.after.is_some();
        }
    };
    output.show(&listed, |listed, out| {
        let mut rows =
            table(["GRANT", "CLIENT", "SPACE", "DEVICES", "ADDRESSES", "BYTES", "ACCESS", "LEADS TO"]);
        for grant in &listed.grants {
            let leads = match grant.memory {
                Some(memory) => format!("memory {memory} from {:#x}", grant.offset),
                None => format!("physical {:#x}", grant.offset),
            };
            rows.add_row([
                grant.grant.to_string(),
                grant.client.clone(),
                grant.space.to_string(),
                grant.devices.join(" "),
                format!("{:#x}-{:#x}", grant.iova, grant.iova + (grant.length - 1)),
                size(grant.length),
                format!("{}{}", grant.access, if grant.fixed { ", fixed" } else { "" }),
                leads,
            ]);
        }
        writeln!(out, "{}", rows.trim_fmt())?;
        if more {
            writeln!(out, "… and more; see --limit")?;
        }
        if listed.interrupts.is_empty() {
            return Ok(());
        }
        let mut rows = table(["CLIENT", "DEVICE", "INTERRUPT VECTORS"]);
        for grant in &listed.interrupts {
            rows.add_row([grant.client.clone(), grant.device.clone(), grant.vectors.to_string()]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    })?;
    Ok(Exit::Done)
}
