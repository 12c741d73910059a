//! Who has which devices, in a file beside the socket, for the case that nobody keeps descriptors over a crash, or not all.
//!
//! It gives nobody anything: what a former process left without descriptors is blocked, and stays so until it is claimed again. The
//! file says whom to tell: a client that asks for what it had learns exactly which devices it has to claim again, where it would
//! otherwise hear that nobody knows it.

use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::resume;
use crate::core::{Core, Identity};

/// Bytes that are read of such a file.
const MOST: u64 = 16 << 20;

/// What one client had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Had {
    client: u64,
    name: String,
    identity: Identity,
    devices: Vec<String>,
}

/// The file, and what a former process left in it that could not be taken up.
#[derive(Debug, Default)]
pub(super) struct Holders {
    path: Option<PathBuf>,
    written: RefCell<Option<Vec<Had>>>,
    lost: Vec<Had>,
}

impl Holders {
    /// Reads what a former process left, after everything that could be taken up of it was. What was lost is told as warnings.
    pub(super) fn take_up(path: Option<PathBuf>, core: &mut Core) -> Self {
        let former = path.as_deref().map_or(Ok(Vec::new()), read).unwrap_or_else(|error| {
            tracing::warn!(%error, "who had what before is not known");
            Vec::new()
        });
        let now: Vec<Had> = holders(core);
        let mut lost = Vec::new();
        for mut had in former {
            let kept = now.iter().find(|one| (one.client, one.identity) == (had.client, had.identity));
            had.devices.retain(|name| !kept.is_some_and(|one| one.devices.contains(name)));
            if had.devices.is_empty() {
                continue;
            }
            let lives = resume::lives(&had.identity);
            let then = if lives { "until they are claimed again" } else { "and its client is gone" };
            let devices = had.devices.join(" ");
            core.warn(format!(
                "{devices} of {} could not be kept over the restart: blocked, {then}",
                had.name
            ));
            if lives {
                lost.push(had);
            }
        }
        Self { path, written: RefCell::default(), lost }
    }

    /// Devices that a process had and that could not be kept; those of one client that it was, or of all.
    pub(super) fn lost(&self, identity: &Identity, client: Option<u64>) -> Vec<String> {
        let of_it =
            |had: &&Had| had.identity == *identity && client.is_none_or(|client| client == had.client);
        let mut devices: Vec<String> =
            self.lost.iter().filter(of_it).flat_map(|had| had.devices.clone()).collect();
        devices.sort();
        devices.dedup();
        devices
    }

    /// Writes who has what now, if that is not what is there.
    pub(super) fn write(&self, core: &Core) {
        let Some(path) = &self.path else { return };
        let now = holders(core);
        let mut written = self.written.borrow_mut();
        if written.as_ref() == Some(&now) {
            return;
        }
        if let Err(error) = replace(path, &now) {
            tracing::warn!(path = %path.display(), %error, "who has what is not written down");
        }
        *written = Some(now);
    }

    /// Everything was released.
    pub(super) fn forget(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn holders(core: &Core) -> Vec<Had> {
    let had = |(client, name, identity): (crate::core::ClientId, &str, Identity)| Had {
        client: client.0,
        name: name.into(),
        identity,
        devices: core.devices_of(client),
    };
    core.identities().map(had).filter(|had| !had.devices.is_empty()).collect()
}

fn read(path: &Path) -> io::Result<Vec<Had>> {
    let mut text = String::new();
    match OpenOptions::new().read(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?.take(MOST).read_to_string(&mut text)?,
    };
    Ok(serde_json::from_str(&text)?)
}

/// Whole or not at all.
fn replace(path: &Path, now: &[Had]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(now)?)?;
    std::fs::rename(new, path)
}
